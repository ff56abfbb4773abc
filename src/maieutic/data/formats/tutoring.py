"""Tutoring dialogues: MathDial, Bridge, TutorChat, and socratic-llm's prompt strings.

Only speaker labels and a teacher's move tag, which nobody said, are taken off the texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.formats.turns import as_object, turn
from maieutic.data.seeds import seed_conversation, taught
from maieutic.types import Conversation, Role

def from_mathdial(row: Any) -> Iterator[Conversation]:
    """MathDial: the student is the user, the human teacher the assistant; each teacher's move is kept in `meta`."""
    row = dict(as_object(row))
    told, statement = row.pop("conversation", None), row.pop("question", None)
    if not isinstance(told, str) or not isinstance(statement, str):
        raise ValueError(f"no MathDial dialogue (keys: {key_list(row)})")
    turns: list[dict[str, Any]] = []
    for said in told.split("|EOM|"):
        speaker, colon, words = said.partition(":")
        if colon and len(speaker) <= 40:
            turns.append(taught(speaker, words.removeprefix(" ")))
        elif turns:
            turns[-1]["content"] += "\n" + said
        else:
            raise ValueError("a MathDial dialogue that begins with no speaker")
    solution = row.pop("ground_truth", None)
    problem = {
        "statement": statement,
        "answer": last_number(solution or ""),
        "solution": solution,
        "attempt": row.pop("student_incorrect_solution", None),
        "misconception": row.pop("teacher_described_confusion", None),
    }
    profile = row.pop("student_profile", None)
    yield to_conversation(
        {
            "messages": turns,
            "problem": problem,
            "profile": profile,
            "ended": True,
            "meta": {**row, **_opens(turns)},
        }
    )


def last_number(solution: str) -> str | None:
    """The number on the last line of a worked solution, as written there: MathDial's and GSM8K's gold answer."""
    lines = solution.strip().splitlines() or [""]
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?|-?\.\d+", lines[-1])
    return numbers[-1].rstrip(",") if numbers else None


def from_bridge(row: Any) -> Iterator[Conversation]:
    """Bridge: the context and the tutor's own reply; the experts' revisions are kept in `meta`."""
    row = dict(as_object(row))
    context, reply = row.pop("c_h", None), row.pop("c_r", None)
    if not isinstance(context, list):
        raise ValueError(f"no Bridge dialogue (keys: {key_list(row)})")
    turns = [_turn(index, turn) for index, turn in enumerate([*context, *(reply or ())])]
    yield to_conversation({"id": row.pop("c_id", None), "messages": turns, "meta": {**row, **_opens(turns)}})


def _opens(turns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A note for `clean`: here the tutor rightly speaks first."""
    return {"opens": "assistant"} if turns and turns[0]["role"] == Role.ASSISTANT else {}


def from_seeds(value: Any) -> Iterator[Conversation]:
    """socratic-llm's prompt strings, alone or as the `prompt` of its result rows (the rest goes to `meta`)."""
    if isinstance(value, str):
        yield seed_conversation(value)
        return
    row = dict(as_object(value))
    prompt = row.pop("prompt", None)
    if not isinstance(prompt, str):
        raise ValueError(f"no prompt string (keys: {key_list(dict(value))})")
    yield seed_conversation(prompt, row)
