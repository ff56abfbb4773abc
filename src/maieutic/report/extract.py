"""Read the data of figures and tables from a run: learning curves, scores, endings, outcomes, agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import InputError, MaieuticError
from maieutic.core.messages import Estimate, Role
from maieutic.core.store import read_json
from maieutic.evals import judge_agreement, text, tutor
from maieutic.evals.files import parse_number, parse_yes_no, read_table
from maieutic.report.collect import Run, StageRun
from maieutic.report.estimates import estimate, interval, score_estimates

_CONTROLS = {"control-silent": "no tutor", "control-telling": "tutor that tells"}


class LearningCurve(NamedTuple):
    """The losses of a training run."""

    label: str
    method: str
    train: list[tuple[int, float]]
    """Step and loss."""
    validation: list[tuple[int, float]]


class Scores(NamedTuple):
    """A model's judged replies on one data set."""

    label: str
    model: str
    set: str
    judge: str
    rubric: str
    values: dict[str, Estimate]
    """`summary_score` and the criteria that the rubric has."""
    n: int
    unscored: int


class TurnCounts(NamedTuple):
    """The human side of a corpus: how long its turns are, and how many a conversation has."""

    label: str
    people: bool
    """Whether real people wrote it."""
    lengths: list[int]
    """Words of each human turn."""
    counts: list[int]
    """Human turns of each conversation."""


class EndBin(NamedTuple):
    """A bin of human openings: the simulator predicted END with about the same probability."""

    predicted: float
    """The mean predicted probability."""
    ended: float
    """The share of people who ended the conversation there."""
    n: int


class EndCalibration(NamedTuple):
    """How well a simulator's probability of END fits people."""

    label: str
    bins: list[EndBin]
    error: Estimate


class Outcome(NamedTuple):
    """Outcomes of the dialogues of one tutor with students."""

    label: str
    solved: Estimate
    told: Estimate
    turns: Estimate | None
    student: str = ""
    """The student, where each tutor talked with several."""


class Agreement(NamedTuple):
    """Ratings of the same texts by people and by a judge."""

    label: str
    points: list[tuple[float, float]]
    """The human rating and the judge's rating."""
    result: dict[str, Any]
    """As `eval judge score` prints it."""
    yes_no: dict[str, Counter[tuple[int, int]]]
    """By yes/no criterion of socratic-llm: how many texts have which (human, judge) pair of no (0) and yes (1)."""


class RubricValidity(NamedTuple):
    """How often students solved the problem after replies with a given rubric score."""

    label: str
    points: list[tuple[float, float, int]]
    """Rubric score, mean outcome, and number of replies."""
    within: Mapping[str, Any]
    """Pearson's r among the replies of one dialogue, as an estimate."""


class TutorGrid(NamedTuple):
    """A finished grid stage: every tutor on every test set."""

    label: str
    tests: list[str]
    tutors: list[str]
    shown: str
    """The tuned tutor that the figures show."""
    cells: dict[tuple[str, str], dict[str, Any]]
    """By test set and tutor, as `evals.grid` writes them."""
    leakage: dict[str, dict[str, Any]]

    @property
    def figure_tutors(self) -> list[str]:
        """The base, the prompted tutors and the shown tuned tutor."""
        return [
            name
            for name in self.tutors
            if name == self.shown or self.cells[self.tests[0], name]["trained_on"] is None
        ]

    def estimate(self, test: str, tutor_name: str, part: str, name: str = "summary_score") -> Estimate:
        """A number of a cell; null where nothing was scored."""
        result = self.cells[test, tutor_name][part]
        reason = (result.get("reasons") or {}).get(name)
        return score_estimates(result).get(name, Estimate(None, None, 0, reason))


class ReportData(NamedTuple):
    """All data of the figures and tables; a field is empty if the runs have no data for it."""

    curves: list[LearningCurve]
    scores: list[Scores]
    turn_counts: list[TurnCounts]
    endings: list[EndCalibration]
    outcomes: list[Outcome]
    agreements: list[Agreement]
    grids: list[TutorGrid]
    rubrics: list[RubricValidity]


def extract(runs: Sequence[Run]) -> ReportData:
    """Read the data of the runs."""
    stages = [(run, stage) for run in runs for stage in run.stages]
    return ReportData(
        curves=[
            c for _, stage in stages if stage.kind in ("train sft", "train dpo") and (c := _curve(stage))
        ],
        scores=[s for run, stage in stages if stage.kind == "judge" for s in _scores(run, stage)],
        turn_counts=[counts for run in runs for counts in _turn_counts(run)],
        endings=[e for _, stage in stages if stage.kind == "eval simulator" and (e := _calibration(stage))],
        outcomes=[o for run in runs for o in _run_outcomes(run)],
        agreements=[a for run in runs for path in run.ratings if (a := _agreement(run, path))],
        grids=[
            _grid(stage)
            for _, stage in stages
            if stage.kind == "eval tutor grid" and stage.manifest is not None
        ],
        rubrics=[v for _, stage in stages if stage.kind == "rewards" and (v := _rubric_validity(stage))],
    )


