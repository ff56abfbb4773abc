"""`continuations`: score replies by whether the student then solves the problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("continuations", help=continuations.__doc__)(continuations)


def continuations(
    run: Annotated[
        Path, typer.Argument(help="Replies: a judge or candidates step, its run, or a file of its rows.")
    ],
    student: Annotated[str, typer.Option(help="MODEL that plays the student.")],
    tutor: Annotated[str, typer.Option(help="MODEL that gave the replies and continues.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command resumes it.")],
    m: Annotated[int, typer.Option("-m", min=1, help="Continuations of each reply.")] = 4,
    turns: Annotated[int, typer.Option(min=1, help="Student messages at most.")] = 3,
    user_mode: Annotated[
        str | None, typer.Option(help="trained or prompted; by default what the checkpoint says.")
    ] = None,
    student_temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    student_top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.8,
    student_max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a student message.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Of the tutor.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a reply.")] = 512,
    assistant_prompt: Annotated[
        str | None,
        typer.Option(help="System prompt that only the tutor sees: a prompt's name, or a .md file."),
    ] = None,
    show_solution: Annotated[
        bool, typer.Option("--show-solution", help="Include the solution and the answer in it.")
    ] = False,
    guards: Annotated[str, typer.Option(help="default, none, or a list.")] = "default",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    template: Annotated[
        str | None, typer.Option(help="Of hf/ models: chat, dyadic, plain or a file.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Continuations at the same time.")] = 64,
    attempts: Annotated[int, typer.Option(min=1, help="HTTP attempts per reply.")] = 8,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for one reply, all attempts together.")
    ] = 600.0,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price: Prices = None,
    max_failure_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of failures above which the run fails.")
    ] = 0.05,
    json: Json = False,
) -> None:
    """Continue each candidate reply with a student several times.

    Example: maieutic continuations RUN/judge --student hf/runs/student --tutor hf/runs/tutor --out RUN/continuations
    """
    from maieutic.core.messages import Sampling
    from maieutic.models import ModelOptions, load
    from maieutic.rollouts.continuations import continuations as generate
    from maieutic.rollouts.simulate import SimulateConfig

    if user_mode not in (None, "trained", "prompted"):
        raise typer.BadParameter("give trained or prompted", param_hint="--user-mode")
    config = SimulateConfig(
        user_mode=user_mode,
        user=Sampling(
            temperature=student_temperature, top_p=student_top_p, max_tokens=student_max_tokens, seed=seed
        ),
        assistant=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        assistant_prompt=assistant_prompt,
        show_solution=show_solution,
        guards=guards,
        seed=seed,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget=budget(budget_tokens, budget_usd, price),
    )
    options = ModelOptions(template=template, attempts=attempts, timeout=timeout, concurrency=concurrency)
    cast = {spec: load(spec, options) for spec in (student, tutor)}
    done = generate(run, cast[student], cast[tutor], out, m=m, turns=turns, config=config)
    if json:
        print_json(done._asdict())
        return
    counts = f"{done.continuations} continuations, {done.failed} failed"
    say(f"{done.replies} replies to {done.prompts} dialogues: {counts}, in {out}")
    if done.revealing or done.without_answer:
        say(
            f"not continued: {done.revealing} replies that state the answer, "
            f"{done.without_answer} dialogues without a known answer"
        )
    spent = "" if done.usd is None else f", ${done.usd:.2f}"
    say(f"this call: {done.calls} replies, {done.tokens} tokens{spent}, {done.seconds} s")
