"""The steps that let tutors talk with students, and that score whole dialogues."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field

from maieutic.core.budget import Budget
from maieutic.core.console import say, table
from maieutic.core.costs import Ask, Cost, Flow, Size, taking_turns
from maieutic.core.errors import InputError, RecipeError
from maieutic.core.messages import Sampling
from maieutic.core.settings import LocalModel, PromptName, Requests
from maieutic.core.step import Step
from maieutic.evals.printing import Measurements, interval_text, words
from maieutic.rollouts.steps import Continuations, Simulate


def parse_named_models(texts: Sequence[str]) -> dict[str, str]:
    """MODELs by name, from texts `[NAME=]MODEL`; without a name, the last part of the MODEL is the name.

    Raises:
        InputError: a name occurs twice, or has characters other than letters, digits, `_`, `.` and `-`.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            name, spec = re.sub(r"[^\w.-]+", "-", Path(text.rpartition("#")[2]).stem), text
        if name in found or not _NAME.fullmatch(name):
            raise InputError(f"{text}: needs a unique name", "Write NAME=MODEL, each NAME once.")
        found[name] = spec
    return found


def _by_name(value: Any) -> Any:
    return parse_named_models(value) if isinstance(value, (list, tuple)) else value


def _split_names(value: Any) -> Any:
    return (
        [name.strip() for part in value for name in part.split(",")]
        if isinstance(value, (list, tuple))
        else value
    )


NamedModels = Annotated[list[str] | dict[str, str], BeforeValidator(_by_name)]
"""MODELs by name, or texts `[NAME=]MODEL`."""
_NAME = re.compile(r"[\w.-]+")
_SUMMARY = ("solved", "told", "collapse", "over_refusal", "delta_solve", "turns")


class DialogueRunResult(Measurements):
    """The scores of every tutor with every student, and their paired differences."""

    def manifest(self) -> dict[str, Any]:
        return self.values

    def show(self) -> None:
        values = self.values
        for student in values["models"]["students"]:
            sides = {name: by[student] for name, by in values["tutors"].items()}
            rows = [(words(metric), *(_short(of[metric]) for of in sides.values())) for metric in _SUMMARY]
            for label, criterion in (("1st reply asks", "asks_question"), ("1st reveals", "reveals_answer")):
                shares = [(of["single"] or {}).get(criterion) for of in sides.values()]
                rows.append((label, *("–" if share is None else f"{share:.2f}" for share in shares)))
            rows.append(("dialogues", *(str(of["dialogues"]) for of in sides.values())))
            rows.append(("lost", *(str(sum(of["lost"].values())) for of in sides.values())))
            table(f"with {student}", ("", *sides), rows)
        for pair in values["differences"]:
            if {pair["a"], pair["b"]}.isdisjoint(values["controls"]):
                title = f"{pair['a']} - {pair['b']}, with {pair['student']}, on the same starts"
                _show_differences(title, {name: m for name, m in pair["metrics"].items() if name in _SUMMARY})
        say(
            f"{values['replies']} replies, {values['tokens']} tokens in this call; {values['run']}/dialogues.json"
        )


def _short(shape: Mapping[str, Any]) -> str:
    """A value with its interval, short enough for a table of several tutors."""
    if shape["value"] is None:
        return "–"
    ends = [f"{end:.2f}".replace("0.", ".", 1) if abs(end) < 1 else f"{end:.2f}" for end in shape["ci"] or ()]
    return f"{shape['value']:.2f}" + (f" ({'–'.join(ends)})" if ends else "")


def _show_differences(title: str, metrics: Mapping[str, Any]) -> None:
    rows = [
        (words(name), m["a"], m["b"], m["difference"], interval_text(m["ci"]), m["n"], m["p_holm"])
        for name, m in metrics.items()
    ]
    table(title, ("", "a", "b", "difference", "95 %", "starts", "p (Holm)"), rows)


def _refuse_training_students(students: Iterable[str], steps: Mapping[str, Any]) -> None:
    """Refuse a student that helped to make the preference pairs: the tutor may have adapted to this student."""
    used = {step.student for step in steps.values() if isinstance(step, Continuations)}
    if both := [student for student in students if student in used]:
        raise RecipeError(
            f"the student {both[0]} made the preference pairs (stage `continuations`) and would evaluate the tutor too",
            "Evaluate with a student trained on other people with another seed, a scripted or a prompted student.",
        )


