"""Every tutor with every student, and with each student the two controls: no tutor, and a tutor that tells.

A run folder holds, for tutor T and student S, the dialogues (`T-with-S`), the student's attempts before (`before-S`)
and after (`after-T-with-S`), the tutor's first replies judged by code (`judged-T-with-S`), and what
came of it all (`scores-T-with-S`, `A-less-B-with-S`). Each is a stage of its own: the same call goes on.
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
from maieutic.evals.dialogue.load_outcomes import outcomes
from maieutic.evals.dialogue.score import by_seed, compare_sides, score_outcomes
from maieutic.judging import judge
from maieutic.models import ModelOptions, load
from maieutic.models.baseline import CONTROLS
from maieutic.rollouts import SimulateConfig, cost, simulate
from maieutic.rollouts.pre_post_rows import read_tries
from maieutic.rollouts.pre_post_test import STUDENT, N, attempts
from maieutic.rollouts.users import UserMode

RUBRIC = "socratic_checks"
_NAME = re.compile(r"[\w.-]+")


class PlayConfig(Record):
    """How tutors and students are played."""

    problems: Path
    """A corpus of starts whose problems have known answers."""
    kinds: tuple[str, ...] = ()
    """Kinds of students, each with every start; see `maieutic.models.students`."""
    rounds: int = Field(6, ge=1)
    repeat: int = Field(1, ge=1)
    seed_turns: int | None = Field(None, ge=0)
    user_mode: UserMode | None = None
    student: Sampling = STUDENT
    tutor: Sampling = Sampling(temperature=0.7, max_tokens=400)
    assistant_prompt: str | None = "tutor_socratic"
    """What each tutor alone is told."""
    show_solution: bool = False
    attempts: int = Field(N, ge=0)
    """Of the student alone, before and after; 0: none."""
    attempt_prompt: str = "attempt"
    guards: str = "empty"
    """Only a turn without a word is drawn again: whoever repeats itself is measured as it is."""
    seed: int = 0
    concurrency: int = Field(64, ge=1)
    max_failure_rate: float = Field(0.05, ge=0, le=1)
    budget: Budget = Budget()

    def simulation(self, budget: Budget) -> SimulateConfig:
        """As one simulation takes it."""
        return SimulateConfig(
            seeds=self.problems, kinds=self.kinds, rounds=self.rounds, repeat=self.repeat,
            seed_turns=self.seed_turns, user_mode=self.user_mode, user=self.student, assistant=self.tutor,
            assistant_prompt=self.assistant_prompt, show_solution=self.show_solution, guards=self.guards,
            seed=self.seed, concurrency=self.concurrency, max_failure_rate=self.max_failure_rate, budget=budget,
        )  # fmt: skip


def name_all(texts: Sequence[str]) -> dict[str, str]:
    """MODELs by name, of texts `[NAME=]MODEL`; one without a name goes by the last part of its MODEL.

    Raises:
        InputError: two go by one name, or a name holds other signs than letters, digits, `_`, `.` and `-`.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            name, spec = re.sub(r"[^\w.-]+", "-", Path(text.rpartition("#")[2]).stem), text
        if name in found or not _NAME.fullmatch(name):
            raise InputError(f"{text}: no name of its own", "Write NAME=MODEL, each NAME once.")
        found[name] = spec
    return found


def with_controls(tutors: Mapping[str, str]) -> dict[str, str]:
    """The tutors, and the two controls, which always run."""
    return {**tutors, **{f"control-{name}": f"probe/{name}" for name in CONTROLS}}


