"""Rows → token ids and labels, with a count of everything that does not go in and why.

Nothing is cut inside a turn: of a conversation that is too long, whole turns are left out (see `render.truncate`), and
one of which no turn fits is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import ValidationError

from maieutic.chat_templates import IGNORED, Rendered, prompt_ids, render, render_many
from maieutic.chat_templates.turns import Keep, fit
from maieutic.core.console import note
from maieutic.core.errors import ContextTooShort, EmptyCorpus, InputError, MissingInput, UnstablePrefix
from maieutic.core.messages import Conversation, Message, Role
from maieutic.core.rows import PreferenceRow
from maieutic.models.weights import Framing
from maieutic.train.condition import NONE, Mixture, Told


class DataReport(NamedTuple):
    """What became of the rows, and what they hold."""

    rows: int
    """Rows trained on."""
    without_turn: int = 0
    """Rows with no turn of the trained role: left out."""
    shortened: int = 0
    """Rows that lost whole turns to fit."""
    too_long: int = 0
    """Rows of which nothing fits: left out."""
    broken: int = 0
    """Lines that are no row: left out."""
    ends: int = 0
    """Rows that teach END."""
    ends_cut: int = 0
    """Rows that would have, but lost their end with the turns that did not fit."""
    tokens: int = 0
    supervised: int = 0
    """Tokens in the loss."""
    conditions: Mapping[str, int] | None = None
    """Rows by what they were told; null where none was to be told anything."""
    lacking: Mapping[str, int] | None = None
    """Rows that were to be told what they lack, by that: they were told nothing."""

    def json(self) -> dict[str, Any]:
        """As printed and recorded."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def sentence(self, name: str) -> str:
        """One line for people."""
        share = 100 * self.supervised / max(1, self.tokens)
        lost = {
            "without a turn of that role": self.without_turn,
            "shortened": self.shortened,
            "too long": self.too_long,
            "broken": self.broken,
        }
        said = "".join(f", {count} {why}" for why, count in lost.items() if count)
        if self.ends or self.ends_cut:
            said += f"; {self.ends} teach the end of a conversation"
            said += f", {self.ends_cut} lost theirs by shortening" if self.ends_cut else ""
        if self.conditions:
            said += "; told " + ", ".join(
                f"{kind}: {count}" for kind, count in sorted(self.conditions.items())
            )
        if self.lacking:
            lacking = ", ".join(f"{kind}: {count}" for kind, count in sorted(self.lacking.items()))
            said += f" (told nothing for lack of it: {lacking})"
        return f"{name}: {self.rows} rows, {self.tokens} tokens, {share:.1f} % of them in the loss{said}"


class Rows(NamedTuple):
    """A dataset for a trainer and what is said about it."""

    dataset: Any
    """A `datasets.Dataset`; columns `input_ids`, `labels`, or `prompt_ids`, `chosen_ids`, `rejected_ids`."""
    report: DataReport
    licences: list[str]
    talks: list[Conversation] | None = None
    """The conversations as they stand in the dataset, where they were asked for."""


