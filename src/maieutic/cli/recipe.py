"""`demo` and `demo base`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maieutic.core.console import Json, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    demo = typer.Typer(invoke_without_command=True, help="The whole main job offline on a tiny model.")
    demo.callback(help=demo_run.__doc__)(demo_run)
    demo.command("base", help=demo_base.__doc__)(demo_base)
    app.add_typer(demo, name="demo")


def demo_run(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo-run"),
    seed: Annotated[int, typer.Option(help="Of the models and of every draw.")] = 0,
    json: Json = False,
) -> None:
    """The main job, offline: a tiny model learns both sides of a small corpus of our own, and a tutor is tuned.

    Example: maieutic demo --out demo-run
    """
    if context.invoked_subcommand:
        return
    from maieutic.cli.demo import demo

    result = demo(out, seed)
    if json:
        print_json(result.json())
    else:
        result.show()


def demo_base(
    corpus: Annotated[Path, typer.Option(help="A corpus.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens of the byte-level BPE.")] = 2048,
    hidden: Annotated[int, typer.Option(help="Width.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Depth.")] = 2,
    context: Annotated[int, typer.Option(help="Positions.")] = 4096,
    steps: Annotated[int, typer.Option(min=0, help="Training steps; 0 leaves it random.")] = 200,
    seed: Annotated[int, typer.Option()] = 0,
    json: Json = False,
) -> None:
    """Build a tokenizer and a tiny Llama from scratch on a corpus.

    Example: maieutic demo base --corpus corpus.jsonl --out runs/base
    """
    from maieutic.recipes.demo.base import build

    built = build(
        corpus,
        out,
        vocab_size=vocab_size,
        hidden=hidden,
        layers=layers,
        context=context,
        steps=steps,
        seed=seed,
    )
    if json:
        print_json(built.json())
    else:
        say(
            f"{built.path}: {built.parameters:,} parameters, {built.vocabulary:,} tokens"
            + (f", loss {built.loss:.3f}" if built.loss is not None else "")
        )
