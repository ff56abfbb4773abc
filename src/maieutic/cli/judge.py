"""`candidates`: several replies of a tutor to each dialogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, print_json, say

FailureRate = Annotated[float, typer.Option(min=0, max=1, help="Share of failures past which the run fails.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Calls or dialogues under way at once.")]
Attempts = Annotated[int, typer.Option(min=1, help="Calls a reply may take.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one reply, attempts together.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("candidates", help=candidates.__doc__)(candidates)


def candidates(
    model: Annotated[str, typer.Option(help="MODEL that tutors.")],
    data: Annotated[
        Path, typer.Option(help="Corpus of dialogues; each is answered at its last user message.")
    ],
    out: Annotated[Path, typer.Option(help="Run folder; the same command resumes it.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Replies per dialogue.")] = 5,
    prompt: Annotated[
        str, typer.Option(help="Tutor's system prompt: a prompt's name, a .md file, or none.")
    ] = "tutor_socratic",
    show_solution: Annotated[
        bool,
        typer.Option("--show-solution", help="Include the misconception, the solution and the answer."),
    ] = False,
    temperature: Annotated[float, typer.Option(min=0)] = 1.2,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a reply.")] = 400,
    seed: Annotated[int, typer.Option(help="Reply i is sampled with seed + i.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first LIMIT dialogues.")] = None,
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
    """Ask a tutor for several replies to each dialogue.

    Example: maieutic candidates --model hf/runs/tutor --data dialogues.jsonl -k 5 --out runs/tutor/candidates
    """
    from maieutic.core.messages import Sampling
    from maieutic.models import ModelOptions, load
    from maieutic.rollouts.candidates import candidates as generate

    options = ModelOptions(
        template=template,
        batch=batch,
        device=device,
        attempts=attempts,
        timeout=timeout,
        concurrency=concurrency * k,
    )
    result = generate(
        load(model, options),
        data,
        out,
        k=k,
        sampling=Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed),
        prompt=None if prompt == "none" else prompt,
        show_solution=show_solution,
        limit=limit,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget=budget(budget_tokens, budget_usd, price),
    )
    if json:
        print_json(result._asdict())
        return
    each = f"{k} candidates each" if k > 1 else "a reply each"
    say(f"{result.prompts} dialogues with {each}, {result.failed} failed, in {result.run}")
    if result.skipped or result.truncated:
        say(f"{result.skipped} skipped (repeated, or no user message), {result.truncated} cut after it")
    say(f"this call: {result.replies} replies, {result.tokens} tokens, {result.seconds} s")
