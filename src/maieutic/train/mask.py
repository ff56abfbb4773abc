"""A corpus as ids and labels on disk: the rows that `train sft` would train on, for any trainer.

The rows come from the function that training itself uses. What decides them (the corpus', the tokenizer's and the
template's hashes among it) stands in `config.json`, so the same call again does nothing, and a call with other settings
is refused with the settings that differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.chat_templates import END
from maieutic.chat_templates.templates import template_text
from maieutic.chat_templates.turns import Keep
from maieutic.core.messages import fingerprint
from maieutic.core.store import Stage, full_disk
from maieutic.models.weights import Framing, quiet
from maieutic.train.config import file_sha256
from maieutic.train.data import conversation_rows

RENDERING = 2
"""Raised whenever the same corpus, tokenizer and template give other ids or labels than before."""


class Written(NamedTuple):
    """The folder and its counts."""

    folder: Path
    manifest: dict[str, Any]
    new: bool
    """False where the folder was complete already."""

    def json(self) -> dict[str, Any]:
        """As printed."""
        return {"out": str(self.folder), "new": self.new, **self.manifest}


def write_masks(
    corpus: Path,
    tokenizer: Any,
    role: str,
    out: Path,
    frame: Framing,
    end: bool = True,
    max_length: int | None = None,
    keep: Keep = "start",
) -> Written:
    """Write a corpus as columns `input_ids` and `labels` (-100 outside the loss), for `datasets.load_from_disk`.

    Args:
        corpus: a corpus file, or a step's folder.
        tokenizer: a fast Hugging Face tokenizer. END gets the next free id where the rows teach it.
        role: `user`, `assistant` or `both`.
        out: a new folder, or a folder that the same call has made.
        frame: template and system text.
        end: whether conversations with `ended: true` teach END.
        max_length: tokens a row may have; longer conversations lose whole turns.
        keep: which turns of a conversation that is too long are kept, `start` or `end`.

    Raises:
        EmptyCorpus, ContextTooShort: no row is left.
        RunConflict: the folder was made with other settings, or holds other files.
        RenderError: the template cannot write a conversation.
    """
    from maieutic.data.corpus import read_corpus

    settings = {
        "stage": "mask",
        "rendering": RENDERING,
        "corpus": file_sha256(corpus),
        "tokenizer": tokenizer_hash(tokenizer),
        "template": _template_hash(tokenizer, frame.template),
        "system": frame.system,
        "role": role,
        "end": end,
        "max_length": max_length,
        "keep": keep,
    }
    with Stage(out, settings) as stage:
        if stage.done:
            return Written(out, stage.manifest, new=False)
        rows = conversation_rows(read_corpus(corpus), tokenizer, role, frame, max_length or 2**31, end, keep)
        with full_disk(out), quiet():
            rows.dataset.save_to_disk(out)
        return Written(out, stage.finish(rows.report.json()), new=True)


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of what a tokenizer does to a text; an added END does not change it."""
    shape = orjson.loads(tokenizer.backend_tokenizer.to_str())
    added = [token for token in shape["added_tokens"] if token["content"] != END]
    shape.update(added_tokens=added, truncation=None, padding=None)
    named = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    return fingerprint([shape, named])


def _template_hash(tokenizer: Any, template: str | None) -> str:
    return fingerprint(template if template in ("dyadic", "plain") else template_text(tokenizer, template))
