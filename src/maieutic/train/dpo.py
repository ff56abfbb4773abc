"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290) of an assistant on pairs of replies.

The prompt's ids are those that generation starts from, and nothing is cut inside a turn. The reference is the model's
own start: its log-probabilities are computed once, before the first step, so no second model is held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.core.console import note
from maieutic.models.weights import quiet
from maieutic.train import forgetting
from maieutic.train.best import EvaluateFirst
from maieutic.train.config import DpoConfig
from maieutic.train.data import Rows, announce, preference_rows, read_preferences
from maieutic.train.distributed import Follower, opened
from maieutic.train.launch import launch, several
from maieutic.train.loop import TrainResult, arguments, failures, run, summary, trackers
from maieutic.train.prepare import Base, adapters, base, finish, one_device, one_piece, trainable


def dpo(config: DpoConfig) -> TrainResult:
    """Tune an assistant on preference pairs, or go on with the run that `config.out` holds.

    Raises:
        RunConflict: `config.out` holds another run.
        EmptyCorpus, ContextTooShort, RenderError, InputError: no pairs, or some that cannot be used.
        UnknownModel, MissingInput: the model or the data is not there.
        ProcessLost: one of the processes asked for died; the others are ended too.
        DiskFull, ModelError: writing or computing failed; what is there stays, and the same command goes on.
    """
    if several(config):
        return launch("dpo", config)
    with opened(config.out, {"method": "dpo", **config.settings()}) as stage, quiet():
        if stage.done:
            return TrainResult(stage.folder / "model", stage.manifest)
        trackers(config.report_to)  # a wrong name is refused before anything is rendered
        start = base(config)
        rows = _rows(config.data, config, start, "train")
        held_out = _rows(config.validation, config, start, "validation") if config.validation else None
        others = forgetting.forgetting_rows(config, start)
        model = trainable(config, start.source)

        def make() -> Any:
            trainer = make_trainer(config, stage.folder, model, start, rows, held_out)
            forgetting.measure(trainer, others, stage, "before")
            return trainer

        trainer, resumed = run(
            make, stage, "train dpo", lambda _: [EvaluateFirst()] if config.validation else []
        )
        with failures(stage.folder):
            forgetting.measure(trainer, others, stage, "after")
            whole = one_piece(trainer)
            if isinstance(stage, Follower):
                return TrainResult(stage.folder / "model", {}, resumed)
            measured = summary(stage, trainer, rows.report.tokens)
            numbers = {
                **measured,
                "chosen_falls": chosen_falls(measured),
                **forgetting.perplexities(stage.rows),
                "data": rows.report.json(),
            }
            finish(config, stage, whole, start, rows, numbers)
        return TrainResult(stage.folder / "model", stage.finish(numbers), resumed)


def chosen_falls(measured: dict[str, Any]) -> bool:
    """Whether chosen replies became less likely while the margin grew, of held-out pairs where there are some; said.

    The margin then grows only because rejected replies fall faster, and what rises instead is neither (Pal et al.,
    arXiv 2402.13228).
    """
    where = "eval_" if measured.get("eval_margin") is not None else ""
    falls = bool(measured[f"{where}chosen_reward"] < 0 < measured[f"{where}margin"])
    if falls:
        note(
            f"chosen replies{' held out' if where else ''} became less likely than before training while the margin "
            f"grew to {measured[f'{where}margin']:.3f}: a lower --learning-rate, a higher --beta or --loss ipo holds "
            "the model closer to its start"
        )
    return falls


def _rows(path: Path, config: DpoConfig, start: Base, name: str) -> Rows:
    read = read_preferences(path)
    rows = preference_rows(
        read.pairs, start.tokenizer, start.frame, start.longest, config.drop_too_long, config.keep
    )
    rows = rows._replace(report=rows.report._replace(broken=read.broken))
    announce(rows.report, name)
    return rows


def make_trainer(
    config: DpoConfig, folder: Path, model: Any, start: Base, rows: Rows, held_out: Rows | None
) -> Any:
    """TRL's trainer over finished columns, with the reference's log-probabilities computed at once."""
    from trl import DPOConfig

    from maieutic.train.dpo_trainer import Limits, PairsDPOTrainer
    from maieutic.train.logps import joins

    args = DPOConfig(
        **arguments(config, folder / "checkpoints"),
        beta=config.beta,
        loss_type=[config.loss],
        # What balances a mixture of experts is computed in a model's own loss, which is not asked for.
        router_aux_loss_coef=0.0,
        precompute_ref_log_probs=True,
    )
    one_device(args)
    joined = joins(model, start.longest)
    if not joined:
        note(
            "this model's attention cannot share a prompt between two replies: each is computed with its own"
        )
    return PairsDPOTrainer(
        model=model,
        args=args,
        limits=Limits(config.max_tokens_per_batch, config.micro_batch_size, joined),
        reference=folder / "reference.jsonl",
        train_dataset=rows.dataset.with_format("numpy"),
        eval_dataset=held_out.dataset.with_format("numpy") if held_out else None,
        processing_class=start.tokenizer,
        peft_config=adapters(config, model, []),
    )
