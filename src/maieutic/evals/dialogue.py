"""Outcomes of whole dialogues with a tutor, on problems with known answers, and two tutors on the same starts.

A dialogue that failed because of the tutor counts against the tutor. A dialogue that failed for any other cause is left
out, and the number of these is reported. Intervals resample starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.checks.outcomes import DialogueOutcome, States, models_by_side, outcome
from maieutic.core import statistics as stats
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Conversation, Estimate, Fault
from maieutic.core.rows import Episode, parse, read_placed
from maieutic.data.corpus import read_corpus
from maieutic.evals.paired import PairedDifference, adjust_p_values, paired_difference
from maieutic.rollouts.pre_post_test import SolveRates, load_solve_rates

MAIN_METRICS = ("solved", "told", "turns")
"""The main metrics for choosing a tutor; Holm's correction covers these three."""
OTHER_METRICS = ("stated", "leak_turns", "student_first", "guessed", "pressed", "collapse", "over_refusal")
PRE_POST_METRICS = ("solve_before", "solve_after", "delta_solve")
_RATIOS = ("leak_turns", "over_refusal")
_MEANS = ("turns", *PRE_POST_METRICS)
_NO_TEST = "there was no test before and after"

Values = Mapping[str, tuple[float, float]]
"""By metric a numerator and a denominator."""


class DialogueOutcomes(NamedTuple):
    """The outcomes of a step's dialogues, in its order."""

    outcomes: list[DialogueOutcome]
    """Dialogues broken off by the tutor are included."""
    conversations: list[Conversation]
    """The dialogues of `outcomes`, in the same order."""
    lost: dict[str, int]
    """Dialogues left out, by fault."""
    models: dict[str, list[str]]
    """`student` and `tutor`: the models that wrote the turns, as the rows name them."""

    def values(self, solve_rates: SolveRates | None) -> list[Values]:
        """The metrics of each dialogue, with those of the test before and after it."""
        gains = solve_rates.metrics(self.conversations) if solve_rates else [{} for _ in self.outcomes]
        return [each.values() | gain for each, gain in zip(self.outcomes, gains, strict=True)]


def load_outcomes(source: Path | str, states: States | None = None) -> DialogueOutcomes:
    """The outcomes of a step's dialogues.

    Args:
        source: the folder of a simulate step, its run with that one step, its `rows.jsonl`, or a corpus of such rows.
        states: whether a student's turn solves the problem; null: by the known answer.

    Raises:
        InputError: no dialogue has a problem with a known answer.
    """
    found: list[DialogueOutcome] = []
    conversations: list[Conversation] = []
    lost: Counter[str] = Counter()
    for conversation, fault in _read_dialogues(Path(source)):
        if fault is not None and fault != Fault.ASSISTANT_MODEL:
            lost[fault] += 1
            continue
        result = outcome(conversation, states, fault)
        if result is not None:
            found.append(result)
            conversations.append(conversation)
    if not found and not lost:
        raise InputError(f"{source}: no dialogue has a known answer", "Seed the dialogues with problems.")
    return DialogueOutcomes(found, conversations, dict(lost), models_by_side(conversations))


def _read_dialogues(path: Path) -> Iterator[tuple[Conversation, str | None]]:
    """Each dialogue and its fault, if it failed; failed dialogues without a later success come last."""
    if not (path.is_dir() or path.name == "rows.jsonl"):
        yield from ((each, None) for each in read_corpus(path))
        return
    failed: dict[str, tuple[Conversation, str]] = {}
    done: set[str] = set()
    empty = True
    for row in read_placed(path if path.is_dir() else path.parent, "simulate"):
        empty = False
        episode = parse(Episode, row.value, row.where)
        key = str(episode.meta.get("dialogue", row.value["key"]))
        if episode.failure is not None:
            failed[key] = (episode, episode.failure.fault.value)
        else:
            done.add(key)
            yield episode, None
    if empty:
        raise EmptyCorpus(f"{path}: has no dialogue", "Run `maieutic simulate` first.")
    yield from (each for key, each in failed.items() if key not in done)


def score_dialogues(
    source: Path | str,
    *,
    before: Path | str | None = None,
    after: Path | str | None = None,
    rounds: int | None = None,
    states: States | None = None,
) -> dict[str, Any]:
    """The metrics of a step's dialogues, each `{"value", "ci", "n"}`; the dialogues of one start are one unit.

    Args:
        source: a simulate step, or its rows.
        before: a `pre-post-test` step before the dialogues.
        after: a `pre-post-test` step after the dialogues.
        rounds: the largest k of Success@k and Telling@k; null: the rounds of the longest dialogue.
        states: whether a student's turn solves the problem; null: by the known answer.

    Returns:
        The metrics of docs/metrics.md by name, and `at` (by k), `by_kind`, `dialogues`, `lost` (left out, by fault),
        `failed_by_tutor` (counted against it) and `who` (the models of both sides).

    Raises:
        InputError: no dialogue has a known answer.
    """
    return score_outcomes(load_outcomes(source, states), load_solve_rates(before, after), rounds)


