r"""socratic-llm's prompts: one string a dialogue, material and speakers inside it, awaiting the tutor's reply.

Three shapes, told apart by how they begin:

- MathDial: `Student: 'Professor, I have a problem, here is the text: … Here is my solution …Teacher: (move)…', …`
- TutorChat: quoted fragments, each `\nassistant: …` or `\nuser: …`; unmarked ones before them are the lesson's text
- Debugging: `<problem>`, `<bug_code>`, `<bug_desc>`, `<bug_fixes>`, then `User: …` and `Assistant: …`

The first two are pieces of printed Python lists. They are read by a small scanner of our own, never evaluated.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Problem, Role, fingerprint, utf8


class Seed(NamedTuple):
    """A dialogue as read: turns as `{"role", "content", "move"?}`, its material, and what else it held."""

    kind: str
    """`mathdial`, `tutorchat` or `debugging`."""
    turns: list[dict[str, Any]]
    problem: Problem | None
    meta: dict[str, Any]


MOVE = re.compile(r"\((generic|focus|probing|telling)\)")
"""A MathDial teacher's move, written before the words; it is not part of what was said."""
_MATHDIAL = re.compile(r"\s*Student: (?=['\"])")
_OPENING = re.compile(
    r"Professor, I have a problem, here is the text: (?P<statement>.*?) Here is my solution (?P<rest>.*)",
    re.DOTALL,
)
_TEACHER = re.compile(r"Teacher: ?(?=\((?:generic|focus|probing|telling)\))|Teacher: ")
_NAME = re.compile(r"([A-Z][\w .'-]{0,40}?): ?")
_MARK = re.compile(r"\s*(assistant|user): ?")
_MATERIAL = re.compile(r"\s*<(problem|bug_code|bug_desc|bug_fixes|unit_tests|stu_desc)>(.*?)</\1>", re.DOTALL)
_SPEAKER = re.compile(r"(?:\A|[\n\t]|  )\s*(<alt>)?\s*(User|Assistant): ?")
_ESCAPE = re.compile(r"""\\(?:([\\'"ntr])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))""")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}
_SPECIAL = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in "'\""}
_CLOSED = re.compile(r"\s*(?:,\s*(?=['\"])|\]?\s*\Z)")


def seed_conversation(text: str, extra: dict[str, Any] | None = None) -> Conversation:
    """A prompt string as a conversation that ends on the student; the string itself stays in `meta["prompt"]`.

    Args:
        text: one dialogue in any of the three shapes.
        extra: further fields of its row; they go to `meta`.

    Raises:
        ValueError: the string has none of the shapes, or no turn in it.
    """
    text = utf8(text)
    seed = parse_seed(text)
    if not seed.turns:
        raise ValueError("a dialogue string without turns")
    opens = {"opens": "assistant"} if seed.turns[0]["role"] == Role.ASSISTANT else {}
    meta = {**(extra or {}), **seed.meta, "kind": seed.kind, **opens, "prompt": text}
    return Conversation.model_validate(
        {"id": fingerprint(text)[:16], "messages": seed.turns, "problem": seed.problem, "meta": meta}
    )


def parse_seed(text: str) -> Seed:
    """The turns and the material of a prompt string.

    Raises:
        ValueError: the string has none of the three shapes.
    """
    if _MATERIAL.match(text):
        return _debugging(text)
    if opening := _MATHDIAL.match(text):
        return _mathdial(fragments(text[opening.end() :]))
    stripped = text.lstrip().removeprefix("[").lstrip()
    if stripped[:1] in ("'", '"') and re.search(r"(?:\\n|['\"\n])\s*(?:assistant|user):", stripped):
        return _tutorchat(fragments(stripped))
    raise ValueError("a string in none of the seed shapes (MathDial, TutorChat, Debugging)")


