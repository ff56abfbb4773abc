"""Is a corpus worth training on: the comparison on files counted by hand, and small runs from corpora to table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conversations import talk
from loopback import Loopback
from tiny import tiny_checkpoint
from typer.testing import CliRunner

from maieutic.cli import app, gather
from maieutic.core.errors import InputError, MissingInput
from maieutic.core.store import Stage
from maieutic.data.corpus import read_corpus, write_corpus
from maieutic.evals.steps import Arm, read_arms
from maieutic.evals.utility import compare_corpora, corpus_metrics, rank_correlation
from maieutic.recipes import runner
from maieutic.recipes.utility import EvalUtility

torch.set_num_threads(1)
gather()


def maieutic(*words: object, fails: int = 0) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == fails, result.output
    return result.stdout if not fails else result.output


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# The comparison.


def arm(folder: Path, corpus: str, scores: dict[int, list[float]], size: int = 10, **more: Any) -> Arm:
    """An arm with the scores of its turns by question."""
    path = folder / f"{corpus}-{size}-{more.get('model', 'm')}-{more.get('seed', 0)}.jsonl"
    rows = [
        {"question_id": question, "model": path.stem, "turn": turn, "score": score}
        for question, turns in scores.items()
        for turn, score in enumerate(turns, 1)
    ]
    return Arm(corpus=corpus, size=size, judged=write(path, rows), **{"model": "m", **more})


def test_corpora_are_compared_by_question_and_seeds_are_averaged(tmp_path: Path) -> None:
    result = compare_corpora([
        arm(tmp_path, "real", {1: [4, 4], 2: [6], 3: [8]}),
        arm(tmp_path, "sim", {1: [5, 7], 2: [6], 3: [10], 4: [1]}),
        arm(tmp_path, "sim", {1: [7, 7], 2: [8], 3: [-1]}, seed=1),
        arm(tmp_path, "real", {1: [6, 4], 2: [9], 3: [8]}, size=20),
        arm(tmp_path, "sim", {1: [5, 4], 2: [9], 3: [8]}, size=20),
    ])  # fmt: skip
    real, sim, *_ = result["cells"]
    assert (real["value"], real["n"], real["rows"], real["unscored"]) == (22 / 4, 3, 4, 0)
    assert (sim["value"], sim["n"], sim["rows"], sim["unscored"]) == ((6 + 7 + 7 + 10 + 1) / 5, 4, 8, 1)
    assert sim["seeds"]["0"]["value"] == 29 / 5 and sim["seeds"]["1"]["value"] == 22 / 3
    at_10, at_20 = result["differences"]["blocks"]  # question 4 is in one side only
    assert (at_10["corpus"], at_10["against"], at_10["size"]) == ("sim", "real", 10)
    assert (at_10["difference"], at_10["n"]) == ((2 + 3 + 1 + 2) / 4, 3)
    assert at_10["ci"][0] <= at_10["difference"] <= at_10["ci"][1] and at_10["p_holm"] >= at_10["p"]
    assert at_20["difference"] == -1 / 4
    (overall,) = result["differences"]["overall"]
    assert (overall["difference"], overall["n"]) == ((8 - 1) / 8, 3)
    grown = {row["corpus"]: row for row in result["differences"]["sizes"]}
    assert grown["real"]["difference"] == (2 + 0 + 3 + 0) / 4 and grown["real"]["against"] == 10
    assert result["metric"] == "score" and result["corpora"] == [] and result["correlations"] == {}
    assert not result["notes"]


def test_few_numbers_are_null_with_a_reason(tmp_path: Path) -> None:
    alone = compare_corpora([arm(tmp_path, "a", {1: [5]})])
    assert alone["cells"][0]["ci"] is None and "one unit" in alone["cells"][0]["reason"]
    assert alone["differences"] == {"overall": [], "blocks": [], "sizes": []}
    assert "one training seed" in alone["notes"][0]
    (apart,) = compare_corpora([arm(tmp_path, "a", {1: [5]}), arm(tmp_path, "b", {2: [5]})])["differences"][
        "blocks"
    ]
    assert (apart["difference"], apart["p"], apart["n"]) == (None, None, 0)
    assert "no question in common" in apart["reason"]
    (mute,) = compare_corpora([arm(tmp_path, "a", {1: [-1]})])["cells"]
    assert (mute["value"], mute["n"], mute["unscored"]) == (None, 0, 1) and mute["reason"]


def points(*corpora: tuple[float, float], size: int = 10, model: str = "m") -> dict[Any, tuple[float, float]]:
    return {(str(number), size, model): point for number, point in enumerate(corpora)}


def test_the_rank_correlation_by_hand() -> None:
    found = rank_correlation(points((1, 20), (2, 10), (3, 40), (4, 30), (5, 50)))
    assert found.value == pytest.approx(1 - 6 * 4 / (5 * 24)) and found.n == 5  # .8
    half = 1.96 * math.sqrt((1 + 0.32) / 2)
    assert found.ci == pytest.approx((math.tanh(math.atanh(0.8) - half), math.tanh(math.atanh(0.8) + half)))
    small, large = points((1, 3), (2, 5)), points((10, 8), (30, 9), size=20)
    both = rank_correlation({**small, **large})  # within each size the better metric has the better score
    assert (both.value, both.ci, both.n) == (
        1,
        None,
        4,
    ) and both.reason == "fewer than 4 corpora: no interval"
    assert (
        rank_correlation(points((1, 1), (2, 2), (3, 3), (4, 4))).reason
        == "all arms in one order: no interval"
    )


@pytest.mark.parametrize(
    ("given", "n", "reason"),
    [
        ({}, 0, "fewer than 4 arms"),
        (points((1, 1), (2, 2), (3, 3)), 3, "fewer than 4 arms"),
        ({("a", size, "m"): (size, size) for size in range(9)}, 0, "fewer than 4 arms"),
        (points((1, 1), (1, 2), (1, 3), (1, 4)), 4, "the metrics of all corpora are equal"),
        (points((1, 5), (2, 5), (3, 5), (4, 5)), 4, "the scores of all corpora are equal"),
    ],
)
def test_no_rank_correlation_without_reason(given: Any, n: int, reason: str) -> None:
    found = rank_correlation(given)
    assert (found.value, found.ci, found.n) == (None, None, n) and reason in (found.reason or "")


def test_the_metrics_are_of_all_that_is_learned_from() -> None:
    found = corpus_metrics([talk("red red", "one two three", "red blue", "four"), talk("green", "five")])
    assert {name: one.value for name, one in found.items()} == pytest.approx({
        "first_turn_diversity": 100, "distinct_2": 1, "mtld": (2 + 2 + 1) / 3, "turns_per_conversation": 1.5,
        "question_words": 5 / 3, "answer_words": 5 / 3,
    })  # fmt: skip
    silent = corpus_metrics([talk("only an answer", first="assistant")])
    assert silent["question_words"].value is None and silent["mtld"].reason
    assert silent["distinct_2"].reason


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = arm(tmp_path, "a", {1: [5]})
    with pytest.raises(InputError, match="twice"):
        compare_corpora([one, one])
    won = write(tmp_path / "alpaca.json", [{"instruction": "i", "preference": 2}])
    with pytest.raises(InputError, match="AlpacaEval annotations, FastChat judgments\n.*one benchmark"):
        compare_corpora([one, one.model_copy(update={"corpus": "b", "judged": won})])
    with pytest.raises(InputError, match="row 1: size"):
        read_arms(write(tmp_path / "arms.jsonl", [{"corpus": "a", "size": 0, "model": "m", "judged": "x"}]))


def test_scores_of_files_need_no_model(tmp_path: Path) -> None:
    rows = [
        {"corpus": one.corpus, "size": 10, "model": "m", "judged": one.judged.name}
        for one in (arm(tmp_path, "a", {1: [5], 2: [6]}), arm(tmp_path, "b", {1: [7], 2: [7]}))
    ]
    path = write(tmp_path / "arms.jsonl", rows)
    found = json.loads(maieutic("eval", "utility", "--arms", path, "--json"))
    assert found["differences"]["blocks"][0]["difference"] == 1.5
    assert "1.500" in maieutic("eval", "utility", "--arms", path)


# Runs.

QUESTIONS = [
    {"question_id": number, "category": "writing", "turns": [f"Say {word}, please.", "Shorter."]}
    for number, word in enumerate(("tea", "salt", "moss"))
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of twelve and a question of the benchmark, as a file and as a run; a tiny base; the questions."""
    folder = tmp_path_factory.mktemp("utility")
    for word in ("half", "sum"):
        chats = [talk(f"What is a {word} of {n}?", f"It is {n}{word}.", "Why?", "So.") for n in range(12)]
        write_corpus(folder / f"{word}.jsonl", [*chats, talk(QUESTIONS[0]["turns"][0], "Tea.")])
    with Stage(folder / "talk", {}) as stage:
        for number, conversation in enumerate(read_corpus(folder / "sum.jsonl")):
            stage.rows.append(str(number), conversation.row())
        stage.finish({})
    write(folder / "question.jsonl", QUESTIONS)
    tiny_checkpoint(folder / "base", context=256)
    return folder


