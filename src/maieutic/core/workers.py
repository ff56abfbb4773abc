"""The worker pool of every step that calls models: bounded concurrency, a budget, and failures that can be retried.

A row is written when it is complete. A failed item is recorded in `failures.jsonl` and stays pending; repeating the
command retries only pending items. If the share of failures is at most `max_failure_rate`, a row with the cause is
written for each failed item, so that the next step sees every item. Otherwise the step stays unfinished and the run
fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Container,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from maieutic.core.budget import Spending
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
from maieutic.core.messages import Conversation, Fault
from maieutic.core.progress import track
from maieutic.core.rows import FailureRow, StageRow
from maieutic.core.store import KeyIndex, Stage

_REPEAT = (
    "Fix the cause and run the same command: it retries only the failed items. Or raise --max-failure-rate."
)
Item = TypeVar("Item")
Made = TypeVar("Made")
AnyRow = Mapping[str, Any] | StageRow | Conversation
"""The result for an item: a typed row, or a row as a JSON object."""


class Model(Protocol):
    """The methods of a model that a step needs besides `reply`."""

    async def check(self) -> None:
        """Raise if the model cannot be reached or does not exist."""
        ...

    async def close(self) -> None:
        """Release connections or memory."""
        ...


class Worked(NamedTuple):
    """Counts of one call."""

    rows: int
    """Rows of the whole step, including earlier calls."""
    new: int
    """Rows written by this call."""
    failed: int
    """Items that failed in this call."""


Failed = ModelError | RenderError
"""Errors that concern a single item. An error that every item would raise (`FATAL`) stops the run."""
FATAL = (WrongKey, UnknownModel, NoTemplate)


def fault_of(error: Failed, otherwise: Fault) -> Fault:
    """The fault of an error: `us` for a template error, `network` if no server was reached, else `otherwise`."""
    if isinstance(error, RenderError):
        return Fault.US
    return Fault.NETWORK if isinstance(error, Unreachable) else otherwise


def run_async(work: Coroutine[Any, Any, Made]) -> Made:
    """Run a coroutine to its end, even if an event loop is already running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@asynccontextmanager
async def open_stage(
    out: Path | str, config: Mapping[str, Any], models: Sequence[Model]
) -> AsyncIterator[Stage]:
    """Open a step's folder for writing and check the models; the models are closed at the end.

    Raises:
        RunConflict, RunLocked, DiskFull: the folder cannot be written.
        ModelError: a model's key or name is wrong, or its server cannot be reached.
    """
    try:
        with Stage(out, config) as stage:
            await asyncio.gather(*(model.check() for model in models))
            yield stage
    finally:
        await asyncio.gather(*(model.close() for model in models))


async def run_pool(
    items: Iterable[tuple[str, Item]],
    done: Container[str],
    work: Callable[[str, Item], Awaitable[None]],
    *,
    concurrency: int,
    total: int | None = None,
    label: str = "",
    spending: Spending | None = None,
    note: Callable[[], str] | None = None,
) -> KeyIndex:
    """Do the work of each item once, several items at a time.

    Args:
        items: keys and items; consumed once, a few items ahead of the work.
        done: keys of items whose work is done.
        work: does one item's work.
        concurrency: items in progress at once.
        total: the expected number of items, for the progress bar.
        label: the bar's label.
        spending: when its budget is used up, items in progress are finished and no further item is started.
        note: the text at the end of the bar; default: the tokens and dollars spent.

    Returns:
        The keys of all items, in their order.

    Raises:
        BudgetSpent: the budget was used up before an item or during its work.
    """
    keys = KeyIndex()
    over: BudgetSpent | None = None
    source: Iterator[tuple[str, Item]] = iter(items)
    words = note or (lambda: str(spending or ""))

    async def worker() -> None:
        nonlocal over
        for key, item in source:
            if not keys.add(key):
                continue
            skipped = key in done
            if not skipped:
                try:
                    if spending is not None:
                        spending.check()
                    await work(key, item)
                except BudgetSpent as error:
                    over = error
                    return
            progress.advance(note=words, skipped=skipped)

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
    return keys


async def run_pending(
    stage: Stage,
    items: Iterable[tuple[str, Item]],
    work: Callable[[Item], Awaitable[AnyRow]],
    on_failure: Callable[[Item, Failed], AnyRow],
    *,
    concurrency: int,
    max_failure_rate: float,
    total: int | None = None,
    label: str = "",
    spending: Spending | None = None,
) -> Worked:
    """Write a row for each item without a row; at the end the rows are in the order of the items.

    Args:
        stage: open for writing.
        items: keys and items; consumed once, a few items ahead of the work.
        work: makes an item's row, or raises a ModelError or RenderError.
        on_failure: makes the row of a failed item, if the share of failures is accepted.
        concurrency: items in progress at once.
        max_failure_rate: maximum share of failed items of this call; above it the run fails.
        total: the expected number of items, for the progress bar.
        label: the bar's label.
        spending: when its budget is used up, items in progress are finished and no further item is started.

    Raises:
        BudgetSpent: the budget is used up. The same command with a larger budget continues.
        TooManyFailures: the share of failures is above `max_failure_rate`. No row is lost; the same command continues.
        WrongKey, UnknownModel, NoTemplate: at once.
    """
    failures = stage.journal("failures")
    failed: dict[str, tuple[Item, Failed]] = {}
    before = len(stage.rows.keys)

    async def write(key: str, item: Item) -> None:
        try:
            row = await work(item)
        except FATAL:
            raise
        except (ModelError, RenderError) as error:
            failed[key] = (item, error)
            failures.append(f"{key}:{len(failures.keys)}", FailureRow(row=key, error=error.what).model_dump())
        else:
            stage.rows.append(key, _plain(row))

    keys = await run_pool(
        items,
        stage.rows,
        write,
        concurrency=concurrency,
        total=total,
        label=label,
        spending=spending,
    )
    new = len(stage.rows.keys) - before
    first = next((error.what for _, error in failed.values()), "")
    check_rate(len(failed), len(keys), max_failure_rate, label, first, _REPEAT)
    for key, (item, error) in failed.items():
        stage.rows.append(key, _plain(on_failure(item, error)))
    stage.rows.sort(keys)
    return Worked(len(stage.rows.keys), new, len(failed))


def _plain(row: AnyRow) -> Mapping[str, Any]:
    return row if isinstance(row, Mapping) else row.row()


def check_rate(failed: int, total: int, limit: float, what: str, first: str, hint: str = _REPEAT) -> None:
    """Raise TooManyFailures if more than the accepted share failed; `first` is one of the causes."""
    if total and failed / total > limit:
        raise TooManyFailures(f"{what}: {failed} of {total} failed (the first: {first})", hint)
