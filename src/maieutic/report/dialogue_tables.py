"""Tutors played with students, and the plays that pairs were made of, as tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maieutic.report.collect import Run, StageRun
from maieutic.report.numbers import NONE, num, span
from maieutic.report.rubric_validity import tutor_name
from maieutic.report.tables import Table, compared

_MEASURES = {
    "solved": "solved",
    "told": "told",
    "collapse": "gave in when pressed",
    "delta_solve": "Δ solve",
    "turns": "turns",
}


def played(runs: Sequence[Run]) -> Iterator[tuple[StageRun, Mapping[str, Any]]]:
    """The stages in which tutors were played with students, and their manifests."""
    for run in runs:
        for stage in run.stages:
            if stage.kind == "play" and (stage.manifest or {}).get("tutors"):
                yield stage, stage.manifest or {}


def tables(runs: Sequence[Run]) -> Iterator[Table]:
    """For each student what became of it under every tutor, and the tutors two by two."""
    for stage, manifest in played(runs):
        for student in manifest["models"]["students"]:
            yield _outcomes(stage.label, manifest, student)
            yield _differences(stage.label, manifest, student)


def _outcomes(label: str, manifest: Mapping[str, Any], student: str) -> Table:
    rows = []
    for name, by in manifest["tutors"].items():
        scores = by[student]
        cells = [_over(scores.get(measure) or {}) for measure in _MEASURES]
        rows.append((tutor_name(name), *cells, num(scores["dialogues"]), num(sum(scores["lost"].values()))))
    note = (
        "Solved: the student stated the known answer before the tutor had. Told: the tutor stated it first. Gave in: "
        "the tutor stated it once the student had demanded it. Δ solve: right attempts after less before. Lost: left "
        "out, since anybody but the tutor broke off. Under each number its 95 % interval."
    )
    columns = ("tutor", *_MEASURES.values(), "dialogues", "lost")
    return Table(f"Whole dialogues with the student “{student}” ({label})", columns, rows, note)


def _differences(label: str, manifest: Mapping[str, Any], student: str) -> Table:
    rows = [
        (
            f"{tutor_name(gap['a'])} less {tutor_name(gap['b'])}",
            *(_over(gap["metrics"].get(measure) or {}) for measure in _MEASURES),
            num((gap["metrics"].get("solved") or {}).get("n")),
        )
        for gap in manifest["differences"]
        if gap["student"] == student
    ]
    note = "Over the starts that both have; under each difference its 95 % interval, n counts starts."
    columns = ("tutors", *_MEASURES.values(), "n")
    return Table(f"The tutors over the same starts, with “{student}” ({label})", columns, rows, note)


def _over(shape: Mapping[str, Any]) -> str:
    """A number, and under it its interval."""
    value = shape.get("value", shape.get("difference"))
    return f"{num(value)}\n{span(shape) if shape.get('ci') else ''}" if value is not None else NONE


def findings(runs: Sequence[Run]) -> Iterator[str]:
    """What the tutors differ in, a sentence each; the controls are left to the tables."""
    for _, manifest in played(runs):
        for gap in manifest["differences"]:
            if gap["a"] not in manifest["controls"] and gap["b"] not in manifest["controls"]:
                for measure in ("solved", "told"):
                    if measure in gap["metrics"]:
                        what = (
                            f"{gap['a']} against {gap['b']}, with the student “{gap['student']}”: {measure}"
                        )
                        yield compared(what, gap["metrics"][measure])


def cost_of_plays(runs: Sequence[Run]) -> Table | None:
    """What the plays of each round said of the rubric, and what they cost."""
    rows = []
    for run in runs:
        for stage in (stage for stage in run.stages if stage.kind == "mix"):
            mixed = stage.manifest or {}
            if "agreement" not in mixed:
                continue
            source = run.named(stage.recipe.get("plays"))
            spent = (source.manifest or {}) if source else {}
            rows.append(
                (
                    stage.label,
                    num(mixed["replies"]),
                    num(mixed["told"]),
                    num(mixed["plays"]),
                    num(mixed["lost"]),
                    num(spent.get("replies")),
                    num(spent.get("tokens")),
                    num(source.seconds if source else None),
                    _over(mixed["agreement"]),
                    _over(mixed["within"]),
                )
            )
    note = (
        "Candidates; those of them that state the answer and need no play; plays that count, and plays lost to anybody "
        "but the tutor. Calls, tokens (prompts counted) and seconds are those of the last call of that stage. The last "
        "two columns: Pearson’s r of rubric and outcome, over all replies and among the replies of one dialogue; under "
        "each its 95 % interval."
    )
    columns = (
        *("round", "replies", "state it", "plays", "lost", "calls", "tokens", "seconds"),
        *("r, all replies", "r, within a dialogue"),
    )
    return Table("What became of replies that were played on", columns, rows, note) if rows else None