def score_outcomes(
    found: DialogueOutcomes, solve_rates: SolveRates | None = None, rounds: int | None = None
) -> dict[str, Any]:
    """`score_dialogues` of outcomes already loaded."""
    rows = found.values(solve_rates)
    pairs = list(zip(found.outcomes, rows, strict=True))
    kinds = sorted({each.kind for each in found.outcomes if each.kind})
    return {
        **_metrics(pairs),
        "at": _by_round(found.outcomes, rounds),
        "by_kind": {kind: _metrics([pair for pair in pairs if pair[0].kind == kind]) for kind in kinds},
        "dialogues": len(found.outcomes),
        "lost": found.lost,
        "failed_by_tutor": sum(each.fault == Fault.ASSISTANT_MODEL for each in found.outcomes),
        "who": found.models,
    }


def _metrics(pairs: Sequence[tuple[DialogueOutcome, Values]]) -> dict[str, Any]:
    shapes = {name: _estimate(name, pairs).json() for name in (*MAIN_METRICS, *OTHER_METRICS)}
    if any(name in values for _, values in pairs for name in PRE_POST_METRICS):
        shapes |= {name: _estimate(name, pairs).json() for name in PRE_POST_METRICS}
    else:
        shapes |= {"delta_solve": stats.undefined(_NO_TEST).json()}
    collapsed = [(each.collapse_round, each.unit) for each, _ in pairs if each.collapse_round is not None]
    estimate = stats.mean([number for number, _ in collapsed], [unit for _, unit in collapsed])
    return {**shapes, "collapse_round": estimate.json()}


def _estimate(name: str, pairs: Sequence[tuple[DialogueOutcome, Values]]) -> Estimate:
    """A share, a mean or a ratio over the dialogues that have the metric."""
    known = [(*values[name], each.unit) for each, values in pairs if name in values and values[name][1]]
    units = [unit for *_, unit in known]
    if name in _RATIOS:
        return stats.ratio([top for top, *_ in known], [bottom for _, bottom, _ in known], units)
    values = [top / bottom for top, bottom, _ in known]
    return stats.mean(values, units) if name in _MEANS else stats.proportion(values, units)


def _by_round(found: Sequence[DialogueOutcome], rounds: int | None) -> list[dict[str, Any]]:
    """For each k the shares of dialogues in which an event happened by round k; see docs/metrics.md for the names."""
    groups = [each.unit for each in found]
    last = max(
        (n for each in found for n in (each.stated_round, each.told_round, (each.turns + 1) // 2) if n),
        default=1,
    )
    table = []
    for k in range(1, (rounds or last) + 1):
        events = {
            "success": [_happened_by(each.stated_round, k) for each in found],
            "solved": [_happened_by(each.stated_round, k) and not each.told for each in found],
            "telling": [_happened_by(each.told_round, k) for each in found],
        }
        shares = {
            name: stats.proportion([float(v) for v in of], groups).json() for name, of in events.items()
        }
        table.append({"k": k, **shares})
    return table


def _happened_by(round_number: int | None, k: int) -> bool:
    return round_number is not None and round_number <= k


Start = tuple[str, str | None]
"""A start and the kind of its student."""
StartMetrics = Mapping[Start, tuple[str, Values]]
"""By start its unit, and the sums of each metric over its dialogues."""


def compare_dialogues(
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
        second: the other tutor's dialogues.
        before: the test before the dialogues, one step for both.
        after: the tests after the first tutor's and after the second tutor's dialogues.
        states: as for `score_dialogues`.

    Returns:
        By metric `difference`, `ci`, `n` starts in both, the means `a` and `b`, `p` by sign flips and `p_holm`: over
        the three of `MAIN_METRICS`, and over all others. Metrics without a shared start are left out.

    Raises:
        InputError: the tutors share no start.
    """
    ours, theirs = (
        metrics_by_start(load_outcomes(source, states), load_solve_rates(before, step))
        for source, step in zip((first, second), after, strict=True)
    )
    return compare_starts(ours, theirs, f"{first} and {second}")


def compare_starts(a: StartMetrics, b: StartMetrics, names: str) -> dict[str, Any]:
    """`compare_dialogues` of two tutors' metrics by start."""
    shared = [start for start in a if start in b]
    if not shared:
        raise InputError(
            f"{names} share no start", "Simulate the dialogues of both tutors from the same seeds."
        )
    metrics: dict[str, Any] = {}
    for family in (MAIN_METRICS, (*OTHER_METRICS, *PRE_POST_METRICS)):
        found = {name: each for name in family if (each := _difference(name, a, b, shared))}
        metrics |= {name: each.json() for name, each in adjust_p_values(found).items()}
    return metrics


def metrics_by_start(found: DialogueOutcomes, solve_rates: SolveRates | None) -> StartMetrics:
    """By start and kind of student the sums of each metric over its dialogues, and the unit it belongs to."""
    sums: dict[Start, tuple[str, dict[str, tuple[float, float]]]] = {}
    for each, values in zip(found.outcomes, found.values(solve_rates), strict=True):
        _, total = sums.setdefault((each.seed, each.kind), (each.unit, {}))
        for name, (top, bottom) in values.items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + top, before[1] + bottom)
    return sums


def _difference(
    name: str, a: StartMetrics, b: StartMetrics, shared: Sequence[Start]
) -> PairedDifference | None:
    rows = [
        (one[0] / one[1], other[0] / other[1], a[start][0])
        for start in shared
        for one, other in [(a[start][1].get(name, (0, 0)), b[start][1].get(name, (0, 0)))]
        if one[1] and other[1]
    ]
    if not rows:
        return None
    return paired_difference([x for x, *_ in rows], [y for _, y, _ in rows], [unit for *_, unit in rows])
