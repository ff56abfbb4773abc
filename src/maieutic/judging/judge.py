"""Judge every candidate reply of a stage: code first, then the models of a panel, into a stage of its own.

Where a rubric's criterion names a check and the check knows, its value counts and the models' is only recorded
(`said`, `decided`). A verdict that cannot be read leaves its candidate unscored; a judge that does not answer is a
failed row. Both are counted, and past the accepted share the run ends as failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from maieutic.checks.turns import CHECKS
from maieutic.core.budget import Budget, Spending
from maieutic.core.errors import EmptyCorpus, InputError, MaieuticError
from maieutic.core.messages import Fault, Message, Problem, Role, Sampling, Verdict, fingerprint
from maieutic.core.rows import read_stage
from maieutic.core.store import Stage
from maieutic.core.workers import Failed, check_rate, fault_of, run_pending
from maieutic.judging.judges import JUDGE, Judgement, ask, prompt_hash
from maieutic.judging.rubrics import Rubric, load, summary_score
from maieutic.models import ChatModel, identity

CODE = "code"
UNREADABLE = (
    "Choose a judge that keeps to JSON (and a new --out), or raise --max-failure-rate; nothing was lost."
)


class Judged(NamedTuple):
    """What the stage holds, and what this call did."""

    judged: int
    """Candidates with a summary score, in the whole stage."""
    unscored: int
    """Candidates whose verdict could not be had or read."""
    undecided: int
    """Candidates with some values but no summary score: a criterion has no check that knows, and no model was given."""
    prompts: int
    mean: float | None
    """Of the summary scores."""
    calls: int
    """Calls to judges in this call."""
    seconds: float
    run: str


class Item(NamedTuple):
    """A row to judge."""

    row: dict[str, Any]
    turns: tuple[Message, ...]
    texts: tuple[str, ...]
    problem: Problem | None


def judge(
    source: Path | str | Iterable[dict[str, Any]],
    out: Path | str,
    *,
    rubric: str | Rubric = "socratic",
    model: ChatModel | Sequence[ChatModel] | None = None,
    samples: int = 1,
    sampling: Sampling = JUDGE,
    retries: int = 2,
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
    budget: Budget | None = None,
) -> Judged:
    """Judge candidates into the stage folder `out`.

    Args:
        source: a candidates stage, its run, a file of such rows, or the rows. A row with `messages` and no
            `candidates` is judged by its last assistant turn.
        out: the stage's folder; the same call goes on in it.
        rubric: a rubric, its name, or its file.
        model: the judge, or a panel whose values are averaged; null leaves it to code alone. Closed at the end.
        samples: verdicts of each model for each candidate, averaged; verdict i is drawn with the seed + i.
        sampling: how a verdict is drawn.
        retries: re-asks of a verdict that cannot be read.
        concurrency: calls under way at once.
        max_failure_rate: unscored candidates, as a share, past which the run ends as failed.
        budget: what this call may spend.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, InputError, RunConflict, RunLocked, DiskFull.
    """
    rubric = load(rubric) if isinstance(rubric, str) else rubric
    panel = [] if model is None else list(model) if isinstance(model, Sequence) else [model]
    check_rubric(rubric, with_model=bool(panel))
    spending = Spending((budget or Budget()).checked([judge.id for judge in panel]))
    judging = _Judging(rubric, panel, samples, sampling, retries, concurrency, spending)
    return asyncio.run(judging.run(source, Path(out), max_failure_rate))


def check_rubric(rubric: Rubric, *, with_model: bool) -> None:
    """Raise an InputError where a rubric names a check that there is not, or needs a model and has none."""
    if strange := [c.code for c in rubric.criteria if c.code and c.code not in CHECKS]:
        raise InputError(f"rubric {rubric.name}: no check {strange[0]!r}", f"Known: {', '.join(CHECKS)}.")
    if not with_model and not rubric.code_only:
        needy = ", ".join(criterion.name for criterion in rubric.criteria if not criterion.code)
        raise InputError(
            f"rubric {rubric.name} needs a model for {needy}",
            "Give --judge MODEL, or use --rubric socratic_checks, which code decides.",
        )


class _Judging:
    def __init__(
        self,
        rubric: Rubric,
        panel: list[ChatModel],
        samples: int,
        sampling: Sampling,
        retries: int,
        concurrency: int,
        spending: Spending,
    ) -> None:
        self._spending = spending
        self._rubric, self._panel, self._concurrency = rubric, panel, concurrency
        self._retries = retries
        self._draws = [
            sampling.model_copy(update={"seed": sampling.seed + place}) for place in range(samples)
        ]
        self._slots = asyncio.Semaphore(concurrency)
        self._identity = {
            "rubric": rubric.name,
            "rubric_hash": rubric.hash,
            "judges": [identity(model) for model in panel],
            "samples": samples,
            "sampling": sampling.model_dump(),
            "retries": retries,
            "prompt": prompt_hash() if panel else None,
        }

    async def run(
        self, source: Path | str | Iterable[dict[str, Any]], out: Path, max_failure_rate: float
    ) -> Judged:
        started = time.monotonic()
        listed = None if isinstance(source, (Path, str)) else list(source)
        count, data = _hash(_rows(source, listed))
        try:
            with Stage(out, {"stage": "judge", **self._identity, "data": data}) as stage:
                await asyncio.gather(*(model.check() for model in self._panel))
                worked = await run_pending(
                    stage,
                    self._owed(_rows(source, listed, tell=False)),
                    self._row,
                    self._given_up,
                    concurrency=self._concurrency,
                    max_failure_rate=max_failure_rate,
                    total=count,
                    label="judge",
                    spending=self._spending,
                )
                if not worked.rows:
                    raise EmptyCorpus(
                        "there is no candidate to judge", "Make some with `maieutic candidates`."
                    )
                result = self._counted(stage, time.monotonic() - started)
                graded = result.judged + result.unscored + result.undecided
                check_rate(
                    result.unscored, graded, max_failure_rate, "verdicts", _first_error(stage), UNREADABLE
                )
                stage.finish(
                    {name: value for name, value in result._asdict().items() if name not in ("run", "calls")}
                )
        finally:
            await asyncio.gather(*(model.close() for model in self._panel))
        return result

    def _owed(self, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Item]]:
        for row in rows:
            yield fingerprint({"row": row["key"], **self._identity}), read_item(row)

    async def _row(self, item: Item) -> dict[str, Any]:
        """Equal texts of one prompt are judged once."""
        async with asyncio.TaskGroup() as group:
            tasks = {text: group.create_task(self._caught(text, item)) for text in dict.fromkeys(item.texts)}
        outcomes = {text: task.result() for text, task in tasks.items()}
        for outcome in outcomes.values():
            if isinstance(outcome, MaieuticError):
                raise outcome
        graded = [outcome for text in item.texts if not isinstance(outcome := outcomes[text], MaieuticError)]
        row = self._shape(item, [verdict for verdict, _, _ in graded]) | {
            "said": [[one.model_dump() for one in said] for _, said, _ in graded],
            "decided": [decided for _, _, decided in graded],
        }
        if len(self._panel) * len(self._draws) > 1:
            row["repeats"] = [self._repeats(*one) for one in graded]
        return row

    def _repeats(self, verdict: Verdict, said: list[Verdict], decided: dict[str, str]) -> list[float | None]:
        """The summary score by each verdict alone, what code decided kept; null where one could not be read."""
        checked = {
            name: verdict.values[name] for name, by in decided.items() if by == CODE and verdict.scored
        }
        return [
            summary_score(self._rubric, {**one.values, **checked}) if one.scored else None for one in said
        ]

    async def _caught(
        self, text: str, item: Item
    ) -> tuple[Verdict, list[Verdict], dict[str, str]] | MaieuticError:
        try:
            return await self._grade(text, item)
        except MaieuticError as error:
            return error

    async def _grade(self, text: str, item: Item) -> tuple[Verdict, list[Verdict], dict[str, str]]:
        """The verdict that counts, what each model said, and who decided each criterion."""
        checked = checks(self._rubric, text, item.problem, item.turns)
        said: list[Verdict] = []
        if self._panel and len(checked) < len(self._rubric.criteria):
            asked = [self._ask(model, draw, text, item) for model in self._panel for draw in self._draws]
            said = [judgement.verdict for judgement in await asyncio.gather(*asked)]
        return (*merge(self._rubric, checked, said), decided_by(self._rubric, checked, said))

    async def _ask(self, model: ChatModel, draw: Sampling, text: str, item: Item) -> Judgement:
        async with self._slots:
            return await ask(
                model,
                self._rubric,
                text,
                item.turns,
                item.problem,
                sampling=draw,
                retries=self._retries,
                pay=self._spending.charge,
            )

    def _given_up(self, item: Item, error: Failed) -> dict[str, Any]:
        names = "+".join(model.id for model in self._panel)
        unscored = [Verdict(judge=names, error=error.what) for _ in item.texts]
        return {**self._shape(item, unscored), "fault": fault_of(error, Fault.JUDGE), "error": error.what}

    def _shape(self, item: Item, verdicts: list[Verdict]) -> dict[str, Any]:
        scores = [
            summary_score(self._rubric, verdict.values) if verdict.scored else None for verdict in verdicts
        ]
        row = {key: value for key, value in item.row.items() if key != "key"}
        return {
            **row,
            "candidates": row.get("candidates") or [{"text": text} for text in item.texts],
            "messages": [turn.model_dump(mode="json") for turn in item.turns],
            "rubric": self._rubric.name,
            "verdicts": [verdict.model_dump() for verdict in verdicts],
            "scores": scores,
        }

    def _counted(self, stage: Stage, seconds: float) -> Judged:
        scores: list[float] = []
        unscored = undecided = 0
        for row in stage.rows.rows():
            for verdict, score in zip(row["verdicts"], row["scores"], strict=True):
                unscored += verdict["error"] is not None
                undecided += verdict["error"] is None and score is None
                scores += [] if score is None else [score]
        mean = round(sum(scores) / len(scores), 6) if scores else None
        rows = len(stage.rows.keys)
        return Judged(
            len(scores),
            unscored,
            undecided,
            rows,
            mean,
            self._spending.replies,
            round(seconds, 3),
            str(stage.folder),
        )


def checks(rubric: Rubric, text: str, problem: Problem | None, turns: Sequence[Message]) -> dict[str, float]:
    """What code decides of a text: the values of the criteria whose check knows."""
    said = [turn.content for turn in turns if turn.role == Role.USER]
    found = {c.name: CHECKS[c.code](text, problem, said) for c in rubric.criteria if c.code}
    return {name: float(value) for name, value in found.items() if value is not None}


def merge(
    rubric: Rubric, checked: dict[str, float], said: Sequence[Verdict]
) -> tuple[Verdict, list[Verdict]]:
    """One verdict: code's value where it has one, else the mean of the models that were understood."""
    if not said:
        return Verdict(judge=CODE, values=checked), []
    scored = [verdict for verdict in said if verdict.scored]
    names = "+".join(dict.fromkeys(verdict.judge for verdict in said))
    raw = said[0].raw if len(said) == 1 else ""
    if not scored:
        return Verdict(judge=names, raw=raw, error=said[-1].error), list(said)
    values = {
        c.name: checked.get(c.name, round(sum(v.values[c.name] for v in scored) / len(scored), 9))
        for c in rubric.criteria
    }
    return Verdict(judge=names, values=values, raw=raw), list(said)


