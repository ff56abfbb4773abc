"""A checkpoint's config and weights for training and export, and `quiet`, which silences the libraries.

`models.checkpoint` finds and reads checkpoints; here one is loaded in the precision that training needs.
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

_NOISY = ("transformers", "trl", "accelerate", "peft", "datasets", "huggingface_hub", "torch", "py.warnings")


class Framing(NamedTuple):
    """How a checkpoint's conversations become text: a template and a system text."""

    template: str | None
    system: str | None


def locate(model: str) -> Source:
    """The checkpoint that a MODEL names: without `hf/`; of a finished run's folder, its `model`.

    Raises:
        MissingInput, UnknownModel, Unreachable: there is no such checkpoint.
    """
    name = model.removeprefix("hf/")
    inside = Path(name).expanduser() / "model"
    return find(str(inside) if (inside / "config.json").is_file() else name)


def framing(source: Source, template: str | None, system: str | None) -> Framing:
    """The given template and system text; for what is null, those in the checkpoint's `maieutic.json`."""
    own = settings(source)
    return Framing(own.template if template is None else template, own.system if system is None else system)


def load_config(source: Source, remote_code: bool = False) -> Any:
    """The config of a checkpoint."""
    with plainly(source.name, "config"):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(
            source.name, trust_remote_code=remote_code, local_files_only=source.offline
        )


def load_model(source: Source, dtype: str, remote_code: bool = False) -> Any:
    """A checkpoint's model in a given precision, on the CPU.

    Raises:
        ModelError: there are no safetensors weights, or they are damaged or incomplete.
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
    # transformers fills missing weights with random numbers.
    if missing := sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]})):
        raise ModelError(
            f"{source.name} lacks {len(missing)} of the model's weights ({missing[0]}, ...)",
            "Its files are incomplete or belong to another model: download or save it again.",
        )
    return model


def context_length(config: Any) -> int | None:
    """The longest context in tokens; null where the config does not say."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def held_dtype(config: Any) -> str | None:
    """The precision of the stored weights; null where the config does not say."""
    dtype = getattr(config, "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else None


def has_gpu() -> bool:
    """Whether there is a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def computes_in_bfloat16(precision: str) -> bool:
    """Whether to compute in bfloat16; `auto` does so on a GPU that supports it."""
    import torch

    if precision == "auto":
        return has_gpu() and bool(torch.cuda.is_bf16_supported())
    return precision == "bfloat16"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings, logs, progress bars and telemetry; `console.note` still prints."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    wanted = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "true"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
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
