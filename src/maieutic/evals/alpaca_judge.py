"""A model as judge of AlpacaEval outputs against a reference's (Dubois et al. 2023, arXiv 2305.14387; 2404.04475).

The judge sees the two outputs as models m and M, in an order that a hash of the instruction decides, and answers with
one letter. Where the model tells the log-probabilities of its first token, the preference is 2 - P(m)/(P(m) + P(M)),
turned round where the order was; else it is 1 or 2 by the letter. Equal outputs are 1.5 without a call. What cannot
be read is null and counted, never a draw.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from maieutic.core import prompts
from maieutic.core.console import note
from maieutic.core.errors import EmptyCorpus, InputError, ModelError, RenderError
from maieutic.core.messages import Fault, Message, Reply, Role, Sampling, fingerprint
from maieutic.core.prompts import fenced
from maieutic.core.store import Stage, write_json
from maieutic.core.workers import check_rate, fault_of, run_pending
from maieutic.evals.alpaca_answer import Output, read_outputs
from maieutic.evals.result_file import run_folder
from maieutic.models import ChatModel, identity

PROMPT = "alpaca_eval_pair"
_LETTER = re.compile(r"(?<![\w'’])[mM](?![\w'’])")
_UNREADABLE = "The file is written, with null for those. Choose another judge, or raise --max-failure-rate."


@runtime_checkable
class Weighs(Protocol):
    """A model that can tell how likely its first token was, and what could have stood in its place."""

    async def reply_with_first(
        self, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[Reply, Mapping[str, float]]:
        """A reply, and natural-log probabilities of its likeliest first tokens; none where the server gives none."""
        ...


class Judged(NamedTuple):
    """What the file holds, and what this call did."""

    judged: int
    """Annotations in the file."""
    unscored: int
    """Of them without a preference."""
    weighted: int
    """Of them by log-probabilities."""
    equal: int
    """Of them with equal outputs: a draw without a call."""
    calls: int
    """Calls to the judge in this call."""
    seconds: float
    out: str


class _Item(NamedTuple):
    key: str
    row: dict[str, Any]
    """The annotation without what the judge says."""
    swapped: bool
    """Whether the model's output is shown first, as m."""
    prompt: str


def judge(
    outputs: Path,
    reference: Path,
    model: ChatModel,
    out: Path,
    *,
    run: Path | None = None,
    prompt: str = PROMPT,
    max_tokens: int = 16,
    concurrency: int = 32,
    max_failure_rate: float = 0.05,
) -> Judged:
    """Compare a model's outputs with a reference's, into `out`.

    Args:
        outputs: the model's, AlpacaEval's model_outputs.json.
        reference: the reference's, in the same form; annotations stand in its order.
        model: the judge; closed at the end.
        out: the JSON file of annotations, made when everything was worked on.
        run: the stage's folder, in which the same call goes on; by default `out` with `.run` after it.
        prompt: a prompt's name or `.md` file with `{{mark}}` and `{{material}}`, that asks for m or M.
        max_tokens: new tokens of a verdict; a judge that thinks first needs more.
        concurrency: calls under way at once.
        max_failure_rate: the share of calls that failed, or of verdicts that cannot be read, past which the run
            ends as failed.

    Raises:
        TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull, MissingInput, EmptyCorpus, InputError.
    """
    pairs = list(_pairs(read_outputs(reference), read_outputs(outputs)))
    if not pairs:
        raise EmptyCorpus(
            f"{outputs}: none of its instructions is in {reference}",
            "Give outputs for the same instructions.",
        )
    if len(models := {mine.generator for _, mine in pairs}) > 1:
        raise InputError(f"{outputs} holds {len(models)} models", "Give the outputs of one.")
    work = _Judging(model, prompts.load(prompt), Sampling(temperature=0, max_tokens=max_tokens))
    return asyncio.run(work.run(pairs, out, run or run_folder(out), concurrency, max_failure_rate))


def _pairs(reference: Sequence[Output], mine: Sequence[Output]) -> Iterator[tuple[Output, Output]]:
    """The reference's rows with the model's on the same instruction; of an instruction that comes again, its turn."""
    waiting: dict[str, list[Output]] = defaultdict(list)
    for row in reversed(mine):
        if row.output is not None:
            waiting[row.instruction].append(row)
    lost = 0
    for row in reference:
        if row.output is not None and waiting[row.instruction]:
            yield row, waiting[row.instruction].pop()
        else:
            lost += 1
    if lost:
        note(f"{lost} of {len(reference)} instructions have no output of both and are not judged")
    if spare := sum(map(len, waiting.values())):
        note(f"{spare} outputs have no reference and are not judged")


