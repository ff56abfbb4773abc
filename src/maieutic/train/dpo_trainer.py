"""TRL's DPO trainer, handed log-probabilities that were computed with each prompt once.

The pairs of one optimizer step are one batch. It is computed in parts of at most `Limits.room` tokens, and each part is
weighted by its number of pairs: the loss of a step is the mean over its pairs, however they are divided into parts and
over processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn.functional import logsigmoid
from trl import DPOTrainer

from maieutic.train.attention import segmented
from maieutic.train.distributed import unshared
from maieutic.train.logps import logps
from maieutic.train.packing import Row, parts
from maieutic.train.pairs import Pair, Replies, lay_out, plan, totals
from maieutic.train.reference import Reference

_TOLD = (
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
"""What is measured of pairs, in TRL's words where it has some."""

Item = TypeVar("Item")


class Likelihood(NamedTuple):
    """How likely a model finds text."""

    nll: float
    """Mean negative natural-log probability a token."""
    tokens: int


class Limits(NamedTuple):
    """What may be computed together."""

    room: int
    """Tokens; a longer pair is computed by itself."""
    most: int | None = None
    """Pairs; null: as many as there is room for."""
    joined: bool = True
    """Whether the model can take a prompt once for both replies."""


class PairsDPOTrainer(DPOTrainer):
    """`DPOTrainer` over `prompt_ids`, `chosen_ids` and `rejected_ids` as they are, each prompt computed once.

    Args:
        limits: see `Limits`.
        reference: the file that keeps the reference's log-probabilities.
    """

    def __init__(self, *args: Any, limits: Limits, reference: Path, **kwargs: Any) -> None:
        self.limits = limits
        self._kept = reference
        super().__init__(*args, data_collator=_as_they_are, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Pass the columns through: TRL's way tokenizes again, and cuts a prompt whose ids do not match."""
        return dataset

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the finished model gets ours."""

    def get_train_dataloader(self) -> Any:
        """Every process gets all pairs of a step, and computes its share of them."""
        return unshared(super().get_train_dataloader())

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Two columns more: what the reference says of each reply, unless the run's folder has it already."""
        pairs = list(dataset)
        model = self.ref_model or self.model
        alone = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
        of = f"{self._precompute_model_hash} {self.args.bf16}"
        with Reference(self._kept, of, self.accelerator) as kept, alone, self.measuring(model):
            owed = [pair for pair in pairs if pair not in kept]
            for numbers, counts in self.shared(self._plan(owed)):
                replies = self._lay_out(owed, numbers)
                said = totals(logps(model, replies.part).logps, replies.lengths)
                found = zip(numbers, *(each.tolist() for each in said), strict=True)
                for number, *of_both in gather_object(list(found) if counts else []):
                    kept.add(owed[number], of_both)
            chosen, rejected = zip(*(kept[pair] for pair in pairs), strict=True)
        dataset = dataset.add_column("ref_chosen_logps", list(chosen))
        return dataset.add_column("ref_rejected_logps", list(rejected))

    def _plan(self, pairs: Sequence[Pair], at_least: int = 1) -> list[list[int]]:
        return plan(pairs, *self.limits, at_least)

    def _lay_out(self, pairs: Sequence[Pair], numbers: Sequence[int]) -> Replies:
        return lay_out(pairs, numbers, self.limits.joined, self.accelerator.device)

    def shared(self, parts: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """This process's parts, as many as every other's; one that is there to fill up does not count."""
        every, mine = self.accelerator.num_processes, self.accelerator.process_index
        for start in range(0, len(parts), every):
            yield parts[min(start + mine, len(parts) - 1)], start + mine < len(parts)

    @contextmanager
    def measuring(self, model: Any) -> Iterator[None]:
        """Log-probabilities are to be had, and nothing is trained."""
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager(), self._attending():
            yield

    def _attending(self) -> Any:
        return segmented(self.accelerator.unwrap_model(self.model)) if self.limits.joined else nullcontext()

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward over a step's pairs; the mean loss, scaled to be averaged over processes."""
        model.train()
        pairs = inputs["pairs"]
        every = self.accelerator.num_processes
        parts = list(self.shared(self._plan(pairs, every)))
        weight = every / len(pairs)
        sums = torch.zeros(len(_TOLD), device=self.accelerator.device)
        # Activations that are computed again ask for the attention in the backward pass too.
        with self._attending():
            for number, (part, counts) in enumerate(parts, 1):
                last = number == len(parts)
                self.accelerator.gradient_state._set_sync_gradients(last)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        loss, told = self._measure(model, pairs, part)
                    self.accelerator.backward(loss * len(part) * weight * counts)
                sums += told * weight * counts
        means = self.accelerator.reduce(sums, "mean").tolist()
        for name, mean in zip(_TOLD[1:], means[1:], strict=True):
            self._metrics["train"][name].append(mean)
        return sums[0]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Means over the held-out pairs, named `eval_...`."""
        pairs = list(self.eval_dataset)
        sums = torch.zeros(len(_TOLD), device=self.accelerator.device)
        with self.measuring(self.model):
            for part, counts in self.shared(self._plan(pairs)):
                told = self._measure(self.model, pairs, part)[1]
                sums += told * counts
        means = (self.accelerator.reduce(sums, "sum") / len(pairs)).tolist()
        metrics = {f"eval_{name}": mean for name, mean in zip(_TOLD, means, strict=True)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def likelihood(self, rows: Sequence[Row]) -> Likelihood:
        """The mean negative log-likelihood a token in the loss of conversations."""
        found = parts(rows, self.limits.room, self.limits.joined, self.accelerator.device)
        sums = torch.zeros(2, device=self.accelerator.device)
        with self.measuring(self.model):
            for part, counts in self.shared(found):
                said = logps(self.model, part).logps
                sums += counts * torch.stack([-said.sum(), said.new_tensor(len(said))])
        nll, tokens = self.accelerator.reduce(sums, "sum").tolist()
        return Likelihood(nll / tokens, int(tokens))

    def _measure(
        self, model: Any, pairs: Sequence[Pair], part: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of some pairs, and the sums of what is told of them (`_TOLD`)."""
        replies = self._lay_out(pairs, part)
        values = logps(model, replies.part).logps
        reference = [
            values.new_tensor([float(pairs[number][name]) for number in part])
            for name in ("ref_chosen_logps", "ref_rejected_logps")
        ]
        said = totals(values, replies.lengths)
        lengths = values.new_tensor(replies.lengths).view(-1, 2).unbind(1)
        gains = [one - other for one, other in zip(said, reference, strict=True)]
        loss = pair_losses(self.args.loss_type[0], self.beta, *gains, *lengths).mean()
        with torch.no_grad():
            rewards = [self.beta * gain for gain in gains]
            margins = rewards[0] - rewards[1]
            told = torch.stack(
                [loss.expand(len(part)), (margins > 0).to(values), margins, *rewards, *said, *lengths]
            )
        return loss, told.sum(1)


def pair_losses(
    kind: str,
    beta: float,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_tokens: torch.Tensor,
    rejected_tokens: torch.Tensor,
) -> torch.Tensor:
    """The loss of each pair. All tensors have one value for each pair.

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


def _as_they_are(rows: Sequence[Pair]) -> dict[str, Any]:
    """A batch; arrays, unlike lists, are not walked through by those who look for tensors to move."""
    return {"pairs": [{name: np.asarray(value) for name, value in row.items()} for row in rows]}
