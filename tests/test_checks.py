"""The deterministic checks: against our own labelled cases, against people, and against any text at all."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.checks.fixes import reference_fixes
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.turns import (
    CHECKS,
    asks_question,
    reveals_answer,
    states_answer,
    takes_up,
    wrong_feedback,
)
from maieutic.core.messages import Message, Problem, Role, Sampling
from maieutic.models.scripted import MUST_NOT_WIN, Baseline

DATA = Path(__file__).parent / "data"


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def quality(said: list[bool], wanted: list[bool]) -> tuple[float, float]:
    """Precision and recall."""
    hits = sum(a and b for a, b in zip(said, wanted, strict=True))
    return hits / sum(said), hits / sum(wanted)


@pytest.mark.parametrize(
    ("name", "check", "label"),
    [
        ("questions", "asks_question", "asks"),
        ("questions_heldout", "asks_question", "asks"),
        ("reveals", "reveals_answer", "reveals"),
        ("reveals_heldout", "reveals_answer", "reveals"),
        ("takes_up", "takes_up", "takes_up"),
        ("misjudges", "misjudges", "misjudges"),
    ],
)
def test_labelled(name: str, check: str, label: str) -> None:
    rows = cases(f"checks_{name}.jsonl")
    assert len(rows) >= 60
    said = []
    for row in rows:
        problem = Problem(**row["problem"]) if "problem" in row else None
        said.append(CHECKS[check](row["text"], problem, row.get("student", "")))
    assert all((value is None) == (row[label] is None) for value, row in zip(said, rows, strict=True))
    precision, recall = quality([bool(value) for value in said], [bool(row[label]) for row in rows])
    assert precision >= 0.95, precision
    assert recall >= 0.95, recall


def test_the_docs_hold_the_figures_that_are_measured() -> None:
    path = DATA.parent.parent / "benchmarks" / "checks.py"
    spec = importlib.util.spec_from_file_location("bench_checks", path)
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = bench
    spec.loader.exec_module(bench)
    docs = (path.parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert not [line for line in bench.labelled() if line not in docs.splitlines()]


@pytest.mark.parametrize(
    "text",
    ["1/2", "0.5", ".5", "½", "one half", "a half", "half", "50%", "50 percent", r"\frac{1}{2}", r"\dfrac12", "$0.50",
     r"\boxed{\frac{1}{2}}", r"\(0.5\)", "50 cents"],
)  # fmt: skip
def test_writings_of_one_half(text: str) -> None:
    assert any(Fraction(1, 2) in number.values for number in numbers(plain(text))), plain(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,000", 1000), ("one thousand", 1000), ("1.5 million", 1_500_000), ("two thousand and five", 2005),
     ("one hundred twenty-three", 123), ("25{,}000", 25000), ("3x9=<<3*9=27>>27burgers", 27), ("2 1/2", Fraction(5, 2)),
     ("two and a half", Fraction(5, 2)), ("three-quarters", Fraction(3, 4)), ("x = -5", -5), ("a dozen", 12),
     ("25k", 25000)],
)  # fmt: skip
def test_writings(text: str, value: Fraction) -> None:
    assert any(value in number.values for number in numbers(plain(text))), numbers(plain(text))


@pytest.mark.parametrize("text", ["5th", "3:30", "5x + 1", "v2.0", "x2", "one two three"])
def test_no_quantity(text: str) -> None:
    assert not any(number.values & {5, 3, 2, 6} for number in numbers(plain(text)))


@given(st.integers(0, 999_999))
def test_digits_round_trip(value: int) -> None:
    for written in (str(value), f"{value:,}", f"${value:,}.00", f"**{value}**", rf"\boxed{{{value}}}"):
        assert any(value in number.values for number in numbers(plain(written))), written


@given(st.text(max_size=300), st.text(max_size=20), st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_is_decided(text: str, answer: str, solution: str) -> None:
    assert asks_question(text) in (True, False)
    for problem in (
        Problem(statement="s", answer=answer),
        Problem(statement="s", solution=f"`{solution}`", attempt=text),
    ):
        assert reveals_answer(text, problem, text) in (True, False, None)
        for said in (text, [answer, text], []):
            assert takes_up(text, problem, said) in (True, False)
            known = reveals_answer(text, problem, said) is not None
            assert (wrong_feedback(text, problem, said) is not None) == known


@given(
    st.text(st.characters(max_codepoint=127), max_size=200),
    st.sampled_from([(), ("I think it is 3.",), ("Why?", "no idea")]),
)
def test_a_copy_of_the_student_takes_nothing_up(text: str, before: tuple[str, ...]) -> None:
    problem = Problem(statement="Ann has 3 bags with 4 nuts each. How many nuts has she?", answer="12")
    assert not takes_up(text, problem, [*before, text])
    assert not takes_up(text.upper(), problem, [text, *before])


@pytest.mark.parametrize("name", MUST_NOT_WIN)
@pytest.mark.parametrize("seed", range(3))
def test_no_probe_takes_anything_up(name: str, seed: int) -> None:
    """Whatever the problem, for what they say fits any lesson."""
    for row in {json.dumps(row["problem"]): row for row in cases("checks_takes_up.jsonl")}.values():
        said = [row["student"]] if isinstance(row["student"], str) else row["student"]
        turns = [Message(role=Role.USER, content=turn) for turn in said]
        text = asyncio.run(Baseline(name).reply(turns, Sampling(seed=seed))).text
        assert not takes_up(text, Problem(**row["problem"]), said), text


@pytest.mark.parametrize(
    "unit",
    [
        "(",
        "a ",
        "1,",
        "1 ",
        "one ",
        "`",
        '"',
        "what ",
        "is it, ",
        "? ",
        "\n",
        "answer is ",
        "= ",
        "*",
        "yes ",
        "no, ",
        "not ",
        "that's ",
        "so i think it is ",
        "line 3 ",
        "very ",
        "10^2 ",
        "1 in 4 ",
        "let's ",
    ],
)
def test_time_grows_with_length_only(unit: str) -> None:
    problem = Problem(statement="s", answer="7")
    started = time.perf_counter()
    text = unit * (12_000 // len(unit))
    asks_question(text)
    reveals_answer(text, problem)
    takes_up(text, problem, [text])
    for said in (text, "it is 7", "it is 8?"):
        wrong_feedback(text, problem, said)
    assert time.perf_counter() - started < 5, unit


def test_no_answer_is_not_known() -> None:
    assert reveals_answer("It is 12.", None) is None
    assert wrong_feedback("It is 12.", None, "It is 3.") is None
    assert takes_up("It is 12.", None) is None
    assert takes_up("It is 12.", None, "Hello") is False
    assert reveals_answer("It is 12.", Problem(statement="s")) is None
    assert reveals_answer("It is 12.", Problem(statement="s", solution="So we think.")) is None


def test_a_fix_is_read() -> None:
    (fix,) = reference_fixes(
        "Replace `>` with `>=` on line 2.", "1. def f(x):\n2.     if x > 3:\n3.         return x"
    )
    assert "ifx>=3" in fix.code
    assert fix.swaps == ((">", ">="),)


def test_people_on_questions(real_data: Path) -> None:
    """No worse than the bare question mark on the published human scores (r = .80 on this half)."""
    rows = json.loads((real_data / "socratic-llm/mathdial_human_eval_dev.json").read_text())
    people = [row["evaluation"]["questions"] == "yes" for row in rows]
    precision, recall = quality([asks_question(row["output"]) for row in rows], people)
    assert precision >= 0.9
    assert recall >= 0.85


def test_people_on_revealing(real_data: Path) -> None:
    """MRBench's MathDial part, where the answer is known: 52 of 681 replies state it, people say."""
    said, people = [], []
    for item in json.loads((real_data / "mrbench/mrbench_v2_dev.json").read_text()):
        if item["Data"] != "MathDial":
            continue
        turns = re.split(r"(?=(?:Tutor|Student):)", item["conversation_history"])
        student = [turn[8:] for turn in turns if turn.startswith("Student:")]
        problem = Problem(
            statement=next(turn for turn in turns if turn.startswith("Tutor:")).split("The question is:")[-1],
            answer=item["Ground_Truth_Solution"].strip().splitlines()[-1].strip(),
        )
        for reply in item["anno_llm_responses"].values():
            said.append(bool(reveals_answer(reply["response"], problem, student)))
            people.append(reply["annotation"]["Revealing_of_the_Answer"] == "Yes (and the answer is correct)")
    precision, recall = quality(said, people)
    assert precision >= 0.85
    assert recall >= 0.7


