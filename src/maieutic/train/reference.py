"""What the reference says of each reply, computed once and kept in the run's folder: a kill costs no second pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from accelerate.utils import broadcast_object_list

from maieutic.core.store import Journal
from maieutic.train.pairs import Pair


class Reference:
    """Log-probabilities of chosen and rejected replies, under what decides them: weights, precision and ids.

    Args:
        path: the file. One process writes it, and tells the others what stands there.
        of: the weights and how they compute.
        accelerator: knows the processes.
    """

    def __init__(self, path: Path, of: str, accelerator: Any) -> None:
        self._of = of.encode()
        self._journal = Journal(path) if accelerator.is_main_process else None
        held = [{row["key"]: row["logps"] for row in self._journal.rows()} if self._journal else {}]
        broadcast_object_list(held)
        self._known: dict[str, list[float]] = held[0]

    def __contains__(self, pair: Pair) -> bool:
        return self._key(pair) in self._known

    def __getitem__(self, pair: Pair) -> list[float]:
        return self._known[self._key(pair)]

    def add(self, pair: Pair, logps: Sequence[float]) -> None:
        """Keep the log-probabilities of a pair's chosen and rejected reply."""
        key = self._key(pair)
        self._known[key] = list(logps)
        if self._journal:
            self._journal.append(key, {"logps": self._known[key]})

    def _key(self, pair: Pair) -> str:
        key = hashlib.sha256(self._of)
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            ids = np.asarray(pair[name], dtype=np.int32)
            key.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        return key.hexdigest()[:32]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._journal:
            self._journal.close()
