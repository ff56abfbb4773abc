"""Simulated dialogues, judged reply by reply and paired where two replies answer the same context."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from judges import Speaker, judge, preferences, verdict
from typer.testing import CliRunner

from maieutic.cli import app, gather
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation
from maieutic.core.rows import JudgedRow, read_step
from maieutic.data.corpus import read_corpus

PROBLEM = {"statement": "3 bags with 4 nuts. How many nuts?", "answer": "12"}
ASKS, TELLS, IDLE = "What do three bags hold?", "It is 12.", "Well."


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def simulated(folder: Path, tutor: list[Any], *words: object, starts: int = 2) -> Path:
    """The run folder of `simulate` with scripts on both sides, from starts that end on the student."""
    folder.mkdir(parents=True)
    user = write(
        folder / "user.jsonl", [{"trained_role": "user"}, {"texts": ["Is it 7?", "Hm.", "Is it 9?"]}]
    )
    replies = write(folder / "tutor.jsonl", tutor)
    seeds = write(folder / "seeds.jsonl", [
        {"id": f"s{n}", "messages": [{"role": "assistant", "content": "Hello!"},
                                     {"role": "user", "content": f"I got {n + 20}."}], "problem": PROBLEM}
        for n in range(starts)
    ])  # fmt: skip
    gather()
    call = ["simulate", "--user", f"script/{user}", "--assistant", f"script/{replies}", "--seeds", seeds,
            "--rounds", 3, "--guards", "none", "--out", folder / "run", "--json", *words]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, call)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder / "run"


def dialogues(run: Path) -> dict[str, Conversation]:
    return {talk.id: talk for talk in read_corpus(run)}


def test_each_generated_reply_is_judged_in_its_context(tmp_path: Path) -> None:
    run = simulated(tmp_path / "a", [{"texts": [ASKS, TELLS, IDLE]}], "--repeat", 3)
    model = Speaker(lambda messages, sampling: verdict(), "test/judge")
    result = judge(run, tmp_path / "j", model=model)
    talks = dialogues(run)
    generated = {
        (talk.id, place)
        for talk in talks.values()
        for place, message in enumerate(talk.messages)
        if place > 1 and message.role == "assistant"
    }
    rows = list(read_step(JudgedRow, tmp_path / "j", "judge"))
    assert {(row.id, row.turn) for row in rows} == generated
    assert result.judged == result.prompts == len(rows) == len(generated) > 6
    for row in rows:
        talk = talks[str(row.id)]
        assert row.turn is not None and row.messages == talk.messages[: row.turn]
        assert row.texts == (talk.messages[row.turn].content,)
        assert str(row.model).startswith("script/") and row.problem == talk.problem
    assert judge(run, tmp_path / "j", model=model).calls == 0


def test_repeats_of_one_start_make_pairs(tmp_path: Path) -> None:
    run = simulated(tmp_path / "a", [{"texts": [ASKS, TELLS, IDLE]}], "--repeat", 12)
    judge(run, tmp_path / "j", rubric="socratic_checks")
    result = preferences(tmp_path / "j", tmp_path / "p.jsonl")
    pairs = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert result.pairs == len(pairs) >= 2
    starts = {
        tuple(message.content for message in talk.messages[:2]): talk.id for talk in dialogues(run).values()
    }
    opening = [pair for pair in pairs if pair["meta"]["turn"] == 2]
    assert {tuple(message["content"] for message in pair["prompt"]) for pair in opening} == starts.keys()
    for pair in pairs:
        assert pair["chosen"][0]["content"] == ASKS and pair["rejected"][0]["content"] in (TELLS, IDLE)


def test_two_tutors_dialogues_make_pairs_together(tmp_path: Path) -> None:
    good = simulated(tmp_path / "good", [{"text": ASKS}])
    poor = simulated(tmp_path / "poor", [{"text": IDLE}])
    for name, run in (("jg", good), ("jp", poor)):
        judge(run, tmp_path / name, rubric="socratic_checks")
        with pytest.raises(EmptyCorpus, match="context"):
            preferences(tmp_path / name, tmp_path / "none.jsonl")
    preferences([tmp_path / "jg", tmp_path / "jp"], tmp_path / "p.jsonl")
    pairs = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(pairs) == 2  # the first replies: after them the dialogues differ
    for pair in pairs:
        assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (ASKS, IDLE)
        assert "good" in pair["meta"]["models"]["chosen"] and "poor" in pair["meta"]["models"]["rejected"]


def test_any_corpus_is_judged_reply_by_reply(tmp_path: Path) -> None:
    turns = [("user", "I got 7."), ("assistant", IDLE), ("user", "And now?"), ("assistant", ASKS)]
    corpus = write(tmp_path / "corpus.jsonl", [
        {"id": "c", "messages": [{"role": role, "content": text} for role, text in turns], "problem": PROBLEM},
    ])  # fmt: skip
    judge(corpus, tmp_path / "j", rubric="socratic_checks")
    rows = list(read_step(JudgedRow, tmp_path / "j", "judge"))
    assert [(row.id, row.turn, row.texts) for row in rows] == [("c", 1, (IDLE,)), ("c", 3, (ASKS,))]
    judge(corpus, tmp_path / "last", rubric="socratic_checks", replies="last")
    assert [row.texts for row in read_step(JudgedRow, tmp_path / "last", "judge")] == [(ASKS,)]


LOADED = """
import sys
from maieutic.judging.steps import Preferences
Preferences(data=[sys.argv[1]]).run(sys.argv[2])
print(*sorted({name.split(".")[1] for name in sys.modules if name.startswith("maieutic.")}))
print(sum(name.startswith("maieutic.") for name in sys.modules))
"""


def test_making_pairs_loads_few_modules(tmp_path: Path) -> None:
    """A pure function of rows needs the rows, the rules and the check that no chosen reply reveals the answer."""
    row = {"messages": [{"role": "user", "content": "Hi"}], "candidates": [{"text": "a"}, {"text": "b"}],
           "verdicts": [{}, {}], "scores": [1, 0.2]}  # fmt: skip
    source = write(tmp_path / "rows.jsonl", [row])
    words = [sys.executable, "-c", LOADED, str(source), str(tmp_path / "p.jsonl")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packages, count = done.stdout.splitlines()
    assert set(packages.split()) <= {"checks", "core", "data", "judging"}
    assert int(count) <= 36