@pytest.mark.parametrize(
    ("answer", "text", "states"),
    [
        ("4,5", "Es sind 4,5.", True),
        ("4,5", "It is 9/2.", True),
        ("4,5", "It is 4.5", True),
        ("4,5", "It is 5.", False),
        ("4,5", "It is 45.", False),
        ("0,125", "It is 1/8.", True),
        ("1.234,50 €", "It is 1234,5", True),
        ("1,234", "It is 1234.", True),
        ("1,234", "It is 1.234.", False),
    ],
)
def test_an_answer_with_a_decimal_comma(answer: str, text: str, states: bool) -> None:
    """Where the known answer is written with one, all of its dialogue is read so; elsewhere a comma stays what it was."""
    problem = Problem(statement="Wie viel ist das?", answer=answer)
    assert states_answer(text, problem) is states
    assert reveals_answer(text, problem) is states
    assert wrong_feedback("Genau, right!", problem, [text]) is not states


def test_real_guidance_gives_no_fix_away(real_data: Path) -> None:
    """The Debugging prompts hold assistants that guide; hardly one of them gives a fix away."""
    from maieutic.data.formats.tutoring import seed_conversation

    seen, given_away = set(), 0
    for text in json.loads((real_data / "socratic-llm/debugging_train.json").read_text()):
        conversation = seed_conversation(text)
        student: list[str] = []
        for turn in conversation.messages:
            if turn.role == "user":
                student.append(turn.content)
            elif (turn.content, conversation.problem) not in seen:
                seen.add((turn.content, conversation.problem))
                given_away += bool(reveals_answer(turn.content, conversation.problem, student))
    assert len(seen) > 300
    assert given_away / len(seen) < 0.03
