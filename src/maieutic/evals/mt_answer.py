"""A model's answers to MT-Bench or Vicuna-Bench, in FastChat's form (Zheng et al. 2023, arXiv 2306.05685).

Turns are asked one after the other, each answer standing in the conversation of the next; the temperature is the
category's. A turn that was answered is never asked again, also not after a kill in the middle of a question.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import ModelError, RenderError
from maieutic.core.messages import Fault, Finish, Message, Role, Sampling, fingerprint
from maieutic.core.store import Journal, Stage
from maieutic.core.workers import fault_of, run_pending
from maieutic.evals.mt_files import Question, read_questions
from maieutic.evals.result_file import never_fewer, run_folder, write_lines
from maieutic.models import ChatModel, identity


class Answered(NamedTuple):
    """What the file holds, and what this call did."""

    answers: int
    """Questions with answers, in the file."""
    failed: int
    """Questions that failed; they are not in the file."""
    cut: int
    """Answers in the file that stopped at the token limit."""
    replies: int
    """Replies asked for in this call."""
    tokens: int
    """New tokens of this call."""
    seconds: float
    out: str


def answer(
    model: ChatModel,
    questions: Path,
    out: Path,
    *,
    run: Path | None = None,
    name: str | None = None,
    turns: int = 2,
    references: Path | None = None,
    max_tokens: int = 1024,
    seed: int = 0,
    limit: int | None = None,
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
) -> Answered:
    """Answer the questions of a file into `out`.

    Args:
        model: closed at the end.
        questions: FastChat's question.jsonl.
        out: the JSONL file of answers, made when every question was worked on.
        run: the stage's folder, in which the same call goes on; by default `out` with `.run` after it.
        name: the model's name in the file; by default its MODEL.
        turns: of a question at most; 1 for Vicuna-Bench.
        references: reference answers, kept beside the questions in the file for the judge; see `read_questions`.
        max_tokens: new tokens of a reply; FastChat has 1024.
        seed: question i is drawn with seed + i.
        limit: only the first so many questions; refused where `out` already holds more.
        concurrency: questions under way at once.
        max_failure_rate: the share of failed questions past which the run ends as failed.

    Raises:
        TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus, InputError.
    """
    asked = [
        question._replace(turns=question.turns[:turns]) for question in read_questions(questions, references)
    ]
    folder = run or run_folder(out)
    work = _Answering(model, name or model.id, max_tokens, seed)
    return asyncio.run(work.run(asked, limit, out, folder, concurrency, max_failure_rate))


class _Item(NamedTuple):
    key: str
    question: Question
    sampling: Sampling


class _Answering:
    def __init__(self, model: ChatModel, name: str, max_tokens: int, seed: int) -> None:
        self._model, self._name, self._max_tokens, self._seed = model, name, max_tokens, seed
        self._replies = self._tokens = 0
        self._turns: Journal
        self._said: dict[str, dict[str, Any]] = {}

    async def run(
        self,
        questions: list[Question],
        limit: int | None,
        out: Path,
        folder: Path,
        concurrency: int,
        max_failure_rate: float,
    ) -> Answered:
        started = time.monotonic()
        config = {
            "stage": "answer",
            "model": identity(self._model),
            "name": self._name,
            "max_tokens": self._max_tokens,
            "seed": self._seed,
            "questions": fingerprint([[q.row(), q.temperature] for q in questions]),
        }
        items = [self._item(place, question) for place, question in enumerate(questions[:limit])]
        try:
            never_fewer(out, len(items))
            with Stage(folder, config) as stage:
                self._turns = stage.journal("turns")
                self._said = {row["key"]: row for row in self._turns.rows()}
                await self._model.check()
                await run_pending(
                    stage,
                    ((item.key, item) for item in items),
                    self._row,
                    self._given_up,
                    concurrency=concurrency,
                    max_failure_rate=max_failure_rate,
                    total=len(items),
                    label="answer",
                )
                rows = {row["key"]: row for row in stage.rows.rows()}
                whole = [row for item in items if "choices" in (row := rows[item.key])]
                write_lines(out, [self._line(row) for row in whole])
                counts = {
                    "answers": len(whole),
                    "failed": len(items) - len(whole),
                    "cut": sum(finish == Finish.LENGTH for row in whole for finish in row["finish"]),
                }
                stage.finish(counts)
        finally:
            await self._model.close()
        seconds = round(time.monotonic() - started, 3)
        return Answered(**counts, replies=self._replies, tokens=self._tokens, seconds=seconds, out=str(out))

    def _item(self, place: int, question: Question) -> _Item:
        sampling = Sampling(
            temperature=question.temperature, max_tokens=self._max_tokens, seed=self._seed + place
        )
        key = fingerprint([str(question.id), question.turns, self._model.id, sampling.model_dump()])
        return _Item(key, question, sampling)

    async def _row(self, item: _Item) -> dict[str, Any]:
        messages: list[Message] = []
        said: list[dict[str, Any]] = []
        for place, text in enumerate(item.question.turns):
            messages.append(Message(role=Role.USER, content=text))
            said.append(await self._reply(f"{item.key}:{place}", messages, item.sampling))
            messages.append(Message(role=Role.ASSISTANT, content=said[-1]["text"]))
        return {
            "question_id": item.question.id,
            "answer_id": item.key[:22],
            "model_id": self._name,
            "choices": [{"index": 0, "turns": [one["text"] for one in said]}],
            "tstamp": time.time(),
            "question": item.question.row(),
            "finish": [one["finish"] for one in said],
        }

    async def _reply(self, key: str, messages: list[Message], sampling: Sampling) -> dict[str, Any]:
        """The answer to one turn, asked for once."""
        if key not in self._said:
            reply = await self._model.reply(tuple(messages), sampling)
            self._replies += 1
            self._tokens += reply.completion_tokens
            row = {"text": reply.text, "finish": reply.finish}
            self._turns.append(key, row)
            self._said[key] = row
        return self._said[key]

    def _given_up(self, item: _Item, error: ModelError | RenderError) -> dict[str, Any]:
        fault = fault_of(error, Fault.ASSISTANT_MODEL)
        return {"question_id": item.question.id, "fault": fault, "error": error.what}

    @staticmethod
    def _line(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in ("key", "finish")}
