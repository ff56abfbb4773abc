"""Test sets by tutors: every score as published and on clean items alone, differences from the base, and leakage.

Both scores use the same judged replies. An item is *clean* for a tutor if nothing the tutor was trained on shares its
bytes, its near-duplicate text, its problem or its program. For a tutor that was trained on none of the sets, an item is
clean if it is clean for every training set. A tutor is compared with the base on the items that are clean for
that tutor, since the base was trained on none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import InputError
from maieutic.core.store import read_json
from maieutic.evals import paired, tutor
from maieutic.evals.files import Row, read_table

BASE = "base"


class GridTutor(NamedTuple):
    """A column of the grid."""

    name: str
    trained_on: str | None
    """The set whose pairs it was trained on; null for a tutor that was only prompted."""


class GridCell(NamedTuple):
    """One tutor's judged replies to one test set."""

    test: str
    tutor: GridTutor
    judged: Path


def score_grid(cells: Sequence[GridCell], leaks: Mapping[str, Path]) -> dict[str, Any]:
    """Score every cell.

    Args:
        cells: each test set with each tutor; one tutor of each set is called `base`.
        leaks: the `leaks.json` of each train set, by its name.

    Returns:
        `tests`, `tutors` (`{"name", "trained_on"}`), `leakage` (train set → test set → counts), and `cells`, each
        `{"test", "tutor", "published", "clean", "scores"}` and, except for the base, `difference` with the keys
        `published` and `clean`: scores as `eval tutor score` gives them, differences as `eval paired` does (tutor
        minus base); `scores` counts the replies by summary score.

    Raises:
        InputError: a leaks file lacks a test set, or a file has no judged replies.
    """
    leaked = {name: read_json(path)["tests"] for name, path in leaks.items()}
    rows = {cell[:2]: read_table(cell.judged).rows for cell in cells}
    return {
        "tests": list(dict.fromkeys(cell.test for cell in cells)),
        "tutors": [each._asdict() for each in dict.fromkeys(cell.tutor for cell in cells)],
        "leakage": {
            train: {test: _without_ids(of) for test, of in tests.items()} for train, tests in leaked.items()
        },
        "cells": [_score_cell(cell, rows, _leaked_ids(cell, leaked)) for cell in cells],
    }


def _without_ids(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "ids"}


def _leaked_ids(cell: GridCell, leaked: Mapping[str, Any]) -> set[str]:
    """The ids of a test set's items that are not clean for a tutor."""
    trains = list(leaked) if cell.tutor.trained_on is None else [cell.tutor.trained_on]
    try:
        return {str(key) for train in trains for key in leaked[train][cell.test]["ids"]}
    except KeyError as error:
        raise InputError(
            f"the leaks of {cell.test} in {', '.join(trains)} are unknown ({error})",
            "Give the leaks.json of every train set, measured against every test set.",
        ) from None


def _score_cell(cell: GridCell, rows: Mapping[Any, list[Row]], leaked: set[str]) -> dict[str, Any]:
    own = rows[cell[:2]]
    parts = {"published": own, "clean": [row for row in own if row.get("id") not in leaked]}
    found: dict[str, Any] = {"test": cell.test, "tutor": cell.tutor.name, "trained_on": cell.tutor.trained_on}
    for name, part in parts.items():
        replies = tutor.judged_replies(part, cell.judged) if part else []
        found[name] = tutor.score_replies(replies) if part else _no_clean_items(len(own))
    found["scores"] = _score_counts(own)
    base = next((of for (test, each), of in rows.items() if (test, each.name) == (cell.test, BASE)), None)
    if cell.tutor.name != BASE and base is not None:
        found["difference"] = {name: _difference(part, base, cell.judged) for name, part in parts.items()}
    return found


def _no_clean_items(items: int) -> dict[str, Any]:
    reason = (
        f"none of the {items} test items is clean: each shares its text, problem or program with a train set"
    )
    return {
        "summary_score": None,
        "summary_score_ci": None,
        "n": 0,
        "unscored": 0,
        "reasons": {"summary_score": reason},
    }


def _score_counts(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(
        round(tutor.summary_score(reply.values) if tutor.is_socratic(reply) else reply.recorded or 0.0, 3)
        for reply in tutor.judged_replies(rows)
        if reply.values is not None and (tutor.is_socratic(reply) or reply.recorded is not None)
    )
    return {str(score): counts[score] for score in sorted(counts)}


def _difference(own: Sequence[Row], base: Sequence[Row], path: Path) -> dict[str, Any] | None:
    """Null where no item is scored on both sides."""
    if not own:
        return None
    a, b = paired.tutor_items(own, path), paired.tutor_items(base, path)
    if not any(item in b.items for item in a.items):
        return None
    compared = paired.compare_scored(a, b)
    return {key: compared[key] for key in ("metric", "metrics", "unscored_a", "unscored_b")}
