"""Baseline tutors that must not win: their scores under each rubric, compared with those of the judged tutors.

A rubric under which a tutor with fixed replies scores as well as a real tutor does not measure tutoring. Each baseline
is compared with each tutor on the dialogues that both answered, and the report names every pair in which the tutor is
not shown to be better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.core.messages import fingerprint
from maieutic.evals import paired
from maieutic.report.collect import Run, StageRun
from maieutic.report.estimates import NONE, ci_text, num, with_interval
from maieutic.report.extract import Scores
from maieutic.report.tables import Table

PREFIX = "baseline/"


class Gap(NamedTuple):
    """A tutor's summary score minus a baseline's, on the dialogues that both answered."""

    baseline: Scores
    tutor: Scores
    difference: dict[str, Any]
    """`difference`, `ci`, `a` (the tutor), `b` (the baseline), `n`."""


class Comparison(NamedTuple):
    """The baselines and tutors that one judge scored by one rubric."""

    rubric: str
    judge: str
    baselines: tuple[Scores, ...]
    tutors: tuple[Scores, ...]
    """The tutors that answered at least one dialogue of a baseline."""
    gaps: tuple[Gap, ...]


def shown_better(difference: Mapping[str, Any]) -> bool:
    """Whether a paired difference shows the first to be better: its interval is above zero, or every item is."""
    if difference["ci"] is None:
        return bool(difference["n"] > 1 and difference["difference"] > 0)
    return bool(difference["ci"][0] > 0)


def comparisons(runs: Sequence[Run], scores: Sequence[Scores]) -> list[Comparison]:
    """The baselines of the runs by rubric and judge; empty where no baseline was judged."""
    stages = {stage.label: stage for run in runs for stage in run.stages if stage.kind == "judge"}
    several = {label for label in stages if sum(one.label == label for one in scores) > 1}
    groups: dict[str, list[Scores]] = {}
    for one in scores:
        if one.label not in several or _is_baseline(one):
            config = stages[one.label].config
            judged_by = [config.get(key) for key in ("rubric", "rubric_hash", "judges", "samples")]
            groups.setdefault(fingerprint(judged_by), []).append(one)
    return [found for group in groups.values() if (found := _comparison(group, stages))]


def _comparison(group: Sequence[Scores], stages: dict[str, StageRun]) -> Comparison | None:
    baselines = [one for one in group if _is_baseline(one)]
    if not baselines:
        return None
    answered = {one.label: _ids(stages[one.label]) for one in group}
    gaps = [
        Gap(baseline, tutor, paired.compare_files(stages[tutor.label].folder, stages[baseline.label].folder))
        for tutor in group
        if not _is_baseline(tutor) and "summary_score" in tutor.values
        for baseline in baselines
        if "summary_score" in baseline.values and answered[tutor.label] & answered[baseline.label]
    ]
    labels = {gap.tutor.label for gap in gaps}
    tutors = tuple(one for one in group if one.label in labels)
    return Comparison(baselines[0].rubric, baselines[0].judge, tuple(baselines), tutors, tuple(gaps))


def _is_baseline(one: Scores) -> bool:
    return one.model.startswith(PREFIX)


def _ids(stage: StageRun) -> set[str]:
    return {str(row.get("id") or row.get("key")) for row in stage.rows()}


def table(found: Comparison) -> Table:
    """Scores of baselines and tutors under one rubric, with each tutor's difference from each baseline."""
    listed = (*found.baselines, *found.tutors)
    names = list(dict.fromkeys(name for scores in listed for name in scores.values))
    rows = []
    for scores in listed:
        cells = [with_interval(e.value, e.ci) if (e := scores.values.get(name)) else NONE for name in names]
        gaps = {gap.tutor.label: gap.difference for gap in found.gaps if gap.baseline == scores}
        for tutor in found.tutors:
            gap = gaps.get(tutor.label)
            cells.append(with_interval(gap["difference"], gap["ci"]) if gap else NONE)
        name = scores.model.removeprefix(PREFIX) if _is_baseline(scores) else scores.label
        rows.append((name, *cells, num(scores.n)))
    criteria = (name.replace("_", " ") for name in names)
    columns = ("tutor", *criteria, *(f"{tutor.label} minus baseline" for tutor in found.tutors), "n")
    note = "Below each number is its 95 % interval. Differences in the summary score are paired by dialogue. "
    if not found.gaps:
        note += "No tutor answered the same dialogues under this rubric."
    else:
        note += " ".join(warnings([found])) or "Each baseline is shown to score below each tutor."
    title = f"Baselines: tutors that must not win ({found.rubric}, {found.judge})"
    return Table(title, columns, rows, note)


def warnings(found: Sequence[Comparison]) -> Iterator[str]:
    """A sentence for each baseline that no interval shows to score below a tutor."""
    for one in found:
        for gap in one.gaps:
            if not shown_better(gap.difference):
                name, less = gap.baseline.model.removeprefix(PREFIX), gap.difference
                yield (
                    f"The baseline {name} is not shown to score below {gap.tutor.label} under {one.rubric}: "
                    f"{num(less['b'])} against {num(less['a'])}; difference {num(less['difference'])} "
                    f"({ci_text(less['ci'])}, n = {less['n']})."
                )
