"""A checkpoint opened for export, and written as a self-contained folder of safetensors.

An opened checkpoint has its tokenizer, the template that it is served with, and the tokens at which a reply stops. A
LoRA adapter is merged into its base.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.chat_templates.rendering import end_id, stop_ids
from maieutic.chat_templates.templates import serving_template
from maieutic.core.errors import MissingExtra, ModelError, RunConflict
from maieutic.core.store import full_disk, read_json, write_json
from maieutic.models.checkpoint import Source, check_weights, end_of_text_ids, find, load_tokenizer
from maieutic.models.weights import Framing, framing, held_dtype, load_config, load_model, locate

ADAPTER = "adapter_config.json"
_WANTED = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.py", "*.md"]
_AS_IT_IS = (".safetensors", ".py")
_NAMED = ("config.json", "model.safetensors.index.json")


class Opened(NamedTuple):
    """A checkpoint, ready to be written in another form."""

    folder: Path
    """The folder of its weights; of a LoRA adapter, the base's folder."""
    adapter: Path | None
    """A LoRA adapter to merge in."""
    tokenizer: Any
    """With the template that is served."""
    role: str
    """The side that is served: `user` or `assistant`."""
    frame: Framing
    """Template and system text of its conversations."""
    ends: list[int]
    """The ids at which a reply stops, the end of the text first."""
    record: dict[str, Any]
    """Its `maieutic.json`; empty where it has none."""
    name: str
    """The model's name."""
    card: str | None
    """The text of its model card."""


def open_checkpoint(
    model: str, template: str | None = None, system: str | None = None, role: str | None = None
) -> Opened:
    """Open a finished run, a checkpoint's folder, a LoRA adapter or a name on the hub.

    Args:
        model: with or without `hf/`.
        template: `chat`, `dyadic`, `plain` or a Jinja file; null: what the checkpoint says, else its chat template.
        system: system text for conversations that have none; null: what the checkpoint says.
        role: the side to serve; null: what the checkpoint says, else the assistant's.

    Raises:
        MissingInput, UnknownModel, Unreachable: it was not found.
        NoTemplate, RenderError: it has no template, or a template that cannot be served for that side.
        ModelError: it has no safetensors weights.
    """
    source = locate(model)
    adapter = None
    if ADAPTER in source.files and "config.json" not in source.files:
        adapter = source
        source = _base(adapter)
    check_weights(source)
    speaker = source if adapter is None else _speaker(adapter, source)
    frame = framing(speaker, template, system)
    record = speaker.json("maieutic.json")
    side = role or ("user" if record.get("role") == "user" else "assistant")
    tokenizer = load_tokenizer(speaker)
    tokenizer.chat_template = serving_template(tokenizer, side, frame.template, frame.system)
    return Opened(
        _local(source),
        None if adapter is None else _local(adapter),
        tokenizer,
        side,
        frame,
        _ends(speaker, tokenizer, frame, side, record),
        record,
        _name(Path(speaker.name)),
        None if adapter is not None and speaker is source else _card(_local(speaker)),
    )


def _base(adapter: Source) -> Source:
    base = adapter.json(ADAPTER).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{adapter.name} does not name its base", "Correct its adapter_config.json.")
    return find(str(base))


def _speaker(adapter: Source, base: Source) -> Source:
    """The source of an adapter's tokenizer: the adapter, the model of the same run, or the base."""
    if "tokenizer.json" in adapter.files:
        return adapter
    beside = Path(adapter.name).parent / "model"
    return find(str(beside)) if (beside / "tokenizer.json").is_file() else base


def _ends(source: Source, tokenizer: Any, frame: Framing, side: str, record: dict[str, Any]) -> list[int]:
    ends = set(end_of_text_ids(source))
    if not ends or side == "user" or frame != Framing(None, None):
        ends |= stop_ids(tokenizer, frame.template)
    if record.get("end") and (end := end_id(tokenizer)) is not None:
        ends.add(end)
    eos = tokenizer.eos_token_id
    return ([eos] if eos is not None else []) + sorted(ends - {eos})


def _local(source: Source) -> Path:
    """The folder of its files; the files of a hub name are downloaded."""
    folder = Path(source.name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source.name, allow_patterns=_WANTED, local_files_only=source.offline))


def _card(folder: Path) -> str | None:
    """The model card in a folder; a placeholder card counts as missing."""
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text if text and "[More Information Needed]" not in text else None


def _name(path: Path) -> str:
    """The checkpoint's name; for the `model` folder of a run, the run's name."""
    path = path.expanduser().absolute()
    return path.parent.name if path.name == "model" else path.name


def write_merged(model: Opened, folder: Path) -> Path:
    """Write the folder; it appears whole or not at all.

    Raises:
        RunConflict: the folder is not empty.
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
        _write_files(model, part)
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


def _write_files(model: Opened, part: Path) -> None:
    """Write tokenizer, serving template, generation config, `maieutic.json` and model card."""
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