class EvalDialogueRun(Step):
    """Simulate dialogues of every tutor with every student, test the students before and after, and score all.

    Two controls run as well: a silent tutor, and a tutor that tells the answer.
    """

    command: ClassVar = "eval dialogue run"
    flags: ClassVar = {"tutors": "--tutor", "students": "--student"}
    shown: ClassVar = (
        "kinds", "rounds", "answers", "tutor_prompt", "sampling.temperature", "sampling.max_tokens", "seed",
        "requests.concurrency", "run_code",
    )  # fmt: skip
    examples: ClassVar = (
        "maieutic eval dialogue run --tutor tuned=hf/runs/dpo --tutor base=hf/BASE --student student/cooperative "
        "--problems problems.jsonl --out runs/compared",
    )
    outputs: ClassVar = ("dialogues.json",)

    tutors: NamedModels = Field(min_length=1, description="[NAME=]MODEL that tutors; may be repeated.")
    students: NamedModels = Field(min_length=1, description="[NAME=]MODEL of a student; may be repeated.")
    problems: Path = Field(description="Corpus of conversation starts whose problems have known answers.")
    kinds: Annotated[list[str], BeforeValidator(_split_names)] = Field(
        default_factory=list,
        description="Kinds of students: names or .yaml files, separated by commas. Every start is run with each kind.",
    )
    answers: int = Field(
        8,
        ge=0,
        description="Attempts of the student alone at each problem, before and after each dialogue; 0: no test.",
    )
    answer_prompt: str = Field("attempt", description="Prompt that asks for an answer: a name or a .md file.")
    rounds: int = Field(6, ge=1, description="Maximum rounds per dialogue.")
    repeat: int = Field(1, ge=1, description="Dialogues for each start.")
    seed_turns: int | None = Field(None, ge=0, description="Keep only the first N turns of each start.")
    user_mode: Literal["trained", "prompted"] | None = Field(
        None, description="How student models are prompted; default: as the checkpoint's settings say."
    )
    tutor_prompt: PromptName = Field(
        "tutor_socratic", description="System prompt of the tutors: a name, a .md file, or none."
    )
    show_solution: bool = Field(False, description="Give the tutors the solution and the known answer too.")
    guards: str = Field("empty", description="default, none, or a list such as empty,repeat.")
    run_code: bool = Field(
        False, description="Run students' programs in a sandbox against the problems' unit tests."
    )
    seed: int = Field(0, description="Random seed.")
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=400)
    student_sampling: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    requests: Requests = Requests(concurrency=64)
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def run(self, out: Path | str) -> DialogueRunResult:
        from maieutic.evals.dialogue_run import run_dialogues

        return DialogueRunResult(run=str(out), values=run_dialogues(self, Path(out)))

    def run_stage(self, folder: Path) -> None:
        from maieutic.core.store import Stage

        with Stage(folder, self.settings(folder.parent)) as stage:
            stage.finish(self.run(folder).manifest())

    @property
    def named_tutors(self) -> dict[str, str]:
        """The tutors by name."""
        return cast("dict[str, str]", self.tutors)

    @property
    def named_students(self) -> dict[str, str]:
        """The students by name."""
        return cast("dict[str, str]", self.students)

    def check(self) -> None:
        from maieutic.core import prompts
        from maieutic.models.student import load_kind
        from maieutic.rollouts.guards import parse

        parse(self.guards)
        for kind in self.kinds:
            load_kind(kind)
        for name in (self.answer_prompt, self.tutor_prompt):
            if name and not name.endswith(".md"):
                prompts.load(name)

    def inputs(self) -> list[Path]:
        """The prompts' files are inputs too: an earlier stage may write one."""
        prompts = (self.answer_prompt, self.tutor_prompt)
        return [*super().inputs(), *(Path(name) for name in prompts if name and name.endswith(".md"))]

    def check_among(self, steps: Mapping[str, Step]) -> None:
        _refuse_training_students(self.named_students.values(), steps)

    def models(self) -> list[str]:
        return [*self.named_tutors.values(), *self.named_students.values()]

    def describe(self) -> str:
        return f"{len(self.tutors)} tutors and two controls with {len(self.students)} students"

    def expect(self, out: Path, flow: Flow) -> Cost:
        size, memory = flow.size(self.problems), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        return flow.asked(list(self._asks(size)), self.budget.prices)

    def _asks(self, size: Size) -> Iterable[Ask]:
        """The maximum number of calls to each model; the test before runs once for all tutors."""
        from maieutic.evals.dialogue_run import with_controls

        start, tokens, reply = (
            size.tokens // max(1, size.rows),
            self.student_sampling.max_tokens,
            self.sampling.max_tokens,
        )
        dialogues = size.rows * self.repeat * max(1, len(self.kinds))
        for student in self.named_students.values():
            for tutor in with_controls(self.named_tutors).values():
                yield from taking_turns(
                    dialogues, start, (student, self.rounds, tokens), (tutor, self.rounds, reply)
                )
                answers = 2 * self.answers * dialogues
                prompt = start + self.rounds * (tokens + reply)
                yield Ask(student, answers, answers * prompt, answers * tokens)


