"""The teacher's page, every command in its order: ten problems, a tiny model, from nothing to two tutors compared."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from random import Random

import pytest
from cli_tree import root
from test_docs import calls

from maieutic.core.messages import Conversation, Message, Role
from maieutic.core.store import read_json
from maieutic.data.corpus import read_corpus, write_corpus
from maieutic.recipes.demo import students
from maieutic.recipes.demo.steps import DemoBase
from maieutic.rollouts.tutor_prompt import TutorPrompt

PAGE = (Path(__file__).parent.parent / "docs" / "teacher.md").read_text(encoding="utf-8")
MODEL = "Qwen/Qwen2.5-1.5B-Instruct"


def run(call: str) -> None:
    """What the words after `maieutic` do, in this process."""
    root().main(shlex.split(call), standalone_mode=False)


def block(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```", PAGE, re.S | re.M)
    assert found
    return found[1]


def tasks(count: int, seed: int) -> list[students.Task]:
    random = Random(seed)
    return [students.draw_task(random, students.number_pairs()) for _ in range(count)]


def lessons(brief: TutorPrompt, count: int) -> list[Conversation]:
    """What a tiny model learns to tutor from: some of its tutors ask, and some tell."""
    random = Random(7)
    made = []
    for place, task in enumerate(tasks(count, 1)):
        turns = students.lesson(random, task, random.choice(students.STYLES)).turns[1:]
        problem = task.problem()
        system = Message(role=Role.SYSTEM, content=problem.statement)
        framed = brief.apply(problem, (system, *turns))
        made.append(Conversation(id=str(place), messages=framed))
    return made


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher's folder: ten problems, the page's own instructions, a tiny model under a local name."""
    monkeypatch.chdir(tmp_path)
    Path("tutor.md").write_text(block("md"))
    with Path("problems.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(block("csv").splitlines()[0].split(","))
        for task in tasks(10, 3):
            problem = task.problem()
            writer.writerow([problem.statement, problem.answer, problem.attempt])
    write_corpus(Path("lessons.jsonl"), lessons(TutorPrompt.load("tutor.md"), 600))
    DemoBase(corpus="lessons.jsonl", vocab_size=768, hidden=64, context=1024, steps=250).run("base")
    return tmp_path


def test_the_sample_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("problems.csv").write_text(block("csv"))
    run(next(calls(PAGE)))
    answers = [one.problem.answer for one in read_corpus("problems.jsonl") if one.problem]
    assert answers == ["18", "48", "4.5"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_teacher_gets_from_a_table_to_two_tutors_compared(desk: Path) -> None:
    for call in calls(PAGE):
        run(call.replace(MODEL, "base"))
    train, test = (list(read_corpus(f"parts/{part}.jsonl")) for part in ("train", "test"))
    assert len(train) + len(test) == 10
    assert test
    statements = {one.problem.statement for one in train if one.problem}
    assert not statements & {one.problem.statement for one in test if one.problem}
    pairs = [json.loads(line) for line in Path("runs/tutor/pairs.jsonl").read_text().splitlines()]
    assert pairs
    assert all(pair["scores"]["chosen"] > pair["scores"]["rejected"] for pair in pairs)
    assert all("patient tutor" in pair["prompt"][0]["content"] for pair in pairs)
    assert read_json(Path("runs/tuned/manifest.json"))
    played = read_json(Path("runs/compared/dialogues.json"))
    assert set(played["tutors"]) == {"tuned", "base", "control-silent", "control-telling"}
    for student in ("confused", "answer-seeking"):
        assert played["tutors"]["control-telling"][student]["told"]["value"] == 1
        assert played["tutors"]["control-silent"][student]["told"]["value"] == 0
    (pair,) = [one for one in played["differences"] if one["student"] == "confused" and one["b"] == "base"]
    assert pair["a"] == "tuned"
    assert pair["metrics"]["solved"]["n"] == len(test)
    assert "answer-seeking" in Path("page/report.html").read_text()
