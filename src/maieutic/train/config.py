"""The settings of `train sft` and `train dpo`, the identity of a run, and its result.

This module does not import torch, so the command line checks settings before it loads heavy libraries.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, field_validator, model_validator

from maieutic.chat_templates.conditioning import NONE, check_kind, wording
from maieutic.core.console import note, say
from maieutic.core.costs import BACKWARD, FORWARD, FULL_BYTES, HELD_BYTES, Cost, Flow
from maieutic.core.errors import MissingInput
from maieutic.core.messages import fingerprint
from maieutic.core.reading import without_rows
from maieutic.core.step import Result, Step

Precision = Literal["auto", "float32", "bfloat16"]

_NOT_DECISIVE = {
    *("save_steps", "report_to", "processes", "accelerate_config", "parameters"),
    *("data", "validation", "forgetting"),
}
"""Settings that are not part of a run's identity. Files in this list are identified by their content instead."""

Epochs = Annotated[float, Field(gt=0, description="Passes over the data.")]
LearningRate = Annotated[
    float, Field(gt=0, description="Highest learning rate; after the warm-up it falls along a cosine.")
]
BatchSize = Annotated[int, Field(ge=1, description="Rows per optimizer step.")]
WarmupRatio = Annotated[
    float, Field(ge=0, lt=1, description="Share of the steps in which the learning rate warms up.")
]
MaxGradNorm = Annotated[float, Field(gt=0, description="Gradients are clipped to this norm.")]


class TrainResult(Result):
    """What a training run produced."""

    model: Path
    """The trained checkpoint."""
    metrics: dict[str, Any]
    """`steps`, `loss` (mean of the last epoch), `final_loss`, `eval_loss`, `tokens`, `seconds` and more."""
    resumed_from: int | None = None
    """The step of the checkpoint from which an interrupted run continued."""

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The printed JSON: `model`, `resumed_from` and the manifest's keys."""
        return {"model": str(self.model), **self.metrics, "resumed_from": self.resumed_from}

    def show(self) -> None:
        """Print where the model is, and the main measurements."""
        held = self.metrics
        say(f"model: {self.model}")
        measured = {
            "eval_loss": "validation loss",
            "eval_perplexity": "perplexity",
            "eval_end_f1": "F1 of END",
            "accuracy": "accuracy",
            "margin": "margin",
            "eval_accuracy": "validation accuracy",
            "forgetting_before": "perplexity on other conversations before",
            "forgetting_after": "after",
        }
        more = "".join(
            f", {name} {held[key]:.3f}" for key, name in measured.items() if held.get(key) is not None
        )
        say(f"{held['steps']} steps, loss {held['loss']:.3f}{more}")
        if held.get("best_step") is not None:
            say(
                f"the model is the checkpoint of step {held['best_step']}, which has the lowest validation loss"
            )
        say(f"{held['tokens']} tokens in {held['seconds']:.1f} s")


