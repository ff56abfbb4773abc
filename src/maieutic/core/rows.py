"""The rows that steps write and read: one class for each kind of JSONL row, and a function that reads them.

A row is frozen and typed. Unknown keys are kept, so that the next step gets them. Fields that were not set are not
written. An invalid row is reported by file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from maieutic.core.console import note
from maieutic.core.errors import InputError, MissingInput
from maieutic.core.json_rows import BadRows, Placed
from maieutic.core.messages import (
    Conversation,
    Fault,
    Finish,
    Message,
    Problem,
    Record,
    Role,
    Sampling,
    Text,
    Verdict,
    fingerprint,
)
from maieutic.core.reading import read_rows as read_file
from maieutic.core.store import KeyIndex, read_rows, rows_file

RowKind = TypeVar("RowKind", bound=BaseModel)


class _Open(BaseModel):
    """A part of a row: frozen; unknown keys are kept, and only fields that were set are written."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    @model_serializer(mode="wrap")
    def _given_only(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {name: value for name, value in written.items() if name in self.model_fields_set}


class StageRow(_Open):
    """A row of a step's `rows.jsonl`."""

    key: str = ""
    """A hash of everything that decides the row."""
    fault: Fault | None = None
    """The cause of the failure, if the row's item failed."""
    error: str | None = None
    """The error message of the failure."""

    def row(self) -> dict[str, Any]:
        """The row as it is written, without its key."""
        return self.model_dump(mode="json", exclude={"key"})


def _without_nulls(problem: Problem) -> dict[str, Any]:
    return problem.model_dump(exclude_none=True)


def _given_verdict(value: Any) -> Any:
    """Complete a verdict from a hand-written file, which may lack the judge's name or have null values."""
    if not isinstance(value, Mapping):
        return value
    return {"judge": "", **value, "values": value.get("values") or {}}


RowProblem = Annotated[Problem, PlainSerializer(_without_nulls)]
RowVerdict = Annotated[Verdict, BeforeValidator(_given_verdict)]


class Candidate(_Open):
    """One of several replies to a dialogue."""

    text: Annotated[Text, BeforeValidator(str)]
    finish: Finish = Finish.STOP
    completion_tokens: int = 0
    model: str | None = None
    """The model that wrote the reply, if the row has replies of several models."""


class CandidateRow(StageRow):
    """A dialogue and several replies to it.

    A row with `messages` and no `candidates` is a conversation: its last message, by the assistant, is the candidate.
    """

    id: str | None = None
    index: int | None = None
    """The index of the dialogue in its corpus."""
    turn: int | None = None
    """The index of the reply in its conversation, if each reply of a conversation is judged."""
    messages: tuple[Message, ...]
    """The dialogue up to the user's last turn, as the assistant sees it."""
    dialogue: tuple[Message, ...] | None = None
    """The same dialogue without the assistant's own system prompt, as a simulated user sees it."""
    intent: str | None = None
    profile: str | None = None
    problem: RowProblem | None = None
    source: str | None = None
    licence: str | None = None
    candidates: tuple[Candidate, ...]
    """None if the model did not answer."""
    model: str | None = None
    sampling: Sampling | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_last_reply(cls, row: Any) -> Any:
        if (
            not isinstance(row, Mapping)
            or "candidates" in row
            or not isinstance(row.get("messages"), (list, tuple))
        ):
            return row
        *before, last = row["messages"] or [None]
        if isinstance(last, Message):
            last = last.model_dump()
        if not isinstance(last, Mapping) or last.get("role") != Role.ASSISTANT:
            raise ValueError("no `candidates`, and the last message is not the assistant's")
        return {**row, "messages": before, "candidates": [{"text": last.get("content")}]}

    @property
    def texts(self) -> tuple[str, ...]:
        """The candidates' texts."""
        return tuple(candidate.text for candidate in self.candidates)

    @property
    def context(self) -> tuple[Message, ...]:
        """The dialogue without system messages, which address the assistant."""
        return tuple(message for message in self.messages if message.role != Role.SYSTEM)

    @property
    def user_turns(self) -> list[str]:
        """The user's turns, oldest first."""
        return [message.content for message in self.messages if message.role == Role.USER]

    @property
    def start(self) -> tuple[Message, ...]:
        """The dialogue as a simulated user sees it."""
        return self.dialogue or self.messages


class JudgedRow(CandidateRow):
    """A candidate row with a verdict for each candidate."""

    rubric: str | None = None
    verdicts: tuple[RowVerdict, ...]
    scores: tuple[float | None, ...]
    """The summary score of each candidate; null if the candidate is unscored."""
    model_verdicts: tuple[tuple[RowVerdict, ...], ...] = ()
    """For each candidate, the verdicts of all judge models and repeats."""
    decided_by: tuple[dict[str, str], ...] = ()
    """For each candidate, by criterion: `code`, or the judge models that decided."""
    repeats: tuple[tuple[float | None, ...], ...] = ()
    """For each candidate, the summary score of each repeat."""

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if not self.messages:
            raise ValueError("no messages")
        if not len(self.candidates) == len(self.verdicts) == len(self.scores):
            counts = (
                f"{len(self.candidates)} candidates, {len(self.verdicts)} verdicts, {len(self.scores)} scores"
            )
            raise ValueError(f"every candidate needs a verdict and a score ({counts})")
        return self


class RewardRow(JudgedRow):
    """A judged row whose scores include how simulated students continued after each candidate."""

    rubric_scores: tuple[float | None, ...] = ()
    """The scores by the rubric only."""
    outcomes: tuple[float | None, ...] = ()
    """For each candidate, the share of solved continuations; null without continuations."""
    plays: tuple[int, ...] = ()
    """For each candidate, the number of continuations that count in `outcomes`."""
    lost: tuple[int, ...] = ()
    """For each candidate, the number of failed continuations that do not count."""
    weight: float = 0.0
    """The weight of the continuations' outcome in the scores."""


class PreferenceRow(Record):
    """A pair in TRL's conversational DPO form."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    scores: dict[str, float] = Field(default_factory=dict)
    """`chosen` and `rejected`: the summary scores."""
    meta: dict[str, Any] = Field(default_factory=dict)


class ComparedReply(_Open):
    """One side of a pairwise comparison."""

    text: str
    model: str | None = None


class ComparedRow(StageRow):
    """Two replies to one dialogue, and which is better."""

    id: str | None = None
    index: int | None = None
    source: str | None = None
    messages: tuple[Message, ...]
    problem: RowProblem | None = None
    place: int = 0
    """The index of this pair among several replies to the same dialogue."""
    a: ComparedReply
    b: ComparedReply
    rubric: str | None = None
    winner: str | None
    """`a`, `b` or `tie`; null if no verdict could be parsed."""
    decided: str
    """What decided: `code`, `equal` (the replies are equal) or `judge`."""
    votes: tuple[str | None, ...] = ()
    """One winner for each judge model and repeat."""
    games: tuple[dict[str, Any], ...] = ()
    """One comparison for each judge model, repeat and order of the two replies."""


class Failure(Record):
    """Why an episode could not be finished."""

    fault: Fault
    error: str


class TurnInfo(_Open):
    """Details of the reply behind one generated turn."""

    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    finish: Finish = Finish.STOP
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    attempts: int = 1
    end_probability: float | None = None
    redrawn: tuple[dict[str, str], ...] = ()
    """Replies that a guard rejected, each with the guard's name."""
    broken_guard: str | None = None
    """The guard that also rejected the last resampled reply; that reply was kept."""
    cost: float | None = None
    forced: bool = False
    controller: str | None = None


class Episode(Conversation):
    """A simulated dialogue, finished or failed: a conversation, and how each turn was generated."""

    failure: Failure | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_key(cls, row: Any) -> Any:
        return (
            {name: value for name, value in row.items() if name != "key"} if isinstance(row, Mapping) else row
        )

    @property
    def dialogue(self) -> str:
        """The key of the episode, shared by its failed attempts."""
        return str(self.meta["dialogue"])

    @property
    def seed(self) -> str:
        """The id of the conversation that the episode started from."""
        return str(self.meta["seed"])

    @property
    def end(self) -> str | None:
        """Why the episode ended; null if it failed."""
        return self.meta.get("end")

    @property
    def infos(self) -> dict[str, TurnInfo]:
        """Details by the index of each generated turn; `end` has the details of the reply that ended the episode."""
        return {
            place: TurnInfo.model_validate(info) for place, info in (self.meta.get("turns") or {}).items()
        }


class TurnRow(StageRow):
    """A generated turn of an episode that is not finished."""

    dialogue: str
    index: int
    turn: Message
    info: dict[str, Any]


class TestAnswer(_Open):
    """One answer of a student to a problem."""

    text: str
    correct: bool
    seed: int | None = None
    finish: Finish = Finish.STOP


class PrePostRow(StageRow):
    """A student's answers to the problem of a dialogue, before or after the dialogue."""

    subject: str
    """Before the dialogue: the key of the start. After the dialogue: the id of the dialogue."""
    seed: str | None = None
    when: str | None = None
    model: str | None = None
    mode: str | None = None
    prompt: str | None = None
    sampling: Sampling | None = None
    answers: tuple[TestAnswer, ...] = ()


class FailureRow(_Open):
    """One line of `failures.jsonl`: an item that failed and will be asked again."""

    key: str = ""
    row: str
    """The key of the row that could not be made."""
    error: str


def read_step(kind: type[RowKind], source: Path | str, stage: str, warn: bool = True) -> Iterator[RowKind]:
    """Read the rows of a step, each key once.

    Args:
        kind: the class of the rows.
        source: the step's folder, its run's folder, or a JSON, JSONL, CSV or Parquet file of the same rows. Rows of a
            file that have no `key` get one from their content.
        stage: the step's folder in a run's folder, such as `judge`.
        warn: name skipped lines (lines that are not JSON) on standard error.

    Raises:
        MissingInput: there is no such file or folder.
        InputError: a row is invalid; the message names file and line.
    """
    return (parse(kind, row.value, row.where) for row in read_placed(source, stage, warn))


def parse(kind: type[RowKind], value: Any, where: str) -> RowKind:
    """The value as a row of the class `kind`.

    Raises:
        InputError: the value is invalid; the message names `where` and the first invalid field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{where}: not a {kind.__name__} ({f'{field}: ' if field else ''}{message})",
            "Give the rows that the previous step writes.",
        ) from None


def read_placed(source: Path | str, stage: str, warn: bool = True) -> Iterator[Placed]:
    """The rows of a step as dicts, each with its file and line; see `read_step`."""
    path = Path(source)
    if path.is_dir():
        yield from _stored(path / stage if (path / stage / "rows.jsonl").is_file() else path)
        return
    if not path.is_file():
        raise MissingInput(
            f"{path}: no such file or folder", f"Name the folder of a {stage} step, or a file of its rows."
        )
    bad = BadRows(strict=path.suffix == ".json")
    for row in read_file(path, bad):
        if not isinstance(row.value, dict):
            raise InputError(f"{row.where}: not an object", f"Give the rows of a {stage} step.")
        yield Placed(
            row.where, row.value if "key" in row.value else {"key": fingerprint(row.value), **row.value}
        )
    if bad.count and warn:
        note(bad.summary())


def _stored(folder: Path) -> Iterator[Placed]:
    path = rows_file(folder)
    seen = KeyIndex()
    for number, row in enumerate(read_rows(path), 1):
        if seen.add(row["key"]):
            yield Placed(f"{path}:{number}", row)
