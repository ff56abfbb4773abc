"""The data everything else passes around: frozen, closed, and free of torch.

A corpus row is read leniently (unknown keys go to `meta`, an id is made from the content) and written closed.
Text is never changed on the way in: cleaning is a step of its own, with a name and a count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def utf8(text: str) -> str:
    """The text itself; lone surrogates, which no UTF-8 file can hold, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


Text = Annotated[str, AfterValidator(utf8)]


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Role(StrEnum):
    """Who speaks. A conversation is between a user and an assistant; a system turn only frames it."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"

    @property
    def other(self) -> Role:
        """The opposite side; a system turn has none and stays itself."""
        if self is Role.USER:
            return Role.ASSISTANT
        return Role.USER if self is Role.ASSISTANT else self


class Message(Record):
    """One message."""

    role: Role
    content: Text


class Problem(Record):
    """What a tutoring dialogue is about, as far as it is known."""

    statement: str
    answer: str | None = None
    """The known answer, in its shortest form: what a tutor must not state."""
    solution: str | None = None
    """A worked solution; for code, the reference fixes, one a line."""
    attempt: str | None = None
    """The student's wrong solution; for code, the program with the bug."""
    misconception: str | None = None
    """What is wrong in the attempt."""
    tests: str | None = None
    """For code, unit tests: Python that fails unless the program is right; run only where that is asked for."""


class Conversation(Record):
    """One conversation, the row of a corpus (JSONL, the `messages` convention).

    `Conversation.model_validate(row)` takes any such row: an `id` is made from the messages where none is given,
    unknown keys go to `meta`, those of a turn to `meta["turns"]`, and the text is kept byte for byte.
    """

    id: str
    messages: tuple[Message, ...]
    intent: str | None = None
    """What the user wants, in a sentence or two; a simulator can be conditioned on it."""
    profile: str | None = None
    """Who the user is."""
    problem: Problem | None = None
    user_id: str | None = None
    source: str | None = None
    licence: str | None = None
    ended: bool = False
    """True where the person ended the conversation here; only such rows teach END."""
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_leniently(cls, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        known = {key: value for key, value in row.items() if key in cls.model_fields}
        extra = {key: value for key, value in row.items() if key not in cls.model_fields}
        messages, turn_extra = _split_turns(known.get("messages"))
        known["messages"] = messages
        if isinstance(known.get("problem"), str):
            known["problem"] = {"statement": known["problem"]}
        if known.get("id") is None:
            turns = messages if isinstance(messages, (list, tuple)) else ()
            known["id"] = fingerprint([_bare(turn) for turn in turns])[:16]
        for key in ("id", "user_id"):
            if isinstance(known.get(key), int):
                known[key] = str(known[key])
        if known.get("ended") is None:
            known.pop("ended", None)
        meta = known.get("meta") or {}
        if isinstance(meta, Mapping):
            known["meta"] = {**meta, **extra, **({"turns": turn_extra} if turn_extra else {})}
        return known

    def turns(self, role: Role) -> tuple[str, ...]:
        """The texts of one side, in order."""
        return tuple(turn.content for turn in self.messages if turn.role == role)

    def row(self) -> dict[str, Any]:
        """The row as written: empty optional fields left out."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _bare(turn: Any) -> Any:
    if isinstance(turn, Message):
        return [turn.role.value, turn.content]
    return [turn.get("role"), turn.get("content")] if isinstance(turn, Mapping) else turn


def _split_turns(messages: Any) -> tuple[Any, dict[str, Any]]:
    """Messages with only `role` and `content`, and what else stood in each, by index."""
    if not isinstance(messages, (list, tuple)):
        return messages, {}
    bare, extra = [], {}
    for index, turn in enumerate(messages):
        if isinstance(turn, Mapping) and {"role", "content"} <= turn.keys():
            bare.append({"role": turn["role"], "content": turn["content"]})
            if rest := {key: value for key, value in turn.items() if key not in ("role", "content")}:
                extra[str(index)] = rest
        else:
            bare.append(turn)
    return bare, extra


class Finish(StrEnum):
    """Why a reply stopped."""

    STOP = "stop"
    """The end of the turn, or a stop string."""
    END = "end"
    """The end of the conversation: the simulator chose to stop talking."""
    LENGTH = "length"
    """`max_tokens` was reached."""


class Sampling(Record):
    """How a reply is drawn. Part of every row's key."""

    temperature: float = Field(0.7, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: probability mass that is sampled from.")
    max_tokens: int = Field(512, ge=1, description="New tokens of a reply at most.")
    seed: int = Field(0, description="Seed; each draw adds its own number to it.")


class Reply(Record):
    """What a model answered."""

    text: Text
    finish: Finish = Finish.STOP
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    attempts: int = 1
    """Calls it took, failed ones counted."""
    end_probability: float | None = None
    """Probability of END at this human opening; null where the model cannot say."""


class Fault(StrEnum):
    """Whose fault a failure was."""

    USER_MODEL = "user_model"
    ASSISTANT_MODEL = "assistant_model"
    JUDGE = "judge"
    NETWORK = "network"
    BUDGET = "budget"
    US = "us"


class Verdict(Record):
    """A judge's word on one text: values by criterion, or unscored and why."""

    judge: str
    """Model id, or `code` for a deterministic check."""
    values: dict[str, float] = Field(default_factory=dict)
    """By criterion; yes/no as 1 and 0, scales as their raw number."""
    raw: Text = ""
    error: str | None = None
    """Why there are no values; such a verdict is *unscored*: counted, never a zero."""

    @property
    def scored(self) -> bool:
        """Whether the verdict has values."""
        return self.error is None


class Preference(Record):
    """A pair in TRL's conversational DPO form."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    scores: dict[str, float] = Field(default_factory=dict)
    """`chosen` and `rejected`: the summary scores."""
    meta: dict[str, Any] = Field(default_factory=dict)


class Estimate(NamedTuple):
    """A number and how sure it is: `value`, a 95 % interval, and how many units it rests on.

    An undefined statistic has a null value, and `reason` says why.
    """

    value: float | None
    ci: tuple[float, float] | None
    n: int
    reason: str | None = None

    def json(self) -> dict[str, Any]:
        """The one shape every estimate is printed in."""
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
