"""Tutors of fixed words, and what a tutor alone is told: in candidates and in whole dialogues."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from generate import candidates, simulate
from judges import Speaker

from maieutic.core.errors import InputError, ModelError
from maieutic.core.messages import Conversation, Message, Problem, Role, Sampling
from maieutic.core.store import read_rows
from maieutic.data.corpus import write_corpus
from maieutic.models import load, with_problem
from maieutic.models.scripted import CONTROLS, MUST_NOT_WIN
from maieutic.rollouts.tutor_prompt import TutorPrompt

PROBLEM = Problem(statement="Ana has 3 pens and gets 4. How many?", answer="7", attempt="1", solution="3 + 4")
START = [Message(role=Role.USER, content="It is 1. {{answer}}")]


def say(name: str, problem: Problem | None = PROBLEM, seed: int = 0) -> str:
    model = with_problem(load(f"baseline/{name}"), problem)
    return asyncio.run(model.reply(START, Sampling(seed=seed))).text


def test_what_the_probes_say() -> None:
    assert say("telling") == "The answer is 7."
    assert say("repeater") == "It is 1. {{answer}}", "what a student wrote is no placeholder"
    assert say("question-only") != say("question-only", seed=1)
    assert all("7" not in say(name) for name in (*MUST_NOT_WIN, "silent"))
    assert all(say(name) for name in (*MUST_NOT_WIN, *CONTROLS))


def test_who_should_tell_an_unknown_answer_says_so() -> None:
    with pytest.raises(ModelError, match="no answer is known"):
        say("telling", None)
    with pytest.raises(InputError, match="question-only"):
        load("baseline/nobody")


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.jsonl"
    write_corpus(path, [Conversation(id="a", messages=tuple(START), problem=PROBLEM)])
    return path


def test_probes_answer_wherever_a_tutor_does(seeds: Path, tmp_path: Path) -> None:
    candidates(load("baseline/telling"), seeds, tmp_path / "candidates", k=2)
    (row,) = read_rows(tmp_path / "candidates" / "rows.jsonl")
    assert [one["text"] for one in row["candidates"]] == ["The answer is 7."] * 2
    user = tmp_path / "user.jsonl"
    user.write_text('{"trained_role": "user"}\n' + json.dumps({"text": "Ah."}) + "\n")
    config = {"seeds": seeds, "rounds": 2, "guards": "none"}
    simulate(load(f"script/{user}"), load("baseline/telling"), tmp_path / "talk", config=config)
    (row,) = read_rows(tmp_path / "talk" / "rows.jsonl")
    assert [turn["content"] for turn in row["messages"]][1::2] == ["The answer is 7."] * 2


@pytest.mark.parametrize("shown", [False, True])
def test_the_assistant_alone_is_told_the_problem(seeds: Path, tmp_path: Path, shown: bool) -> None:
    user, tutor = Speaker(lambda *_: "Hm."), Speaker(lambda *_: "What do you add?")
    config = {
        "seeds": seeds, "rounds": 2, "guards": "none", "assistant_prompt": "tutor_socratic", "show_solution": shown,
        "user_mode": "prompted",
    }  # fmt: skip
    simulate(user, tutor, tmp_path / "talk", config=config)
    told = [asked[0] for asked in tutor.asked]
    assert len(told) == 2
    assert told[0] == told[1]
    assert told[0] == TutorPrompt.load("tutor_socratic", shown).system(PROBLEM, START)
    assert PROBLEM.statement in told[0].content
    assert ("3 + 4" in told[0].content) == shown
    assert all("Socratic" not in turn.content for asked in user.asked for turn in asked)
    (row,) = read_rows(tmp_path / "talk" / "rows.jsonl")
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant", "user", "assistant"]


def test_without_a_prompt_nothing_is_added() -> None:
    turns = (Message(role=Role.SYSTEM, content="Be kind."), *START)
    assert TutorPrompt().apply(PROBLEM, turns) == turns
    framed = TutorPrompt.load("tutor_socratic").apply(PROBLEM, turns)
    assert [turn.role for turn in framed] == [Role.SYSTEM, Role.USER]
    assert framed[0].content.endswith("Be kind.")