def shown_first(instruction: str) -> bool:
    """Whether the model's output is shown before the reference's: by a hash, so that every run has the same order."""
    return bool(hashlib.sha256(instruction.encode()).digest()[0] & 1)


def weigh(first: Mapping[str, float]) -> float | None:
    """2 - P(m)/(P(m) + P(M)) by the log-probabilities of first tokens; null where neither is among them."""
    share = {
        letter: math.fsum(math.exp(value) for token, value in first.items() if token.strip() == letter)
        for letter in "mM"
    }
    total = share["m"] + share["M"]
    return 2 - share["m"] / total if total > 0 else None


def read_letter(text: str) -> float | None:
    """1 for m, 2 for M; null where the text has neither as a word of its own, or both."""
    letters = set(_LETTER.findall(text))
    return {"m": 1.0, "M": 2.0}[letters.pop()] if len(letters) == 1 else None


class _Judging:
    def __init__(self, model: ChatModel, prompt: prompts.Prompt, sampling: Sampling) -> None:
        self._model, self._prompt, self._sampling = model, prompt, sampling
        self._calls = 0

    async def run(
        self,
        pairs: Sequence[tuple[Output, Output]],
        out: Path,
        folder: Path,
        concurrency: int,
        max_failure_rate: float,
    ) -> Judged:
        started = time.monotonic()
        items = [self._item(*pair) for pair in pairs]
        config = {
            "stage": "alpaca-judge",
            "judge": identity(self._model),
            "prompt": self._prompt.hash,
            "sampling": self._sampling,
            "pairs": fingerprint([item.row for item in items]),
        }
        try:
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
                    label="judge",
                )
                made = {row["key"]: row for row in stage.rows.rows()}
                rows = [made[item.key] for item in items]
                write_json(out, [_line(item, row) for item, row in zip(items, rows, strict=True)])
                unread = [row for row in rows if row["preference"] is None]
                counts = {
                    "judged": len(rows),
                    "unscored": len(unread),
                    "weighted": sum(row["decided"] == "logprobs" for row in rows),
                    "equal": sum(row["decided"] == "equal" for row in rows),
                }
                first = " ".join(str(unread[0]["raw_completion"]).split())[:80] if unread else ""
                check_rate(
                    len(unread), len(rows), max_failure_rate, "unreadable verdicts", first, _UNREADABLE
                )
                stage.finish(counts)
        finally:
            await self._model.close()
        return Judged(**counts, calls=self._calls, seconds=round(time.monotonic() - started, 3), out=str(out))

    def _item(self, reference: Output, mine: Output) -> _Item:
        row = {
            **({"dataset": reference.dataset} if reference.dataset else {}),
            "instruction": reference.instruction,
            "output_1": reference.output,
            "generator_1": reference.generator,
            "output_2": mine.output,
            "generator_2": mine.generator,
            "annotator": self._model.id,
        }
        swapped = shown_first(reference.instruction)
        shown = [reference.output or "", mine.output or ""]
        mark, material = fenced(
            [
                ("the instruction", reference.instruction),
                ("the output of model m", shown[swapped]),
                ("the output of model M", shown[not swapped]),
            ]
        )
        prompt = self._prompt.fill(mark=mark, material=material)
        return _Item(fingerprint([row, prompt, self._sampling.model_dump()]), row, swapped, prompt)

    async def _row(self, item: _Item) -> dict[str, Any]:
        if item.row["output_1"] == item.row["output_2"]:
            return {"preference": 1.5, "raw_completion": "", "decided": "equal"}
        turns = [Message(role=Role.USER, content=item.prompt)]
        first: Mapping[str, float] = {}
        if isinstance(self._model, Weighs):
            reply, first = await self._model.reply_with_first(turns, self._sampling)
        else:
            reply = await self._model.reply(turns, self._sampling)
        self._calls += 1
        weighed = weigh(first)
        preference = read_letter(reply.text) if weighed is None else weighed
        if preference is not None and item.swapped:
            preference = 3 - preference
        decided = "verdict" if weighed is None else "logprobs"
        return {"preference": preference, "raw_completion": reply.text, "decided": decided}

    @staticmethod
    def _given_up(item: _Item, error: ModelError | RenderError) -> dict[str, Any]:
        fault = fault_of(error, Fault.JUDGE)
        return {
            "preference": None,
            "raw_completion": "",
            "decided": "error",
            "fault": fault,
            "error": error.what,
        }


def _line(item: _Item, row: Mapping[str, Any]) -> dict[str, Any]:
    return {**item.row, **{key: row[key] for key in ("preference", "raw_completion", "decided")}}