def fragments(text: str) -> list[str]:
    """The quoted pieces of a printed Python list, unescaped.

    A quote closes only where a comma and another quote, or the end, follows: so an apostrophe that nobody escaped
    stays part of the words. Whatever is never closed runs to the end.
    """
    pieces, at = [], 0
    while at < len(text):
        special = _SPECIAL.get(text[at])
        end, following = len(text), len(text)
        for found in special.finditer(text, at + 1) if special else ():
            if found[0][0] != "\\" and (closed := _CLOSED.match(text, found.end())):
                end, following = found.start(), closed.end()
                break
        pieces.append(_unescaped(text[at + 1 if special else at : end]))
        at = following
    return pieces


def _unescaped(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        letter, *codes = match.groups()
        if letter:
            return _LETTERS.get(letter, letter)
        code = int(next(digits for digits in codes if digits), 16)
        return utf8(chr(code)) if code < 0x110000 else match[0]

    return _ESCAPE.sub(plain, text)


def _mathdial(pieces: list[str]) -> Seed:
    turns: list[dict[str, Any]] = []
    problem, first = None, pieces[0] if pieces else ""
    opening = _OPENING.match(first)
    teacher = _TEACHER.search(opening["rest"]) if opening else None
    if opening and teacher:
        attempt = opening["rest"][: teacher.start()].strip()
        problem = Problem(statement=opening["statement"].strip(), attempt=attempt or None)
        turns.append(taught("Teacher", opening["rest"][teacher.end() :]))
    elif first:
        turns.append(taught("Student", first))
    for piece in pieces[1:]:
        if name := _NAME.match(piece):
            turns.append(taught(name[1], piece[name.end() :]))
        else:
            turns[-1]["content"] += "\n" + piece
    return Seed("mathdial", turns, problem, {})


def taught(speaker: str, text: str) -> dict[str, Any]:
    """A MathDial turn: everybody but the teacher is the student; the teacher's move is taken off the words."""
    if speaker.strip() != "Teacher":
        return {"role": Role.USER, "content": text}
    move = MOVE.match(text)
    if not move:
        return {"role": Role.ASSISTANT, "content": text}
    return {"role": Role.ASSISTANT, "content": text[move.end() :], "move": move[1]}


def _tutorchat(pieces: list[str]) -> Seed:
    turns: list[dict[str, Any]] = []
    lesson: list[str] = []
    for piece in pieces:
        if mark := _MARK.match(piece):
            turns.append({"role": Role(mark[1]), "content": piece[mark.end() :]})
        elif turns:
            turns[-1]["content"] += "\n" + piece
        else:
            lesson.append(piece)
    return Seed("tutorchat", turns, Problem(statement="\n".join(lesson).strip()) if lesson else None, {})


def _debugging(text: str) -> Seed:
    material, at = {}, 0
    while found := _MATERIAL.match(text, at):
        material[found[1]], at = found[2].strip("\r\n"), found.end()
    dialogue = re.sub(r"</?dialogue>", "\n", text[at:]).strip()
    marks = list(_SPEAKER.finditer(dialogue))
    turns: list[dict[str, Any]] = []
    others: list[dict[str, str]] = []
    if dialogue and (not marks or marks[0].start() > 0):
        unmarked = dialogue[: marks[0].start()] if marks else dialogue
        turns.append({"role": Role.USER, "content": unmarked.strip()})
    ends = [*(mark.start() for mark in marks[1:]), len(dialogue)]
    for mark, end in zip(marks, ends, strict=False):
        words = dialogue[mark.end() : end].rstrip()
        turn = {"role": Role(mark[2].lower()), "content": words}
        (others if mark[1] else turns).append(turn)
    if turns and turns[-1]["role"] == Role.ASSISTANT and not turns[-1]["content"]:
        turns.pop()  # the opening that awaits the tutor
    problem = Problem(
        statement=material.get("problem", ""),
        attempt=material.get("bug_code"),
        misconception=material.get("bug_desc"),
        solution=material.get("bug_fixes"),
    )
    rest = {key: material[key] for key in ("unit_tests", "stu_desc") if key in material}
    return Seed("debugging", turns, problem, {**rest, **({"alternatives": others} if others else {})})