class DialogueScores(Measurements):
    """The metrics of dialogues; if compared with another tutor, also that tutor's metrics and the differences."""

    sources: list[str]

    def manifest(self) -> dict[str, Any]:
        others = {"against": self.values["against"]} if "against" in self.values else {}
        if "difference" in self.values:
            others["difference"] = {"metrics": self.values["difference"]}
        scores = {name: of for name, of in self.values.items() if name not in ("against", "difference")}
        return {"scores": scores, **others}

    def show(self) -> None:
        _show_dialogues(self.sources[0], self.values)
        if "against" in self.values:
            _show_dialogues(self.sources[1], self.values["against"])
            _show_differences(f"{' - '.join(self.sources)}, on the same starts", self.values["difference"])


def _show_dialogues(name: str, scores: Mapping[str, Any]) -> None:
    lost = ", ".join(f"{count} by {fault}" for fault, count in sorted(scores["lost"].items()))
    by_tutor = f", {scores['failed_by_tutor']} broken off by the tutor" if scores["failed_by_tutor"] else ""
    say(
        f"{name}: {scores['dialogues']} dialogues{by_tutor}" + (f"; left out as lost: {lost}" if lost else "")
    )
    kinds = list(scores["by_kind"])
    rows = [
        (
            words(metric),
            shape["value"],
            interval_text(shape["ci"]),
            shape["n"],
            *(scores["by_kind"][kind][metric]["value"] for kind in kinds),
        )
        for metric, shape in scores.items()
        if isinstance(shape, dict) and "value" in shape
    ]
    table("", ("", "value", "95 %", "starts", *kinds), rows)
    by_reply = [
        (at["k"], at["success"]["value"], at["solved"]["value"], at["telling"]["value"])
        for at in scores["at"]
    ]
    table("by the k-th reply", ("k", "Success@k", "solved", "Telling@k"), by_reply)


class EvalDialogueScore(Step):
    """Score whole dialogues on problems with known answers; with --against, the paired differences of two tutors."""

    command: ClassVar = "eval dialogue score"
    arguments: ClassVar = ("data",)
    examples: ClassVar = ("maieutic eval dialogue score runs/tuned/dialogues --against runs/base/dialogues",)
    writes: ClassVar = "result"
    outputs: ClassVar = ("scores.json",)

    data: Path = Field(description="Dialogues: a simulate step, its run, or a file of its rows.")
    against: Path | None = Field(None, description="Another tutor's dialogues from the same starts.")
    before: Path | None = Field(None, description="A `pre-post-test` step with `when: before`.")
    after: Path | None = Field(None, description="A `pre-post-test` step with `when: after`.")
    after_against: Path | None = Field(
        None, description="The `pre-post-test` step with `when: after` for the --against dialogues."
    )
    rounds: int | None = Field(None, ge=1, description="The largest k of Success@k and Telling@k.")
    run_code: bool = Field(
        False, description="Run students' programs in a sandbox against the problems' unit tests."
    )

    def run(self, out: Path | str = "") -> DialogueScores:
        from maieutic.checks.outcomes import solves
        from maieutic.evals.dialogue import compare_dialogues, score_dialogues

        states = solves if self.run_code else None
        before, rounds = self.before, self.rounds
        values = score_dialogues(self.data, before=before, after=self.after, rounds=rounds, states=states)
        sources = [str(self.data)]
        if self.against:
            after = (self.after, self.after_against)
            values["against"] = score_dialogues(
                self.against, before=before, after=self.after_against, rounds=rounds, states=states
            )
            values["difference"] = compare_dialogues(
                self.data, self.against, before=before, after=after, states=states
            )
            sources.append(str(self.against))
        return DialogueScores(sources=sources, values=values)

    def check_among(self, steps: Mapping[str, Step]) -> None:
        paths = [path for path in (self.data, self.against) if path]
        made = [steps.get(str(path)) or steps.get(str(path.parent)) for path in paths]
        users = [str(step.user) for step in made if isinstance(step, Simulate)]
        _refuse_training_students(users, steps)

    def describe(self) -> str:
        return "score the dialogues" + (", and compare two tutors" if self.against else "")
