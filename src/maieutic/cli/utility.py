"""`eval utility`: which corpus is worth training on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.cli.plan import show_plan
from maieutic.cli.printing import span
from maieutic.core.console import Json, note, print_json, table

utility_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, add_completion=False)

_TITLES = {
    "overall": "over all bases and sizes",
    "blocks": "at each base and size",
    "sizes": "beside fewer of the same conversations",
}


def add_to(evals: typer.Typer) -> None:
    """Add the commands to `eval`."""
    utility_app.callback(help=utility.__doc__)(utility)
    utility_app.command("score", help=score.__doc__)(score)
    evals.add_typer(utility_app, name="utility")


def utility(
    context: typer.Context,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A corpus in any known format, or a run of simulate; repeated, the first is compared with.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Base MODEL, hf/PATH_OR_ID; may be repeated.")
    ] = None,
    size: Annotated[
        list[int] | None, typer.Option(min=1, help="Conversations of each corpus; may be repeated.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="FastChat's question.jsonl.")] = None,
    judge: Annotated[str | None, typer.Option(help="MODEL that rates the answers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder, one folder in it for each stage.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Of the training; may be repeated. Default: 0.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Of the training.")] = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Of the training.")] = 2e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows an optimizer step sees.")] = 128,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens a row may have; default: 2048, or the model's context.")
    ] = None,
    lora_r: Annotated[int | None, typer.Option(help="Rank of LoRA adapters; default: all weights.")] = None,
    template: Annotated[str | None, typer.Option(help="chat, dyadic, plain, or a Jinja file.")] = None,
    turns: Annotated[int, typer.Option(min=1, max=2, help="Of a question; 1 for Vicuna-Bench.")] = 2,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of an answer.")] = 1024,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost; run nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the same assistant on equally many conversations of each corpus, and compare them on one benchmark.

    A stopped run goes on where it was, with the same command.

    Example: maieutic eval utility --corpus real=real.jsonl --corpus simulated=runs/talk --model hf/BASE --size 1000
    --questions question.jsonl --judge openai/NAME --out runs/utility
    """
    if context.invoked_subcommand:
        return
    if not (corpus and model and size and questions and judge and out):
        context.fail("Needed are --corpus, --model, --size, --questions, --judge and --out.")
    from maieutic.core.store import read_json
    from maieutic.recipes import runner
    from maieutic.recipes.stages import utility as room

    corpora = _named(corpus)
    training = {
        "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "max_length": max_length,
        "lora_r": lora_r, "template": template,
    }  # fmt: skip
    stages = room.plan(
        corpora,
        _different("--model", model),
        _different("--size", size),
        _different("--seed", seed or [0]),
        questions,
        judge,
        training=training,
        turns=turns,
        max_tokens=max_tokens,
        limit=limit,
    )
    files = [str(path) for path in (*corpora.values(), questions)]
    plan = runner.resolve(runner.Recipe(name="utility", values={"files": files}, stages=stages), out)
    if dry_run:
        show_plan(plan, as_json)
        return
    runner.run_plan(plan)
    _show(read_json(out / "utility" / "utility.json"), as_json)


def score(
    arms: Annotated[
        Path,
        typer.Argument(
            help='JSON or JSONL rows {"corpus", "size", "model", "seed"?, "judged", "name"?, "data"?}: `judged` is the '
            "file of scored answers, `name` the model in it where it holds several, `data` what was trained on."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Compare assistants that were trained and judged before; no model, no network.

    Example: maieutic eval utility score arms.jsonl
    """
    from maieutic.evals.utility import compare_corpora, read_arms

    _show(compare_corpora(read_arms(arms)), as_json)


def _named(corpora: list[str]) -> dict[str, Path]:
    from maieutic.core.errors import InputError

    found: dict[str, Path] = {}
    for one in corpora:
        name, _, path = one.partition("=")
        if not name or not path or name in found:
            said = "stands there twice" if name in found else "is no NAME=FILE"
            raise InputError(
                f"--corpus {one!r} {said}", "Give each corpus a name of its own: baize=baize.jsonl."
            )
        found[name] = Path(path)
    return found


def _different(option: str, values: list[Any]) -> list[Any]:
    from maieutic.core.errors import InputError

    if len(set(values)) < len(values):
        raise InputError(f"{option} names the same thing twice", "Give each once.")
    return values


def _show(result: dict[str, Any], as_json: bool) -> None:
    for line in result["notes"]:
        note(line)
    if as_json:
        print_json(result)
        return
    keys = ("corpus", "size", "model")
    table(
        f"mean {result['metric'].replace('_', ' ')}",
        (*keys, "mean", "95 %", "n", "unscored"),
        [
            (*(c[key] for key in keys), c["value"], span(c["ci"]), c["n"], c["unscored"])
            for c in result["cells"]
        ],
    )
    differences = dict(result["differences"])
    if len(differences["overall"]) == len(differences["blocks"]):  # one base and size: the two say the same
        del differences["overall"]
    for name, rows in differences.items():
        if rows:
            shown = [key for key in keys if key in rows[0]]
            table(
                f"difference, {_TITLES[name]}",
                (*shown, "minus", "difference", "95 %", "n", "p (Holm)"),
                [
                    (
                        *(r[key] for key in shown),
                        r["against"],
                        r["difference"],
                        span(r["ci"]),
                        r["n"],
                        r["p_holm"],
                    )
                    for r in rows
                ],
            )
    if related := result["correlations"]:
        table(
            "the corpora as they were trained on",
            ("", "corpus", "size", "value", "95 %", "n"),
            [
                (
                    name.replace("_", " "),
                    c["corpus"],
                    c["size"],
                    c[name]["value"],
                    span(c[name]["ci"]),
                    c[name]["n"],
                )
                for name in related
                for c in result["corpora"]
            ],
        )
        table(
            "rank correlation with the scores",
            ("", "Spearman", "95 %", "arms"),
            [(name.replace("_", " "), r["value"], span(r["ci"]), r["n"]) for name, r in related.items()],
        )
        for reason in dict.fromkeys(r["reason"] for r in related.values() if "reason" in r):
            note(f"rank correlation: {reason}")
