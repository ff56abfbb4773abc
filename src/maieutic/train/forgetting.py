"""What preference tuning does to ordinary conversations: the model's perplexity on their assistant's turns."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from accelerate.utils import broadcast_object_list

from maieutic.core.store import Journal
from maieutic.train.config import DpoConfig
from maieutic.train.data import announce, conversation_rows
from maieutic.train.packing import Row


class Ordinary(NamedTuple):
    """Perplexity a token of the assistant's turns of conversations that were not trained on."""

    before: float
    after: float
    tokens: int

    def json(self) -> dict[str, float]:
        """As the manifest has it."""
        return {f"ordinary_{name}": value for name, value in self._asdict().items()}


def ordinary_rows(config: DpoConfig, start: Any) -> Sequence[Row]:
    """The ordinary conversations; none where none were given.

    Raises:
        EmptyCorpus, ContextTooShort, RenderError: there are none to measure on.
    """
    if config.forgetting is None:
        return []
    from maieutic.data.corpus import read_corpus

    rows = conversation_rows(
        read_corpus(config.forgetting), start.tokenizer, "assistant", start.frame, start.longest, end=False
    )
    announce(rows.report, "ordinary")
    return list(rows.dataset)


def measure(trainer: Any, rows: Sequence[Row], stage: Any, when: str) -> None:
    """Write the mean negative log-likelihood into the run's rows, unless an earlier call has.

    Args:
        trainer: a `PairsDPOTrainer`; its model is measured.
        rows: see `ordinary_rows`.
        stage: the run; only the first process writes there.
        when: `before` or `after`.
    """
    key, first = f"ordinary-{when}", trainer.accelerator.is_main_process
    known = broadcast_object_list([first and key in stage.rows])
    if rows and not known[0]:
        started = time.monotonic()
        found = trainer.likelihood(rows)
        if first:
            stage.rows.append(key, {**found._asdict(), "seconds": time.monotonic() - started})


def told(journal: Journal) -> dict[str, float]:
    """Both perplexities, for the manifest; nothing where nothing was measured."""
    held = {row["key"]: row for row in journal.rows() if row["key"].startswith("ordinary-")}
    if not held:
        return {}
    before, after = (held[f"ordinary-{when}"] for when in ("before", "after"))
    return Ordinary(math.exp(before["nll"]), math.exp(after["nll"]), before["tokens"]).json()
