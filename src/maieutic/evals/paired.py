"""Two models on the same items: the mean difference, its interval, and how many items it rests on.

Any two files of one kind: evaluation files and judged rows (items are prompts), AlpacaEval annotations
(instructions), FastChat judgments (question and turn, resampled by question). The difference is *first - second*.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.evals import alpaca_eval, mt_bench, tutor
from maieutic.evals.files import Row, read_table

Items = dict[tuple[str, ...], dict[str, float]]
"""By item, the value of each metric; repeated items averaged. The first part of an item is its unit."""


class Scored(NamedTuple):
    """A file's items, which of its metrics is the main one, how many rows had no score, and what was left out."""

    kind: str
    main: str
    items: Items
    unscored: int
    notes: tuple[str, ...] = ()


def read_scored(path: Path | str, model: str | None = None) -> tuple[Scored, list[str]]:
    """A file of scored items, of any known kind, and notes.

    Args:
        path: the file.
        model: which model's rows to take, where a FastChat file holds several.
    """
    rows, notes = read_table(path)
    if any("preference" in row for row in rows):
        scored = _alpaca(rows, path)
    elif any("question_id" in row for row in rows):
        scored = _fastchat(rows, path, model)
    else:
        scored = scored_replies(rows, path)
    return scored, [*notes, *(f"{path}: {note}" for note in scored.notes)]


def _collect(kind: str, main: str, rows: Sequence[tuple[tuple[str, ...], dict[str, float] | None]]) -> Scored:
    found: dict[tuple[str, ...], list[dict[str, float]]] = defaultdict(list)
    for item, values in rows:
        if values is not None:
            found[item].append(values)
    items: Items = {}
    partly: dict[str, int] = defaultdict(int)
    for item, several in found.items():
        names = [name for name in several[0] if all(name in values for values in several)]
        items[item] = {name: math.fsum(v[name] for v in several) / len(several) for name in names}
        for name in dict.fromkeys(name for values in several for name in values if name not in names):
            partly[name] += 1
    notes = tuple(
        f"{name!r} is left out of {count} items: not all their replies have it"
        for name, count in partly.items()
    )
    return Scored(kind, main, items, sum(values is None for _, values in rows), notes)


def _refuse_nameless(count: int, path: object, key: str) -> None:
    if count:
        raise InputError(
            f"{path}: {count} rows have no {key}",
            "Two files are compared item by item: give each row its own.",
        )


def _alpaca(rows: Sequence[Row], path: object) -> Scored:
    _refuse_nameless(sum(row.get("instruction") in (None, "") for row in rows), path, "`instruction`")
    read = alpaca_eval.read_annotations(rows, path)
    items = [((x.instruction,), None if x.win is None else {"win_rate": 100 * x.win}) for x in read]
    return _collect("AlpacaEval annotations", "win_rate", items)


def _fastchat(rows: Sequence[Row], path: object, model: str | None) -> Scored:
    said: list[str] = []
    grades = mt_bench.grades(rows, path, said)
    models = sorted({grade.model for grade in grades})
    if model is None and len(models) > 1:
        raise InputError(
            f"{path}: holds {len(models)} models ({', '.join(models[:5])})",
            "Choose with --model-a and --model-b.",
        )
    chosen = [grade for grade in grades if model in (None, grade.model)]
    if not chosen:
        raise InputError(f"{path}: holds no model {model!r}", f"It holds {', '.join(models[:5])}.")
    items = [((g.question, str(g.turn)), None if g.score is None else {"score": g.score}) for g in chosen]
    return _collect("FastChat judgments", "score", items)._replace(
        notes=tuple(note.removeprefix(f"{path}: ") for note in said)
    )


def scored_replies(rows: Sequence[Row], path: object) -> Scored:
    """The items of judged tutor replies, by prompt."""
    items: list[tuple[tuple[str, ...], dict[str, float] | None]] = []
    replies = tutor.replies(rows, path)
    nameless = len({reply.group for reply in replies if not reply.named})
    _refuse_nameless(nameless, path, "`prompt`, `id` or `key`")
    socratic = any(tutor.is_socratic(reply) for reply in replies)
    for reply in replies:
        values = None
        if reply.values is not None and tutor.is_socratic(reply):
            values = {"summary_score": tutor.summary_score(reply.values), **reply.values}
        elif reply.values is not None and reply.recorded is not None and not socratic:
            values = {"summary_score": reply.recorded, **reply.values}
        items.append(((reply.group,), values))
    return _collect("tutor evaluations", "summary_score", items)


def compare(
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
        raise InputError(f"{first} holds {a.kind}, {second} {b.kind}", "Compare two files of one kind.")
    if not any(item in b.items for item in a.items):
        raise InputError(f"{first} and {second} have no item in common", "Both must answer the same prompts.")
    result = compare_scored(a, b)
    return {**result, "notes": [*notes_a, *notes_b, *result["notes"]]}


def compare_scored(a: Scored, b: Scored) -> dict[str, Any]:
    """`compare` on items already read, of which both have at least one."""
    shared = [item for item in a.items if item in b.items]
    common = {item: [name for name in a.items[item] if name in b.items[item]] for item in shared}
    names = list(dict.fromkeys(name for of in common.values() for name in of))
    metrics = {
        name: _metric(name, a.items, b.items, [item for item in shared if name in common[item]])
        for name in names
    }
    adjusted = stats.holm([metric["p"] for metric in metrics.values()])
    for metric, p in zip(metrics.values(), adjusted, strict=True):
        metric["p_holm"] = p
    return {
        "metric": a.main,
        **{key: value for key, value in metrics[a.main].items() if key != "p_holm"},
        "metrics": metrics,
        "only_a": len(a.items) - len(shared),
        "only_b": len(b.items) - len(shared),
        "unscored_a": a.unscored,
        "unscored_b": b.unscored,
        "notes": _left_out(a.items, b.items, shared, metrics),
    }


def _left_out(
    a: Items, b: Items, shared: Sequence[tuple[str, ...]], metrics: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What is not compared on every shared item."""
    names = dict.fromkeys(name for item in shared for side in (a, b) for name in side[item])
    counts = {name: metrics[name]["n"] if name in metrics else 0 for name in names}
    return [
        f"{name!r} is compared on {count} of {len(shared)} shared items: the others lack it on a side"
        for name, count in counts.items()
        if count < len(shared)
    ]


def _metric(name: str, a: Items, b: Items, shared: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    first, second = [a[item][name] for item in shared], [b[item][name] for item in shared]
    units = [item[0] for item in shared]
    estimate = stats.paired(first, second, units)
    differences = [x - y for x, y in zip(first, second, strict=True)]
    return {
        "difference": estimate.value,
        "ci": estimate.ci,
        "n": len(shared),
        "a": math.fsum(first) / len(shared),
        "b": math.fsum(second) / len(shared),
        "p": stats.sign_flip(differences, units),
        **({"reason": estimate.reason} if estimate.reason else {}),
    }
