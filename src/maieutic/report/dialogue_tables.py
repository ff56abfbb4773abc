"""Tables and findings of whole dialogues: tutors with students (`play`), and rewards from continuations (`rewards`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maieutic.report.collect import Run, StageRun
from maieutic.report.estimates import num, with_interval
from maieutic.report.extract import tutor_name
from maieutic.report.tables import Table, compared

_MEASURES = {
    "solved": "solved",
    "told": "told",
    "collapse": "gave in",
    "delta_solve": "Δ solve",
    "turns": "turns",
}


def _plays(runs: Sequence[Run]) -> Iterator[StageRun]:
    """The stages in which tutors talked with students."""
    for run in runs:
        yield from (
            stage for stage in run.stages if stage.kind == "eval dialogue run" and stage.result.get("tutors")
        )


def tables(runs: Sequence[Run]) -> Iterator[Table]:
    """For each student the outcomes under every tutor, and the paired differences between tutors."""
    for stage in _plays(runs):
        for student in stage.result["models"]["students"]:
            yield _outcomes(stage.label, stage.result, student)
            yield _differences(stage.label, stage.result, student)


def _outcomes(label: str, manifest: Mapping[str, Any], student: str) -> Table:
    rows = []
    for name, by_student in manifest["tutors"].items():
        scores = by_student[student]
        lost = num(sum(scores["lost"].values()))
        rows.append((tutor_name(name), *_cells(scores), num(scores["dialogues"]), lost))
    note = (
        "Solved: the student stated the known answer before the tutor. Told: the tutor stated it first. Gave in: the "
        "tutor stated it after the student had demanded it. Δ solve: share of right answers after the dialogue minus "
        "before. Lost: dialogues left out because they failed for a cause other than the tutor. Below each number is "
        "its 95 % interval."
    )
    columns = ("tutor", *_MEASURES.values(), "dialogues", "lost")
    return Table(f"Whole dialogues with the student “{student}” ({label})", columns, rows, note)


def _differences(label: str, manifest: Mapping[str, Any], student: str) -> Table:
    rows = [
        (
            f"{tutor_name(gap['a'])} minus {tutor_name(gap['b'])}",
            *_cells(gap["metrics"]),
            num((gap["metrics"].get("solved") or {}).get("n")),
        )
        for gap in manifest["differences"]
        if gap["student"] == student
    ]
    note = (
        "Over the starts that both tutors have; n counts starts. Below each difference is its 95 % interval."
    )
    columns = ("tutors", *_MEASURES.values(), "n")
    return Table(f"Differences between tutors, with “{student}” ({label})", columns, rows, note)


def _cells(shapes: Mapping[str, Any]) -> list[str]:
    return [_cell(shapes.get(measure) or {}) for measure in _MEASURES]


def _cell(shape: Mapping[str, Any]) -> str:
    return with_interval(shape.get("value", shape.get("difference")), shape.get("ci"))


def findings(runs: Sequence[Run]) -> Iterator[str]:
    """The differences between tutors, one sentence each; those with control tutors are in the tables only."""
    for stage in _plays(runs):
        for gap in stage.result["differences"]:
            if {gap["a"], gap["b"]} & set(stage.result["controls"]):
                continue
            for measure in ("solved", "told"):
                if measure in gap["metrics"]:
                    what = f"{gap['a']} against {gap['b']}, with the student “{gap['student']}”: {measure}"
                    yield compared(what, gap["metrics"][measure])


def continuations(runs: Sequence[Run]) -> Table | None:
    """For each round of continuations: the agreement of rubric and outcome, and the cost of the continuations."""
    rows = []
    for run in runs:
        for stage in (stage for stage in run.stages if stage.kind == "rewards"):
            mixed = stage.result
            if "agreement" not in mixed:
                continue
            source = run.stage_at(stage.recipe.get("plays"))
            spent = source.result if source else {}
            counts = (*(mixed[key] for key in ("replies", "told", "plays", "lost")),
                      spent.get("replies"), spent.get("tokens"), source.seconds if source else None)  # fmt: skip
            rows.append((stage.label, *map(num, counts), _cell(mixed["agreement"]), _cell(mixed["within"])))
    note = (
        "Replies: candidates. State it: candidates that state the answer and need no continuation. Counted and lost: "
        "continuations that count, and those that failed for a cause other than the tutor. Calls, tokens (prompts too) "
        "and seconds: of the stage's last call. The last two columns: Pearson’s r of rubric score and outcome over all "
        "replies, and among the replies of one dialogue; below each its 95 % interval."
    )
    columns = (
        *("round", "replies", "state it", "counted", "lost", "calls", "tokens", "seconds"),
        *("r, all replies", "r, within a dialogue"),
    )
    return Table("Outcomes of replies that were continued", columns, rows, note) if rows else None
