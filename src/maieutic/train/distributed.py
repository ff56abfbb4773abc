"""Where several processes train one model: which of them this is, and what only the first one does.

The first writes the rows, the checkpoints' marks, the model and the manifest, and speaks; the others compute, and never
open the run's folder for writing. In a process that trains alone all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from maieutic.core.store import Stage

Value = TypeVar("Value")


class Unwritten:
    """A run's rows in a process that does not write them: what the first has on disk stands here in memory.

    Every process measures the same and decides by it the same, such as when to stop.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = {row["key"]: row for row in rows}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def append(self, key: str, row: Mapping[str, Any]) -> None:
        """See `store.Journal.append`; nothing is written."""
        self._rows.setdefault(key, {"key": key, **row})

    def rows(self) -> Iterator[dict[str, Any]]:
        """See `store.Journal.rows`."""
        return iter(list(self._rows.values()))

    def sync(self) -> None:
        """Nothing is to be kept."""


class Follower(NamedTuple):
    """The run's stage in a process that is not the first."""

    folder: Path
    rows: Unwritten
    done: bool
    manifest: dict[str, Any]


def count() -> int:
    """Processes that train together."""
    import torch.distributed as group

    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


def number() -> int:
    """Which of them this is, from 0."""
    import torch.distributed as group

    return group.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return number() == 0


def from_first(make: Callable[[], Value]) -> Value:
    """What `make` gives in the first process, where alone it runs, in all of them."""
    if count() == 1:
        return make()
    import torch.distributed as group

    held = [make() if is_first() else None]
    group.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[return-value]


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if count() > 1:
        import torch.distributed as group

        group.barrier()


@contextmanager
def opened(folder: Path, config: Mapping[str, Any]) -> Iterator[Stage | Follower]:
    """The run's stage, open for writing in the first process; the others are told what it holds."""
    if not is_first():
        rows, done, manifest = from_first(lambda: ([], False, {}))
        yield Follower(folder, Unwritten(rows), done, manifest)
        return
    with Stage(folder, config) as stage:
        if count() > 1:
            held = list(stage.rows.rows()), stage.done, stage.manifest if stage.done else {}
            from_first(lambda: held)
        yield stage


def unshared(loader: Any) -> Any:
    """A trainer's data loader that gives every process each whole batch, in the order of a process that is alone.

    accelerate's own shares are equal in rows, not in tokens, and fill up the last batch with rows of the first.
    """
    from accelerate.data_loader import BatchSamplerShard

    if isinstance(loader.batch_sampler, BatchSamplerShard):
        loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
        loader.batch_sampler.even_batches = False
    return loader
