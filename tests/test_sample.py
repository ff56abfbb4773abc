"""The corpus that ships: it is valid, it is ours to give away, and its tutors do not tell."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import orjson
import pytest

from maieutic.core.messages import Conversation, Role

NUMBERS = dict(
    enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
)


def rows_of(name: str) -> list[dict[str, Any]]:
    lines = (files("maieutic.recipes.demo") / name).read_bytes().splitlines()
    return [orjson.loads(line) for line in lines]


ROWS = {name: rows_of(name) for name in ("sample.jsonl", "seeds.jsonl")}
SAMPLE, SEEDS = ([Conversation.model_validate(row) for row in rows] for rows in ROWS.values())
TUTORING = [one for one in SAMPLE if one.problem]
EVERYTHING = SAMPLE + SEEDS


def states(text: str, answer: str) -> bool:
    """Whether the text holds the whole answer: 6 is not in 3/6, 1.6, -6 or 16. Up to ten also as a word."""
    text, answer = (re.sub(r"\s+", " ", one.replace("−", "-").lower()) for one in (text, answer))
    forms = {answer, NUMBERS.get(int(answer), answer) if answer.isdigit() else answer}
    return any(re.search(rf"(?<![\w./,-]){re.escape(form)}(?![\w/]|[.,]\d)", text) for form in forms)


def answer_of(conversation: Conversation) -> str:
    assert conversation.problem and conversation.problem.answer
    return conversation.problem.answer


def ids(conversations: list[Conversation]) -> Any:
    return pytest.mark.parametrize("one", conversations, ids=lambda one: one.id)


def test_how_much_there_is() -> None:
    assert len(SAMPLE) >= 80
    assert len(TUTORING) >= 35
    assert len(SEEDS) >= 24
    assert len({one.user_id for one in EVERYTHING}) >= 20


def test_ids_are_unique() -> None:
    assert len({one.id for one in EVERYTHING}) == len(EVERYTHING)


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_written_closed(name: str) -> None:
    for row in ROWS[name]:
        conversation = Conversation.model_validate(row)
        assert conversation.row() == row
        assert not conversation.meta
        assert (conversation.source, conversation.licence) == ("maieutic-sample", "Apache-2.0")


@ids(EVERYTHING)
def test_turns(one: Conversation) -> None:
    roles = [turn.role for turn in one.messages]
    assert roles == [Role.USER if index % 2 == 0 else Role.ASSISTANT for index in range(len(roles))]
    assert all(turn.content == turn.content.strip() != "" for turn in one.messages)
    assert max(len(turn.content.split()) for turn in one.messages) <= 60


def test_no_two_conversations_open_alike() -> None:
    openings = [one.messages[0].content for one in EVERYTHING]
    assert len(set(openings)) == len(openings)


def test_endings_are_of_both_kinds() -> None:
    last = [one.messages[-1].role for one in SAMPLE if one.ended]
    assert min(last.count(Role.USER), last.count(Role.ASSISTANT)) >= 10
    assert 0 < sum(not one.ended for one in SAMPLE) < len(SAMPLE) / 4


@ids(SEEDS)
def test_a_seed_waits_for_the_tutor(one: Conversation) -> None:
    assert one.messages[-1].role == Role.USER
    assert not one.ended
    assert not any(states(turn.content, answer_of(one)) for turn in one.messages)


def test_seed_problems_are_new() -> None:
    statements = [one.problem.statement for one in TUTORING + SEEDS if one.problem]
    assert len(set(statements)) == len(statements)
    attempts = [one.problem.attempt for one in TUTORING + SEEDS if one.problem]
    assert len(set(attempts)) == len(attempts)


@ids(TUTORING + SEEDS)
def test_problems_are_fully_known(one: Conversation) -> None:
    assert one.problem is not None
    assert all(one.problem.model_dump(exclude={"tests"}).values())
    assert one.problem.solution and states(one.problem.solution, answer_of(one))
    assert not states(one.messages[0].content, answer_of(one))


@ids(TUTORING)
def test_the_student_says_it_first(one: Conversation) -> None:
    told = [turn.role for turn in one.messages if states(turn.content, answer_of(one))]
    if one.ended:
        assert told, "an ended tutoring dialogue is a solved one"
        assert told[0] == Role.USER
    else:
        assert not told


def test_the_tutor_asks() -> None:
    turns = [one.turns(Role.ASSISTANT) for one in TUTORING]
    assert all("?" in first for first, *_ in turns)
    every = [text for texts in turns for text in texts]
    assert sum("?" in text for text in every) > 0.9 * len(every)


@pytest.mark.parametrize("name", ROWS)
def test_no_address_and_no_telephone_number(name: str) -> None:
    for row in ROWS[name]:
        text = re.sub(r"\b\d{4}-\d\d-\d\d\b", "", "\n".join(turn["content"] for turn in row["messages"]))
        assert not re.search(r"[\w.+-]+@[\w-]+\.\w+", text)
        assert not [
            run for run in re.findall(r"\+?\d[\d ()/-]{5,}\d", text) if sum(map(str.isdigit, run)) > 7
        ]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("so it is 6.", "6", True),
        ("six of them", "6", True),
        ("3/6 or 1.6 or -6 or 16", "6", False),
        ("x = −4!", "-4", True),
        ("x = 4", "-4", False),
        ("try range(1,  n + 1)", "range(1, n + 1)", True),
        ("1 3/4 of it", "1 3/4", True),
        ("21 3/4", "1 3/4", False),
    ],
)
def test_the_check_itself(text: str, answer: str, expected: bool) -> None:
    assert states(text, answer) is expected
