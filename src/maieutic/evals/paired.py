"""Two models on the same items: the mean difference, its interval, and the number of items.

Works on any two files of one kind: evaluation files and judged rows (items are prompts), AlpacaEval annotations
(instructions), FastChat judgments (question and turn, resampled by question). The difference is *first - second*.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.evals import alpaca_eval, mt_bench, tutor
from maieutic.evals.files import Row, read_table

Item = tuple[str, ...]
"""The parts that identify an item; the first is its unit, which intervals resample."""
ItemScores = dict[Item, dict[str, float]]
"""By item, the value of each metric; repeated items averaged."""


class ScoredItems(NamedTuple):
    """The scores of a file: its kind, main metric, items, the number of unscored rows, and notes."""

    kind: str
    main: str
    items: ItemScores
    unscored: int
    notes: tuple[str, ...] = ()


class PairedDifference(NamedTuple):
    """The mean difference of two sides on the same items."""

    difference: float | None
    """First - second."""
    ci: tuple[float, float] | None
    n: int
    a: float
    """The mean of the first side."""
    b: float
    """The mean of the second side."""
    p: float | None
    """By sign flips."""
    reason: str | None = None
    """Why the difference or its interval is null."""
    p_holm: float | None = None
    """Adjusted over the metrics of one family."""

    def json(self) -> dict[str, Any]:
        """The printed shape; `reason` only if a value is null."""
        return {key: value for key, value in self._asdict().items() if key != "reason" or value}


def paired_difference(
    first: Sequence[float], second: Sequence[float], units: Sequence[str]
) -> PairedDifference:
    """The difference of two non-empty lists of values of the same items; `n` counts units."""
    estimate = stats.paired(first, second, units)
    p = stats.sign_flip([x - y for x, y in zip(first, second, strict=True)], units)
    a, b = (math.fsum(side) / len(side) for side in (first, second))
    return PairedDifference(estimate.value, estimate.ci, estimate.n, a, b, p, estimate.reason)


def adjust_p_values(differences: Mapping[str, PairedDifference]) -> dict[str, PairedDifference]:
    """The differences with `p_holm` over all of them."""
    adjusted = stats.holm([each.p for each in differences.values()])
    return {
        name: each._replace(p_holm=p) for (name, each), p in zip(differences.items(), adjusted, strict=True)
    }


def read_scored(path: Path | str, model: str | None = None) -> tuple[ScoredItems, list[str]]:
    """A file of scored items of any known kind, and notes.

    Args:
        path: the file.
        model: which model's rows to use, where a FastChat file has several.
    """
    rows, notes = read_table(path)
    if any("preference" in row for row in rows):
        scored = _alpaca_items(rows, path)
    elif any("question_id" in row for row in rows):
        scored = _fastchat_items(rows, path, model)
    else:
        scored = tutor_items(rows, path)
    return scored, [*notes, *(f"{path}: {note}" for note in scored.notes)]


def _collect(kind: str, main: str, rows: Iterable[tuple[Item, dict[str, float] | None]]) -> ScoredItems:
    found: dict[Item, list[dict[str, float]]] = defaultdict(list)
    unscored = 0
    for item, values in rows:
        if values is None:
            unscored += 1
        else:
            found[item].append(values)
    items: ItemScores = {}
    incomplete: dict[str, int] = defaultdict(int)
    for item, several in found.items():
        names = [name for name in several[0] if all(name in values for values in several)]
        items[item] = {name: math.fsum(v[name] for v in several) / len(several) for name in names}
        for name in dict.fromkeys(name for values in several for name in values if name not in names):
            incomplete[name] += 1
    notes = tuple(
        f"{name!r} is left out of {count} items: some of their replies lack it"
        for name, count in incomplete.items()
    )
    return ScoredItems(kind, main, items, unscored, notes)


def _refuse_without_id(count: int, path: object, key: str) -> None:
    if count:
        raise InputError(
            f"{path}: {count} rows have no {key}",
            "Two files are compared item by item: every row needs an id.",
        )


def _alpaca_items(rows: Sequence[Row], path: object) -> ScoredItems:
    without = sum(row.get("instruction") in (None, "") for row in rows)
    _refuse_without_id(without, path, "`instruction`")
    read = alpaca_eval.read_annotations(rows, path)
    items = [((x.instruction,), None if x.win is None else {"win_rate": 100 * x.win}) for x in read]
    return _collect("AlpacaEval annotations", "win_rate", items)


def _fastchat_items(rows: Sequence[Row], path: object, model: str | None) -> ScoredItems:
    notes: list[str] = []
    grades = mt_bench.read_grades(rows, path, notes)
    models = sorted({grade.model for grade in grades})
    if model is None and len(models) > 1:
        raise InputError(
            f"{path}: has {len(models)} models ({', '.join(models[:5])})",
            "Choose with --model-a and --model-b.",
        )
    chosen = [grade for grade in grades if model in (None, grade.model)]
    if not chosen:
        raise InputError(f"{path}: has no model {model!r}", f"Its models: {', '.join(models[:5])}.")
    items = [((g.question, str(g.turn)), None if g.score is None else {"score": g.score}) for g in chosen]
    scored = _collect("FastChat judgments", "score", items)
    return scored._replace(notes=tuple(note.removeprefix(f"{path}: ") for note in notes))


def tutor_items(rows: Sequence[Row], path: object) -> ScoredItems:
    """The items of judged tutor replies, by prompt."""
    replies = tutor.judged_replies(rows, path)
    without = len({reply.group for reply in replies if not reply.has_id})
    _refuse_without_id(without, path, "`prompt`, `id` or `key`")
    socratic = any(tutor.is_socratic(reply) for reply in replies)
    items: list[tuple[Item, dict[str, float] | None]] = []
    for reply in replies:
        values = None
        if reply.values is not None and tutor.is_socratic(reply):
            values = {"summary_score": tutor.summary_score(reply.values), **reply.values}
        elif reply.values is not None and reply.recorded is not None and not socratic:
            values = {"summary_score": reply.recorded, **reply.values}
        items.append(((reply.group,), values))
    return _collect("tutor evaluations", "summary_score", items)


def compare_files(
    first: Path | str, second: Path | str, first_model: str | None = None, second_model: str | None = None
) -> dict[str, Any]:
    """The paired difference of two files.

    Returns:
        For the main metric `difference` (first - second), `ci`, `n` items in both, the means `a` and `b` on those,
        `p` by sign flips; `metrics` with the same for each metric and `p_holm` over them; `only_a`, `only_b`,
        `unscored_a`, `unscored_b`; `notes`.

    Raises:
        InputError: the files are of different kinds, or have no item in common.
    """
    (a, notes_a), (b, notes_b) = read_scored(first, first_model), read_scored(second, second_model)
    if a.kind != b.kind:
        raise InputError(f"{first} has {a.kind}, {second} {b.kind}", "Compare two files of one kind.")
    if not any(item in b.items for item in a.items):
        raise InputError(
            f"{first} and {second} have no item in common", "Both files must hold scores of the same prompts."
        )
    result = compare_scored(a, b)
    return {**result, "notes": [*notes_a, *notes_b, *result["notes"]]}


def compare_scored(a: ScoredItems, b: ScoredItems) -> dict[str, Any]:
    """`compare_files` of items already read; at least one item must be in both."""
    shared = [item for item in a.items if item in b.items]
    common = {item: [name for name in a.items[item] if name in b.items[item]] for item in shared}
    names = list(dict.fromkeys(name for of in common.values() for name in of))
    differences = {
        name: _difference(name, a.items, b.items, [item for item in shared if name in common[item]])
        for name in names
    }
    metrics = {name: each.json() for name, each in adjust_p_values(differences).items()}
    return {
        "metric": a.main,
        **{key: value for key, value in metrics[a.main].items() if key != "p_holm"},
        "metrics": metrics,
        "only_a": len(a.items) - len(shared),
        "only_b": len(b.items) - len(shared),
        "unscored_a": a.unscored,
        "unscored_b": b.unscored,
        "notes": _incomplete_notes(a.items, b.items, shared, metrics),
    }


def _difference(name: str, a: ItemScores, b: ItemScores, shared: Sequence[Item]) -> PairedDifference:
    first, second = [a[item][name] for item in shared], [b[item][name] for item in shared]
    return paired_difference(first, second, [item[0] for item in shared])._replace(n=len(shared))


def _incomplete_notes(
    a: ItemScores, b: ItemScores, shared: Sequence[Item], metrics: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Notes on metrics that some shared items lack."""
    names = dict.fromkeys(name for item in shared for side in (a, b) for name in side[item])
    counts = {name: metrics[name]["n"] if name in metrics else 0 for name in names}
    return [
        f"{name!r} is compared on {count} of {len(shared)} shared items: the others lack it on one side"
        for name, count in counts.items()
        if count < len(shared)
    ]