def decided_by(rubric: Rubric, checked: dict[str, float], said: Sequence[Verdict]) -> dict[str, str]:
    """Who decided each criterion: `code`, or the models; one that nobody could decide is left out."""
    names = "+".join(dict.fromkeys(verdict.judge for verdict in said if verdict.scored))
    return {
        c.name: CODE if c.name in checked else names for c in rubric.criteria if c.name in checked or names
    }


def _rows(
    source: Path | str | Iterable[dict[str, Any]], listed: list[dict[str, Any]] | None, tell: bool = True
) -> Iterator[dict[str, Any]]:
    if listed is None:
        assert isinstance(source, (Path, str))
        return read_stage(source, "candidates", tell)
    return ({"key": fingerprint(row), **row} for row in listed)


def _hash(rows: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """Rows and a hash of their keys in any order: two complete runs of one candidates stage are one."""
    keys = sorted(row["key"] for row in rows)
    return len(keys), sha256("\n".join(keys).encode()).hexdigest()[:32]


def read_item(row: dict[str, Any]) -> Item:
    """The dialogue, the replies and the problem of a row; see `judge` for what a row may be.

    Raises:
        InputError: it is no such row.
    """
    try:
        turns = tuple(
            Message.model_validate({"role": t["role"], "content": t["content"]}) for t in row["messages"]
        )
        problem = Problem.model_validate(row["problem"]) if row.get("problem") else None
        if "candidates" in row:
            return Item(row, turns, tuple(str(one["text"]) for one in row["candidates"]), problem)
    except (KeyError, TypeError, ValidationError) as error:
        words = (
            error.errors()[0]["msg"]
            if isinstance(error, ValidationError)
            else f"{type(error).__name__}: {error}"
        )
        raise InputError(
            f"row {row.get('id', row['key'])}: not a row of candidates ({words})",
            "Make them with `maieutic candidates`.",
        ) from None
    if not turns or turns[-1].role != Role.ASSISTANT:
        raise InputError(
            f"row {row.get('id', row['key'])}: no `candidates`, and its last turn is not the assistant's",
            "Make candidates first: `maieutic candidates`.",
        )
    return Item(row, turns[:-1], (turns[-1].content,), problem)


def _first_error(stage: Stage) -> str:
    found = (verdict["error"] for row in stage.rows.rows() for verdict in row["verdicts"] if verdict["error"])
    return next(found, "")
