"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290) of an assistant on pairs of replies.

A prompt has the same ids as in generation, and no turn is truncated. The reference is the model before training. Its
log-probabilities are computed once, before the first step, and stored in the run folder. So memory holds one model
only, and a resumed run does not compute them again.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch.nn.functional import logsigmoid
from trl import DPOTrainer

from maieutic.core.console import note
from maieutic.core.store import Journal
from maieutic.data.corpus import read_corpus
from maieutic.models.weights import quiet
from maieutic.train.attention import segmented
from maieutic.train.base import Base, load_trainable, lora_config, open_base, use_one_gpu
from maieutic.train.checkpoint import gather_model, save_result
from maieutic.train.config import DpoConfig, TrainResult
from maieutic.train.distributed import AnyStage, FollowerStage, open_stage, unshared
from maieutic.train.loop import arguments, failures, run, summary, trackers
from maieutic.train.packing import (
    Pair,
    PairBatch,
    Row,
    micro_batches,
    pair_batch,
    plan_pairs,
    reply_sums,
    supports_packing,
    token_logps,
)
from maieutic.train.rows import Rows, announce, conversation_rows, preference_rows, read_preferences
from maieutic.train.validation import EvaluateFirst

_METRICS = (
    "loss",
    "rewards/accuracies",
    "rewards/margins",
    "rewards/chosen",
    "rewards/rejected",
    "logps/chosen",
    "logps/rejected",
    "lengths/chosen",
    "lengths/rejected",
)
"""The metrics of pairs, under TRL's names where it has them."""

Item = TypeVar("Item")


def dpo(config: DpoConfig, out: Path) -> TrainResult:
    """Train in this process. See `steps.TrainDpo.run`."""
    with open_stage(out, config.identity()) as stage, quiet():
        if stage.done:
            return TrainResult(run=str(out), model=out / "model", metrics=stage.manifest)
        trackers(config.report_to)  # reject a wrong name before rendering rows
        base = open_base(config)
        rows = _rows(config.data, config, base, "train")
        validation = _rows(config.validation, config, base, "validation") if config.validation else None
        others = _forgetting_rows(config, base)
        model = load_trainable(config, base.source)

        def make() -> Any:
            trainer = make_trainer(config, out, model, base, rows, validation)
            _measure_forgetting(trainer, others, stage, "before")
            return trainer

        trainer, resumed = run(
            make, stage, "train dpo", lambda _: [EvaluateFirst()] if config.validation else []
        )
        with failures(stage.folder):
            _measure_forgetting(trainer, others, stage, "after")
            whole = gather_model(trainer)
            if isinstance(stage, FollowerStage):
                return TrainResult(run=str(out), model=out / "model", metrics={}, resumed_from=resumed)
            measured = summary(stage, trainer, rows.report.tokens)
            numbers = {
                **measured,
                "chosen_falls": chosen_falls(measured),
                **_forgetting(stage),
                "data": rows.report.json(),
            }
            save_result(config, stage, whole, base, rows, numbers)
        manifest = stage.finish(numbers)
        return TrainResult(run=str(out), model=out / "model", metrics=manifest, resumed_from=resumed)


def chosen_falls(measured: dict[str, Any]) -> bool:
    """Whether chosen replies became less likely while the margin grew; on validation pairs if there are some.

    In this case, the margin grows only because the likelihood of rejected replies falls faster (Pal et al., arXiv
    2402.13228). A note on standard error reports it.
    """
    prefix = "eval_" if measured.get("eval_margin") is not None else ""
    falls = bool(measured[f"{prefix}chosen_reward"] < 0 < measured[f"{prefix}margin"])
    if falls:
        note(
            f"chosen replies{' of validation pairs' if prefix else ''} became less likely than before training while "
            f"the margin grew to {measured[f'{prefix}margin']:.3f}: a lower --learning-rate, a higher --beta or "
            "--loss ipo keeps the model closer to the reference"
        )
    return falls


def _rows(path: Path, config: DpoConfig, base: Base, name: str) -> Rows:
    read = read_preferences(path)
    rows = preference_rows(
        read.pairs, base.tokenizer, base.frame, base.longest, config.drop_too_long, config.keep
    )
    rows = rows._replace(report=rows.report._replace(broken=read.broken))
    announce(rows.report, name)
    return rows


