"""A model as judge of MT-Bench or Vicuna-Bench answers, in FastChat's form (Zheng et al. 2023, arXiv 2306.05685).

Temperature 0, 2048 tokens; one call for each answered turn, or two for a pair, the answers swapped in the second.
Math, reasoning and coding are judged with a reference. A verdict that cannot be read is -1 (`error` in a pair), as in
FastChat, and is not asked for again: at temperature 0 it would come again. So is one of a judge that did not answer,
where so many failures are accepted. Both are counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.console import note
from maieutic.core.errors import EmptyCorpus, InputError, ModelError, RenderError
from maieutic.core.messages import Fault, Sampling, fingerprint
from maieutic.core.store import Stage
from maieutic.core.workers import check_rate, fault_of, run_pending
from maieutic.evals import verdicts
from maieutic.evals.mt_bench import side
from maieutic.evals.mt_files import NEED_REFERENCE, Answer, Question, read_answers, read_questions
from maieutic.evals.mt_prompts import Asked, Prompts, load
from maieutic.evals.result_file import run_folder, write_lines
from maieutic.models import ChatModel, identity

_UNREADABLE = (
    "The file is written, with those at -1 or `error`. Choose another judge, or raise --max-failure-rate."
)
_KEPT = ("judged", "unscored", "without_reference")
"""What the manifest holds of the result."""


class Judged(NamedTuple):
    """What the file holds, and what this call did."""

    judged: int
    """Judgments in the file: turns of answers, or of pairs."""
    unscored: int
    """Of them without a score, or with an error in either game."""
    without_reference: int
    """Of them on math, reasoning or coding, for which no reference answer was at hand."""
    calls: int
    """Calls to the judge in this call."""
    seconds: float
    out: str


class _Call(NamedTuple):
    """One question to the judge."""

    key: str
    question: Question
    turn: int
    models: tuple[str, ...]
    """The judged one; or both, in the file's order."""
    swapped: bool
    asked: Asked
    material: tuple[str, ...]
    """The judged texts."""


def judge(
    answers: Sequence[Path],
    model: ChatModel,
    out: Path | None = None,
    *,
    run: Path | None = None,
    baseline: str | None = None,
    questions: Path | None = None,
    references: Path | None = None,
    prompts: Path | None = None,
    turns: int = 2,
    max_tokens: int = 2048,
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
) -> Judged:
    """Judge answers into `out`.

    Args:
        answers: answers of one or more models, in FastChat's form.
        model: the judge; closed at the end.
        out: the JSONL file of judgments, made when everything was worked on; by default `STEM_single.jsonl` or
            `STEM_pair.jsonl` beside the first answers.
        run: the stage's folder, in which the same call goes on; by default `out` with `.run` after it.
        baseline: compare with this one instead of rating: a file of answers, or a model of `answers` or of
            `NAME.jsonl` beside them.
        questions: FastChat's question.jsonl; by default as the answers carry them.
        references: reference answers; see `read_questions`.
        prompts: judge prompts in FastChat's form; by default our own.
        turns: of a question at most; 1 for Vicuna-Bench.
        max_tokens: new tokens of a judgment.
        concurrency: calls under way at once.
        max_failure_rate: the share of calls that failed, or of verdicts that cannot be read, past which the run
            ends as failed.

    Raises:
        TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus, InputError.
    """
    if references and not questions:
        raise InputError("--references without --questions", "Give FastChat's question.jsonl with them.")
    kind = "pair" if baseline else "single"
    out = out or answers[0].with_name(f"{answers[0].stem}_{kind}.jsonl")
    given = [answer for path in answers for answer in read_answers(path)]
    known = read_questions(questions, references) if questions else _carried(given, answers[0])
    wording = load(kind, prompts)
    work = _Judging(model, wording, Sampling(temperature=0, max_tokens=max_tokens))
    against = _baseline(baseline, given, answers[0]) if baseline else None
    calls = list(work.calls(known, _by_question(given), against, turns))
    if not calls:
        raise EmptyCorpus(
            f"{answers[0]}: no answer to judge", "Check that the answers belong to the questions."
        )
    return asyncio.run(work.run(calls, out, run or run_folder(out), concurrency, max_failure_rate))


