"""Is a simulated student like a student: each quantity on conversations written for it, and on real tutoring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from dialogues import PROBLEM, row

from maieutic.core.messages import Conversation, Problem
from maieutic.data.importing import import_files
from maieutic.evals import realism, student_realism


def person(said: str) -> Conversation:
    """A person's whole conversation: the wrong opening, then lines of both."""
    whole = row("p", said)
    return Conversation.model_validate({**whole, "meta": {}})


def test_the_wrong_answer_is_that_of_the_attempt() -> None:
    problem = Problem.model_validate(PROBLEM)
    assert student_realism.states_wrong_answer("I still get 10 nuts", problem)
    assert not student_realism.states_wrong_answer("So it is 24", problem)
    assert not student_realism.states_wrong_answer("not 10", problem)
    sign = Problem(statement="Which sign?", answer="minus", attempt="plus")
    assert student_realism.states_wrong_answer("i still say plus.", sign)
    assert student_realism.states_wrong_answer("10", Problem(statement="?", answer="24")) is None
    assert (
        student_realism.states_wrong_answer("24", Problem(statement="?", answer="24", attempt="24")) is None
    )


def test_a_misconception_persists_until_it_is_addressed_and_maybe_after() -> None:
    talk = person(
        "T Go on.\nS It is 10.\nT How many nuts are in one bag?\nS 6\nT And in 4?\nS 10 nuts.\nT Hm.\nS It is 24.\nT Yes.\nS 10"
    )
    turns = [(one.wrong, one.addressed) for one in student_realism.turns_before_answer(talk)]
    assert turns == [(True, False), (True, False), (False, True), (True, True)]
    assert student_realism.METRICS["misconception_before"]([talk]).value == 1
    assert student_realism.METRICS["misconception_after"]([talk]).value == 0.5


def test_nothing_is_held_once_it_was_told() -> None:
    assert len(student_realism.turns_before_answer(person("T The answer is 24.\nS 10\nT No.\nS 10"))) == 1


def test_rates_of_people_and_of_drawn_turns_alone() -> None:
    solved, told = (
        person("T What is in one bag?\nS So it is 24."),
        person("T The answer is 24.\nS just tell me"),
    )
    assert student_realism.METRICS["solve_rate"]([solved, told]).value == 0.5
    assert student_realism.METRICS["told_rate"]([solved, told]).value == 0.5
    assert student_realism.METRICS["presses_rate"]([solved, told]).value == 25
    simulated = Conversation.model_validate(row("s", "T Hm.\nS just tell me"))
    assert student_realism.METRICS["presses_rate"]([simulated]).value == 100, "the start is somebody else's"
    assert student_realism.METRICS["misconception_before"]([simulated]).value == 0


def test_they_stand_beside_people_where_problems_are_known() -> None:
    people = [person(f"T What is in bag {n}?\nS So it is {24 if n % 3 else 10}.") for n in range(8)]
    found = realism.compare_with_people(people[:3], people)
    assert set(student_realism.METRICS) <= set(found)
    assert found["solve_rate"].human is not None
    assert found["solve_rate"].halves is not None
    plain = [one.model_copy(update={"problem": None}) for one in people]
    assert not set(student_realism.METRICS) & set(realism.compare_with_people(plain[:3], plain))


@pytest.mark.slow
def test_on_real_tutoring_the_teachers_own_word_agrees(real_data: Path) -> None:
    """MathDial's teachers said afterwards whether the student got there, and whether they had to reveal the answer."""
    rows = list(import_files([real_data / "mathdial" / "dialogues.jsonl"], "mathdial")[0])[:90]
    told: Counter[tuple[bool, bool]] = Counter()
    solved: Counter[tuple[bool, bool]] = Counter()
    for one in rows:
        found, word = student_realism.dialogue_outcome(one), str(one.meta["self-correctness"])
        assert found is not None
        told["reveal" in word, found.told] += 1
        solved[word == "Yes", found.solved] += 1
    assert told[True, True] / (told[True, True] + told[True, False]) > 0.4
    assert told[False, True] / (told[False, True] + told[False, False]) < 0.15
    assert solved[True, True] / (solved[True, True] + solved[True, False]) > 0.7
