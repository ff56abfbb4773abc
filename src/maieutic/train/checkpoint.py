"""Checkpoints that a kill cannot spoil, and the finished model any server can load.

A trainer writes a checkpoint file by file, so a folder with the right name may be half of one. When all files
are there, `complete.json` is written with their sizes, and only a folder that still matches it counts.
"""

from __future__ import annotations

import os
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from maieutic.chat_templates import END, end_id, serving_template, stop_ids
from maieutic.chat_templates.conditioning import PARTS
from maieutic.core.store import full_disk, read_json, write_json
from maieutic.models.weights import Framing

COMPLETE = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path) -> None:
    """Make a checkpoint survive a power cut, then say that it is whole."""
    sizes = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != COMPLETE:
            with full_disk(file), file.open("rb") as stream:
                os.fsync(stream.fileno())
            sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
    write_json(checkpoint / COMPLETE, sizes)


def last_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder."""
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


def forget_incomplete(folder: Path) -> None:
    """Drop the halves a kill left, so that they neither count among the kept nor mix with a rewrite."""
    for path in folder.glob("checkpoint-*"):
        if _NAME.fullmatch(path.name) and not _is_complete(path):
            shutil.rmtree(path)


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
    """Write a finished model: weights, tokenizer with its serving template, generation config, record, card.

    Args:
        model: a plain (merged) model.
        tokenizer: with END where it was taught.
        folder: appears whole or not at all; what a killed attempt left there is replaced.
        role: the side it speaks; `both` is served as an assistant.
        frame: how its conversations were framed.
        dtype: what to store the weights in; null: as they are.
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
    """The recipe that a run is a stage of: its name, and the hash of what it resolved to."""
    file = run.parent / "recipe.json"
    if not file.is_file():
        return None
    return {"name": read_json(file)["recipe"], "sha256": sha256(file.read_bytes()).hexdigest()}


def model_card(record: dict[str, Any]) -> str:
    """A short model card, in the Hub's form, from the record in `maieutic.json`."""
    import orjson

    data, method, recipe = record["data"], record["method"], record["recipe"]
    speaks = {"user": "the human's turns (a user simulator)", "both": "both sides"}.get(
        record["role"], "the assistant's turns"
    )
    notes = ""
    if record["role"] == "user":
        notes += "\nServe it as an ordinary chat model: its chat template opens the *user's* turn.\n"
    if condition := record.get("condition"):
        told = {part for kind in condition["rates"] for part in kind.split("+")} & set(PARTS)
        words = "\n".join(
            f"- `{' '.join(condition['wording'][part].split())}`" for part in PARTS if part in told
        )
        notes += (
            f"\nIt can be told in the system message what it was trained to be told:\n\n{words}\n"
            if told
            else ""
        )
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
            f"Fine-tuned from `{record['base']}` to speak {speaks}.",
            notes,
            f"## Data\n\n`{data['name']}` (SHA-256 `{data['sha256']}`), {data['rows']} rows.",
            f"Licences: {licences}; that of `{record['base']}` holds for these weights too.\n",
            f"## Recipe\n\nMade by {made}, with {versions}.\n",
            f"## Result\n\n| | |\n|---|---|\n{rows}\n",
            f"## Settings\n\n```json\n{settings.decode()}\n```\n",
        )
    )
