"""`mask`: the exact tokens that would be in the loss, shown, or written for a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from maieutic.core.console import Json, out, print_json, say, shown

if TYPE_CHECKING:
    from maieutic.chat_templates import Rendered


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mask", help=mask.__doc__)(mask)


Corpus = Annotated[Path, typer.Argument(help="A corpus.")]
Model = Annotated[str, typer.Option(help="hf/PATH_OR_ID, or a folder that holds a tokenizer.")]
Side = Annotated[str, typer.Option("--role", help="user or assistant: whose turns are in the loss.")]
Template = Annotated[
    str | None, typer.Option(help="chat, dyadic, plain, or a Jinja file; else what the checkpoint says.")
]
System = Annotated[str | None, typer.Option(help="System text for conversations without one.")]
NoEnd = Annotated[bool, typer.Option("--no-end", help="Do not teach END.")]
RemoteCode = Annotated[bool, typer.Option("--remote-code", help="Run code that comes with the tokenizer.")]


def mask(
    corpus: Corpus,
    model: Model,
    role: Side,
    template: Template = None,
    system: System = None,
    no_end: NoEnd = False,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Only the first N conversations.")] = None,
    to: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write ids and labels to this folder (`datasets.load_from_disk`)."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="With --out: tokens a row may have; longer ones lose whole turns."),
    ] = None,
    keep: Annotated[
        Literal["start", "end"],
        typer.Option(help="With --out: which turns of a conversation that is too long are kept."),
    ] = "start",
    remote_code: RemoteCode = False,
    json: Json = False,
) -> None:
    """Show the supervised tokens of each conversation in green (in a file as ⟦text⟧), the other tokens in grey.

    Example: maieutic mask corpus.jsonl --model hf/runs/base --role user -n 2
    """
    from itertools import islice

    from rich.text import Text

    from maieutic.chat_templates import render
    from maieutic.data.corpus import read_corpus

    tokenizer, template, system = _opened(model, template, system, remote_code)
    if to is not None:
        _write(corpus, tokenizer, role, to, (template, system), not no_end, max_length, keep, json)
        return
    rows = []
    for conversation in islice(read_corpus(corpus), n):
        rendered = render(conversation, tokenizer, role, template, system, end=not no_end)
        tokens = tokenizer.convert_ids_to_tokens(rendered.input_ids)
        if json:
            rows.append({"id": conversation.id, **rendered._asdict(), "tokens": tokens})
            continue
        line = Text()
        for text, label in _pieces(tokenizer, rendered):
            said = shown(text)
            marked = f"⟦{said}⟧" if label and not out.is_terminal else said  # where there is no colour
            line.append(marked, style="bold green" if label else "bright_black")
        out.print(
            Text(
                f"{shown(conversation.id)}: {rendered.supervised} of {len(rendered.labels)} tokens",
                style="bold",
            )
        )
        out.print(line, soft_wrap=True)
    if json:
        print_json({"conversations": rows})


def _write(
    corpus: Path,
    tokenizer: Any,
    role: str,
    to: Path,
    frame: tuple[str | None, str | None],
    end: bool,
    max_length: int | None,
    keep: Literal["start", "end"],
    json: bool,
) -> None:
    from maieutic.models.weights import Framing
    from maieutic.train.mask import write_masks

    made = write_masks(corpus, tokenizer, role, to, Framing(*frame), end, max_length, keep)
    if json:
        print_json(made)
        return
    counts = made.manifest
    say(f"{to}: {'written' if made.new else 'complete already'}")
    say(f"{counts['rows']} rows, {counts['tokens']} tokens, {counts['supervised']} of them in the loss")
    say(f"{counts['ends']} teach END, {counts['shortened']} lost turns to fit")
    say(f"{counts['without_turn']} without a turn of the role and {counts['too_long']} too long: left out")


def _opened(
    model: str, template: str | None, system: str | None, remote_code: bool
) -> tuple[Any, str | None, str | None]:
    """The tokenizer, and template and system text: what was asked for, else what the checkpoint says."""
    from maieutic.models.checkpoint import find, load_tokenizer, settings

    source = find(model.removeprefix("hf/"))
    said = settings(source)
    tokenizer = load_tokenizer(source, remote_code)
    return (
        tokenizer,
        said.template if template is None else template,
        said.system if system is None else system,
    )


def _pieces(tokenizer: Any, rendered: Rendered) -> list[tuple[str, bool]]:
    """The text in stretches that are all in the loss, or all outside it."""
    from itertools import groupby

    from maieutic.chat_templates import IGNORED

    pairs = zip(rendered.input_ids, rendered.labels, strict=True)
    return [
        (tokenizer.decode([token for token, _ in stretch]), supervised)
        for supervised, stretch in groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    ]
