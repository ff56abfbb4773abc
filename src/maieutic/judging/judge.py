"""Judge every reply of a source: code first, then the models of a panel, into a run folder.

Where a criterion of the rubric names a check and the check can decide, its value counts; the models' values are only
recorded (`model_verdicts`, `decided_by`). An unreadable verdict leaves its reply unscored; a judge that does not answer
makes a failed row. Both are counted, and above the accepted share the run ends as failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from maieutic.checks.outcomes import first_generated
from maieutic.checks.turns import CHECKS
from maieutic.core.budget import Spending
from maieutic.core.errors import EmptyCorpus, InputError, MaieuticError
from maieutic.core.json_rows import Placed
from maieutic.core.messages import Conversation, Fault, Message, Problem, Role, Sampling, Verdict, fingerprint
from maieutic.core.rows import Candidate, CandidateRow, parse, read_placed
from maieutic.core.settings import LocalModel, Requests
from maieutic.core.store import Stage
from maieutic.core.workers import Failed, check_rate, fault_of, open_stage, run_async, run_pending
from maieutic.judging.judges import Judgement, ask_judge, prompt_hash
from maieutic.judging.rubrics import Rubric, load_rubric, summary_score
from maieutic.judging.steps import Judge, JudgeResult
from maieutic.models import ChatModel, identity

CODE = "code"
UNREADABLE = (
    "Choose a judge that writes JSON (and a new --out), or raise --max-failure-rate; nothing was lost."
)


def judge(step: Judge, out: Path) -> JudgeResult:
    """Judge the step's replies into the run folder `out`.

    Raises:
        BudgetSpent, TooManyFailures, ModelError, InputError, RunConflict, RunLocked, DiskFull.
    """
    rubric = load_rubric(step.rubric)
    panel = open_panel(step.judge, step.local, step.requests)
    check_rubric(rubric, with_model=bool(panel))
    return run_async(_Judging(step, rubric, panel).run(out))


def open_panel(judges: Sequence[Any], local: LocalModel, requests: Requests) -> list[ChatModel]:
    """The models that judge; a `ChatModel` object is used as it is."""
    from maieutic.models import load

    return [load(one, local, requests) if isinstance(one, str) else one for one in judges]


def check_rubric(rubric: Rubric, *, with_model: bool) -> None:
    """Refuse a rubric that names an unknown check, or that needs a model where none is given.

    Raises:
        InputError: names the check or the criteria.
    """
    if unknown := [c.code for c in rubric.criteria if c.code and c.code not in CHECKS]:
        raise InputError(f"rubric {rubric.name}: no check {unknown[0]!r}", f"Known: {', '.join(CHECKS)}.")
    if not with_model and not rubric.code_only:
        undecided = ", ".join(criterion.name for criterion in rubric.criteria if not criterion.code)
        raise InputError(
            f"rubric {rubric.name} needs a model for {undecided}",
            "Give --judge MODEL, or use --rubric socratic_checks, which code decides.",
        )


def panel_settings(
    rubric: Rubric, panel: Sequence[ChatModel], step: Any, prompt: str | None
) -> dict[str, Any]:
    """The settings that decide verdicts, for a run's config and its rows' keys."""
    return {
        "rubric": rubric.name,
        "rubric_hash": rubric.hash,
        "judges": [identity(model) for model in panel],
        "samples": step.samples,
        "sampling": step.sampling.model_dump(),
        "retries": step.retries,
        "prompt": prompt,
    }


def samplings(sampling: Sampling, samples: int) -> list[Sampling]:
    """The sampling settings of each sample; sample i uses the seed + i."""
    return [sampling.model_copy(update={"seed": sampling.seed + number}) for number in range(samples)]


class _Graded(NamedTuple):
    """The verdict on one reply."""

    verdict: Verdict
    model_verdicts: list[Verdict]
    decided_by: dict[str, str]


class _Judging:
    def __init__(self, step: Judge, rubric: Rubric, panel: list[ChatModel]) -> None:
        self._step, self._rubric, self._panel = step, rubric, panel
        self._spending = Spending(step.budget.checked([model.id for model in panel]))
        self._samplings = samplings(step.sampling, step.samples)
        self._slots = asyncio.Semaphore(step.requests.concurrency)
        self._settings = panel_settings(rubric, panel, step, prompt_hash() if panel else None)

    async def run(self, out: Path) -> JudgeResult:
        started = time.monotonic()
        source, limits = self._step.data, self._step.requests
        count, data = _hash(read_replies(source, self._step.replies))
        settings = {"stage": "judge", **self._settings, "data": data}
        async with open_stage(out, settings, self._panel) as stage:
            worked = await run_pending(
                stage,
                self._pending(read_replies(source, self._step.replies, warn=False)),
                self._row,
                self._failed_row,
                concurrency=limits.concurrency,
                max_failure_rate=limits.max_failure_rate,
                total=count,
                label="judge",
                spending=self._spending,
            )
            if not worked.rows:
                raise EmptyCorpus("there is no reply to judge", "Make some with `maieutic candidates`.")
            result = self._counted(stage, time.monotonic() - started)
            replies = result.judged + result.unscored + result.undecided
            first = _first_error(stage)
            check_rate(result.unscored, replies, limits.max_failure_rate, "verdicts", first, UNREADABLE)
            stage.finish(result.model_dump(mode="json", exclude={"run", "calls"}))
        return result

    def _pending(self, rows: Iterable[CandidateRow]) -> Iterator[tuple[str, CandidateRow]]:
        for row in rows:
            yield fingerprint({"row": row.key, **self._settings}), row

    async def _row(self, row: CandidateRow) -> dict[str, Any]:
        """Equal replies of one row are judged once."""
        texts = [candidate.text for candidate in row.candidates]
        async with asyncio.TaskGroup() as group:
            tasks = {text: group.create_task(self._caught(text, row)) for text in dict.fromkeys(texts)}
        found = {text: task.result() for text, task in tasks.items()}
        if failed := next((one for one in found.values() if isinstance(one, MaieuticError)), None):
            raise failed
        graded = [one for text in texts if isinstance(one := found[text], _Graded)]
        judged = self._judged(row, [one.verdict for one in graded]) | {
            "model_verdicts": [[verdict.model_dump() for verdict in one.model_verdicts] for one in graded],
            "decided_by": [one.decided_by for one in graded],
        }
        if len(self._panel) * len(self._samplings) > 1:
            judged["repeats"] = [self._repeats(one) for one in graded]
        return judged

    def _repeats(self, graded: _Graded) -> list[float | None]:
        """The summary score by each model verdict alone, with code's values; null where it could not be read."""
        by_code = {
            name: graded.verdict.values[name]
            for name, by in graded.decided_by.items()
            if by == CODE and graded.verdict.scored
        }
        return [
            summary_score(self._rubric, {**one.values, **by_code}) if one.scored else None
            for one in graded.model_verdicts
        ]

    async def _caught(self, text: str, row: CandidateRow) -> _Graded | MaieuticError:
        try:
            return await self._grade(text, row)
        except MaieuticError as error:
            return error

    async def _grade(self, text: str, row: CandidateRow) -> _Graded:
        checked = run_checks(self._rubric, text, row.problem, row.messages)
        verdicts: list[Verdict] = []
        if self._panel and len(checked) < len(self._rubric.criteria):
            asked = [self._ask(model, one, text, row) for model in self._panel for one in self._samplings]
            verdicts = [judgement.verdict for judgement in await asyncio.gather(*asked)]
        return _Graded(
            merge(self._rubric, checked, verdicts), verdicts, decided_by(self._rubric, checked, verdicts)
        )

    async def _ask(self, model: ChatModel, sampling: Sampling, text: str, row: CandidateRow) -> Judgement:
        async with self._slots:
            return await ask_judge(
                model,
                self._rubric,
                text,
                row.messages,
                row.problem,
                sampling=sampling,
                retries=self._step.retries,
                charge=self._spending.charge,
            )

    def _failed_row(self, row: CandidateRow, error: Failed) -> dict[str, Any]:
        names = "+".join(model.id for model in self._panel)
        unscored = [Verdict(judge=names, error=error.what) for _ in row.candidates]
        return {**self._judged(row, unscored), "fault": fault_of(error, Fault.JUDGE), "error": error.what}

    def _judged(self, row: CandidateRow, verdicts: list[Verdict]) -> dict[str, Any]:
        scores = [
            summary_score(self._rubric, verdict.values) if verdict.scored else None for verdict in verdicts
        ]
        return {
            **row.row(),
            "rubric": self._rubric.name,
            "verdicts": [verdict.model_dump() for verdict in verdicts],
            "scores": scores,
        }

    def _counted(self, stage: Stage, seconds: float) -> JudgeResult:
        scores: list[float] = []
        unscored = undecided = 0
        for row in stage.rows.rows():
            for verdict, score in zip(row["verdicts"], row["scores"], strict=True):
                unscored += verdict["error"] is not None
                undecided += verdict["error"] is None and score is None
                scores += [] if score is None else [score]
        return JudgeResult(
            run=str(stage.folder),
            judged=len(scores),
            unscored=unscored,
            undecided=undecided,
            prompts=len(stage.rows.keys),
            mean=round(sum(scores) / len(scores), 6) if scores else None,
            calls=self._spending.replies,
            seconds=round(seconds, 3),
        )


