"""Every tutor with every student, and two controls with each student: no tutor, and a tutor that tells the answer.

A run folder holds, for tutor T and student S, the dialogues (`T-with-S`), the student's attempts before (`before-S`)
and after (`after-T-with-S`), the tutor's first replies judged by code (`judged-T-with-S`), and the scores
(`scores-T-with-S`, `A-less-B-with-S`). Each is a step of its own, so the same call resumes a stopped run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pydantic import Field

from maieutic.checks.outcomes import States
from maieutic.core.budget import Budget
from maieutic.core.errors import BudgetSpent, InputError
from maieutic.core.messages import Conversation, Record, Role, Sampling
from maieutic.core.store import Stage, stage_rows, write_json
from maieutic.data.corpus import read_corpus
from maieutic.evals import tutor as single
from maieutic.evals.dialogue import compare_starts, load_outcomes, metrics_by_start, score_outcomes
from maieutic.judging import judge
from maieutic.models import ModelOptions, load
from maieutic.models.scripted import CONTROLS
from maieutic.rollouts.pre_post_test import STUDENT, N, load_solve_rates, pre_post_test
from maieutic.rollouts.simulate import SimulateConfig, simulate, simulation_cost
from maieutic.rollouts.users import UserMode

RUBRIC = "socratic_checks"
_NAME = re.compile(r"[\w.-]+")


class DialogueRunConfig(Record):
    """Settings of the dialogues between tutors and students."""

    problems: Path
    """A corpus of starts whose problems have known answers."""
    kinds: tuple[str, ...] = ()
    """Kinds of students, each with every start; see `maieutic.models.student`."""
    rounds: int = Field(6, ge=1)
    repeat: int = Field(1, ge=1)
    seed_turns: int | None = Field(None, ge=0)
    user_mode: UserMode | None = None
    student: Sampling = STUDENT
    tutor: Sampling = Sampling(temperature=0.7, max_tokens=400)
    assistant_prompt: str | None = "tutor_socratic"
    """The system prompt of each tutor."""
    show_solution: bool = False
    attempts: int = Field(N, ge=0)
    """The student's attempts without the tutor, before and after; 0: none."""
    attempt_prompt: str = "attempt"
    guards: str = "empty"
    """Only a blank turn is regenerated: a model that repeats itself is measured as it is."""
    seed: int = 0
    concurrency: int = Field(64, ge=1)
    max_failure_rate: float = Field(0.05, ge=0, le=1)
    budget: Budget = Budget()

    def simulation(self, budget: Budget) -> SimulateConfig:
        """The settings of one simulation."""
        return SimulateConfig(
            seeds=self.problems, kinds=self.kinds, rounds=self.rounds, repeat=self.repeat,
            seed_turns=self.seed_turns, user_mode=self.user_mode, user=self.student, assistant=self.tutor,
            assistant_prompt=self.assistant_prompt, show_solution=self.show_solution, guards=self.guards,
            seed=self.seed, concurrency=self.concurrency, max_failure_rate=self.max_failure_rate, budget=budget,
        )  # fmt: skip


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
            raise InputError(f"{text}: needs a name of its own", "Write NAME=MODEL, each NAME once.")
        found[name] = spec
    return found


def with_controls(tutors: Mapping[str, str]) -> dict[str, str]:
    """The tutors, and the two controls, which always run."""
    return {**tutors, **{f"control-{name}": f"baseline/{name}" for name in CONTROLS}}


