r"""socratic-llm's prompts: one string a dialogue, material and speakers inside it, awaiting the tutor's reply.

Three shapes, told apart by how they begin:

- MathDial: `Student: 'Professor, I have a problem, here is the text: … Here is my solution …Teacher: (move)…', …`
- TutorChat: quoted fragments, each `\nassistant: …` or `\nuser: …`; unmarked ones before them are the lesson's text
- Debugging: `<problem>`, `<bug_code>`, `<bug_desc>`, `<bug_fixes>`, then `User: …` and `Assistant: …`

The first two are pieces of printed Python lists. They are read by a small scanner of our own, never evaluated.


Tutoring dialogues: MathDial, Bridge, TutorChat, and socratic-llm's prompt strings.

Only speaker labels and a teacher's move tag, which nobody said, are taken off the texts.


Problems without a dialogue: a teacher's table, or a benchmark of word problems. What lessons start from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Problem, Role, fingerprint, utf8
from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.formats.chats import as_object, turn


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


STATEMENTS = ("problem", "statement", "question")
_KNOWN = ("answer", "solution", "attempt", "misconception")
_FINAL = "####"


def is_problem(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a problem's text and its answer."""
    return "answer" in row and any(isinstance(row.get(name), str) for name in STATEMENTS)


def from_problems(row: Any) -> Iterator[Conversation]:
    """A problem (`problem`, `statement` or `question`) and its `answer`, as the start of a lesson.

    `solution`, a student's wrong `attempt` and the `misconception` behind it come along where they are known. GSM8K's
    answer, a worked solution with the result behind `####`, is taken apart. The statement is the system turn that lies
    before both.
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
