"""What a training run can be told: few settings, each documented under its field, unknown ones refused.

Torch-free, so that the command line can read and complain about settings before anything heavy is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from maieutic.chat_templates.conditioning import wording
from maieutic.core.errors import InputError, MissingInput
from maieutic.core.messages import Record, fingerprint
from maieutic.core.reading import without_rows
from maieutic.train.condition import read_condition, whole_condition

Precision = Literal["auto", "float32", "bfloat16"]

_UNDECIDING = {"out", "save_steps", "data", "validation", "report_to", "processes", "accelerate_config"}
"""Settings that do not decide the trained weights, or, as the data, not by their name."""


class TrainConfig(Record):
    """The settings both kinds of training share."""

    model: str
    """A folder or a Hub id to start from, with or without `hf/`; a finished run's folder means its model."""
    data: Path
    """What to train on: a file, or a stage's folder."""
    out: Path
    """The run's folder; the model is written to `out/model`."""
    validation: Path | None = None
    """Held-out rows of the same form, measured after every epoch and never trained on."""
    epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, in place of epochs."""
    learning_rate: float = Field(2e-5, gt=0)
    batch_size: int = Field(128, ge=1)
    """Rows an optimizer step sees."""
    max_tokens_per_batch: int = Field(4096, ge=1)
    """Tokens in memory at once, of as many rows as fit; a longer row is computed by itself."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; afterwards it falls along a cosine."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    max_length: int | None = Field(None, ge=8)
    """Tokens a row may have; null: 2048, or the model's context where that is shorter."""
    lora_r: int | None = Field(None, ge=1)
    """Rank of LoRA adapters on every linear layer (scale 2); null: all weights are trained."""
    precision: Precision = "auto"
    """`bfloat16` computes in it and keeps trained weights in float32; auto: that on a GPU, float32 on a CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a fifth slower, far less memory."""
    seed: int = Field(0, ge=0, lt=2**32)
    save_steps: int = Field(100, ge=1)
    """Steps between checkpoints: what a kill can cost."""
    template: str | None = None
    """`chat`, `dyadic`, `plain` or a Jinja file; null: what the checkpoint says, else its chat template."""
    system: str | None = None
    """System text put before conversations that have none; null: what the checkpoint says."""
    remote_code: bool = False
    """Run Python code that the checkpoint brings along."""
    report_to: str = "none"
    """Trackers that get every metric as well, by the trainer's names for them (`wandb,tensorboard`)."""
    processes: int | None = Field(None, ge=1)
    """Processes that share each batch, one a GPU, or on the CPU; null: this one, or what `accelerate_config` says."""
    accelerate_config: str | None = None
    """A config file of accelerate, for FSDP2, DeepSpeed or several machines, or the name of one that ships."""

    def settings(self) -> dict[str, Any]:
        """What decides the trained weights: not where they go, how often they are saved, or how many share the work.

        Data and a template's file stand in it by their content, so that a changed one is refused rather than gone on
        with.
        """
        held = self.model_dump(mode="json", exclude=_UNDECIDING)
        held["data"] = {"name": self.data.name, "sha256": file_sha256(self.data)}
        if self.template and Path(self.template).is_file():
            held["template"] = {"name": Path(self.template).name, "sha256": file_sha256(Path(self.template))}
        if self.validation:
            held["validation"] = {"name": self.validation.name, "sha256": file_sha256(self.validation)}
        return held


