"""`simulate`: two models talk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maieutic.console import Json, print_json, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate", help=simulate.__doc__)(simulate)


def simulate(
    user: Annotated[str, typer.Option(help="MODEL that plays the user.")],
    assistant: Annotated[str, typer.Option(help="MODEL that answers.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on in it.")],
    n: Annotated[int | None, typer.Option("-n", min=1, help="Dialogues; default one for each seed.")] = None,
    seeds: Annotated[
        Path | None, typer.Option(help="Corpus of starts; without it the user begins freely.")
    ] = None,
    seed_turns: Annotated[
        int | None, typer.Option(min=0, help="Keep only the first turns of each seed.")
    ] = None,
    user_mode: Annotated[
        str | None, typer.Option(help="trained or prompted; default: what the checkpoint says.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at most.")] = 10,
    min_rounds: Annotated[int, typer.Option(min=0, help="The user may not end before so many.")] = 1,
    guards: Annotated[str, typer.Option(help="default, none, or a list such as empty,repeat.")] = "default",
    user_temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    user_top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.8,
    user_max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Of the assistant.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of an assistant's turn.")] = 512,
    assistant_system: Annotated[str | None, typer.Option(help="System text of the dialogues.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Of hf/ models: chat, dyadic, plain or a file.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Dialogues under way at once.")] = 64,
    attempts: Annotated[int, typer.Option(min=1, help="Calls a reply may take.")] = 8,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for one reply, attempts together.")
    ] = 600.0,
    budget_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop cleanly after so many tokens.")
    ] = None,
    max_failure_rate: Annotated[float, typer.Option(min=0, max=1)] = 0.05,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    json: Json = False,
) -> None:
    """Let a user model and an assistant model talk, and keep the dialogues as a corpus.

    Example: maieutic simulate --user hf/runs/user --assistant openai/NAME --seeds seeds.jsonl -n 1000 --out runs/talk
    """
    from maieutic.errors import InputError
    from maieutic.models import ModelOptions, load
    from maieutic.simulate import SimulateConfig
    from maieutic.simulate import simulate as room
    from maieutic.types import Sampling

    if user_mode not in (None, "trained", "prompted"):
        raise InputError(f"--user-mode {user_mode!r} is not known", "Give trained or prompted.")
    config = SimulateConfig(
        seeds=seeds,
        seed_turns=seed_turns,
        user_mode=user_mode,
        user=Sampling(temperature=user_temperature, top_p=user_top_p, max_tokens=user_max_tokens, seed=seed),
        assistant=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        assistant_system=assistant_system,
        rounds=rounds,
        min_rounds=min_rounds,
        guards=guards,
        seed=seed,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget_tokens=budget_tokens,
    )
    options = ModelOptions(template=template, attempts=attempts, timeout=timeout, concurrency=concurrency)
    speaker = load(user, options)
    answerer = speaker if assistant == user else load(assistant, options)
    summary = room(speaker, answerer, out, n, config)
    if json:
        print_json(summary._asdict())
        return
    ends = ", ".join(f"{count} {end}" for end, count in sorted(summary.ends.items())) or "none"
    say(f"{summary.dialogues} dialogues ({ends}), {summary.failed} failed, in {summary.run}")
    say(f"this call: {summary.replies} replies, {summary.tokens} tokens, {summary.seconds} s")
    if summary.guards:
        say("redrawn: " + ", ".join(f"{count} {guard}" for guard, count in sorted(summary.guards.items())))
