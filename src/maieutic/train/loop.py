"""Shared by both training methods: trainer arguments, metrics as rows, resuming, errors, summary, loss curve."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from maieutic.core.console import note
from maieutic.core.errors import DiskFull, InputError, MissingExtra, ModelError
from maieutic.core.progress import Progress, track
from maieutic.core.store import full_disk
from maieutic.models.weights import computes_in_bfloat16, has_gpu
from maieutic.train import distributed
from maieutic.train.checkpoint import delete_incomplete, last_complete, mark_complete
from maieutic.train.config import TrainConfig
from maieutic.train.distributed import AnyStage

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
"""Metric names in the trainers' logs → names in rows. Validation metrics have the prefix `eval_` in both."""
_VALIDATION = ("perplexity", "end_f1", "first_turn_diversity")
_PAIR_METRICS = (
    *("accuracy", "margin", "chosen_reward", "rejected_reward"),
    *("chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens"),
)

_TRAIN_COLOUR, _VALIDATION_COLOUR, _END_COLOUR = "#56B4E9", "#D55E00", "#009E73"
"""Okabe and Ito's blue, vermilion and green; markers and line styles differ too."""
_FIGURE_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "maieutic",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


Callbacks = Callable[[Any], Sequence[TrainerCallback]]
"""Creates additional callbacks for a trainer."""


def arguments(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """The keyword arguments that TRL's `SFTConfig` and `DPOConfig` share."""
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
        # Log every step: a mean over several steps would lose its first part when a killed run resumes.
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": config.save_steps,
        # With validation, keep three: the best checkpoint, the last complete one, and the one being written.
        "save_total_limit": 3 if config.validation else 2,
        "eval_strategy": "epoch" if config.validation else "no",
        "report_to": trackers(config.report_to),
        "push_to_hub": False,
        "disable_tqdm": True,
        # Otherwise the other processes log warnings that the first process does not log.
        "log_level_replica": "passive",
        "dataloader_pin_memory": has_gpu(),
        "max_length": None,
    }


