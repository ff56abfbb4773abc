"""Pairs: the published rule, the tutor's own prompt, and a reason for every prompt without one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maieutic.errors import EmptyCorpus, InputError, StoreError
from maieutic.prefer import Refusal, pair, pairs, prefer
from maieutic.types import Preference


def row(*graded: tuple[str, float | None] | tuple[str, float | None, bool], **extra: Any) -> dict[str, Any]:
    verdicts = [
        {"judge": "j", "values": {} if one[1] is None else {"reveals_answer": float(len(one) > 2 and one[2])},
         "raw": "", "error": "no verdict" if one[1] is None else None}
        for one in graded
    ]  # fmt: skip
    return {
        "key": "k", "id": "p", "messages": [{"role": "system", "content": "Ask."}, {"role": "user", "content": "Hi"}],
        "candidates": [{"text": one[0], "finish": "stop"} for one in graded],
        "verdicts": verdicts, "scores": [one[1] for one in graded], "model": "m", "rubric": "socratic", **extra,
    }  # fmt: skip


def test_best_against_worst_on_the_tutors_prompt() -> None:
    result = pair(row(("b", 0.9), ("a", 1.0), ("c", 0.3), ("d", 0.5)))
    assert isinstance(result, Preference)
    assert [turn.role for turn in result.prompt] == ["system", "user"]
    assert (result.chosen[0].content, result.rejected[0].content) == ("a", "c")
    assert result.scores == {"chosen": 1.0, "rejected": 0.3}


@pytest.mark.parametrize(
    ("judged", "reason"),
    [
        (row(("a", 0.8), ("b", 0.2)), Refusal.TOO_LOW),
        (row(("a", 0.25 + 0.25 + 0.05 * 3 + 0.05 * 3), ("b", 0.2)), Refusal.TOO_LOW),
        (row(("a", 0.9), ("b", 0.9)), Refusal.TIE),
        (row(("same", 0.9), ("same", 0.7)), Refusal.TIE),
        (row(("a", 0.9), ("b", 0.9 - 1e-12)), Refusal.TIE),
        (row(("a", 0.9)), Refusal.TOO_FEW),
        (row(("a", None), ("b", 0.9)), Refusal.UNSCORED),
        (row(("a", 0.9, True), ("b", 0.1)), Refusal.REVEALS),
        (row(("a", 0.9, True), ("b", 0.1, True)), Refusal.REVEALS),
        (row(("a", 1.0), ("b", 0.1), fault="network"), Refusal.FAILED),
    ],
)
def test_a_prompt_without_a_pair_says_why(judged: dict[str, Any], reason: Refusal) -> None:
    assert pair(judged) == reason


def test_margin() -> None:
    assert pair(row(("a", 0.9), ("b", 0.7)), min_margin=0.2) == Refusal.MARGIN
    assert isinstance(pair(row(("a", 0.95), ("b", 0.7)), min_margin=0.2), Preference)


GRADED = st.lists(
    st.tuples(
        st.text("abc", max_size=2),
        st.one_of(st.none(), st.integers(2, 20).map(lambda n: n / 20)),
        st.booleans(),
    ),
    max_size=6,
)


@given(GRADED)
def test_the_chosen_is_above_the_floor_and_silent(graded: list[Any]) -> None:
    judged = row(*graded)
    for preference in pairs([judged]):
        chosen, rejected = preference.scores["chosen"], preference.scores["rejected"]
        assert chosen > 0.8
        assert chosen > rejected
        assert preference.chosen != preference.rejected
        assert (preference.chosen[0].content, chosen, False) in graded
        assert rejected == min(score for _, score, _ in graded if score is not None)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_the_file_and_its_quality(tmp_path: Path) -> None:
    source = write(
        tmp_path / "rows.jsonl",
        [row(("a b c", 1.0), ("d", 0.2), key="2", index=1), row(("e", 0.9), ("f", 0.1), key="1", index=0),
         row(("g", 0.5), ("h", 0.1), key="3"), row(("i", None), ("j", 0.9), key="4")],
    )  # fmt: skip
    quality = prefer(source, tmp_path / "p.jsonl")
    assert (quality.prompts, quality.pairs, quality.unscored) == (4, 2, 1)
    assert quality.refused == {"chosen too low": 1, "unscored": 1}
    assert quality.words_chosen == 2
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [one["chosen"][0]["content"] for one in lines] == ["e", "a b c"]
    assert prefer(source, tmp_path / "p.jsonl") == quality
    with pytest.raises(StoreError, match="holds something else"):
        prefer(source, tmp_path / "p.jsonl", min_chosen=0.95)
    with pytest.raises(EmptyCorpus, match="chosen too low"):
        prefer(source, tmp_path / "q.jsonl", min_chosen=1.0)
    assert not (tmp_path / "q.jsonl").exists()
    with pytest.raises(InputError, match="not a judged row"):
        pair({"id": "x", "messages": []})


def published(*words: Any) -> dict[str, Any]:
    """An item of the published artefact, from (output, questions, on_topic, helpful, reveal) or (output, error)."""
    evaluations = []
    for output, *rest in words:
        error = rest[0] if len(rest) == 1 else None
        values = (
            None
            if error
            else dict(zip(("questions", "on_topic", "helpful", "reveal_answer"), rest, strict=True))
        )
        evaluations.append(
            {"output": output, "raw_evaluation": "", "evaluation_error": error, "evaluation": values}
        )
    return {
        "prompt": "Student: {braces} \\frac{1}{2} ", "chosen": "x", "rejected": "y", "chosen_eval": evaluations[0],
        "rejected_eval": evaluations[-1], "all_evaluations": evaluations,
    }  # fmt: skip


def test_the_published_artefact(tmp_path: Path) -> None:
    items = [
        published(("A?", "yes", 5, 5, "No."), ("B", "No.", 2, 2, "yes"), ("C?", True, 50, 5, False)),
        published(("A", "yes", 5, 5, "no"), ("B", "timeout")),
        published(("A?", "yes", 3, 3, "no"), ("B", "no", 1, 1, "yes")),
    ]
    file = tmp_path / "train_dataset.json"
    file.write_text(json.dumps(items))
    quality = prefer(file, tmp_path / "p.jsonl", min_chosen=0.8)
    assert (quality.prompts, quality.pairs) == (3, 1)
    assert quality.refused == {"unscored": 1, "chosen too low": 1}
    assert quality.unscored == 2
    (line,) = (tmp_path / "p.jsonl").read_text().splitlines()
    preference = json.loads(line)
    assert preference["prompt"] == [{"role": "user", "content": items[0]["prompt"]}]
    assert (preference["chosen"][0]["content"], preference["rejected"][0]["content"]) == ("A?", "B")
    assert preference["scores"] == {"chosen": 1.0, "rejected": 0.2}
    file.write_text(json.dumps([{"prompt": 3, "all_evaluations": []}]))
    with pytest.raises(InputError, match="published form"):
        prefer(file, tmp_path / "q.jsonl")


def maieutic(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


COMMAND = """
import sys, typer
from maieutic.cli.judge import register
from maieutic.errors import MaieuticError
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
register(app)
try:
    app()
