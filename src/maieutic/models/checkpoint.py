"""Finding and opening a checkpoint: a folder, or a name on the Hugging Face hub.

Safetensors only, since a pickled file can run code; code from a repository only by flag. The hub is asked
once, briefly, before anything is loaded: without a network the libraries would retry for a minute first.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.chat_templates.conditioning import Conditioning, read_conditioning
from maieutic.core.errors import (
    MaieuticError,
    MissingExtra,
    MissingInput,
    ModelError,
    UnknownModel,
    Unreachable,
    WrongKey,
)
from maieutic.core.messages import Role

HUB_SECONDS = 10.0
EXTRA = {
    "accelerate",
    "huggingface_hub",
    "jinja2",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
}

_LOADING = threading.Lock()
"""Weights are loaded one model at a time: transformers patches torch for all threads while it loads, and of two models
with tied weights that are loaded together both would lack a head."""


class Source(NamedTuple):
    """Where a checkpoint is."""

    name: str
    """The name by which the libraries load it: a folder, or a hub name."""
    files: frozenset[str]
    """Its files; of a hub name read from the cache, only the files that were looked for."""
    offline: bool = False
    """Whether only what is already on this machine can be used."""

    def json(self, file: str) -> dict[str, Any]:
        """The content of one of its JSON files; empty where the file is missing."""
        if file not in self.files:
            return {}
        path = Path(self.name) / file
        if not path.is_file():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(self.name, file, local_files_only=self.offline))
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} is not JSON: {error}", "Correct or remove the file.") from None
        return value if isinstance(value, dict) else {}


class Settings(NamedTuple):
    """What `maieutic.json` in a checkpoint says: how the model was trained."""

    roles: frozenset[Role]
    """The sides it was trained to speak; empty where it does not say."""
    template: str | None
    system: str | None
    conditioning: Conditioning | None = None
    """The conditions that a simulator was trained with."""


def find(name: str) -> Source:
    """Find the checkpoint of a path or hub name.

    Raises:
        MissingInput: a path to no folder.
        UnknownModel, WrongKey, Unreachable: the hub does not have it, denies access, or does not answer.
    """
    folder = Path(name).expanduser()
    if (folder / "manifest.json").is_file() and (folder / "model").is_dir():
        folder = folder / "model"  # the folder of a training run means its model
    if folder.is_dir():
        return Source(str(folder), frozenset(file.name for file in folder.iterdir()))
    if folder.exists():
        raise MissingInput(f"{name} is a file", "Give the checkpoint's folder.")
    if name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name:
        raise MissingInput(f"{name}: no such folder", "Check the path of the checkpoint.")
    return _on_hub(name)


def settings(source: Source) -> Settings:
    """Role, template, system text and conditions from the checkpoint's `maieutic.json`."""
    record = source.json("maieutic.json")
    roles = {"user": {Role.USER}, "assistant": {Role.ASSISTANT}, "both": {Role.USER, Role.ASSISTANT}}
    return Settings(
        frozenset(roles.get(str(record.get("role")), ())),
        record.get("template"),
        record.get("system"),
        read_conditioning(record.get("condition")),
    )


def end_of_text_ids(source: Source) -> frozenset[int]:
    """The ids at which the checkpoint's generation config stops."""
    ids = source.json("generation_config.json").get("eos_token_id")
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


def state(source: Source, *framing: str | None) -> str | None:
    """A hash that changes with the weights of a folder (sizes, first and last 64 KiB of each file) or the framing."""
    folder = Path(source.name)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256(repr(framing).encode())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode() + weights.read(1 << 16))
            weights.seek(max(0, size - (1 << 16)))
            digest.update(weights.read())
    return digest.hexdigest()


