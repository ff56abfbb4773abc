"""From the name of a model to the model: real loading code, safetensors only, no hidden code.

Libraries talk a lot while they load and train; `quiet` keeps that out of a person's terminal.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.errors import MissingExtra, MissingInput, UnknownModel
from maieutic.store import read_json

_LOUD = ("transformers", "trl", "accelerate", "peft", "datasets", "huggingface_hub", "torch", "py.warnings")


class Framing(NamedTuple):
    """How a checkpoint's conversations are framed."""

    template: str | None
    system: str | None


def locate(model: str) -> str:
    """The folder or Hub id a MODEL means: `hf/` dropped, a finished run's folder turned into its `model`.

    Raises:
        MissingInput: it looks like a folder and is none.
    """
    name = model.removeprefix("hf/")
    path = Path(name).expanduser()
    if path.is_dir():
        inside = path / "model"
        return str(inside if (inside / "config.json").is_file() else path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise MissingInput(
            f"{name}: no such model folder", "Check the path, or give a Hub id such as owner/name."
        )
    return name


def framing(name: str, template: str | None, system: str | None) -> Framing:
    """Template and system text: what was asked for, else what the checkpoint's `maieutic.json` says."""
    record = Path(name) / "maieutic.json"
    held = read_json(record) if record.is_file() else {}
    return Framing(template or held.get("template"), held.get("system") if system is None else system)


def load_tokenizer(name: str, remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint, with a padding token.

    Raises:
        UnknownModel: there is none.
    """
    from transformers import AutoTokenizer

    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=remote_code)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: str, remote_code: bool = False) -> Any:
    """The weights of a checkpoint, as a causal language model.

    Raises:
        UnknownModel: they are not there, or not as safetensors.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with _explained(name):
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=remote_code
        )


def context_length(name: str, remote_code: bool = False) -> int | None:
    """Tokens the model was built for, where its config says so."""
    length = getattr(_config(name, remote_code).get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def held_dtype(name: str, remote_code: bool = False) -> str | None:
    """The precision in which the checkpoint's weights lie, where its config says so."""
    dtype = getattr(_config(name, remote_code), "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else None


def _config(name: str, remote_code: bool) -> Any:
    from transformers import AutoConfig

    with _explained(name):
        return AutoConfig.from_pretrained(name, trust_remote_code=remote_code)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What transformers says at length when a checkpoint cannot be read, in two lines."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0][:160]
        if "trust_remote_code" in str(error):
            raise UnknownModel(f"{name} brings its own code", "Pass --remote-code if you trust it.") from None
        if "safetensors" in str(error):
            raise UnknownModel(
                f"{name} has no safetensors weights", "Convert it to safetensors first."
            ) from None
        raise UnknownModel(
            f"{name}: no model could be loaded ({why})",
            "Name a folder with config.json, tokenizer and safetensors, or a Hub id that can be reached.",
        ) from None


def has_gpu() -> bool:
    """Whether a CUDA device is there."""
    import torch

    return bool(torch.cuda.is_available())


def computes_in_bfloat16(precision: str) -> bool:
    """Whether a run computes in bfloat16: as asked, and on its own only on a GPU that has it."""
    import torch

    if precision == "auto":
        return has_gpu() and bool(torch.cuda.is_bf16_supported())
    return precision == "bfloat16"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings, logs, bars and pings; ours, on `console.note`, stay."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    asked = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "true"}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _silence_bars()
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _silence_bars() -> None:
    try:
        from datasets.utils.logging import disable_progress_bar
        from transformers.utils import logging as spoken
    except ImportError:
        raise MissingExtra(
            "training needs libraries that are not installed", "pip install 'maieutic[train]'"
        ) from None
    disable_progress_bar()
    spoken.disable_progress_bar()
    spoken.set_verbosity_error()
