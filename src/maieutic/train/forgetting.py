"""What preference tuning makes a model forget: perplexity on conversations it is not trained on, before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from accelerate.utils import broadcast_object_list

from maieutic.core.store import Journal
from maieutic.train.config import DpoConfig
from maieutic.train.data import announce, conversation_rows
from maieutic.train.packing import Row


def forgetting_rows(config: DpoConfig, start: Any) -> Sequence[Row]:
    """The conversations of `config.forgetting`, with the assistant's turns in the loss; empty where none are given.

    Raises:
        EmptyCorpus, ContextTooShort, RenderError: no conversation can be measured.
    """
    if config.forgetting is None:
        return []
    from maieutic.data.corpus import read_corpus

    rows = conversation_rows(
        read_corpus(config.forgetting), start.tokenizer, "assistant", start.frame, start.longest, end=False
    )
    announce(rows.report, "forgetting")
    return list(rows.dataset)


def measure(trainer: Any, rows: Sequence[Row], stage: Any, when: str) -> None:
    """Write the mean negative log-likelihood into the run's rows, unless it is there already.

    Args:
        trainer: a `PairsDPOTrainer`; its model is measured.
        rows: see `forgetting_rows`.
        stage: the run; only the first process writes there.
        when: `before` or `after` training.
    """
    key, first = f"forgetting-{when}", trainer.accelerator.is_main_process
    known = broadcast_object_list([first and key in stage.rows])
    if rows and not known[0]:
        started = time.monotonic()
        found = trainer.likelihood(rows)
        if first:
            stage.rows.append(key, {**found._asdict(), "seconds": time.monotonic() - started})


def perplexities(journal: Journal) -> dict[str, float]:
    """`forgetting_before` and `forgetting_after` (perplexities) and `forgetting_tokens`; empty without measurements."""
    held = {row["key"]: row for row in journal.rows() if row["key"].startswith("forgetting-")}
    if not held:
        return {}
    before, after = (held[f"forgetting-{when}"] for when in ("before", "after"))
    return {
        "forgetting_before": math.exp(before["nll"]),
        "forgetting_after": math.exp(after["nll"]),
        "forgetting_tokens": before["tokens"],
    }
