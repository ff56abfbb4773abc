"""What people and simulators talk about, by the cosine of embedded turns: how varied, and how a topic goes on.

The cosine of texts comes from `embed`: a sentence-transformers model, or the stated offline default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.core import statistics as stats
from maieutic.core.messages import Estimate
from maieutic.evals.embed import Embed

Array = NDArray[np.float64]
MOVES = ("topic_maintenance", "topic_drift", "topic_shift")
CHANCE = 0.95
UNRELATED = 10_000
"""Pairs of unrelated turns looked at."""


class Embedded(NamedTuple):
    """The turns of a corpus that have a vector."""

    vectors: Any
    """Turns by dimensions, rows of unit length."""
    homes: list[int]
    """The conversation of each."""
    follows: list[bool]
    """Whether the turn before it in the list is the same person's turn before."""


def embedded(conversations: Sequence[Sequence[str]], embed: Embed) -> Embedded:
    """The vectors of all turns of these conversations; those with nothing to embed are left out.

    A turn after one that was left out follows nothing.
    """
    vectors = embed([turn for turns in conversations for turn in turns])
    places = [(home, place) for home, turns in enumerate(conversations) for place in range(len(turns))]
    lengths = np.asarray(
        (vectors.multiply(vectors) if hasattr(vectors, "multiply") else vectors**2).sum(axis=1)
    )
    kept = np.flatnonzero(lengths.ravel() > 0)
    follows = [
        bool(number) and kept[number - 1] == index - 1 and places[index][1] > 0
        for number, index in enumerate(kept)
    ]
    return Embedded(vectors[kept], [places[index][0] for index in kept], follows)


def diversity(made: Embedded) -> Estimate:
    """1 - mean cosine over all pairs of different turns: the diagonal is left out.

    0 where all turns are the same, 1 where none has anything to do with another. The interval resamples the
    U-statistic's first-order terms by conversation, since resampling turns would pair a turn with its own copy. The
    sum of all pairs is the squared length of the sum of the vectors, so nothing grows with the square of the turns.
    """
    turns = len(made.homes)
    if turns < 2:
        return stats.undefined("fewer than two turns with content", turns)
    total = np.asarray(made.vectors.sum(axis=0)).ravel()
    overlaps = (np.asarray(made.vectors @ total).ravel() - 1) / (turns - 1)
    centre = float(overlaps.mean())
    estimate = stats.mean(1 - (2 * overlaps - centre), made.homes)
    return estimate._replace(value=1 - centre)


def question_cosine(made: Embedded) -> Estimate:
    """Mean cosine over all pairs of turns, the diagonal included, as PlatoLM counts it (arXiv 2308.11534).

    Lower is more diverse. The diagonal adds 1/turns, so it can be compared only between corpora of one size.
    """
    own, turns = diversity(made), len(made.homes)
    if own.value is None:
        return own

    def whole(value: float) -> float:
        return ((1 - value) * (turns - 1) + 1) / turns

    return own._replace(value=whole(own.value), ci=(whole(own.ci[1]), whole(own.ci[0])) if own.ci else None)


class Cuts(NamedTuple):
    """Where a move from one turn to the next is called what: by the cosine of the two."""

    shift: float
    """No closer than this: a shift."""
    maintenance: float
    """At least as close as this: maintenance. Between the two lies drift."""


def cosines(made: Embedded) -> tuple[Array, list[int]]:
    """The cosine of each turn with the same person's turn before, and the conversation it stands in."""
    second = np.flatnonzero(made.follows)
    return _products(made.vectors, second - 1, second), [made.homes[index] for index in second]


def _products(vectors: Any, first: NDArray[Any], second: NDArray[Any]) -> Array:
    a, b = vectors[first], vectors[second]
    return np.asarray((a.multiply(b) if hasattr(a, "multiply") else a * b).sum(axis=1), dtype=float).ravel()


def cuts(people: Embedded, seed: int = 0) -> Cuts | None:
    """Thresholds learned from people; null where there are too few turns.

    A *shift* is no closer to the turn before than the closest twentieth of unrelated pairs is (turns of different
    conversations, 10,000 drawn by `seed`); *maintenance* is at least as close as the middle one of people's own
    consecutive turns above that; *drift* lies between. PlatoLM (arXiv 2308.11534) names the three moves and has a
    judge find them, without thresholds; learning a cut from the corpus's own similarities is TextTiling's way
    (Hearst 1997). So people's drift and maintenance are about equal by construction: read the others beside theirs.
    """
    near, _ = cosines(people)
    homes = np.array(people.homes)
    if not len(near) or len(set(people.homes)) < 2:
        return None
    draw = np.random.default_rng(seed).integers(0, len(homes), size=(2, UNRELATED))
    apart = draw[:, homes[draw[0]] != homes[draw[1]]]
    if not apart.shape[1]:
        return None
    shift = float(np.quantile(_products(people.vectors, apart[0], apart[1]), CHANCE))
    related = near[near > shift]
    return Cuts(shift, float(np.median(related))) if len(related) else None


def moves(made: Embedded, at: Cuts | None) -> dict[str, Estimate]:
    """The shares of topic maintenance, drift and shift among the moves from one human turn to the next."""
    if at is None:
        return dict.fromkeys(
            MOVES, stats.undefined("people's turns are too few to tell a shift from a drift")
        )
    near, homes = cosines(made)
    if not len(near):
        return dict.fromkeys(MOVES, stats.undefined("no human turn with content follows another"))
    shift, kept = near <= at.shift, (near >= at.maintenance) & (near > at.shift)
    hits = dict(zip(MOVES, (kept, ~(kept | shift), shift), strict=True))
    return {name: stats.proportion(hit.astype(float).tolist(), homes) for name, hit in hits.items()}
