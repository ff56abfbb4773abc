"""The train and the test list of one set of dialogues: both as others made them, or one share held out by problem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation
from maieutic.data.corpus import line, replacing_all
from maieutic.data.formats import import_files
from maieutic.data.split import Placed, split


def write_lists(
    train: Path | str,
    out: Path,
    *,
    name: str,
    test: Path | str | None = None,
    share: float = 0.1,
    format: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Write `train.jsonl` and `test.jsonl` into the folder `out`; what is already a list of its own stays whole.

    Args:
        train: dialogues in any importable form.
        out: the folder.
        name: the set's, as the `source` of its rows.
        test: the dialogues to test on; null holds out a share of `train`, by problem or program.
        share: how much of `train` is held out then.
        format: of both files.
        seed: another one holds out other problems.

    Returns:
        `{"train", "test", "held_out", "files": {file: what of it was read}}`: conversations, and whether the test part
        came from the train list.

    Raises:
        EmptyCorpus: one of the two would be empty.
    """
    rows, report = import_files([train], format, source=name)
    reports = {str(train): report}
    placed: Iterator[Placed] = (
        split(rows, "problem", (1 - share, 0.0, share), seed=seed)
        if test is None
        else (Placed("train", row) for row in rows)
    )
    counts = {"train": 0, "test": 0}
    with replacing_all([out / "train.jsonl", out / "test.jsonl"], overwrite=True) as writers:
        write = dict(zip(counts, writers, strict=True))

        def put(part: str, conversation: Conversation) -> None:
            counts[part] += 1
            write[part](line(conversation.model_copy(update={"source": name}).row()))

        for part, conversation in placed:
            put(part, conversation)
        if test is not None:
            tested, reports[str(test)] = import_files([test], format, source=name)
            for conversation in tested:
                put("test", conversation)
        if empty := next((part for part, count in counts.items() if not count), None):
            raise EmptyCorpus(
                f"{train}: with a share of {share} held out, nothing is left to {empty}",
                "Give a test file, another share, or more dialogues.",
            )
    return {
        **counts,
        "held_out": test is None,
        "files": {Path(file).name: read.json() for file, read in reports.items()},
    }
