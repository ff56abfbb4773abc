"""What both trainers share: arguments, rows of metrics, going on after a kill, failures in two lines."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean as mean
from typing import Any, NamedTuple

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from maieutic.core.console import note
from maieutic.core.errors import DiskFull, InputError, MissingExtra, ModelError
from maieutic.core.progress import Progress, track
from maieutic.core.store import Stage
from maieutic.models.weights import computes_in_bfloat16, has_gpu
from maieutic.train import distributed as ranks
from maieutic.train.checkpoint import forget_incomplete, last_complete, mark_complete
from maieutic.train.config import TrainConfig
from maieutic.train.distributed import Follower

_NAMES = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
    "lengths/chosen": "chosen_tokens",
    "lengths/rejected": "rejected_tokens",
    "perplexity": "perplexity",
    "end_f1": "end_f1",
    "first_turn_diversity": "first_turn_diversity",
}
"""What the trainers log, under the names our rows use; held-out ones get `eval_` in front of both."""
_HELD_OUT = ("perplexity", "end_f1", "first_turn_diversity")
_OF_PAIRS = (
    *("accuracy", "margin", "chosen_reward", "rejected_reward"),
    *("chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens"),
)


Watch = Callable[[Any], Sequence[TrainerCallback]]
"""Makes callbacks for a trainer."""


class TrainResult(NamedTuple):
    """What a training run came to."""

    model: Path
    """The finished checkpoint."""
    manifest: dict[str, Any]
    """`steps`, `loss` (mean of the last epoch), `final_loss`, `eval_loss`, `tokens`, `seconds` and more."""
    resumed_from: int | None = None
    """The step an interrupted run went on from."""

    def json(self) -> dict[str, Any]:
        """As printed."""
        return {"model": str(self.model), **self.manifest, "resumed_from": self.resumed_from}


def arguments(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """The keyword arguments that TRL's `SFTConfig` and `DPOConfig` have in common, from our settings."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.learning_rate,
        "per_device_train_batch_size": config.batch_size,
        "optim": "adamw_torch_fused",
        "use_liger_kernel": has_gpu() and find_spec("liger_kernel") is not None,
        "ddp_find_unused_parameters": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup_ratio,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": computes_in_bfloat16(config.precision),
        "use_cpu": not has_gpu(),
        "seed": config.seed,
        "data_seed": config.seed,
        # Every step is logged: a mean over several would lose its first part when a killed run goes on.
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": config.save_steps,
        # One more where the best is kept: a kill must find a whole one beside it and the one being written.
        "save_total_limit": 3 if config.validation else 2,
        "eval_strategy": "epoch" if config.validation else "no",
        "report_to": trackers(config.report_to),
        "push_to_hub": False,
        "disable_tqdm": True,
        # Else every process but the first warns of what this one keeps quiet about.
        "log_level_replica": "passive",
        "dataloader_pin_memory": has_gpu(),
        "max_length": None,
    }


