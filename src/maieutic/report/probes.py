"""Tutors that must not win: how the probes score under each rubric that judged them, beside the tutors it judged.

A rubric under which a tutor of fixed words is as good as a real one measures something else than tutoring. So each
probe is set against each tutor on the dialogues that both answered, and where the tutor is not shown to be better,
that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.core.messages import fingerprint
from maieutic.evals import paired
from maieutic.report.collect import Run, StageRun
from maieutic.report.material import Scores
from maieutic.report.numbers import NONE, num, sure
from maieutic.report.tables import Table, over

PREFIX = "baseline/"


class Gap(NamedTuple):
    """A tutor's summary score less a probe's, on the dialogues of both."""

    probe: Scores
    tutor: Scores
    difference: dict[str, Any]
    """`difference`, `ci`, `a` (the tutor), `b` (the probe), `n`."""


def shown_better(difference: Mapping[str, Any]) -> bool:
    """Whether a paired difference shows the first to be better: its interval lies above zero, or all are so."""
    if difference["ci"] is None:
        return bool(difference["n"] > 1 and difference["difference"] > 0)
    return bool(difference["ci"][0] > 0)


class Probed(NamedTuple):
    """One rubric in one judge's hands, and whom it judged."""

    rubric: str
    judge: str
    probes: tuple[Scores, ...]
    tutors: tuple[Scores, ...]
    """Those that answered dialogues which a probe answered too."""
    gaps: tuple[Gap, ...]


def probed(runs: Sequence[Run], scores: Sequence[Scores]) -> list[Probed]:
    """The probes of these runs by rubric and judge; none where no probe was judged."""
    stages = {stage.label: stage for run in runs for stage in run.stages if stage.kind == "judge"}
    several = {label for label in stages if sum(one.label == label for one in scores) > 1}
    groups: dict[str, list[Scores]] = {}
    for one in scores:
        if one.label not in several or is_probe(one):
            config = stages[one.label].config
            of = fingerprint([config.get(key) for key in ("rubric", "rubric_hash", "judges", "samples")])
            groups.setdefault(of, []).append(one)
    return [found for group in groups.values() if (found := _probed(group, stages))]


def _probed(group: Sequence[Scores], stages: dict[str, StageRun]) -> Probed | None:
    probes = [one for one in group if is_probe(one)]
    if not probes:
        return None
    answered = {one.label: _ids(stages[one.label]) for one in group}
    gaps = [
        Gap(probe, tutor, paired.compare_files(stages[tutor.label].folder, stages[probe.label].folder))
        for tutor in group
        if not is_probe(tutor) and "summary_score" in tutor.values
        for probe in probes
        if "summary_score" in probe.values and answered[tutor.label] & answered[probe.label]
    ]
    tutors = tuple(dict.fromkeys(gap.tutor.label for gap in gaps))
    kept = tuple(one for one in group if one.label in tutors)
    return Probed(probes[0].rubric, probes[0].judge, tuple(probes), kept, tuple(gaps))


def is_probe(one: Scores) -> bool:
    """Whether these are a probe's replies."""
    return one.model.startswith(PREFIX)


def _ids(stage: StageRun) -> set[str]:
    return {str(row.get("id") or row.get("key")) for row in stage.rows()}


def table(one: Probed) -> Table:
    """The probes under one rubric, and the tutors beside them."""
    names = list(dict.fromkeys(name for scores in (*one.probes, *one.tutors) for name in scores.values))
    rows = []
    for scores in (*one.probes, *one.tutors):
        cells = [over(e.value, e.ci) if (e := scores.values.get(name)) else NONE for name in names]
        less = {gap.tutor.label: gap.difference for gap in one.gaps if gap.probe == scores}
        beside = [
            over(gap["difference"], gap["ci"]) if (gap := less.get(t.label)) else NONE for t in one.tutors
        ]
        called = scores.model.removeprefix(PREFIX) if is_probe(scores) else scores.label
        rows.append((called, *cells, *beside, num(scores.n)))
    columns = (
        "tutor",
        *(name.replace("_", " ") for name in names),
        *(f"{t.label} less it" for t in one.tutors),
        "n",
    )
    note = "Under each number its 95 % interval; differences in the summary score are of the same dialogues."
    title = f"Probes: tutors that must not win ({one.rubric}, {one.judge})"
    return Table(title, columns, rows, " ".join((note, *_notes(one))))


def _notes(one: Probed) -> Iterator[str]:
    if not one.gaps:
        yield "No tutor answered the same dialogues under this rubric."
        return
    winners = list(warnings([one]))
    yield " ".join(winners) if winners else "Each probe is shown to be below each tutor."


def warnings(found: Sequence[Probed]) -> Iterator[str]:
    """A sentence for each probe that no interval shows to be below a tutor."""
    for one in found:
        for gap in one.gaps:
            if not shown_better(gap.difference):
                name, less = gap.probe.model.removeprefix(PREFIX), gap.difference
                yield (
                    f"The probe {name} is not shown to be below {gap.tutor.label} under {one.rubric}: "
                    f"{num(less['b'])} against {num(less['a'])}; difference {num(less['difference'])} ({sure(less)}, "
                    f"n = {less['n']})."
                )
