"""Supervised fine-tuning of either side: ids and labels from `render`, TRL's trainer, a servable checkpoint.

The user's side is PlatoLM's simulator (arXiv 2308.11534): the loss is on what the human wrote, and, which
PlatoLM lacked, on END where the human stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.console import note
from maieutic.train.config import SftConfig
from maieutic.train.data import Rows, announce, conversation_rows, longest
from maieutic.train.launch import launch, several
from maieutic.train.load import quiet
from maieutic.train.loop import TrainResult, arguments, failures, run, summary
from maieutic.train.prepare import adapters, base, finish, one_device, one_piece, teach_end, trainable
from maieutic.train.ranks import Follower, opened


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
    from maieutic.data.corpus import read_corpus

    if several(config):
        return launch("sft", config)
    with opened(config.out, {"method": "sft", **config.settings()}) as stage, quiet():
        if stage.done:
            return TrainResult(stage.folder / "model", stage.manifest)
        start = base(config)
        rows = conversation_rows(
            read_corpus(config.data),
            start.tokenizer,
            config.role,
            start.frame,
            start.longest,
            keep=config.keep,
        )
        announce(rows.report, "train")
        if not rows.report.ends:
            # Rendering gave the tokenizer END all the same; without it the model has no row for that token.
            start = base(config)
        held_out = None
        if config.validation:
            # Where nothing taught END, held-out rows must not ask for it: the model has no row for it.
            held_out = conversation_rows(
                read_corpus(config.validation),
                start.tokenizer,
                config.role,
                start.frame,
                start.longest,
                end=bool(rows.report.ends),
                keep=config.keep,
            )
            announce(held_out.report, "validation")
        model = trainable(config, start.source)
        fresh = teach_end(model, start.tokenizer, start.frame) if rows.report.ends else []
        trainer, resumed = run(
            lambda: make_trainer(config, stage.folder, model, start.tokenizer, rows, held_out, fresh),
            stage,
            "train sft",
        )
        whole = one_piece(trainer)
        if isinstance(stage, Follower):
            return TrainResult(stage.folder / "model", {}, resumed)
        numbers = {**summary(stage, trainer, rows.report.tokens), "data": rows.report.json()}
        with failures(stage.folder):
            finish(config, stage, whole, start, rows, numbers)
        return TrainResult(stage.folder / "model", stage.finish(numbers), resumed)


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
    from maieutic.train.trainers import RowsSFTTrainer

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
        tokens_at_once=config.tokens_at_once,
        joined=joined,
    )
