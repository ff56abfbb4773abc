"""The stages that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from maieutic.core.console import note
from maieutic.core.costs import BACKWARD, FORWARD, FULL_BYTES, HELD_BYTES, Cost, Flow
from maieutic.recipes.stages.action import Action


class _Training(Action):
    outputs = ("model",)
    model: str
    data: Path
    validation: Path | None = None
    epochs: float
    max_steps: int | None = None
    learning_rate: float
    batch_size: int
    max_tokens_per_batch: int = 4096
    warmup_ratio: float
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int | None = None
    lora_r: int | None = None
    """Rank of adapters; null or 0: all weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    save_steps: int = 100
    seed: int = 0
    template: str | None = None
    system: str | None = None
    report_to: str = "none"
    remote_code: bool = False
    processes: int | None = None
    accelerate_config: str | None = None
    parameters: float | None = None
    """Weights of the model, for the estimate of a dry run where its name does not say."""

    def _config(self, out: Path) -> Any:
        raise NotImplementedError

    def check(self) -> None:
        self._config(Path())

    def models(self) -> list[str]:
        return [self.model if self.model.startswith("hf/") else f"hf/{self.model}"]

    def _settings(self, out: Path) -> dict[str, Any]:
        return {**self.model_dump(exclude={"parameters"}), "lora_r": self.lora_r or None, "out": out}

    def _for_run(self, out: Path) -> Any:
        """The config of its work; an empty validation part, as a small split makes, is left out."""
        config = self._config(out)
        if self.validation and self.validation.is_file() and self.validation.stat().st_size == 0:
            note(f"{self.validation} is empty: training without validation")
            return config.model_copy(update={"validation": None})
        return config

    def declare_models(self, out: Path, flow: Flow) -> None:
        flow.weigh(self.model, self.parameters)
        flow.weigh(out, flow.weights(self.model))

    def _cost(self, flow: Flow, texts: int = 1, operations: int = FORWARD + BACKWARD) -> Cost:
        """Of so many texts a row, each of which is cut or refused at the longest length.

        With adapters the weights themselves get no gradient: half of the way back is saved.
        """
        size = flow.size(self.data)
        weights = flow.weights(self.model)
        if size is not None:
            longest = self.max_length or 2048
            size = size._replace(tokens=min(size.tokens, size.rows * texts * longest))
            passes = self.max_steps * self.batch_size / max(1, size.rows) if self.max_steps else self.epochs
        tokens = round(size.tokens * passes) if size is not None else None
        operations -= BACKWARD // 2 if self.lora_r else 0
        return Cost(
            None,
            tokens,
            round(weights * (HELD_BYTES if self.lora_r else FULL_BYTES)) if weights else None,
            flow.trained(self.model, tokens, operations) if tokens is not None else None,
        )


class Sft(_Training):
    """Supervised fine-tuning of one side."""

    role: Literal["user", "assistant", "both"]
    keep: Literal["start", "end"] = "start"
    condition: dict[str, float] | None = None
    early_stopping: int | None = None
    epochs: float = 3.0
    learning_rate: float = 2e-5
    batch_size: int = 128
    warmup_ratio: float = 0.03

    def _config(self, out: Path) -> Any:
        from maieutic.train.config import SftConfig

        return SftConfig(**self._settings(out))

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.train.sft import sft

        sft(self._for_run(out))

    def describe(self) -> str:  # noqa: D102
        return f"train the {self.role}'s side"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return self._cost(flow)


class Dpo(_Training):
    """Direct preference optimisation."""

    epochs: float = 2.0
    learning_rate: float = 5e-5
    batch_size: int = 4
    warmup_ratio: float = 0.05
    max_grad_norm: float = 0.3
    loss: Literal["sigmoid", "ipo", "sigmoid_norm"] = "sigmoid"
    beta: float = 0.1
    micro_batch_size: int | None = None
    keep: Literal["end"] | None = None
    drop_too_long: bool = False
    forgetting: Path | None = None

    def _config(self, out: Path) -> Any:
        from maieutic.train.config import DpoConfig

        return DpoConfig(**self._settings(out))

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.train.dpo import dpo

        dpo(self._for_run(out))

    def describe(self) -> str:  # noqa: D102
        return "train on preferences (DPO)"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return self._cost(flow, texts=2, operations=2 * FORWARD + BACKWARD)  # the reference reads too