def make_trainer(
    config: DpoConfig, out: Path, model: Any, base: Base, rows: Rows, validation: Rows | None
) -> Any:
    """TRL's trainer for tokenized pairs. The reference's log-probabilities are read from the run folder or computed."""
    from trl import DPOConfig as Arguments

    args = Arguments(
        **arguments(config, out / "checkpoints"),
        beta=config.beta,
        loss_type=[config.loss],
        # A mixture-of-experts model computes its balancing loss in its own loss function, which is not used here.
        router_aux_loss_coef=0.0,
        precompute_ref_log_probs=True,
    )
    use_one_gpu(args)
    packed = supports_packing(model, base.longest)
    if not packed:
        note(
            "this model's attention cannot share a prompt between two replies: each prompt is computed twice"
        )
    return PairsDPOTrainer(
        model=model,
        args=args,
        limits=Limits(config.max_tokens_per_batch, config.micro_batch_size, packed),
        reference=out / "reference.jsonl",
        train_dataset=rows.dataset.with_format("numpy"),
        eval_dataset=validation.dataset.with_format("numpy") if validation else None,
        processing_class=base.tokenizer,
        peft_config=lora_config(config, model, []),
    )


def _forgetting_rows(config: DpoConfig, base: Base) -> Sequence[Row]:
    """The conversations of `config.forgetting`, with the assistant's turns in the loss; empty where none are given."""
    if config.forgetting is None:
        return []
    rows = conversation_rows(
        read_corpus(config.forgetting), base.tokenizer, "assistant", base.frame, base.longest, end=False
    )
    announce(rows.report, "forgetting")
    return list(rows.dataset)


def _measure_forgetting(trainer: Any, rows: Sequence[Row], stage: AnyStage, when: str) -> None:
    """Write the likelihood of the rows, `before` or `after` training, into the run's rows, unless they have it."""
    key, first = f"forgetting-{when}", trainer.accelerator.is_main_process
    known = broadcast_object_list([first and key in stage.rows])
    if rows and not known[0]:
        started = time.monotonic()
        found = trainer.likelihood(rows)
        if first:
            stage.rows.append(key, {**found._asdict(), "seconds": time.monotonic() - started})


def _forgetting(stage: AnyStage) -> dict[str, float]:
    """Perplexities before and after for the manifest; empty where nothing was measured."""
    held = {row["key"]: row for row in stage.rows.rows() if row["key"].startswith("forgetting-")}
    if not held:
        return {}
    before, after = (held[f"forgetting-{when}"] for when in ("before", "after"))
    return {
        "forgetting_before": math.exp(before["nll"]),
        "forgetting_after": math.exp(after["nll"]),
        "forgetting_tokens": before["tokens"],
    }


class Likelihood(NamedTuple):
    """The likelihood of text under a model."""

    nll: float
    """Mean negative natural-log probability per token."""
    tokens: int


class Limits(NamedTuple):
    """The limits of a micro-batch."""

    tokens: int
    """Maximum tokens of a micro-batch; a longer pair gets its own micro-batch."""
    pairs: int | None = None
    """Maximum pairs of a micro-batch; null: no limit."""
    packed: bool = True
    """Whether the model can compute a prompt once for both replies."""