def run_checks(
    rubric: Rubric, text: str, problem: Problem | None, context: Sequence[Message]
) -> dict[str, float]:
    """The values of the criteria that code can decide."""
    turns = [message.content for message in context if message.role == Role.USER]
    found = {c.name: CHECKS[c.code](text, problem, turns) for c in rubric.criteria if c.code}
    return {name: float(value) for name, value in found.items() if value is not None}


def merge(rubric: Rubric, checked: Mapping[str, float], verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict: for each criterion the value that code decided, else the mean of the models' readable verdicts."""
    if not verdicts:
        return Verdict(judge=CODE, values=dict(checked))
    scored = [verdict for verdict in verdicts if verdict.scored]
    names = "+".join(dict.fromkeys(verdict.judge for verdict in verdicts))
    raw = verdicts[0].raw if len(verdicts) == 1 else ""
    if not scored:
        return Verdict(judge=names, raw=raw, error=verdicts[-1].error)
    values = {
        c.name: checked.get(c.name, round(sum(v.values[c.name] for v in scored) / len(scored), 9))
        for c in rubric.criteria
    }
    return Verdict(judge=names, values=values, raw=raw)


def decided_by(rubric: Rubric, checked: Mapping[str, float], verdicts: Sequence[Verdict]) -> dict[str, str]:
    """For each decided criterion, what decided it: `code` or the models' names."""
    names = "+".join(dict.fromkeys(verdict.judge for verdict in verdicts if verdict.scored))
    return {
        c.name: CODE if c.name in checked else names for c in rubric.criteria if c.name in checked or names
    }


def read_replies(
    source: Path | Sequence[Mapping[str, Any]],
    replies: Literal["all", "last", "generated"] = "all",
    warn: bool = True,
) -> Iterator[CandidateRow]:
    """Replies with their contexts. Rows of candidates are used as they are; a conversation is cut before each reply.

    Args:
        source: a candidates, judge or simulate step, its run, a file of such rows or of conversations, socratic-llm's
            `evaluation/{dataset}/{model}.json`, or the rows.
        replies: `all`: every assistant reply of a conversation. `last`: only a reply that ends the conversation. Of a
            simulated dialogue only generated replies count, and a failed dialogue is left out. `generated`: all of them
            of simulated dialogues, and the last one of other conversations.
        warn: print the places of broken rows of a file.

    Raises:
        InputError: a row holds no replies; names its place.
    """
    if isinstance(source, Path):
        placed = read_placed(source, "candidates", warn)
    else:
        placed = (Placed(f"row {number}", dict(row)) for number, row in enumerate(source, 1))
    for where, row in placed:
        keyed = row if "key" in row else {"key": fingerprint(row), **row}
        if row.get("failure"):
            continue
        if "candidates" in row or "messages" not in row:
            yield parse(CandidateRow, _of_published(keyed), where)
        else:
            yield from _of_conversation(keyed, replies, where)


def _of_conversation(row: Mapping[str, Any], replies: str, where: str) -> Iterator[CandidateRow]:
    fields = {name: value for name, value in row.items() if name != "key"}
    talk = parse(Conversation, fields, where)
    if replies == "last" or (replies == "generated" and "dialogue" not in talk.meta):
        yield parse(CandidateRow, row, where)
        return
    places = [
        place
        for place, message in enumerate(talk.messages)
        if message.role == Role.ASSISTANT
        and place >= first_generated(talk)
        and any(before.role == Role.USER for before in talk.messages[:place])
    ]
    others = {name: value for name, value in row.items() if name not in Conversation.model_fields}
    names = ("id", "intent", "profile", "problem", "source", "licence")
    kept = {name: value for name in names if (value := getattr(talk, name)) is not None}
    for place in places:
        info = talk.meta.get("turns", {}).get(str(place))
        by = {"model": info["model"]} if isinstance(info, Mapping) and info.get("model") else {}
        reply = Candidate(text=talk.messages[place].content)
        fields = {"key": fingerprint([row["key"], place]), "turn": place, "messages": talk.messages[:place]}
        yield parse(CandidateRow, {**others, **kept, **by, **fields, "candidates": [reply]}, where)


def _of_published(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a row of socratic-llm's `evaluation/{dataset}/{model}.json` to a row of candidates; keep other rows."""
    if "messages" in row or not isinstance(row.get("prompt"), str) or not isinstance(row.get("output"), str):
        return row
    return {
        "key": row["key"],
        "id": fingerprint(row["prompt"])[:16],
        "messages": [{"role": "user", "content": row["prompt"]}],
        "candidates": [{"text": row["output"]}],
    }


def _hash(rows: Iterable[CandidateRow]) -> tuple[int, str]:
    """The number of rows, and a hash of their keys that does not depend on their order."""
    keys = sorted(row.key for row in rows)
    return len(keys), sha256("\n".join(keys).encode()).hexdigest()[:32]


def _first_error(stage: Stage) -> str:
    found = (verdict["error"] for row in stage.rows.rows() for verdict in row["verdicts"] if verdict["error"])
    return next(found, "")
