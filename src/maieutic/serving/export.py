"""`export`: a trained or published checkpoint in the form that a server wants.

`merged` is a self-contained folder of safetensors, for vLLM and transformers; `gguf` is one file for llama.cpp, with
tokenizer and chat template inside; `ollama` is that file and a Modelfile. An export that would answer differently
than the checkpoint is refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from maieutic.core.console import say
from maieutic.core.errors import InputError
from maieutic.core.step import Result, Step
from maieutic.core.store import full_disk

if TYPE_CHECKING:
    from maieutic.serving.checkpoint import Opened
    from maieutic.serving.gguf import Written


class ExportResult(Result):
    """What was written."""

    role: str
    """The side that the model speaks."""
    stops: list[str]
    """The tokens at which a reply stops."""
    context: int | None = None
    """Maximum tokens of a conversation; a GGUF file of a sliding-window model may have less than the model."""

    def show(self) -> None:
        """Print the file, its role, its stop tokens and its context."""
        context = f", {self.context} tokens of context" if self.context else ""
        say(f"{self.run}: speaks the {self.role}, stops at {' '.join(self.stops)}{context}")


class Export(Step):
    """Write a model for a server: a folder for vLLM and transformers, a file for llama.cpp, or files for Ollama."""

    command: ClassVar = "export"
    arguments: ClassVar = ("model",)
    flags: ClassVar = {"role": "--as"}
    out_help: ClassVar = "Folder to write; for merged a new folder."
    examples: ClassVar = ("maieutic export runs/user --to gguf --quantize q8_0 --out gguf",)

    model: str = Field(description="A finished run, a checkpoint's folder, a LoRA adapter, or a hub name.")
    to: Literal["merged", "gguf", "ollama"] = Field(
        "merged",
        description="merged: safetensors; gguf: one file for llama.cpp; ollama: that file and a Modelfile.",
    )
    quantize: Literal["f16", "q8_0", "q4_0"] | None = Field(
        None, description="Precision of GGUF weights; default: f16."
    )
    template: str | None = Field(
        None, description="chat, dyadic, plain or a Jinja file; default: the checkpoint's template."
    )
    system: str | None = Field(None, description="System text for conversations that have none.")
    role: Literal["user", "assistant"] | None = Field(
        None, description="Side to serve; default: the trained side, else assistant."
    )

    def check(self) -> None:
        """Refuse `quantize` for `merged`, whose weights keep their precision."""
        if self.quantize and self.to == "merged":
            raise InputError("--quantize is for GGUF files only", "Drop it, or give --to gguf.")

    def run(self, out: Path | str) -> ExportResult:
        """Write the model.

        Args:
            out: a folder; for `merged` a new one. In it a GGUF file and its Modelfile are replaced.

        Raises:
            ModelError, RenderError, InputError: the exported model would answer differently; the error says why.
            MissingExtra: a library is not installed.
            DiskFull, StoreError: the folder cannot be written; nothing half-written is left.
        """
        from maieutic.models.weights import quiet
        from maieutic.serving.checkpoint import open_checkpoint, write_merged
        from maieutic.serving.ollama import modelfile

        out = Path(out)
        self.check()
        with quiet():
            opened = open_checkpoint(self.model, self.template, self.system, self.role)
            stops = opened.tokenizer.convert_ids_to_tokens(opened.ends)
            if self.to == "merged":
                return ExportResult(run=str(write_merged(opened, out)), role=opened.role, stops=stops)
            written = _write_gguf(opened, out, self.quantize or "f16")
            if self.to == "ollama":
                text = modelfile(opened, written.context, written.vocabulary.add_bos)
                _replace(out / "Modelfile", text)
            if opened.card and not (out / "README.md").exists():  # an existing one may be the user's
                _replace(out / "README.md", opened.card)
            return ExportResult(run=str(written.file), role=opened.role, stops=stops, context=written.context)


def _write_gguf(opened: Opened, out: Path, precision: str) -> Written:
    """The GGUF file; an adapter is merged into a temporary folder first."""
    from maieutic.serving.checkpoint import write_merged
    from maieutic.serving.gguf import write_gguf

    if opened.adapter is None:
        return write_gguf(opened, out / "model.gguf", precision)
    merged = out / ".merged"
    shutil.rmtree(merged, ignore_errors=True)
    try:
        write_merged(opened, merged)
        return write_gguf(opened._replace(folder=merged, adapter=None), out / "model.gguf", precision)
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def _replace(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    with full_disk(file):
        part.write_text(text, encoding="utf-8")
        part.replace(file)
