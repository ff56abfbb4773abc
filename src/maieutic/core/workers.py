"""Work through a stage's owed rows with models: bounded concurrency, and failures that can be mended.

A row is written when it is whole. One that failed is noted in `failures.jsonl` and owed again: the same command asks
only for those. Where the share that failed is accepted, their rows are written too, each with its cause, so that
whatever reads the stage sees every item; where it is not, the stage stays open and the run ends as failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from maieutic.core.budget import Purse
from maieutic.core.errors import (
    BudgetSpent,
    ModelError,
    NoTemplate,
    RenderError,
    TooManyFailures,
    UnknownModel,
    Unreachable,
    WrongKey,
)
from maieutic.core.messages import Fault
from maieutic.core.progress import track
from maieutic.core.store import Stage

_MEND = "Mend the cause and run the same command: only those are asked again. Or raise --max-failure-rate."
Item = TypeVar("Item")
Row = dict[str, Any]


class Worked(NamedTuple):
    """What one call did."""

    rows: int
    """Rows of the whole stage."""
    new: int
    """Rows written by this call."""
    failed: int
    """Items that failed in this call."""


Failed = ModelError | RenderError
"""What may happen to one item and not to the next; what would happen to all of them (`HOPELESS`) stops the run."""
HOPELESS = (WrongKey, UnknownModel, NoTemplate)


def fault_of(error: Failed, otherwise: Fault) -> Fault:
    """Whose fault it was: ours where a template refuses, the network's where nothing was reached, else the model's."""
    if isinstance(error, RenderError):
        return Fault.US
    return Fault.NETWORK if isinstance(error, Unreachable) else otherwise


async def work_through(
    stage: Stage,
    owed: Iterable[tuple[str, Item]],
    work: Callable[[Item], Awaitable[Row]],
    given_up: Callable[[Item, Failed], Row],
    *,
    concurrency: int,
    max_failure_rate: float,
    total: int | None = None,
    label: str = "",
    purse: Purse | None = None,
) -> Worked:
    """Write a row for each owed item that has none yet; in the end the rows stand in the items' order.

    Args:
        stage: open for writing.
        owed: keys and items; consumed once, a few ahead of the work.
        work: makes an item's row, or raises a ModelError or RenderError.
        given_up: the row of an item that failed, where failures are accepted.
        concurrency: items under way at once.
        max_failure_rate: failed items, as a share of all items of this call, past which the run fails.
        total: items expected, for the progress bar.
        label: what the bar says.
        purse: what the work is paid from; once it is empty, items under way are finished and no other is begun.

    Raises:
        BudgetSpent: the purse is empty. The same command with a larger budget goes on.
        TooManyFailures: more failed than accepted. Nothing is lost; the same command goes on.
        WrongKey, UnknownModel, NoTemplate: at once.
    """
    failures = stage.journal("failures")
    failed: dict[str, tuple[Item, Failed]] = {}
    seen: dict[str, int] = {}
    new = 0
    over: BudgetSpent | None = None
    source: Iterator[tuple[str, Item]] = iter(owed)

    async def worker() -> None:
        nonlocal new
        for key, item in source:
            if key in seen:
                continue
            seen[key] = len(seen)
            if key not in stage.rows:
                if spent():
                    return
                try:
                    stage.rows.append(key, await work(item))
                    new += 1
                except HOPELESS:
                    raise
                except (ModelError, RenderError) as error:
                    failed[key] = (item, error)
                    failures.append(f"{key}:{len(failures.keys)}", {"row": key, "error": error.what})
            progress.advance(note=str(purse or ""))

    def spent() -> bool:
        nonlocal over
        try:
            if purse is not None:
                purse.check()
        except BudgetSpent as error:
            over = error
        return over is not None

    with track(total, label) as progress:
        workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    if over:
        raise over
    first = next((error.what for _, error in failed.values()), "")
    check_rate(len(failed), len(seen), max_failure_rate, label, first, _MEND)
    for key, (item, error) in failed.items():
        stage.rows.append(key, given_up(item, error))
    stage.rows.settle(seen)
    return Worked(len(stage.rows.keys), new, len(failed))


def check_rate(failed: int, total: int, limit: float, what: str, first: str, hint: str) -> None:
    """Raise TooManyFailures where more than the accepted share failed; `first` is one of the causes."""
    if total and failed / total > limit:
        raise TooManyFailures(f"{what}: {failed} of {total} failed (the first: {first})", hint)
