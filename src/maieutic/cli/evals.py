"""`maieutic eval …`: measuring. Every `score` form works on files alone, with no model and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.console import Json, note, print_json, say, table

_SETTINGS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}

evals = typer.Typer(name="eval", help="Measure simulators, tutors, assistants and judges.", **_SETTINGS)
tutor_app = typer.Typer(help="Single tutor replies, judged by people or models.", **_SETTINGS)
judge_app = typer.Typer(help="A judge against people.", **_SETTINGS)
mt_app = typer.Typer(help="MT-Bench, from FastChat's judgment files.", **_SETTINGS)
vicuna_app = typer.Typer(help="Vicuna-Bench: MT-Bench with one turn.", **_SETTINGS)
alpaca_app = typer.Typer(help="AlpacaEval, from its annotations.", **_SETTINGS)

Judgments = Annotated[
    list[Path], typer.Option("--judgments", help="FastChat's judgment JSONL; may be repeated.")
]
Questions = Annotated[Path | None, typer.Option(help="FastChat's question file, for scores by category.")]


def register(app: typer.Typer) -> None:
    """Add the `eval` commands."""
    for name, inner in (
        ("tutor", tutor_app),
        ("judge", judge_app),
        ("mt-bench", mt_app),
        ("vicuna-bench", vicuna_app),
        ("alpaca-eval", alpaca_app),
    ):
        evals.add_typer(inner, name=name)
    app.add_typer(evals, name="eval")


@tutor_app.command("score")
def tutor_score(
    file: Annotated[Path, typer.Argument(help="An evaluation file, or a judge stage's folder.")],
    rater: Annotated[
        str | None, typer.Option(help="Whose evaluations, where a file holds several raters.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Average recorded verdicts on tutor replies; nothing is judged again.

    Example: maieutic eval tutor score evaluation/mathdial/base.json
    """
    from maieutic.evals import tutor

    result = tutor.score(file, rater)
    if _printed(result, as_json):
        return
    rows = [(name, result[name], _span(result[f"{name}_ci"])) for name in ("summary_score", *tutor.CRITERIA)]
    rows += [(name, of["value"], _span(of["ci"])) for name, of in result.get("criteria", {}).items()]
    say(f"{file}: {result['n']} scored replies, {result['unscored']} unscored")
    table("", ("", "mean", "95 %"), rows)


