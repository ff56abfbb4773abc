"""`mask`: the exact tokens that would be in the loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maieutic.console import Json, out, print_json, shown

if TYPE_CHECKING:
    from maieutic.render import Rendered


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mask", help=mask.__doc__)(mask)


def mask(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    model: Annotated[str, typer.Option(help="hf/PATH_OR_ID, or a folder that holds a tokenizer.")],
    role: Annotated[str, typer.Option(help="user or assistant: whose turns are in the loss.")],
    template: Annotated[str | None, typer.Option(help="chat, dyadic, plain, or a Jinja file.")] = None,
    system: Annotated[str | None, typer.Option(help="System text for conversations without one.")] = None,
    no_end: Annotated[bool, typer.Option("--no-end", help="Do not teach END.")] = False,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Only the first so many.")] = None,
    remote_code: Annotated[
        bool, typer.Option("--remote-code", help="Run code that comes with the tokenizer.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the exact supervised tokens of each conversation: in the loss green, the rest grey.

    Example: maieutic mask corpus.jsonl --model hf/runs/base --role user -n 2
    """
    from itertools import islice

    from rich.text import Text

    from maieutic.data.corpus import read_corpus
    from maieutic.models.checkpoint import find, load_tokenizer
    from maieutic.render import render

    tokenizer = load_tokenizer(find(model.removeprefix("hf/")), remote_code)
    rows = []
    for conversation in islice(read_corpus(corpus), n):
        rendered = render(conversation, tokenizer, role, template, system, end=not no_end)
        tokens = tokenizer.convert_ids_to_tokens(rendered.input_ids)
        if json:
            rows.append({"id": conversation.id, **rendered._asdict(), "tokens": tokens})
            continue
        line = Text()
        for text, label in _pieces(tokenizer, rendered):
            line.append(shown(text), style="bold green" if label else "bright_black")
        out.print(
            Text(
                f"{shown(conversation.id)}: {rendered.supervised} of {len(rendered.labels)} tokens",
                style="bold",
            )
        )
        out.print(line, soft_wrap=True)
    if json:
        print_json({"conversations": rows})


def _pieces(tokenizer: Any, rendered: Rendered) -> list[tuple[str, bool]]:
    """The text in stretches that are all in the loss, or all outside it."""
    from itertools import groupby

    from maieutic.render import IGNORED

    pairs = zip(rendered.input_ids, rendered.labels, strict=True)
    return [
        (tokenizer.decode([token for token, _ in stretch]), supervised)
        for supervised, stretch in groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    ]
