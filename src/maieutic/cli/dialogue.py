"""`maieutic eval dialogue …`: whole dialogues of tutors with students, on problems with known answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.cli.printing import printed, span
from maieutic.console import Json, say, table

dialogue_app = typer.Typer(
    help="Whole dialogues: does the student get there, or is it told?",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Before = Annotated[Path | None, typer.Option(help="The student's attempts before: an `attempts` stage.")]
After = Annotated[Path | None, typer.Option(help="The student's attempts after: an `attempts` stage.")]


def add_to(evals: typer.Typer) -> None:
    """Add `eval dialogue`."""
    evals.add_typer(dialogue_app, name="dialogue")


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
    as_json: Json = False,
) -> None:
    """What came of whole dialogues; beside another tutor's from the same starts, the paired differences.

    Example: maieutic eval dialogue score runs/tuned/dialogues --against runs/base/dialogues
    """
    from maieutic.evals import dialogue

    result = dialogue.score(run, before=before, after=after, rounds=rounds)
    if against:
        result["against"] = dialogue.score(against, before=before, after=after_against, rounds=rounds)
        result["difference"] = dialogue.compare(run, against, before=before, after=(after, after_against))
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
