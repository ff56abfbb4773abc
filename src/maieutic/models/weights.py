"""A checkpoint, opened for training, and the quiet to do it in.

Finding and reading a checkpoint is `models.checkpoint`'s; here it is loaded in the precision that training wants.
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

from maieutic.core.errors import MissingExtra, ModelError
from maieutic.models.checkpoint import Source, check_weights, find, plainly, settings

_LOUD = ("transformers", "trl", "accelerate", "peft", "datasets", "huggingface_hub", "torch", "py.warnings")


class Framing(NamedTuple):
    """How a checkpoint's conversations are framed."""

    template: str | None
    system: str | None


def locate(model: str) -> Source:
    """The checkpoint a MODEL means: `hf/` dropped, a finished run's folder turned into its `model`.

    Raises:
        MissingInput, UnknownModel, Unreachable: there is none.
    """
    name = model.removeprefix("hf/")
    inside = Path(name).expanduser() / "model"
    return find(str(inside) if (inside / "config.json").is_file() else name)


def framing(source: Source, template: str | None, system: str | None) -> Framing:
    """Template and system text: what was asked for, else what the checkpoint's `maieutic.json` says."""
    said = settings(source)
    return Framing(said.template if template is None else template, said.system if system is None else system)


def load_config(source: Source, remote_code: bool = False) -> Any:
    """The config of a checkpoint."""
    with plainly(source.name, "config"):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(
            source.name, trust_remote_code=remote_code, local_files_only=source.offline
        )


def load_model(source: Source, dtype: str, remote_code: bool = False) -> Any:
    """The weights of a checkpoint in a given precision, on the CPU; the trainer moves them.

    Raises:
        ModelError: no safetensors weights, damaged ones, or fewer than the model has.
    """
    check_weights(source)
    with plainly(source.name, "model"):
        import torch
        from transformers import AutoModelForCausalLM

        model, report = AutoModelForCausalLM.from_pretrained(
            source.name,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=remote_code,
            local_files_only=source.offline,
            output_loading_info=True,
        )
    # The library fills absent weights with random numbers and goes on.
    if lacking := sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]})):
        raise ModelError(
            f"{source.name} lacks {len(lacking)} of the model's weights ({lacking[0]}, ...)",
            "Its files are incomplete, or of another model: download or save it again.",
        )
    return model


def context_length(config: Any) -> int | None:
    """Tokens the model was built for, where its config says so."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def held_dtype(config: Any) -> str | None:
    """The precision in which the checkpoint's weights lie, where its config says so."""
    dtype = getattr(config, "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else None


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
