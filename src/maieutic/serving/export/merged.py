"""A self-contained folder of safetensors: a checkpoint as it is, or a LoRA adapter merged into its base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson

from maieutic.core.errors import MissingExtra, RunConflict
from maieutic.core.store import full_disk, read_json, write_json
from maieutic.models.weights import held_dtype, load_config, load_model, locate
from maieutic.serving.export.opened import Opened

_AS_IT_IS = (".safetensors", ".py")
_NAMED = ("config.json", "model.safetensors.index.json")


def write_merged(model: Opened, folder: Path) -> Path:
    """Write the folder; it appears whole or not at all.

    Raises:
        RunConflict: it holds something already.
        ModelError: the adapter does not fit its base.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RunConflict(f"{folder} is not empty", "Choose a new folder; nothing in this one was touched.")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with full_disk(folder):
        part.mkdir(parents=True)
        if model.adapter is None:
            _copy(model.folder, part)
        else:
            _merge(model, model.adapter, part)
        _dress(model, part)
        part.replace(folder)
    return folder


def _copy(folder: Path, part: Path) -> None:
    for file in folder.iterdir():
        if file.suffix in _AS_IT_IS or file.name in _NAMED:
            shutil.copyfile(file, part / file.name)


def _merge(model: Opened, adapter: Path, part: Path) -> None:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtra("merging an adapter needs peft", "Run: pip install 'maieutic[train]'") from None
    import torch

    source = locate(str(model.folder))
    base = load_model(source, "float32")
    if len(model.tokenizer) > base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    merged = merged.to(getattr(torch, held_dtype(load_config(source)) or "float32"))
    merged.save_pretrained(part)


def _dress(model: Opened, part: Path) -> None:
    """Tokenizer with its serving template, generation config, what we say of it, and its card."""
    model.tokenizer.save_pretrained(part)
    held = model.folder / "generation_config.json"
    settings: dict[str, Any] = read_json(held) if held.is_file() else {}
    settings["eos_token_id"] = model.ends
    for key, value in (
        ("bos_token_id", model.tokenizer.bos_token_id),
        ("pad_token_id", model.tokenizer.pad_token_id),
    ):
        if value is not None:
            settings[key] = value
    write_json(part / "generation_config.json", settings)
    frame = model.frame
    kept = frame.template if frame.template in ("dyadic", "plain") else None
    both = model.record.get("role") == "both" and model.role == "assistant"
    role = "both" if both else model.role
    record = {**model.record, "role": role, "template": kept, "system": frame.system}
    write_json(part / "maieutic.json", record)
    text = model.card
    if text is None:
        origin = f"`{model.name}` merged into its base" if model.adapter else f"`{model.name}`"
        speaks = orjson.dumps(record, option=orjson.OPT_INDENT_2).decode()
        text = f"# {model.name}\n\n{origin}, with the chat template it is served with.\n\n```json\n{speaks}\n```\n"
    (part / "README.md").write_text(text, encoding="utf-8")
