"""`maieutic eval dialogue …`: whole dialogues of tutors with students, on problems with known answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.cli.printing import printed, span
from maieutic.cli.spending import BudgetTokens, BudgetUsd, Prices, budget
from maieutic.core.console import Json, print_json, say, table

dialogue_app = typer.Typer(
    help="Whole dialogues: does the student get there, or is it told?",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Before = Annotated[Path | None, typer.Option(help="The student's attempts before: an `attempts` stage.")]
After = Annotated[Path | None, typer.Option(help="The student's attempts after: an `attempts` stage.")]


RunCode = Annotated[
    bool,
    typer.Option("--run-code", help="Run students' programs, shut in, against the problems' unit tests."),
]


def add_to(evals: typer.Typer) -> None:
    """Add `eval dialogue`."""
    evals.add_typer(dialogue_app, name="dialogue")


@dialogue_app.command("run")
def dialogue_run(
    tutor: Annotated[list[str], typer.Option(help="[NAME=]MODEL that tutors; may be repeated.")],
    student: Annotated[list[str], typer.Option(help="[NAME=]MODEL of a student; may be repeated.")],
    problems: Annotated[Path, typer.Option(help="Corpus of starts whose problems have known answers.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on in it.")],
    kinds: Annotated[
        str | None,
        typer.Option(help="Kinds of students, each with every start: a list of names or .yaml files."),
    ] = None,
    attempts: Annotated[
        int, typer.Option(min=0, help="Of the student alone, before and after each dialogue; 0: none.")
    ] = 8,
    attempt_prompt: Annotated[
        str, typer.Option(help="What asks for an attempt: a prompt's name, or a .md file.")
    ] = "attempt",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at most.")] = 6,
    repeat: Annotated[int, typer.Option(min=1, help="Dialogues a start.")] = 1,
    seed_turns: Annotated[
        int | None, typer.Option(min=0, help="Keep only the first turns of each start.")
    ] = None,
    user_mode: Annotated[
        str | None, typer.Option(help="trained or prompted; default: what the checkpoint says.")
    ] = None,
    tutor_prompt: Annotated[
        str, typer.Option(help="What each tutor alone is told: a prompt's name, a .md file, or none.")
    ] = "tutor_socratic",
    show_solution: Annotated[
        bool, typer.Option("--show-solution", help="And with it the solution and the known answer.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0, help="Of the tutors.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a tutor's turn.")] = 400,
    student_temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    student_max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    guards: Annotated[str, typer.Option(help="default, none, or a list such as empty,repeat.")] = "empty",
    template: Annotated[
        str | None, typer.Option(help="Of hf/ models: chat, dyadic, plain or a file.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Dialogues under way at once.")] = 64,
    seed: int = 0,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price: Prices = None,
    max_failure_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of failures past which the run fails.")
    ] = 0.05,
    run_code: RunCode = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; ask no model.")] = False,
    as_json: Json = False,
) -> None:
    """Play every tutor with every student, a silent and a telling one beside them, and score all.

    Example: maieutic eval dialogue run --tutor tuned=hf/runs/dpo --tutor base=hf/BASE --student student/cooperative
    --problems problems.jsonl --out runs/played
    """
    from maieutic.checks.outcomes import solves
    from maieutic.core.messages import Sampling
    from maieutic.evals import dialogue_run
    from maieutic.models import ModelOptions

    if user_mode not in (None, "trained", "prompted"):
        raise typer.BadParameter("give trained or prompted", param_hint="--user-mode")
    config = dialogue_run.DialogueRunConfig(
        problems=problems,
        kinds=tuple(name.strip() for name in kinds.split(",")) if kinds else (),
        rounds=rounds,
        repeat=repeat,
        seed_turns=seed_turns,
        user_mode=user_mode,
        student=Sampling(
            temperature=student_temperature, top_p=0.8, max_tokens=student_max_tokens, seed=seed
        ),
        tutor=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        assistant_prompt=None if tutor_prompt == "none" else tutor_prompt,
        show_solution=show_solution,
        attempts=attempts,
        attempt_prompt=attempt_prompt,
        guards=guards,
        seed=seed,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
        budget=budget(budget_tokens, budget_usd, price),
    )
    tutors, students = dialogue_run.parse_named_models(tutor), dialogue_run.parse_named_models(student)
    if dry_run:
        _show_cost(dialogue_run.dialogue_run_cost(tutors, students, config)._asdict(), as_json)
        return
    options = ModelOptions(template=template, concurrency=concurrency)
    found = dialogue_run.run_dialogues(tutors, students, out, config, options, solves if run_code else None)
    if not printed(found, as_json):
        show_played(found)


def _show_cost(cost: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(cost)
        return
    dollars = "no price is known" if cost["usd"] is None else f"${cost['usd']:,.2f}"
    tokens = f"{cost['read']:,} tokens read, {cost['written']:,} written"
    say(f"{cost['dialogues']:,} dialogues: {cost['calls']:,} calls, {tokens}, {dollars}")
    say(
        "at most, controls counted though they cost nothing; draws thrown away and calls made again come on top"
    )


_SHOWN = ("solved", "told", "collapse", "over_refusal", "delta_solve", "turns")


def show_played(found: Mapping[str, Any]) -> None:
    """With each student metrics by tutors, then the differences between the tutors that are no controls."""
    for student in found["models"]["students"]:
        sides = {name: by[student] for name, by in found["tutors"].items()}
        rows = [
            (metric.replace("_", " "), *(_cell(of[metric]) for of in sides.values())) for metric in _SHOWN
        ]
        for label, criterion in (("1st reply asks", "asks_question"), ("1st reveals", "reveals_answer")):
            shares = [(of["single"] or {}).get(criterion) for of in sides.values()]
            rows.append((label, *("–" if share is None else f"{share:.2f}" for share in shares)))
        rows.append(("dialogues", *(str(of["dialogues"]) for of in sides.values())))
        rows.append(("lost", *(str(sum(of["lost"].values())) for of in sides.values())))
        table(f"with {student}", ("", *sides), rows)
    for gap in found["differences"]:
        if {gap["a"], gap["b"]}.isdisjoint(found["controls"]):
            title = f"{gap['a']} - {gap['b']}, with {gap['student']}, over the same starts"
            show_difference(title, {name: m for name, m in gap["metrics"].items() if name in _SHOWN})
    say(f"{found['replies']} replies, {found['tokens']} tokens in this call; {found['run']}/dialogues.json")


def _cell(shape: Mapping[str, Any]) -> str:
    """A value with its interval, short enough to stand beside three others."""
    if shape["value"] is None:
        return "–"
    ends = [f"{end:.2f}".replace("0.", ".", 1) if abs(end) < 1 else f"{end:.2f}" for end in shape["ci"] or ()]
    return f"{shape['value']:.2f}" + (f" ({'–'.join(ends)})" if ends else "")


@dialogue_app.command("score")
def dialogue_score(
    run: Annotated[Path, typer.Argument(help="Dialogues: a simulate stage, its run, or a file of its rows.")],
    against: Annotated[
        Path | None, typer.Option(help="Another tutor's dialogues from the same starts.")
    ] = None,
    before: Before = None,
    after: After = None,
    after_against: Annotated[
        Path | None, typer.Option(help="The attempts after the other tutor's dialogues.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="The last k of Success@k and Telling@k.")] = None,
    run_code: RunCode = False,
    as_json: Json = False,
) -> None:
    """What came of whole dialogues; beside another tutor's from the same starts, the paired differences.

    Example: maieutic eval dialogue score runs/tuned/dialogues --against runs/base/dialogues
    """
    from maieutic.checks.outcomes import solves
    from maieutic.evals import dialogue

    states = solves if run_code else None
    result = dialogue.score_dialogues(run, before=before, after=after, rounds=rounds, states=states)
    if against:
        result["against"] = dialogue.score_dialogues(
            against, before=before, after=after_against, rounds=rounds, states=states
        )
        both = (after, after_against)
        result["difference"] = dialogue.compare_dialogues(
            run, against, before=before, after=both, states=states
        )
    if printed(result, as_json):
        return
    show(str(run), result)
    if against:
        show(str(against), result["against"])
        show_difference(f"{run} - {against}, over the same starts", result["difference"])


def show(name: str, scores: Mapping[str, Any]) -> None:
    """One tutor's metrics."""
    say(f"{name}: {counted(scores)}")
    kinds = list(scores["by_kind"])
    rows = [
        (
            metric.replace("_", " "),
            shape["value"],
            span(shape["ci"]),
            shape["n"],
            *(scores["by_kind"][kind][metric]["value"] for kind in kinds),
        )
        for metric, shape in scores.items()
        if isinstance(shape, dict) and "value" in shape
    ]
    table("", ("", "value", "95 %", "starts", *kinds), rows)
    table(
        "by the k-th reply",
        ("k", "Success@k", "solved", "Telling@k"),
        [
            (at["k"], at["success"]["value"], at["solved"]["value"], at["telling"]["value"])
            for at in scores["at"]
        ],
    )


def counted(scores: Mapping[str, Any]) -> str:
    """How many dialogues counted, and which did not."""
    lost = ", ".join(f"{count} by {fault}" for fault, count in sorted(scores["lost"].items()))
    said = f"{scores['dialogues']} dialogues"
    said += f", {scores['failed_by_tutor']} broken off by the tutor" if scores["failed_by_tutor"] else ""
    return said + (f"; left out as lost: {lost}" if lost else "")


def show_difference(title: str, metrics: Mapping[str, Any]) -> None:
    """Paired differences."""
    rows = [
        (name.replace("_", " "), m["a"], m["b"], m["difference"], span(m["ci"]), m["n"], m["p_holm"])
        for name, m in metrics.items()
    ]
    table(title, ("", "a", "b", "difference", "95 %", "starts", "p (Holm)"), rows)
