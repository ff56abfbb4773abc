"""What a train list gives away of several test lists, item by item; and on request the train list without it.

Numbers alone do not help whoever wants to score the clean items: here stands which test items are given away, and how
(`exact`, `near`, `problem`, `program`; see `overlap`). Both lists are held in memory, at about the size of their text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from maieutic.core.errors import EmptyCorpus
from maieutic.data.corpus import line, read_corpus, replacing_all
from maieutic.data.overlap import Held, Item


def write_leaks(
    train: Path | str, tests: Mapping[str, Path | str], out: Path, *, drop: bool = False
) -> dict[str, Any]:
    """Write the train list as it is to be used, `corpus.jsonl`, and `leaks.json` into the folder `out`.

    Args:
        train: a corpus.
        tests: corpora that should be unseen, by name.
        out: the folder.
        drop: leave out of the train list what gives a test item away.

    Returns:
        `{"train", "dropped", "tests": {name: {"overlap", "prompts", "programs", "train", "test", "leaked",
        "before"?}}}`; `leaked` counts test items with any leak, `before` holds the same numbers of the whole list.
        `leaks.json` is the same with `ids` beside them, `{id: [how]}`.

    Raises:
        EmptyCorpus: nothing is left to train on.
        MissingExtra: rensa, which finds near ones, is not installed.
    """
    conversations = list(read_corpus(train))
    items = [Item.of(conversation) for conversation in conversations]
    tested = {name: [Item.of(one) for one in read_corpus(path)] for name, path in tests.items()}
    gone: set[int] = set()
    if drop:
        for others in tested.values():
            gone |= shared(items, others).keys()
    kept = [place for place in range(len(items)) if place not in gone]
    if not kept:
        raise EmptyCorpus(
            f"{train}: every dialogue shares its problem or its text with a test item",
            "Train on another list, or keep it whole and read the clean numbers.",
        )
    found = {name: _found([items[place] for place in kept], others) for name, others in tested.items()}
    if drop:
        for name, others in tested.items():
            found[name]["before"] = _counted(_found(items, others))
    whole = {"train": len(kept), "dropped": len(gone), "tests": found}
    with replacing_all([out / "corpus.jsonl", out / "leaks.json"], overwrite=True) as (rows, file):
        for place in kept:
            rows(line(conversations[place].row()))
        file(orjson.dumps(whole, option=orjson.OPT_INDENT_2) + b"\n")
    return {**whole, "tests": {name: _counted(one) for name, one in found.items()}}


def shared(items: Sequence[Item], others: Sequence[Item]) -> dict[int, tuple[str, ...]]:
    """The places of those items that the others give away, and how."""
    return _held(items, others).given_away()


def _held(items: Sequence[Item], others: Sequence[Item]) -> Held:
    held = Held()
    for item in items:
        held.hold(item)
    for other in others:
        held.pass_by(other)
    return held


def _found(train: Sequence[Item], test: Sequence[Item]) -> dict[str, Any]:
    held = _held(test, train)
    places = held.given_away()
    ids: dict[str, list[str]] = {}
    for place, how in places.items():
        ids[test[place].id] = sorted({*ids.get(test[place].id, ()), *how})
    return {**held.overlap().counts(), "leaked": len(places), "ids": ids}


def _counted(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "ids"}
