"""The stages that measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from maieutic.core.budget import Budget
from maieutic.core.costs import Ask, Cost, Flow, taking_turns
from maieutic.core.errors import RecipeError
from maieutic.core.messages import Sampling
from maieutic.models.scripted import CONTROLS
from maieutic.recipes.stages.action import Action, Options, PromptName, wrapped
from maieutic.recipes.stages.playing import Continuations
from maieutic.recipes.stages.talking import Simulate


class Simulator(Action):
    """Is the simulator like people?"""

    outputs = ("metrics.json",)
    people: Path
    model: str | None = None
    simulated: Path | None = None
    baselines: list[str] = Field(default_factory=list)
    """Each `[NAME=]THING`: a MODEL, a run or a corpus; those without a name are one baseline."""
    embedder: str | None = None
    """A sentence-transformers model for the metrics of topics; null: character n-grams."""
    judge: str | None = None
    """A MODEL, for adherence and the four judged criteria."""
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.core.store import write_json
        from maieutic.evals.simulator import evaluate_simulator_files

        def work() -> dict[str, Any]:
            metrics = evaluate_simulator_files(
                self.people,
                self.model,
                self.simulated,
                self.baselines,
                self.options.whole(),
                embedder=self.embedder,
                judge=self.judge,
            )
            write_json(out / "metrics.json", metrics)
            return {"metrics": metrics}

        wrapped(out, self, work)

    def models(self) -> list[str]:  # noqa: D102
        from maieutic.evals.simulator import is_model, split_name

        things = [split_name(one)[1] for one in self.baselines]
        return [name for name in (self.model, self.judge, *things) if name and is_model(name)]

    def describe(self) -> str:  # noqa: D102
        return "set beside people"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return Cost(None, None, flow.memory(self.models()))


class Tutor(Action):
    """Scores of judged replies; beside another tutor's on the same dialogues, the paired difference."""

    outputs = ("scores.json",)
    data: Path
    against: Path | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.core.store import write_json
        from maieutic.evals.paired import compare_files
        from maieutic.evals.tutor import score_tutor

        def work() -> dict[str, Any]:
            scores: dict[str, Any] = {"scores": score_tutor(self.data)}
            if self.against:
                scores["against"] = score_tutor(self.against)
                scores["difference"] = compare_files(self.data, self.against)
            write_json(out / "scores.json", scores)
            return scores

        wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return "score the tutor" + (" against another" if self.against else "")


def _refuse_partial(students: Iterable[str], stages: Mapping[str, Action]) -> None:
    """A student that made pairs never evaluates: a tutor may have learned to please it alone."""
    made = {stage.student for stage in stages.values() if isinstance(stage, Continuations)}
    if partial := [student for student in students if student in made]:
        raise RecipeError(
            f"the student {partial[0]} made the pairs (`continuations`), and would evaluate as well",
            "Evaluate with one trained on other people with another seed, a scripted or a prompted one.",
        )


class Dialogues(Action):
    """What came of whole dialogues with a tutor: solved, told, turns; beside another's from the same starts."""

    outputs = ("scores.json",)
    data: Path
    against: Path | None = None
    before: Path | None = None
    """A `pre-post-test` step with `when: before`."""
    after: Path | None = None
    """One with `when: after`."""
    after_against: Path | None = None
    """One with `when: after` for the other tutor's dialogues."""
    run_code: bool = False
    """Run students' programs, shut in, against the problems' tests."""

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.checks.outcomes import solves
        from maieutic.core.store import write_json
        from maieutic.evals.dialogue import compare_dialogues, score_dialogues

        def work() -> dict[str, Any]:
            before, both = self.before, (self.after, self.after_against)
            states = solves if self.run_code else None
            scores: dict[str, Any] = {
                "scores": score_dialogues(self.data, before=before, after=self.after, states=states)
            }
            if self.against:
                scores["against"] = score_dialogues(
                    self.against, before=before, after=self.after_against, states=states
                )
                metrics = compare_dialogues(self.data, self.against, before=before, after=both, states=states)
                scores["difference"] = {"metrics": metrics}
            write_json(out / "scores.json", scores)
            return scores

        wrapped(out, self, work)

    def check_among(self, stages: Mapping[str, Action]) -> None:
        """See `_refuse_partial`."""
        talks = [
            stages.get(str(path)) or stages.get(str(path.parent))
            for path in (self.data, self.against)
            if path
        ]
        _refuse_partial([talk.user for talk in talks if isinstance(talk, Simulate)], stages)

    def describe(self) -> str:  # noqa: D102
        return "who finds the answer" + (", beside another tutor" if self.against else "")


