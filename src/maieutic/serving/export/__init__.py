"""A trained or published checkpoint, in the form that a server wants.

`merged` is a self-contained folder of safetensors, for vLLM and transformers; `gguf` one file for llama.cpp, tokenizer
and chat template inside; `ollama` that file and a Modelfile. What would come out wrong is refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

from maieutic.core.errors import InputError
from maieutic.core.store import full_disk
from maieutic.models.weights import quiet
from maieutic.serving.export.gguf import PRECISIONS, Written, write_gguf
from maieutic.serving.export.merged import write_merged
from maieutic.serving.export.ollama import modelfile
from maieutic.serving.export.opened import Opened, opened

__all__ = ["PRECISIONS", "Exported", "Kind", "export", "opened"]

Kind = Literal["merged", "gguf", "ollama"]


class Exported(NamedTuple):
    """What was written."""

    out: Path
    """The folder, or the GGUF file."""
    role: str
    """The side it speaks."""
    stops: list[str]
    """The tokens at which a reply stops."""
    context: int | None = None
    """Tokens a conversation may have; of a GGUF file, less than the model's where attention slides."""

    def json(self) -> dict[str, Any]:
        """As printed."""
        return {**self._asdict(), "out": str(self.out)}


def export(
    model: str,
    to: Kind,
    out: Path,
    *,
    precision: str = "f16",
    template: str | None = None,
    system: str | None = None,
    role: str | None = None,
) -> Exported:
    """Write a model for a server.

    Args:
        model: a finished run, a checkpoint's folder, a LoRA adapter, or a name on the hub.
        to: `merged`, `gguf` or `ollama`.
        out: a folder; for `merged` a new one. A GGUF file in it, and its Modelfile, are replaced.
        precision: of GGUF's weights: f16, q8_0 or q4_0.
        template: `chat`, `dyadic`, `plain` or a Jinja file, for a checkpoint that carries none, or another.
        system: system text for conversations that have none.
        role: the side to serve, where the checkpoint does not say.

    Raises:
        ModelError, RenderError, InputError: it cannot be written so that it answers the same; says why.
        MissingExtra: a library is not installed.
        DiskFull, StoreError: it cannot be written there; nothing half is left.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}", f"Give {', '.join(PRECISIONS)}.")
    with quiet():
        held = opened(model, template, system, role)
        stops = held.tokenizer.convert_ids_to_tokens(held.ends)
        if to == "merged":
            return Exported(write_merged(held, out), held.role, stops)
        written = _gguf(held, out, precision)
        if to == "ollama":
            text = modelfile(held, written.context, written.vocabulary.add_bos)
            _replace(out / "Modelfile", text)
        if held.card and not (out / "README.md").exists():  # which may be somebody's own
            _replace(out / "README.md", held.card)
        return Exported(written.file, held.role, stops, written.context)


def _gguf(held: Opened, out: Path, precision: str) -> Written:
    """The file; an adapter is merged into a folder beside it first."""
    if held.adapter is None:
        return write_gguf(held, out / "model.gguf", precision)
    beside = out / ".merged"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        write_merged(held, beside)
        return write_gguf(held._replace(folder=beside, adapter=None), out / "model.gguf", precision)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    with full_disk(file):
        part.write_text(text, encoding="utf-8")
        part.replace(file)
