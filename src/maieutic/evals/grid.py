"""Test sets by tutors: every score as published and on clean items alone, the differences from the base, the leaks.

Both scores come from the same judged replies. An item is *clean* for a tutor where nothing it was trained on shares
its bytes, its text nearly, its problem or its program; for a tutor that was trained on none of the sets, where no train
set does. A tutor beside the base is compared on the items that are clean for that tutor, since the base has seen none.
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


class Tutor(NamedTuple):
    """A column of the table."""

    name: str
    trained_on: str | None
    """The set whose pairs it learned from; null for one that was only prompted."""


class Cell(NamedTuple):
    """One tutor's judged replies to one test set."""

    test: str
    tutor: Tutor
    judged: Path


def grid(cells: Sequence[Cell], leaks: Mapping[str, Path]) -> dict[str, Any]:
    """Score every cell.

    Args:
        cells: each test set with each tutor; one tutor of each set is called `base`.
        leaks: the `leaks.json` of each train set, by its name.

    Returns:
        `tests`, `tutors` (`{"name", "trained_on"}`), `leakage` (train set → test set → counts), and `cells`, each
        `{"test", "tutor", "published", "clean", "scores"}` and, but for the base, `difference` with the same two keys:
        scores as `eval tutor score` gives them, differences as `eval paired` does, tutor less base; `scores` counts
        the replies by summary score.

    Raises:
        InputError: a train list says nothing of a test set, or a file holds no judged replies.
    """
    given = {name: read_json(path)["tests"] for name, path in leaks.items()}
    rows = {cell[:2]: read_table(cell.judged).rows for cell in cells}
    return {
        "tests": list(dict.fromkeys(cell.test for cell in cells)),
        "tutors": [one._asdict() for one in dict.fromkeys(cell.tutor for cell in cells)],
        "leakage": {
            train: {test: _counted(of) for test, of in tests.items()} for train, tests in given.items()
        },
        "cells": [_cell(cell, rows, _given_away(cell, given)) for cell in cells],
    }


def _counted(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "ids"}


def _given_away(cell: Cell, given: Mapping[str, Any]) -> set[str]:
    """The ids of a test set's items that are not clean for a tutor."""
    trains = list(given) if cell.tutor.trained_on is None else [cell.tutor.trained_on]
    try:
        return {str(key) for train in trains for key in given[train][cell.test]["ids"]}
    except KeyError as error:
        raise InputError(
            f"the leaks of {cell.test} in {', '.join(trains)} are not known ({error})",
            "Give the leaks.json of every train set, measured against every test set.",
        ) from None


def _cell(cell: Cell, rows: Mapping[Any, list[Row]], given_away: set[str]) -> dict[str, Any]:
    own = rows[cell[:2]]
    parts = {"published": own, "clean": [row for row in own if row.get("id") not in given_away]}
    found: dict[str, Any] = {"test": cell.test, "tutor": cell.tutor.name, "trained_on": cell.tutor.trained_on}
    for name, part in parts.items():
        found[name] = tutor.score_replies(tutor.replies(part, cell.judged)) if part else _nothing(len(own))
    found["scores"] = _scores(own)
    base = next((of for (test, who), of in rows.items() if (test, who.name) == (cell.test, BASE)), None)
    if cell.tutor.name != BASE and base is not None:
        found["difference"] = {name: _difference(part, base, cell.judged) for name, part in parts.items()}
    return found


def _nothing(items: int) -> dict[str, Any]:
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


def _scores(rows: Sequence[Row]) -> dict[str, int]:
    found = Counter(
        round(tutor.summary_score(reply.values) if tutor.is_socratic(reply) else reply.recorded or 0.0, 3)
        for reply in tutor.replies(rows)
        if reply.values is not None and (tutor.is_socratic(reply) or reply.recorded is not None)
    )
    return {str(score): found[score] for score in sorted(found)}


def _difference(own: Sequence[Row], base: Sequence[Row], path: Path) -> dict[str, Any] | None:
    """Null where no item is scored on both sides."""
    if not own:
        return None
    a, b = paired.scored_replies(own, path), paired.scored_replies(base, path)
    if not any(item in b.items for item in a.items):
        return None
    compared = paired.compare_scored(a, b)
    return {key: compared[key] for key in ("metric", "metrics", "unscored_a", "unscored_b")}