class _RemainingBudget:
    """The rest of a budget, step by step."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.tokens, self.usd, self.replies = 0, 0.0, 0

    def now(self) -> Budget:
        """What is left.

        Raises:
            BudgetSpent: nothing is left.
        """
        limits = self._budget
        tokens = None if limits.tokens is None else limits.tokens - self.tokens
        usd = None if limits.usd is None else limits.usd - self.usd
        if (tokens is not None and tokens <= 0) or (usd is not None and usd <= 0):
            raise BudgetSpent("the budget is used up", "Run the same command with a larger budget to resume.")
        return limits.model_copy(update={"tokens": tokens, "usd": usd})

    def charge(self, tokens: int, usd: float | None, replies: int) -> None:
        """Subtract the cost of a step."""
        self.tokens += tokens
        self.usd += usd or 0.0
        self.replies += replies


class _Pair(NamedTuple):
    """The folders of one tutor with one student."""

    dialogues: Path
    before: Path
    after: Path

    def attempts(self) -> tuple[Path | None, Path | None]:
        """The attempts before and after, null where the student made none."""
        done = (self.after / "manifest.json").is_file()
        return (self.before, self.after) if done else (None, None)


class _DialogueRun:
    """One run: its folder, its settings, and what is left of its budget."""

    def __init__(
        self, out: Path, config: DialogueRunConfig, options: ModelOptions | None, states: States | None
    ) -> None:
        self.out, self.config, self.options, self.states = out, config, options, states
        self.budget = _RemainingBudget(config.budget)

    def pair(self, tutor: str, student: str) -> _Pair:
        return _Pair(
            self.out / f"{tutor}-with-{student}",
            self.out / f"before-{student}",
            self.out / f"after-{tutor}-with-{student}",
        )

    def simulate(self, tutor: tuple[str, str], student: tuple[str, str]) -> None:
        """The dialogues of one tutor with one student, each given as name and MODEL."""
        done = simulate(
            load(student[1], self.options), load(tutor[1], self.options),
            self.pair(tutor[0], student[0]).dialogues, None, self.config.simulation(self.budget.now()),
        )  # fmt: skip
        self.budget.charge(done.tokens, done.usd, done.replies)

    def pre_post_test(self, tutors: Sequence[str], student: str, spec: str) -> None:
        """The attempts before, of each start once for all tutors; then those after each tutor's dialogues."""
        dialogues = {tutor: list(read_corpus(self.pair(tutor, student).dialogues)) for tutor in tutors}
        starts = [each for of in dialogues.values() for each in of]
        self._attempts(spec, starts, self.out / f"before-{student}", before=True)
        for tutor in tutors:
            self._attempts(spec, dialogues[tutor], self.pair(tutor, student).after, before=False)

    def _attempts(self, spec: str, source: Sequence[Conversation], folder: Path, *, before: bool) -> None:
        config = self.config
        done = pre_post_test(
            load(spec, self.options), source, folder, "before" if before else "after",
            n=config.attempts, prompt=config.attempt_prompt, mode=config.user_mode, states=self.states,
            sampling=config.student.model_copy(update={"seed": config.seed}), concurrency=config.concurrency,
            max_failure_rate=config.max_failure_rate, budget=self.budget.now(),
        )  # fmt: skip
        self.budget.charge(done.tokens, done.usd, done.replies)

    def score(self, tutor: str, student: str) -> dict[str, Any]:
        """The scores of one tutor with one student, with those of its first replies."""
        pair = self.pair(tutor, student)
        found = load_outcomes(pair.dialogues, self.states)
        scores = score_outcomes(found, load_solve_rates(*pair.attempts()), self.config.rounds)
        scores["single"] = self._score_first_replies(pair.dialogues.name, found.conversations)
        settings = {"stage": "eval-dialogue", "data": pair.dialogues.name}
        with Stage(self.out / f"scores-{pair.dialogues.name}", settings) as stage:
            stage.finish({"scores": scores})
        return scores

    def _score_first_replies(self, name: str, dialogues: Sequence[Conversation]) -> dict[str, Any] | None:
        """The tutor's first replies, judged by code alone; null where there are none."""
        rows = [row for dialogue in dialogues if (row := _first_reply(dialogue))]
        if not rows:
            return None
        folder = self.out / f"judged-{name}"
        settings = {"stage": "judge", "rubric": RUBRIC, "data": name}
        with TemporaryDirectory() as temporary, Stage(folder, settings) as stage:
            # asks no model; a later call may add dialogues
            judge(rows, Path(temporary) / "judge", rubric=RUBRIC)
            for verdict in stage_rows(Path(temporary) / "judge"):
                if verdict["key"] not in stage.rows:
                    stage.rows.append(verdict["key"], verdict)
            stage.finish({})
        return single.score_tutor(folder)

    def compare(self, a: str, b: str, student: str) -> dict[str, Any]:
        """The paired differences of two tutors with one student."""
        pairs = [self.pair(name, student) for name in (a, b)]
        ours, theirs = (
            metrics_by_start(load_outcomes(pair.dialogues, self.states), load_solve_rates(*pair.attempts()))
            for pair in pairs
        )
        metrics = compare_starts(ours, theirs, f"{a} and {b}") if ours.keys() & theirs.keys() else {}
        settings = {
            "stage": "eval-dialogue",
            "data": pairs[0].dialogues.name,
            "against": pairs[1].dialogues.name,
        }
        with Stage(self.out / f"{a}-less-{b}-with-{student}", settings) as stage:
            stage.finish({"difference": {"metrics": metrics}})
        return {"a": a, "b": b, "student": student, "metrics": metrics}


