"""The classifier of simulated turns: its AUC by hand, and .5 where nothing can be told apart."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from maieutic.core.messages import Conversation
from maieutic.evals import realism


def test_wins_by_hand() -> None:
    # 3 > 1, 3 > 2, 2 > 1, 2 = 2: three and a half of four
    assert realism.pairwise_wins(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == (3.5, 4)


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_wins_are_mann_whitneys(first: list[int], second: list[int]) -> None:
    won, pairs = realism.pairwise_wins(np.array(first, dtype=float), np.array(second, dtype=float))
    assert won == mannwhitneyu(first, second).statistic
    assert pairs == len(first) * len(second)


def test_logistic_regression_by_hand() -> None:
    # one feature, ±1: the slope solves 2 / (1 + e^w) = .1 w, and the bias is 0 by symmetry
    weights, bias = realism.fit_logistic(np.array([[1.0], [-1.0]]), np.array([1.0, -1.0]))
    assert 2 / (1 + np.exp(weights[0])) == pytest.approx(realism.CLASSIFIER_L2 * weights[0], abs=1e-4)
    assert bias == pytest.approx(0, abs=1e-6)


def test_both_sides_weigh_the_same() -> None:
    many = np.array([[1.0]] * 9 + [[-1.0]])
    label = np.array([1.0] * 9 + [-1.0])
    _, bias = realism.fit_logistic(many, label)
    assert bias == pytest.approx(0, abs=1e-5)


def test_folds_part_conversations_and_not_turns() -> None:
    """Turns that only repeat their own conversation's odd word: a fold by turns would tell them apart."""
    words = ["".join(letters) for letters in itertools.permutations("abcdefg", 5)]
    drawn = np.random.default_rng(0).choice(words, size=(2, 20), replace=False).tolist()
    sides = [[[f"{word} {word}"] * 6 for word in side] for side in drawn]
    found = realism.human_likeness_auc(*sides)
    assert found.value is not None
    assert 0.2 < found.value < 0.8


def test_what_is_different_is_told_apart_and_what_is_equal_is_not() -> None:
    people = [[f"fix line {i}", f"why line {i}?"] for i in range(20)]
    polite = [[f"Could you kindly explain item {i}?"] for i in range(20)]
    assert realism.human_likeness_auc(polite, people).value == 1
    same = realism.human_likeness_auc(people, people)
    assert same.value == 0.5
    assert realism.human_likeness_auc(people, polite).value == 1, (
        "no direction is given: each side's own turns look like it"
    )


@pytest.mark.parametrize("simulated", [[], [["a"]], [[], ["a"]], [["", ""], [""]], [["a"]] * 3])
def test_degenerate_sides(simulated: list[list[str]]) -> None:
    for found in (
        realism.human_likeness_auc(simulated, [["b"], ["c", "d"]]),
        realism.human_likeness_auc([["b"], ["c"]], simulated),
    ):
        assert found.value is not None or found.reason
        assert found.ci is not None or found.reason


def test_one_endless_conversation_takes_no_more_than_its_share() -> None:
    endless = [[f"word {i}" for i in range(5000)], *[["word"]] * 5]
    assert sum(map(len, realism._limit_turns(endless, 5))) <= realism.CLASSIFIER_MAX_TURNS


def real(path: Path) -> list[Conversation]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    turns = [[{"role": t["role"], "content": t["content"]} for t in row["turns"]] for row in rows]
    return [Conversation.model_validate({"messages": messages}) for messages in turns]


def test_people_against_people_and_against_models(real_data: Path) -> None:
    people = real(real_data / "real-chats" / "oasst1.jsonl")
    one, other = ([c.turns("user") for c in half] for half in realism.split_in_halves(people))
    apart = realism.human_likeness_auc(one, other)
    assert apart.value == pytest.approx(0.5, abs=0.1)
    assert apart.ci[0] < 0.5 < apart.ci[1]
    some, models = ([c.turns(side) for c in people[:40]] for side in ("user", "assistant"))
    replies = realism.human_likeness_auc(models, some)
    assert replies.ci[0] > 0.8
    assert replies == realism.human_likeness_auc(models[::-1], some)
