"""Supervised fine-tuning of either side: ids and labels from `render`, TRL's trainer, a checkpoint that can be served.

Training on the user's side gives PlatoLM's simulator (arXiv 2308.11534): the loss is on the human's turns. Unlike in
PlatoLM, the loss is also on END where the human ended the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import SFTTrainer

from maieutic.core.console import note
from maieutic.data.corpus import read_corpus
from maieutic.models.weights import quiet
from maieutic.train.attention import has_flash, segmented
from maieutic.train.base import (
    Base,
    add_end_embedding,
    load_trainable,
    lora_config,
    open_base,
    use_one_gpu,
    writes_end,
)
from maieutic.train.checkpoint import gather_model, save_result
from maieutic.train.config import SftConfig, TrainResult
from maieutic.train.distributed import AnyStage, FollowerStage, open_stage, unshared
from maieutic.train.loop import arguments, draw_loss_curve, failures, run, summary, trackers
from maieutic.train.packing import MicroBatch, Row, micro_batches, shares, supports_packing, token_logps
from maieutic.train.rows import Mixture, Rows, announce, conversation_rows, longest
from maieutic.train.validation import EvaluateFirst, KeepBest, Measure, Validation, load_best


def sft(config: SftConfig, out: Path) -> TrainResult:
    """Fine-tune in this process. See `steps.TrainSft.run`."""
    with open_stage(out, config.identity()) as stage, quiet():
        if stage.done:
            return TrainResult(run=str(out), model=out / "model", metrics=stage.manifest)
        trackers(config.report_to)  # reject a wrong name before rendering rows
        base = open_base(config)
        rows = _rows(config, base, config.data, "train")
        if not rows.report.ends:
            # Rendering added END to the tokenizer even so, and the model has no embedding for it.
            base = open_base(config)
        validation_rows = validation = None
        if config.validation:
            # Without END in training, validation rows must not contain it: the model has no embedding for it.
            end = writes_end(config, base, rows)
            validation_rows = _rows(config, base, config.validation, "validation", end)
            validation = Validation(
                validation_rows.conversations or [], base.tokenizer, base.frame, config.role
            )
        model = load_trainable(config, base.source)
        new_ids = add_end_embedding(model, base.tokenizer, base.frame) if rows.report.ends else []
        trainer, resumed = run(
            lambda: make_trainer(config, out, model, base.tokenizer, rows, validation_rows, new_ids),
            stage,
            "train sft",
            lambda trainer: _callbacks(config, stage, trainer, validation),
        )
        with failures(stage.folder):
            best = load_best(trainer, stage)
            whole = gather_model(trainer)
            if isinstance(stage, FollowerStage):
                return TrainResult(run=str(out), model=out / "model", metrics={}, resumed_from=resumed)
            numbers = {
                **summary(stage, trainer, rows.report.tokens, best),
                **(validation.people() if validation else {}),
                "data": rows.report.json(),
            }
            save_result(config, stage, whole, base, rows, numbers)
        draw_loss_curve(stage, best["step"] if best else None)
        manifest = stage.finish(numbers)
        return TrainResult(run=str(out), model=out / "model", metrics=manifest, resumed_from=resumed)


def _rows(config: SftConfig, base: Base, data: Path, name: str, end: bool = True) -> Rows:
    rows = conversation_rows(
        read_corpus(data),
        base.tokenizer,
        config.role,
        base.frame,
        base.longest,
        end,
        config.keep,
        Mixture(config.condition, config.seed, base.frame.system) if config.condition else None,
        keep_conversations=name == "validation",
    )
    announce(rows.report, name)
    return rows


def _callbacks(
    config: SftConfig, stage: AnyStage, trainer: Any, validation: Validation | None
) -> Sequence[Any]:
    """The callbacks at the end of an epoch, in this order."""
    if validation is None:
        return []
    return [EvaluateFirst(), Measure(trainer, validation, stage), KeepBest(stage, config.early_stopping)]


def make_trainer(
    config: SftConfig,
    out: Path,
    model: Any,
    tokenizer: Any,
    rows: Rows,
    validation: Rows | None,
    new_ids: list[int],
) -> Any:
    """TRL's trainer for tokenized rows: it does not tokenize, truncate or mask."""
    from trl import SFTConfig as Arguments

    args = Arguments(
        **arguments(config, out / "checkpoints"), packing=False, dataset_kwargs={"skip_prepare_dataset": True}
    )
    use_one_gpu(args)
    packed = supports_packing(model, longest(rows))
    if not packed:
        note("the rows of this model cannot be packed; they are padded, which is slower")
    return RowsSFTTrainer(
        model=model,
        args=args,
        train_dataset=rows.dataset.with_format("numpy"),
        eval_dataset=validation.dataset.with_format("numpy") if validation else None,
        processing_class=tokenizer,
        peft_config=lora_config(config, model, new_ids),
        max_tokens=config.max_tokens_per_batch,
        packed=packed,
    )


