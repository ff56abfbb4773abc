"""`maieutic eval …`: measuring. Every `score` form works on files alone, with no model and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.cli import benchmarks, dialogue, pairwise, utility
from maieutic.cli.printing import printed, span
from maieutic.core.console import Json, note, print_json, say, table

_SETTINGS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}

evals = typer.Typer(name="eval", help="Measure simulators, tutors, assistants and judges.", **_SETTINGS)
tutor_app = typer.Typer(help="Single tutor replies, judged by people or models.", **_SETTINGS)
judge_app = typer.Typer(help="A judge against people.", **_SETTINGS)


def register(app: typer.Typer) -> None:
    """Add the `eval` commands."""
    for name, inner in (
        ("tutor", tutor_app),
        ("judge", judge_app),
    ):
        evals.add_typer(inner, name=name)
    dialogue.add_to(evals)
    pairwise.add_to(tutor_app)
    benchmarks.add_to(evals)
    utility.add_to(evals)
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

    result = tutor.score_tutor(file, rater)
    if printed(result, as_json):
        return
    rows = [(name, result[name], span(result[f"{name}_ci"])) for name in ("summary_score", *tutor.CRITERIA)]
    rows += [(name, of["value"], span(of["ci"])) for name, of in result.get("criteria", {}).items()]
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
    from maieutic.evals import judge_agreement

    result = judge_agreement.score_judge(pairs)
    if not printed(result, as_json):
        names = [name for name, of in result.items() if isinstance(of, dict) and "ci" in of]
        rows = [
            (
                name,
                result[name]["value"],
                span(result[name]["ci"]),
                *(result["baselines"][base].get(name, {}).get("value") for base in judge_agreement.BASELINES),
            )
            for name in names
        ]
        columns = ("", "judge", "95 %", "has a ?", "length", "constant")
        say(f"{pairs}: {result['n']} rated rows, {result['unscored']} unscored")
        table("", columns, rows)
        say(f"beats every baseline: {'yes' if result['gate']['passed'] else 'no'}")
    if gate and not result["gate"]["passed"]:
        unproven = "the interval of the difference in Pearson is not above zero"
        note(f"the judge does not beat the baselines: {result['gate'].get('reason') or unproven}")
        raise typer.Exit(1)


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

    result = pairs.compare_files(first, second, model_a, model_b)
    if printed(result, as_json):
        return
    rows = [
        (name, m["a"], m["b"], m["difference"], span(m["ci"]), m["n"], m["p_holm"])
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
    from maieutic.core import statistics as stats

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
        list[str] | None,
        typer.Option(help="[NAME=]MODEL, run or corpus beside it; may be repeated."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="MODEL that judges adherence and the quality of questions.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="sentence-transformers model for topics; else n-grams.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="chat, dyadic, plain, or a Jinja file.")] = None,
    system: Annotated[str | None, typer.Option(help="System text for conversations without one.")] = None,
    as_json: Json = False,
) -> None:
    """Is a user simulator like people? Every metric beside people's and a baseline's.

    Example: maieutic eval simulator --model hf/out/user --people test.jsonl --simulated RUN/simulate
    """
    from maieutic.evals.simulator import evaluate_simulator_files
    from maieutic.models import ModelOptions

    options = ModelOptions(template=template, system=system)
    result = evaluate_simulator_files(
        people, model, simulated, baseline or [], options, embedder=embedder, judge=judge
    )
    if printed(result, as_json):
        return
    metrics = {name: m for name, m in result.items() if isinstance(m, dict)}
    based = list(dict.fromkeys(name for m in metrics.values() for name in m.get("baselines", ())))
    rows = [
        (name.replace("_", " "), m["value"], span(m["ci"]), m["n"], m["human"]) for name, m in metrics.items()
    ]
    table("the simulator beside people", ("", "value", "95 %", "n", "people"), rows)
    if based:
        others = [
            (name.replace("_", " "), *(m.get("baselines", {}).get(base, {}).get("value") for base in based))
            for name, m in metrics.items()
        ]
        table("what it is compared with", ("", *based), others)
    gaps = [
        (
            name.replace("_", " "),
            m["difference"]["difference"],
            span(m["difference"]["ci"]),
            m["difference"]["n"],
        )
        for name, m in metrics.items()
        if m.get("difference")
    ]
    if gaps:
        table("the simulator minus its baseline, on the same people", ("", "difference", "95 %", "n"), gaps)
    reasons: dict[str, list[str]] = {}
    for name, m in metrics.items():
        if m.get("reason"):
            reasons.setdefault(m["reason"], []).append(name)
    for reason, names in reasons.items():
        note(f"without a value or an interval: {', '.join(names)} ({reason})")
