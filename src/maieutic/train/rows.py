"""Conversations and preference pairs → token ids and labels, with a count of every row that is left out, and why.

No turn is truncated: a conversation that is too long loses whole turns (see `chat_templates.turns`). A conversation
without any turn that fits is left out and counted.

A user simulator can be conditioned: a row's system text may contain the user's intent, problem or profile, or the
first round may be given outside the loss (see `chat_templates.conditioning`). `Mixture` draws the conditioning of each
row at given rates, so that one simulator learns all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import ValidationError

from maieutic.chat_templates.conditioning import NONE, ROUND, conditioned, wording
from maieutic.chat_templates.rendering import IGNORED, Rendered, prompt_ids, render, render_many
from maieutic.chat_templates.turns import Keep, fit
from maieutic.core.console import note
from maieutic.core.errors import ContextTooShort, EmptyCorpus, InputError, MissingInput, UnstablePrefix
from maieutic.core.messages import Conversation, Message, Role, fingerprint
from maieutic.core.rows import PreferenceRow
from maieutic.models.weights import Framing


class DataReport(NamedTuple):
    """How many rows are trained on, and how many are left out or changed, and why."""

    rows: int
    """Rows trained on."""
    without_turn: int = 0
    """Rows without a turn of the trained role, left out."""
    shortened: int = 0
    """Rows that lost whole turns in order to fit."""
    too_long: int = 0
    """Rows without any turn that fits, left out."""
    broken: int = 0
    """Lines that are not valid rows, left out."""
    ends: int = 0
    """Rows that teach END."""
    ends_cut: int = 0
    """Rows that do not teach END because the last turn was dropped to fit."""
    tokens: int = 0
    supervised: int = 0
    """Tokens in the loss."""
    conditions: Mapping[str, int] | None = None
    """Rows by condition; null without conditioning."""
    lacking: Mapping[str, int] | None = None
    """Rows that lack the drawn conditioning, by condition; they are trained without conditioning."""

    def json(self) -> dict[str, Any]:
        """The printed JSON, also in the manifest."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def sentence(self, name: str) -> str:
        """The report as one line."""
        share = 100 * self.supervised / max(1, self.tokens)
        left_out = {
            "without a turn of that role": self.without_turn,
            "shortened": self.shortened,
            "too long": self.too_long,
            "broken": self.broken,
        }
        more = "".join(f", {count} {why}" for why, count in left_out.items() if count)
        if self.ends or self.ends_cut:
            more += f"; {self.ends} teach the end of a conversation"
            more += f", {self.ends_cut} lost their end by shortening" if self.ends_cut else ""
        if self.conditions:
            more += f"; conditioned by {_counts(self.conditions)}"
        if self.lacking:
            more += f" (unconditioned, since the row lacks it: {_counts(self.lacking)})"
        return f"{name}: {self.rows} rows, {self.tokens} tokens, {share:.1f} % of them in the loss{more}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items()))


class Rows(NamedTuple):
    """A dataset for a trainer."""

    dataset: Any
    """A `datasets.Dataset`; columns `input_ids`, `labels`, or `prompt_ids`, `chosen_ids`, `rejected_ids`."""
    report: DataReport
    licences: list[str]
    conversations: list[Conversation] | None = None
    """The conversations as they were rendered, with `keep_conversations`."""