@judge_app.command("score")
def judge_score(
    pairs: Annotated[Path, typer.Option(help='JSON or JSONL rows {"human", "judge", "text"?}.')],
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit 1 where the judge does not beat the baselines.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Agreement of a judge with people, beside trivial rules.

    Example: maieutic eval judge score --pairs pairs.json --gate
    """
    from maieutic.evals import judge

    result = judge.score(pairs)
    if not _printed(result, as_json):
        names = [name for name, of in result.items() if isinstance(of, dict) and "ci" in of]
        rows = [
            (
                name,
                result[name]["value"],
                _span(result[name]["ci"]),
                *(result["baselines"][base].get(name, {}).get("value") for base in judge.BASELINES),
            )
            for name in names
        ]
        columns = ("", "judge", "95 %", "has a ?", "length", "constant")
        say(f"{pairs}: {result['n']} rated rows, {result['unscored']} unscored")
        table("", columns, rows)
        say(f"beats every baseline: {'yes' if result['gate']['passed'] else 'no'}")
    if gate and not result["gate"]["passed"]:
        note(
            "the judge does not beat the baselines: the interval of the difference in Pearson is not above zero"
        )
        raise typer.Exit(1)


@mt_app.command("score")
def mt_bench_score(judgments: Judgments, questions: Questions = None, as_json: Json = False) -> None:
    """Turn scores and their pooled average, as FastChat counts them.

    Example: maieutic eval mt-bench score --judgments gpt-4_single.jsonl --questions question.jsonl
    """
    _bench_score(judgments, questions, 2, as_json)


@vicuna_app.command("score")
def vicuna_bench_score(judgments: Judgments, questions: Questions = None, as_json: Json = False) -> None:
    """First-turn scores, as FastChat counts them.

    Example: maieutic eval vicuna-bench score --judgments gpt-4_single.jsonl
    """
    _bench_score(judgments, questions, 1, as_json)


def _bench_score(judgments: list[Path], questions: Path | None, turns: int, as_json: bool) -> None:
    from maieutic.evals import mt_bench

    result = mt_bench.score(judgments, questions, turns)
    if _printed(result, as_json):
        return
    keys = ("first_turn", "second_turn", "average", "rows", "unscored", "duplicates")
    columns = ("model", "first turn", "second turn", "average", "95 %", "rows", "unscored", "duplicates")
    rows = [
        (name, *(m[key] for key in keys[:3]), _span(m["ci"]), *(m[key] for key in keys[3:]))
        for name, m in result["models"].items()
    ]
    table("scores, 1 to 10", columns, rows)


@mt_app.command("pairwise")
def mt_bench_pairwise(
    judgments: Judgments,
    baseline: Annotated[str | None, typer.Option(help="Only the matches against this model.")] = None,
    as_json: Json = False,
) -> None:
    """Wins, losses and ties over two games with the answers swapped.

    Example: maieutic eval mt-bench pairwise --judgments gpt-4_pair.jsonl --baseline gpt-3.5-turbo
    """
    from maieutic.evals import mt_bench

    result = mt_bench.pairwise(judgments, baseline)
    if _printed(result, as_json):
        return
    keys = ("win", "loss", "tie", "win_rate", "adjusted_win_rate")
    columns = ("model", "win", "loss", "tie", "win rate", "adjusted", "95 %", "n")
    rows = [
        (name, *(m[key] for key in keys), _span(m["adjusted_win_rate_ci"]), m["n"])
        for name, m in result["models"].items()
    ]
    counts = f"{result['dropped']} rows dropped, {result['strict_ties']} ties in both games"
    say(f"{counts}, {result['inconsistent']} rows where the games differ")
    table("", columns, rows)


@alpaca_app.command("score")
def alpaca_eval_score(
    annotations: Annotated[Path, typer.Option(help="AlpacaEval's annotations.json.")], as_json: Json = False
) -> None:
    """Win rate and its standard error, as AlpacaEval computes them.

    Example: maieutic eval alpaca-eval score --annotations annotations.json
    """
    from maieutic.evals import alpaca_eval

    result = alpaca_eval.score(annotations)
    if _printed(result, as_json):
        return
    counts = [(name, result[name]) for name in ("wins", "losses", "draws", "n", "dropped", "avg_length")]
    numbers = [(name, result[name]) for name in ("win_rate", "standard_error", "discrete_win_rate")]
    say(f"{annotations}: win rate {_span(result['win_rate_ci'])} with 95 % confidence")
    table("", ("", "value"), [*numbers, *counts])


@evals.command()
def paired(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="Evaluations, annotations or judgments of one model.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same kind of file of the other model.")],
    model_a: Annotated[str | None, typer.Option(help="The model in A, where it holds several.")] = None,
    model_b: Annotated[str | None, typer.Option(help="The model in B, where it holds several.")] = None,
    as_json: Json = False,
) -> None:
    """Two models on the same items: A - B, its interval and n.

    Example: maieutic eval paired tuned.json base.json
    """
    from maieutic.evals import paired as pairs

    result = pairs.compare(first, second, model_a, model_b)
    if _printed(result, as_json):
        return
    rows = [
        (name, m["a"], m["b"], m["difference"], _span(m["ci"]), m["n"], m["p_holm"])
        for name, m in result["metrics"].items()
    ]
    say(f"{first} - {second}")
    table("", ("", "A", "B", "difference", "95 %", "n", "p (Holm)"), rows)


@evals.command()
def plan(
    difference: Annotated[float, typer.Option(help="The smallest difference worth seeing.")],
    sd: Annotated[float, typer.Option(help="Standard deviation of the paired differences.")] = 0.5,
    power: Annotated[float, typer.Option(help="Chance of seeing it.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Two-sided level.")] = 0.05,
    as_json: Json = False,
) -> None:
    """How many items a paired comparison needs (normal approximation).

    Example: maieutic eval plan --difference 0.05 --sd 0.3
    """
    from maieutic.evals import stats

    result = stats.plan(difference, sd, power, alpha)
    if as_json:
        print_json(result._asdict())
    else:
        say(
            f"{result.items} items show a difference of {difference:g} (sd {sd:g}) with power {power:g} at {alpha:g}"
        )


@evals.command()
def simulator(
    people: Annotated[Path, typer.Option(help="Held-out conversations of people: a corpus.")],
    model: Annotated[
        str | None, typer.Option(help="The simulator, hf/PATH_OR_ID: perplexity and END.")
    ] = None,
    simulated: Annotated[Path | None, typer.Option(help="Conversations it wrote: a run or a corpus.")] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="hf/MODEL, run or corpus beside it; twice at most.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="chat, dyadic, plain, or a Jinja file.")] = None,
    system: Annotated[str | None, typer.Option(help="System text for conversations without one.")] = None,
    as_json: Json = False,
) -> None:
    """Is a user simulator like people? Every metric beside people's and a baseline's.

    Example: maieutic eval simulator --model hf/out/user --people test.jsonl --simulated RUN/simulate
    """
    from maieutic.evals import simulator as room
    from maieutic.models import ModelOptions

    options = ModelOptions(template=template, system=system)
    result = room.evaluate_named(people, model, simulated, baseline or [], options)
    if _printed(result, as_json):
        return
    rows = [
        (name, m["value"], _span(m["ci"]), m["n"], m["human"], m["baseline"])
        for name, m in result.items()
        if isinstance(m, dict)
    ]
    table("the simulator beside people", ("", "value", "95 %", "n", "people", "baseline"), rows)
    reasons: dict[str, list[str]] = {}
    for name, m in result.items():
        if isinstance(m, dict) and m.get("reason"):
            reasons.setdefault(m["reason"], []).append(name)
    for reason, names in reasons.items():
        note(f"without a value or an interval: {', '.join(names)} ({reason})")


def _printed(result: dict[str, Any], as_json: bool) -> bool:
    """Say the notes on standard error, and print the JSON where it is wanted."""
    for line in result.get("notes", []):
        note(line)
    if as_json:
        print_json(result)
    return as_json


def _span(ci: Any) -> str:
    return f"{ci[0]:.3f} to {ci[1]:.3f}" if ci else "–"
