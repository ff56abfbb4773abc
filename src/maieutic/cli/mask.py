"""`mask`, `prepare`: the exact tokens that would be in the loss, shown, or written for a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from maieutic.core.console import Json, out, print_json, say, shown

if TYPE_CHECKING:
    from maieutic.chat_templates import Rendered


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("mask", help=mask.__doc__)(mask)
    app.command("prepare", help=prepare.__doc__)(prepare)


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
    n: Annotated[int | None, typer.Option("-n", min=1, help="Only the first so many.")] = None,
    remote_code: RemoteCode = False,
    json: Json = False,
) -> None:
    """Show the exact supervised tokens of each conversation: in the loss green (⟦so⟧ in a file), the rest grey.

    Example: maieutic mask corpus.jsonl --model hf/runs/base --role user -n 2
    """
    from itertools import islice

    from rich.text import Text

    from maieutic.chat_templates import render
    from maieutic.data.corpus import read_corpus

    tokenizer, template, system = _opened(model, template, system, remote_code)
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


def prepare(
    corpus: Corpus,
    model: Model,
    role: Side,
    out: Annotated[Path, typer.Option(help="A new folder, or one that the same call has made.")],
    template: Template = None,
    system: System = None,
    no_end: NoEnd = False,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a row may have; whole turns are left out of longer ones."),
    ] = None,
    keep: Annotated[
        Literal["start", "end"], typer.Option(help="Which part of a conversation that is too long is kept.")
    ] = "start",
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many share the work; else by the corpus' size.")
    ] = None,
    check_all: Annotated[
        bool, typer.Option("--check-all", help="Have the tokenizer confirm every id of a faster encoder.")
    ] = False,
    remote_code: RemoteCode = False,
    json: Json = False,
) -> None:
    """Write a corpus as ids and labels for a trainer (Arrow, for `datasets.load_from_disk`).

    Example: maieutic prepare corpus.jsonl --model hf/runs/base --role user --out prepared --max-length 2048
    """
    from maieutic.chat_templates.prepare import prepare as work

    tokenizer, template, system = _opened(model, template, system, remote_code)
    made = work(
        corpus, tokenizer, role, out, template, system, not no_end, max_length, keep, processes, check_all
    )
    if json:
        print_json(made)
        return
    held = made.manifest
    say(f"{out}: {'written' if made.new else 'there already'}")
    say(f"{held['rows']} rows, {held['tokens']} tokens, {100 * held['share']:.1f} % of them in the loss")
    say(f"{held['cut']} cut to fit, {held['ends']} teach END, {held['broken']} broken lines")
    for reason, count in held["dropped"].items():
        say(f"{count} dropped: {reason}")


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
