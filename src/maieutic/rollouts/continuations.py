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

from pydantic import ValidationError

from maieutic.checks.outcomes import outcome
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Conversation, Fault, Message, Problem, Role, fingerprint
from maieutic.core.store import stage_rows
from maieutic.models import ChatModel
from maieutic.rollouts import SimulateConfig, Summary, simulate
from maieutic.rollouts.candidates import read_stage

PLAYS = 4
TURNS = 3
_ENDLESS = 10**6


class Reply(NamedTuple):
    """A candidate reply, as far as playing it goes."""

    start: Conversation | None
    """Where its plays begin: the dialogue with this reply as its last turn. Null: nothing is to be played."""
    told: bool
    """The answer is stated with this reply, so that no student can find it alone any more."""


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
    rows = read_stage(source, "judge") if isinstance(source, (Path, str)) else source
    starts: dict[str, Conversation] = {}
    prompts = told = unknown = 0
    for row in rows:
        found = replies(row)
        prompts += any(reply.start is not None for reply in found)
        told += sum(reply.told for reply in found)
        unknown += not _known_answer(row)
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


def replies(row: Mapping[str, Any]) -> list[Reply]:
    """The candidates of a row, in its order; a failed row, and one without a known answer, have none to play.

    Raises:
        InputError: it is no row of a candidates or judge stage.
    """
    try:
        texts = [str(candidate["text"]) for candidate in row["candidates"]]
        said = row.get("dialogue") or row["messages"]
        turns = tuple(
            Message.model_validate({key: turn[key] for key in ("role", "content")}) for turn in said
        )
        problem = Problem.model_validate(row["problem"]) if row.get("problem") else None
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"row {row.get('id', row.get('key'))}: not a row of candidates ({type(error).__name__}: {error})",
            "Make them with `maieutic candidates`.",
        ) from None
    if problem is None or not problem.answer:
        return [Reply(None, False) for _ in texts]
    about = {key: row.get(key) for key in ("intent", "profile", "source", "licence")}
    return [_reply(text, turns, problem, about) for text in texts]


def _reply(text: str, turns: tuple[Message, ...], problem: Problem, about: Mapping[str, Any]) -> Reply:
    whole = (*turns, Message(role=Role.ASSISTANT, content=text))
    name = fingerprint([[[turn.role, turn.content] for turn in whole], problem.model_dump()])[:24]
    start = Conversation(id=name, messages=whole, problem=problem, **about)
    if (found := outcome(start, first=len(whole))) is not None and found.told:
        return Reply(None, True)
    return Reply(start if text.strip() else None, False)


def _known_answer(row: Mapping[str, Any]) -> bool:
    return bool((row.get("problem") or {}).get("answer"))


def settled(so_far: Conversation) -> bool:
    """Whether a play is solved, or can no longer be: the tutor has stated the answer."""
    found = outcome(so_far)
    return found is not None and (found.solved or found.told)


def plays(stage: Path | str) -> dict[str, list[bool | None]]:
    """The plays of a stage by the start they went on from: whether each was solved; null where it was lost.

    A play that the tutor broke off is not solved; one that anybody else broke off is lost.
    """
    ended: dict[str, tuple[str, bool | None]] = {}
    for row in stage_rows(stage):
        key, whole = row["meta"]["dialogue"], "failure" not in row
        if whole or key not in ended:
            ended[key] = (row["meta"]["seed"], _solved(row) if whole else _broken_off(row))
    found: dict[str, list[bool | None]] = {}
    for start, solved in ended.values():
        found.setdefault(start, []).append(solved)
    return found


def _solved(row: Mapping[str, Any]) -> bool:
    found = outcome(Conversation.model_validate({key: row[key] for key in row if key != "key"}))
    return found is not None and found.solved


def _broken_off(row: Mapping[str, Any]) -> bool | None:
    return False if row["failure"]["fault"] == Fault.ASSISTANT_MODEL else None
