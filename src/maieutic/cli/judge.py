"""`candidates`, `judge`, `prefer`: the data of DPO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from maieutic.cli.printing import span
from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, note, print_json, say, table

FailureRate = Annotated[float, typer.Option(min=0, max=1, help="Share of failures past which the run fails.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Calls or dialogues under way at once.")]
Attempts = Annotated[int, typer.Option(min=1, help="Calls a reply may take.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one reply, attempts together.")]

Strategy = Literal["best-worst", "all-pairs", "margin"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("candidates", help=candidates.__doc__)(candidates)
    app.command("judge", help=judge.__doc__)(judge)
    app.command("prefer", help=prefer.__doc__)(prefer)


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


def judge(
    run: Annotated[Path, typer.Argument(help="Candidates: a stage folder, its run, or a file of such rows.")],
    rubric: Annotated[str, typer.Option(help="A rubric's name, or a .yaml file.")] = "socratic",
    judges: Annotated[
        list[str] | None,
        typer.Option("--judge", help="MODEL that judges; several make a panel. None: code alone."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Stage folder; default: judge, beside the candidates.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Verdicts of each model, averaged.")] = 1,
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
    json: Json = False,
) -> None:
    """Judge candidates by a rubric: code first, then models.

    Example: maieutic judge runs/tutor/candidates --rubric socratic --judge openai/NAME --out runs/tutor/judge
    """
    from maieutic.core.messages import Sampling
    from maieutic.judging import judge as room
    from maieutic.models import ModelOptions, load

    options = ModelOptions(template=template, attempts=attempts, timeout=timeout, concurrency=concurrency)
    result = room(
        run,
        out or _beside(run),
        rubric=rubric,
        model=[load(name, options) for name in judges or ()],
        samples=samples,
        retries=retries,
        sampling=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget=budget(budget_tokens, budget_usd, price),
    )
    if json:
        print_json(result._asdict())
        return
    mean = "no mean" if result.mean is None else f"mean {result.mean:.3f}"
    say(
        f"{result.judged} judged ({mean}), {result.unscored} unscored, {result.undecided} undecided, in {result.run}"
    )
    say(f"this call: {result.calls} calls, {result.seconds} s")
    if result.undecided:
        note("undecided: no answer is known there and no model was asked; give --judge MODEL")


def _beside(run: Path) -> Path:
    """Where verdicts go by default: `judge`, in the run that holds the candidates."""
    folder = run if run.is_dir() else run.parent
    return (folder.parent if folder.name == "candidates" else folder) / "judge"


def prefer(
    out: Annotated[Path, typer.Option(help="JSONL file of pairs.")],
    run: Annotated[
        Path | None, typer.Argument(help="Verdicts: a judge stage, its run, or a file of such rows.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="socratic-llm's dpo/DATASET/train_dataset.json instead.")
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="The best against the worst; every pair (of too many, an even draw); or every pair, widest gap first."
        ),
    ] = "best-worst",
    min_chosen: Annotated[float, typer.Option(help="The chosen reply scores more than this.")] = 0.8,
    min_margin: Annotated[
        float,
        typer.Option(
            min=0, help="And at least so much more than the rejected one (best-worst: more than that)."
        ),
    ] = 0.0,
    match_length: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO", min=1, help="The longer reply has at most so many times the other's words."
        ),
    ] = None,
    per_prompt: Annotated[
        int | None, typer.Option("--per-prompt", min=1, metavar="K", help="Pairs a prompt, at most.")
    ] = None,
    agreement: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Where the judging was repeated: share of repeats in which the chosen reply must win; 0: not asked.",
        ),
    ] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that holds other pairs.")] = False,
    json: Json = False,
) -> None:
    """Make preference pairs of judged candidates.

    Example: maieutic prefer runs/tutor/judge --out pairs.jsonl
    """
    from maieutic.core.errors import InputError
    from maieutic.judging.preferences import prefer as room

    if (run is None) == (source is None):
        raise InputError("name one source of verdicts", "Give a judge stage, or --from FILE.")
    quality = room(
        source or run or Path(),
        out,
        strategy=strategy,
        min_chosen=min_chosen,
        min_margin=min_margin,
        match_length=match_length,
        per_prompt=per_prompt,
        agreement=agreement,
        overwrite=force,
    )
    if json:
        print_json({**quality.json(), "out": str(out)})
        return
    say(f"{quality.pairs} pairs of {quality.prompts} prompts, in {out}")
    table("", ("", "chosen", "rejected"), [
        ("mean score", quality.score_chosen, quality.score_rejected),
        ("mean words", quality.words_chosen, quality.words_rejected),
        ("share revealing", 0, quality.rejected_reveal),
    ])  # fmt: skip
    gap = quality.words_gap
    say(
        f"chosen replies are {gap['value']:+.1f} words longer (95 % {span(gap['ci'])}, {gap['n']} prompts); "
        f"{quality.longer_chosen:.0%} of them are the longer one"
    )
    rows = [
        (name, of["paired"], of["pairs"], ", ".join(f"{count} {why}" for why, count in of["refused"].items()))
        for name, of in quality.by_strategy.items()
    ]
    table(
        f"what each strategy would give ({strategy} is written)",
        ("strategy", "prompts", "pairs", "no pair"),
        rows,
    )
    if quality.unscored:
        note(f"{quality.unscored} candidates have no score")
    if quality.chosen_cut:
        note(f"{quality.chosen_cut} chosen replies stopped at the token limit")