class _Left:
    """What is left of a budget, stage by stage."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.tokens, self.usd, self.replies = 0, 0.0, 0

    def now(self) -> Budget:
        """The rest.

        Raises:
            BudgetSpent: there is none.
        """
        limits = self._budget
        tokens = None if limits.tokens is None else limits.tokens - self.tokens
        usd = None if limits.usd is None else limits.usd - self.usd
        if (tokens is not None and tokens <= 0) or (usd is not None and usd <= 0):
            raise BudgetSpent("the budget is used up", "Run the same command with a larger one: it goes on.")
        return limits.model_copy(update={"tokens": tokens, "usd": usd})

    def pay(self, tokens: int, usd: float | None, replies: int) -> None:
        """Take off what a stage spent."""
        self.tokens, self.usd, self.replies = (
            self.tokens + tokens,
            self.usd + (usd or 0.0),
            self.replies + replies,
        )


def play(
    tutors: Mapping[str, str],
    students: Mapping[str, str],
    out: Path | str,
    config: PlayConfig,
    options: ModelOptions | None = None,
    states: States | None = None,
) -> dict[str, Any]:
    """Play every tutor with every student, the controls with them, and score all.

    Args:
        tutors: MODELs by name.
        students: MODELs by name.
        out: the run's folder; the same call goes on in it.
        config: how.
        options: how models are reached.
        states: whether a student's turn solves a problem; null: it states the known answer.

    Returns:
        `tutors` (by tutor and student the scores, with `single`: those of the first replies), `controls` (names),
        `differences` (`a`, `b`, `student`, `metrics`), `models` (what each name is), `replies`, `tokens`, `usd` of this
        call, `run`.

    Raises:
        What `simulate` and `attempts` raise.
    """
    out, left = Path(out), _Left(config.budget)
    cast = with_controls(tutors)
    for student, spec in students.items():
        for name in cast:
            _dialogues(out, (name, cast[name]), (student, spec), config, options, left)
        if config.attempts:
            _tries(out, list(cast), (student, spec), config, options, left, states)
    scores = {
        name: {student: _score(out, name, student, config, states) for student in students} for name in cast
    }
    differences = [
        _difference(out, *pair, student, states) for student in students for pair in _pairs(tutors, cast)
    ]
    found = {
        "tutors": scores,
        "controls": [name for name in cast if name not in tutors],
        "differences": differences,
        "models": {"tutors": cast, "students": dict(students)},
        "replies": left.replies,
        "tokens": left.tokens,
        "usd": round(left.usd, 6) if config.budget.prices else None,
        "run": str(out),
    }
    write_json(
        out / "dialogues.json", {key: found[key] for key in ("tutors", "controls", "differences", "models")}
    )
    return found


def _pairs(tutors: Mapping[str, str], cast: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The tutors two by two, and each less each control."""
    yield from combinations(tutors, 2)
    yield from ((name, control) for name in tutors for control in cast if control not in tutors)


def _dialogues(
    out: Path, tutor: tuple[str, str], student: tuple[str, str], config: PlayConfig,
    options: ModelOptions | None, left: _Left,
) -> None:  # fmt: skip
    folder = out / f"{tutor[0]}-with-{student[0]}"
    done = simulate(
        load(student[1], options), load(tutor[1], options), folder, None, config.simulation(left.now())
    )
    left.pay(done.tokens, done.usd, done.replies)


def _tries(
    out: Path, tutors: Sequence[str], student: tuple[str, str], config: PlayConfig,
    options: ModelOptions | None, left: _Left, states: States | None,
) -> None:  # fmt: skip
    """The attempts before, of each start once for all tutors; and those after each tutor's dialogues."""
    name, spec = student
    talks = {tutor: list(read_corpus(out / f"{tutor}-with-{name}")) for tutor in tutors}
    starts = [talk for of in talks.values() for talk in of]
    for folder, source, when in (
        (f"before-{name}", starts, "before"),
        *((f"after-{tutor}-with-{name}", talks[tutor], "after") for tutor in tutors),
    ):
        done = attempts(
            load(spec, options), source, out / folder, "before" if when == "before" else "after",
            n=config.attempts, prompt=config.attempt_prompt, mode=config.user_mode, states=states,
            sampling=config.student.model_copy(update={"seed": config.seed}), concurrency=config.concurrency,
            max_failure_rate=config.max_failure_rate, budget=left.now(),
        )  # fmt: skip
        left.pay(done.tokens, done.usd, done.replies)


class _Folders(NamedTuple):
    """Where one pair's stages lie."""

    talks: Path
    before: Path | None
    after: Path | None


