"""Settings that several steps share. Each group is one class, so that a setting has one name, default and description.

    judge = Judge(data="runs/candidates", judge=["openai/gpt-4.1"], requests=Requests(concurrency=8))

In a recipe and in a `--config` file a group is a mapping (`requests: {concurrency: 8}`); on the command line each
member is an option (`--concurrency 8`). A step's own defaults for a group hold for the members that are not given.
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
    """How models are asked. Nothing here decides what they answer."""

    concurrency: int = Field(32, ge=1, description="Requests, or dialogues, under way at once.")
    attempts: int = Field(8, ge=1, description="Calls that one reply may take, failed ones counted.")
    timeout: float = Field(600.0, gt=0, description="Seconds for one reply, all attempts together.")
    max_failure_rate: float = Field(
        0.05, ge=0, le=1, description="Share of failed rows above which the run ends as failed."
    )
    pull: bool = Field(False, description="Let an Ollama server fetch a model that it does not have.")


class LocalModel(Record):
    """How `hf/` models are loaded and decoded."""

    template: str | None = Field(
        None, description="chat, dyadic, plain or a Jinja file; default: what the checkpoint says."
    )
    system: str | None = Field(None, description="System text for conversations that have none.")
    batch_size: int = Field(16, ge=1, description="Conversations decoded together.")
    device: str | None = Field(None, description="Device, such as cuda; default: a GPU where there is one.")
    precision: Precision = Field(
        "auto",
        description="Number format; auto: float32 on a CPU, as stored on a GPU. "
        "Only in float64 is a reply independent of its batch.",
    )
    remote_code: bool = Field(False, description="Run Python code that a checkpoint brings along.")


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
"""A MODEL as text, or in Python an object that satisfies `maieutic.models.ChatModel`."""

Source = Annotated[
    Any,
    PlainValidator(_source),
    PlainSerializer(lambda source: str(source) if isinstance(source, Path) else f"{len(source)} rows"),
]
"""A corpus or another step's output: a path, or in Python the rows themselves."""

PromptName = Annotated[str | None, BeforeValidator(_without_none)]
"""A prompt's name, or a `.md` file; `none`: no prompt."""

__all__ = ["Budget", "LocalModel", "ModelSpec", "Precision", "PromptName", "Requests", "Source"]
