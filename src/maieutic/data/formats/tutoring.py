r"""Formats of tutoring: MathDial, Bridge, TutorChat, socratic-llm's prompt strings, and problems without a dialogue.

The student is the user, the tutor is the assistant. Only speaker labels and the tags of a teacher's moves are removed
from the texts, since they are not part of what was said.

A prompt string of socratic-llm contains one dialogue with its material and speakers, up to the tutor's next reply. It
has one of three shapes, which are recognised by the beginning of the string:

- MathDial: `Student: 'Professor, I have a problem, here is the text: … Here is my solution …Teacher: (move)…', …`
- TutorChat: quoted fragments, each `\nassistant: …` or `\nuser: …`, after unmarked fragments of the lesson's text
- Debugging: `<problem>`, `<bug_code>`, `<bug_desc>`, `<bug_fixes>`, then `User: …` and `Assistant: …`

The first two are pieces of printed Python lists. A small scanner reads them; they are never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Problem, Role, fingerprint, utf8
from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.formats.chats import as_object, turn


class Seed(NamedTuple):
    """A parsed prompt string: turns as `{"role", "content", "move"?}`, the problem, and other material."""

    kind: str
    """`mathdial`, `tutorchat` or `debugging`."""
    turns: list[dict[str, Any]]
    problem: Problem | None
    meta: dict[str, Any]


MOVE = re.compile(r"\((generic|focus|probing|telling)\)")
"""A MathDial teacher's move, which is written before the text and is not part of it."""
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
    """A prompt string as a conversation that ends with the student; the string itself is kept in `meta["prompt"]`.

    Args:
        text: one dialogue in one of the three shapes.
        extra: other fields of the row, for `meta`.

    Raises:
        ValueError: the string has none of the shapes, or no turn.
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

    A quotation mark closes a piece only before a comma and another quotation mark, or at the end. So an unescaped
    apostrophe is part of the text. A piece without a closing mark continues to the end.
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
        turns.append(mathdial_turn("Teacher", opening["rest"][teacher.end() :]))
    elif first:
        turns.append(mathdial_turn("Student", first))
    for piece in pieces[1:]:
        if name := _NAME.match(piece):
            turns.append(mathdial_turn(name[1], piece[name.end() :]))
        else:
            turns[-1]["content"] += "\n" + piece
    return Seed("mathdial", turns, problem, {})


def mathdial_turn(speaker: str, text: str) -> dict[str, Any]:
    """A MathDial turn: every speaker but the teacher is the student; a teacher's move becomes a key of the turn."""
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
        turns.pop()  # the empty turn for the tutor's next reply
    problem = Problem(
        statement=material.get("problem", ""),
        attempt=material.get("bug_code"),
        misconception=material.get("bug_desc"),
        solution=material.get("bug_fixes"),
    )
    rest = {key: material[key] for key in ("unit_tests", "stu_desc") if key in material}
    return Seed("debugging", turns, problem, {**rest, **({"alternatives": others} if others else {})})


def from_mathdial(row: Any) -> Iterator[Conversation]:
    """MathDial: the student is the user, the human teacher is the assistant; the teacher's moves go to `meta`."""
    row = dict(as_object(row))
    transcript, statement = row.pop("conversation", None), row.pop("question", None)
    if not isinstance(transcript, str) or not isinstance(statement, str):
        raise ValueError(f"no MathDial dialogue (keys: {key_list(row)})")
    turns: list[dict[str, Any]] = []
    for said in transcript.split("|EOM|"):
        speaker, colon, words = said.partition(":")
        if colon and len(speaker) <= 40:
            turns.append(mathdial_turn(speaker, words.removeprefix(" ")))
        elif turns:
            turns[-1]["content"] += "\n" + said
        else:
            raise ValueError("a MathDial dialogue that does not begin with a speaker")
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
    """The last number on the last line of a worked solution, as written: the gold answer of MathDial and GSM8K."""
    lines = solution.strip().splitlines() or [""]
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?|-?\.\d+", lines[-1])
    return numbers[-1].rstrip(",") if numbers else None


def from_bridge(row: Any) -> Iterator[Conversation]:
    """Bridge: the context and the tutor's original reply; the experts' revisions are kept in `meta`."""
    row = dict(as_object(row))
    context, reply = row.pop("c_h", None), row.pop("c_r", None)
    if not isinstance(context, list):
        raise ValueError(f"no Bridge dialogue (keys: {key_list(row)})")
    turns = [turn(index, said) for index, said in enumerate([*context, *(reply or ())])]
    yield to_conversation({"id": row.pop("c_id", None), "messages": turns, "meta": {**row, **opens(turns)}})


def opens(turns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """This entry of `meta` says that the tutor speaks first, so that `clean` keeps the first turn."""
    return {"opens": "assistant"} if turns and turns[0]["role"] == Role.ASSISTANT else {}


def from_tutorchat(row: Any) -> Iterator[Conversation]:
    """TutorChat: `conversation` is a list of strings. Their meaning depends on the row's `mode`.

    - `openbook`: the chapter, then the student and the teacher in turn
    - `closedbook`: the teacher and the student in turn
    - `singleturn`: the chapter, then one transcript with labelled speakers

    The chapter becomes the problem's statement. `processed_conversation`, the same text with the control tokens of one
    tokenizer, is dropped.
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
    """The turns of a transcript whose lines begin with the speaker, and the text before the first turn.

    White space around a turn and the `###` around the transcript are dropped.
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
    """Prompt strings of socratic-llm, alone or as the `prompt` of its result rows (other keys go to `meta`)."""
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


STATEMENTS = ("problem", "statement", "question")
_KNOWN = ("answer", "solution", "attempt", "misconception")
_FINAL = "####"


def is_problem(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a problem's text and its answer."""
    return "answer" in row and any(isinstance(row.get(name), str) for name in STATEMENTS)


def from_problems(row: Any) -> Iterator[Conversation]:
    """A problem (`problem`, `statement` or `question`) and its `answer`, as the start of a tutoring dialogue.

    Optional keys are `solution`, a student's wrong `attempt` and the `misconception` in it. GSM8K's answer (a worked
    solution with the result after `####`) is split into solution and answer. The statement becomes the system turn.
    """
    row = dict(as_object(row))
    name = next((name for name in STATEMENTS if isinstance(row.get(name), str) and row[name].strip()), None)
    if name is None:
        raise ValueError(f"no problem (keys: {key_list(row)})")
    statement = row.pop(name)
    known = {key: str(row.pop(key)) for key in _KNOWN if row.get(key) not in (None, "")}
    if _FINAL in known.get("answer", ""):
        known = {
            "solution": known["answer"],
            **known,
            "answer": known["answer"].rpartition(_FINAL)[2].strip(),
        }
    for key in _KNOWN:
        row.pop(key, None)
    yield to_conversation(
        {
            **row,
            "messages": [{"role": Role.SYSTEM, "content": statement}],
            "problem": {"statement": statement, **known},
        }
    )
