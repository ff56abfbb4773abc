"""Files of the public benchmarks: FastChat's questions, answers and verdicts, AlpacaEval's outputs, and result files.

Answers that are written here carry their question under a key that FastChat ignores, so that they can be judged without
the question file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import orjson

from maieutic.core.console import note
from maieutic.core.errors import EmptyCorpus, InputError, MissingInput, RunConflict
from maieutic.core.messages import utf8
from maieutic.core.store import full_disk
from maieutic.evals.files import Row, parse_number, read_table

NEED_REFERENCE = ("math", "reasoning", "coding")
"""Categories that are judged with a reference answer."""
_TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("stem", "humanities"), 0.1),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
}
_DEFAULT_TEMPERATURE = 0.7
_ERROR = "$ERROR$"
"""FastChat's answer of a model that failed."""


class Question(NamedTuple):
    """One question of one or more turns."""

    id: int | str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()
    """The reference answers by turn, where the category is judged with references and the file has them."""
    temperature: float = _DEFAULT_TEMPERATURE
    """The temperature of the answers: the category's, or the question's own `required_temperature`."""

    def row(self) -> dict[str, Any]:
        """The question in FastChat's form."""
        reference = {"reference": list(self.reference)} if self.reference else {}
        return {"question_id": self.id, "category": self.category, "turns": list(self.turns), **reference}


class Answer(NamedTuple):
    """One model's answers to the turns of one question, up to the first that failed."""

    question: str
    """The question's id."""
    model: str
    turns: tuple[str, ...]
    asked: Question | None
    """The question, where the file carries it."""


class Output(NamedTuple):
    """One row of an AlpacaEval file; an instruction file may have no output."""

    instruction: str
    output: str | None
    generator: str
    dataset: str | None


def question_name(id: Any) -> str | None:
    """A question's id as text, so that 81, "81" and 81.0 are equal; null where the value is no id."""
    if isinstance(id, float):
        return (str(int(id)) if id.is_integer() else str(id)) if math.isfinite(id) else None
    known = isinstance(id, (int, str)) and not isinstance(id, bool)
    return str(id) if known and str(id).strip() else None


def read_questions(path: Path, references: Path | None = None) -> list[Question]:
    """The questions of a file, each id once.

    Args:
        path: FastChat's question.jsonl.
        references: reference answers in FastChat's answer form; by default the one file in the folder
            `reference_answer` next to the questions, else each question's own `reference`.

    Raises:
        MissingInput, EmptyCorpus, InputError: the file cannot be used; names the row.
    """
    if references is None:
        found = sorted((path.parent / "reference_answer").glob("*.jsonl"))
        references = found[0] if len(found) == 1 else None
    known = {answer.question: answer.turns for answer in read_answers(references)} if references else {}
    questions: dict[str, Question] = {}
    for place, row in enumerate(_noted(path), 1):
        question = _question(row, f"{path}, row {place}", known)
        questions.setdefault(str(question.id), question)
    return list(questions.values())


