"""A progress bar on standard error for anything longer than a moment; silent where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from maieutic.core.console import err, note


class Progress(Protocol):
    """What a stage sees of its bar."""

    def advance(self, amount: int = 1, note: str | Callable[[], str] = "") -> None:
        """Count `amount` more as done; `note`, asked for only if seen, replaces the words at the line's end."""
        ...


class _Bar:
    def __init__(self, update: object) -> None:
        self._update = update
        self._note = ""

    def advance(self, amount: int = 1, note: str | Callable[[], str] = "") -> None:
        self._note = (note if isinstance(note, str) else note()) or self._note
        self._update(advance=amount, note=self._note)  # type: ignore[operator]


class _Unseen:
    def advance(self, amount: int = 1, note: str | Callable[[], str] = "") -> None:
        pass


@contextmanager
def track(total: int | None, label: str) -> Iterator[Progress]:
    """Show `label` with a bar up to `total`; afterwards one line says how long it took if that was over 2 s."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    started = time.monotonic()
    with RichProgress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(label, total=total, note="")
        yield _Bar(lambda **changes: bars.update(task, **changes)) if err.is_terminal else _Unseen()
    if (seconds := time.monotonic() - started) > 2:
        note(f"{label}: {seconds:.1f} s")