def check_weights(source: Source) -> None:
    """Refuse a checkpoint without safetensors weights.

    Raises:
        ModelError: it has pickled weights only, or none.
    """
    if source.offline or any(file.endswith(".safetensors") for file in source.files):
        return
    pickled = sorted(file for file in source.files if file.endswith((".bin", ".pt", ".pth")))
    if pickled:
        raise ModelError(
            f"{source.name} holds pickled weights only ({pickled[0]}), which can run code",
            "Convert it where you trust it: AutoModelForCausalLM.from_pretrained(IT).save_pretrained(DIR).",
        )
    raise ModelError(
        f"{source.name} holds no weights (no .safetensors file)",
        "Give the folder that holds the checkpoint's files.",
    )


def load_tokenizer(source: Source, remote_code: bool = False) -> Any:
    """The tokenizer; a folder that holds nothing else is enough."""
    with plainly(source.name, "tokenizer"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            source.name, trust_remote_code=remote_code, local_files_only=source.offline
        )


def load_weights(
    source: Source, device: str | None = None, remote_code: bool = False, precision: str = "auto"
) -> Any:
    """The model; with `auto` precision float32 on a CPU, as stored on a GPU.

    Raises:
        ModelError: no safetensors weights, damaged ones, or fewer than the model has.
    """
    check_weights(source)
    with _LOADING, plainly(source.name, "model"):
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(f"no {device} on this machine", "Leave the device out, or name cpu.")
        on_cpu = device == "cpu"
        model, report = AutoModelForCausalLM.from_pretrained(
            source.name,
            use_safetensors=True,
            trust_remote_code=remote_code,
            local_files_only=source.offline,
            dtype="float32" if precision == "auto" and on_cpu else precision,
            device_map=None if on_cpu else device if device == "auto" else {"": device},
            output_loading_info=True,
        )
    # transformers fills missing weights with random numbers and continues.
    if lacking := sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]})):
        raise ModelError(
            f"{source.name} lacks {len(lacking)} of the model's weights ({lacking[0]}, ...)",
            "Its files are incomplete, or of another model: download or save it again.",
        )
    return model


def parameters(name: str, remote_code: bool = False) -> int | None:
    """The number of weights of a model, from its config alone; null where the hub does not answer."""
    try:
        source = find(name)
    except Unreachable:
        return None
    with plainly(source.name, "config"):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(
            source.name, trust_remote_code=remote_code, local_files_only=source.offline
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code)
        return sum(int(weight.numel()) for weight in model.parameters())


@contextmanager
def plainly(name: str, what: str) -> Iterator[None]:
    """Convert the libraries' loading errors into our errors: one line for the cause and one for the fix."""
    try:
        yield
    except MaieuticError:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        wanted = "'maieutic[train]'" if package in EXTRA else package
        raise MissingExtra(
            f"loading {name} needs {package}", f"Run: python -m pip install {wanted}"
        ) from error
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name} needs code from its own repository", "Read that code first, then pass --remote-code."
            ) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{name}: its {what} cannot be loaded: {lines[0][:300]}",
            "Check that the folder holds a whole checkpoint.",
        ) from error


def _on_hub(name: str) -> Source:
    with plainly(name, "entry"):
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    missing = f"{name}: no such folder here, and"
    try:
        info = HfApi().model_info(name, timeout=HUB_SECONDS)
        return Source(name, frozenset(file.rfilename for file in info.siblings or ()))
    except GatedRepoError:
        raise WrongKey(f"{name} is gated on the hub", "Ask for access there, then set HF_TOKEN.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UnknownModel(
            f"{missing} no such public model on the hub", "Check the name, or set HF_TOKEN."
        ) from None
    except Exception as error:  # no network, no answer in time, hub switched off: different types
        looked_for = ("config.json", "tokenizer.json", "maieutic.json", "generation_config.json")
        cached = frozenset(file for file in looked_for if isinstance(try_to_load_from_cache(name, file), str))
        if cached:
            return Source(name, cached, offline=True)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreachable(
            f"{missing} the hub cannot be reached: {reason}",
            "Give the path of a checkpoint folder, or connect to a network.",
        ) from None
