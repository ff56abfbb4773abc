"""Judge AlpacaEval outputs against a reference with a model (Dubois et al. 2023, arXiv 2305.14387; 2404.04475).

The judge sees the two outputs as models m and M, in an order given by a hash of the instruction, and answers with one
letter. Where the model returns log-probabilities of its first token, the preference is 2 - P(m)/(P(m) + P(M)), and
3 minus this if m is the model's output; otherwise the letter gives 1 or 2. Equal outputs are 1.5
without a call. An unreadable verdict is null and counted, never a draw.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from maieutic.core import prompts
from maieutic.core.console import note
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Fault, Message, Reply, Role, Sampling, fingerprint
from maieutic.core.prompts import fenced
from maieutic.core.store import write_json
from maieutic.core.workers import Failed, check_rate, fault_of
from maieutic.evals.benchmark_answer import Row, start
from maieutic.evals.benchmark_files import Output, read_outputs
from maieutic.models import identity

if TYPE_CHECKING:
    from maieutic.evals.benchmark_steps import EvalAlpacaEvalJudge

_LETTER = re.compile(r"(?<![\w'’])[mM](?![\w'’])")
_UNREADABLE = "The file is written, with null for these. Choose another judge, or raise --max-failure-rate."


@runtime_checkable
class FirstTokenModel(Protocol):
    """A model that returns the log-probabilities of its first token."""

    async def reply_with_first(
        self, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[Reply, Mapping[str, float]]:
        """A reply, and natural-log probabilities of the likeliest first tokens; empty where the server has none."""
        ...


class Comparison(NamedTuple):
    """An output and the reference's output to the same instruction."""

    key: str
    row: dict[str, Any]
    """The annotation without the verdict."""
    swapped: bool
    """Whether the model's output is shown first, as m."""
    prompt: str


def judge_alpaca_eval(step: EvalAlpacaEvalJudge, out: Path, folder: Path) -> dict[str, Any]:
    """Compare a model's outputs with a reference's into `out`, in the reference's order."""
    pairs = list(_pairs(read_outputs(step.reference), read_outputs(step.answers)))
    if not pairs:
        raise EmptyCorpus(
            f"{step.answers}: none of its instructions is in {step.reference}",
            "Give outputs for the same instructions.",
        )
    if len(models := {own.generator for _, own in pairs}) > 1:
        raise InputError(f"{step.answers} holds {len(models)} models", "Give the outputs of one model.")
    prompt = prompts.load(step.prompt)
    sampling = Sampling(temperature=0, max_tokens=step.max_tokens)
    run = start(step, step.judge, folder)
    items = [_comparison(*pair, run.model.id, prompt, sampling) for pair in pairs]

    async def work(item: Comparison) -> Row:
        if item.row["output_1"] == item.row["output_2"]:
            return {"preference": 1.5, "raw_completion": "", "decided": "equal"}
        messages = [Message(role=Role.USER, content=item.prompt)]
        first: Mapping[str, float] = {}
        if isinstance(run.model, FirstTokenModel):
            reply, first = await run.model.reply_with_first(messages, sampling)
        else:
            reply = await run.model.reply(messages, sampling)
        run.spending.charge(reply)
        weighted = weighted_preference(first)
        preference = parse_letter(reply.text) if weighted is None else weighted
        if preference is not None and item.swapped:
            preference = 3 - preference
        decided = "verdict" if weighted is None else "logprobs"
        return {"preference": preference, "raw_completion": reply.text, "decided": decided}

    def on_failure(item: Comparison, error: Failed) -> Row:
        cause = {"fault": fault_of(error, Fault.JUDGE), "error": error.what}
        return {"preference": None, "raw_completion": "", "decided": "error", **cause}

    def finish(rows: list[Row]) -> dict[str, Any]:
        keys = ("preference", "raw_completion", "decided")
        lines = [
            {**item.row, **{key: row[key] for key in keys}} for item, row in zip(items, rows, strict=True)
        ]
        write_json(out, lines)
        unread = [row["raw_completion"] for row in rows if row["preference"] is None]
        first = " ".join(unread[0].split())[:80] if unread else ""
        limit = step.requests.max_failure_rate
        check_rate(len(unread), len(rows), limit, "unreadable verdicts", first, _UNREADABLE)
        return {
            "judged": len(rows),
            "unscored": len(unread),
            "weighted": sum(row["decided"] == "logprobs" for row in rows),
            "equal": sum(row["decided"] == "equal" for row in rows),
        }

    config = {
        "judge": identity(run.model),
        "prompt": prompt.hash,
        "sampling": sampling,
        "pairs": fingerprint([item.row for item in items]),
    }
    counts = run.items("judge", config, items, work, on_failure, finish)
    return {**counts, "calls": run.spending.replies, "seconds": run.seconds}


def _pairs(reference: Sequence[Output], own: Sequence[Output]) -> Iterator[tuple[Output, Output]]:
    """The reference's rows with the model's on the same instruction; repeated instructions are matched in order."""
    waiting: dict[str, list[Output]] = defaultdict(list)
    for row in reversed(own):
        if row.output is not None:
            waiting[row.instruction].append(row)
    missing = 0
    for row in reference:
        if row.output is not None and waiting[row.instruction]:
            yield row, waiting[row.instruction].pop()
        else:
            missing += 1
    if missing:
        note(f"{missing} of {len(reference)} instructions lack an output of one side and are not judged")
    if spare := sum(map(len, waiting.values())):
        note(f"{spare} outputs have no reference and are not judged")


def _comparison(
    reference: Output, own: Output, judge: str, prompt: prompts.Prompt, sampling: Sampling
) -> Comparison:
    row = {
        **({"dataset": reference.dataset} if reference.dataset else {}),
        "instruction": reference.instruction,
        "output_1": reference.output,
        "generator_1": reference.generator,
        "output_2": own.output,
        "generator_2": own.generator,
        "annotator": judge,
    }
    swapped = is_shown_first(reference.instruction)
    shown = [reference.output or "", own.output or ""]
    mark, material = fenced(
        [
            ("the instruction", reference.instruction),
            ("the output of model m", shown[swapped]),
            ("the output of model M", shown[not swapped]),
        ]
    )
    text = prompt.fill(mark=mark, material=material)
    return Comparison(fingerprint([row, text, sampling.model_dump()]), row, swapped, text)


def is_shown_first(instruction: str) -> bool:
    """Whether the model's output is shown before the reference's: by a hash, so the same in every run."""
    return bool(hashlib.sha256(instruction.encode()).digest()[0] & 1)


def weighted_preference(first: Mapping[str, float]) -> float | None:
    """2 - P(m)/(P(m) + P(M)) from log-probabilities of first tokens; null where neither letter is among them."""
    share = {
        letter: math.fsum(math.exp(value) for token, value in first.items() if token.strip() == letter)
        for letter in "mM"
    }
    total = share["m"] + share["M"]
    return 2 - share["m"] / total if total > 0 else None


def parse_letter(text: str) -> float | None:
    """1 for m, 2 for M; null where the text contains neither as a word, or both."""
    letters = set(_LETTER.findall(text))
    return {"m": 1.0, "M": 2.0}[letters.pop()] if len(letters) == 1 else None