def _folders(out: Path, tutor: str, student: str) -> _Folders:
    before, after = out / f"before-{student}", out / f"after-{tutor}-with-{student}"
    tried = (after / "manifest.json").is_file()
    return _Folders(out / f"{tutor}-with-{student}", before if tried else None, after if tried else None)


def _score(out: Path, tutor: str, student: str, config: PlayConfig, states: States | None) -> dict[str, Any]:
    talks, before, after = _folders(out, tutor, student)
    found = outcomes(talks, states)
    scores = score_outcomes(found, read_tries(before, after), config.rounds)
    scores["single"] = _single(out, f"{tutor}-with-{student}", found.conversations)
    with Stage(
        out / f"scores-{tutor}-with-{student}", {"stage": "eval-dialogue", "data": talks.name}
    ) as stage:
        stage.finish({"scores": scores})
    return scores


def _single(out: Path, pair: str, talks: Sequence[Conversation]) -> dict[str, Any] | None:
    """The tutor's first replies, judged by code alone; null where nobody replied to a student."""
    rows = [row for talk in talks if (row := _first_reply(talk))]
    if not rows:
        return None
    folder = out / f"judged-{pair}"
    with (
        TemporaryDirectory() as fresh,
        Stage(folder, {"stage": "judge", "rubric": RUBRIC, "data": pair}) as stage,
    ):
        judge(
            rows, Path(fresh) / "judge", rubric=RUBRIC
        )  # asks no model; a later call may have dialogues more
        for verdict in stage_rows(Path(fresh) / "judge"):
            if verdict["key"] not in stage.rows:
                stage.rows.append(verdict["key"], verdict)
        stage.finish({})
    return single.score(folder)


def _first_reply(talk: Conversation) -> dict[str, Any] | None:
    """The dialogue up to its first drawn reply to a student."""
    for place, turn in enumerate(talk.messages):
        info = talk.meta.get("turns", {}).get(str(place))
        if info and turn.role == Role.ASSISTANT and place and talk.messages[place - 1].role == Role.USER:
            return {
                "id": talk.id,
                "messages": [one.model_dump(mode="json") for one in talk.messages[: place + 1]],
                "problem": talk.problem.model_dump(exclude_none=True) if talk.problem else None,
                "source": talk.source,
                "model": info.get("model"),
            }
    return None


def _difference(out: Path, a: str, b: str, student: str, states: States | None) -> dict[str, Any]:
    ours, theirs = (_folders(out, name, student) for name in (a, b))
    sides = [
        by_seed(outcomes(one.talks, states), read_tries(one.before, one.after)) for one in (ours, theirs)
    ]
    metrics = compare_sides(sides[0], sides[1], f"{a} and {b}") if sides[0].keys() & sides[1].keys() else {}
    settings = {"stage": "eval-dialogue", "data": ours.talks.name, "against": theirs.talks.name}
    with Stage(out / f"{a}-less-{b}-with-{student}", settings) as stage:
        stage.finish({"difference": {"metrics": metrics}})
    return {"a": a, "b": b, "student": student, "metrics": metrics}


class PlayCost(NamedTuple):
    """At most, where no draw is thrown away and no call fails."""

    dialogues: int
    calls: int
    read: int
    written: int
    usd: float | None


def play_cost(tutors: Mapping[str, str], students: Mapping[str, str], config: PlayConfig) -> PlayCost:
    """What `play` costs if every dialogue uses all its rounds and every turn all its tokens; controls cost nothing."""
    total = PlayCost(0, 0, 0, 0, None)
    for student in students.values():
        for tutor in with_controls(tutors).values():
            one = cost(config.simulation(config.budget), student, tutor)
            tried = one.dialogues * config.attempts
            held = one.read // max(1, one.calls) + config.rounds * (
                config.student.max_tokens + config.tutor.max_tokens
            )
            usd = [dollars for dollars in (total.usd, one.usd) if dollars is not None]
            total = PlayCost(
                total.dialogues + one.dialogues, total.calls + one.calls + tried, total.read + one.read + tried * held,
                total.written + one.written + tried * config.student.max_tokens, sum(usd) if usd else None,
            )  # fmt: skip
    return total