def conversation_rows(
    conversations: Iterable[Conversation],
    tokenizer: Any,
    role: str,
    frame: Framing,
    max_length: int,
    end: bool = True,
    keep: Keep = "start",
    mixture: Mixture | None = None,
    keep_conversations: bool = False,
) -> Rows:
    """Conversations as columns `input_ids` and `labels` (-100 outside the loss).

    Args:
        conversations: the corpus.
        tokenizer: END is added to it where a conversation ends and the user's side is trained.
        role: `user`, `assistant` or `both`.
        frame: template and system text.
        max_length: maximum tokens of a row.
        end: whether conversations that ended teach END.
        keep: which part of a conversation that is too long is kept.
        mixture: draws the condition of each row; null: no conditioning.
        keep_conversations: whether to return the conversations too.

    Raises:
        EmptyCorpus: no conversation has a turn of that role.
        ContextTooShort: no conversation fits.
        RenderError: a conversation cannot be rendered.
    """
    sides = {Role.USER, Role.ASSISTANT} if role == "both" else {Role(role)}
    kept: list[Rendered] = []
    used: list[Conversation] = []
    counts: dict[str, Any] = {"without_turn": 0, "shortened": 0, "too_long": 0, "ends": 0, "ends_cut": 0}
    licences: set[str] = set()

    def with_turns() -> Iterator[Conditioned]:
        for place, conversation in enumerate(conversations):
            if not any(turn.role in sides for turn in conversation.messages):
                counts["without_turn"] += 1
                continue
            if not end:
                conversation = conversation.model_copy(update={"ended": False})
            yield (
                mixture.condition(conversation, place) if mixture else Conditioned(conversation, NONE, NONE)
            )

    def labelled(some: Sequence[Conversation]) -> list[Rendered]:
        return _labelled(some, tokenizer, role, frame)

    rows = list(with_turns())  # rendered together, which is several times faster
    for row, whole in zip(rows, labelled([row.conversation for row in rows]), strict=True):
        conversation = row.conversation
        fitting, rendered = fit(
            conversation, lambda one: labelled([one])[0], sides, max_length, keep, rendered=whole
        )
        if rendered is None:
            counts["too_long"] += 1
            continue
        counts["shortened"] += len(fitting.messages) < len(conversation.messages)
        if conversation.ended and Role.USER in sides:
            counts["ends" if fitting.ended and fitting.turns(Role.USER) else "ends_cut"] += 1
        licences |= {conversation.licence} if conversation.licence else set()
        kept.append(mixture.apply(row, rendered) if mixture else rendered)
        used += [fitting] if keep_conversations else []
    if not kept and counts["too_long"]:
        raise ContextTooShort(
            f"no turn of the {role} fits {max_length} tokens ({counts['too_long']} conversations)",
            "Raise --max-length, use a model with a longer context, or split the turns.",
        )
    if not kept:
        raise EmptyCorpus(
            f"no conversation has a turn of the {role}", "Train the other role, or give another corpus."
        )
    tokens = sum(len(each.input_ids) for each in kept)
    report = DataReport(len(kept), tokens=tokens, supervised=sum(each.supervised for each in kept), **counts)
    if mixture:
        report = report._replace(conditions=dict(mixture.counts), lacking=dict(mixture.lacking))
    return Rows(_dataset({name: [getattr(each, name) for each in kept] for name in Rendered._fields}),
                report, sorted(licences), used if keep_conversations else None)  # fmt: skip


def _labelled(
    conversations: Sequence[Conversation], tokenizer: Any, role: str, frame: Framing
) -> list[Rendered]:
    if role != "both":
        return render_many(conversations, tokenizer, role, frame.template, frame.system)
    return [_both_sides(conversation, tokenizer, frame) for conversation in conversations]


def _both_sides(conversation: Conversation, tokenizer: Any, frame: Framing) -> Rendered:
    present = {turn.role for turn in conversation.messages}
    views = [
        render(conversation, tokenizer, side, frame.template, frame.system)
        for side in (Role.USER, Role.ASSISTANT)
        if side in present
    ]
    views.sort(key=lambda view: len(view.input_ids), reverse=True)
    longest = views[0]
    labels = list(longest.labels)
    for view in views[1:]:
        if longest.input_ids[: len(view.input_ids)] != view.input_ids:
            raise UnstablePrefix(
                f"conversation {conversation.id}: the two sides render to different ids",
                "Train one role at a time.",
            )
        for index, label in enumerate(view.labels):
            labels[index] = label if label != IGNORED else labels[index]
    return Rendered(longest.input_ids, labels)