def conversation_rows(
    conversations: Iterable[Conversation],
    tokenizer: Any,
    role: str,
    frame: Framing,
    max_length: int,
    end: bool = True,
    keep: Keep = "start",
    mixture: Mixture | None = None,
    keep_talks: bool = False,
) -> Rows:
    """Conversations as columns `input_ids` and `labels` (-100 outside the loss).

    Args:
        conversations: the corpus.
        tokenizer: END is added to it where a conversation ends and the user's side is trained.
        role: `user`, `assistant` or `both`.
        frame: template and system text.
        max_length: tokens a row may have.
        end: whether conversations that ended teach END.
        keep: which part of a conversation that is too long is kept.
        mixture: what each row is told; null: nothing.
        keep_talks: whether the conversations are wanted too.

    Raises:
        EmptyCorpus: no conversation has a turn of that role.
        ContextTooShort: none fits.
        RenderError: one cannot be rendered.
    """
    sides = {Role.USER, Role.ASSISTANT} if role == "both" else {Role(role)}
    kept: list[Rendered] = []
    talks: list[Conversation] = []
    counts = {"without_turn": 0, "shortened": 0, "too_long": 0, "ends": 0, "ends_cut": 0}
    licences: set[str] = set()

    def speaking() -> Iterator[Told]:
        for place, conversation in enumerate(conversations):
            if not any(turn.role in sides for turn in conversation.messages):
                counts["without_turn"] += 1
                continue
            if not end:
                conversation = conversation.model_copy(update={"ended": False})
            yield mixture.told(conversation, place) if mixture else Told(conversation, NONE, NONE)

    def labelled(some: Sequence[Conversation]) -> list[Rendered]:
        return _labelled(some, tokenizer, role, frame)

    rows = list(speaking())  # rendered together, which is several times faster
    for told, whole in zip(rows, labelled([one.conversation for one in rows]), strict=True):
        conversation = told.conversation
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
        kept.append(mixture.settled(told, rendered) if mixture else rendered)
        talks += [fitting] if keep_talks else []
    if not kept and counts["too_long"]:
        raise ContextTooShort(
            f"not one turn of the {role} fits {max_length} tokens ({counts['too_long']} conversations)",
            "Raise --max-length, take a model with a longer context, or split the turns.",
        )
    if not kept:
        raise EmptyCorpus(
            f"no conversation has a turn of the {role}", "Train the other role, or give another corpus."
        )
    tokens = sum(len(row.input_ids) for row in kept)
    report = DataReport(len(kept), tokens=tokens, supervised=sum(row.supervised for row in kept), **counts)
    if mixture:
        report = report._replace(conditions=dict(mixture.counts), lacking=dict(mixture.lacking))
    return Rows(_dataset({name: [getattr(row, name) for row in kept] for name in Rendered._fields}),
                report, sorted(licences), talks if keep_talks else None)  # fmt: skip


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
    """Pairs as columns `prompt_ids`, `chosen_ids` and `rejected_ids`; the prompt's are those at inference.

    Args:
        preferences: the pairs.
        tokenizer: of the model.
        frame: template and system text.
        max_length: tokens that prompt and longer reply may have.
        drop_too_long: leave out those that do not fit, and count them.
        keep: let the oldest whole turns of a prompt go first, and count that.

    Raises:
        EmptyCorpus: there is no pair.
        ContextTooShort: a pair does not fit and `drop_too_long` is not set, or none fits.
        InputError: a pair is not one assistant's turn against another.
        UnstablePrefix: what would be generated from is not what would be trained on.
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
            "Raise --max-length, let the oldest turns go with --keep end, or leave them out with --drop-too-long.",
        )
    if not rows:
        raise EmptyCorpus(
            "there is no preference pair to train on", "Lower the score asked of a chosen reply."
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
    """The pair with as many whole turns of its prompt, from its end, as fit; null where its last does not.

    A system turn stays, and the first turn is one of the role that opened the conversation.
    """
    longer = max((ids[1], pair.chosen), (ids[2], pair.rejected), key=lambda one: len(one[0]))[1]
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
    """The ids of a reply and of the end of its turn, exactly as fine-tuning would have them in its loss."""
    if len(reply) != 1 or reply[0].role != Role.ASSISTANT:
        raise InputError(f"{where}: not one assistant's turn", "Make pairs with `maieutic prefer`.")
    whole = Conversation.model_validate({"messages": [*prompt, *reply]})
    rendered = render(whole, tokenizer, Role.ASSISTANT, frame.template, frame.system, end=False)
    if rendered.input_ids[: len(ids)] != ids:
        raise UnstablePrefix(
            f"{where}: the prompt's ids change once the reply follows", "Use another --template."
        )
    labels = rendered.labels[len(ids) :]
    stop = next((index for index, label in enumerate(labels) if label == IGNORED), len(labels))
    return labels[:stop]


class Preferences(NamedTuple):
    """The pairs of a file, and how many of its lines are none."""

    pairs: list[PreferenceRow]
    broken: int


def read_preferences(path: Path) -> Preferences:
    """The pairs of a JSONL file (or a stage's folder); keys not ours are passed over, broken lines named.

    Raises:
        MissingInput: there is no such file.
    """
    file = path / "rows.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise MissingInput(f"{path}: no such file", "Make one with `maieutic prefer`.")
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
    """Say on standard error what became of the rows."""
    note(report.sentence(name))
