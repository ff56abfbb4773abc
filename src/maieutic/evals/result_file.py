"""A file that a resumable stage makes: `A.jsonl`, and beside it the stage's folder, `A.jsonl.run`.

Rows gather in the folder as they come; the file is made of them, whole, each time the work is through. The same
command goes on in the folder; the file can be moved or copied freely.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from maieutic.core.errors import EmptyCorpus, InputError, MissingInput, RunConflict
from maieutic.core.store import full_disk
from maieutic.evals.files import read_table


def run_folder(out: Path) -> Path:
    """Where the rows of `out` gather.

    Raises:
        InputError: `out` is a folder.
        RunConflict: `out` is there already and nothing of ours made it.
    """
    folder = out.with_name(f"{out.name}.run")
    if out.is_dir():
        raise InputError(f"{out} is a folder", "Name a file to write.")
    if out.exists() and not folder.is_dir():
        raise RunConflict(
            f"{out} is there already, and no run beside it made it ({folder.name} is missing)",
            "Choose another --out; nothing was touched.",
        )
    return folder


def never_fewer(out: Path, rows: int) -> None:
    """Refuse to put fewer rows in the place of more, such as the first three of a file of eighty.

    Raises:
        RunConflict: `out` holds more rows than `rows`.
    """
    try:
        held = len(read_table(out).rows)
    except (
        MissingInput,
        EmptyCorpus,
        InputError,
    ):  # nothing there, or nothing that can be read: it is made again
        return
    if held > rows:
        raise RunConflict(
            f"{out} holds {held} rows, and this call would leave {rows} of them",
            "Choose another --out, or a larger --limit; nothing was touched.",
        )


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with full_disk(path):
        with part.open("wb") as file:
            file.writelines(orjson.dumps(row) + b"\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
