"""Models without weights, whose texts are in a file: scripted replies, and baseline tutors.

What such a model says depends on the conversation and the seed alone, so it says the same under any concurrency and
after any restart. Tokens are counted as words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import yaml
from pydantic import Field, ValidationError

from maieutic.core.errors import InputError, MissingInput, ModelError
from maieutic.core.messages import Finish, Message, Problem, Record, Reply, Role, Sampling, Text, fingerprint

MUST_NOT_WIN = ("question-only", "sycophant", "never-ending", "repeater")
"""Baselines that must not win under a rubric."""
CONTROLS = ("silent", "telling")
"""The two controls of whole dialogues: no tutor at all, and a tutor that states the answer at once."""

_PLACEHOLDER = re.compile(r"\{\{(answer|student)\}\}")


class Line(Record):
    """One line of a script. It holds `text`, `texts` or `error`."""

    text: Text | None = None
    texts: tuple[Text, ...] = ()
    """Alternatives; the sampling's seed picks one."""
    error: str | None = None
    """Fail permanently with this message instead of a reply."""
    finish: Finish = Finish.STOP
    role: Role | None = None
    """Only for turns of this side; null: of either side."""
    when: str | None = None
    """Only where the last message contains this."""
    end_probability: float | None = Field(None, ge=0, le=1)


