"""Candidate replies, each played on: what becomes of the student after this reply and no other.

Every reply of a candidates or judge stage opens a dialogue of its own: a student model goes on from it, the tutor
answers, and so on for some turns, several times over. A play is *solved* where the student gets to the known answer
and the tutor has not stated it (`evals.dialogue`); it stops as soon as that is settled. The stage is one of
`simulate`: it goes on where it stopped, obeys a budget, and each turn says who drew it. `mix` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.checks.continuations import settled
from maieutic.checks.continuations import starts as candidate_starts
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation
from maieutic.core.rows import CandidateRow, parse, read_step
from maieutic.models import ChatModel
from maieutic.rollouts import SimulateConfig, Summary, simulate

PLAYS = 4
TURNS = 3
_ENDLESS = 10**6


class Played(NamedTuple):
    """What a stage of plays holds, and what this call did."""

    prompts: int
    """Dialogues whose replies are played."""
    replies: int
    """Different replies that are played."""
    told: int
    """Candidates that state the answer themselves: not played, their outcome is 0."""
    unknown: int
    """Prompts without a known answer: nothing tells there who solved what."""
    plays: int
    """Finished plays."""
    lost: int
    """Plays that could not be finished."""
    calls: int
    """Replies that models gave in this call."""
    tokens: int
    """Tokens of this call, prompts counted."""
    usd: float | None
    seconds: float
    run: str


def play(
    source: Path | str | Iterable[Mapping[str, Any]],
    student: ChatModel,
    tutor: ChatModel,
    out: Path | str,
    *,
    m: int = PLAYS,
    turns: int = TURNS,
    config: SimulateConfig | None = None,
) -> Played:
    """Play each candidate reply on `m` times, into the stage folder `out`.

    Args:
        source: a judge or candidates stage, its run, a file of such rows, or the rows.
        student: goes on after the reply; closed at the end.
        tutor: the model that gave the candidates; closed at the end.
        out: the stage's folder; the same call goes on in it.
        m: plays a reply. Equal replies to one dialogue are played once.
        turns: turns of the student's at most; the last word is its own.
        config: everything else about the dialogues: both samplings, the tutor's prompt, the budget, the seed.

    Raises:
        EmptyCorpus: there is nothing to play.
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull.
    """
    rows = (
        read_step(CandidateRow, source, "judge")
        if isinstance(source, (Path, str))
        else (parse(CandidateRow, row, f"row {place}") for place, row in enumerate(source, 1))
    )
    starts: dict[str, Conversation] = {}
    prompts = told = unknown = 0
    for row in rows:
        found = candidate_starts(row)
        prompts += any(reply.start is not None for reply in found)
        told += sum(reply.told for reply in found)
        unknown += not (row.problem and row.problem.answer)
        starts |= {reply.start.id: reply.start for reply in found if reply.start is not None}
    if not starts:
        raise EmptyCorpus(
            f"there is no reply to play: {told} state the answer, {unknown} prompts have no known one",
            "Give candidates to dialogues whose problem has an `answer`.",
        )
    config = (config or SimulateConfig()).model_copy(
        update={"seeds": None, "repeat": m, "user_turns": turns, "rounds": _ENDLESS, "seed_turns": None}
    )
    done = simulate(student, tutor, out, None, config, starts=list(starts.values()), decided=settled)
    return _played(done, prompts, len(starts), told, unknown)


def _played(done: Summary, prompts: int, replies: int, told: int, unknown: int) -> Played:
    return Played(
        prompts,
        replies,
        told,
        unknown,
        plays=done.dialogues,
        lost=done.failed,
        calls=done.replies,
        tokens=done.tokens,
        usd=done.usd,
        seconds=done.seconds,
        run=done.run,
    )
