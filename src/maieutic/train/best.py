"""The best checkpoint is kept and becomes the model; training may stop once it no longer gets better.

Best is the lowest held-out loss, the earlier one of equals. What decides is the rows, where an evaluation stands before
the checkpoint it leads to is written: a run that was killed and goes on decides by what the killed one had measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from maieutic.core.console import note
from maieutic.core.errors import ModelError
from maieutic.core.store import Stage
from maieutic.train import distributed as ranks
from maieutic.train.checkpoint import COMPLETE
from maieutic.train.distributed import Follower

Row = dict[str, Any]


def evaluations(stage: Stage | Follower) -> list[Row]:
    """The rows of evaluations, in the order of their steps."""
    return sorted((row for row in stage.rows.rows() if "eval_loss" in row), key=lambda row: row["step"])


def best_of(rows: Sequence[Row]) -> Row:
    """The evaluation with the lowest held-out loss."""
    return min(rows, key=lambda row: row["eval_loss"])


def stale(rows: Sequence[Row]) -> int:
    """Evaluations in a row, at the end, that were no better than the best before them."""
    return len(rows) - 1 - list(rows).index(best_of(rows)) if rows else 0


class Found(NamedTuple):
    """What the rows say up to a step."""

    best: int | None
    """The step of the best evaluation."""
    stale: int
    """See `stale`."""


class EvaluateFirst(TrainerCallback):
    """A checkpoint at the end of an epoch waits for the evaluation, which a kill between them would lose."""

    def __init__(self) -> None:
        self._owed = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Not yet."""
        last = control.should_training_stop or float(state.epoch).is_integer()
        if last and control.should_save:
            control.should_save, self._owed = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Now it may be written, after the evaluation."""
        control.should_save = control.should_save or self._owed
        self._owed = False


class KeepBest(TrainerCallback):
    """Saves where it got better, keeps that checkpoint from being thrown away, and stops where it no longer does.

    Args:
        stage: its rows decide.
        patience: evaluations without a better one after which training stops; null: it goes on.
    """

    def __init__(self, stage: Stage | Follower, patience: int | None) -> None:
        self._stage, self._patience = stage, patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say which checkpoint to keep, also where a killed run had found it."""
        state.best_global_step = self._found(state.global_step).best

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save what is best so far; stop where nothing has become better for too long."""
        found = self._found(state.global_step)
        state.best_global_step = found.best
        if found.best == state.global_step:
            control.should_save = True
        elif self._patience and found.stale >= self._patience:
            note(f"stopped at epoch {state.epoch:g}: no better for {found.stale} evaluations")
            # Not saved: a run that went on from here would train further.
            control.should_save, control.should_training_stop = False, True

    def _found(self, step: int) -> Found:
        """What the first process's rows say: a last digit that differs must not part the processes."""
        return ranks.from_first(lambda: self._said(step))

    def _said(self, step: int) -> Found:
        """What the rows say, once they are safe: a checkpoint may be thrown away for it."""
        self._stage.rows.sync()
        rows = [row for row in evaluations(self._stage) if row["step"] <= step]
        return Found(best_of(rows)["step"] if rows else None, stale(rows))


def load_best(trainer: Any, stage: Stage | Follower) -> Row | None:
    """Put the best checkpoint's weights into the trainer's model, unless it holds them already; the best evaluation.

    Raises:
        ModelError: that checkpoint is gone.
    """
    rows = evaluations(stage)
    if not rows:
        return None
    best = best_of(rows)
    if best["step"] != trainer.state.global_step:
        checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{best['step']}"
        if not (checkpoint / COMPLETE).is_file():
            raise ModelError(
                f"{checkpoint}, the run's best, is not there any more",
                "Put it back, or train again into another folder.",
            )
        trainer.state.best_model_checkpoint = str(checkpoint)
        trainer._load_best_model()
    return best
