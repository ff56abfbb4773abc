"""Problems without a dialogue: a teacher's table, or a benchmark of word problems. What lessons start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from maieutic.core.messages import Conversation, Role
from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.formats.turns import as_object

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
