"""Kinds of students: their files say what they should, a scripted one acts on what the tutor did, and stays the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from generate import simulate
from hypothesis import given
from hypothesis import strategies as st

from maieutic.checks.turns import presses, reveals_answer, states_answer
from maieutic.core.errors import InputError, MissingInput, ModelError
from maieutic.core.messages import Finish, Message, Problem, Role, Sampling
from maieutic.core.store import stage_rows
from maieutic.models import load, student, with_problem
from maieutic.models.student import move

NUTS = Problem(
    statement="Ana packs 4 bags of 6 nuts. How many nuts is that?",
    answer="24",
    attempt="4 + 6 = 10, so 10 nuts.",
)
SIGN = Problem(statement="Tom has 8 nuts and gives 3 away. Which sign?", answer="minus", attempt="plus")


def filled(phrase: str, problem: Problem) -> str:
    return phrase.replace("{{answer}}", problem.answer or "").replace("{{attempt}}", problem.attempt or "")


@pytest.mark.parametrize("kind", student.KINDS)
@pytest.mark.parametrize("problem", [NUTS, SIGN], ids=["number", "word"])
def test_the_phrases_do_what_they_are_for(kind: str, problem: Problem) -> None:
    """Else a scripted student's own words would be measured as something else."""
    for name, style in student.load_kind(kind).student.styles.items():
        for phrase in style.solves:
            assert states_answer(filled(phrase, problem), problem), (name, phrase)
        for phrase in (*style.sticks, *style.lost, *style.opens, *style.presses, *style.thanks):
            assert not states_answer(filled(phrase, problem), problem), (name, phrase)
        for phrase in style.presses:
            assert presses(phrase), (name, phrase)
        for phrase in (*style.solves, *style.sticks, *style.lost, *style.told, *style.thanks):
            assert not presses(filled(phrase, problem)), (name, phrase)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The answer is 24.", "tells"),
        ("I can't help with that.", "refuses"),
        ("How many nuts are in one bag?", "takes_up"),
        ("What do you think?", "asks"),
        ("Not quite. Read the task again.", "hints"),
        ("Each of the bags holds the same.", "hints"),
        ("Go on.", "idle"),
        ("Please go on.", "idle"),
        ("Perfect! I could not have said it better. You have fully understood this!", "idle"),
        ("I think it is 10.", "idle"),
    ],
)
def test_what_a_tutor_did(text: str, wanted: str) -> None:
    assert move(text, NUTS, ["I think it is 10."]) == wanted


def told(*texts: str) -> list[Message]:
    return [Message(role=(Role.USER, Role.ASSISTANT)[n % 2], content=text) for n, text in enumerate(texts)]


def say(
    kind: str, turns: list[Message], seed: int = 0, stay: bool = False, problem: Problem = NUTS
) -> tuple[str, Finish]:
    model = with_problem(load(f"student/{kind}"), problem)
    reply = asyncio.run(model.reply(turns, Sampling(seed=seed), role=Role.USER, suppress_end=stay))
    return reply.text, reply.finish


@given(st.sampled_from(student.KINDS), st.integers(0, 10**6), st.text(max_size=60))
def test_the_same_conversation_and_seed_give_the_same_turn(kind: str, seed: int, text: str) -> None:
    turns = told("10?", text or "?")
    assert say(kind, turns, seed) == say(kind, turns, seed)


def test_seeds_differ_and_styles_stay() -> None:
    turns = told("It is 10.", "How many nuts are in one bag?")
    drawn = {say("cooperative", turns, seed)[0] for seed in range(60)}
    assert len(drawn) > 3
    styles = student.load_kind("cooperative").student.styles
    known = [
        {filled(p, NUTS) for _, part in style if isinstance(part, tuple) for p in part}
        for style in styles.values()
    ]
    assert sum(drawn <= phrases for phrases in known) == 1, "a person keeps to one style"


