"""The steps that measure a simulator, a tutor, a judge, or whole dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError

from maieutic.core.console import note, say, table
from maieutic.core.costs import Cost, Flow
from maieutic.core.errors import InputError
from maieutic.core.messages import Record
from maieutic.core.settings import LocalModel, Requests
from maieutic.core.step import Result, Step
from maieutic.evals.printing import Measurements, interval_text, words

CRITERIA = ("summary_score", "asks_question", "on_topic", "helpful", "reveals_answer")


class SimulatorMetrics(Measurements):
    """The metrics of a simulator, next to those of people and of baselines."""

    def manifest(self) -> dict[str, Any]:
        return {"metrics": self.values}

    def show(self) -> None:
        metrics = {name: m for name, m in self.values.items() if isinstance(m, dict)}
        rows = [
            (words(name), m["value"], interval_text(m["ci"]), m["n"], m["human"])
            for name, m in metrics.items()
        ]
        table("the simulator and people", ("", "value", "95 %", "n", "people"), rows)
        if based := list(dict.fromkeys(name for m in metrics.values() for name in m.get("baselines", ()))):
            others = [
                (words(name), *(m.get("baselines", {}).get(base, {}).get("value") for base in based))
                for name, m in metrics.items()
            ]
            table("the baselines", ("", *based), others)
        differences = [
            (words(name), d["difference"], interval_text(d["ci"]), d["n"])
            for name, m in metrics.items()
            if (d := m.get("difference"))
        ]
        if differences:
            table(
                "simulator minus baseline, on the same people", ("", "difference", "95 %", "n"), differences
            )
        reasons: dict[str, list[str]] = {}
        for name, m in metrics.items():
            if m.get("reason"):
                reasons.setdefault(m["reason"], []).append(name)
        for reason, names in reasons.items():
            note(f"without a value or an interval: {', '.join(names)} ({reason})")


class EvalSimulator(Step):
    """Compare a user simulator with people: every metric next to people's and a baseline's."""

    command: ClassVar = "eval simulator"
    shown: ClassVar = (
        "model",
        "simulated",
        "baselines",
        "judge",
        "embedder",
        "local.template",
        "local.system",
    )
    flags: ClassVar = {"baselines": "--baseline"}
    examples: ClassVar = (
        "maieutic eval simulator --model hf/out/user --people test.jsonl --simulated RUN/simulate",
    )
    writes: ClassVar = "result"
    outputs: ClassVar = ("metrics.json",)

    people: Path = Field(description="Held-out conversations of people: a corpus.")
    model: str | None = Field(None, description="The simulator, hf/PATH_OR_ID: for perplexity and END.")
    simulated: Path | None = Field(
        None, description="Conversations that the simulator wrote: a run or a corpus."
    )
    baselines: list[str] = Field(
        default_factory=list, description="[NAME=]MODEL, run or corpus to compare with; may be repeated."
    )
    judge: str | None = Field(None, description="MODEL that judges adherence and the quality of questions.")
    embedder: str | None = Field(
        None, description="sentence-transformers model for topics; default: character n-grams."
    )
    local: LocalModel = LocalModel()
    requests: Requests = Requests()

    def run(self, out: Path | str = "") -> SimulatorMetrics:
        from maieutic.evals.simulator import run_eval_simulator

        return SimulatorMetrics(values=run_eval_simulator(self))

    def models(self) -> list[str]:
        from maieutic.evals.simulator import is_model, split_name

        names = (self.model, self.judge, *(split_name(each)[1] for each in self.baselines))
        return [name for name in names if name and is_model(name)]

    def describe(self) -> str:
        return "compare the simulator with people"

    def expect(self, out: Path, flow: Flow) -> Cost:
        return Cost(None, None, flow.memory(self.models()))


class TutorScores(Measurements):
    """Mean scores of a tutor's replies; with another tutor, its scores (`against`) and the paired `difference`."""

    source: str

    def manifest(self) -> dict[str, Any]:
        others = {name: of for name, of in self.values.items() if name in ("against", "difference")}
        return {"scores": {name: of for name, of in self.values.items() if name not in others}, **others}

    def show(self) -> None:
        values = self.values
        say(f"{self.source}: {values['n']} scored replies, {values['unscored']} unscored")
        rows = [(name, values[name], interval_text(values[f"{name}_ci"])) for name in CRITERIA]
        rows += [
            (name, of["value"], interval_text(of["ci"])) for name, of in values.get("criteria", {}).items()
        ]
        table("", ("", "mean", "95 %"), rows)
        if "difference" in values:
            _show_paired(values["difference"])