class TrainConfig(Step):
    """The settings that both training methods share."""

    method: ClassVar[str]
    texts_per_row: ClassVar[int] = 1
    operations: ClassVar[int] = FORWARD + BACKWARD
    """Operations per weight and token, for the cost estimate."""
    outputs: ClassVar = ("model",)
    flags: ClassVar = {
        "batch_size": "--batch-size --batch",
        "gradient_checkpointing": "--gradient-checkpointing --checkpoint-activations",
        "lora_r": "--lora-r --lora",
        "max_steps": "--max-steps --steps",
        "max_tokens_per_batch": "--max-tokens-per-batch --tokens-at-once",
    }
    """The second name of each option is that of version 1."""

    model: str = Field(description="Model to start from: a folder, a finished training run, or a Hub id.")
    data: Path = Field(description="Rows to train on: a JSONL file, or a step's folder.")
    validation: Path | None = Field(
        None, description="Held-out rows of the same form, measured after every epoch and never trained on."
    )
    epochs: Epochs = 3.0
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of epochs.")
    learning_rate: LearningRate = 2e-5
    batch_size: BatchSize = 128
    max_tokens_per_batch: int = Field(
        4096, ge=1, description="Tokens per micro-batch; lower this if memory is short."
    )
    warmup_ratio: WarmupRatio = 0.03
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: MaxGradNorm = 1.0
    max_length: int | None = Field(
        None, ge=8, description="Tokens of the longest row; default: 2048, or the model's context if shorter."
    )
    lora_r: int | None = Field(
        None,
        ge=1,
        description="Rank of LoRA adapters on every linear layer; default or 0: train all weights.",
    )
    precision: Precision = Field(
        "auto",
        description="bfloat16: compute in bfloat16, keep float32 weights; auto: bfloat16 on a GPU, else float32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a fifth slower."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the rows' order and of new weights.")
    save_steps: int = Field(100, ge=1, description="Steps between checkpoints.")
    template: str | None = Field(
        None,
        description="chat, dyadic, plain or a Jinja file; default: the one in maieutic.json, else the chat template.",
    )
    system: str | None = Field(None, description="System text for conversations that have none.")
    remote_code: bool = Field(False, description="Run Python code from the checkpoint's repository.")
    report_to: str = Field(
        "none", description="Experiment trackers that receive the metrics: wandb,tensorboard."
    )
    processes: int | None = Field(
        None, ge=1, description="Processes that share each batch: one per GPU, or on the CPU."
    )
    accelerate_config: str | None = Field(
        None,
        description="accelerate config (FSDP2, DeepSpeed, several machines): a file, or the name of a shipped config.",
    )
    parameters: float | None = Field(
        None,
        gt=0,
        description="Number of weights, for the cost estimate if the model's name does not contain it.",
    )

    @field_validator("lora_r", mode="before")
    @classmethod
    def _zero_is_none(cls, value: Any) -> Any:
        return value or None

    def identity(self) -> dict[str, Any]:
        """The settings that decide the trained weights. A run folder refuses to continue with other such settings.

        Data, and a template that is a file, are identified by their content.
        """
        values = self.model_dump(mode="json", exclude=_NOT_DECISIVE)
        for name in ("data", "validation", "forgetting"):
            if path := getattr(self, name, None):
                values[name] = {"name": path.name, "sha256": file_sha256(path)}
        if self.template and Path(self.template).is_file():
            file = Path(self.template)
            values["template"] = {"name": file.name, "sha256": file_sha256(file)}
        return {"method": self.method, **values}

    def run_stage(self, folder: Path) -> None:
        """Train as a stage of a recipe. An empty validation file (from the split of a small corpus) is ignored."""
        if self.validation and self.validation.is_file() and self.validation.stat().st_size == 0:
            note(f"{self.validation} is empty: training without validation")
            self.model_copy(update={"validation": None}).run(folder)
        else:
            self.run(folder)

    def models(self) -> list[str]:
        """The model to start from."""
        return [self.model if self.model.startswith("hf/") else f"hf/{self.model}"]

    def declare_models(self, out: Path, flow: Flow) -> None:
        """The trained model is as large as the starting model."""
        flow.weigh(self.model, self.parameters)
        flow.weigh(out, flow.weights(self.model))

    def expect(self, out: Path, flow: Flow) -> Cost:
        """Tokens, memory and hours. With adapters the base weights get no gradient: half of the backward pass."""
        size = flow.size(self.data)
        weights = flow.weights(self.model)
        tokens = None
        if size is not None:
            longest = size.rows * self.texts_per_row * (self.max_length or 2048)
            steps = self.max_steps
            passes = steps * self.batch_size / max(1, size.rows) if steps else self.epochs
            tokens = round(min(size.tokens, longest) * passes)
        operations = self.operations - (BACKWARD // 2 if self.lora_r else 0)
        return Cost(
            None,
            tokens,
            round(weights * (HELD_BYTES if self.lora_r else FULL_BYTES)) if weights else None,
            flow.trained(self.model, tokens, operations) if tokens is not None else None,
        )


def _conditioning(value: Any) -> Any:
    return None if value is None else whole_rates(read_rates(value) if isinstance(value, str) else value)


class SftConfig(TrainConfig):
    """Supervised fine-tuning. Defaults are PlatoLM's: 3 epochs, 2e-5, cosine, batch 128 (arXiv 2308.11534)."""

    method: ClassVar = "sft"

    role: Literal["user", "assistant", "both"] = Field(
        description="Side whose turns are in the loss; user trains a user simulator."
    )
    keep: Literal["start", "end"] = Field(
        "start",
        description="Which turns of too long conversations to keep; a row without the last turn does not teach END.",
    )
    condition: Annotated[Any, PlainValidator(_conditioning)] = Field(
        None,
        description="Share of rows per conditioning of a simulator: none=0.4,round=0.2,intent=0.3,profile=0.1.",
    )
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without a lower validation loss."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SftConfig:
        if self.condition and self.role != "user":
            raise ValueError("condition is for a simulator: it needs role user")
        if self.early_stopping and not self.validation:
            raise ValueError("early_stopping needs validation rows: give validation too")
        return self

    def identity(self) -> dict[str, Any]:
        """See `TrainConfig.identity`; it also includes the hash of the prompts that condition a simulator."""
        words = {"wording": fingerprint(wording())} if self.condition else {}
        return {**super().identity(), **words}

    def describe(self) -> str:
        """The stage's description in a recipe's plan."""
        return f"train on the turns of {'both sides' if self.role == 'both' else f'the {self.role}'}"


class DpoConfig(TrainConfig):
    """Direct preference optimisation. The defaults are Socratic LLM's (CEUR-WS Vol-3879, paper 26)."""

    method: ClassVar = "dpo"
    texts_per_row: ClassVar[int] = 2
    operations: ClassVar[int] = 2 * FORWARD + BACKWARD  # the reference model also reads every pair once

    epochs: Epochs = 2.0
    learning_rate: LearningRate = 5e-5
    batch_size: BatchSize = 4
    micro_batch_size: int | None = Field(
        None, ge=1, description="Maximum pairs per micro-batch; must divide batch_size."
    )
    warmup_ratio: WarmupRatio = 0.05
    max_grad_norm: MaxGradNorm = 0.3
    loss: Literal["sigmoid", "ipo", "sigmoid_norm"] = Field(
        "sigmoid",
        description="TRL's loss_type: sigmoid is DPO, ipo is IPO, sigmoid_norm is DPO on per-token means of a reply.",
    )
    beta: float = Field(0.1, gt=0, description="DPO's beta: higher keeps the model closer to the reference.")
    keep: Literal["end"] | None = Field(
        None, description="end: drop the oldest turns of a prompt until the pair fits."
    )
    drop_too_long: bool = Field(
        False, description="Leave out pairs that do not fit; otherwise one such pair stops the run."
    )
    forgetting: Path | None = Field(
        None,
        description="Held-out conversations; their perplexity before and after training shows forgetting.",
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> DpoConfig:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self

    def describe(self) -> str:
        """The stage's description in a recipe's plan."""
        return "train on preferences (DPO)"


def read_rates(text: str) -> dict[str, float]:
    """Rates from the form `none=0.4,round=0.2,intent=0.4`.

    Raises:
        ValueError: the text has another form.
    """
    rates: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            rates[name.strip()] = float(number)
        except ValueError:
            raise ValueError(f"{part.strip()!r} is not a rate; write none=0.4,round=0.2,intent=0.4") from None
    return rates


def whole_rates(rates: Mapping[str, float]) -> dict[str, float]:
    """Rates that sum to 1, in a fixed order; `none` gets the remainder.

    Raises:
        ValueError: a kind of conditioning is unknown, or the rates sum to more than 1.
    """
    checked: dict[str, float] = defaultdict(float)
    for name, rate in rates.items():
        checked[check_kind(name)] += float(rate)
    total = sum(checked.values())
    if min(checked.values(), default=0) < 0 or total > 1 + 1e-6 or (NONE in rates and total < 1 - 1e-6):
        raise ValueError(f"the rates must be shares of all rows; they sum to {total:g}")
    rest = 0.0 if total > 1 - 1e-6 else 1 - total
    whole = {kind: checked[kind] for kind in sorted(checked) if kind != NONE and checked[kind]}
    return {NONE: round(checked[NONE] + rest, 9), **whole}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, or of the rows in a step's folder.

    Raises:
        MissingInput: there is no such file.
    """
    file = path / "rows.jsonl" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise without_rows(path)
    if not file.is_file():
        raise MissingInput(f"{path}: no such file", "Check the path.")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
