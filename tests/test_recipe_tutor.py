"""The Socratic tutor's whole recipe: what it resolves to, who may grade, what has leaked, and a run that is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from loopback import Loopback
from seedlists import SETS, Lists, write_lists
from test_report import checked

from maieutic.core.errors import InputError, RecipeError
from maieutic.core.messages import Message, Problem
from maieutic.core.store import read_json, stage_rows
from maieutic.data.corpus import read_corpus
from maieutic.data.results import SplitResult
from maieutic.data.steps import Decontaminate, Split
from maieutic.evals import judge_agreement, tutor
from maieutic.evals.judge_agreement import rated_replies
from maieutic.evals.tutor_grid import GridCell, GridTutor, score_grid
from maieutic.judging.judges import judge_prompt
from maieutic.judging.preferences import judged_rows, pairs
from maieutic.judging.rubrics import load_rubric
from maieutic.recipes import runner
from maieutic.recipes.demo.steps import DemoBase
from maieutic.report.page import write_report

FILES = {f"{name}_train": f"{name}.json" for name in SETS} | {"human": "human.json"}


def resolved(**settings: Any) -> runner.Plan:
    return runner.resolve("socratic-tutor", Path("run"), {**FILES, **settings})


def stages(plan: runner.Plan) -> dict[str, dict[str, Any]]:
    return {step.name: step.step.model_dump(mode="json") for step in plan.stages}


# What it resolves to.


def test_replies_are_drawn_alike_in_training_and_in_testing() -> None:
    """The published code trained on bf16 replies of 400 tokens and tested others, of 250."""
    found = stages(resolved(show_solution=True))
    drawn = {name: one for name, one in found.items() if name.startswith(("candidates-", "answers-"))}
    assert len(drawn) == 3 + 3 * 5
    for setting in ("prompt", "show_solution", "local"):
        assert len({json.dumps(one[setting]) for one in drawn.values()}) == 1
    assert {one["sampling"]["max_tokens"] for one in drawn.values()} == {400}
    assert (
        {one["local"]["precision"] for one in drawn.values()}
        == {found["tutor-mathdial"]["precision"]}
        == {"bfloat16"}
    )
    assert {one["sampling"]["temperature"] for name, one in drawn.items() if name.startswith("answers")} == {
        0
    }


def test_each_set_is_tested_with_each_tutor() -> None:
    found = stages(resolved())
    asked = {name: one["model"] for name, one in found.items() if name.startswith("answers-")}
    for test in SETS:
        assert asked[f"answers-{test}-base"] == found["tutor-mathdial"]["model"]
        assert asked[f"answers-{test}-gpt4o"] == "openai/gpt-4o"
        for name in SETS:
            assert asked[f"answers-{test}-from-{name}"] == f"hf/run/tutor-{name}"
    assert len(found["grid"]["tuned"]) == 9 and len(found["grid"]["base"]) == 3
    for name in SETS:
        assert found[f"train-{name}"]["test"] == {test: f"run/split-{test}/test.jsonl" for test in SETS}
        assert found[f"candidates-{name}"]["data"] == f"run/train-{name}/corpus.jsonl"
        assert not found[f"train-{name}"]["drop"]
        assert stages(resolved(without_leaks=True))[f"train-{name}"]["drop"]
    alone = stages(resolved(sets=["mine"], mine_train="m.json", mine_test="t.json", beside=[], people=[]))
    assert [name for name in alone if "mine" not in name] == ["grid"]
    with pytest.raises(RecipeError, match="needs a value for human"):
        runner.resolve("socratic-tutor", Path("run"), FILES | {"human": None})


@pytest.mark.parametrize(
    "judges",
    [
        {"final_judge": "openai/gpt-4o"},
        {"training_judge": "openai/gpt-4.1"},
        {"final_judge": ["openai/gpt-4.1", "openai/gpt-4o"]},
        {"training_judge": ["hf/a/b", "openai/gpt-4.1"], "final_judge": ["openai/gpt-4.1", "hf/c/d"]},
    ],
)
def test_who_made_the_pairs_does_not_grade(judges: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"would grade the tutor"):
        resolved(**judges)
    resolved(final_judge="hf/c/d")


def test_code_may_judge_both_and_a_round_may_judge_its_own_pairs(tmp_path: Path) -> None:
    runner.resolve("socratic-tutor-small", Path("run"), {"base": "hf/a/b", "debugging_train": "d.json"})
    rounds = """