def _show_paired(result: Mapping[str, Any]) -> None:
    rows = [
        (name, m["a"], m["b"], m["difference"], interval_text(m["ci"]), m["n"], m["p_holm"])
        for name, m in result["metrics"].items()
    ]
    table("", ("", "A", "B", "difference", "95 %", "n", "p (Holm)"), rows)


class ComparisonScores(Measurements):
    """Win rate of one tutor over another, and the judges' position bias; see `evals.tutor.score_comparisons`."""

    source: str

    def show(self) -> None:
        of = self.values
        say(
            f"{self.source}: A won {of['win']}, lost {of['loss']}, tied {of['tie']}; {of['unscored']} unscored"
        )
        shapes = [("win rate of A", of["win_rate"])]
        judges = of["judges"] if len(of["judges"]) > 1 else {}
        for name, by in (("all judges", of), *judges.items()):
            shapes += [
                (f"{name}: share of games won by the reply shown first", by["position_bias"]),
                (f"{name}: votes in which the two games differ", by["inconsistent"]),
            ]
        table(
            "", ("", "value", "95 %", "n"),
            [(name, s["value"], interval_text(s["ci"]), s["n"]) for name, s in shapes],
        )  # fmt: skip


class EvalTutorScore(Step):
    """Average recorded verdicts on a tutor's replies; no model is asked.

    For recorded comparisons (`eval tutor pairwise`): the win rate of A, and the position bias of the judges.
    """

    command: ClassVar = "eval tutor score"
    arguments: ClassVar = ("data",)
    examples: ClassVar = (
        "maieutic eval tutor score evaluation/mathdial/base.json",
        "maieutic eval tutor score runs/tuned-base",
    )
    writes: ClassVar = "result"
    outputs: ClassVar = ("scores.json",)

    data: Path = Field(description="An evaluation file, or the folder of a judge or pairwise step.")
    rater: str | None = Field(
        None, description="The rater whose evaluations to use, if the file has several raters."
    )
    against: Path | None = Field(
        None, description="The same for another tutor on the same dialogues; adds the paired difference."
    )

    def run(self, out: Path | str = "") -> Measurements:
        from maieutic.evals.paired import compare_files
        from maieutic.evals.tutor import has_comparisons, score_comparisons, score_tutor

        if has_comparisons(self.data):
            return ComparisonScores(source=str(self.data), values=score_comparisons(self.data))
        values = score_tutor(self.data, self.rater)
        if self.against:
            values |= {
                "against": score_tutor(self.against, self.rater),
                "difference": compare_files(self.data, self.against),
            }
        return TutorScores(source=str(self.data), values=values)

    def describe(self) -> str:
        return "score the tutor" + (" and compare it with another" if self.against else "")


class GridScores(Measurements):
    """Every test set with every tutor; see `evals.tutor_grid`."""

    def show(self) -> None:
        rows = [
            (
                f"{cell['test']}, {cell['tutor']}",
                *(cell[part]["summary_score"] for part in ("published", "clean")),
                cell["clean"]["n"],
            )
            for cell in self.values["cells"]
        ]
        table("mean summary score", ("", "published", "clean", "clean items"), rows)