def preference_rows(
    preferences: Iterable[PreferenceRow],
    tokenizer: Any,
    frame: Framing,
    max_length: int,
    drop_too_long: bool = False,
    keep: Literal["end"] | None = None,
) -> Rows:
    """Pairs as columns `prompt_ids`, `chosen_ids` and `rejected_ids`. Prompts have the same ids as in generation.

    Args:
        preferences: the pairs.
        tokenizer: of the model.
        frame: template and system text.
        max_length: maximum tokens of a prompt with the longer of its replies.
        drop_too_long: leave out pairs that do not fit, and count them.
        keep: `end` leaves out the oldest whole turns of a prompt first, and counts such pairs.

    Raises:
        EmptyCorpus: there is no pair.
        ContextTooShort: a pair does not fit and `drop_too_long` is not set, or no pair fits.
        InputError: a pair is not one assistant turn against another.
        UnstablePrefix: the ids of a prompt change once a reply follows.
    """
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    licences: set[str] = set()
    too_long = longest = shortened = 0
    for number, pair in enumerate(preferences, 1):
        where = f"pair {number}"
        ids = _pair_ids(pair, tokenizer, frame, where)
        length = _length(ids)
        if length > max_length and keep and (shorter := _shortened(pair, ids, tokenizer, frame, max_length)):
            ids = _pair_ids(shorter, tokenizer, frame, where)
            shortened += _length(ids) <= max_length
        if _length(ids) > max_length:
            too_long, longest = too_long + 1, max(longest, length)
            continue
        licences |= {str(pair.meta["licence"])} if pair.meta.get("licence") else set()
        for name, each in zip(columns, ids, strict=True):
            columns[name].append(each)
    rows = len(columns["prompt_ids"])
    if too_long and (not drop_too_long or not rows):
        raise ContextTooShort(
            f"{too_long} of {rows + too_long} pairs do not fit {max_length} tokens (the longest: {longest})",
            "Raise --max-length, leave out the oldest turns (--keep end), or leave out such pairs (--drop-too-long).",
        )
    if not rows:
        raise EmptyCorpus(
            "there is no preference pair to train on", "Lower --min-chosen of `maieutic preferences`."
        )
    supervised = sum(len(ids) for name in ("chosen_ids", "rejected_ids") for ids in columns[name])
    tokens = supervised + 2 * sum(len(ids) for ids in columns["prompt_ids"])
    report = DataReport(rows, shortened=shortened, too_long=too_long, tokens=tokens, supervised=supervised)
    return Rows(_dataset(columns), report, sorted(licences))


def _pair_ids(pair: PreferenceRow, tokenizer: Any, frame: Framing, where: str) -> tuple[list[int], ...]:
    """The ids of a pair's prompt, chosen and rejected reply."""
    prompt = prompt_ids(pair.prompt, tokenizer, Role.ASSISTANT, frame.template, frame.system)
    replies = {"chosen": pair.chosen, "rejected": pair.rejected}
    return prompt, *(
        _completion(pair.prompt, reply, prompt, tokenizer, frame, f"{where}, {name}")
        for name, reply in replies.items()
    )


def _length(ids: tuple[list[int], ...]) -> int:
    prompt, *replies = map(len, ids)
    return prompt + max(replies)


def _shortened(
    pair: PreferenceRow, ids: tuple[list[int], ...], tokenizer: Any, frame: Framing, max_length: int
) -> PreferenceRow | None:
    """The pair with as many of its prompt's last whole turns as fit; null if not even the last turn fits.

    A system turn is kept, and the first turn has the role that opened the conversation.
    """
    longer = max((ids[1], pair.chosen), (ids[2], pair.rejected), key=lambda reply: len(reply[0]))[1]
    whole = Conversation.model_validate({"messages": [*pair.prompt, *longer]})
    fitting = fit(
        whole,
        lambda one: render(one, tokenizer, Role.ASSISTANT, frame.template, frame.system, end=False),
        {Role.ASSISTANT},
        max_length,
        "end",
    )
    prompt = fitting.conversation.messages[:-1]
    if fitting.rendered is None or all(turn.role == Role.SYSTEM for turn in prompt):
        return None
    return pair.model_copy(update={"prompt": prompt})


def _completion(
    prompt: tuple[Message, ...],
    reply: tuple[Message, ...],
    ids: list[int],
    tokenizer: Any,
    frame: Framing,
    where: str,
) -> list[int]:
    """The ids of a reply and its end of turn: the ids that supervised fine-tuning has in the loss."""
    if len(reply) != 1 or reply[0].role != Role.ASSISTANT:
        raise InputError(f"{where}: not one assistant turn", "Make pairs with `maieutic preferences`.")
    whole = Conversation.model_validate({"messages": [*prompt, *reply]})
    rendered = render(whole, tokenizer, Role.ASSISTANT, frame.template, frame.system, end=False)
    if rendered.input_ids[: len(ids)] != ids:
        raise UnstablePrefix(
            f"{where}: the prompt's ids change once the reply follows", "Use another --template."
        )
    labels = rendered.labels[len(ids) :]
    stop = next((index for index, label in enumerate(labels) if label == IGNORED), len(labels))
    return labels[:stop]


