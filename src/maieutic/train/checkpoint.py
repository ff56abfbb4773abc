"""Checkpoints that survive a kill, and the finished model, which any server can load.

A trainer writes a checkpoint file by file, so a kill can leave an incomplete checkpoint. After the last file,
`complete.json` is written with the size of each file. A folder counts as a checkpoint only if its files match
`complete.json`.
"""

from __future__ import annotations

import os
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from maieutic.chat_templates.conditioning import PARTS, wording
from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import end_id, stop_ids
from maieutic.chat_templates.templates import serving_template
from maieutic.core.errors import ModelError
from maieutic.core.store import Stage, full_disk, read_json, write_json
from maieutic.models.weights import Framing
from maieutic.train.base import Base, writes_end
from maieutic.train.config import TrainConfig, file_sha256
from maieutic.train.distributed import is_first
from maieutic.train.rows import Rows

COMPLETE = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path) -> None:
    """Sync a checkpoint to disk, then mark it as complete."""
    sizes = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != COMPLETE:
            with full_disk(file), file.open("rb") as stream:
                os.fsync(stream.fileno())
            sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
    write_json(checkpoint / COMPLETE, sizes)


def last_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder; null: there is none."""
    found = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))
    ]
    return next((path for _, path in sorted(found, reverse=True) if _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    mark = checkpoint / COMPLETE
    if not mark.is_file():
        return False
    sizes = read_json(mark)
    return all(
        (file := checkpoint / name).is_file() and file.stat().st_size == size for name, size in sizes.items()
    )


def delete_incomplete(folder: Path) -> None:
    """Delete incomplete checkpoints: they would count as checkpoints to keep, and mix with a new one of that step."""
    for path in folder.glob("checkpoint-*"):
        if _NAME.fullmatch(path.name) and not _is_complete(path):
            shutil.rmtree(path)


def gather_model(trainer: Any) -> Any:
    """The trained model with all its weights in this process, ready to be merged and written.

    Weights that are spread over processes (FSDP2's DTensors, DeepSpeed's stage 3) are gathered: the first process gets
    a new model on the CPU that holds all weights, the other processes get null.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = _gathered(trainer, model)
    if weights is None:
        return model
    return _rebuilt(model, weights) if is_first() else None