class EvalTutorGrid(Step):
    """Score every tutor on every test set, as published and on clean items, and compare it with the base."""

    command: ClassVar = "eval tutor grid"
    examples: ClassVar = (
        "maieutic eval tutor grid --set a --set b --base a-base --base b-base --tuned a-from-a --tuned a-from-b "
        "--tuned b-from-a --tuned b-from-b --leaks a/leaks.json --leaks b/leaks.json",
    )
    flags: ClassVar = {"sets": "--set", "others": "--other"}
    writes: ClassVar = "result"
    outputs: ClassVar = ("grid.json",)

    sets: list[str] = Field(description="Test sets; each is also the set that one tutor was trained on.")
    base: list[Path] = Field(description="Judged replies of the base model: one file per test set.")
    tuned: list[Path] = Field(
        description="Judged replies of the tuned tutors: for each test set, one file per training set."
    )
    leaks: list[Path] = Field(
        description="For each training set, its leaks.json: the test items that it contains."
    )
    others: list[str] = Field(default_factory=list, description="Names of tutors that were only prompted.")
    beside: list[Path] = Field(
        default_factory=list,
        description="Judged replies of the prompted tutors (`others`): for each test set, one file per tutor.",
    )
    highlighted: str | None = Field(
        None, description="Figures show the tutor trained on this set; default: the first set."
    )

    def run(self, out: Path | str = "") -> GridScores:
        from maieutic.evals.tutor_grid import BASE, GridCell, GridTutor, score_grid

        base, beside, tuned = iter(self.base), iter(self.beside), iter(self.tuned)
        cells = [
            cell
            for test in self.sets
            for cell in (
                GridCell(test, GridTutor(BASE, None), next(base)),
                *(GridCell(test, GridTutor(name, None), next(beside)) for name in self.others),
                *(
                    GridCell(test, GridTutor(f"from_finetuned_with_{name}", name), next(tuned))
                    for name in self.sets
                ),
            )
        ]
        found = score_grid(cells, dict(zip(self.sets, self.leaks, strict=True)))
        shown = self.highlighted if self.highlighted in self.sets else self.sets[0]
        return GridScores(values={"shown": shown, **found})

    def check(self) -> None:
        sets, others = len(self.sets), len(self.others)
        counts = (len(self.base), len(self.beside), len(self.tuned), len(self.leaks))
        if not sets or counts != (sets, sets * others, sets * sets, sets):
            raise InputError(
                f"{sets} sets and {others} others need {sets}, {sets * others}, {sets * sets} and {sets} files for "
                f"base, beside, tuned and leaks, not {', '.join(map(str, counts))}",
                "Give, for each test set, the replies of the base and of every other tutor, and the leaks.",
            )

    def describe(self) -> str:
        return f"tutors by test sets: {1 + len(self.others) + len(self.sets)} × {len(self.sets)}"


class JudgeAgreement(Measurements):
    """Agreement of a judge with people, next to that of trivial rules."""

    source: str
    gated: bool = False

    def manifest(self) -> dict[str, Any]:
        return {"agreement": self.values}

    def exit_code(self) -> int:
        return int(self.gated and not self.values["gate"]["passed"])

    def remarks(self) -> list[str]:
        reason = (
            self.values["gate"].get("reason") or "the interval of the difference in Pearson is not above zero"
        )
        failed = [f"the judge does not beat the baselines: {reason}"] if self.exit_code() else []
        return [*super().remarks(), *failed]

    def show(self) -> None:
        values, baselines = self.values, self.values["baselines"]
        say(f"{self.source}: {values['n']} rated rows, {values['unscored']} unscored")
        rows = [
            (
                name,
                of["value"],
                interval_text(of["ci"]),
                *(rule.get(name, {}).get("value") for rule in baselines.values()),
            )
            for name, of in values.items()
            if isinstance(of, dict) and "ci" in of
        ]
        table("", ("", "judge", "95 %", *map(words, baselines)), rows)
        say(f"beats every baseline: {'yes' if values['gate']['passed'] else 'no'}")


class EvalJudgeScore(Step):
    """Measure the agreement of a judge with people, and of trivial rules with people."""

    command: ClassVar = "eval judge score"
    examples: ClassVar = ("maieutic eval judge score --pairs pairs.json --gate",)
    writes: ClassVar = "result"
    outputs: ClassVar = ("human_vs_gpt.json",)

    pairs: Path = Field(
        description='JSON or JSONL rows {"human", "judge", "text"?}, or a judge step over `eval judge rated`.'
    )
    gate: bool = Field(False, description="Exit with status 1 if the judge does not beat the baselines.")

    def run(self, out: Path | str = "") -> JudgeAgreement:
        from maieutic.evals.judge_agreement import score_judge

        return JudgeAgreement(source=str(self.pairs), gated=self.gate, values=score_judge(self.pairs))

    def run_stage(self, folder: Path) -> None:
        """Score the judge; if the pairs come from a judge step, also write them in socratic-llm's form."""
        from maieutic.core.store import Stage, write_json
        from maieutic.evals.judge_agreement import human_and_judge

        with Stage(folder, self.settings(folder.parent)) as stage:
            if self.pairs.is_dir():
                write_json(folder / self.outputs[0], human_and_judge(self.pairs))
            stage.finish(self.run().manifest())

    def describe(self) -> str:
        return "compare the judge with people"


class RatedReplies(Result):
    """How many replies were written."""

    replies: int


