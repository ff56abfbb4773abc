"""Settings that several steps share. Each group is a class, so a setting has the same name and description everywhere.

    judge = Judge(data="runs/candidates", judge=["openai/gpt-4.1"], requests=Requests(concurrency=8))

In a recipe and in a `--config` file a group is a mapping (`requests: {concurrency: 8}`); on the command line each
member is an option (`--concurrency 8`). A step can have its own defaults for the members of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from maieutic.core.budget import Budget
from maieutic.core.messages import Record

Precision = Literal["auto", "float32", "float64", "bfloat16", "float16"]


class Requests(Record):
    """How requests are sent to models. These settings do not change the replies."""

    concurrency: int = Field(32, ge=1, description="Requests or dialogues in progress at once.")
    attempts: int = Field(8, ge=1, description="Maximum calls for one reply, failed calls included.")
    timeout: float = Field(600.0, gt=0, description="Maximum seconds for one reply, all attempts together.")
    max_failure_rate: float = Field(
        0.05, ge=0, le=1, description="Maximum share of failed rows; above it the run fails."
    )
    pull: bool = Field(False, description="Let an Ollama server download a missing model.")


class LocalModel(Record):
    """How `hf/` models are loaded and decoded."""

    template: str | None = Field(
        None,
        description="chat, dyadic, plain or a Jinja file; default: the template recorded in the checkpoint.",
    )
    system: str | None = Field(None, description="System text for conversations without a system turn.")
    batch_size: int = Field(16, ge=1, description="Batch size: conversations decoded together.")
    device: str | None = Field(None, description="Device, such as cuda; default: a GPU if there is one.")
    precision: Precision = Field(
        "auto",
        description="Number format; auto: float32 on a CPU, the stored format on a GPU. "
        "Only in float64 is a reply independent of its batch.",
    )
    remote_code: bool = Field(
        False, description="Run Python code that is part of a checkpoint (as in transformers)."
    )


def _model(value: Any) -> Any:
    if isinstance(value, str) or hasattr(value, "reply"):
        return value
    raise ValueError("give a MODEL such as hf/PATH or openai/NAME, or an object with a `reply` method")


def _source(value: Any) -> Any:
    if isinstance(value, str):
        return Path(value)
    if isinstance(value, Path):
        return value
    if isinstance(value, Sequence):
        return tuple(value)
    raise ValueError("give a path, or a list of rows")


def _without_none(value: Any) -> Any:
    return None if value == "none" else value


ModelSpec = Annotated[
    Any,
    PlainValidator(_model),
    PlainSerializer(lambda model: model if isinstance(model, str) else model.id),
]
"""A MODEL as text, or in Python an object that implements `maieutic.models.ChatModel`."""

Source = Annotated[
    Any,
    PlainValidator(_source),
    PlainSerializer(lambda source: str(source) if isinstance(source, Path) else f"{len(source)} rows"),
]
"""A corpus or another step's output: a path, or in Python the rows themselves."""

PromptName = Annotated[str | None, BeforeValidator(_without_none)]
"""A prompt's name, or a `.md` file; `none`: no prompt."""

__all__ = ["Budget", "LocalModel", "ModelSpec", "Precision", "PromptName", "Requests", "Source"]
