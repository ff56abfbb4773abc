"""Dialogues of every tutor, and of two controls (a silent tutor, a tutor that tells the answer), with every student.

A run folder holds, for tutor T and student S, the dialogues (`T-with-S`), the student's answers before (`before-S`)
and after (`after-T-with-S`), the tutor's first replies judged by code (`judged-T-with-S`), and the scores
(`scores-T-with-S`, `A-less-B-with-S`). Each is a step of its own, so the same call resumes a stopped run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from maieutic.checks.outcomes import States, solves
from maieutic.core.budget import Budget
from maieutic.core.errors import BudgetSpent
from maieutic.core.messages import Conversation, Role
from maieutic.core.store import Stage, stage_rows, write_json
from maieutic.data.corpus import read_corpus
from maieutic.evals import tutor as single
from maieutic.evals.dialogue import compare_starts, load_outcomes, metrics_by_start, score_outcomes
from maieutic.evals.dialogue_steps import EvalDialogueRun
from maieutic.judging.steps import Judge
from maieutic.models.scripted import CONTROLS
from maieutic.rollouts.pre_post_test import load_solve_rates
from maieutic.rollouts.steps import PrePostTest, Simulate

RUBRIC = "socratic_checks"


def with_controls(tutors: Mapping[str, str]) -> dict[str, str]:
    """The tutors, and the two controls, which always run."""
    return {**tutors, **{f"control-{name}": f"baseline/{name}" for name in CONTROLS}}


class _RemainingBudget:
    """The budget that is left after each step."""

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

    def tests(self) -> tuple[Path | None, Path | None]:
        """The folders of the tests before and after; null if there was no test."""
        done = (self.after / "manifest.json").is_file()
        return (self.before, self.after) if done else (None, None)


class _DialogueRun:
    """One run: its folder, its settings, and what is left of its budget."""

    def __init__(self, step: EvalDialogueRun, out: Path) -> None:
        self.step, self.out = step, out
        self.states: States | None = solves if step.run_code else None
        self.budget = _RemainingBudget(step.budget)

    def pair(self, tutor: str, student: str) -> _Pair:
        return _Pair(
            self.out / f"{tutor}-with-{student}",
            self.out / f"before-{student}",
            self.out / f"after-{tutor}-with-{student}",
        )

    def simulate(self, tutor: tuple[str, str], student: tuple[str, str]) -> None:
        """The dialogues of one tutor with one student, each given as name and MODEL."""
        step = self.step
        done = Simulate(
            user=student[1], assistant=tutor[1], seeds=step.problems, kinds=step.kinds, rounds=step.rounds,
            repeat=step.repeat, seed_turns=step.seed_turns, user_mode=step.user_mode,
            user_sampling=step.student_sampling, sampling=step.sampling, assistant_prompt=step.tutor_prompt,
            show_solution=step.show_solution, guards=step.guards, seed=step.seed, requests=step.requests,
            budget=self.budget.now(), local=step.local,
        ).run(self.pair(tutor[0], student[0]).dialogues)  # fmt: skip
        self.budget.charge(done.tokens, done.usd, done.replies)

    def pre_post_test(self, tutors: Sequence[str], student: str, spec: str) -> None:
        """Run the test before (once per start, shared by all tutors), then the test after each tutor's dialogues."""
        dialogues = {tutor: list(read_corpus(self.pair(tutor, student).dialogues)) for tutor in tutors}
        starts = [each for of in dialogues.values() for each in of]
        self._test(spec, starts, self.out / f"before-{student}", before=True)
        for tutor in tutors:
            self._test(spec, dialogues[tutor], self.pair(tutor, student).after, before=False)

    def _test(self, spec: str, source: Sequence[Conversation], folder: Path, *, before: bool) -> None:
        step = self.step
        done = PrePostTest(
            model=spec, data=source, when="before" if before else "after", n=step.answers,
            prompt=step.answer_prompt, user_mode=step.user_mode, run_code=step.run_code,
            sampling=step.student_sampling.model_copy(update={"seed": step.seed}),
            requests=step.requests, budget=self.budget.now(), local=step.local,
        ).run(folder)  # fmt: skip
        self.budget.charge(done.tokens, done.usd, done.replies)

    def score(self, tutor: str, student: str) -> dict[str, Any]:
        """The scores of one tutor with one student, including the scores of the tutor's first replies."""
        pair = self.pair(tutor, student)
        found = load_outcomes(pair.dialogues, self.states)
        scores = score_outcomes(found, load_solve_rates(*pair.tests()), self.step.rounds)
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
            # judging calls no model, so all dialogues are judged again: a later call may have added some
            Judge(data=rows, rubric=RUBRIC, replies="last").run(Path(temporary) / "judge")
            for verdict in stage_rows(Path(temporary) / "judge"):
                if verdict["key"] not in stage.rows:
                    stage.rows.append(verdict["key"], verdict)
            stage.finish({})
        return single.score_tutor(folder)

    def compare(self, a: str, b: str, student: str) -> dict[str, Any]:
        """The paired differences of two tutors with one student."""
        pairs = [self.pair(name, student) for name in (a, b)]
        ours, theirs = (
            metrics_by_start(load_outcomes(pair.dialogues, self.states), load_solve_rates(*pair.tests()))
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


def run_dialogues(step: EvalDialogueRun, out: Path) -> dict[str, Any]:
    """Let every tutor and the controls talk with every student, and score all dialogues.

    Returns:
        `tutors` (the scores by tutor and student; `single`: the scores of the first replies), `controls` (names),
        `differences` (`a`, `b`, `student`, `metrics`), `models` (the MODEL of each name), `replies`, `tokens`, `usd`
        of this call, `run`.
    """
    run = _DialogueRun(step, out)
    tutors, students = step.named_tutors, step.named_students
    everyone = with_controls(tutors)
    for student, spec in students.items():
        for tutor in everyone.items():
            run.simulate(tutor, (student, spec))
        if step.answers:
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
        "usd": round(run.budget.usd, 6) if step.budget.prices else None,
        "run": str(out),
    }
    kept = ("tutors", "controls", "differences", "models")
    write_json(out / "dialogues.json", {key: found[key] for key in kept})
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
