"""TRL's trainer for conversations, made to take finished columns and to compute only what the loss needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import SFTTrainer

from maieutic.train.attention import has_flash, segmented
from maieutic.train.distributed import unshared
from maieutic.train.logps import logps
from maieutic.train.packing import Part, Row, parts, shares


class RowsSFTTrainer(SFTTrainer):
    """`SFTTrainer` that gets the rows of one optimizer step at a time, and computes them in parts without padding.

    The loss is the mean over the supervised tokens of the whole step, as if all its rows were one batch, whatever the
    parts and however many processes share them. TRL's own pings and cards are left out.

    Args:
        max_tokens_per_batch: tokens of a part.
        joined: whether the model takes joined rows (`logps.joins`).
    """

    def __init__(self, *args: Any, max_tokens_per_batch: int, joined: bool, **kwargs: Any) -> None:
        super().__init__(*args, data_collator=_as_rows, **kwargs)
        self._tokens = max_tokens_per_batch
        self._joined = joined
        self._flash = joined and self.args.bf16 and has_flash()

    def training_step(
        self, model: Any, inputs: dict[str, list[Row]], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Gradients of a step's rows; its loss."""
        model.train()
        owed = self._owed(inputs["rows"])
        asked = float(self._over_all(sum(len(part.targets) * counts for part, counts in owed)))
        # Gradients are averaged over processes; the sum of their shares is what is wanted.
        scale = self.accelerator.num_processes / asked
        loss = torch.zeros((), device=self.args.device)
        right = torch.zeros((), device=self.args.device)
        with self._attention():
            for number, (part, counts) in enumerate(owed, 1):
                with self._synchronised(model, number == len(owed)):
                    with self.compute_loss_context_manager():
                        said = logps(model, part, self._flash)
                        share = -said.logps.sum() * scale * counts
                    self.accelerator.backward(share)
                loss += share.detach()
                right += said.right.sum() * counts
        self._metrics["train"]["mean_token_accuracy"].append(float(self._over_all(right) / asked))
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Negative log-likelihood a supervised token over the held-out rows, as `eval_loss`."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad(), self._attention():
            for part, counts in self._owed(list(self.eval_dataset)):
                with self.compute_loss_context_manager():
                    total -= float(logps(self.model, part, self._flash).logps.sum()) * counts
                count += len(part.targets) * counts
        total, count = self._over_all([total, count]).tolist()
        metrics = {"eval_loss": total / max(1, count)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def get_train_dataloader(self) -> Any:
        """Every process gets all rows of a step, and computes its share of them."""
        return unshared(super().get_train_dataloader())

    def _owed(self, rows: list[Row]) -> list[tuple[Part, int]]:
        """This process's parts of some rows, as many as every other's; one that is there to fill up counts 0, not 1."""
        every, mine = self.accelerator.num_processes, self.accelerator.process_index
        share = shares([len(row["input_ids"]) for row in rows], every)[mine]
        owed = [(part, 1) for part in self._parts([rows[number] for number in share])]
        passes = len(owed) if every == 1 else max(gather_object([len(owed)]))
        # Where weights are spread over the processes, none gets through a pass alone.
        return owed + [(self._parts(rows[:1])[0], 0)] * (passes - len(owed))

    def _parts(self, rows: list[Row]) -> list[Part]:
        return parts(rows, self._tokens, self._joined, self.args.device)

    def _attention(self) -> AbstractContextManager[None]:
        return segmented(self.model, self._flash) if self._joined else nullcontext()

    def _synchronised(self, model: Any, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients once a step, with its last part."""
        return nullcontext() if last else self.accelerator.no_sync(model)

    def _over_all(self, value: Any) -> torch.Tensor:
        """A number, summed over all processes."""
        here = torch.as_tensor(value, device=self.args.device, dtype=torch.float64)
        return self.accelerator.reduce(here, "sum") if self.accelerator.num_processes > 1 else here

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the finished model gets ours."""


def _as_rows(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows as they are: `training_step` divides them."""
    return {"rows": rows}
