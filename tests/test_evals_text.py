"""Text metrics against hand-computed values, and corpora beside corpora."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from maieutic.core import words as wordsets
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation, Message, Role
from maieutic.evals import realism, text


def chat(*turns: str, ended: bool = False, **more: str) -> Conversation:
    roles = itertools.cycle((Role.USER, Role.ASSISTANT))
    messages = [{"role": role.value, "content": content} for role, content in zip(roles, turns, strict=False)]
    return Conversation.model_validate({"messages": messages, "ended": ended, **more})


def test_words() -> None:
    assert text.words("Don't stop: 2x + π… \\frac{1}{2}!") == ["don't", "stop", "2x", "π", "frac", "1", "2"]


def test_pairwise_diversity_by_hand() -> None:
    # {a b} {b c} {d}: overlaps 1/3, 0, 0; the text without words is left out
    found = wordsets.pairwise_diversity(["a b", "B, c! c", "d", "…"])
    assert found.value == pytest.approx(100 * (1 - (1 / 3) / 3))
    assert found.n == 3
    assert wordsets.pairwise_diversity(["a", ""]).value is None
    assert wordsets.pairwise_diversity(["same words"] * 4).value == pytest.approx(0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abcd ", min_size=1).filter(str.strip), min_size=2, max_size=9), st.integers(1, 30))
def test_blocks_give_what_the_double_loop_gives(texts: list[str], block: int) -> None:
    sets = [set(text.words(one)) for one in texts]
    expected = [
        np.mean([len(own & other) / len(own | other) for j, other in enumerate(sets) if j != i])
        for i, own in enumerate(sets)
    ]
    kept, wordsets._BLOCK = wordsets._BLOCK, block
    try:
        assert wordsets.jaccard_means(texts) == pytest.approx(expected)
    finally:
        wordsets._BLOCK = kept


def test_two_thousand_turns_in_two_seconds() -> None:
    generator = np.random.default_rng(0)
    frequency = 1 / np.arange(1, 5001)
    numbers = generator.choice(5000, size=(2000, 40), p=frequency / frequency.sum())
    turns = [" ".join(map(str, row)) for row in numbers]
    started = time.process_time()
    wordsets.pairwise_diversity(turns)
    assert time.process_time() - started < 2


def test_distinct_by_hand() -> None:
    # bigrams: a b, b a, a b | c d: 3 different of 4
    assert text.distinct([["a b a b"], ["c d"]], 2).value == 0.75
    assert text.distinct([["a b a b"], ["c d"]], 2, limit=3).value == pytest.approx(2 / 3)
    assert text.distinct([["a"], [""]], 2).value is None
    many = text.distinct([[f"w{i} w{i + 1} w{i}"] for i in range(40)], 1)
    assert many.value == pytest.approx(41 / 120)
    assert many.ci is not None
    assert many.ci[0] < 41 / 120 < many.ci[1]


def test_mtld_by_hand() -> None:
    # forward: a 1, b 1, a .67 → one factor; c, d are left with ratio 1 → 5 / 1.  Backward: d c a b a, ratio 4/5 at
    # the end → (1 - .8) / .28 of a factor → 5 / (.2 / .28) = 7.
    assert text.mtld(["a", "b", "a", "c", "d"]) == pytest.approx((5 + 7) / 2)
    assert text.mtld(["a", "b", "c"]) == 3
    assert text.mtld(["a"] * 6) == 2
    assert text.mtld([]) is None


def test_empty_repeated_and_flipped_turns() -> None:
    assert [text.is_blank(turn) for turn in ("", " \n\u200b", "?", "🙂", "a")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert sum(text.repeats_earlier(["Why is that so?", "why is that so", "Because", "", "", "Why?"])) == 1
    long = "please tell me once more why the sum of these is even now"
    assert sum(text.repeats_earlier([long, long.replace("now", "then"), "another thing"])) == 0
    assert sum(text.repeats_earlier([long, long + " please"])) == 1
    for flipped in ("How can I help you today?", "As an AI, I cannot.", "Certainly! Here is the code."):
        assert text.role_flip(flipped), flipped
    for human in ("Can you help me?", "Here is my code", "Sure, that works", "I am sure here it fails"):
        assert not text.role_flip(human), human


def test_intent_overlap_by_hand() -> None:
    # intent {plan trip rome}; turns {plan trip}: 2/3, {rome hotels}: 1/4, stop words only: left out
    found = text.intent_overlap(
        ["plan the trip", "Rome hotels?", "and you?"], "You want to plan a trip to Rome"
    )
    assert found == pytest.approx(100 * (2 / 3 + 1 / 4) / 2)
    assert text.intent_overlap(["and"], "plan") is None


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4), min_size=2, max_size=8),
    st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4), min_size=2, max_size=8),
)
def test_distances_equal_scipys(first: list[list[float]], second: list[list[float]]) -> None:
    a, b = list(itertools.chain(*first)), list(itertools.chain(*second))
    earth, ks = text.distances(first, second, resamples=20)
    assert earth.value == pytest.approx(reference.wasserstein_distance(a, b), abs=1e-9)
    assert ks.value == pytest.approx(reference.ks_2samp(a, b, method="asymp").statistic, abs=1e-9)


def test_distances_of_nothing() -> None:
    assert [found.value for found in text.distances([[]], [[1.0]])] == [None, None]
    assert text.distances([[1.0]], [[3.0], [3.0]])[0].value == 2


PEOPLE = [
    chat("Why is the sky blue?", "Light.", "And at dusk?", "Red.", ended=True, intent="learn about the sky"),
    chat("Fix my loop", "Where?", "Line two {i}", "Done."),
    chat("Translate: hola", "Hello.", "Thanks!", ended=True),
    chat("What is 2 + 2?", "Four.", "Sure?", "Yes.", "And 3?", "Six."),
]


def test_every_metric_stands_beside_people_and_a_baseline() -> None:
    flat = [chat("Hello there", "Hi.", "Hello there", "Hi.", "How can I help you today?", "?", "", "?")] * 3
    result = realism.compare_with_people(flat, PEOPLE, {"some": PEOPLE[:2]})
    shapes = {name: beside.json() for name, beside in result.items()}
    assert all(
        {"value", "ci", "n", "human", "human_ci", "baseline"} <= shape.keys() for shape in shapes.values()
    )
    assert shapes["first_turn_diversity"]["value"] == pytest.approx(0)
    assert shapes["repeats_rate"]["value"] == shapes["empty_turns_rate"]["value"] == pytest.approx(25)
    assert shapes["role_flips_rate"]["value"] == pytest.approx(25)
    assert shapes["repeats_rate"]["human"] == 0
    assert shapes["repeats_rate"]["human_ci"] == pytest.approx([0, 100 * (1 - 0.025 ** (1 / 9))]), (
        "exact: 0 of 9 turns"
    )
    assert shapes["turns_per_conversation"]["human"] == pytest.approx(9 / 4)
    assert shapes["turn_count_wasserstein"]["value"] == pytest.approx(4 - 9 / 4)
    assert shapes["intent_overlap"]["value"] is None
    assert shapes["intent_overlap"]["human"] is not None


def test_only_what_was_drawn_counts_as_the_simulators() -> None:
    seeded = chat("Why is the sky blue?", "Light.", "Why is the sky blue?", "As I said.")
    about = {"dialogue": "d", "turns": {"1": {"model": "m"}, "2": {"model": "m"}, "3": {"model": "m"}}}
    row = seeded.model_copy(update={"meta": about})
    assert realism.human_turns(row) == ("Why is the sky blue?",)
    assert realism.repeats(row) == 1, "what stood in the start was said"
    assert realism.first_turn_diversity([row, row]).value is None
    assert realism.compare_with_people([row], PEOPLE)["turns_per_conversation"].own.value == 2, (
        "of the whole conversation"
    )
    labelled = seeded.model_copy(update={"meta": {"turns": {"1": {"model": "m"}}}})
    assert len(realism.human_turns(labelled)) == 2, "people's rows may say things of their turns too"


def test_people_against_people() -> None:
    shape = realism.compare_with_people(None, PEOPLE * 2)["turns_per_conversation"].json()
    one, other = realism.split_in_halves(PEOPLE * 2)
    expected = [sum(len(c.turns(Role.USER)) for c in half) / len(half) for half in (one, other)]
    assert shape["human_halves"] == expected
    assert shape["value"] is None


def test_each_baseline_has_its_name() -> None:
    based = {"silent": [chat("")], "chatty": [chat("a b c", "d", "e f g")]}
    shape = realism.compare_with_people(PEOPLE, PEOPLE, based)["mtld"].json()
    assert shape["baselines"]["silent"]["value"] is None
    assert shape["baseline"] == shape["baselines"]["chatty"]["value"] == 3, "the first that has a value"


def test_without_simulated_conversations_the_people_still_have_numbers() -> None:
    result = realism.compare_with_people(None, PEOPLE)
    assert all(beside.own.value is None and beside.own.reason for beside in result.values())
    assert result["mtld"].human is not None
    assert result["mtld"].human.value is not None


@pytest.mark.parametrize("simulated", [[chat("one")], [chat("")], [chat("a", "b")] * 2])
def test_degenerate_corpora_do_not_break_it(simulated: list[Conversation]) -> None:
    for beside in realism.compare_with_people(simulated, PEOPLE[:1], {"same": simulated}).values():
        assert beside.own.value is not None or beside.own.reason
        beside.json()


def test_halves_are_a_partition_that_does_not_move() -> None:
    many = [Conversation(id=str(i), messages=(Message(role=Role.USER, content=str(i)),)) for i in range(200)]
    one, other = realism.split_in_halves(many)
    assert len(one) + len(other) == 200
    assert 70 < len(one) < 130
    assert realism.split_in_halves(many[::-1])[0] == one[::-1]


def test_nobody_to_compare_with() -> None:
    from maieutic.evals import simulator

    with pytest.raises(EmptyCorpus):
        simulator.evaluate_simulator([])
