"""`eval tutor pairwise` and `eval tutor pairwise-score`: two tutors' replies, compared in both orders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maieutic.cli.judge import Attempts, Concurrency, FailureRate, Timeout
from maieutic.cli.printing import printed, span
from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, note, print_json, say, table


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("pairwise")(pairwise)
    app.command("pairwise-score")(pairwise_score)


def pairwise(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="One tutor's replies: candidates, verdicts, or a file.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other's, to the same dialogues.")],
    judges: Annotated[
        list[str], typer.Option("--judge", help="MODEL that judges; several make a panel that votes.")
    ],
    out: Annotated[Path, typer.Option(help="Stage folder; the same command goes on in it.")],
    rubric: Annotated[str, typer.Option(help="A rubric's name, or a .yaml file.")] = "socratic",
    samples: Annotated[int, typer.Option(min=1, help="Votes of each judge, two games each.")] = 1,
    retries: Annotated[int, typer.Option(min=0, help="Re-asks of a verdict that cannot be read.")] = 2,
    temperature: Annotated[float, typer.Option(min=0)] = 0.2,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a verdict.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the verdicts.")] = 0,
    template: Annotated[
        str | None, typer.Option(help="Of hf/ models: chat, dyadic, plain or a file.")
    ] = None,
    concurrency: Concurrency = 32,
    attempts: Attempts = 8,
    timeout: Timeout = 600.0,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price: Prices = None,
    max_failure_rate: FailureRate = 0.05,
    as_json: Json = False,
) -> None:
    """Compare two tutors' replies: each pair in both orders, a tie where the orders disagree.

    Example: maieutic eval tutor pairwise tuned/candidates base/candidates --judge openai/NAME --out runs/tuned-base
    """
    from maieutic.core.messages import Sampling
    from maieutic.judging import pairwise as room
    from maieutic.models import ModelOptions, load

    options = ModelOptions(template=template, attempts=attempts, timeout=timeout, concurrency=concurrency)
    result = room(
        first,
        second,
        out,
        model=[load(name, options) for name in judges],
        rubric=rubric,
        samples=samples,
        retries=retries,
        sampling=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget=budget(budget_tokens, budget_usd, price),
    )
    if as_json:
        print_json(result._asdict())
        return
    say(
        f"{result.pairs} pairs: A won {result.won}, lost {result.lost}, tied {result.tied}; "
        f"{result.unscored} unscored, in {result.run}"
    )
    say(f"without a judge: {result.code} where one reply reveals, {result.equal} equal")
    say(f"this call: {result.calls} calls, {result.seconds} s")
    if result.alone:
        note(f"{result.alone} replies have no partner: the other tutor did not answer that dialogue")


def pairwise_score(
    run: Annotated[Path, typer.Argument(help="What eval tutor pairwise wrote.")], as_json: Json = False
) -> None:
    """Win rate of A over B and the judges' position bias, from recorded comparisons.

    Example: maieutic eval tutor pairwise-score runs/tuned-base
    """
    from maieutic.evals import tutor

    result = tutor.score_comparisons(run)
    if printed(result, as_json):
        return
    say(
        f"{run}: A won {result['win']}, lost {result['loss']}, tied {result['tie']}; {result['unscored']} unscored"
    )
    shapes = [("win rate of A", result["win_rate"])]
    for name, of in (
        ("all judges", result),
        *(result["judges"].items() if len(result["judges"]) > 1 else ()),
    ):
        shapes += [
            (f"{name}: games won by the first place", of["position_bias"]),
            (f"{name}: votes whose games differ", of["inconsistent"]),
        ]
    table("", ("", "value", "95 %", "n"), [(name, s["value"], span(s["ci"]), s["n"]) for name, s in shapes])
