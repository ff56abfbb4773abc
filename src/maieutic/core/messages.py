"""Conversations and their messages, problems, replies and verdicts: frozen data, without torch.

Reading a corpus row is lenient: unknown keys go to `meta`, and a missing id is made from the content. Reading never
changes text; cleaning is a separate step.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from html import escape
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def utf8(text: str) -> str:
    """The text; lone surrogates, which UTF-8 cannot encode, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


Text = Annotated[str, AfterValidator(utf8)]


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Role(StrEnum):
    """Who speaks. A conversation is between a user and an assistant; system and tool messages belong to neither."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"

    @property
    def other(self) -> Role:
        """The opposite side; system and tool have no opposite and are returned unchanged."""
        if self is Role.USER:
            return Role.ASSISTANT
        return Role.USER if self is Role.ASSISTANT else self


_FILE_NAME = re.compile(r"\S+\.(?:png|jpe?g|gif|webp|bmp|svg|pdf|mp3|wav|mp4)", re.IGNORECASE)


class Parts(NamedTuple):
    """The parts of a message's content that was given as a list of parts."""

    text: str
    """The text parts, joined by line breaks."""
    others: list[Any]
    """The parts that are not text: images, audio, files."""


def join_parts(parts: list[Any]) -> Parts:
    """Join the text parts of a list (strings, or objects with `text`), and keep the other parts apart."""
    texts: list[str] = []
    others: list[Any] = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str) and not (isinstance(part, str) and _FILE_NAME.fullmatch(part)):
            texts.append(text)
        else:
            others.append(part)
    return Parts("\n".join(texts), others)


def _content(value: Any) -> Any:
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, list):
        text, others = join_parts(value)
        if others:
            kinds = [
                str(part.get("type", "object")) if isinstance(part, Mapping) else "file" for part in others
            ]
            named = ", ".join(dict.fromkeys(kind[:40] for kind in kinds))
            raise ValueError(f"{len(others)} of {len(value)} parts are not text ({named})")
        return utf8(text)
    return value


def _is_empty(value: Any) -> bool:
    return not value


class Message(Record):
    """One message of a conversation.

    `role` and `content` are always written; empty other fields are left out.
    """

    role: Role
    content: Annotated[str, BeforeValidator(_content)]
    """The visible text. A list of text parts is joined by line breaks; a list with other parts is refused."""
    reasoning: Text | None = Field(None, exclude_if=_is_empty)
    """The model's reasoning before its answer; never part of `content`."""
    tool_calls: tuple[dict[str, Any], ...] = Field((), exclude_if=_is_empty)
    """Tool calls of an assistant message in the format of the OpenAI API, unchanged."""
    tool_call_id: Text | None = Field(None, exclude_if=_is_empty)
    """Tool messages only: the id of the call that the message answers."""
    name: Text | None = Field(None, exclude_if=_is_empty)
    """The speaker's or the tool's name."""

    def key(self) -> list[Any]:
        """The values that a fingerprint hashes: role and content, then the non-empty other fields."""
        extra = {name: value for name in EXTRA_FIELDS if (value := getattr(self, name))}
        return [self.role.value, self.content, *([extra] if extra else [])]


EXTRA_FIELDS = ("reasoning", "tool_calls", "tool_call_id", "name")
"""The fields of a message besides role and content."""
_REASONING = ("reasoning", "reasoning_content", "thinking")
"""Field names under which servers and corpora store the reasoning."""


class Problem(Record):
    """The problem of a tutoring dialogue."""

    statement: str
    answer: str | None = None
    """The known answer in its shortest form. A tutor must not state it."""
    solution: str | None = None
    """A worked solution; for code, the reference fixes, one per line."""
    attempt: str | None = None
    """The student's wrong solution; for code, the buggy program."""
    misconception: str | None = None
    """The error in the attempt."""
    tests: str | None = None
    """For code, unit tests in Python that a correct program passes. They run only with --run-code."""


