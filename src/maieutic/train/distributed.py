"""Training in several processes: the rank of this process, and the tasks of the first process.

The first process prints, and writes the rows, the checkpoint marks, the model and the manifest. The other
processes compute and never open the run folder for writing. In a single process all of this does nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from maieutic.core import console
from maieutic.core.store import Stage

Value = TypeVar("Value")


class UnwrittenRows:
    """A run's rows in a process that does not write: the rows on disk at the start, and those added since, in memory.

    All processes measure the same values, so they make the same decisions, such as when to stop.
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
        """Nothing to write."""


class FollowerStage(NamedTuple):
    """The run's stage in a process that is not the first."""

    folder: Path
    rows: UnwrittenRows
    done: bool
    manifest: dict[str, Any]


AnyStage = Stage | FollowerStage


def join_group() -> None:
    """Join the process group if a launcher (`accelerate launch`, torchrun) started this process; only the first prints.

    `launch` starts its processes this way, and `accelerate launch -m maieutic train sft ...` works too.
    """
    import torch.distributed as group

    if "TORCHELASTIC_RUN_ID" not in os.environ or group.is_initialized():
        return
    from accelerate import PartialState

    from maieutic.models.weights import has_gpu, quiet

    with quiet():
        PartialState(cpu=not has_gpu())
    if not is_first():
        console.err.quiet = True
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends


def count() -> int:
    """How many processes train together."""
    import torch.distributed as group

    return int(group.get_world_size()) if group.is_available() and group.is_initialized() else 1


def rank() -> int:
    """The index of this process, from 0."""
    import torch.distributed as group

    return int(group.get_rank()) if count() > 1 else 0


def is_first() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def from_first(make: Callable[[], Value]) -> Value:
    """Call `make` in the first process only, and return its result in all processes."""
    if count() == 1:
        return make()
    import torch.distributed as group

    held = [make() if is_first() else None]
    group.broadcast_object_list(held, src=0)
    return cast(Value, held[0])


def wait_for_all() -> None:
    """Return when every process has called this."""
    if count() > 1:
        import torch.distributed as group

        group.barrier()


@contextmanager
def open_stage(folder: Path, config: Mapping[str, Any]) -> Iterator[AnyStage]:
    """The run's stage: open for writing in the first process; the others get a copy of its rows and manifest."""
    if not is_first():
        held: tuple[list[dict[str, Any]], bool, dict[str, Any]] = from_first(lambda: ([], False, {}))
        rows, done, manifest = held
        yield FollowerStage(folder, UnwrittenRows(rows), done, manifest)
        return
    with Stage(folder, config) as stage:
        if count() > 1:
            ours = list(stage.rows.rows()), stage.done, stage.manifest if stage.done else {}
            from_first(lambda: ours)
        yield stage


def unshared(loader: Any) -> Any:
    """A trainer's data loader that gives whole batches to every process, in the order of a single process.

    accelerate's own data loader would balance rows instead of tokens between processes, and would fill up the last
    batch with rows of the first batch.
    """
    from accelerate.data_loader import BatchSamplerShard

    if isinstance(loader.batch_sampler, BatchSamplerShard):
        loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
        loader.batch_sampler.even_batches = False
    return loader
