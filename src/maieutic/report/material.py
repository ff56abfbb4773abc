"""What the figures and tables are made of, as plain data: learning curves, scores, endings, outcomes, agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import InputError
from maieutic.core.messages import Estimate
from maieutic.evals import judge_agreement, tutor
from maieutic.evals.files import parse_number, parse_yes_no, read_table
from maieutic.report.collect import Run, StageRun
from maieutic.report.estimates import estimate, estimates, interval
from maieutic.report.grid import Grid, grids
from maieutic.report.rubric_validity import Worth, tutor_name, worths
from maieutic.report.talks import Talk, talks


class Curve(NamedTuple):
    """A training run."""

    label: str
    method: str
    train: list[tuple[int, float]]
    """Step and loss."""
    validation: list[tuple[int, float]]


class Scores(NamedTuple):
    """A model's judged replies on one set."""

    label: str
    model: str
    set: str
    judge: str
    rubric: str
    values: dict[str, Estimate]
    """`summary_score` and the criteria, those that the rubric has."""
    n: int
    unscored: int


class EndBin(NamedTuple):
    """Openings at which the simulator gave END about the same probability."""

    predicted: float
    """The mean probability it gave."""
    ended: float
    """The share of people who ended there."""
    n: int


class Endings(NamedTuple):
    """How well a simulator's probability of END fits people."""

    label: str
    bins: list[EndBin]
    error: Estimate


class Outcome(NamedTuple):
    """What became of students who talked with a tutor."""

    label: str
    solved: Estimate
    told: Estimate
    turns: Estimate | None
    student: str = ""
    """With whom, where several students talked with each tutor."""


class Agreement(NamedTuple):
    """People's and a judge's ratings of the same texts."""

    label: str
    points: list[tuple[float, float]]
    """The person's and the judge's rating."""
    result: dict[str, Any]
    """As `eval judge score` prints it."""
    yes_no: dict[str, Counter[tuple[int, int]]]
    """By criterion, of socratic-llm's form: how many texts a person and the judge said no (0) and yes (1) of."""


class Material(NamedTuple):
    """All of it; what a run has no data for is empty."""

    curves: list[Curve]
    scores: list[Scores]
    talks: list[Talk]
    endings: list[Endings]
    outcomes: list[Outcome]
    agreements: list[Agreement]
    grids: list[Grid]
    worths: list[Worth]
    """What plays said of the rubric that the replies were scored by."""


def gather(runs: Sequence[Run]) -> Material:
    """Read what the runs hold."""
    stages = [(run, stage) for run in runs for stage in run.stages]
    return Material(
        curves=[c for _, stage in stages if stage.kind in ("sft", "dpo") and (c := _curve(stage))],
        scores=[s for run, stage in stages if stage.kind == "judge" for s in _scores(run, stage)],
        talks=[talk for run in runs for talk in talks(run)],
        endings=[e for _, stage in stages if stage.kind == "eval-simulator" and (e := _endings(stage))],
        outcomes=[o for run in runs for o in _of_run(run)],
        agreements=[a for run in runs for path in run.ratings if (a := _agreement(run, path))],
        grids=grids([stage for _, stage in stages]),
        worths=worths(runs),
    )


def _curve(stage: StageRun) -> Curve | None:
    train: list[tuple[int, float]] = []
    validation: list[tuple[int, float]] = []
    for row in stage.rows():
        for key, line in (("loss", train), ("eval_loss", validation)):
            step, value = row.get("step"), parse_number(row.get(key))
            if isinstance(step, int) and value is not None:
                line.append((step, value))
    return Curve(stage.label, stage.kind, train, validation) if train else None


