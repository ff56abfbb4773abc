"""Metrics of many dialogues with one tutor, with intervals by start; and two tutors over the same starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maieutic.checks.outcomes import DialogueOutcome, States
from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.core.messages import Estimate, Fault
from maieutic.evals.dialogue.load_outcomes import Outcomes, outcomes
from maieutic.rollouts.pre_post_rows import Tries, read_tries

METRICS = ("solved", "told", "turns")
"""What a tutor is chosen by, adjusted together where two are compared."""
OTHERS = ("stated", "leak_turns", "student_first", "guessed", "pressed", "collapse", "over_refusal")
TRIES = ("solve_before", "solve_after", "delta_solve")
_RATIOS = ("leak_turns", "over_refusal")
_MEANS = ("turns", *TRIES)
_UNTRIED = "no attempts before and after were made"


def score(
    source: Path | str,
    *,
    before: Path | str | None = None,
    after: Path | str | None = None,
    rounds: int | None = None,
    states: States | None = None,
) -> dict[str, Any]:
    """The metrics of a stage's dialogues, each `{"value", "ci", "n"}`; those of one start are a unit.

    Args:
        source: a simulate stage, or its rows.
        before: the student's attempts before the dialogues, a stage of `attempts`.
        after: those after them.
        rounds: the last k of Success@k and Telling@k; null: the longest dialogue's.
        states: whether a student's turn solves the problem; null: by the known answer.

    Returns:
        By name the metrics of docs/metrics.md; beside them `at` (by k), `by_kind`, `dialogues`, `lost` (left out, by
        fault), `failed_by_tutor` (counted against it) and `who` (the models of both sides).

    Raises:
        InputError: no dialogue has a known answer.
    """
    found = outcomes(source, states)
    return score_outcomes(found, read_tries(before, after), rounds)


def score_outcomes(found: Outcomes, tries: Tries | None = None, rounds: int | None = None) -> dict[str, Any]:
    """`score` of outcomes that were read."""
    gains = tries.of(found.conversations) if tries else None
    rows = [one.values() | (gains[place] if gains else {}) for place, one in enumerate(found.found)]
    kinds = sorted({one.kind for one in found.found if one.kind})
    return {
        **_metrics(found.found, rows),
        "at": _at(found.found, rounds),
        "by_kind": {
            kind: _metrics(*_only(found.found, rows, kind)) for kind in kinds
        },
        "dialogues": len(found.found),
        "lost": found.lost,
        "failed_by_tutor": sum(one.fault == Fault.ASSISTANT_MODEL for one in found.found),
        "who": found.who,
    }  # fmt: skip


Row = Mapping[str, tuple[float, float]]


def _only(
    found: Sequence[DialogueOutcome], rows: Sequence[Row], kind: str
) -> tuple[list[DialogueOutcome], list[Row]]:
    places = [place for place, one in enumerate(found) if one.kind == kind]
    return [found[place] for place in places], [rows[place] for place in places]


def _metrics(found: Sequence[DialogueOutcome], rows: Sequence[Row]) -> dict[str, Any]:
    groups = [one.unit for one in found]
    shapes = {name: _estimate(name, rows, groups).json() for name in (*METRICS, *OTHERS)}
    if any(name in row for row in rows for name in TRIES):
        shapes |= {name: _estimate(name, rows, groups).json() for name in TRIES}
    else:
        shapes |= {"delta_solve": stats.undefined(_UNTRIED).json()}
    fallen = [(one.collapse_round, one.unit) for one in found if one.collapse_round is not None]
    shapes["collapse_round"] = stats.mean([at for at, _ in fallen], [unit for _, unit in fallen]).json()
    return shapes


def _estimate(name: str, rows: Sequence[Row], groups: Sequence[str]) -> Estimate:
    """A share, a mean or a ratio over the dialogues that have it."""
    known = [(*row[name], group) for row, group in zip(rows, groups, strict=True) if name in row]
    known = [one for one in known if one[1]]
    values, units = [top / bottom for top, bottom, _ in known], [unit for *_, unit in known]
    if name in _RATIOS:
        return stats.ratio([top for top, *_ in known], [bottom for _, bottom, _ in known], units)
    return stats.mean(values, units) if name in _MEANS else stats.proportion(values, units)


def _at(found: Sequence[DialogueOutcome], rounds: int | None) -> list[dict[str, Any]]:
    """For each k the shares of dialogues in which it has happened by round k; published names, see docs/metrics.md."""
    groups = [one.unit for one in found]
    last = max(
        (at for one in found for at in (one.stated_round, one.told_round, (one.turns + 1) // 2) if at),
        default=1,
    )
    table = []
    for k in range(1, (rounds or last) + 1):
        by = {
            "success": [_by(one.stated_round, k) for one in found],
            "solved": [_by(one.stated_round, k) and not one.told for one in found],
            "telling": [_by(one.told_round, k) for one in found],
        }
        shares = {
            name: stats.proportion([float(v) for v in values], groups).json() for name, values in by.items()
        }
        table.append({"k": k, **shares})
    return table


def _by(at: int | None, k: int) -> bool:
    return at is not None and at <= k


def compare(
    first: Path | str,
    second: Path | str,
    *,
    before: Path | str | None = None,
    after: Sequence[Path | str | None] = (None, None),
    states: States | None = None,
) -> dict[str, Any]:
    """The paired differences (first - second) of two tutors over the same starts.

    Args:
        first: one tutor's dialogues.
        second: the other's.
        before: the student's attempts before them, one stage for both.
        after: the attempts after the first's and after the second's.
        states: as for `score`.

    Returns:
        By metric `difference`, `ci`, `n` starts in both, the means `a` and `b`, `p` by sign flips and `p_holm`: of the
        three of `METRICS` together, and of all others together. A metric that no start has in both is left out.

    Raises:
        InputError: no start is in both.
    """
    ours, theirs = (
        by_seed(outcomes(source, states), read_tries(before, stage))
        for source, stage in zip((first, second), after, strict=True)
    )
    return compare_sides(ours, theirs, f"{first} and {second}")


Side = Mapping[tuple[str, str | None], "tuple[str, Row]"]


def compare_sides(a: Side, b: Side, names: str) -> dict[str, Any]:
    """`compare` of two tutors' means by start."""
    shared = [seed for seed in a if seed in b]
    if not shared:
        raise InputError(f"{names} share no start", "Simulate both from the same seeds.")
    metrics: dict[str, Any] = {}
    for family in (METRICS, (*OTHERS, *TRIES)):
        made = {name: made for name in family if (made := _metric(name, a, b, shared))}
        adjusted = stats.holm([metric["p"] for metric in made.values()])
        for metric, p in zip(made.values(), adjusted, strict=True):
            metric["p_holm"] = p
        metrics |= made
    return metrics


