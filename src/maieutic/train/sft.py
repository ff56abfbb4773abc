"""Supervised fine-tuning of either side: ids and labels from `render`, TRL's trainer, a servable checkpoint.

The user's side is PlatoLM's simulator (arXiv 2308.11534): the loss is on what the human wrote, and, which
PlatoLM lacked, on END where the human stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.core.console import note
from maieutic.core.store import Stage
from maieutic.models.weights import quiet
from maieutic.train.best import EvaluateFirst, KeepBest, load_best
from maieutic.train.condition import Mixture
from maieutic.train.config import SftConfig
from maieutic.train.data import Rows, announce, conversation_rows, longest
from maieutic.train.distributed import Follower, opened
from maieutic.train.launch import launch, several
from maieutic.train.loop import TrainResult, arguments, failures, run, summary, trackers
from maieutic.train.loss_curve import draw_curve
from maieutic.train.prepare import (
    Base,
    adapters,
    base,
    ends,
    finish,
    one_device,
    one_piece,
    teach_end,
    trainable,
)
from maieutic.train.validation import HeldOut, Measuring


def sft(config: SftConfig) -> TrainResult:
    """Fine-tune a model on the turns of one role, or go on with the run that `config.out` holds.

    Raises:
        RunConflict: `config.out` holds another run.
        EmptyCorpus, ContextTooShort, RenderError: there is nothing to train on, or it cannot be rendered.
        UnknownModel, MissingInput: the model or the data is not there.
        InputError: the processes asked for do not fit the batch or the machine.
        ProcessLost: one of them died; the others are ended too.
        DiskFull, ModelError: writing or computing failed; what is there stays, and the same command goes on.
    """
    if several(config):
        return launch("sft", config)
    with opened(config.out, {"method": "sft", **config.settings()}) as stage, quiet():
        if stage.done:
            return TrainResult(stage.folder / "model", stage.manifest)
        trackers(config.report_to)  # a wrong name is refused before anything is rendered
        start = base(config)
        rows = _rows(config, start, config.data, "train")
        if not rows.report.ends:
            # Rendering gave the tokenizer END all the same; without it the model has no row for that token.
            start = base(config)
        held_out = measured = None
        if config.validation:
            # Where nothing taught END, held-out rows must not ask for it: the model has no row for it.
            held_out = _rows(config, start, config.validation, "validation", ends(config, start, rows))
            measured = HeldOut(held_out.talks or [], start.tokenizer, start.frame, config.role)
        model = trainable(config, start.source)
        fresh = teach_end(model, start.tokenizer, start.frame) if rows.report.ends else []
        trainer, resumed = run(
            lambda: make_trainer(config, stage.folder, model, start.tokenizer, rows, held_out, fresh),
            stage,
            "train sft",
            lambda trainer: _watch(config, stage, trainer, measured),
        )
        with failures(stage.folder):
            best = load_best(trainer, stage)
            whole = one_piece(trainer)
            if isinstance(stage, Follower):
                return TrainResult(stage.folder / "model", {}, resumed)
            numbers = {
                **summary(stage, trainer, rows.report.tokens, best),
                **(measured.people() if measured else {}),
                "data": rows.report.json(),
            }
            finish(config, stage, whole, start, rows, numbers)
        draw_curve(stage, best["step"] if best else None)
        return TrainResult(stage.folder / "model", stage.finish(numbers), resumed)


def _rows(config: SftConfig, start: Base, data: Path, name: str, end: bool = True) -> Rows:
    """A corpus' rows, told what each is told; of the held-out ones the conversations too."""
    from maieutic.data.corpus import read_corpus

    rows = conversation_rows(
        read_corpus(data),
        start.tokenizer,
        config.role,
        start.frame,
        start.longest,
        end,
        config.keep,
        Mixture(config.condition, config.seed, start.frame.system) if config.condition else None,
        keep_talks=name == "validation",
    )
    announce(rows.report, name)
    return rows


def _watch(config: SftConfig, stage: Stage | Follower, trainer: Any, measured: HeldOut | None) -> list[Any]:
    """What goes on at the end of an epoch, in this order."""
    if measured is None:
        return []
    return [EvaluateFirst(), Measuring(trainer, measured, stage), KeepBest(stage, config.early_stopping)]


def make_trainer(
    config: SftConfig,
    folder: Path,
    model: Any,
    tokenizer: Any,
    rows: Rows,
    held_out: Rows | None,
    fresh: list[int],
) -> Any:
    """TRL's trainer over finished columns: it tokenizes, cuts and masks nothing."""
    from trl import SFTConfig

    from maieutic.train.logps import joins
    from maieutic.train.sft_trainer import RowsSFTTrainer

    args = SFTConfig(
        **arguments(config, folder / "checkpoints"),
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    one_device(args)
    joined = joins(model, longest(rows))
    if not joined:
        note("this model's rows cannot be joined; they are padded, which takes longer")
    return RowsSFTTrainer(
        model=model,
        args=args,
        train_dataset=rows.dataset.with_format("numpy"),
        eval_dataset=held_out.dataset.with_format("numpy") if held_out else None,
        processing_class=tokenizer,
        peft_config=adapters(config, model, fresh),
        max_tokens_per_batch=config.max_tokens_per_batch,
        joined=joined,
    )
