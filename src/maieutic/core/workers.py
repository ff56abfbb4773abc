"""The pool that runs every step that asks models: bounded concurrency, budget, and failures that can be repaired.

A row is written when it is whole. An item that failed is noted in `failures.jsonl` and stays pending: the same command
asks only for those items. Where the share of failures is accepted, a row with its cause is written for each of them,
so that the next step sees every item; where it is not, the step stays open and the run ends as failed.
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
    "Repair the cause and run the same command: only those are asked again. Or raise --max-failure-rate."
)
Item = TypeVar("Item")
Made = TypeVar("Made")
AnyRow = Mapping[str, Any] | StageRow | Conversation
"""What a step writes for an item: a typed row, or its JSON object."""


class Model(Protocol):
    """What a step needs of a model besides its replies."""

    async def check(self) -> None:
        """Raise where the model cannot be reached or does not exist."""
        ...

    async def close(self) -> None:
        """Release connections or memory."""
        ...


class Worked(NamedTuple):
    """What one call did."""

    rows: int
    """Rows of the whole step."""
    new: int
    """Rows written by this call."""
    failed: int
    """Items that failed in this call."""


Failed = ModelError | RenderError
"""Errors of a single item. An error that every item would meet (`FATAL`) stops the run."""
FATAL = (WrongKey, UnknownModel, NoTemplate)


def fault_of(error: Failed, otherwise: Fault) -> Fault:
    """The fault of an error: `us` where a template refuses, `network` where no server was reached, else `otherwise`."""
    if isinstance(error, RenderError):
        return Fault.US
    return Fault.NETWORK if isinstance(error, Unreachable) else otherwise


def run_async(work: Coroutine[Any, Any, Made]) -> Made:
    """Run a coroutine to its end, also where an event loop runs already, as in a notebook."""
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
    """A step's folder, open for writing, with models that answer; the models are closed at the end.

    Raises:
        RunConflict, RunLocked, DiskFull: about the folder.
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
        items: keys and items; consumed once, a few ahead of the work.
        done: keys of items whose work is done.
        work: does one item's work.
        concurrency: items under way at once.
        total: items expected, for the progress bar.
        label: the bar's label.
        spending: once its budget is used up, items under way are finished and no other is begun.
        note: the words at the bar's end; default: what was spent.

    Returns:
        The keys of all items, in their order.

    Raises:
        BudgetSpent: the budget is used up, before an item or inside its work.
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
    """Write a row for each item that has none yet; in the end the rows are in the items' order.

    Args:
        stage: open for writing.
        items: keys and items; consumed once, a few ahead of the work.
        work: makes an item's row, or raises a ModelError or RenderError.
        on_failure: makes the row of an item that failed, where failures are accepted.
        concurrency: items under way at once.
        max_failure_rate: failed items, as a share of all items of this call, above which the run fails.
        total: items expected, for the progress bar.
        label: the bar's label.
        spending: once its budget is used up, items under way are finished and no other is begun.

    Raises:
        BudgetSpent: the budget is used up. The same command with a larger one continues.
        TooManyFailures: more items failed than are accepted. Nothing is lost; the same command continues.
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
    """Raise TooManyFailures where more than the accepted share failed; `first` is one of the causes."""
    if total and failed / total > limit:
        raise TooManyFailures(f"{what}: {failed} of {total} failed (the first: {first})", hint)