class PairsDPOTrainer(DPOTrainer):  # type: ignore[misc]  # trl is not typed
    """`DPOTrainer` over `prompt_ids`, `chosen_ids` and `rejected_ids` unchanged; prompts are computed once.

    The pairs of one optimizer step are one batch. The batch is divided into micro-batches, and each micro-batch is
    weighted by its number of pairs. So the loss of a step is the mean over its pairs, regardless of the division into
    micro-batches and processes.

    Args:
        limits: see `Limits`.
        reference: the file that keeps the reference's log-probabilities.
    """

    control: Any

    def __init__(self, *args: Any, limits: Limits, reference: Path, **kwargs: Any) -> None:
        self.limits = limits
        self.computed_tokens = 0
        """Tokens of the pairs trained on so far, in all processes."""
        self._reference_file = reference
        super().__init__(*args, data_collator=_pairs_as_they_are, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep the columns: TRL would tokenize again, and cut a prompt whose ids do not match."""
        return dataset

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card here; `checkpoint.save_model` writes it."""

    def get_train_dataloader(self) -> Any:
        """Give every process all pairs of a step; it computes its share of them."""
        return unshared(super().get_train_dataloader())

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Add the reference's log-probability of each reply as columns, from the run folder if it is there."""
        pairs = list(dataset)
        model = self.ref_model or self.model
        without_adapter = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
        identity = f"{self._precompute_model_hash} {self.args.bf16}"
        with (
            Reference(self._reference_file, identity, self.accelerator) as reference,
            without_adapter,
            self.measuring(model),
        ):
            pending = [pair for pair in pairs if pair not in reference]
            for indices, counts in self.shared(self._plan(pending)):
                batch = self._batch(pending, indices)
                sums = reply_sums(token_logps(model, batch.batch).logps, batch.lengths)
                found = zip(indices, *(each.tolist() for each in sums), strict=True)
                for index, *of_both in gather_object(list(found) if counts else []):
                    reference.add(pending[index], of_both)
            chosen, rejected = zip(*(reference[pair] for pair in pairs), strict=True)
        dataset = dataset.add_column("ref_chosen_logps", list(chosen))
        return dataset.add_column("ref_rejected_logps", list(rejected))

    def _plan(self, pairs: Sequence[Pair], at_least: int = 1) -> list[list[int]]:
        return plan_pairs(pairs, *self.limits, at_least)

    def _batch(self, pairs: Sequence[Pair], indices: Sequence[int]) -> PairBatch:
        return pair_batch(pairs, indices, self.limits.packed, self.accelerator.device)

    def shared(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """This process's items. All processes get equally many items; items that fill up the count are marked false."""
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        for start in range(0, len(items), processes):
            yield items[min(start + index, len(items) - 1)], start + index < len(items)

    @contextmanager
    def measuring(self, model: Any) -> Iterator[None]:
        """Compute log-probabilities without training."""
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager(), self._attention():
            yield

    def _attention(self) -> Any:
        return segmented(self.accelerator.unwrap_model(self.model)) if self.limits.packed else nullcontext()

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Compute the gradients of a step's pairs; returns the mean loss, scaled to be averaged over processes."""
        model.train()
        pairs = inputs["pairs"]
        processes = self.accelerator.num_processes
        parts = list(self.shared(self._plan(pairs, processes)))
        weight = processes / len(pairs)
        sums = torch.zeros(len(_METRICS), device=self.accelerator.device)
        # The backward pass is in this block too: recomputed activations need the same attention.
        with self._attention():
            for number, (indices, counts) in enumerate(parts, 1):
                last = number == len(parts)
                self.accelerator.gradient_state._set_sync_gradients(last)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        loss, metrics = self._measure(model, pairs, indices)
                    self.accelerator.backward(loss * len(indices) * weight * counts)
                sums += metrics * weight * counts
        means = self.accelerator.reduce(sums, "mean").tolist()
        for name, mean in zip(_METRICS[1:], means[1:], strict=True):
            self._metrics["train"][name].append(mean)
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        self.computed_tokens += sum(len(pair[name]) for pair in pairs for name in names)
        return sums[0]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Means over the validation pairs, named `eval_...`."""
        pairs = list(self.eval_dataset)
        sums = torch.zeros(len(_METRICS), device=self.accelerator.device)
        with self.measuring(self.model):
            for indices, counts in self.shared(self._plan(pairs)):
                sums += self._measure(self.model, pairs, indices)[1] * counts
        means = (self.accelerator.reduce(sums, "sum") / len(pairs)).tolist()
        metrics = {f"eval_{name}": mean for name, mean in zip(_METRICS, means, strict=True)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def likelihood(self, rows: Sequence[Row]) -> Likelihood:
        """The mean negative log-likelihood per supervised token of conversations."""
        batches = micro_batches(rows, self.limits.tokens, self.limits.packed, self.accelerator.device)
        sums = torch.zeros(2, device=self.accelerator.device)
        with self.measuring(self.model):
            for batch, counts in self.shared(batches):
                logps = token_logps(self.model, batch).logps
                sums += counts * torch.stack([-logps.sum(), logps.new_tensor(len(logps))])
        nll, tokens = self.accelerator.reduce(sums, "sum").tolist()
        return Likelihood(nll / tokens, int(tokens))

    def _measure(
        self, model: Any, pairs: Sequence[Pair], indices: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of some pairs, and the sums of their `_METRICS`."""
        batch = self._batch(pairs, indices)
        logps = token_logps(model, batch.batch).logps
        sums = reply_sums(logps, batch.lengths)
        lengths = logps.new_tensor(batch.lengths).view(-1, 2).unbind(1)
        gains = [
            total - logps.new_tensor([float(pairs[index][name]) for index in indices])
            for total, name in zip(sums, ("ref_chosen_logps", "ref_rejected_logps"), strict=True)
        ]
        loss = pair_losses(self.args.loss_type[0], self.beta, *gains, *lengths).mean()
        with torch.no_grad():
            rewards = [self.beta * gain for gain in gains]
            margins = rewards[0] - rewards[1]
            metrics = torch.stack(
                [loss.expand(len(indices)), (margins > 0).to(logps), margins, *rewards, *sums, *lengths]
            )
        return loss, metrics.sum(1)


def pair_losses(
    kind: str,
    beta: float,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_tokens: torch.Tensor,
    rejected_tokens: torch.Tensor,
) -> torch.Tensor:
    """The loss of each pair. All tensors have one value per pair.

    Args:
        kind: `sigmoid` is DPO (arXiv 2305.18290, equation 7). `ipo` is IPO (arXiv 2310.12036, equation 17) on the mean
            over a reply's tokens, as in TRL; the authors of IPO confirmed the mean. `sigmoid_norm` is DPO on that mean.
        beta: strength of the pull towards the reference.
        chosen: log-probability of the chosen reply under the model minus that under the reference.
        rejected: the same for the rejected reply.
        chosen_tokens: length of the chosen reply.
        rejected_tokens: length of the rejected reply.
    """
    if kind == "sigmoid":
        return -logsigmoid(beta * (chosen - rejected))
    gap = chosen / chosen_tokens - rejected / rejected_tokens
    return (gap - 1 / (2 * beta)) ** 2 if kind == "ipo" else -logsigmoid(beta * gap)


def _pairs_as_they_are(rows: Sequence[Pair]) -> dict[str, Any]:
    """A batch of arrays: accelerate would search lists for tensors element by element."""
    return {"pairs": [{name: np.asarray(value) for name, value in row.items()} for row in rows]}


class Reference:
    """The reference's log-probabilities of chosen and rejected replies, kept in a file.

    Each key is a hash of the reference's weights, the precision and the ids.

    Args:
        path: the file. The first process writes it, and gives its content to the others.
        identity: the weights and the precision.
        accelerator: the trainer's accelerator.
    """

    def __init__(self, path: Path, identity: str, accelerator: Any) -> None:
        self._identity = identity.encode()
        self._journal = Journal(path) if accelerator.is_main_process else None
        held = [{row["key"]: row["logps"] for row in self._journal.rows()} if self._journal else {}]
        broadcast_object_list(held)
        self._known: dict[str, list[float]] = held[0]

    def __contains__(self, pair: Pair) -> bool:
        return self._key(pair) in self._known

    def __getitem__(self, pair: Pair) -> list[float]:
        return self._known[self._key(pair)]

    def add(self, pair: Pair, logps: Sequence[float]) -> None:
        """Keep the log-probabilities of a pair's chosen and rejected reply."""
        key = self._key(pair)
        self._known[key] = list(logps)
        if self._journal:
            self._journal.append(key, {"logps": self._known[key]})

    def _key(self, pair: Pair) -> str:
        key = hashlib.sha256(self._identity)
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            ids = np.asarray(pair[name], dtype=np.int32)
            key.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        return key.hexdigest()[:32]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal:
            self._journal.close()
