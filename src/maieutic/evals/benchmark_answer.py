"""Answer a benchmark's questions: MT-Bench in FastChat's form (Zheng et al. 2023, arXiv 2306.05685), and AlpacaEval.

The model gets the turns of a question one after the other, each with the earlier turns and answers. After a restart,
answered turns are not asked again, even in the middle of a question.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from maieutic.core.budget import Spending
from maieutic.core.messages import Fault, Finish, Message, Role, Sampling, fingerprint
from maieutic.core.store import Journal, Stage, write_json
from maieutic.core.workers import Failed, fault_of, open_stage, run_async, run_pending
from maieutic.evals.benchmark_files import read_outputs, read_questions, refuse_fewer_rows, write_lines
from maieutic.models import ChatModel, identity, load

if TYPE_CHECKING:
    from maieutic.evals.benchmark_steps import (
        EvalAlpacaEvalAnswer,
        EvalAlpacaEvalJudge,
        EvalMtBenchAnswer,
        EvalMtBenchJudge,
    )

    AskingStep: TypeAlias = EvalMtBenchAnswer | EvalMtBenchJudge | EvalAlpacaEvalAnswer | EvalAlpacaEvalJudge

Row = dict[str, Any]


class Keyed(Protocol):
    """An item of work, such as a question, with its key."""

    @property
    def key(self) -> str:
        """The key of the item's row."""
        ...


Item = TypeVar("Item", bound=Keyed)


class Asked(NamedTuple):
    """The turns of one question, and how they are sampled."""

    key: str
    turns: tuple[str, ...]
    sampling: Sampling


class Run(NamedTuple):
    """A running benchmark step."""

    step: AskingStep
    model: ChatModel
    folder: Path
    """The run folder in which rows are collected."""
    spending: Spending
    started: float

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self.started, 3)

    def items(
        self,
        label: str,
        config: Mapping[str, Any],
        items: Sequence[Item],
        work: Callable[[Item], Awaitable[Row]],
        on_failure: Callable[[Item, Failed], Row],
        finish: Callable[[list[Row]], dict[str, Any]],
        begin: Callable[[Stage], None] = lambda stage: None,
    ) -> dict[str, Any]:
        """Make a row for each item that has no row yet, then call `finish` with all rows; returns the manifest.

        Args:
            label: the progress bar's label.
            config: the settings that decide the rows.
            items: in the order of the result file.
            work: makes an item's row.
            on_failure: makes the row of a failed item, where failures are accepted.
            finish: writes the result file from the items' rows, and returns its counts.
            begin: called with the open run folder before any work.
        """

        async def run() -> dict[str, Any]:
            requests = self.step.requests
            async with open_stage(self.folder, {"do": self.step.command, **config}, [self.model]) as stage:
                begin(stage)
                await run_pending(
                    stage,
                    ((item.key, item) for item in items),
                    work,
                    on_failure,
                    concurrency=requests.concurrency,
                    max_failure_rate=requests.max_failure_rate,
                    total=len(items),
                    label=label,
                    spending=self.spending,
                )
                rows = {row["key"]: row for row in stage.rows.rows()}
                counts = finish([rows[item.key] for item in items])
                stage.finish(counts)
            return counts

        return run_async(run())


def start(step: AskingStep, model: Any, folder: Path) -> Run:
    """Load the model of a step."""
    spending = Spending(step.budget.checked([model] if isinstance(model, str) else []))
    loaded = load(model, step.local, step.requests) if isinstance(model, str) else model
    return Run(step, loaded, folder, spending, time.monotonic())


