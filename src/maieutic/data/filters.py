"""The filters of `clean`: their names, order, options and presets, and what each does to one conversation.

A filter keeps, repairs, cuts or rejects one conversation. Filters that repair texts run first, so that all later
filters see the texts that will be kept; filters that compare conversations run last. Filters are independent of each
other. Only the two that look for duplicates keep state.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache, partial
from importlib import resources
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from maieutic.core.messages import Conversation, Record, Role
from maieutic.data.corpus import identity, problem_key
from maieutic.data.repair import Repair, Repaired, repair_turns


class Filter(StrEnum):
    """The filters by name, in the order in which they run."""

    HTML = "html"
    PERSONAL = "personal"
    ROLES = "roles"
    MENTIONS = "mentions"
    BRANDING = "branding"
    REFUSALS = "refusals"
    FLOODS = "floods"
    LANGUAGE = "language"
    LENGTH = "length"
    TURNS = "turns"
    DUPLICATES = "duplicates"
    NEAR = "near"


ALWAYS = (Filter.ROLES, Filter.TURNS, Filter.DUPLICATES)
"""The filters that run by default."""


class Reason(StrEnum):
    """Why a conversation was rejected."""

    MENTION = "names a service"
    BRANDING = "branding"
    REFUSAL = "refusal"
    FLOOD = "template flood"
    LANGUAGE = "another language"
    LONG = "one round too long"
    NO_USER = "no user turn"
    NO_ASSISTANT = "no assistant turn"
    SHORT = "too few turns"
    DUPLICATE = "exact duplicate"
    NEAR = "near duplicate"


PRESETS: dict[str, dict[str, Any]] = {
    "platolm": {
        "filters": [Filter.HTML, Filter.MENTIONS, Filter.LANGUAGE, Filter.LENGTH],
        "min_turns": 3,
        "max_tokens": 2048,
    }
}
"""`platolm`: the published cleaning (arXiv 2308.11534), in its order. The paper removes conversations of one question
and one answer, so the minimum is three turns."""

_IMPLIED = {"languages": Filter.LANGUAGE, "max_tokens": Filter.LENGTH, "tokenizer": Filter.LENGTH}
"""Settings that turn on the filter that they belong to."""


class CleanOptions(Record):
    """The settings of cleaning. Settings that are not given come from the preset."""

    preset: str | None = Field(
        None, description="platolm: html, mentions, language, length, at least three turns."
    )
    filters: tuple[Filter, ...] = Field(
        (),
        description="Besides roles, turns and duplicates: html, personal, mentions, branding, refusals, floods, "
        "language, length, near; or all. Several separated by commas.",
    )
    languages: tuple[str, ...] = Field(
        ("en",), min_length=1, description="Filter language: ISO 639 codes of the languages to keep."
    )
    max_tokens: int = Field(2048, ge=1, description="Filter length: maximum number of tokens of a part.")
    tokenizer: str | None = Field(
        None,
        description="Filter length: tokenizer that counts the tokens; default: an estimate from the words.",
    )
    keep_opening: bool = Field(False, description="Keep assistant turns before the first user turn.")
    keep_duplicates: bool = Field(False, description="Keep exact duplicates.")
    min_turns: int = Field(2, ge=1, description="Minimum number of user and assistant turns.")

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        preset = given.get("preset") or None
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"no preset {preset!r}; known: {', '.join(PRESETS)}")
        names = split_commas(given.get("filters", ()))
        if names == ["all"]:
            names = list(Filter)
        if unknown := [name for name in names if name not in list(Filter)]:
            raise ValueError(f"no filter {str(unknown[0])!r}; known: {', '.join(Filter)}, or all")
        if "languages" in given:
            given["languages"] = split_commas(given["languages"])
        defaults = PRESETS[preset] if preset else {}
        implied = (_IMPLIED[name] for name in _IMPLIED if name in given)
        filters = tuple(dict.fromkeys((*defaults.get("filters", ()), *names, *implied)))
        return {**defaults, **given, "preset": preset, "filters": filters}

    def chosen(self) -> list[Filter]:
        """The filters to run, in their order."""
        unwanted = {Filter.DUPLICATES} if self.keep_duplicates else set()
        return [name for name in Filter if name in {*ALWAYS, *self.filters} - unwanted]


def split_commas(value: Any) -> list[Any]:
    """The items of a list; a text in it may hold several items separated by commas."""
    items = [value] if isinstance(value, str) else list(value)
    parts = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
    return [part.strip() if isinstance(part, str) else part for part in parts if part != ""]


class Rejected(NamedTuple):
    """A rejected conversation, with the repairs made before the rejection."""

    conversation: Conversation
    reason: Reason
    detail: str | None = None
    """The evidence: the phrase, the language or the id of the near duplicate."""


class FilterResult(NamedTuple):
    """The result of one filter on one conversation."""

    kept: tuple[Conversation, ...]
    """The conversation, repaired or unchanged; or its parts; or empty if it was rejected."""
    rejected: tuple[Rejected, ...] = ()
    repairs: tuple[Repair, ...] = ()
    masked: Counter[str] | None = None
    """Pieces of personal data by kind."""


class ActiveFilter(NamedTuple):
    """A filter with its settings, ready to run."""

    name: Filter
    run: Callable[[Conversation], FilterResult]


def active_filters(options: CleanOptions, flooded: frozenset[int] = frozenset()) -> list[ActiveFilter]:
    """The chosen filters in their order; those that look for duplicates start empty.

    Args:
        options: the settings.
        flooded: the hashes of flooded 7-grams, from `near_duplicates.flooded`.

    Raises:
        MissingExtra: a chosen filter needs a library that is not installed.
        InputError: unknown language or tokenizer.
    """
    makers: dict[Filter, Callable[[], Callable[[Conversation], FilterResult]]] = {
        Filter.HTML: lambda: _html,
        Filter.PERSONAL: lambda: _personal,
        Filter.ROLES: lambda: _roles(options),
        Filter.MENTIONS: lambda: partial(_phrase, mention, Reason.MENTION),
        Filter.BRANDING: lambda: partial(_phrase, branding, Reason.BRANDING),
        Filter.REFUSALS: lambda: partial(_phrase, refusal, Reason.REFUSAL),
        Filter.FLOODS: lambda: partial(_floods, flooded),
        Filter.LANGUAGE: lambda: _language(options.languages),
        Filter.LENGTH: lambda: _length(options),
        Filter.TURNS: lambda: lambda conversation: _kept_unless(conversation, reject(conversation, options)),
        Filter.DUPLICATES: _duplicates,
        Filter.NEAR: _near,
    }
    return [ActiveFilter(name, makers[name]()) for name in options.chosen()]


def _kept_unless(
    conversation: Conversation, reason: Reason | None, detail: str | None = None
) -> FilterResult:
    if reason is None:
        return FilterResult((conversation,))
    return FilterResult((), (Rejected(conversation, reason, detail),))


def _html(conversation: Conversation) -> FilterResult:
    from maieutic.data.repair import to_markdown

    texts = [to_markdown(turn.content) for turn in conversation.messages]
    if all(text == turn.content for text, turn in zip(texts, conversation.messages, strict=True)):
        return FilterResult((conversation,))
    messages = tuple(
        turn.model_copy(update={"content": text})
        for text, turn in zip(texts, conversation.messages, strict=True)
    )
    return FilterResult((conversation.model_copy(update={"messages": messages}),), repairs=(Repair.HTML,))


def _personal(conversation: Conversation) -> FilterResult:
    from maieutic.data.personal import mask_conversation

    masked, found = mask_conversation(conversation)
    counts = Counter({kind.value: count for kind, count in found.items()})
    return FilterResult((masked,), repairs=(Repair.MASKED,) if found else (), masked=counts)


def _roles(options: CleanOptions) -> Callable[[Conversation], FilterResult]:
    filters = [
        run for name, run in ((Filter.HTML, _html), (Filter.PERSONAL, _personal)) if name in options.filters
    ]

    def run(conversation: Conversation) -> FilterResult:
        repaired, repairs = repair_turns(conversation, options.keep_opening)
        while True:
            # Merged turns are new text: repeat the filters that repair texts until none changes anything.
            again = repaired
            for repair_text in filters if repairs else ():
                (again,) = repair_text(again).kept
            again, more = repair_turns(again, options.keep_opening)
            if again == repaired:
                return FilterResult((repaired,), repairs=repairs)
            repaired, repairs = Repaired(again, tuple(dict.fromkeys((*repairs, *more))))

    return run


def _phrase(
    find: Callable[[Conversation], str | None], reason: Reason, conversation: Conversation
) -> FilterResult:
    phrase = find(conversation)
    return _kept_unless(conversation, reason if phrase else None, phrase)


def is_later_part(conversation: Conversation) -> bool:
    """Whether this is a later part of a cut conversation, so that its first turn did not start a conversation."""
    part = conversation.meta.get("part")
    return "part_of" in conversation.meta and isinstance(part, int) and part > 1


def _floods(flooded: frozenset[int], conversation: Conversation) -> FilterResult:
    from maieutic.data.near_duplicates import flood_words

    words = None if is_later_part(conversation) else flood_words(conversation, flooded)
    return _kept_unless(conversation, Reason.FLOOD if words else None, words)


def _language(wanted: tuple[str, ...]) -> Callable[[Conversation], FilterResult]:
    from maieutic.data.language import asks_to_translate, check_codes, other_language

    check_codes(wanted)

    def run(conversation: Conversation) -> FilterResult:
        if "part_of" in conversation.meta:  # the filter has already seen the uncut conversation
            return FilterResult((conversation,))
        code = other_language(conversation, wanted)
        if code and asks_to_translate(conversation):
            return FilterResult((conversation,), repairs=(Repair.TRANSLATION,))
        return _kept_unless(conversation, Reason.LANGUAGE if code else None, code)

    return run


def _length(options: CleanOptions) -> Callable[[Conversation], FilterResult]:
    from maieutic.data.lengths import cut, token_counter

    count = token_counter(options.tokenizer)

    def run(conversation: Conversation) -> FilterResult:
        fitting, too_long = cut(conversation, options.max_tokens, count)
        rejected = tuple(Rejected(part, Reason.LONG) for part in too_long)
        return FilterResult(fitting, rejected, (Repair.CUT,) if len(fitting) + len(too_long) > 1 else ())

    return run


def reject(conversation: Conversation, options: CleanOptions) -> Reason | None:
    """Why a repaired conversation is rejected because of its turns; null if it is kept.

    A prompt without a reply yet (`meta.prompt`, from seed lists) needs no assistant turn and may have a single turn.
    """
    users = len(conversation.turns(Role.USER))
    assistants = len(conversation.turns(Role.ASSISTANT))
    is_prompt = "prompt" in conversation.meta
    if not users:
        return Reason.NO_USER
    if not assistants and not is_prompt:
        return Reason.NO_ASSISTANT
    if users + assistants < (1 if is_prompt and options.min_turns == 2 else options.min_turns):
        return Reason.SHORT
    return None


def _duplicates() -> Callable[[Conversation], FilterResult]:
    seen: set[bytes] = set()

    def run(conversation: Conversation) -> FilterResult:
        digest = bytes.fromhex(identity(conversation))
        is_new = digest not in seen
        seen.add(digest)
        return _kept_unless(conversation, None if is_new else Reason.DUPLICATE)

    return run


def _near() -> Callable[[Conversation], FilterResult]:
    import numpy as np

    from maieutic.data.near_duplicates import NEAR, NearIndex, grams

    index = NearIndex()
    ids: list[str] = []
    wholes: dict[int, Any] = {}

    def run(conversation: Conversation) -> FilterResult:
        spoken = "\n".join(turn.content for turn in conversation.messages if turn.role != Role.SYSTEM)
        # The problem's key is part of each gram, so conversations about different problems share no gram.
        about = problem_key(conversation.problem)
        sketch = index.sketch(grams(spoken) ^ np.uint64(int(about[:16], 16) if about else 0))
        # Parts of one cut conversation are not compared: they often repeat text, such as a draft under revision.
        whole = conversation.meta.get("part_of")
        close = index.close(sketch, NEAR)
        found = next((place for place in close if whole is None or wholes.get(place) != whole), None)
        if found is not None:
            return _kept_unless(conversation, Reason.NEAR, ids[found])
        place = index.add(sketch)
        ids.append(conversation.id)
        if whole is not None:
            wholes[place] = whole
        return FilterResult((conversation,))

    return run


OPENING = 300
"""A refusal is looked for in this many characters at the start of an assistant turn."""


def mention(conversation: Conversation) -> str | None:
    """The first name of a service (OpenAI, ChatGPT, …) in any turn."""
    return next(filter(None, (_first("mentions", turn.content) for turn in conversation.messages)), None)


def branding(conversation: Conversation) -> str | None:
    """The first phrase in which the assistant says that it is a company's model."""
    found = (_first("branding", text) for text in conversation.turns(Role.ASSISTANT))
    return next(filter(None, found), None)