class SftConfig(TrainConfig):
    """Supervised fine-tuning. Defaults are PlatoLM's: 3 epochs, 2e-5, cosine, batch 128 (arXiv 2308.11534)."""

    role: Literal["user", "assistant", "both"]
    """Whose turns are in the loss: `user` makes a simulator."""
    keep: Literal["start", "end"] = "start"
    """Which whole turns of a conversation that is too long are kept; without its end it teaches no END."""
    condition: dict[str, float] | None = None
    """What a simulator is told of its person, by the share of rows: `none`, `round` (the first round is given),
    `intent`, `problem`, `profile`, or several of the last three joined by `+`. What is left of 1 is `none`."""
    early_stopping: int | None = Field(None, ge=1)
    """Stop after so many evaluations in a row without a lower held-out loss."""

    @field_validator("condition", mode="before")
    @classmethod
    def _read_condition(cls, value: Any) -> Any:
        return read_condition(value) if isinstance(value, str) else value

    @field_validator("condition")
    @classmethod
    def _whole_condition(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        return None if value is None else whole_condition(value)

    @model_validator(mode="after")
    def _fits_together(self) -> SftConfig:
        if self.condition and self.role != "user":
            raise ValueError("only a simulator (role user) is told what its person wants")
        if self.early_stopping and not self.validation:
            raise ValueError("early stopping needs held-out rows: give validation too")
        return self

    def settings(self) -> dict[str, Any]:
        """See `TrainConfig`; the words that a simulator is told things in stand in it by their hash."""
        told = {"wording": fingerprint(wording())} if self.condition else {}
        return {**super().settings(), **told}


class DpoConfig(TrainConfig):
    """Direct preference optimisation. The defaults are Socratic LLM's (CEUR-WS Vol-3879, paper 26)."""

    epochs: float = Field(2.0, gt=0)
    learning_rate: float = Field(5e-5, gt=0)
    batch_size: int = Field(4, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    """Pairs in memory at once, a divisor of `batch_size`; null: as many as `max_tokens_per_batch` has room for."""
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    max_grad_norm: float = Field(0.3, gt=0)
    loss: Literal["sigmoid", "ipo", "sigmoid_norm"] = "sigmoid"
    """TRL's name of the loss: DPO's own, IPO's (arXiv 2310.12036), or DPO's of means over a reply's tokens."""
    beta: float = Field(0.1, gt=0)
    """How strongly the model is held to its start."""
    keep: Literal["end"] | None = None
    """Let the oldest whole turns of a prompt go until its pair fits `max_length`."""
    drop_too_long: bool = False
    """Leave out pairs that do not fit `max_length`; otherwise one such pair stops the run."""
    forgetting: Path | None = None
    """Conversations not trained on: perplexity on the assistant's turns, before and after, tells what is forgotten."""

    def settings(self) -> dict[str, Any]:
        """See `TrainConfig.settings`."""
        held = super().settings()
        if self.forgetting:
            held["forgetting"] = {"name": self.forgetting.name, "sha256": file_sha256(self.forgetting)}
        return held

    @model_validator(mode="after")
    def _batches_divide(self) -> DpoConfig:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self


Config = TypeVar("Config", bound=TrainConfig)


def read_config(kind: type[Config], file: Path | None, given: Mapping[str, Any]) -> Config:
    """A config from a YAML file's keys and the ones given by hand, which win.

    Args:
        kind: `SftConfig` or `DpoConfig`.
        file: YAML, its keys as the config's fields.
        given: by field; those that are null do not count as given.

    Raises:
        MissingInput: there is no such file.
        InputError: a key is unknown, missing, or has a value that does not fit.
    """
    values = {**read_yaml(file), **{key: value for key, value in given.items() if value is not None}}
    if unknown := sorted(values.keys() - kind.model_fields.keys()):
        close = difflib.get_close_matches(unknown[0], kind.model_fields, 1)
        hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(kind.model_fields)}."
        raise InputError(f"{file}: unknown setting {unknown[0]!r}", hint)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        if first["type"] == "missing":
            raise InputError(
                f"{name} is missing", f"Give --{name.replace('_', '-')}, or name it in --config."
            ) from None
        raise InputError(
            f"{name}: {first['msg'].removeprefix('Value error, ')}", "Mend that value."
        ) from None


def read_yaml(file: Path | None) -> dict[str, Any]:
    """The settings in a YAML file; none without a file.

    Raises:
        MissingInput: there is no such file.
        InputError: it holds no settings.
    """
    if file is None:
        return {}
    if not file.is_file():
        raise MissingInput(f"{file}: no such file", "Name a YAML file with the settings.")
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML ({str(error).splitlines()[0]})", "Mend the file.") from None
    if not isinstance(values, dict):
        raise InputError(f"{file}: no settings in there", "Write one `name: value` a line.")
    return {str(key): value for key, value in values.items()}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, or of a stage folder's rows.

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