def answer_mt_bench(step: EvalMtBenchAnswer, out: Path, folder: Path) -> dict[str, Any]:
    """Answer FastChat's questions into `out`, at the temperature of each question's category."""
    questions = [
        question._replace(turns=question.turns[: step.turns])
        for question in read_questions(step.questions, step.references)
    ]
    kept = questions[: step.limit]
    refuse_fewer_rows(out, len(kept))
    run = start(step, step.model, folder)
    name = step.name or run.model.id
    items = []
    for place, question in enumerate(kept):
        sampling = Sampling(
            temperature=question.temperature, max_tokens=step.max_tokens, seed=step.seed + place
        )
        parts = [str(question.id), question.turns, run.model.id, sampling.model_dump()]
        items.append(Asked(fingerprint(parts), question.turns, sampling))
    config = {
        "model": identity(run.model),
        "name": name,
        "max_tokens": step.max_tokens,
        "seed": step.seed,
        "questions": fingerprint([[q.row(), q.temperature] for q in questions]),
    }

    def write(whole: Sequence[tuple[int, Row]]) -> None:
        write_lines(
            out,
            (
                {
                    "question_id": kept[place].id,
                    "answer_id": items[place].key[:22],
                    "model_id": name,
                    "choices": [{"index": 0, "turns": row["texts"]}],
                    "tstamp": row["tstamp"],
                    "question": kept[place].row(),
                }
                for place, row in whole
            ),
        )

    return _answer(run, config, items, write)


def answer_alpaca_eval(step: EvalAlpacaEvalAnswer, out: Path, folder: Path) -> dict[str, Any]:
    """Answer AlpacaEval's instructions into `out`, in their order, without white space around the outputs."""
    instructions = read_outputs(step.instructions)
    kept = instructions[: step.limit]
    refuse_fewer_rows(out, len(kept))
    run = start(step, step.model, folder)
    name = step.name or run.model.id
    items = []
    for place, row in enumerate(kept):
        sampling = step.sampling.model_copy(update={"seed": step.sampling.seed + place})
        key = fingerprint([row.instruction, run.model.id, sampling.model_dump()])
        items.append(Asked(key, (row.instruction,), sampling))
    config = {
        "model": identity(run.model),
        "name": name,
        "sampling": step.sampling,
        "instructions": fingerprint([row.instruction for row in instructions]),
    }

    def write(whole: Sequence[tuple[int, Row]]) -> None:
        lines = []
        for place, row in whole:
            asked = kept[place]
            dataset = {"dataset": asked.dataset} if asked.dataset else {}
            output = row["texts"][0].strip()
            lines.append({**dataset, "instruction": asked.instruction, "output": output, "generator": name})
        write_json(out, lines)

    return _answer(run, config, items, write)


def _answer(
    run: Run,
    config: Mapping[str, Any],
    items: Sequence[Asked],
    write: Callable[[Sequence[tuple[int, Row]]], None],
) -> dict[str, Any]:
    """Answer every item; `write` gets the rows that did not fail, each with its place."""
    journal: Journal
    answered: dict[str, Row] = {}

    def begin(stage: Stage) -> None:
        nonlocal journal
        journal = stage.journal("turns")
        answered.update((row["key"], row) for row in journal.rows())

    async def reply(key: str, messages: Sequence[Message], item: Asked) -> Row:
        if key not in answered:
            made = await run.model.reply(tuple(messages), item.sampling)
            run.spending.charge(made)
            answered[key] = {"text": made.text, "finish": made.finish}
            if len(item.turns) > 1:
                journal.append(key, answered[key])
        return answered[key]

    async def work(item: Asked) -> Row:
        messages: list[Message] = []
        replies: list[Row] = []
        for place, text in enumerate(item.turns):
            messages.append(Message(role=Role.USER, content=text))
            replies.append(await reply(f"{item.key}:{place}", messages, item))
            messages.append(Message(role=Role.ASSISTANT, content=replies[-1]["text"]))
        return {
            "texts": [one["text"] for one in replies],
            "finish": [one["finish"] for one in replies],
            "tstamp": time.time(),
        }

    def on_failure(item: Asked, error: Failed) -> Row:
        return {"fault": fault_of(error, Fault.ASSISTANT_MODEL), "error": error.what}

    def finish(rows: list[Row]) -> dict[str, Any]:
        whole = [(place, row) for place, row in enumerate(rows) if "texts" in row]
        write(whole)
        cut = sum(finish == Finish.LENGTH for _, row in whole for finish in row["finish"])
        return {"answers": len(whole), "failed": len(rows) - len(whole), "cut": cut}

    counts = run.items("answer", config, items, work, on_failure, finish, begin)
    return {
        **counts,
        "replies": run.spending.replies,
        "tokens": run.spending.tokens,
        "seconds": run.seconds,
    }
