"""`mask`: print the exact tokens in the loss, or write them to disk for any trainer.

The rows on disk come from the same function that `train sft` uses. `config.json` holds the settings that decide the
rows, and hashes of the corpus, the tokenizer and the template. A repeated call does nothing. A call with other
settings is refused, and the error names the settings that differ.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import orjson
from pydantic import Field, PrivateAttr

from maieutic.core.console import out as stdout
from maieutic.core.console import say, shown
from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, fingerprint
from maieutic.core.settings import Source
from maieutic.core.step import Result, Step
from maieutic.core.store import Stage, full_disk

if TYPE_CHECKING:
    from maieutic.chat_templates.rendering import Rendered

RENDERING = 2
"""Version of the rows: increased when the same corpus, tokenizer and template give other ids or labels."""


class MaskedRow(NamedTuple):
    """The ids, labels and tokens of one rendered conversation."""

    id: str
    rendered: Rendered
    tokens: list[str]

    def json(self) -> dict[str, Any]:
        """The printed JSON."""
        return {"id": self.id, **self.rendered._asdict(), "tokens": self.tokens}


class MaskResult(Result):
    """The rendered conversations, in order."""

    _rows: list[MaskedRow] = PrivateAttr(default_factory=list)
    _tokenizer: Any = PrivateAttr(default=None)

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """`{"conversations": [{"id", "input_ids", "labels", "tokens"}]}`."""
        return {"conversations": [row.json() for row in self._rows]}

    def rows(self) -> Any:
        """The rows."""
        return iter(self._rows)

    def show(self) -> None:
        """Print each conversation: tokens in the loss green (in a file as ⟦text⟧), other tokens grey."""
        from rich.text import Text

        for row in self._rows:
            line = Text()
            for text, supervised in row.rendered.stretches(self._tokenizer):
                visible = shown(text)
                marked = f"⟦{visible}⟧" if supervised and not stdout.is_terminal else visible
                line.append(marked, style="bold green" if supervised else "bright_black")
            say(f"{row.id}: {row.rendered.supervised} of {len(row.rendered.labels)} tokens")
            stdout.print(line, soft_wrap=True)


class MasksWritten(Result):
    """The folder that was written, and its counts."""

    new: bool
    """False if the folder was already complete."""
    counts: dict[str, Any]

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """Folder and counts."""
        return {"out": self.run, "new": self.new, **self.counts}

    def show(self) -> None:
        """Print the counts."""
        counts = self.counts
        say(f"{self.run}: {'written' if self.new else 'complete already'}")
        say(f"{counts['rows']} rows, {counts['tokens']} tokens, {counts['supervised']} of them in the loss")
        say(f"{counts['ends']} teach END, {counts['shortened']} lost turns to fit")
        say(
            f"{counts['without_turn']} without a turn of the role and {counts['too_long']} too long: left out"
        )


class Mask(Step):
    """Show the exact tokens of each conversation that are in the loss, or write ids and labels for a trainer."""

    command: ClassVar = "mask"
    arguments: ClassVar = ("data",)
    flags: ClassVar = {"n": "-n"}
    examples: ClassVar = ("maieutic mask corpus.jsonl --model hf/runs/base --role user -n 2",)
    out_help: ClassVar = (
        "Folder to write ids and labels to, for `datasets.load_from_disk`; default: print them."
    )

    data: Source = Field(description="A corpus: a file, or a step's folder.")
    model: str = Field(description="hf/PATH_OR_ID, or a folder that holds a tokenizer.")
    role: Literal["user", "assistant"] = Field(description="Side whose turns are in the loss.")
    template: str | None = Field(
        None, description="chat, dyadic, plain or a Jinja file; default: the checkpoint's template."
    )
    system: str | None = Field(None, description="System text for conversations that have none.")
    end: bool = Field(True, description="Teach END where a conversation is `ended`.")
    n: int | None = Field(None, ge=1, description="Print only the first N conversations.")
    max_length: int | None = Field(
        None, ge=1, description="With --out: maximum tokens of a row; longer conversations lose whole turns."
    )
    keep: Literal["start", "end"] = Field(
        "start", description="With --out: which turns of a conversation that is too long are kept."
    )
    remote_code: bool = Field(False, description="Run Python code from the tokenizer's repository.")

    def needs_out(self) -> bool:
        """Without `out` the rows are printed."""
        return False

    def run(self, out: Path | str = "") -> MaskResult | MasksWritten:
        """Render the corpus.

        Args:
            out: a folder to write; empty: return the rows.

        Raises:
            EmptyCorpus, ContextTooShort: no row is left to write.
            RunConflict: the folder was made with other settings, or holds other files.
            RenderError: the template cannot write a conversation.
        """
        from maieutic.chat_templates.rendering import render_many
        from maieutic.models.checkpoint import find, load_tokenizer
        from maieutic.models.weights import framing

        source = find(self.model.removeprefix("hf/"))
        frame = framing(source, self.template, self.system)
        tokenizer = load_tokenizer(source, self.remote_code)
        if str(out):
            return write_masks(self, tokenizer, frame, Path(out))
        conversations = list(islice(self._conversations(), self.n))
        rows = render_many(conversations, tokenizer, self.role, frame.template, frame.system, self.end)
        result = MaskResult()
        result._tokenizer = tokenizer
        result._rows = [
            MaskedRow(one.id, row, tokenizer.convert_ids_to_tokens(row.input_ids))
            for one, row in zip(conversations, rows, strict=True)
        ]
        return result

    def _conversations(self) -> Any:
        from maieutic.data.corpus import read_corpus

        if isinstance(self.data, Path):
            return read_corpus(self.data)
        return (
            one if isinstance(one, Conversation) else Conversation.model_validate(one) for one in self.data
        )


def write_masks(step: Mask, tokenizer: Any, frame: Any, out: Path) -> MasksWritten:
    """Write a corpus as columns `input_ids` and `labels` (-100 outside the loss), for `datasets.load_from_disk`."""
    from maieutic.models.weights import quiet
    from maieutic.train.config import file_sha256
    from maieutic.train.rows import conversation_rows

    if not isinstance(step.data, Path):
        raise InputError("rows in memory cannot be written by mask", "Give the path of a corpus.")
    settings = {
        "do": "mask",
        "rendering": RENDERING,
        "corpus": file_sha256(step.data),
        "tokenizer": tokenizer_hash(tokenizer),
        "template": _template_hash(tokenizer, frame.template),
        "system": frame.system,
        **step.model_dump(include={"role", "end", "max_length", "keep"}),
    }
    with Stage(out, settings) as stage:
        if stage.done:
            return MasksWritten(run=str(out), new=False, counts=stage.manifest)
        length = step.max_length or 2**31
        rows = conversation_rows(
            step._conversations(), tokenizer, step.role, frame, length, step.end, step.keep
        )
        with full_disk(out), quiet():
            rows.dataset.save_to_disk(out)
        return MasksWritten(run=str(out), new=True, counts=stage.finish(rows.report.json()))


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of how a tokenizer encodes text; an added END does not change the hash."""
    from maieutic.chat_templates.encode import END

    shape = orjson.loads(tokenizer.backend_tokenizer.to_str())
    added = [token for token in shape["added_tokens"] if token["content"] != END]
    shape.update(added_tokens=added, truncation=None, padding=None)
    named = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    return fingerprint([shape, named])


def _template_hash(tokenizer: Any, template: str | None) -> str:
    from maieutic.chat_templates.templates import template_text

    return fingerprint(template if template in ("dyadic", "plain") else template_text(tokenizer, template))