class EvalJudgeRated(Step):
    """Turn replies that people rated into candidates, so that a judge can rate the same replies."""

    command: ClassVar = "eval judge rated"
    arguments: ClassVar = ("data",)
    examples: ClassVar = ("maieutic eval judge rated human_eval.json --out rated.jsonl",)
    writes: ClassVar = "file"
    outputs: ClassVar = ("rated.jsonl",)

    data: Path = Field(description="socratic-llm's rows: `prompt`, `output`, and `human` or `evaluation`.")
    force: bool = Field(False, description="Replace the file.")

    def run(self, out: Path | str) -> RatedReplies:
        import orjson

        from maieutic.data.corpus import replacing
        from maieutic.evals.judge_agreement import rated_replies

        count = 0
        with replacing(Path(out), overwrite=self.force) as write:
            for row in rated_replies(self.data):
                write(orjson.dumps(row.model_dump(mode="json")) + b"\n")
                count += 1
        return RatedReplies(run=str(out), replies=count)

    def describe(self) -> str:
        return "replies that people rated"

    def expect(self, out: Path, flow: Flow) -> Cost:
        if size := flow.size(self.data):
            flow.put(out / "rated.jsonl", size._replace(replies=1))
        return Cost()


class PairedComparison(Measurements):
    """The difference of two models on the same items, and how many items a difference needs."""

    title: str

    def show(self) -> None:
        if "metrics" in self.values:
            say(self.title)
            _show_paired(self.values)
        if plan := self.values.get("plan"):
            say(
                f"{plan['items']} items show a difference of {plan['difference']:g} (sd {plan['sd']:g}) "
                f"with power {plan['power']:g} at {plan['alpha']:g}"
            )


class EvalPaired(Step):
    """Compare two models on the same items: A - B, its interval and n; or plan how many items a comparison needs.

    With --difference, the result also says how many items show that difference (normal approximation).
    """

    command: ClassVar = "eval paired"
    arguments: ClassVar = ("a", "b")
    examples: ClassVar = (
        "maieutic eval paired tuned.json base.json",
        "maieutic eval paired --difference 0.05 --sd 0.3",
    )
    writes: ClassVar = "result"
    outputs: ClassVar = ("paired.json",)

    a: Path | None = Field(None, description="Evaluations, annotations or judgments of one model.")
    b: Path | None = Field(None, description="A file of the same kind, of the other model.")
    model_a: str | None = Field(
        None, description="The model to use from file A, if the file has several models."
    )
    model_b: str | None = Field(
        None, description="The model to use from file B, if the file has several models."
    )
    difference: float | None = Field(None, description="The smallest difference to detect.")
    sd: float = Field(0.5, description="Standard deviation of the paired differences.")
    power: float = Field(0.8, description="Probability of detecting the difference.")
    alpha: float = Field(0.05, description="Two-sided level of the test.")

    def run(self, out: Path | str = "") -> PairedComparison:
        from maieutic.core import statistics
        from maieutic.evals.paired import compare_files

        values: dict[str, Any] = {}
        if self.a and self.b:
            values = compare_files(self.a, self.b, self.model_a, self.model_b)
        if self.difference is not None:
            plan = statistics.plan(self.difference, self.sd, self.power, self.alpha)._asdict()
            values["plan"] = {"difference": self.difference, **plan}
        return PairedComparison(title=f"{self.a} - {self.b}", values=values)

    def check(self) -> None:
        if (self.a is None) != (self.b is None) or (self.a is None and self.difference is None):
            raise InputError("B is missing" if self.a else "A is missing", "Give two files, or --difference.")

    def describe(self) -> str:
        return "compare two models on the same items"


class Arm(Record):
    """One trained assistant: its training data and its scored answers."""

    corpus: str
    size: int = Field(ge=1)
    """The number of conversations it was trained on."""
    model: str
    """The base model."""
    seed: int = 0
    """Training seed."""
    judged: Path
    """Its scored answers: FastChat judgments, or AlpacaEval annotations."""
    name: str | None = None
    """Its model name in that file, if the file has several models."""
    data: Path | None = None
    """The conversations it was trained on; null: no metrics of the corpus."""


def read_arms(path: Path) -> list[Arm]:
    """The arms of a JSON or JSONL file; paths in it are relative to its folder.

    Raises:
        MissingInput, EmptyCorpus, InputError: the file or one of its rows cannot be used.
    """
    from maieutic.evals.files import read_table

    arms = []
    for number, row in enumerate(read_table(path).rows, 1):
        try:
            arm = Arm.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(
                f"{path}, row {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
                f"The keys of a row are {', '.join(Arm.model_fields)}.",
            ) from None
        paths = {"judged": path.parent / arm.judged, "data": path.parent / arm.data if arm.data else None}
        arms.append(arm.model_copy(update=paths))
    return arms
