"""Tutoring dialogues: MathDial, Bridge, TutorChat, and socratic-llm's prompt strings.

Only speaker labels and a teacher's move tag, which nobody said, are taken off the texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maieutic.core.messages import Conversation, Role
from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.formats.turns import as_object, turn
from maieutic.data.seeds import seed_conversation, taught


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
            "meta": {**row, **opens(turns)},
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
    turns = [turn(index, said) for index, said in enumerate([*context, *(reply or ())])]
    yield to_conversation({"id": row.pop("c_id", None), "messages": turns, "meta": {**row, **opens(turns)}})


def opens(turns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A note for `clean`: here the tutor rightly speaks first."""
    return {"opens": "assistant"} if turns and turns[0]["role"] == Role.ASSISTANT else {}


def from_tutorchat(row: Any) -> Iterator[Conversation]:
    """TutorChat as its authors published it: `conversation` is a list of strings, read by the row's `mode`.

    - `openbook`: the chapter first, then the student and the teacher in turn
    - `closedbook`: the teacher and the student in turn
    - `singleturn`: the last string is a whole transcript with labelled speakers; what stands before is the chapter

    The chapter becomes the problem's statement. `processed_conversation`, which says the same again with the control
    tokens of one tokenizer, is left out.
    """
    row = dict(as_object(row))
    said, mode = row.pop("conversation", None), row.pop("mode", None)
    if not isinstance(said, list) or not said or not all(isinstance(text, str) for text in said):
        raise ValueError(f"no TutorChat dialogue (keys: {key_list(row)})")
    row.pop("processed_conversation", None)
    chapter: list[str] = []
    if mode == "singleturn":
        chapter = said[:-1]
        turns, around = _transcript(said[-1], exam="exam" in str(row.get("name")))
        row |= {"preamble": around} if around else {}
    elif mode in ("openbook", "closedbook"):
        chapter, spoken = (said[:1], said[1:]) if mode == "openbook" else ([], said)
        order = (Role.USER, Role.ASSISTANT) if mode == "openbook" else (Role.ASSISTANT, Role.USER)
        turns = [{"role": order[n % 2], "content": text} for n, text in enumerate(spoken)]
    else:
        raise ValueError("a TutorChat row whose mode is neither openbook, closedbook nor singleturn")
    problem = {"statement": "\n".join(chapter)} if chapter else None
    meta = {**row, "mode": mode, **opens(turns)}
    shared = {key: meta.pop(key) for key in ("id", "source", "licence") if isinstance(meta.get(key), str)}
    yield to_conversation({**shared, "messages": turns, "problem": problem, "meta": meta})


_LABEL = re.compile(r"(?:\A|\n)[ \t#*]*(STUDENT|TEACHER|QUESTION|ANSWER)(?: \d+)?[ \t*]*:[ \t*]*")
_FENCE = re.compile(r"\s*#{3,}\s*\Z")
_SIDES = {
    "STUDENT": Role.USER,
    "TEACHER": Role.ASSISTANT,
    "QUESTION": Role.USER,
    "ANSWER": Role.ASSISTANT,
}


def _transcript(text: str, exam: bool) -> tuple[list[dict[str, Any]], str]:
    """The turns of a transcript whose lines begin with the speaker, and what stood before the first.

    White space around a turn, and the `###` the transcript is fenced with, belong to the layout and go.
    """
    wanted = ("QUESTION", "ANSWER") if exam else ("STUDENT", "TEACHER")
    marks = [mark for mark in _LABEL.finditer(text) if mark[1] in wanted]
    if not marks:
        raise ValueError(f"a TutorChat transcript without a line that begins {wanted[0]}: or {wanted[1]}:")
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    turns = [
        {"role": _SIDES[mark[1]], "content": _FENCE.sub("", text[mark.end() : end]).strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]
    return turns, text[: marks[0].start()].strip("# \t\r\n")


def from_seeds(value: Any) -> Iterator[Conversation]:
    """socratic-llm's prompt strings, alone or as the `prompt` of its result rows (the rest goes to `meta`)."""
    if isinstance(value, str):
        yield seed_conversation(value)
        return
    row = dict(as_object(value))
    prompt = row.pop("prompt", None)
    if not isinstance(prompt, str):
        raise ValueError(f"no prompt string (keys: {key_list(dict(value))})")
    try:
        yield seed_conversation(prompt, row)
    except ValueError as error:
        raise ValueError(f"prompt: {error} (keys: {key_list(dict(value))})") from None
