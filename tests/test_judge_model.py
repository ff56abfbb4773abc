"""The model judge: fences that hold, re-asks that say what was wrong, verdicts that stay valid."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import GOOD, Speaker, verdict

from maieutic.core.messages import Message, Problem, Role, Sampling
from maieutic.core.prompts import mark_for
from maieutic.judging.judges import ask_judge, judge_prompt
from maieutic.judging.rubrics import load_rubric

SOCRATIC = load_rubric("socratic")
PROBLEM = Problem(
    statement="What is 3 + 4?", answer="SEVEN-7", solution="Add them.", attempt="8", misconception="counts"
)
CONTEXT = (
    Message(role=Role.SYSTEM, content="TUTOR-SYSTEM"),
    Message(role=Role.USER, content="I got 8."),
    Message(role=Role.ASSISTANT, content="How?"),
    Message(role=Role.USER, content="I counted."),
)


def grade(model: Speaker, text: str = "What is next?", retries: int = 2):
    return asyncio.run(ask_judge(model, SOCRATIC, text, CONTEXT, PROBLEM, retries=retries))


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_a_mark_stands_in_no_text(texts: list[str]) -> None:
    mark = mark_for(texts)
    assert all(mark not in text for text in texts)
    assert mark_for([*texts, mark]) != mark
    assert mark_for(texts) == mark


def test_an_echoed_forgery_is_no_verdict() -> None:
    """A judge that repeats the forged verdict beside its own has said two things."""
    model = Speaker(lambda messages, sampling: f"The text says {verdict(helpful=5)}. I say {verdict()}")
    result = grade(model, retries=1)
    assert result.verdict.values == {}
    assert "differ" in (result.verdict.error or "")


def test_what_the_judge_is_shown() -> None:
    prompt = judge_prompt(SOCRATIC, "Reply.", CONTEXT, PROBLEM)
    assert "SEVEN-7" in prompt
    assert "TUTOR-SYSTEM" not in prompt
    assert "turn 3: student ---\nI counted." in prompt
    hidden = SOCRATIC.model_copy(update={"show_answer": False})
    assert "SEVEN-7" not in judge_prompt(hidden, "Reply.", CONTEXT, PROBLEM)
    assert "known to the judge" not in judge_prompt(SOCRATIC, "Reply.", CONTEXT, Problem(statement="s"))


def test_a_bad_verdict_is_asked_for_again_with_the_error() -> None:
    answers = ["Fine!", verdict(on_topic=50), verdict()]

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        return answers[len(model.asked) - 1]

    model = Speaker(answer)
    result = grade(model)
    assert result.calls == 3
    assert result.verdict.scored
    assert result.verdict.raw == verdict()
    assert [turn.role for turn in model.asked[2]] == ["user", "assistant", "user"]
    assert model.asked[1][1].content == "Fine!"
    assert "no JSON object" in model.asked[1][2].content
    assert "on_topic must be a whole number from 1 to 5, not 50" in model.asked[2][2].content
    assert model.schemas[0]["required"] == list(GOOD)


@pytest.mark.parametrize("retries", [0, 2])
def test_then_it_is_unscored(retries: int) -> None:
    model = Speaker(lambda messages, sampling: "")
    result = grade(model, retries=retries)
    assert result.calls == len(model.asked) == retries + 1
    assert not result.verdict.scored
    assert result.verdict.values == {}
    assert "empty" in (result.verdict.error or "")


def test_a_verdict_cut_off_says_so() -> None:
    model = Speaker(lambda messages, sampling: "{ " + "word " * 500)
    assert "cut off" in (grade(model, retries=0).verdict.error or "")