def _scores(run: Run, stage: StageRun) -> Iterator[Scores]:
    """By model and set, in the order they first occur."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    judges: dict[str, None] = {}
    for row in stage.rows():
        slim = {key: row.get(key) for key in ("id", "key", "verdicts", "scores")}
        slim["candidates"] = [None] * len(row.get("candidates") or ())
        group = run.plain(str(row.get("model") or "")), str(row.get("source") or "")
        groups.setdefault(group, []).append(slim)
        judges |= {str(verdict.get("judge")): None for verdict in row.get("verdicts") or ()}
    for (model, of), rows in groups.items():
        result = tutor.score_replies(tutor.judged_replies(rows, stage.folder))
        said = run.plain(" + ".join(list(judges)[:3]))
        yield Scores(
            stage.label, model, of, said, str(stage.config.get("rubric", "")),
            estimates(result), result["n"], result["unscored"],
        )  # fmt: skip


def _endings(stage: StageRun) -> Endings | None:
    metrics = (stage.manifest or {}).get("metrics") or {}
    bins = [
        EndBin(float(one["predicted"]), float(one["ended"]), int(one["n"]))
        for one in metrics.get("end_bins") or ()
        if one.get("n")
    ]
    return Endings(stage.label, bins, estimate(metrics.get("end_calibration_error") or {})) if bins else None


def _of_run(run: Run) -> list[Outcome]:
    """Outcomes that the stages' manifests hold, else those of the run's summary."""
    several: list[Outcome] = []
    for stage in run.stages:
        manifest = stage.manifest or {}
        if stage.kind == "play":
            several += _played(manifest)
        elif stage.kind == "eval-dialogue":  # the tutors go by the stages in which they talked
            for part, setting in (("scores", "data"), ("against", "against")):
                name = Path(str(stage.config.get(setting) or stage.label)).name
                several += _outcomes(manifest.get(part) or {}, name)
        else:
            several += _outcomes(manifest, stage.label)
    return several or list(_outcomes(run.summary.get("dialogue") or {}, ""))


def _played(manifest: Mapping[str, Any]) -> Iterator[Outcome]:
    """Every tutor with every student."""
    for tutor_, by in (manifest.get("tutors") or {}).items():
        for student, scores in by.items():
            solved, told, turns = (estimate(scores[name]) for name in ("solved", "told", "turns"))
            if solved.value is not None:
                yield Outcome(tutor_name(tutor_), solved, told, turns, student)


def _outcomes(value: Any, label: str) -> Iterator[Outcome]:
    """Wherever `solved` and `told` stand side by side: one tutor's estimates, or those of base and tuned."""
    if not isinstance(value, Mapping):
        return
    solved, told = value.get("solved"), value.get("told")
    if solved is None or told is None:
        for key, inner in value.items():
            yield from _outcomes(inner, f"{label}, {key}" if label else str(key))
        return
    sides = ("base", "tuned") if isinstance(solved, Mapping) and "value" not in solved else ("",)
    for side in sides:
        three = [_side(value, name, side) for name in ("solved", "told", "turns")]
        if three[0] and three[1]:
            yield Outcome(", ".join(filter(None, (label, side))) or "tutor", three[0], three[1], three[2])


def _side(value: Mapping[str, Any], name: str, side: str) -> Estimate | None:
    """An estimate in any of its shapes: `{"value", "ci", "n"}`, a number with `_ci`, or one side of a comparison."""
    shape = value.get(name)
    n = value.get("n")
    if isinstance(shape, Mapping):
        if not side:
            found = estimate(shape)
        elif isinstance(shape.get(side), Mapping):
            found = estimate(shape[side])
        else:
            count = shape.get("n", n)
            found = Estimate(
                parse_number(shape.get(side)), interval(shape.get(f"{side}_ci")), int(count or 0)
            )
    else:
        found = Estimate(
            parse_number(shape), interval(value.get(f"{name}_ci")), n if isinstance(n, int) else 0
        )
    return found if found.value is not None else None


def _agreement(run: Run, path: Path) -> Agreement | None:
    rows, _ = read_table(path)
    points = []
    for row in rows:
        human, said = row.get("human"), row.get("judge", row.get("gpt4o"))
        people = [_rating(one) for one in (human if isinstance(human, list) else [human])]
        known, judged = [one for one in people if one is not None], _rating(said)
        if known and judged is not None:
            points.append((sum(known) / len(known), judged))
    try:
        result = judge_agreement.score_judge(path)
    except InputError:  # rows that only look like ratings
        return None
    label = run.plain(str(path)) if path.parent != run.folder else path.name
    return Agreement(label, points, result, _yes_no(rows)) if points else None


def _yes_no(rows: Sequence[Mapping[str, Any]]) -> dict[str, Counter[tuple[int, int]]]:
    found: dict[str, Counter[tuple[int, int]]] = {}
    for row in rows:
        person, judged = (
            tutor.parse_criteria(row.get("human")),
            tutor.parse_criteria(row.get("judge", row.get("gpt4o"))),
        )
        if person and judged:
            for name in ("asks_question", "reveals_answer"):
                found.setdefault(name, Counter())[int(person[name]), int(judged[name])] += 1
    return found


def _rating(value: Any) -> float | None:
    """A number, a yes or no, or socratic-llm's evaluation as its summary score."""
    if isinstance(value, Mapping):
        values = tutor.parse_criteria(value)
        return tutor.summary_score(values) if values else None
    plain = parse_number(value)
    return parse_yes_no(value) if plain is None else plain