def shares(kind: str, text: str, tests: int = 400) -> dict[str, float]:
    """How often it solved, pressed and left, after one turn of a tutor."""
    drawn = [say(kind, told("I think it is 10.", text), seed) for seed in range(tests)]
    return {
        "solved": sum(states_answer(said, NUTS) for said, _ in drawn) / tests,
        "pressed": sum(presses(said) for said, _ in drawn) / tests,
        "left": sum(finish == Finish.END for _, finish in drawn) / tests,
    }


def test_chances_are_those_of_the_file() -> None:
    """400 draws: the standard error is at most .025, the bound four of them."""
    for kind, text, did in (
        ("cooperative", "How many nuts are in one bag?", "takes_up"),
        ("answer-seeking", "What do you think?", "asks"),
        ("adversarial", "I can't help with that.", "refuses"),
    ):
        wanted, found = student.load_kind(kind).student.chances[did], shares(kind, text)
        assert abs(found["solved"] - wanted.solves) < 0.1
        assert abs(found["left"] - (1 - wanted.solves) * wanted.leaves) < 0.1
        assert abs(found["pressed"] - (1 - wanted.solves) * (1 - wanted.leaves) * wanted.presses) < 0.1


def test_after_the_answer_it_goes_and_asked_again_it_may_know() -> None:
    solved = told("It is 10.", "How many in one bag?", "6, so the answer is 24.", "Yes.")
    assert all(say("cooperative", solved, seed)[1] == Finish.END for seed in range(20))
    kept = [states_answer(say("cooperative", solved, seed, stay=True)[0], NUTS) for seed in range(200)]
    was_told = told("It is 10.", "The answer is 24.", "Oh, I see.", "What is your answer?")
    known = [states_answer(say("cooperative", was_told, seed, stay=True)[0], NUTS) for seed in range(200)]
    assert sum(kept) / 200 > 0.85 > 0.6 > sum(known) / 200
    assert all(say("cooperative", was_told, seed, stay=True)[1] == Finish.STOP for seed in range(20))


def test_no_phrase_reads_what_another_filled_in() -> None:
    """Placeholders are filled in one pass."""
    sly = NUTS.model_copy(update={"attempt": "{{answer}}"})
    texts = {say("confused", told("?", "Go on."), seed, problem=sly)[0] for seed in range(40)}
    assert any("{{answer}}" in text for text in texts)


def test_it_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no student"):
        load("student/nobody")
    model = load("student/confused")
    with pytest.raises(ModelError, match="no answer is known"):
        asyncio.run(model.reply([], Sampling(), role=Role.USER))
    with pytest.raises(ModelError, match="cannot tutor"):
        asyncio.run(with_problem(model, NUTS).reply([], Sampling()))
    raw = student.load_kind("confused").student.model_dump(mode="json")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**raw, "name": "own"}))
    assert load(f"student/{tmp_path / 'own.yaml'}").fingerprint
    raw["chances"].pop("idle")
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match="one entry for each"):
        load(f"student/{tmp_path / 'broken.yaml'}")


def test_every_kind_with_every_start(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(
        '{"id": "a", "profile": "Says little.", "messages": [{"role": "user", "content": "It is 10."}], "problem": '
        f"{NUTS.model_dump_json()}}}\n"
    )
    config = {"seeds": seeds, "kinds": ["cooperative", "adversarial"], "rounds": 2, "guards": "empty"}
    simulate(load("student/cooperative"), load("baseline/telling"), tmp_path / "run", config=config)
    rows = list(stage_rows(tmp_path / "run"))
    assert [row["meta"]["kind"] for row in rows] == ["cooperative", "adversarial"]
    assert {row["meta"]["seed"] for row in rows} == {"a"}
    assert rows[1]["profile"].startswith("You are a pupil who tries to trick")
    assert rows[1]["profile"].endswith("Says little.")
    assert all(reveals_answer(row["messages"][1]["content"], NUTS, ["It is 10."]) for row in rows)