def rated(body: dict[str, Any]) -> str:
    """The longer the answer, the better."""
    return f"Rating: [[{1 + len(body['messages'][-1]['content']) % 10}]]"


def words(given: Path, judge: str, *sizes: int) -> list[object]:
    return ["eval", "utility", "--corpus", f"Half={given / 'half.jsonl'}", "--corpus", f"sum={given / 'talk'}",
            *(word for size in sizes for word in ("--size", size)), "--model", f"hf/{given / 'base'}",
            "--questions", given / "question.jsonl", "--judge", judge, "--epochs", 1, "--batch-size", 4,
            "--max-length", 128, "--max-tokens", 4]  # fmt: skip


def test_two_corpora_of_two_sizes_are_trained_on_and_compared(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Loopback(reply=rated) as server:
        call = [*words(given, server.spec, 4, 8), "--out", out]
        planned = json.loads(maieutic(*call, "--dry-run", "--json"))
        assert len(planned["stages"]) == 2 * 2 + 4 + 4 * 3 + 1 and not out.exists()
        result = json.loads(maieutic(*call, "--json"))
        assert len(server.chats) == 4 * 6
        again = json.loads(maieutic(*call, "--json"))
        assert again == result and len(server.chats) == 4 * 6
        (out / "utility" / "manifest.json").unlink()
        (out / "judge_sum_8_base_0" / "manifest.json").unlink()  # as a kill leaves it
        shown = maieutic(*call)
        assert len(server.chats) == 4 * 6
    assert json.loads((out / "utility" / "utility.json").read_text()) == result
    assert [(c["corpus"], c["size"], c["n"], c["rows"]) for c in result["cells"]] == [
        ("Half", 4, 3, 6), ("Half", 8, 3, 6), ("sum", 4, 3, 6), ("sum", 8, 3, 6),
    ]  # fmt: skip
    assert [len(rows) for rows in result["differences"].values()] == [1, 2, 2]
    assert all(row["n"] == 4 for row in result["correlations"].values())
    assert {"first_turn_diversity", "mtld", "topic_diversity"} <= result["correlations"].keys()
    for title in ("mean score", "over all bases", "at each base", "compared with fewer", "rank correlation"):
        assert title in shown
    small, large = (list(read_corpus(out / f"take_half_{size}" / "corpus.jsonl")) for size in (4, 8))
    assert {c.id for c in small} < {c.id for c in large} and len(large) == 8
    unseen = json.loads((out / "unseen_half" / "manifest.json").read_text())
    assert (unseen["read"], unseen["flagged"]) == (13, 1)  # the benchmark's own question is not trained on


def test_a_corpus_too_small_is_refused_before_any_training(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with (
        Loopback(reply=rated) as server,
        pytest.raises(InputError, match="12 conversations.*13"),
    ):
        maieutic(*words(given, server.spec, 13), "--out", out)
    assert not list(out.glob("train_*"))


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--corpus", "half.jsonl"], "half.jsonl"),
        (["--corpus", "sum=other.jsonl"], "--corpus"),
        (["--size", "4"], "--size"),
    ],
)
def test_a_wrong_call_is_refused(given: Path, tmp_path: Path, more: list[str], names: str) -> None:
    (tmp_path / "judge.txt").write_text("[[5]]\n")
    call = words(given, f"script/{tmp_path}/judge.txt", 4)
    assert names in maieutic(*call, *more, "--out", tmp_path / "run", fails=2)
    with pytest.raises(MissingInput, match=r"gone\.jsonl"):
        maieutic(*call, "--corpus", "gone=gone.jsonl", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "--judge" in maieutic("eval", "utility", "--corpus", "a=b", fails=2)


def test_names_that_look_alike_stay_apart() -> None:
    step = EvalUtility(
        corpora={"A b": Path("x"), "a-b": Path("y")}, bases=["hf/x/m", "hf/y/m"], sizes=[1], seeds=[0, 1],
        questions=Path("q"), judge="openai/j",
    )  # fmt: skip
    names = [stage.name for stage in step.plan(Path("run")).stages]
    assert [name for name in names if name.startswith("train_")] == [
        f"train_{corpus}_1_{model}_{seed}"
        for corpus in ("a-b", "a-b-2")
        for model in ("m", "m-2")
        for seed in (0, 1)
    ]


def test_the_recipe_in_its_small_form(given: Path, tmp_path: Path) -> None:
    """Real, simulated and role-played conversations, from one corpus to the table."""
    user, said, judge = (tmp_path / name for name in ("user.jsonl", "said.txt", "judge.jsonl"))
    write(user, [{"texts": [f"And a {n}th of {n * n}?" for n in range(40)]}, {"text": "I see. [DONE]"}])
    said.write_text("It is a number.\nNo.\n")
    write(judge, [{"texts": ["[[3]]", "[[8]]"]}])
    base = f"hf/{given / 'base'}"
    settings = {
        "corpus": str(given / "half.jsonl"), "questions": str(given / "question.jsonl"), "judge": f"script/{judge}",
        "user_base": base, "assistant_base": base, "player": f"script/{user}", "respondent": f"script/{said}",
        "size": 3, "dialogues": 6, "user_tokens": 6, "answer_tokens": 4, "epochs": 1, "max_length": 128,
    }  # fmt: skip
    full = runner.resolve("utility", tmp_path / "run", settings)
    small = runner.resolve("utility-small", tmp_path / "run", settings)
    assert [stage.name for stage in full.stages] == [stage.name for stage in small.stages]
    assert full.values.keys() == small.values.keys()
    result = runner.run_plan(small)["utility"]
    assert [(c["corpus"], c["size"], c["rows"]) for c in result["cells"]] == [
        ("real", 3, 6), ("simulated", 3, 6), ("played", 3, 6),
    ]  # fmt: skip
    assert [row["corpus"] for row in result["differences"]["blocks"]] == ["simulated", "played"]
    assert all("fewer than 4 arms" in row["reason"] for row in result["correlations"].values())
    assert runner.run_plan(small)["utility"] == result