def tutor_name(name: str) -> str:
    """A tutor's name as the page shows it."""
    return _CONTROLS.get(name, name).replace("from_finetuned_with_", "tuned on ")


def _curve(stage: StageRun) -> LearningCurve | None:
    train: list[tuple[int, float]] = []
    validation: list[tuple[int, float]] = []
    for row in stage.rows():
        for key, line in (("loss", train), ("eval_loss", validation)):
            step, value = row.get("step"), parse_number(row.get(key))
            if isinstance(step, int) and value is not None:
                line.append((step, value))
    return LearningCurve(stage.label, stage.kind, train, validation) if train else None


def _scores(run: Run, stage: StageRun) -> Iterator[Scores]:
    """Scores by model and data set, in the order of their first rows."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    judges: dict[str, None] = {}
    for row in stage.rows():
        slim = {key: row.get(key) for key in ("id", "key", "verdicts", "scores")}
        slim["candidates"] = [None] * len(row.get("candidates") or ())
        group = run.relative(str(row.get("model") or "")), str(row.get("source") or "")
        groups.setdefault(group, []).append(slim)
        judges |= {str(verdict.get("judge")): None for verdict in row.get("verdicts") or ()}
    for (model, data_set), rows in groups.items():
        result = tutor.score_replies(tutor.judged_replies(rows, stage.folder))
        names = run.relative(" + ".join(list(judges)[:3]))
        yield Scores(
            stage.label, model, data_set, names, str(stage.config.get("rubric", "")),
            score_estimates(result), result["n"], result["unscored"],
        )  # fmt: skip


def _turn_counts(run: Run) -> list[TurnCounts]:
    """The corpora that an evaluation compared; without an evaluation, every simulation of the run."""
    found: dict[Path, TurnCounts | None] = {}
    for setting in ("people", "simulated"):
        for stage in run.stages:
            path = run.locate(stage, setting) if stage.kind == "eval simulator" else None
            if path is not None and path not in found:
                found[path] = _corpus_counts(run, path, setting == "people")
    compared = [counts for counts in found.values() if counts is not None]
    if any(not counts.people for counts in compared):
        return compared
    simulated = []
    for stage in run.stages:
        if stage.kind == "simulate":
            dialogues = (row.get("messages") or () for row in stage.rows() if "failure" not in row)
            human = ([m["content"] for m in talk if m.get("role") == Role.USER] for talk in dialogues)
            simulated.append(_counted(stage.label, False, human))
    return compared + [counts for counts in simulated if counts is not None]


def _corpus_counts(run: Run, path: Path, people: bool) -> TurnCounts | None:
    from maieutic.core.json_rows import BadRows
    from maieutic.data.corpus import read_corpus

    name = run.relative(str(path))
    label = f"{'people' if people else 'simulated'}, {path.name if Path(name).is_absolute() else name}"
    try:
        human = (talk.turns(Role.USER) for talk in read_corpus(path, on_bad=BadRows()))
        return _counted(label, people, human)
    except MaieuticError:  # the file has changed since; the evaluation still holds its numbers
        return None


def _counted(label: str, people: bool, conversations: Iterable[Sequence[str]]) -> TurnCounts | None:
    lengths: list[int] = []
    counts: list[int] = []
    for turns in conversations:
        lengths += [len(text.words(turn)) for turn in turns]
        counts.append(len(turns))
    return TurnCounts(label, people, lengths, counts) if lengths else None


def _calibration(stage: StageRun) -> EndCalibration | None:
    metrics = stage.result.get("metrics") or {}
    bins = [
        EndBin(float(one["predicted"]), float(one["ended"]), int(one["n"]))
        for one in metrics.get("end_bins") or ()
        if one.get("n")
    ]
    error = estimate(metrics.get("end_calibration_error") or {})
    return EndCalibration(stage.label, bins, error) if bins else None


def _run_outcomes(run: Run) -> list[Outcome]:
    """Outcomes in the stages' manifests, else those in the run's summary."""
    found: list[Outcome] = []
    for stage in run.stages:
        if stage.kind == "eval dialogue run":
            found += _play_outcomes(stage.result)
        elif stage.kind == "eval dialogue score":  # a tutor is named after the stage with its dialogues
            for part, setting in (("scores", "data"), ("against", "against")):
                name = Path(str(stage.config.get(setting) or stage.label)).name
                found += _outcomes(stage.result.get(part) or {}, name)
        else:
            found += _outcomes(stage.result, stage.label)
    return found or list(_outcomes(run.summary.get("dialogue") or {}, ""))


def _play_outcomes(manifest: Mapping[str, Any]) -> Iterator[Outcome]:
    """Every tutor with every student."""
    for name, by_student in (manifest.get("tutors") or {}).items():
        for student, scores in by_student.items():
            solved, told, turns = (estimate(scores[measure]) for measure in ("solved", "told", "turns"))
            if solved.value is not None:
                yield Outcome(tutor_name(name), solved, told, turns, student)


def _outcomes(value: Any, label: str) -> Iterator[Outcome]:
    """Outcomes wherever a mapping has both `solved` and `told`: of one tutor, or of base and tuned."""
    if not isinstance(value, Mapping):
        return
    solved, told = value.get("solved"), value.get("told")
    if solved is None or told is None:
        for key, inner in value.items():
            yield from _outcomes(inner, f"{label}, {key}" if label else str(key))
        return
    sides = ("base", "tuned") if isinstance(solved, Mapping) and "value" not in solved else ("",)
    for side in sides:
        ours, theirs, turns = (_outcome_estimate(value, name, side) for name in ("solved", "told", "turns"))
        if ours and theirs:
            yield Outcome(", ".join(filter(None, (label, side))) or "tutor", ours, theirs, turns)


def _outcome_estimate(value: Mapping[str, Any], name: str, side: str) -> Estimate | None:
    """An estimate from `{"value", "ci", "n"}`, from a number with `_ci`, or from one side of a comparison."""
    shape, n = value.get(name), value.get("n")
    if not isinstance(shape, Mapping):
        found = Estimate(
            parse_number(shape), interval(value.get(f"{name}_ci")), n if isinstance(n, int) else 0
        )
    elif not side:
        found = estimate(shape)
    elif isinstance(shape.get(side), Mapping):
        found = estimate(shape[side])
    else:
        count = int(shape.get("n", n) or 0)
        found = Estimate(parse_number(shape.get(side)), interval(shape.get(f"{side}_ci")), count)
    return found if found.value is not None else None


def _agreement(run: Run, path: Path) -> Agreement | None:
    rows, _ = read_table(path)
    points = []
    pairs: dict[str, Counter[tuple[int, int]]] = {}
    for row in rows:
        human, judged = row.get("human"), row.get("judge", row.get("gpt4o"))
        ratings = [_rating(one) for one in (human if isinstance(human, list) else [human])]
        known, rating = [one for one in ratings if one is not None], _rating(judged)
        if known and rating is not None:
            points.append((sum(known) / len(known), rating))
        ours, theirs = tutor.parse_criteria(human), tutor.parse_criteria(judged)
        if ours and theirs:
            for name in ("asks_question", "reveals_answer"):
                pairs.setdefault(name, Counter())[int(ours[name]), int(theirs[name])] += 1
    try:
        result = judge_agreement.score_judge(path)
    except InputError:  # the rows only look like ratings
        return None
    label = run.relative(str(path)) if path.parent != run.folder else path.name
    return Agreement(label, points, result, pairs) if points else None


def _rating(value: Any) -> float | None:
    """A number, a yes or no, or the summary score of a socratic-llm evaluation."""
    if isinstance(value, Mapping):
        values = tutor.parse_criteria(value)
        return tutor.summary_score(values) if values else None
    plain = parse_number(value)
    return parse_yes_no(value) if plain is None else plain


def _grid(stage: StageRun) -> TutorGrid:
    found = read_json(stage.folder / "grid.json")
    cells = {(cell["test"], cell["tutor"]): cell for cell in found["cells"]}
    tutors = [one["name"] for one in found["tutors"]]
    shown = next((one["name"] for one in found["tutors"] if one["trained_on"] == found["shown"]), tutors[-1])
    return TutorGrid(stage.label, found["tests"], tutors, shown, cells, found["leakage"])


def _rubric_validity(stage: StageRun) -> RubricValidity | None:
    """The mean outcome by rubric score; equal replies to a dialogue count once."""
    sums: dict[float, tuple[float, int]] = {}
    for row in stage.rows():
        replies = zip(row["candidates"], row["rubric_scores"], row["outcomes"], strict=True)
        distinct = {
            str(candidate["text"]): (round(float(rubric), 2), float(outcome))
            for candidate, rubric, outcome in replies
            if rubric is not None and outcome is not None
        }
        for rubric, outcome in distinct.values():
            total, n = sums.get(rubric, (0.0, 0))
            sums[rubric] = (total + outcome, n + 1)
    points = [(rubric, total / n, n) for rubric, (total, n) in sorted(sums.items())]
    return RubricValidity(stage.label, points, stage.result.get("within") or {}) if points else None