def by_seed(found: Outcomes, tries: Tries | None) -> Side:
    """By start and kind of student the sums of each metric over its dialogues, and the unit it belongs to."""
    gains = tries.of(found.conversations) if tries else None
    sums: dict[tuple[str, str | None], tuple[str, Counter[tuple[str, int]]]] = {}
    for place, one in enumerate(found.found):
        _, total = sums.setdefault((one.seed, one.kind), (one.unit, Counter()))
        for name, pair in (one.values() | (gains[place] if gains else {})).items():
            for part, value in enumerate(pair):
                total[name, part] += value  # type: ignore[assignment]
    return {
        seed: (unit, {name: (total[name, 0], total[name, 1]) for name, part in list(total) if not part})
        for seed, (unit, total) in sums.items()
    }


def _metric(name: str, a: Side, b: Side, shared: Sequence[tuple[str, str | None]]) -> dict[str, Any] | None:
    rows = [
        (one[0] / one[1], other[0] / other[1], a[seed][0])
        for seed in shared
        for one, other in [(a[seed][1].get(name, (0, 0)), b[seed][1].get(name, (0, 0)))]
        if one[1] and other[1]
    ]
    if not rows:
        return None
    ours, theirs, units = [x for x, *_ in rows], [y for _, y, _ in rows], [unit for *_, unit in rows]
    estimate = stats.paired(ours, theirs, units)
    return {
        "difference": estimate.value,
        "ci": estimate.ci,
        "n": estimate.n,
        "a": sum(ours) / len(ours),
        "b": sum(theirs) / len(theirs),
        "p": stats.sign_flip([x - y for x, y in zip(ours, theirs, strict=True)], units),
        **({"reason": estimate.reason} if estimate.reason else {}),
    }
