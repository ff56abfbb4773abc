"""Arguments and notes that the data commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maieutic.core.console import note

if TYPE_CHECKING:
    from maieutic.core.json_rows import BadRows

Corpus = Annotated[Path, typer.Argument(help="A corpus: JSONL (or .gz), a JSON list, or a stage folder.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that holds something else.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first broken row instead of keeping it out.")
]


def tell_bad(bad: BadRows) -> None:
    """Name the rows that were kept out, on standard error."""
    if bad.count:
        note(bad.summary())
