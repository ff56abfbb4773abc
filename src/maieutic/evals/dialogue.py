"""Whole dialogues with a tutor, on problems with known answers: did the student get there alone, or was it told?

Read are the rows of a simulate stage whose starts carry a `problem`. A dialogue counts as *solved* where the student
states the answer before the tutor has, as *told* where the tutor states it first; where neither says it, it is none
of both. What a student says in the start counts as said, and so do the tutor's words there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.checks import reveals_answer
from maieutic.checks.answers import answer_values, concludes, states_phrase
from maieutic.data.corpus import read_corpus
from maieutic.errors import InputError
from maieutic.evals import stats
from maieutic.types import Conversation, Problem, Role

METRICS = ("solved", "told", "turns")


class Outcome(NamedTuple):
    """What came of one dialogue."""

    seed: str
    """The start it went on from."""
    solved: bool
    """The student stated the answer, and the tutor had not."""
    told: bool
    """The tutor stated the answer before the student."""
    turns: int
    """Turns that both said after the start."""
    ended: bool
    """The student ended it."""

    def values(self) -> dict[str, float]:
        """By metric."""
        return {"solved": float(self.solved), "told": float(self.told), "turns": float(self.turns)}


def states_answer(text: str, problem: Problem) -> bool:
    """Whether a student's turn states the problem's known answer: ends on it, or calls it the answer."""
    answer = (problem.answer or "").strip()
    if values := answer_values(answer):
        return all(concludes(text, one) for one in values)
    return bool(answer) and states_phrase(text, answer, problem.statement, "")


def outcome(conversation: Conversation) -> Outcome | None:
    """What came of a simulated dialogue; null without a known answer."""
    problem = conversation.problem
    if problem is None or not problem.answer:
        return None
    turns = conversation.messages
    spoken = [int(place) for place in conversation.meta.get("turns", {}) if place.isdigit()]
    first = min(spoken, default=len(turns))
    said: list[str] = []
    solved = told = False
    for place, turn in enumerate(turns):
        if solved or told:
            break
        if turn.role == Role.USER:
            said.append(turn.content)
            solved = place >= first and states_answer(turn.content, problem)
        elif turn.role == Role.ASSISTANT:
            told = bool(reveals_answer(turn.content, problem, said))
    seed = str(conversation.meta.get("seed", conversation.id))
    return Outcome(seed, solved, told, len(turns) - first, conversation.ended)


def outcomes(source: Path | str) -> list[Outcome]:
    """The outcomes of a stage's dialogues, in its order.

    Raises:
        InputError: not one has a problem with a known answer.
    """
    found = [result for row in read_corpus(source) if (result := outcome(row)) is not None]
    if not found:
        raise InputError(f"{source}: no dialogue has a known answer", "Seed the dialogues with problems.")
    return found


def score(source: Path | str) -> dict[str, Any]:
    """`solved`, `told` (shares) and `turns` (a mean), each `{"value", "ci", "n"}`; those of one start are a unit."""
    return _score(outcomes(source))


def _score(found: Iterable[Outcome]) -> dict[str, Any]:
    found = list(found)
    groups = [one.seed for one in found]
    rows = [one.values() for one in found]
    scores = {name: stats.proportion([row[name] for row in rows], groups).json() for name in METRICS[:2]}
    return {**scores, "turns": stats.mean([row["turns"] for row in rows], groups).json()}


def compare(first: Path | str, second: Path | str) -> dict[str, Any]:
    """The paired differences (first - second) of two tutors over the same starts.

    Returns:
        By metric `difference`, `ci`, `n` starts in both, the means `a` and `b`, `p` by sign flips and `p_holm`.

    Raises:
        InputError: no start is in both.
    """
    a, b = _by_seed(outcomes(first)), _by_seed(outcomes(second))
    shared = [seed for seed in a if seed in b]
    if not shared:
        raise InputError(f"{first} and {second} share no start", "Simulate both from the same seeds.")
    metrics = {name: _metric([a[s][name] for s in shared], [b[s][name] for s in shared]) for name in METRICS}
    adjusted = stats.holm([metric["p"] for metric in metrics.values()])
    for metric, p in zip(metrics.values(), adjusted, strict=True):
        metric["p_holm"] = p
    return metrics


def _by_seed(found: Iterable[Outcome]) -> Mapping[str, dict[str, float]]:
    """By start the mean of each metric over its dialogues."""
    several: dict[str, list[dict[str, float]]] = {}
    for one in found:
        several.setdefault(one.seed, []).append(one.values())
    return {
        seed: {name: sum(row[name] for row in rows) / len(rows) for name in METRICS}
        for seed, rows in several.items()
    }


def _metric(a: list[float], b: list[float]) -> dict[str, Any]:
    estimate = stats.paired(a, b)
    return {
        "difference": estimate.value,
        "ci": estimate.ci,
        "n": len(a),
        "a": sum(a) / len(a),
        "b": sum(b) / len(b),
        "p": stats.sign_flip([x - y for x, y in zip(a, b, strict=True)]),
        **({"reason": estimate.reason} if estimate.reason else {}),
    }
