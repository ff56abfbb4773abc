"""`continuations`, `mix`: score replies by whether the student then solves the problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.cli.printing import span
from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, note, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("continuations", help=continuations.__doc__)(continuations)
    app.command("mix", help=mix.__doc__)(mix)


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


def mix(
    run: Annotated[Path, typer.Argument(help="Verdicts: a judge stage, its run, or a file of such rows.")],
    plays: Annotated[Path, typer.Option(help="The stage of `play` over the same replies.")],
    out: Annotated[Path, typer.Option(help="Stage folder of the mixed rows, for `prefer`.")],
    weight: Annotated[float, typer.Option(min=0, max=1, help="Of the outcome; 0: the rubric alone.")] = 0.5,
    json: Json = False,
) -> None:
    """Mix the rubric's scores with what came of each reply.

    Example: maieutic mix RUN/judge --plays RUN/play --weight 0.5 --out RUN/mix
    """
    from maieutic.judging.rewards import mix as room

    done = room(run, plays, out, weight=weight)
    if json:
        print_json(done.json())
        return
    say(
        f"{done.scored} of {done.replies} replies to {done.prompts} dialogues scored, {done.unscored} not, in {out}"
    )
    say(f"{done.plays} plays count, {done.lost} were lost; {done.told} replies state the answer themselves")
    for name, of in (
        ("over all replies", done.agreement),
        ("among the replies of one dialogue", done.within),
    ):
        say(f"rubric and outcome {name}: r {_r(of)}")
    note(
        f"scores closer than {done.margin:.2f} are noise (one standard error): prefer --min-margin {done.margin:.2f}"
    )


def _r(estimate: Any) -> str:
    if estimate.value is None:
        return f"undefined ({estimate.reason})"
    return f"{estimate.value:.2f} ({span(estimate.ci) or 'no interval'})"