def trackers(names: str) -> list[str]:
    """The trackers that a comma-separated list names, or `none`.

    Raises:
        InputError: the trainer knows no such tracker.
        MissingExtra: its library is not installed.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    asked = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    for name in asked:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"report_to: no tracker {name!r}", f"Known: {known}; or none.")
        if name not in get_available_reporting_integrations():
            raise MissingExtra(
                f"report_to: {name} is not installed", f"Run: python -m pip install {name.replace('_', '-')}"
            )
    return asked


class _Over(Exception):
    """There is no step left to train."""


class Recorder(TrainerCallback):
    """Writes each step's metrics into the stage's rows, marks whole checkpoints, and moves the bar."""

    def __init__(self, stage: Stage | Follower, bar: Progress) -> None:
        self._stage = stage
        self._bar = bar
        self._since = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where the checkpoint is that of the last step: the trainer would take one more before it looks.

        Raises:
            _Over: it is; its weights are loaded.
        """
        if state.global_step >= state.max_steps:
            raise _Over

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self._bar.advance()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write a row; a step that was logged before a kill keeps its first row.

        Raises:
            ModelError: the loss is no number any more.
        """
        logs = logs or {}
        kinds = {"loss": "train", "eval_loss": "eval", "eval_perplexity": "held-out"}
        kind = next((kind for name, kind in kinds.items() if name in logs), None)
        if kind is None:
            return
        row = {"epoch": logs.get("epoch")}
        for name, ours in _NAMES.items():
            theirs, mine = (name, ours) if kind == "train" else (f"eval_{name}", f"eval_{ours}")
            if theirs in logs:
                row[mine] = logs[theirs]
        loss = row.get("loss", row.get("eval_loss"))
        if loss is not None and not math.isfinite(loss):
            raise ModelError(
                f"the loss is {loss} at step {state.global_step}",
                "Lower --learning-rate, or use --precision float32.",
            )
        now = time.monotonic()
        key = f"{kind}-{state.global_step}"
        if key not in self._stage.rows:
            self._stage.rows.append(key, {"step": state.global_step, **row, "seconds": now - self._since})
        self._since = now
        if loss is not None:
            self._bar.advance(0, note=f"loss {loss:.3f}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint, once every process has written its part of it."""
        self._stage.rows.sync()
        ranks.wait_for_all()
        if ranks.is_first():
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def run(
    make: Callable[[], Any], stage: Stage | Follower, label: str, watch: Watch | None = None
) -> tuple[Any, int | None]:
    """Train to the end, from the last whole checkpoint where there is one.

    Args:
        make: builds the TRL trainer.
        stage: holds the run; checkpoints lie in its `checkpoints`.
        label: what the bar is called.
        watch: callbacks for a trainer, which come after the one that writes the rows.

    Returns:
        The trainer, and the step it went on from.

    Raises:
        DiskFull: no space is left; the last whole checkpoint stays.
        ModelError: the device has too little memory, or the loss is no number.
    """
    folder = stage.folder / "checkpoints"
    start = ranks.from_first(lambda: _last_alone(folder))
    with failures(stage.folder):
        trainer = make()
        for printer in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printer)
        done = int(start.name.rpartition("-")[2]) if start else 0
        if start:
            note(f"going on from step {done}")
        with track(_steps(trainer), label) as bar:
            bar.advance(done)
            for callback in (Recorder(stage, bar), *(watch(trainer) if watch else ())):
                trainer.add_callback(callback)
            with suppress(_Over):
                trainer.train(resume_from_checkpoint=str(start) if start else None)
    return trainer, done or None


def _last_alone(folder: Path) -> Path | None:
    """The last whole checkpoint, after the halves a kill left are gone."""
    start = last_complete(folder)
    forget_incomplete(folder)
    return start


def _steps(trainer: Any) -> int:
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    a_pass = math.ceil(len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps)
    return math.ceil(a_pass * args.num_train_epochs)


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """A full disk and a full device, said in two lines; libraries raise them in many ways."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise ModelError(
            "the device ran out of memory",
            "Lower --max-tokens-per-batch, --micro-batch-size or --max-length, or use --lora-r or "
            "--gradient-checkpointing.",
        ) from None
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if isinstance(error, DiskFull) or not (full or _says_full(error)):
            raise
        raise DiskFull(
            f"{folder}: no space is left on the disk", "Free some and run the same command again: it goes on."
        ) from None


def _says_full(error: BaseException) -> bool:
    """Whether a writer without an errno (safetensors, torch's archives) means a full disk."""
    text = f"{error} {error.__cause__ or ''} {error.__context__ or ''}"
    return any(
        sign in text
        for sign in (
            "os error 28",
            "os error 27",
            "No space left",
            "inline_container.cc",
            "PytorchStreamWriter",
        )
    )


def summary(stage: Stage, trainer: Any, tokens: int, best: dict[str, Any] | None = None) -> dict[str, Any]:
    """The manifest's numbers, from the rows, so that a run in several parts sums up like one in one.

    Held-out ones are those of the model that is kept: of the `best` evaluation, else of the last.
    """
    rows = list(stage.rows.rows())
    train = [row for row in rows if "loss" in row]
    evals = [row for row in rows if "eval_loss" in row]
    held_out = {row["step"]: row for row in rows if "eval_perplexity" in row}
    last_epoch = [row for row in train if row["epoch"] > train[-1]["epoch"] - 1] or train
    last = train[-1]
    measured = {name: mean(row[name] for row in last_epoch) for name in _OF_PAIRS if name in last}
    kept = best or (evals[-1] if evals else {})
    found = held_out.get(kept.get("step"), {})
    chosen = {"best_step": best["step"], "best_epoch": best["epoch"]} if best else {}
    return {
        "steps": int(trainer.state.global_step),
        "epochs": last["epoch"],
        "loss": mean(row["loss"] for row in last_epoch),
        "final_loss": last["loss"],
        "eval_loss": kept.get("eval_loss"),
        **measured,
        **{f"eval_{name}": kept[f"eval_{name}"] for name in _OF_PAIRS if kept and name in last},
        **{f"eval_{name}": found[f"eval_{name}"] for name in _HELD_OUT if f"eval_{name}" in found},
        **chosen,
        "tokens": round(tokens * last["epoch"]),
        "seconds": sum(row["seconds"] for row in rows),
        "device": str(trainer.args.device),
        "processes": ranks.count(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }
