"""`intents`: what each user of a corpus wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maieutic.cli.judge import Attempts, Concurrency, FailureRate, Timeout
from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, print_json, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("intents", help=intents.__doc__)(intents)


def intents(
    corpus: Annotated[Path, typer.Argument(help="Conversations: a JSONL file or a stage's folder.")],
    model: Annotated[str, typer.Option(help="MODEL that writes the intents: a chat model.")],
    out: Annotated[Path, typer.Option(help="Run folder, a corpus; the same command resumes it.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace intents that conversations already have.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="A prompt's name, or a .md file.")] = "intent",
    temperature: Annotated[float, typer.Option(min=0, help="Of the first reply.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of an intent.")] = 128,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    template: Annotated[
        str | None, typer.Option(help="Of hf/ models: chat, dyadic, plain or a file.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Of hf/ models: rows decoded together.")] = 16,
    device: Annotated[str | None, typer.Option(help="Of hf/ models, such as cuda.")] = None,
    concurrency: Concurrency = 32,
    attempts: Attempts = 8,
    timeout: Timeout = 600.0,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price: Prices = None,
    max_failure_rate: FailureRate = 0.05,
    json: Json = False,
) -> None:
    """Write what each user wanted, to condition a simulator on it: the goal, not the words.

    Example: maieutic intents parts/train.jsonl --model openai/NAME --out runs/intents
    """
    from maieutic.core.messages import Sampling
    from maieutic.models import ModelOptions, load
    from maieutic.rollouts.intents import intents as write_intents

    options = ModelOptions(
        template=template,
        batch=batch,
        device=device,
        attempts=attempts,
        timeout=timeout,
        concurrency=concurrency,
    )
    result = write_intents(
        load(model, options),
        corpus,
        out,
        replace=replace,
        sampling=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        prompt=prompt,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget=budget(budget_tokens, budget_usd, price),
    )
    if json:
        print_json(result._asdict())
        return
    say(f"{result.rows} conversations in {result.run}: {result.written} intents written, {result.kept} kept")
    if result.failed or result.no_user:
        say(f"without one: {result.failed} failed, {result.no_user} without a user message")
    say(f"this call: {result.replies} replies, {result.tokens} tokens, {result.seconds} s")