class RowsSFTTrainer(SFTTrainer):  # type: ignore[misc]  # trl is not typed
    """`SFTTrainer` that gets the rows of one optimizer step at a time and computes them in micro-batches.

    The loss is the mean over the supervised tokens of the whole step, as if all its rows were one batch, regardless of
    the division into micro-batches and processes. TRL's telemetry and model cards are off.

    Args:
        max_tokens: tokens of a micro-batch.
        packed: whether the model supports packed rows (`packing.supports_packing`).
    """

    control: Any

    def __init__(self, *args: Any, max_tokens: int, packed: bool, **kwargs: Any) -> None:
        super().__init__(*args, data_collator=_rows_as_they_are, **kwargs)
        self.computed_tokens = 0
        """Tokens of the rows trained on so far, in all processes."""
        self._max_tokens = max_tokens
        self._packed = packed
        self._flash = packed and self.args.bf16 and has_flash()

    def training_step(
        self, model: Any, inputs: dict[str, list[Row]], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Compute the gradients of a step's rows; returns their loss."""
        model.train()
        batches = self._share(inputs["rows"])
        supervised = float(self._over_all(sum(len(batch.targets) * counts for batch, counts in batches)))
        # Gradients are averaged over processes, but their sum is needed.
        scale = self.accelerator.num_processes / supervised
        loss = torch.zeros((), device=self.args.device)
        correct = torch.zeros((), device=self.args.device)
        with self._attention():
            for number, (batch, counts) in enumerate(batches, 1):
                with self._synchronised(model, number == len(batches)):
                    with self.compute_loss_context_manager():
                        found = token_logps(model, batch, self._flash)
                        share = -found.logps.sum() * scale * counts
                    self.accelerator.backward(share)
                loss += share.detach()
                correct += found.correct.sum() * counts
        self._metrics["train"]["mean_token_accuracy"].append(float(self._over_all(correct) / supervised))
        self.computed_tokens += sum(len(row["input_ids"]) for row in inputs["rows"])
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The negative log-likelihood per supervised token of the validation rows, as `eval_loss`."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad(), self._attention():
            for batch, counts in self._share(list(self.eval_dataset)):
                with self.compute_loss_context_manager():
                    total -= float(token_logps(self.model, batch, self._flash).logps.sum()) * counts
                count += len(batch.targets) * counts
        total, count = self._over_all([total, count]).tolist()
        metrics = {"eval_loss": total / max(1, count)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def get_train_dataloader(self) -> Any:
        """Give every process all rows of a step; it computes its share of them."""
        return unshared(super().get_train_dataloader())

    def _share(self, rows: list[Row]) -> list[tuple[MicroBatch, int]]:
        """This process's micro-batches. All processes get equally many; an added micro-batch has weight 0, others 1."""
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        share = shares([len(row["input_ids"]) for row in rows], processes)[index]
        batches = [(batch, 1) for batch in self._micro_batches([rows[number] for number in share])]
        passes = len(batches) if processes == 1 else max(gather_object([len(batches)]))
        # Where weights are spread over processes, all processes must make each pass together.
        return batches + [(self._micro_batches(rows[:1])[0], 0)] * (passes - len(batches))

    def _micro_batches(self, rows: list[Row]) -> list[MicroBatch]:
        return micro_batches(rows, self._max_tokens, self._packed, self.args.device)

    def _attention(self) -> AbstractContextManager[None]:
        return segmented(self.model, self._flash) if self._packed else nullcontext()

    def _synchronised(self, model: Any, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients once a step, with the last micro-batch."""
        without: AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return nullcontext() if last else without

    def _over_all(self, value: Any) -> torch.Tensor:
        """A number, summed over all processes."""
        here = torch.as_tensor(value, device=self.args.device, dtype=torch.float64)
        return self.accelerator.reduce(here, "sum") if self.accelerator.num_processes > 1 else here

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card here; `checkpoint.save_model` writes it."""


def _rows_as_they_are(rows: list[Row]) -> dict[str, list[Row]]:
    """A batch for `training_step`, which divides it."""
    return {"rows": rows}