class ScriptModel:
    """Canned replies, `script/FILE`.

    FILE is JSONL, one line a reply, with the fields of `Line`, or `.txt`, one reply a line. A first line
    `{"trained_role": "user"}` makes it a script of the human's side.

        {"trained_role": "user"}
        {"text": "I am stuck."}
        {"texts": ["Why?", "How so?"], "role": "user"}
        {"text": "Thanks!", "finish": "end", "when": "correct"}

    A turn uses the lines for its role whose `when` is contained in the last message; if there are none, the lines
    without `when`. Turn k of the role gets line k of these; after the last line, the first line follows again. With
    `suppress_end`, a line that ends the conversation gives its text as an ordinary turn; without text it is skipped.
    `max_tokens` and `schema` change nothing.

    Raises:
        MissingInput, InputError: no such file, no lines, or a line that cannot be read (named).
    """

    def __init__(self, path: str) -> None:
        self.id = f"script/{path}"
        self.trained_role: Role | None = None
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise MissingInput(f"{path}: {error.strerror or 'cannot be read'}", "Check the path.") from None
        self.fingerprint: str | None = hashlib.sha256(raw).hexdigest()[:16]
        """A hash of the content: the id contains only the file's name."""
        lines = [(number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
        if not path.endswith(".txt") and lines:
            self.trained_role = _header(lines[0][1], path)
            lines = lines[1:] if self.trained_role else lines
        read = _plain if path.endswith(".txt") else _line
        self._lines = [read(line, f"{path}, line {number}") for number, line in lines]
        if not self._lines:
            raise InputError(f"{path} holds no replies", 'Write one per line, as {"text": "..."}.')

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The next turn of `role`; see the class.

        Raises:
            ModelError: the script has no line for this turn, or the line is an error.
        """
        line = self._choose(messages, role, suppress_end)
        if line.error is not None:
            raise ModelError(f"{self.id}: {line.error}", "The script defines this error.")
        text = line.texts[sampling.seed % len(line.texts)] if line.texts else line.text or ""
        suppressed = line.finish == Finish.END and suppress_end
        return _reply(
            self.id,
            messages,
            text,
            finish=Finish.STOP if suppressed else line.finish,
            end_probability=line.end_probability,
        )

    async def check(self) -> None:
        """Nothing to check: the file was read."""

    async def close(self) -> None:
        """Nothing to free."""

    def _choose(self, messages: Sequence[Message], role: Role, suppress_end: bool) -> Line:
        lines = [line for line in self._lines if line.role in (None, role)]
        if suppress_end:
            lines = [line for line in lines if line.finish != Finish.END or line.text or any(line.texts)]
        last = messages[-1].content if messages else ""
        fitting = [line for line in lines if line.when is not None and line.when in last]
        fitting = fitting or [line for line in lines if line.when is None]
        if not fitting:
            raise ModelError(
                f"{self.id} has no line for this turn of the {role.value}",
                "Add a line without `when` for this role.",
            )
        return fitting[sum(turn.role == role for turn in messages) % len(fitting)]


class Baseline:
    """A tutor of fixed texts, `baseline/NAME`; the texts are in `baselines.yaml`.

    `question-only` asks the same generic questions in every dialogue, `sycophant` praises every message of the
    student, `never-ending` never stops asking, `repeater` repeats the student's words. `silent` is the control without
    a tutor ("go on"), and `telling` states the known answer at once. A baseline gets the problem from `about`.

    Raises:
        InputError: there is no such baseline.
    """

    trained_role: Role | None = Role.ASSISTANT

    def __init__(self, name: str, problem: Problem | None = None) -> None:
        texts = _baselines()
        if name not in texts:
            raise InputError(f"no baseline {name!r}", f"Known: {', '.join(texts)}.")
        self.id = f"baseline/{name}"
        self._name, self._texts, self._problem = name, texts[name], problem
        self.fingerprint: str | None = fingerprint(self._texts)[:16]

    def about(self, problem: Problem) -> Baseline:
        """The same tutor, with knowledge of this problem."""
        return Baseline(self._name, problem)

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The tutor's next turn.

        Raises:
            ModelError: the text states the answer, and no answer is known.
        """
        turns = sum(turn.role == Role.ASSISTANT for turn in messages)
        template = self._texts[(turns + sampling.seed) % len(self._texts)]
        student = next((turn.content for turn in reversed(messages) if turn.role == Role.USER), "")
        answer = (self._problem.answer or self._problem.solution) if self._problem else None
        if "{{answer}}" in template and not answer:
            raise ModelError(
                f"{self.id}: no answer is known here", "Give dialogues whose problem has an answer."
            )
        values = {"answer": answer or "", "student": student}
        return _reply(self.id, messages, _PLACEHOLDER.sub(lambda found: values[found[1]], template))

    async def check(self) -> None:
        """Nothing to check: the texts are part of the package."""

    async def close(self) -> None:
        """Nothing to free."""


def _reply(model: str, messages: Sequence[Message], text: str, **more: Any) -> Reply:
    read = sum(len(turn.content.split()) for turn in messages)
    return Reply(text=text, model=model, prompt_tokens=read, completion_tokens=len(text.split()), **more)


@cache
def _baselines() -> dict[str, tuple[str, ...]]:
    raw = yaml.safe_load((files(__package__) / "baselines.yaml").read_text(encoding="utf-8"))
    return {name: tuple(texts) for name, texts in raw.items()}


def _header(raw: bytes, path: str) -> Role | None:
    """The role that a first line names as trained; null if the line is not a header."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or "trained_role" not in value:
        return None
    if value.keys() != {"trained_role"} or value["trained_role"] not in (Role.USER, Role.ASSISTANT):
        raise InputError(f"{path}, line 1: not a header", 'Write {"trained_role": "user"} or leave it out.')
    return Role(value["trained_role"])


def _line(raw: bytes, where: str) -> Line:
    hint = 'Write {"text": "..."}; also known: texts, error, finish, role, when, end_probability.'
    try:
        line = Line.model_validate(orjson.loads(raw))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error})", hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {f'{field}: ' if field else ''}{first['msg']}", hint) from None
    if sum((line.text is not None, bool(line.texts), line.error is not None)) != 1:
        raise InputError(f"{where}: must hold one of text, texts and error", hint)
    return line


def _plain(raw: bytes, where: str) -> Line:
    try:
        return Line(text=raw.decode())
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8", "Save the file as UTF-8.") from None
