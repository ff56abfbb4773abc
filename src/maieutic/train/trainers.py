"""TRL's trainers, made to take finished columns, to say nothing to anyone, and to measure loss a token."""

from __future__ import annotations

from typing import Any

import torch
from trl import DPOTrainer, SFTTrainer


class SilentSFTTrainer(SFTTrainer):
    """`SFTTrainer` without pings and cards, whose evaluation is the mean over supervised tokens.

    TRL's own is a mean of means over batches, in which a short conversation's tokens weigh more.
    """

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the finished model gets ours."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Negative log-likelihood a supervised token over the held-out rows, as `eval_loss`."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad(), self.compute_loss_context_manager():
            for batch in self.get_eval_dataloader():
                inputs = self._prepare_inputs(batch)
                tokens = int((inputs["labels"][:, 1:] != -100).sum())
                total += float(self.compute_loss(self.model, inputs, num_items_in_batch=1))
                count += tokens
        metrics = {"eval_loss": total / max(1, count)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class ColumnsDPOTrainer(DPOTrainer):
    """`DPOTrainer` that takes `prompt_ids`, `chosen_ids` and `rejected_ids` as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Pass the columns through: TRL's way tokenizes again, and cuts a prompt whose ids do not match."""
        return dataset

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the finished model gets ours."""