def trackers(names: str) -> list[str]:
    """The trackers that a comma-separated list names, or `none`.

    Raises:
        InputError: the trainer does not know the tracker.
        MissingExtra: its library is not installed.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    asked = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    for name in asked:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"report_to: unknown tracker {name!r}", f"Known: {known}; or none.")
        if name not in get_available_reporting_integrations():
            raise MissingExtra(
                f"report_to: {name} is not installed", f"Run: python -m pip install {name.replace('_', '-')}"
            )
    return asked


class _NoStepLeft(Exception):
    """The checkpoint already contains the last step."""


class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes metrics into the run's rows, marks complete checkpoints, and reports progress."""

    def __init__(self, trainer: Any, stage: AnyStage, progress: Progress) -> None:
        self._trainer = trainer
        self._stage = stage
        self._progress = progress
        self._started = self._since = time.monotonic()
        self._loss = math.nan  # of the last step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop if no step is left: the trainer would train one more step before it checks.

        Raises:
            _NoStepLeft: the weights of the last step are loaded.
        """
        if state.global_step >= state.max_steps:
            raise _NoStepLeft

    def _note(self) -> str:
        tokens = self._trainer.computed_tokens
        rate = tokens / max(1e-9, time.monotonic() - self._started)
        return f"loss {self._loss:.3f}, {tokens} tokens, {rate:.0f} tokens/s"

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write a row, unless the step was logged before a kill.

        Raises:
            ModelError: the loss is not finite.
        """
        logs = logs or {}
        kinds = {"loss": "train", "eval_loss": "eval", "eval_perplexity": "validation"}
        kind = next((kind for name, kind in kinds.items() if name in logs), None)
        if kind is None:
            return
        row: dict[str, Any] = {"epoch": logs.get("epoch")}
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
        if kind == "train":
            self._loss = row["loss"]
            self._progress.advance(1, self._note)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete, once every process has written its part."""
        self._stage.rows.sync()
        distributed.wait_for_all()
        if distributed.is_first():
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def run(
    make: Callable[[], Any], stage: AnyStage, label: str, callbacks: Callbacks = lambda trainer: ()
) -> tuple[Any, int | None]:
    """Train to the end, from the last complete checkpoint if there is one.

    Args:
        make: creates the TRL trainer.
        stage: the run; its checkpoints are in its folder `checkpoints`.
        label: name of the progress bar.
        callbacks: creates additional callbacks, which run after `Recorder`.

    Returns:
        The trainer, and the step from which it resumed.

    Raises:
        DiskFull: no space is left; the last complete checkpoint stays.
        ModelError: the device has too little memory, or the loss is not finite.
    """
    folder = stage.folder / "checkpoints"
    start = distributed.from_first(lambda: _prepare_checkpoints(folder))
    with failures(stage.folder):
        trainer = make()
        for printer in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printer)
        done = int(start.name.rpartition("-")[2]) if start else 0
        if start:
            note(f"resuming from step {done}")
        with track(_steps(trainer), label) as progress:
            progress.advance(done, skipped=True)
            for callback in (Recorder(trainer, stage, progress), *callbacks(trainer)):
                trainer.add_callback(callback)
            with suppress(_NoStepLeft):
                trainer.train(resume_from_checkpoint=str(start) if start else None)
    return trainer, done or None


def _prepare_checkpoints(folder: Path) -> Path | None:
    """The last complete checkpoint; incomplete ones are deleted."""
    start = last_complete(folder)
    delete_incomplete(folder)
    return start


def _steps(trainer: Any) -> int:
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    steps_per_epoch = math.ceil(len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps)
    total: int = math.ceil(steps_per_epoch * args.num_train_epochs)
    return total


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """Convert errors about a full disk or full device memory into our errors; libraries raise many types for them."""
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
            f"{folder}: no space is left on the disk",
            "Free some space and run the same command again: it continues.",
        ) from None


def _says_full(error: BaseException) -> bool:
    """Whether an error without an errno (safetensors, torch's archives) means a full disk."""
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


def summary(
    stage: AnyStage, trainer: Any, tokens: int, best: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest's metrics, computed from the rows, so that a resumed run reports the same as an uninterrupted one.

    The validation metrics belong to the saved model: the `best` evaluation, else the last one.
    """
    rows = list(stage.rows.rows())
    train = [row for row in rows if "loss" in row]
    evals = [row for row in rows if "eval_loss" in row]
    validated = {row["step"]: row for row in rows if "eval_perplexity" in row}
    last_epoch = [row for row in train if row["epoch"] > train[-1]["epoch"] - 1] or train
    last = train[-1]
    measured = {name: mean(row[name] for row in last_epoch) for name in _PAIR_METRICS if name in last}
    kept = best or (evals[-1] if evals else {})
    found = validated.get(kept.get("step"), {})
    chosen = {"best_step": best["step"], "best_epoch": best["epoch"]} if best else {}
    return {
        "steps": int(trainer.state.global_step),
        "epochs": last["epoch"],
        "loss": mean(row["loss"] for row in last_epoch),
        "final_loss": last["loss"],
        "eval_loss": kept.get("eval_loss"),
        **measured,
        **{f"eval_{name}": kept[f"eval_{name}"] for name in _PAIR_METRICS if kept and name in last},
        **{f"eval_{name}": found[f"eval_{name}"] for name in _VALIDATION if f"eval_{name}" in found},
        **chosen,
        "tokens": round(tokens * last["epoch"]),
        "seconds": sum(row["seconds"] for row in rows),
        "device": str(trainer.args.device),
        "processes": distributed.count(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


def draw_loss_curve(stage: AnyStage, best: int | None) -> Path | None:
    """Draw the losses and the F1 of END into `learning.svg` in the run's folder.

    Args:
        stage: the run.
        best: the step of the checkpoint that became the model.

    Returns:
        The file; null where matplotlib is not installed, with a note.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        note("no loss curve: matplotlib is not installed (pip install 'maieutic[report]')")
        return None
    rows = list(stage.rows.rows())
    path = stage.folder / "learning.svg"
    with rc_context(_FIGURE_STYLE), full_disk(path):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        _paint(figure, rows, best)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path


def _paint(figure: Any, rows: Sequence[dict[str, Any]], best: int | None) -> None:
    axes = figure.add_subplot()
    axes.plot(*_points(rows, "loss"), color=_TRAIN_COLOUR, linewidth=1, label="training loss")
    validation = _points(rows, "eval_loss")
    if validation[0]:
        axes.plot(*validation, color=_VALIDATION_COLOUR, marker="o", label="validation loss")
    if best is not None:
        axes.axvline(best, color="black", linewidth=1, linestyle=":", label="kept as the model")
    axes.set_xlabel("step")
    axes.set_ylabel("loss per token")
    lines, labels = axes.get_legend_handles_labels()
    ends = _points(rows, "eval_end_f1")
    if ends[0]:
        right = axes.twinx()
        lines += right.plot(*ends, color=_END_COLOUR, marker="s", linestyle="--")
        labels.append("F1 of END")
        right.set_ylim(0, 1)
        right.set_ylabel("F1 of END")
        right.spines["right"].set_visible(True)
    figure.legend(lines, labels, loc="outside upper center", ncols=len(lines), frameon=False, fontsize=9)


def _points(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]