def _noted(path: Path) -> Sequence[Row]:
    """The rows of a file; problems in the file are printed on standard error."""
    rows, notes = read_table(path)
    for text in notes:
        note(text)
    return rows


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
    temperature = parse_number(row.get("required_temperature"))
    if row.get("required_temperature") is not None and (temperature is None or temperature < 0):
        raise InputError(
            f"{where}: question {name} has required_temperature {row['required_temperature']!r}",
            "Give a number of 0 or more, or leave it out for the category's temperature.",
        )
    return Question(
        id if isinstance(id, int) else int(name) if isinstance(id, float) and id.is_integer() else name,
        category,
        tuple(turns),
        reference if category in NEED_REFERENCE else (),
        _TEMPERATURES.get(category, _DEFAULT_TEMPERATURE) if temperature is None else temperature,
    )


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file. If one model answers a question several times, the last answer counts, as in FastChat.

    Raises:
        MissingInput, EmptyCorpus, InputError: the file cannot be used; names the row.
    """
    rows = _noted(path)
    answers = [_answer(row, f"{path}, row {place}", path.stem) for place, row in enumerate(rows, 1)]
    last = {(answer.model, answer.question): answer for answer in answers}
    if len(last) < len(answers):
        note(f"{path}: {len(answers) - len(last)} answers are replaced by later ones to the same question")
    if failed := sum(not answer.turns for answer in answers):
        note(f"{path}: {failed} answers are errors of the model")
    return list(last.values())


def _answer(row: Row, where: str, model: str) -> Answer:
    choices, name = row.get("choices"), question_name(row.get("question_id"))
    first = choices[0] if isinstance(choices, list) and choices else None
    turns = first.get("turns") if isinstance(first, dict) else None
    if name is None or not _texts(turns):
        raise InputError(
            f"{where}: no question_id with choices and their turns (it holds {', '.join(sorted(row)[:8])})",
            "Give answers in FastChat's form, as `maieutic eval mt-bench answer` writes them.",
        )
    asked = row.get("question")
    question = _question(asked, where, {}) if isinstance(asked, dict) else None
    whole = turns[: turns.index(_ERROR)] if _ERROR in turns else turns
    return Answer(name, str(row.get("model_id") or model), tuple(whole), question)


def _texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def read_outputs(path: Path) -> list[Output]:
    """The instructions of an AlpacaEval file with their outputs.

    Raises:
        MissingInput, EmptyCorpus, InputError: the file cannot be used; names the row.
    """
    found = []
    for place, row in enumerate(_noted(path), 1):
        instruction, output, dataset = row.get("instruction"), row.get("output"), row.get("dataset")
        if not isinstance(instruction, str):
            raise InputError(
                f"{path}, row {place}: no instruction (it holds {', '.join(sorted(row)[:8])})",
                "Give AlpacaEval's JSON: rows with instruction, output and generator.",
            )
        found.append(
            Output(
                utf8(instruction),
                utf8(output) if isinstance(output, str) else None,
                str(row.get("generator") or path.stem),
                dataset if isinstance(dataset, str) else None,
            )
        )
    return found


# Verdicts. Where the judged material contains such a mark, the first one in the judgment may be a quotation, so the
# last one counts.

_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_WINNER = re.compile(r"\[\[([ABC])\]\]")


def parse_rating(judgment: str, material: Sequence[str] = ()) -> float | None:
    """The rating in a judgment by FastChat's rule: the first `[[x]]`, else the first `[x]`, else null."""
    for pattern in _RATINGS:
        if marks := pattern.findall(judgment):
            return float(marks[-1] if _holds(material, pattern) else marks[0])
    return None


def parse_winner(judgment: str, material: Sequence[str] = ()) -> str | None:
    """The winner in a judgment by FastChat's rule: `[[A]]` before `[[B]]` before `[[C]]`, else null."""
    marks: list[str] = _WINNER.findall(judgment)
    if not marks:
        return None
    return marks[-1] if _holds(material, _WINNER) else min(marks)


def _holds(material: Sequence[str], pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(text) for text in material)


# Result files. A command stores its rows in the folder `A.jsonl.run`, from which the same command resumes. At the end
# it writes all rows to `A.jsonl`, which can be moved or copied.


def run_folder(out: Path) -> Path:
    """The folder in which the rows of the file `out` are collected.

    Raises:
        InputError: `out` is a folder.
        RunConflict: `out` exists and was not made from such a folder.
    """
    folder = out.with_name(f"{out.name}.run")
    if out.is_dir():
        raise InputError(f"{out} is a folder", "Name a file to write.")
    if out.exists() and not folder.is_dir():
        raise RunConflict(
            f"{out} exists already, and its run folder {folder.name} does not",
            "Choose another --out; nothing was touched.",
        )
    return folder


def refuse_fewer_rows(out: Path, rows: int) -> None:
    """Refuse to replace a file by one with fewer rows, as a smaller --limit would.

    Raises:
        RunConflict: `out` holds more rows than `rows`.
    """
    try:
        held = len(read_table(out).rows)
    except (MissingInput, EmptyCorpus, InputError):  # absent or unreadable: the file is written again
        return
    if held > rows:
        raise RunConflict(
            f"{out} holds {held} rows, and this call would leave {rows} of them",
            "Choose another --out, or a larger --limit; nothing was touched.",
        )


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file atomically."""
    part = path.with_name(f".{path.name}.part")
    with full_disk(path):
        with part.open("wb") as file:
            file.writelines(orjson.dumps(row) + b"\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