def _carried(answers: Sequence[Answer], path: Path) -> list[Question]:
    """The questions that the answers carry."""
    if any(answer.asked is None for answer in answers):
        raise InputError(
            f"{path}: the answers do not say what was asked", "Give --questions, FastChat's question.jsonl."
        )
    found: dict[str, Question] = {}
    for answer in answers:
        if answer.asked and found.setdefault(answer.question, answer.asked) != answer.asked:
            raise InputError(
                f"question {answer.question} is not the same in every answer",
                "Give --questions, FastChat's question.jsonl.",
            )
    return list(found.values())


def _baseline(name: str, given: Sequence[Answer], path: Path) -> tuple[str, dict[str, Answer]]:
    """The model that the others are compared with, and its answers by question."""
    files = [Path(name), path.parent / f"{name}.jsonl"]
    own = [answer for answer in given if answer.model == name]
    if not own:
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            models = ", ".join(sorted({answer.model for answer in given}))
            raise InputError(
                f"no answers of {name!r}", f"Give a file of answers, or one of the models at hand: {models}."
            )
        own = read_answers(file)
    if len({answer.model for answer in own}) > 1:
        raise InputError(f"{name} holds several models", "Name one: --pairwise MODEL, its file in --answers.")
    return own[0].model, {answer.question: answer for answer in own}


def _by_question(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.question, []).append(answer)
    return found