def _gathered(trainer: Any, model: Any) -> Any:
    """All weights of a model that is spread over processes, in the first process; null: the model is not spread."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    plugin = trainer.accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return None


def _rebuilt(model: Any, weights: dict[str, Any]) -> Any:
    """A whole model of the same shape and with the same adapters that holds the given weights."""
    import torch
    from peft import PeftModel, get_peft_model

    adapted = isinstance(model, PeftModel)
    plain = model.get_base_model() if adapted else model
    with torch.device("meta"):
        new = type(plain)(plain.config)
        if adapted:
            new = get_peft_model(new, model.peft_config["default"])
    missing = set(new.load_state_dict(weights, strict=False, assign=True).missing_keys)
    (new.get_base_model() if adapted else new).tie_weights()
    empty = [name for name, weight in new.named_parameters() if weight.is_meta]
    if empty:
        raise ModelError(
            f"{len(empty)} weights were not gathered ({empty[0]}, ...; {len(missing)} names not given)",
            "The last checkpoint is complete: run the same command again, on one device if it can hold the model.",
        )
    return new


def save_result(
    config: TrainConfig, stage: Stage, model: Any, base: Base, rows: Rows, numbers: dict[str, Any]
) -> None:
    """Write the adapter, if there is one, and the whole model."""
    if config.lora_r is not None:
        model.save_pretrained(stage.folder / "adapter", save_embedding_layers=False)
        model = model.merge_and_unload()
    model.config.use_cache = True
    data = {
        "name": config.data.name,
        "sha256": file_sha256(config.data),
        "rows": rows.report.rows,
        "licences": rows.licences,
    }
    settings = {key: value for key, value in stage.config.items() if key not in ("method", "model", "data")}
    condition = getattr(config, "condition", None)
    record = {
        "method": stage.config["method"],
        **({"condition": {"rates": condition, "wording": wording()}} if condition else {}),
        "end": writes_end(config, base, rows),
        "base": _public_name(config.model),
        "data": data,
        "metrics": {key: numbers[key] for key in numbers.keys() - {"data", "versions"}},
        "settings": settings,
        "versions": numbers["versions"],
    }
    save_model(
        model,
        base.tokenizer,
        stage.folder / "model",
        role=getattr(config, "role", "assistant"),
        frame=base.frame,
        dtype=base.dtype,
        record=record,
    )


def _public_name(model: str) -> str:
    """A model's name without local folders: only the last two parts of an absolute path."""
    path = Path(model.removeprefix("hf/")).expanduser()
    return "/".join(path.parts[-2:]) if path.is_absolute() else model.removeprefix("hf/")


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    role: str,
    frame: Framing,
    dtype: str | None,
    record: dict[str, Any],
) -> Path:
    """Write a finished model: weights, tokenizer with the template to serve it, generation config, record, model card.

    Args:
        model: a plain (merged) model.
        tokenizer: contains END if training taught END.
        folder: written whole or not at all; replaced if it exists.
        role: the side that was trained; `both` is served as an assistant.
        frame: template and system text of the training.
        dtype: precision of the stored weights; null: unchanged.
        record: further keys of `maieutic.json`.
    """
    import torch
    from transformers import GenerationConfig

    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    ends = sorted(stop_ids(tokenizer, frame.template))
    if record.get("end") and (end := end_id(tokenizer)) is not None:
        ends.append(end)
    side = "assistant" if role == "both" else role
    tokenizer.chat_template = serving_template(tokenizer, side, frame.template, frame.system)
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    with full_disk(part):
        part.mkdir(parents=True)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        held = frame.template if frame.template in ("dyadic", "plain") else None
        whole = {
            "role": role,
            "template": held,
            "system": frame.system,
            "recipe": _recipe(folder.parent),
            **record,
        }
        write_json(part / "maieutic.json", whole)
        (part / "README.md").write_text(model_card(whole), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    return folder


def _recipe(run: Path) -> dict[str, str] | None:
    """Name and hash of the recipe that the run belongs to; null: the run belongs to no recipe."""
    file = run.parent / "recipe.json"
    if not file.is_file():
        return None
    return {"name": read_json(file)["recipe"], "sha256": sha256(file.read_bytes()).hexdigest()}


def model_card(record: dict[str, Any]) -> str:
    """A short model card in the Hub's format, from the record in `maieutic.json`."""
    import orjson

    data, method, recipe = record["data"], record["method"], record["recipe"]
    side = {"user": "the human's turns (a user simulator)", "both": "both sides"}.get(
        record["role"], "the assistant's turns"
    )
    notes = ""
    if record["role"] == "user":
        notes += "\nServe it as any chat model: its chat template opens the *user's* turn.\n"
    if condition := record.get("condition"):
        parts = {part for kind in condition["rates"] for part in kind.split("+")} & set(PARTS)
        words = "\n".join(
            f"- `{' '.join(condition['wording'][part].split())}`" for part in PARTS if part in parts
        )
        notes += f"\nIt was trained with these lines in the system message:\n\n{words}\n" if parts else ""
    if record.get("end"):
        notes += f"\nIt ends a conversation with `{END}`.\n"
    metrics = {name: value for name, value in sorted(record["metrics"].items()) if value is not None}
    rows = "\n".join(
        f"| {name} | {value:.6g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in metrics.items()
    )
    settings = orjson.dumps(record["settings"], option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    made = f"`maieutic train {method}`, settings below (SHA-256 `{sha256(settings).hexdigest()}`)"
    if recipe:
        made = f"recipe `{recipe['name']}` (SHA-256 `{recipe['sha256']}`), stage {made}"
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    licences = ", ".join(data["licences"]) or "not stated"
    return "\n".join(
        (
            f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [maieutic, {method}]\n---\n",
            f"# {method.upper()} on {data['name']}\n",
            f"Fine-tuned from `{record['base']}` to write {side}.",
            notes,
            f"## Data\n\n`{data['name']}` (SHA-256 `{data['sha256']}`), {data['rows']} rows.",
            f"Licences: {licences}; the licence of `{record['base']}` also applies to these weights.\n",
            f"## Recipe\n\nMade by {made}, with {versions}.\n",
            f"## Result\n\n| | |\n|---|---|\n{rows}\n",
            f"## Settings\n\n```json\n{settings.decode()}\n```\n",
        )
    )
