"""Continue each candidate reply with a student several times, to see whether the student then solves the problem.

Every reply of a candidates or judge step starts dialogues of its own: a student model answers it, the tutor answers
the student, and so on for a few turns. A continuation is *solved* where the student states the known answer and the
tutor has not (`checks.continuations`); it stops as soon as that is settled. The step runs `simulate`, so it resumes,
obeys a budget, and every message records the model that wrote it. `rewards` reads its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.checks.continuations import settled, starts
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation
from maieutic.core.rows import CandidateRow, parse, read_step
from maieutic.models import ChatModel
from maieutic.rollouts.simulate import SimulateConfig, simulate

CONTINUATIONS = 4
TURNS = 3
_UNLIMITED = 10**6


class ContinuationsResult(NamedTuple):
    """What the run folder holds, and what this call did."""

    prompts: int
    """Dialogues with at least one reply that is continued."""
    replies: int
    """Different replies that are continued."""
    revealing: int
    """Candidates that state the answer: not continued, their outcome is 0."""
    without_answer: int
    """Prompts without a known answer: not continued, their outcome is unknown."""
    continuations: int
    """Finished continuations."""
    failed: int
    """Continuations that could not be finished."""
    calls: int
    """Replies that models gave in this call."""
    tokens: int
    """Tokens of this call, prompts included."""
    usd: float | None
    seconds: float
    run: str


def continuations(
    source: Path | str | Iterable[Mapping[str, Any]],
    student: ChatModel,
    tutor: ChatModel,
    out: Path | str,
    *,
    m: int = CONTINUATIONS,
    turns: int = TURNS,
    config: SimulateConfig | None = None,
) -> ContinuationsResult:
    """Continue each candidate reply `m` times, into the run folder `out`.

    Args:
        source: a judge or candidates step, its run, a file of such rows, or the rows.
        student: speaks after the reply; closed at the end.
        tutor: the model that gave the candidates; closed at the end.
        out: the run folder; the same call resumes it.
        m: continuations of each reply. Equal replies to one dialogue are continued once.
        turns: student messages at most; a student message is the last.
        config: all other settings of the dialogues: sampling, the tutor's prompt, the budget, the seed.

    Raises:
        EmptyCorpus: no reply can be continued.
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull.
    """
    rows = (
        read_step(CandidateRow, source, "judge")
        if isinstance(source, (Path, str))
        else (parse(CandidateRow, row, f"row {number}") for number, row in enumerate(source, 1))
    )
    dialogues: dict[str, Conversation] = {}
    prompts = revealing = without_answer = 0
    for row in rows:
        found = starts(row)
        prompts += any(reply.start is not None for reply in found)
        revealing += sum(reply.told for reply in found)
        without_answer += not (row.problem and row.problem.answer)
        dialogues |= {reply.start.id: reply.start for reply in found if reply.start is not None}
    if not dialogues:
        raise EmptyCorpus(
            f"no reply to continue: {revealing} state the answer, {without_answer} prompts have no known answer",
            "Give candidates to dialogues whose problem has an `answer`.",
        )
    config = (config or SimulateConfig()).model_copy(
        update={"seeds": None, "repeat": m, "user_turns": turns, "rounds": _UNLIMITED, "seed_turns": None}
    )
    done = simulate(student, tutor, out, None, config, starts=list(dialogues.values()), stop_when=settled)
    return ContinuationsResult(
        prompts,
        len(dialogues),
        revealing,
        without_answer,
        continuations=done.dialogues,
        failed=done.failed,
        calls=done.replies,
        tokens=done.tokens,
        usd=done.usd,
        seconds=done.seconds,
        run=done.run,
    )
