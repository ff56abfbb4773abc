"""Progress of long work on standard error: a bar on a terminal, otherwise a line every half minute.

with track(len(items), "judge") as progress:
for item in items:
...
progress.advance(note=f"loss {loss:.3f}")

judge: 120/500, 4.0 a second, 95 s left; loss 1.234
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from maieutic.core.console import err, note

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

EVERY = 30.0
"""Seconds between two lines without a terminal."""
_NOTE_EVERY = 0.5
"""Minimum seconds between two calls of a note that is a function."""


class Progress:
    """The progress of some work.

    Args:
        label: the name of the work.
        total: the expected number of items; null if unknown.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total = label, total
        self.done = self.skipped = 0
        self.note = ""
        self._started = time.monotonic()
        self._noted = float("-inf")
        self._show: Callable[[], object] = lambda: None

    def advance(self, amount: int = 1, note: str | Callable[[], str] = "", *, skipped: bool = False) -> None:
        """Count items as done.

        Args:
            amount: the number of items.
            note: text for the end of the line, such as the loss; it is shown until the next note. A function is
                called only from time to time.
            skipped: an earlier call did these items, so they do not count for the rate.
        """
        self.done += amount
        self.skipped += amount if skipped else 0
        if isinstance(note, str):
            self.note = note or self.note
        elif (now := time.monotonic()) - self._noted >= _NOTE_EVERY:
            self.note, self._noted = note() or self.note, now
        self._show()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Items per second of this call."""
        return (self.done - self.skipped) / max(self.seconds, 1e-6)

    def line(self) -> str:
        """Label, count, rate, time left and note."""
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.label}: {self.done}{of}", rate(self.rate)]
        if self.total is not None and self.rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / self.rate)} left")
        return ", ".join(parts) + (f"; {self.note}" if self.note else "")


def rate(value: float) -> str:
    """The rate as text: items per second, or per minute if the rate is low."""
    return f"{value:.1f} a second" if value >= 0.5 or not value else f"{60 * value:.1f} a minute"


def duration(seconds: float) -> str:
    """A duration in seconds as text: `45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def track(total: int | None, label: str, every: float = EVERY) -> Iterator[Progress]:
    """Show the progress of the work in a `with` block; if it took over 2 s, a last line says how long it took.

    Args:
        total: the expected number of items; null if unknown.
        label: the name of the work.
        every: seconds between two lines without a terminal.
    """
    progress = Progress(label, total)
    with _bar(progress) if err.is_terminal else _lines(progress, every):
        yield progress
    if progress.seconds > 2:
        note(f"{label}: {progress.seconds:.1f} s")


@contextmanager
def _bar(progress: Progress) -> Iterator[None]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=err, transient=True) as bars:
        task = bars.add_task(progress.label, total=progress.total, note="", rate="")
        progress._show = lambda: _update(bars, task, progress)
        yield


def _update(bars: Bars, task: Any, progress: Progress) -> None:
    bars.update(task, completed=progress.done, note=progress.note, rate=rate(progress.rate))


@contextmanager
def _lines(progress: Progress, every: float) -> Iterator[None]:
    """Print the lines from a thread, so that a line also appears while a single item takes long."""
    over = Event()

    def write() -> None:
        while not over.wait(every):
            note(progress.line())

    thread = Thread(target=write, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
