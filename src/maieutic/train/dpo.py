"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290) of an assistant on pairs of replies.

The prompt's ids are those that generation starts from, and nothing is cut. The reference is the model's own
start: its log-probabilities are computed once, before the first step, so no second model is held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.store import Stage
from maieutic.train.config import DpoConfig
from maieutic.train.data import Rows, announce, preference_rows, read_preferences
from maieutic.train.load import quiet
from maieutic.train.loop import TrainResult, arguments, failures, run, summary
from maieutic.train.prepare import Base, adapters, base, finish, one_device, trainable


def dpo(config: DpoConfig) -> TrainResult:
    """Tune an assistant on preference pairs, or go on with the run that `config.out` holds.

    Raises:
        RunConflict: `config.out` holds another run.
        EmptyCorpus, ContextTooShort, RenderError, InputError: no pairs, or some that cannot be used.
        UnknownModel, MissingInput: the model or the data is not there.
        DiskFull, ModelError: writing or computing failed; what is there stays, and the same command goes on.
    """
    with Stage(config.out, {"method": "dpo", **config.settings()}) as stage, quiet():
        if stage.done:
            return TrainResult(stage.folder / "model", stage.manifest)
        start = base(config)
        rows = _rows(config.data, config, start, "train")
        held_out = _rows(config.validation, config, start, "validation") if config.validation else None
        model = trainable(config, start.source)
        trainer, resumed = run(
            lambda: make_trainer(config, stage.folder, model, start.tokenizer, rows, held_out),
            stage,
            "train dpo",
        )
        numbers = {**summary(stage, trainer, rows.report.tokens), "data": rows.report.json()}
        with failures(stage.folder):
            finish(config, stage, trainer, start, rows, numbers)
        return TrainResult(stage.folder / "model", stage.finish(numbers), resumed)


def _rows(path: Path, config: DpoConfig, start: Base, name: str) -> Rows:
    read = read_preferences(path)
    rows = preference_rows(read.pairs, start.tokenizer, start.frame, start.longest, config.drop_too_long)
    rows = rows._replace(report=rows.report._replace(broken=read.broken))
    announce(rows.report, name)
    return rows


def make_trainer(
    config: DpoConfig, folder: Path, model: Any, tokenizer: Any, rows: Rows, held_out: Rows | None
) -> Any:
    """TRL's trainer over finished columns, with the reference's log-probabilities computed at once."""
    from trl import DPOConfig

    from maieutic.train.trainers import ColumnsDPOTrainer

    at_once = config.rows_at_once
    args = DPOConfig(
        **{
            **arguments(config, folder / "checkpoints"),
            "per_device_train_batch_size": at_once,
            "per_device_eval_batch_size": at_once,
            "gradient_accumulation_steps": config.batch // at_once,
        },
        beta=config.beta,
        precompute_ref_log_probs=True,
    )
    one_device(args)
    return ColumnsDPOTrainer(
        model=model,
        args=args,
        train_dataset=rows.dataset,
        eval_dataset=held_out.dataset if held_out else None,
        processing_class=tokenizer,
        peft_config=adapters(config, model, []),
    )
