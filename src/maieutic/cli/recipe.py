"""`run` and `demo`: a recipe's stages in order; run it again and it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.core.console import Json, note, print_json, say, table


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


def show_plan(plan: Any, json: bool) -> None:
    """Print what a plan would do and cost."""
    from maieutic.recipes import recipe as room

    lines = room.expect(plan)
    if json:
        stages = [
            {"name": line.stage, "does": line.does, "done": line.done, **line.cost._asdict()}
            for line in lines
        ]
        missing = [str(path) for path in room.missing(plan)]
        print_json(
            {
                "recipe": plan.name,
                "run": str(plan.out),
                "values": plan.values,
                "stages": stages,
                "total": room.total(lines)._asdict(),
                "rates": plan.rates.model_dump(),
                "missing": missing,
            }
        )
        return
    priced = any(line.cost.usd is not None for line in lines)
    width = max(len(line.stage) for line in lines) + 2
    rows = [
        (
            f"{'✓' if line.done else ' '} {line.stage:<{width}}{line.does}",
            _count(line.cost.calls),
            _count(line.cost.tokens),
            _hours(line.cost.hours),
            *([_dollars(line.cost.usd)] if priced else []),
            _memory(line.cost.gpu_bytes),
        )
        for line in lines
    ]
    total = room.total(lines)
    rows.append(
        (
            f"  {'in all':<{width}}",
            _count(total.calls),
            _count(total.tokens),
            _hours(total.hours),
            *([_dollars(total.usd)] if priced else []),
            _memory(total.gpu_bytes),
        )
    )
    table(
        f"{plan.name}: {len(lines)} stages in {plan.out}",
        (
            f"  {'stage':<{width}}does",
            "calls",
            "tokens",
            "hours",
            *(["dollars"] if priced else []),
            "GPU memory",
        ),
        rows,
    )
    note(
        "tokens: written at most, or trained on; memory: weights and optimizer. – : not known beforehand, or none"
    )
    rates = plan.rates
    note(
        "hours: a rule of thumb, one stage after the other on one GPU. "
        f"A server writes {rates.served:g} tokens a second, a model of 7e9 weights here {rates.local:g}, "
        f"training reaches {rates.flops:g} FLOP/s; --rate changes them"
    )
    if unknown := [line.stage for line in lines if _untold(line)]:
        note(f"in no total, since nothing tells their hours: {', '.join(unknown)}")
    for path in room.missing(plan):
        note(f"{path}: no such file or folder; a run would stop before its first stage")


def _untold(line: Any) -> bool:
    """Whether a stage has work whose hours are not known."""
    return line.cost.hours is None and bool(line.cost.tokens or line.cost.gpu_bytes)


def _hours(value: float | None) -> str | None:
    return None if not value else f"{value:.1f}" if value >= 0.05 else "< 0.1"


def _dollars(value: float | None) -> str | None:
    return None if value is None else f"{value:,.2f}"


def _memory(value: int | None) -> str | None:
    if not value:
        return None
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 / 10 else f"{value / 2**20:.1f} MiB"


def _count(value: int | None) -> str | None:
    return f"{value:,}" if value else None


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