class Play(Action):
    """Every tutor with every student, the two controls with them, attempts before and after, and all scores."""

    outputs = ("dialogues.json",)
    tutors: dict[str, str] = Field(min_length=1)
    """MODELs by name."""
    students: dict[str, str] = Field(min_length=1)
    problems: Path
    kinds: tuple[str, ...] = ()
    rounds: int = Field(6, ge=1)
    repeat: int = Field(1, ge=1)
    seed_turns: int | None = None
    user_mode: Literal["trained", "prompted"] | None = None
    student: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    tutor: Sampling = Sampling(temperature=0.7, max_tokens=400)
    assistant_prompt: PromptName = "tutor_socratic"
    show_solution: bool = False
    attempts: int = Field(8, ge=0)
    attempt_prompt: str = "attempt"
    guards: str = "empty"
    seed: int = 0
    concurrency: int = 64
    budget: Budget = Budget()
    max_failure_rate: float = 0.05
    run_code: bool = False
    """Run students' programs, shut in, against the problems' tests."""
    options: Options = Options()

    def _config(self) -> Any:
        from maieutic.evals.dialogue_run import DialogueRunConfig

        return DialogueRunConfig(**self.model_dump(exclude={"tutors", "students", "run_code", "options"}))

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.checks.outcomes import solves
        from maieutic.evals.dialogue_run import run_dialogues

        options, states = self.options.whole(self.concurrency), solves if self.run_code else None
        wrapped(
            out, self, lambda: run_dialogues(self.tutors, self.students, out, self._config(), options, states)
        )

    def check(self) -> None:  # noqa: D102
        from maieutic.core import prompts
        from maieutic.models.student import load_kind
        from maieutic.rollouts.guards import parse

        parse(self.guards)
        for kind in self.kinds:
            load_kind(kind)
        for name in (self.attempt_prompt, self.assistant_prompt):
            if name and not name.endswith(".md"):
                prompts.load(name)

    def inputs(self) -> list[Path]:
        """Its files of prompts too: an earlier stage may make one."""
        named = (self.attempt_prompt, self.assistant_prompt)
        return [*super().inputs(), *(Path(name) for name in named if name and name.endswith(".md"))]

    def check_among(self, stages: Mapping[str, Action]) -> None:
        """See `_refuse_partial`."""
        _refuse_partial(self.students.values(), stages)

    def models(self) -> list[str]:  # noqa: D102
        return [*self.tutors.values(), *self.students.values()]

    def describe(self) -> str:  # noqa: D102
        return f"{len(self.tutors)} tutors and two controls with {len(self.students)} students"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        size, memory = flow.size(self.problems), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        start, said = size.tokens // max(1, size.rows), self.student.max_tokens
        dialogues = size.rows * self.repeat * max(1, len(self.kinds))
        asks = []
        for student in self.students.values():
            for tutor in (*self.tutors.values(), *(f"baseline/{name}" for name in CONTROLS)):
                sides = ((student, self.rounds, said), (tutor, self.rounds, self.tutor.max_tokens))
                asks += taking_turns(dialogues, start, *sides)
                tries = 2 * self.attempts * dialogues  # at most: those before are made once for all tutors
                held = start + self.rounds * (said + self.tutor.max_tokens)
                asks.append(Ask(student, tries, tries * held, tries * said))
        return flow.asked(asks, self.budget.prices)