class _Judging:
    def __init__(self, model: ChatModel, prompts: Prompts, sampling: Sampling) -> None:
        self._model, self._prompts, self._sampling = model, prompts, sampling
        self._calls = 0

    def calls(
        self,
        questions: Sequence[Question],
        answers: dict[str, list[Answer]],
        baseline: tuple[str, dict[str, Answer]] | None,
        turns: int,
    ) -> Iterator[_Call]:
        """Every call there is to make, in the order of the file: first turns, then second ones."""
        missing = 0
        for turn in range(1, turns + 1):
            for question in questions:
                if turn > len(question.turns):
                    continue
                for answer in answers.get(str(question.id), ()):
                    shown = [answer]
                    if baseline:
                        name, others = baseline
                        if answer.model == name:
                            continue
                        shown += [others[answer.question]] if answer.question in others else []
                    if len(shown) == 1 + bool(baseline) and all(turn <= len(one.turns) for one in shown):
                        yield from self._asked(question, turn, shown)
                    else:
                        missing += 1
        asked = {str(question.id) for question in questions}
        if strangers := sum(len(own) for id, own in answers.items() if id not in asked):
            note(f"{strangers} answers to questions that are not in the question file are not judged")
        if unanswered := sum(str(question.id) not in answers for question in questions):
            note(f"{unanswered} of {len(questions)} questions have no answer and are not judged")
        if missing:
            note(f"{missing} turns are not judged: the answer, or the baseline's, is missing")

    def _asked(self, question: Question, turn: int, shown: Sequence[Answer]) -> Iterator[_Call]:
        models = tuple(answer.model for answer in shown)
        for swapped in (False, True)[: len(shown)]:
            texts = [answer.turns[:turn] for answer in (reversed(shown) if swapped else shown)]
            asked = self._prompts.ask(question, turn, texts)
            key = fingerprint(
                [str(question.id), turn, models, swapped, *asked, self._model.id, self._sampling.model_dump()]
            )
            material = tuple(text for own in texts for text in own)
            yield _Call(key, question, turn, models, swapped, asked, material)

    async def run(
        self, calls: list[_Call], out: Path, folder: Path, concurrency: int, max_failure_rate: float
    ) -> Judged:
        started = time.monotonic()
        config = {
            "stage": "benchmark-judge",
            "kind": self._prompts.kind,
            "judge": identity(self._model),
            "prompts": self._prompts.hash,
            "sampling": self._sampling,
            "calls": fingerprint([call.key for call in calls]),
        }
        try:
            with Stage(folder, config) as stage:
                await self._model.check()
                await run_pending(
                    stage,
                    ((call.key, call) for call in calls),
                    self._row,
                    self._given_up,
                    concurrency=concurrency,
                    max_failure_rate=max_failure_rate,
                    total=len(calls),
                    label="judge",
                )
                rows = {row["key"]: row for row in stage.rows.rows()}
                lines = list(self._lines(calls, rows))
                write_lines(out, lines)
                result = self._counted(calls, lines, out, time.monotonic() - started)
                unread = [row["judgment"] for row in rows.values() if row["verdict"] is None]
                first = " ".join(unread[0].split())[:80] if unread else ""
                check_rate(
                    len(unread), len(rows), max_failure_rate, "unreadable verdicts", first, _UNREADABLE
                )
                stage.finish({name: value for name, value in result._asdict().items() if name in _KEPT})
        finally:
            await self._model.close()
        return result

    async def _row(self, call: _Call) -> dict[str, Any]:
        reply = await self._model.reply(call.asked.messages, self._sampling)
        self._calls += 1
        read = verdicts.rating if self._prompts.kind == "single" else verdicts.winner
        return {"judgment": reply.text, "verdict": read(reply.text, call.material), "tstamp": time.time()}

    @staticmethod
    def _given_up(call: _Call, error: ModelError | RenderError) -> dict[str, Any]:
        fault = fault_of(error, Fault.JUDGE)
        return {
            "judgment": "",
            "verdict": None,
            "tstamp": time.time(),
            "fault": fault,
            "error": error.what,
        }

    def _lines(self, calls: Sequence[_Call], rows: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """FastChat's judgments: one a call, or one for the two games of a pair."""
        if self._prompts.kind == "single":
            for call in calls:
                yield self._rated(call, rows[call.key])
        else:
            for first, second in zip(calls[::2], calls[1::2], strict=True):
                yield self._compared(first, second, rows)

    def _rated(self, call: _Call, row: dict[str, Any]) -> dict[str, Any]:
        score = row["verdict"]
        return {
            "question_id": call.question.id,
            "model": call.models[0],
            "judge": [self._model.id, call.asked.name],
            "user_prompt": call.asked.user,
            "judgment": row["judgment"],
            "score": -1 if score is None else int(score) if float(score).is_integer() else score,
            "turn": call.turn,
            "tstamp": row["tstamp"],
        }

    def _compared(self, first: _Call, second: _Call, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
        games = [(call, rows[call.key]) for call in (first, second)]
        winners = [side(row["verdict"], swapped=call.swapped) or "error" for call, row in games]
        shape: dict[str, Any] = {
            "question_id": first.question.id,
            "model_1": first.models[0],
            "model_2": first.models[1],
            **{f"g{place}_winner": winner for place, winner in enumerate(winners, 1)},
            "judge": [self._model.id, first.asked.name],
        }
        for place, (call, row) in enumerate(games, 1):
            shape |= {f"g{place}_user_prompt": call.asked.user, f"g{place}_judgment": row["judgment"]}
        return {**shape, "turn": first.turn, "tstamp": games[1][1]["tstamp"]}

    def _counted(
        self, calls: Sequence[_Call], lines: Sequence[dict[str, Any]], out: Path, seconds: float
    ) -> Judged:
        unscored = sum(
            line.get("score") == -1 or "error" in (line.get("g1_winner"), line.get("g2_winner"))
            for line in lines
        )
        bare = sum(
            call.question.category in NEED_REFERENCE and len(call.question.reference) < call.turn
            for call in calls
            if not call.swapped
        )
        if bare:
            note(
                f"{bare} judgments on {', '.join(NEED_REFERENCE)} had no reference answer; "
                "published scores have one: give --questions and --references"
            )
        return Judged(len(lines), unscored, bare, self._calls, round(seconds, 3), str(out))