values: {judge: openai/a, final: openai/b, tutor-0: hf/a/b}
stages:
  rounds:
    for: {round: 2}
    stages:
      "answers-${round}": {do: candidates, model: "${tutor-${round.before}}", data: d.jsonl}
      "judge-${round}": {do: judge, data: "${answers-${round}}", judge: "${judge}"}
      "pairs-${round}": {do: preferences, data: "${judge-${round}}"}
      "tutor-${round}": {do: train dpo, model: hf/a/b, data: "${pairs-${round}}/pairs.jsonl"}
  last: {do: candidates, model: "hf/${tutor-2}", data: e.jsonl, k: 1}
  graded: {do: judge, data: "${last}", judge: "${final}"}
"""
    (tmp_path / "r.yaml").write_text(rounds)
    runner.resolve(str(tmp_path / "r.yaml"), Path("run"))
    with pytest.raises(RecipeError, match="openai/a would grade .*judge-1, graded"):
        runner.resolve(str(tmp_path / "r.yaml"), Path("run"), {"final": "openai/a"})


# Lists and leaks.


@pytest.fixture(scope="module")
def lists(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Lists:
    return write_lists(real_data, tmp_path_factory.mktemp("lists"), train=12, test=5, longest=2500)


def test_leaks_are_counted_item_by_item_and_can_be_left_out(lists: Lists, tmp_path: Path) -> None:
    for name in SETS:
        Split(corpus=lists.train[name], test=lists.test[name], format="auto", source=name).run(
            tmp_path / name
        )
    tests = {name: tmp_path / name / "test.jsonl" for name in SETS}
    for name in SETS:
        train, whole = tmp_path / name / "train.jsonl", tmp_path / f"{name}-whole"
        found = Decontaminate(corpus=train, test=tests, drop=False).run(whole / "corpus.jsonl")
        given = lists.leaks[name]
        counts = found.tests[name]
        assert counts["overlap"]["exact"] == given["exact"] and counts["overlap"]["near"] == given["near"]
        assert counts["leaked"] == sum(given.values()) and counts["test"] == 5 + counts["leaked"]
        assert [found.tests[other]["leaked"] for other in SETS if other != name] == [0, 0]
        written = read_json(tmp_path / f"{name}-whole" / "leaks.json")["tests"][name]["ids"]
        assert Counter(how for one in written.values() for how in one if how in given) >= Counter(given)
        assert found.dropped == 0 and found.read == 12
        left = Decontaminate(corpus=train, test=tests).run(tmp_path / f"{name}-left" / "corpus.jsonl")
        assert left.dropped == sum(given.values()) and left.tests[name]["leaked"] == 0
        assert left.tests[name]["before"] == counts
        kept = [one.row() for one in read_corpus(tmp_path / f"{name}-left" / "corpus.jsonl")]
        every = [one.row() for one in read_corpus(whole / "corpus.jsonl")]
        assert len(kept) == left.read - left.dropped and all(row in every for row in kept)


def test_without_a_test_list_whole_problems_are_held_out(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "socratic-llm" / "debugging_train.json"
    held_out: dict[str, Any] = {"by": "problem", "format": "auto", "test": "none"}
    made = Split(corpus=source, parts=(0.8, 0, 0.2), source="debugging", **held_out).run(tmp_path / "a")
    assert isinstance(made, SplitResult) and not made.empty
    counts = made.counts
    assert counts["train"] + counts["test"] == 663 and 66 < counts["test"] < 200
    own = {"own": tmp_path / "a" / "test.jsonl"}
    found = Decontaminate(corpus=tmp_path / "a" / "train.jsonl", test=own, drop=False).run()
    assert found.tests["own"]["overlap"]["problems"] == 0
    assert {one.source for one in read_corpus(tmp_path / "a" / "test.jsonl")} == {"debugging"}
    few = tmp_path / "few.json"
    few.write_text(json.dumps(json.loads(source.read_text())[:1]))
    made = Split(corpus=few, parts=(0.9, 0, 0.1), **held_out).run(tmp_path / "b")
    assert isinstance(made, SplitResult) and len(made.empty) == 1


def graded(path: Path, helpful: dict[str, int]) -> Path:
    rows = []
    for name, value in helpful.items():
        values = {"asks_question": 1.0, "reveals_answer": 0.0, "on_topic": 5.0, "helpful": float(value)}
        verdict = {"judge": "j", "values": values, "error": None}
        rows.append(
            {
                "key": name,
                "id": name,
                "candidates": [{"text": "Why?"}],
                "verdicts": [verdict],
                "scores": [0.0],
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_clean_items_are_those_the_tutor_was_not_given(tmp_path: Path) -> None:
    def leaks(name: str, ids: list[str]) -> Path:
        counts = {
            "overlap": {"exact": len(ids), "near": 0, "problems": 0},
            "programs": 0,
            "leaked": len(ids),
            "test": 4,
        }
        found = {"tests": {"t": {**counts, "ids": {one: ["exact"] for one in ids}}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        return tmp_path / f"{name}.json"

    base = graded(tmp_path / "base.jsonl", {"a": 1, "b": 2, "c": 3, "d": 4})
    tuned = graded(tmp_path / "tuned.jsonl", {"a": 5, "b": 5, "c": 3, "d": 5})
    tutors = [GridTutor("base", None), GridTutor("from_x", "x"), GridTutor("from_y", "y")]
    cells = [GridCell("t", one, base if one.trained_on is None else tuned) for one in tutors]
    found = score_grid(cells, {"x": leaks("x", ["a", "b"]), "y": leaks("y", ["a", "b", "c", "d"])})
    own, by_x, by_y = found["cells"]
    assert own["published"]["n"] == 4 and own["clean"]["n"] == 0  # y was given all
    assert by_x["clean"]["n"] == 2 and by_x["clean"]["summary_score"] == pytest.approx(
        (0.75 + 0.15 + 1) / 2 + 0.0
    )
    assert by_x["difference"]["clean"]["metrics"]["helpful"]["difference"] == pytest.approx((0 + 1) / 2 / 5)
    assert by_x["difference"]["published"]["metrics"]["helpful"]["difference"] == pytest.approx(
        (4 + 3 + 0 + 1) / 4 / 5
    )
    assert by_y["clean"]["summary_score"] is None and by_y["difference"]["clean"] is None
    assert "none of the 4 test items is clean" in by_y["clean"]["reasons"]["summary_score"]
    assert found["leakage"]["y"]["t"]["leaked"] == 4 and "ids" not in found["leakage"]["y"]["t"]
    with pytest.raises(InputError, match="of t in z"):
        score_grid([GridCell("t", GridTutor("from_z", "z"), tuned)], {"x": tmp_path / "x.json"})


def test_people_in_either_form_and_nobody(tmp_path: Path) -> None:
    evaluation = {"questions": "yes", "on_topic": 4.0, "helpful": 1.0, "reveal_answer": "no"}
    rows = [
        {"prompt": "p", "output": "o", "evaluation": evaluation},
        {"prompt": "q", "output": "r", "human": evaluation},
    ]
    (tmp_path / "h.json").write_text(json.dumps(rows))
    found = list(rated_replies(tmp_path / "h.json"))
    assert [row.human for row in found] == [evaluation, evaluation]
    assert found[0].messages[0].content == "p"
    (tmp_path / "n.json").write_text(json.dumps([{"prompt": "p", "output": "o"}]))
    with pytest.raises(InputError, match="row 1"):
        list(rated_replies(tmp_path / "n.json"))


# A whole run, killed again and again.


def answer(body: dict[str, Any]) -> str:
    """The large model asks; a judge's verdict is read off the question it was asked."""
    if body["model"] == "large":
        return f"Which line do you mean, and what would {len(body['messages'][-1]['content'])} give there?"
    asked = "".join(turn["content"] for turn in body["messages"])
    drawn = int(hashlib.sha256((body["model"] + asked).encode()).hexdigest()[:8], 16)
    scales = {"on_topic": 1 + drawn % 5, "helpful": 1 + drawn // 5 % 5}
    return json.dumps(
        {"reason": "r", "asks_question": "yes", **scales, "reveals_answer": "yes" if drawn % 3 == 0 else "no"}
    )


class Server(Loopback):
    """Two judges and a large model."""

    def __init__(self) -> None:
        super().__init__(reply=answer, models=["trainer", "examiner", "large"], latency=0.1)

    def asked(self) -> Counter[str]:
        return Counter(json.dumps([seen.body["model"], seen.body["messages"]]) for seen in self.chats)


@pytest.fixture(scope="module")
def base(lists: Lists, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    Split(corpus=lists.train["tutorchat"], test=lists.test["tutorchat"], format="auto").run(folder)
    sizes = {"vocab_size": 768, "hidden": 32, "layers": 1, "context": 4096, "steps": 20}
    DemoBase(corpus=folder / "train.jsonl", **sizes).run(folder / "base")
    return folder / "base"


def words(server: Server, lists: Lists, base: Path, human: Path, out: Path) -> list[str]:
    settings: dict[str, Any] = {f"{name}_{part}": files[name] for part, files in
                                (("train", lists.train), ("test", lists.test)) for name in SETS}  # fmt: skip
    settings |= {"base": f"hf/{base}", "human": human, "training_judge": f"{server.url}#trainer",
                 "final_judge": f"{server.url}#examiner", "gpt4o": f"{server.url}#large", "tokens": 12,
                 "min_chosen": 0.4, "learning_rate": 1e-3, "max_length": 4096, "epochs": 1, "precision": "float32"}  # fmt: skip
    return ["run", "socratic-tutor", "--out", str(out),
            *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]  # fmt: skip


@pytest.fixture(scope="module")
def human(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = json.loads(
        (real_data / "socratic-llm" / "mathdial_human_eval_dev.json").read_text(encoding="utf-8")
    )
    path = tmp_path_factory.mktemp("human") / "human.json"
    path.write_text(json.dumps(rows[:12]), encoding="utf-8")
    return path


def start(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-m", "maieutic", *line], stderr=file, stdout=file)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


KILLED = {
    "candidates-mathdial": 3,
    "judge-mathdial": 2,
    "pairs-mathdial": 0,
    "tutor-mathdial": 2,
    "answers-tutorchat-base": 1,
    "judged-tutorchat-gpt4o": 1,
    "judged-human": 1,
}
"""Stages at which the run is killed, once they hold so many rows (0: when they are done)."""


class Held(NamedTuple):
    """What a stage had when the run was killed."""

    rows: set[bytes]
    done: int | None
    """When its rows were last written, where it was done."""


def killed(line: list[str], run: Path, stage: str, least: int) -> dict[str, Held]:
    """Start, wait until the stage is so far, SIGKILL; what was there then."""
    log = run.parent / "log"
    process = start(line, log)
    folder, deadline = run / stage, time.monotonic() + 600
    while not ((folder / "manifest.json").exists() or (least and lines(folder / "rows.jsonl") >= least)):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"{stage} was not reached: {log.read_text()[-2000:]}")
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return {path.parent.name: _held(path) for path in run.rglob("rows.jsonl")}


def _held(path: Path) -> Held:
    done = (path.parent / "manifest.json").exists()
    whole = {row for row in path.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")}
    return Held(whole, path.stat().st_mtime_ns if done else None)


def stored(run: Path) -> Counter[str]:
    """What the rows of a run show to have been asked of the server."""
    rubric = load_rubric("socratic")
    found: Counter[str] = Counter()
    for folder in run.iterdir():
        judged, large = folder.name.startswith("judge"), folder.name.endswith("-gpt4o")
        if not (judged or large) or not (folder / "rows.jsonl").exists():
            continue
        for row in stage_rows(folder):
            if not judged:
                found[json.dumps(["large", row["messages"]])] += 1
                continue
            turns = [Message.model_validate(turn) for turn in row["messages"]]
            problem = Problem.model_validate(row["problem"]) if row["problem"] else None
            model = "trainer" if folder.name.startswith("judge-") else "examiner"
            for text in {one["text"] for one in row["candidates"]}:
                question = {"role": "user", "content": judge_prompt(rubric, text, turns, problem)}
                found[json.dumps([model, [question]])] += 1
    return found


@pytest.fixture(scope="module")
def runs(
    lists: Lists, base: Path, human: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """One run straight through, and one that is killed at every stage of `KILLED`."""
    folder = tmp_path_factory.mktemp("runs")
    with Server() as server:
        log = folder / "straight.log"
        straight = start(words(server, lists, base, human, folder / "straight"), log)
        assert straight.wait(900) == 0, log.read_text()[-2000:]
        asked = [server.asked()]
        line = words(server, lists, base, human, folder / "killed")
        held: list[dict[str, Held]] = []
        before: list[Counter[str]] = [Counter()]
        for stage, least in KILLED.items():
            held.append(killed(line, folder / "killed", stage, least))
            asked.append(server.asked())
            before.append(stored(folder / "killed"))
        last = start(line, log)
        assert last.wait(900) == 0, log.read_text()[-2000:]
        asked.append(server.asked())
        yield {"folder": folder, "asked": asked, "before": before, "held": held}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_run_judges_and_generates_nothing_twice(runs: dict[str, Any]) -> None:
    final = stored(runs["folder"] / "killed")
    straight, *sessions = (after - before for before, after in pairwise([Counter(), *runs["asked"]]))
    assert straight == final  # asked once each, where nothing was killed
    for before, session in zip(runs["before"], sessions, strict=True):
        assert session <= final - before  # what is stored is never asked for again
    lost = [session - (after - before) for session, (before, after) in
            zip(sessions, pairwise([*runs["before"], final]), strict=True)]  # fmt: skip
    for stage, one in zip([*KILLED, "the end"], lost, strict=True):
        assert (one.total() > 0) <= stage.startswith("judge"), stage  # lost only what a judge was just asked
    for held in runs["held"]:
        for stage, (rows, done) in held.items():
            path = runs["folder"] / "killed" / stage / "rows.jsonl"
            assert done in (None, path.stat().st_mtime_ns), stage  # what was done is not touched again
            if not stage.startswith("tutor-"):  # training goes on from its last checkpoint
                assert rows <= set(path.read_bytes().splitlines(keepends=True)), stage
    assert any(one.done is None and one.rows for held in runs["held"] for one in held.values())
    for folder in (runs["folder"] / "killed").iterdir():
        if folder.name.startswith(("candidates-", "answers-", "judge")):
            keys = [json.loads(row)["key"] for row in (folder / "rows.jsonl").read_bytes().splitlines()]
            assert len(keys) == len(set(keys)) > 0, folder.name


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_run_ends_as_one_that_was_left_alone(runs: dict[str, Any]) -> None:
    straight, killed = runs["folder"] / "straight", runs["folder"] / "killed"
    for name in (
        "grid/grid.json",
        "agreement-human/human_vs_gpt.json",
        *(f"train-{name}/leaks.json" for name in SETS),
    ):
        assert read_json(killed / name) == read_json(straight / name), name


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_table_has_every_set_and_tutor_as_published_and_clean(runs: dict[str, Any], lists: Lists) -> None:
    found = read_json(runs["folder"] / "killed" / "grid" / "grid.json")
    assert len(found["cells"]) == 3 * 5 and found["shown"] == "tutorchat"
    for cell in found["cells"]:
        given = sum(lists.leaks[cell["test"]].values())
        seen = cell["trained_on"] in (None, cell["test"])
        assert cell["published"]["n"] == 5 + given
        assert cell["clean"]["n"] == cell["published"]["n"] - (given if seen else 0)
        assert cell["published"]["unscored"] == 0 and sum(cell["scores"].values()) == cell["published"]["n"]
        assert ("difference" in cell) == (cell["tutor"] != "base")
        stage = f"judged-{cell['test']}-{cell['tutor'].replace('from_finetuned_with_', 'from-')}"
        own_score = json.loads(json.dumps(tutor.score_tutor(runs["folder"] / "killed" / stage)))
        assert own_score == cell["published"]
        for part, own in (("published", cell["published"]), ("clean", cell["clean"])):
            if cell["tutor"] != "base":
                gap = cell["difference"][part]["metrics"]["summary_score"]
                assert gap["n"] == own["n"] and gap["a"] == pytest.approx(own["summary_score"])
    for name in SETS:
        assert found["leakage"][name][name]["leaked"] == sum(lists.leaks[name].values())
        assert all(found["leakage"][name][other]["leaked"] == 0 for other in SETS if other != name)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_report_shows_the_table_and_its_files_load_back(runs: dict[str, Any], tmp_path: Path) -> None:
    run = runs["folder"] / "killed"
    page = checked(write_report([run], tmp_path / "r", artefacts=True))
    for words in (
        "Every test set with every tutor",
        "as published",
        "Differences from the base",
        "training set",
    ):
        assert words in page.text
    drawn = {path.stem for path in (tmp_path / "r" / "figures").glob("*.svg")}
    assert drawn == {"grid-scores", "score-distribution", "criteria", "human-judge", "human-judge-criteria",
                     "learning-curves"}  # fmt: skip
    tutors = {"base": "base", "gpt4o": "gpt4o"} | {
        f"from_finetuned_with_{name}": f"from-{name}" for name in SETS
    }
    for test in SETS:
        files = {path.stem for path in (tmp_path / "r" / "evaluation" / test).iterdir()}
        assert files == set(tutors)
        for file, stage in tutors.items():
            loaded = tutor.score_tutor(tmp_path / "r" / "evaluation" / test / f"{file}.json")
            own = tutor.score_tutor(run / f"judged-{test}-{stage}")
            assert {**loaded, "notes": []} == {**own, "notes": []}
        items = judged_rows(tmp_path / "r" / "dpo" / test / "train_dataset.json")
        made = [(one.chosen, one.rejected, one.scores) for one in pairs(items, min_chosen=0.4)]
        own = [
            (one.chosen, one.rejected, one.scores)
            for one in pairs(judged_rows(run / f"judge-{test}"), min_chosen=0.4)
        ]
        assert sorted(map(str, made)) == sorted(map(str, own)) and made
    beside = judge_agreement.score_judge(tmp_path / "r" / "evaluation" / "human_vs_gpt.json")
    assert beside["n"] == 12 and beside == read_json(run / "agreement-human" / "manifest.json")["agreement"]