class Conversation(Record):
    """One conversation, the row of a corpus (JSONL, the `messages` convention).

    `Conversation.model_validate(row)` accepts any such row. If there is no `id`, it is made from the messages. Unknown
    keys go to `meta`. Unknown keys of a message go to `meta["turns"]` by the message's index, and parts of a message
    that are not text go to `attachments` there. The text is kept byte for byte.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    """Definitions of the tools that the assistant may call, unchanged."""
    intent: str | None = None
    """The user's goal in one or two sentences. A simulator can be conditioned on the intent."""
    profile: str | None = None
    """A description of the user. A simulator can be conditioned on the profile."""
    problem: Problem | None = None
    user_id: str | None = None
    source: str | None = None
    licence: str | None = None
    ended: bool = False
    """Whether the user ended the conversation here. Only such rows train END."""
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_leniently(cls, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        known = {key: value for key, value in row.items() if key in cls.model_fields}
        extra = {key: value for key, value in row.items() if key not in cls.model_fields}
        given = known.get("meta") or {}
        meta = dict(given) if isinstance(given, Mapping) else {}
        messages, aside = _split_messages(known.get("messages"), meta.get("turns"))
        known["messages"] = messages
        if "tools" in known and not _is_objects(known["tools"]):
            tools = known.pop("tools")
            extra |= {} if tools is None else {"tools": tools}
        elif "tools" not in known and _is_objects(meta.get("tools")):
            known["tools"] = meta.pop("tools")
        if isinstance(known.get("problem"), str):
            known["problem"] = {"statement": known["problem"]}
        if known.get("id") is None:
            listed = messages if isinstance(messages, (list, tuple)) else ()
            known["id"] = fingerprint([_key(message) for message in listed])[:16]
        for key in ("id", "user_id"):
            if isinstance(known.get(key), int):
                known[key] = str(known[key])
        if known.get("ended") is None:
            known.pop("ended", None)
        if isinstance(given, Mapping):
            if aside != meta.get("turns"):
                meta.pop("turns", None)
                extra |= {"turns": aside} if aside else {}
            known["meta"] = meta | extra
        return known

    def turns(self, role: Role) -> tuple[str, ...]:
        """The texts of one side, in order."""
        return tuple(turn.content for turn in self.messages if turn.role == role)

    def _repr_html_(self) -> str:
        """For a notebook: each message with its role, the text escaped."""
        messages = "".join(
            f'<tr><th style="vertical-align: top; text-align: left">{escape(message.role)}</th>'
            f'<td style="white-space: pre-wrap; text-align: left">{escape(message.content)}</td></tr>'
            for message in self.messages
        )
        ended = " (ended)" if self.ended else ""
        return f"<table><caption>{escape(self.id)}{ended}</caption>{messages}</table>"

    def row(self) -> dict[str, Any]:
        """The row as it is written, without empty optional fields."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _is_objects(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value)


def _key(message: Any) -> Any:
    if isinstance(message, Message):
        return message.key()
    if not isinstance(message, Mapping):
        return message
    extra = {name: message[name] for name in EXTRA_FIELDS if message.get(name)}
    return [message.get("role"), message.get("content"), *([extra] if extra else [])]


def _split_messages(messages: Any, aside: Any) -> tuple[Any, Any]:
    """Messages with only their own fields, and their other keys by index.

    Args:
        messages: the messages of the row.
        aside: the row's `meta["turns"]`: other keys by message index. Fields of a message are taken from it.
    """
    if not isinstance(messages, (list, tuple)):
        return messages, aside
    others = dict(aside) if isinstance(aside, Mapping) else {}
    split: list[Any] = []
    for index, message in enumerate(messages):
        place = str(index)
        if (
            isinstance(message, Mapping)
            and "role" in message
            and (place in others or len(message) != 2 or not (isinstance(message.get("content"), str)))
        ):
            given = others.pop(place, None)
            fields, rest = _split(message, given)
            split.append(fields)
            others |= {place: rest} if rest or given == {} else {}
        else:
            split.append(message)
    return split, others if others or isinstance(aside, Mapping) else aside


def _split(message: Mapping[str, Any], aside: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A message's own fields, and its other keys."""
    rest = {**(aside if isinstance(aside, Mapping) else {}), **message}
    fields = {name: rest.pop(name) for name in ("role", "content") if name in rest}
    for field in EXTRA_FIELDS:
        for name in _REASONING if field == "reasoning" else (field,):
            value = rest.get(name)
            fits = _is_objects(value) if field == "tool_calls" else isinstance(value, str)
            if name in rest and (fits or value is None):
                del rest[name]
                if value:
                    fields.setdefault(field, value)
    if fields.get("content") is None and "tool_calls" in fields:
        fields["content"] = ""
    if isinstance(fields.get("content"), list):
        fields["content"], others = join_parts(fields["content"])
        rest |= {"attachments": others} if others else {}
    return fields, rest


class Finish(StrEnum):
    """Why the generation of a reply stopped."""

    STOP = "stop"
    """The model ended the turn, or generated a stop string."""
    END = "end"
    """The simulated user ended the conversation."""
    LENGTH = "length"
    """`max_tokens` was reached."""


class Sampling(Record):
    """Sampling parameters of a reply. They are part of every row's key."""

    temperature: float = Field(0.7, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Top-p (nucleus) sampling: the probability mass to sample from."
    )
    max_tokens: int = Field(512, ge=1, description="Maximum new tokens of a reply.")
    seed: int = Field(0, description="Random seed; each sample adds its index to it.")


class Reply(Record):
    """A model's reply."""

    text: Text
    finish: Finish = Finish.STOP
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    attempts: int = 1
    """Number of calls for this reply, including failed calls."""
    end_probability: float | None = None
    """Probability of END at the start of this user turn; null if unknown."""


class Fault(StrEnum):
    """The cause of a failure."""

    USER_MODEL = "user_model"
    ASSISTANT_MODEL = "assistant_model"
    JUDGE = "judge"
    NETWORK = "network"
    BUDGET = "budget"
    US = "us"


class Verdict(Record):
    """A judge's verdict on one text: values by criterion, or unscored with a reason."""

    judge: str
    """Model id, or `code` for a deterministic check."""
    values: dict[str, float] = Field(default_factory=dict)
    """Values by criterion: yes and no as 1 and 0, scales as the raw number."""
    raw: Text = ""
    error: str | None = None
    """Why the verdict has no values. Such a verdict is *unscored*: it is counted, but never scored as zero."""

    @property
    def scored(self) -> bool:
        """Whether the verdict has values."""
        return self.error is None


class Estimate(NamedTuple):
    """A value, its 95 % interval, and the number of units behind it.

    An undefined statistic has a null value and a `reason`.
    """

    value: float | None
    ci: tuple[float, float] | None
    n: int
    reason: str | None = None

    def json(self) -> dict[str, Any]:
        """The estimate as text, as in all printed tables."""
        shape: dict[str, Any] = {"value": self.value, "ci": list(self.ci) if self.ci else None, "n": self.n}
        return {**shape, "reason": self.reason} if self.reason else shape


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), as 32 hex digits."""
    canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=_plain)
    return hashlib.sha256(canonical).hexdigest()[:32]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (tuple, set, frozenset)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    return str(value)
