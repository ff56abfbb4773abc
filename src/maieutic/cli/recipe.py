"""`run` and `demo`: a recipe's stages in order; run it again and it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.core.console import Json, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run", help=run.__doc__)(run)
    demo = typer.Typer(invoke_without_command=True, help="The whole main job offline on a tiny model.")
    demo.callback(help=demo_run.__doc__)(demo_run)
    demo.command("base", help=demo_base.__doc__)(demo_base)
    app.add_typer(demo, name="demo")


def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe, or a .yaml file.")],
    out: Annotated[Path, typer.Option(help="Run folder, one folder in it for each stage.")],
    set: Annotated[
        list[str] | None, typer.Option("--set", help="key=value in place of a recipe's value.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost; run nothing.")
    ] = False,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            help="served=, local= (tokens a second) or flops=: how fast, for the hours of --dry-run."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a recipe's stages in order; done ones are skipped, an interrupted run goes on.

    Example: maieutic run platolm-small --set corpus=chats.jsonl --out runs/platolm
    """
    from maieutic.recipes import recipe as room

    loaded = room.load(recipe)
    if rate:
        loaded = loaded.model_copy(update={"rates": {**loaded.rates, **_settings(rate, "--rate")}})
    plan = room.resolve(loaded, out, _settings(set or []))
    if dry_run:
        from maieutic.cli.plan import show_plan

        show_plan(plan, json)
        return
    manifests = room.run(plan)
    if json:
        print_json({"run": str(out), "stages": manifests})
    else:
        say(f"{len(manifests)} stages done in {out}")


def _settings(pairs: list[str], option: str = "--set") -> dict[str, Any]:
    import yaml

    from maieutic.core.errors import InputError

    settings = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found:
            raise InputError(f"{option} {pair!r} is no key=value", "Write --set corpus=chats.jsonl.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            settings[key] = value
    return settings


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
