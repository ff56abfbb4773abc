"""A model's outputs for AlpacaEval, in its `model_outputs.json` form (github.com/tatsu-lab/alpaca_eval).

The outputs stand in the order of the instructions, and without the white space around them, as AlpacaEval keeps them.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.console import note
from maieutic.core.errors import InputError, ModelError, RenderError
from maieutic.core.messages import Fault, Finish, Message, Role, Sampling, fingerprint, utf8
from maieutic.core.store import Stage, write_json
from maieutic.core.workers import fault_of, run_pending
from maieutic.evals.files import read_table
from maieutic.evals.result_file import never_fewer, run_folder
from maieutic.models import ChatModel, identity


class Answered(NamedTuple):
    """What the file holds, and what this call did."""

    outputs: int
    """Instructions with an output, in the file."""
    failed: int
    """Instructions that failed; they are not in the file."""
    cut: int
    """Outputs in the file that stopped at the token limit."""
    replies: int
    """Replies asked for in this call."""
    tokens: int
    """New tokens of this call."""
    seconds: float
    out: str


class Output(NamedTuple):
    """One row of an outputs file; of an instruction file, perhaps without an output."""

    instruction: str
    output: str | None
    generator: str
    dataset: str | None


def read_outputs(path: Path) -> list[Output]:
    """The instructions of a file, and what was said to them.

    Raises:
        MissingInput, EmptyCorpus, InputError: the file, or which of its rows, cannot be used.
    """
    rows, notes = read_table(path)
    for text in notes:
        note(text)
    found = []
    for place, row in enumerate(rows, 1):
        instruction, output, dataset = row.get("instruction"), row.get("output"), row.get("dataset")
        if not isinstance(instruction, str):
            raise InputError(
                f"{path}, row {place}: no instruction (it holds {', '.join(sorted(row)[:8])})",
                "Give AlpacaEval's JSON: rows with instruction, output and generator.",
            )
        found.append(
            Output(
                utf8(instruction),
                utf8(output) if isinstance(output, str) else None,
                str(row.get("generator") or path.stem),
                dataset if isinstance(dataset, str) else None,
            )
        )
    return found


def answer(
    model: ChatModel,
    instructions: Path,
    out: Path,
    *,
    run: Path | None = None,
    name: str | None = None,
    temperature: float = 0.7,
    max_tokens: int = 2048,
    seed: int = 0,
    limit: int | None = None,
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
) -> Answered:
    """Answer the instructions of a file into `out`.

    Args:
        model: closed at the end.
        instructions: AlpacaEval's set (its rows may hold a reference's outputs; they are not shown to the model).
        out: the JSON file of outputs, made when every instruction was worked on.
        run: the stage's folder, in which the same call goes on; by default `out` with `.run` after it.
        name: the model's name in the file (`generator`); by default its MODEL.
        temperature: of each draw.
        max_tokens: new tokens of an output.
        seed: instruction i is drawn with seed + i.
        limit: only the first so many instructions; refused where `out` already holds more.
        concurrency: instructions under way at once.
        max_failure_rate: the share of failed instructions past which the run ends as failed.

    Raises:
        TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus, InputError.
    """
    folder = run or run_folder(out)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    work = _Answering(model, name or model.id, sampling)
    return asyncio.run(
        work.run(read_outputs(instructions), limit, out, folder, concurrency, max_failure_rate)
    )


class _Item(NamedTuple):
    key: str
    asked: Output
    sampling: Sampling


class _Answering:
    def __init__(self, model: ChatModel, name: str, sampling: Sampling) -> None:
        self._model, self._name, self._sampling = model, name, sampling
        self._replies = self._tokens = 0

    async def run(
        self,
        rows: list[Output],
        limit: int | None,
        out: Path,
        folder: Path,
        concurrency: int,
        max_failure_rate: float,
    ) -> Answered:
        started = time.monotonic()
        config = {
            "stage": "alpaca-answer",
            "model": identity(self._model),
            "name": self._name,
            "sampling": self._sampling,
            "instructions": fingerprint([row.instruction for row in rows]),
        }
        items = [self._item(place, row) for place, row in enumerate(rows[:limit])]
        try:
            never_fewer(out, len(items))
            with Stage(folder, config) as stage:
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
                made = {row["key"]: row for row in stage.rows.rows()}
                whole = [(item, row) for item in items if "output" in (row := made[item.key])]
                write_json(out, [self._line(item, row) for item, row in whole])
                counts = {
                    "outputs": len(whole),
                    "failed": len(items) - len(whole),
                    "cut": sum(row["finish"] == Finish.LENGTH for _, row in whole),
                }
                stage.finish(counts)
        finally:
            await self._model.close()
        seconds = round(time.monotonic() - started, 3)
        return Answered(**counts, replies=self._replies, tokens=self._tokens, seconds=seconds, out=str(out))

    def _item(self, place: int, asked: Output) -> _Item:
        sampling = self._sampling.model_copy(update={"seed": self._sampling.seed + place})
        return _Item(fingerprint([asked.instruction, self._model.id, sampling.model_dump()]), asked, sampling)

    async def _row(self, item: _Item) -> dict[str, Any]:
        reply = await self._model.reply(
            [Message(role=Role.USER, content=item.asked.instruction)], item.sampling
        )
        self._replies += 1
        self._tokens += reply.completion_tokens
        return {"output": reply.text.strip(), "finish": reply.finish}

    @staticmethod
    def _given_up(item: _Item, error: ModelError | RenderError) -> dict[str, Any]:
        fault = fault_of(error, Fault.ASSISTANT_MODEL)
        return {"instruction": item.asked.instruction, "fault": fault, "error": error.what}

    def _line(self, item: _Item, row: dict[str, Any]) -> dict[str, Any]:
        dataset = {"dataset": item.asked.dataset} if item.asked.dataset else {}
        return {
            **dataset,
            "instruction": item.asked.instruction,
            "output": row["output"],
            "generator": self._name,
        }
