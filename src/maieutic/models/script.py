"""A model that reads its replies from a file: for tests, dry runs, and scripted users."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, ValidationError

from maieutic.core.errors import InputError, MissingInput, ModelError
from maieutic.core.messages import Finish, Message, Record, Reply, Role, Sampling, Text


class Line(Record):
    """One line of a script. It holds `text`, `texts` or `error`."""

    text: Text | None = None
    texts: tuple[Text, ...] = ()
    """Alternatives; the sampling's seed picks one."""
    error: str | None = None
    """Instead of a reply: fail with these words, finally."""
    finish: Finish = Finish.STOP
    role: Role | None = None
    """Only for this side's turns; null: either side's."""
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

    Which reply comes depends on the conversation and the seed alone, never on what was asked before, so that
    a script answers the same under any concurrency and after any restart: of the lines for this role, those
    whose `when` stands in the last message go first, else those without `when`; among these, turn k of this
    role is line k, and after the last the first again. With `suppress_end` a line that ends the conversation
    gives its text as an ordinary turn, and one without text is passed over. Tokens are counted as words.
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
        """Of the content: the id names only the file."""
        lines = [(number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
        if not path.endswith(".txt") and lines:
            self.trained_role = _header(lines[0][1], path)
            lines = lines[1:] if self.trained_role else lines
        read = _plain if path.endswith(".txt") else _line
        self._lines = [read(line, f"{path}, line {number}") for number, line in lines]
        if not self._lines:
            raise InputError(f"{path} holds no replies", 'Write one a line, as {"text": "..."}.')

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
            ModelError: the script has no line for this turn, or the line says so.
        """
        line = self._choose(messages, role, suppress_end)
        if line.error is not None:
            raise ModelError(f"{self.id}: {line.error}", "The script says so.")
        text = line.texts[sampling.seed % len(line.texts)] if line.texts else line.text or ""
        ends = line.finish == Finish.END and suppress_end
        return Reply(
            text=text,
            finish=Finish.STOP if ends else line.finish,
            model=self.id,
            prompt_tokens=sum(len(turn.content.split()) for turn in messages),
            completion_tokens=len(text.split()),
            end_probability=line.end_probability,
        )

    async def check(self) -> None:
        """Nothing to check: the file was read."""

    async def close(self) -> None:
        """Nothing to free."""

    def _choose(self, messages: Sequence[Message], role: Role, suppress_end: bool) -> Line:
        mine = [line for line in self._lines if line.role in (None, role)]
        if suppress_end:
            mine = [line for line in mine if line.finish != Finish.END or line.text or any(line.texts)]
        last = messages[-1].content if messages else ""
        fitting = [line for line in mine if line.when is not None and line.when in last]
        fitting = fitting or [line for line in mine if line.when is None]
        if not fitting:
            raise ModelError(
                f"{self.id} has no line for this turn of the {role.value}",
                "Add one without `when`, and for this role.",
            )
        return fitting[sum(turn.role == role for turn in messages) % len(fitting)]


def _header(raw: bytes, path: str) -> Role | None:
    """The role a first line names as trained, or null where it is no such line."""
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