def run_dialogues(
    tutors: Mapping[str, str],
    students: Mapping[str, str],
    out: Path | str,
    config: DialogueRunConfig,
    options: ModelOptions | None = None,
    states: States | None = None,
) -> dict[str, Any]:
    """Let every tutor and the controls talk with every student, and score all dialogues.

    Args:
        tutors: MODELs by name.
        students: MODELs by name.
        out: the run folder; the same call resumes a stopped run.
        config: the settings.
        options: how models are reached.
        states: whether a student's turn solves a problem; null: it states the known answer.

    Returns:
        `tutors` (by tutor and student the scores, with `single`: those of the first replies), `controls` (names),
        `differences` (`a`, `b`, `student`, `metrics`), `models` (the MODEL of each name), `replies`, `tokens`, `usd`
        of this call, `run`.

    Raises:
        The errors of `simulate` and `attempts`.
    """
    run = _DialogueRun(Path(out), config, options, states)
    everyone = with_controls(tutors)
    for student, spec in students.items():
        for tutor in everyone.items():
            run.simulate(tutor, (student, spec))
        if config.attempts:
            run.pre_post_test(list(everyone), student, spec)
    scores = {name: {student: run.score(name, student) for student in students} for name in everyone}
    found = {
        "tutors": scores,
        "controls": [name for name in everyone if name not in tutors],
        "differences": [
            run.compare(*pair, student) for student in students for pair in _pairs(tutors, everyone)
        ],
        "models": {"tutors": everyone, "students": dict(students)},
        "replies": run.budget.replies,
        "tokens": run.budget.tokens,
        "usd": round(run.budget.usd, 6) if config.budget.prices else None,
        "run": str(out),
    }
    kept = ("tutors", "controls", "differences", "models")
    write_json(run.out / "dialogues.json", {key: found[key] for key in kept})
    return found


def _pairs(tutors: Mapping[str, str], everyone: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every two tutors, and every tutor with every control."""
    yield from combinations(tutors, 2)
    yield from ((name, control) for name in tutors for control in everyone if control not in tutors)


def _first_reply(dialogue: Conversation) -> dict[str, Any] | None:
    """The dialogue up to its first generated reply to a student."""
    for place, turn in enumerate(dialogue.messages):
        info = dialogue.meta.get("turns", {}).get(str(place))
        if info and turn.role == Role.ASSISTANT and place and dialogue.messages[place - 1].role == Role.USER:
            return {
                "id": dialogue.id,
                "messages": [each.model_dump(mode="json") for each in dialogue.messages[: place + 1]],
                "problem": dialogue.problem.model_dump(exclude_none=True) if dialogue.problem else None,
                "source": dialogue.source,
                "model": info.get("model"),
            }
    return None


class DialogueRunCost(NamedTuple):
    """An upper bound, if no turn is regenerated and no call fails."""

    dialogues: int
    calls: int
    read: int
    written: int
    usd: float | None


def dialogue_run_cost(
    tutors: Mapping[str, str], students: Mapping[str, str], config: DialogueRunConfig
) -> DialogueRunCost:
    """The cost of `run_dialogues` if every dialogue uses all rounds and every turn all tokens; controls are free."""
    total = DialogueRunCost(0, 0, 0, 0, None)
    for student in students.values():
        for tutor in with_controls(tutors).values():
            one = simulation_cost(config.simulation(config.budget), student, tutor)
            tried = one.dialogues * config.attempts
            spoken = config.rounds * (config.student.max_tokens + config.tutor.max_tokens)
            prompt = one.read // max(1, one.calls) + spoken
            usd = [dollars for dollars in (total.usd, one.usd) if dollars is not None]
            total = DialogueRunCost(
                total.dialogues + one.dialogues,
                total.calls + one.calls + tried,
                total.read + one.read + tried * prompt,
                total.written + one.written + tried * config.student.max_tokens,
                sum(usd) if usd else None,
            )
    return total