class Conditioned(NamedTuple):
    """A row, its drawn condition and its actual condition."""

    conversation: Conversation
    drawn: str
    kind: str
    """`none` if the row lacks the drawn conditioning."""


class Mixture:
    """Draws the condition of each row. The draw depends only on the seed and the row's index.

    Args:
        rates: see `config.whole_rates`.
        seed: of the draws.
        system: the system text of conversations that have none.
    """

    def __init__(self, rates: Mapping[str, float], seed: int, system: str | None) -> None:
        self._rates, self._seed, self._system = rates, seed, system
        self._words = wording()
        self.counts: Counter[str] = Counter()
        """Rows by condition."""
        self.lacking: Counter[str] = Counter()
        """Rows that lack the drawn conditioning, by condition."""

    def drawn(self, place: int) -> str:
        """The condition drawn for the row at index `place`."""
        left = int(fingerprint(["condition", self._seed, place])[:13], 16) / 16**13
        for kind, rate in self._rates.items():
            left -= rate
            if left < 0:
                return kind
        return max(self._rates, key=lambda kind: self._rates[kind])  # the rates' sum may be rounded below 1

    def condition(self, conversation: Conversation, place: int) -> Conditioned:
        """The row with its condition in the system text."""
        kind = self.drawn(place)
        if kind in (NONE, ROUND):
            return Conditioned(conversation, kind, kind)
        changed = conditioned(conversation, kind, self._system, self._words)
        return Conditioned(changed or conversation, kind, kind if changed else NONE)

    def apply(self, row: Conditioned, rendered: Rendered) -> Rendered:
        """The row's ids and labels. Counts the row, and removes a given first round from the loss."""
        kind = row.kind
        if kind == ROUND:
            rest = without_first_turn(rendered)
            kind, rendered = (ROUND, rest) if rest else (NONE, rendered)
        self.counts[kind] += 1
        if kind != row.drawn:
            self.lacking[row.drawn] += 1
        return rendered


def without_first_turn(rendered: Rendered) -> Rendered | None:
    """The row with its first supervised turn out of the loss; null if the loss would then be empty."""
    labels = rendered.labels
    start = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
    stop = next((place for place in range(start, len(labels)) if labels[place] == IGNORED), len(labels))
    rest = Rendered(rendered.input_ids, [*[IGNORED] * stop, *labels[stop:]])
    return rest if rest.supervised else None


class Preferences(NamedTuple):
    """The pairs of a file, and the number of lines that are not valid pairs."""

    pairs: list[PreferenceRow]
    broken: int


def read_preferences(path: Path) -> Preferences:
    """The pairs of a JSONL file or a step's folder. Unknown keys are ignored; broken lines are noted and left out.

    Raises:
        MissingInput: there is no such file.
    """
    file = path / "rows.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise MissingInput(f"{path}: no such file", "Make one with `maieutic preferences`.")
    pairs: list[PreferenceRow] = []
    broken = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
                pairs.append(
                    PreferenceRow.model_validate(
                        {key: row[key] for key in PreferenceRow.model_fields if key in row}
                    )
                )
            except (orjson.JSONDecodeError, ValidationError, TypeError) as error:
                why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not JSON"
                note(f"{file}:{number}: no preference pair ({why}); left out")
                broken += 1
    return Preferences(pairs, broken)


def _dataset(columns: dict[str, list[list[int]]]) -> Any:
    import numpy as np
    from datasets import Dataset

    return Dataset.from_dict(
        {name: [np.asarray(ids, dtype=np.int32) for ids in rows] for name, rows in columns.items()}
    )


def longest(rows: Rows) -> int:
    """Tokens of the longest row."""
    import pyarrow.compute as compute

    return int(compute.max(compute.list_value_length(rows.dataset.data.column("input_ids"))).as_py())


def announce(report: DataReport, name: str) -> None:
    """Print the report on standard error."""
    note(report.sentence(name))
