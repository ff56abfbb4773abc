"""`simulate`: two models talk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, print_json, say

if TYPE_CHECKING:
    from maieutic.rollouts.simulate import SimulateConfig, SimulateResult


AssistantPrompt = Annotated[
    str | None,
    typer.Option(help="System prompt that only the assistant sees: a prompt's name, or a .md file."),
]
ShowSolution = Annotated[
    bool, typer.Option("--show-solution", help="Include the solution and the known answer in it.")
]


Kinds = Annotated[
    str | None,
    typer.Option(help="Kinds of students, each combined with every seed: a list of names or .yaml files."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate", help=simulate.__doc__)(simulate)


def simulate(
    user: Annotated[str, typer.Option(help="MODEL that plays the user.")],
    assistant: Annotated[str, typer.Option(help="MODEL that answers.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command resumes it.")],
    n: Annotated[int | None, typer.Option("-n", min=1, help="Dialogues; by default one per seed.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Dialogues per seed.")] = 1,
    seeds: Annotated[
        Path | None, typer.Option(help="Corpus of starts; without it, the user begins freely.")
    ] = None,
    seed_turns: Annotated[
        int | None,
        typer.Option(
            min=0, help="Keep only the first messages of each seed; 0: only its intent, profile and problem."
        ),
    ] = None,
    kinds: Kinds = None,
    user_mode: Annotated[
        str | None, typer.Option(help="trained or prompted; by default what the checkpoint says.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at most.")] = 10,
    min_rounds: Annotated[int, typer.Option(min=0, help="The user may not end before this many rounds.")] = 1,
    ending: Annotated[
        str, typer.Option(help="allow the user to end, suppress endings, or force one after the last round.")
    ] = "allow",
    controller: Annotated[
        str | None,
        typer.Option(help="MODEL that is asked after each reply whether such a person would stop here."),
    ] = None,
    guards: Annotated[str, typer.Option(help="default, none, or a list such as empty,repeat.")] = "default",
    user_temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    user_top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.8,
    user_max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Of the assistant.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of an assistant message.")] = 512,
    assistant_system: Annotated[
        str | None, typer.Option(help="System text of dialogues that have none.")
    ] = None,
    assistant_prompt: AssistantPrompt = None,
    show_solution: ShowSolution = False,
    template: Annotated[
        str | None, typer.Option(help="Of hf/ models: chat, dyadic, plain or a file.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Dialogues at the same time.")] = 64,
    attempts: Annotated[int, typer.Option(min=1, help="HTTP attempts per reply.")] = 8,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for one reply, all attempts together.")
    ] = 600.0,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price: Prices = None,
    pull: Annotated[bool, typer.Option("--pull", help="ollama/ models: download a missing model.")] = False,
    max_failure_rate: Annotated[float, typer.Option(min=0, max=1)] = 0.05,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cost at most, and do nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Let a user model and an assistant model talk, and keep the dialogues as a corpus.

    Example: maieutic simulate --user hf/runs/user --assistant openai/NAME --seeds seeds.jsonl -n 1000 --out runs/talk
    """
    from maieutic.core.messages import Sampling
    from maieutic.models import ModelOptions, load
    from maieutic.rollouts.simulate import SimulateConfig
    from maieutic.rollouts.simulate import simulate as generate

    if user_mode not in (None, "trained", "prompted"):
        raise typer.BadParameter("give trained or prompted", param_hint="--user-mode")
    if ending not in ("allow", "suppress", "force"):
        raise typer.BadParameter("give allow, suppress or force", param_hint="--ending")
    config = SimulateConfig(
        seeds=seeds,
        seed_turns=seed_turns,
        repeat=repeat,
        kinds=tuple(name.strip() for name in kinds.split(",")) if kinds else (),
        user_mode=user_mode,
        user=Sampling(temperature=user_temperature, top_p=user_top_p, max_tokens=user_max_tokens, seed=seed),
        assistant=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        assistant_system=assistant_system,
        assistant_prompt=assistant_prompt,
        show_solution=show_solution,
        rounds=rounds,
        min_rounds=min_rounds,
        ending=ending,
        guards=guards,
        seed=seed,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget=budget(budget_tokens, budget_usd, price),
    )
    if dry_run:
        _show_plan(config, user, assistant, n, json)
        return
    options = ModelOptions(
        template=template, attempts=attempts, timeout=timeout, concurrency=concurrency, pull=pull
    )
    cast = {spec: load(spec, options) for spec in (user, assistant, controller) if spec is not None}
    judge = None if controller is None else cast[controller]
    result = generate(cast[user], cast[assistant], out, n, config, judge)
    if json:
        print_json(result._asdict())
    else:
        _show(result)


def _show(result: SimulateResult) -> None:
    ends = ", ".join(f"{count} {end}" for end, count in sorted(result.ends.items())) or "none"
    say(f"{result.dialogues} dialogues ({ends}), {result.failed} failed, in {result.run}")
    spent = "" if result.usd is None else f", ${result.usd:.2f}"
    say(f"this call: {result.replies} replies, {result.tokens} tokens{spent}, {result.seconds} s")
    if result.faults:
        say("failed: " + ", ".join(f"{count} by {fault}" for fault, count in sorted(result.faults.items())))
    if result.unreadable:
        say(f"{result.unreadable} answers of the controller were neither yes nor no")
    if result.guards:
        say(
            "rejected by guards: "
            + ", ".join(f"{count} {guard}" for guard, count in sorted(result.guards.items()))
        )


def _show_plan(config: SimulateConfig, user: str, assistant: str, n: int | None, json: bool) -> None:
    from maieutic.rollouts.simulate import simulation_cost

    found = simulation_cost(config, user, assistant, n)
    if json:
        print_json(found._asdict())
        return
    dollars = "no price is known" if found.usd is None else f"${found.usd:,.2f}"
    tokens = f"{found.read:,} tokens read, {found.written:,} written"
    say(f"{found.dialogues:,} dialogues: {found.calls:,} calls, {tokens}, {dollars}")
    say("an upper bound; rejected replies, repeated calls and a controller are not included")