except MaieuticError as error:
    sys.exit(f"error: {error}")
"""


def test_the_commands_in_a_row(tmp_path: Path) -> None:
    problem = {"statement": "3 bags with 4 nuts. How many nuts?", "answer": "12"}
    write(
        tmp_path / "seeds.jsonl",
        [{"messages": [{"role": "user", "content": f"Is it {n}?"}], "problem": problem} for n in (7, 8, 9)],
    )
    write(tmp_path / "tutor.jsonl", [{"texts": ["What do three bags hold?", "It is 12.", "Well."]}])
    grades = [
        {"asks_question": "yes", "on_topic": 5, "helpful": n, "reveals_answer": "no"} for n in (5, 4, 5)
    ]
    write(tmp_path / "judge.jsonl", [{"text": json.dumps(grade)} for grade in grades])
    run = tmp_path / "run"
    made = maieutic(
        "candidates", "--model", f"script/{tmp_path}/tutor.jsonl", "--data", tmp_path / "seeds.jsonl", "-k", 6,
        "--out", run / "candidates", "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["prompts"] == 3
    for rubric, judges, folder in (
        ("socratic_checks", [], "checks"),
        ("socratic", ["--judge", f"script/{tmp_path}/judge.jsonl"], "judge"),
    ):
        judged = maieutic("judge", run, "--rubric", rubric, *judges, "--out", run / folder, "--json")
        assert judged.returncode == 0, judged.stderr
        result = json.loads(judged.stdout)
        assert (result["judged"], result["unscored"]) == (18, 0)
        written = maieutic("prefer", run / folder, "--out", tmp_path / f"{folder}-pairs.jsonl")
        assert written.returncode == 0, written.stderr
        assert re.search(r"3 pairs of 3 prompts", written.stdout)
    wrong = maieutic("judge", run, "--rubric", "socratic", "--out", tmp_path / "x")
    assert wrong.returncode == 1
    assert len(wrong.stderr.strip().splitlines()) == 2
    assert "Traceback" not in wrong.stderr
    neither = maieutic("prefer", "--out", tmp_path / "y.jsonl")
    assert "name one source" in neither.stderr
