"""FastChat's questions, reference answers and answers (`question.jsonl`, `reference_answer/`, `model_answer/`).

Answers written here carry the question beside the choices, under a key that FastChat passes over: they can be judged
with nothing else at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from maieutic.core.console import note
from maieutic.core.errors import InputError
from maieutic.evals.files import Row, parse_number, read_table

NEED_REFERENCE = ("math", "reasoning", "coding")
_TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("stem", "humanities"), 0.1),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
}
_OTHERWISE = 0.7
_ERROR = "$ERROR$"
"""FastChat writes this as the answer of a model that failed."""


class Question(NamedTuple):
    """One question of one or more turns."""

    id: int | str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()
    """The reference answers by turn, where the category is judged with one and there is one."""
    temperature: float = _OTHERWISE
    """Answers are drawn at this: by the category, or as the question asks (`required_temperature`)."""

    def row(self) -> dict[str, Any]:
        """In FastChat's form."""
        reference = {"reference": list(self.reference)} if self.reference else {}
        return {"question_id": self.id, "category": self.category, "turns": list(self.turns), **reference}


class Answer(NamedTuple):
    """One model's answers to the turns of one question, up to the first that failed."""

    question: str
    """The question's id."""
    model: str
    turns: tuple[str, ...]
    asked: Question | None
    """Where the file carries it."""


def question_name(id: Any) -> str | None:
    """A question's id as text, a whole number without a point (81, "81" and 81.0 are one); null where it is no id."""
    if isinstance(id, float):
        return (str(int(id)) if id.is_integer() else str(id)) if math.isfinite(id) else None
    known = isinstance(id, (int, str)) and not isinstance(id, bool)
    return str(id) if known and str(id).strip() else None


def read_questions(path: Path, references: Path | None = None) -> list[Question]:
    """The questions of a file, each id once.

    Args:
        path: FastChat's question.jsonl.
        references: reference answers in FastChat's answer form; else the one file of `reference_answer` beside the
            questions, else the questions' own `reference`.

    Raises:
        MissingInput, EmptyCorpus, InputError: a file, or which of its rows, cannot be used.
    """
    rows, notes = read_table(path)
    for text in notes:
        note(text)
    known = _references(references or _beside(path))
    questions: dict[str, Question] = {}
    for place, row in enumerate(rows, 1):
        question = _question(row, f"{path}, row {place}", known)
        questions.setdefault(str(question.id), question)
    return list(questions.values())


def _beside(path: Path) -> Path | None:
    found = sorted((path.parent / "reference_answer").glob("*.jsonl"))
    return found[0] if len(found) == 1 else None


def _references(path: Path | None) -> dict[str, tuple[str, ...]]:
    if path is None:
        return {}
    return {answer.question: answer.turns for answer in read_answers(path)}


def _question(row: Row, where: str, references: Mapping[str, tuple[str, ...]]) -> Question:
    id, turns = row.get("question_id"), row.get("turns")
    name = question_name(id)
    if name is None or not _texts(turns):
        raise InputError(
            f"{where}: no question_id with turns (it holds {', '.join(sorted(row)[:8])})",
            "Give FastChat's question.jsonl.",
        )
    category = str(row.get("category") or "")
    own = row.get("reference")
    reference = references.get(name) or (tuple(own) if _texts(own) else ())
    wanted = parse_number(row.get("required_temperature"))
    if row.get("required_temperature") is not None and (wanted is None or wanted < 0):
        raise InputError(
            f"{where}: question {name} has required_temperature {row['required_temperature']!r}",
            "Give a number of 0 or more, or leave it out for the category's own.",
        )
    return Question(
        id if isinstance(id, int) else int(name) if isinstance(id, float) and id.is_integer() else name,
        category,
        tuple(turns),
        reference if category in NEED_REFERENCE else (),
        _TEMPERATURES.get(category, _OTHERWISE) if wanted is None else wanted,
    )


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, of each model and question the last, as FastChat reads them.

    Raises:
        MissingInput, EmptyCorpus, InputError: the file, or which of its rows, cannot be used.
    """
    rows, notes = read_table(path)
    answers = [_answer(row, f"{path}, row {place}", path.stem) for place, row in enumerate(rows, 1)]
    last = {(answer.model, answer.question): answer for answer in answers}
    if len(last) < len(answers):
        notes = [*notes, f"{path}: {len(answers) - len(last)} answers given again further down were left out"]
    if failed := sum(not answer.turns for answer in answers):
        notes = [*notes, f"{path}: {failed} answers are errors of the model"]
    for text in notes:
        note(text)
    return list(last.values())


def _answer(row: Row, where: str, model: str) -> Answer:
    choices, name = row.get("choices"), question_name(row.get("question_id"))
    first = choices[0] if isinstance(choices, list) and choices else None
    turns = first.get("turns") if isinstance(first, dict) else None
    if name is None or not _texts(turns):
        raise InputError(
            f"{where}: no question_id with choices and their turns (it holds {', '.join(sorted(row)[:8])})",
            "Give answers in FastChat's form: `maieutic eval mt-bench answer` writes them.",
        )
    asked = row.get("question")
    question = _question(asked, where, {}) if isinstance(asked, dict) else None
    said = turns[: turns.index(_ERROR)] if _ERROR in turns else turns
    return Answer(name, str(row.get("model_id") or model), tuple(said), question)


def _texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