def refusal(conversation: Conversation) -> str | None:
    """The first phrase in which the assistant refuses, near the start of a turn."""
    found = (_first("refusals", text[:OPENING]) for text in conversation.turns(Role.ASSISTANT))
    return next(filter(None, found), None)


def phrases(name: str) -> tuple[str, ...]:
    """The phrases of a file in `data/phrases`: `mentions`, `branding` or `refusals`."""
    text = (resources.files("maieutic.data") / "phrases" / f"{name}.txt").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _first(name: str, text: str) -> str | None:
    """The first phrase of a file that occurs in a text as whole words; letter case and spacing do not matter."""
    pattern, hints = _compiled(name)
    text = text.lower().replace("’", "'")
    # Substring search rules out most texts, and is many times faster than the pattern.
    if not any(hint in text for hint in hints):
        return None
    found = pattern.search(text)
    return " ".join(found[0].split()) if found else None


@cache
def _compiled(name: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    lowered = [phrase.lower().replace("’", "'") for phrase in phrases(name)]
    longest_first = sorted(lowered, key=len, reverse=True)
    body = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in longest_first)
    hints = {max(phrase.split(), key=len) for phrase in lowered}
    fewest = tuple(sorted(hint for hint in hints if not any(other in hint for other in hints - {hint})))
    return re.compile(rf"(?<!\w)(?:{body})(?!\w)"), fewest
