"""What cleaning can do, by name: the filters in their order, the reasons they give, their options and presets.

The filters of cleaning, in the order in which they run: each keeps, repairs, cuts or rejects one conversation.

What mends texts comes first, so that all later filters see what will be kept; what compares conversations comes last.
Filters know nothing of each other. Only two remember anything: those that look for duplicates.


Refusals, branding and mentions: whole phrases from files of our own, looked for where they say something.

A phrase counts only as whole words. Letter case, the kind of apostrophe and the white space between words do not
matter; white space elsewhere, and every other sign, does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, Record, Role
from maieutic.data.corpus import identity, problem_key
from maieutic.data.repair import Mended, Repair, mend


class Filter(StrEnum):
    """The filters by name, in their order."""

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
"""The filters that run unasked."""


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


class CleanOptions(Record):
    """What counts as clean."""

    filters: tuple[Filter, ...] = ()
    """Filters to run beside those of `ALWAYS`; their order here does not matter."""
    keep_opening: bool = False
    """Keep assistant turns before the first user turn everywhere. They are kept in any case where the importer noted
    that the tutor rightly speaks first (`meta.opens`)."""
    min_turns: int = Field(2, ge=1)
    """User and assistant turns at least, after repairs and cuts."""
    keep_duplicates: bool = False
    """Keep exact duplicates (same roles, texts and problem)."""
    languages: tuple[str, ...] = Field(("en",), min_length=1)
    """ISO 639 codes that `language` keeps."""
    max_tokens: int = Field(2048, ge=1)
    """Tokens of a part at most, for `length`."""
    tokenizer: Path | str | None = None
    """What counts them; without one, the estimate of `data.lengths`."""

    def chosen(self) -> list[Filter]:
        """The filters to run, in their order."""
        unwanted = {Filter.DUPLICATES} if self.keep_duplicates else set()
        return [name for name in Filter if name in {*ALWAYS, *self.filters} - unwanted]


PRESETS = {
    "platolm": CleanOptions(
        filters=(Filter.HTML, Filter.MENTIONS, Filter.LANGUAGE, Filter.LENGTH), min_turns=3, max_tokens=2048
    )
}
"""`platolm`: the published cleaning (arXiv 2308.11534), in its order. A single turn there is one question and one
answer, so three turns are the least."""


def choose(preset: str | None, filters: Iterable[str], given: Mapping[str, Any]) -> CleanOptions:
    """The options that a preset, further filters by name, and single settings mean together.

    Args:
        preset: one of `PRESETS`; null or empty for none.
        filters: names of `Filter`, to run beside the preset's; or `all` alone.
        given: fields of `CleanOptions`; null ones are not set. One that belongs to a filter asks for it too.

    Raises:
        InputError: there is no such preset or filter.
    """
    if preset and preset not in PRESETS:
        raise InputError(f"no preset {preset!r}", f"Known: {', '.join(PRESETS)}.")
    base = PRESETS[preset] if preset else CleanOptions()
    names = list(filters)
    if names == ["all"]:
        names = list(Filter)
    if unknown := [name for name in names if name not in list(Filter)]:
        raise InputError(f"no filter {unknown[0]!r}", f"Known: {', '.join(Filter)}; or all.")
    changes = {key: value for key, value in given.items() if value is not None}
    implied = {"languages": Filter.LANGUAGE, "max_tokens": Filter.LENGTH, "tokenizer": Filter.LENGTH}
    asked = [*base.filters, *map(Filter, names), *(implied[key] for key in implied if key in changes)]
    return CleanOptions.model_validate(
        {**base.model_dump(), "filters": tuple(dict.fromkeys(asked)), **changes}
    )


class Rejected(NamedTuple):
    """A conversation as it stood when a filter rejected it."""

    conversation: Conversation
    reason: Reason
    detail: str | None = None
    """What gave it away: the phrase, the language, the id of the one it is a near duplicate of."""


class Outcome(NamedTuple):
    """What became of one conversation in one filter."""

    kept: tuple[Conversation, ...]
    """The conversation itself, repaired or not; its parts; or nothing."""
    rejected: tuple[Rejected, ...] = ()
    repairs: tuple[Repair, ...] = ()
    found: Counter[str] | None = None
    """Pieces of personal data by kind."""


class Step(NamedTuple):
    """A filter ready to run."""

    name: Filter
    run: Callable[[Conversation], Outcome]


def steps(options: CleanOptions, often: frozenset[int] = frozenset()) -> list[Step]:
    """The chosen filters, fresh: those that remember have seen nothing yet.

    Args:
        options: which, and how.
        often: the flooded 7-grams, from `data.floods.flooded`.

    Raises:
        MissingExtra: a chosen filter needs a library that is not installed.
        InputError: a language or a tokenizer that there is not.
    """
    makers: dict[Filter, Callable[[], Callable[[Conversation], Outcome]]] = {
        Filter.HTML: lambda: _html,
        Filter.PERSONAL: lambda: _personal,
        Filter.ROLES: lambda: _roles(options),
        Filter.MENTIONS: lambda: _phrase("mention", Reason.MENTION),
        Filter.BRANDING: lambda: _phrase("branding", Reason.BRANDING),
        Filter.REFUSALS: lambda: _phrase("refusal", Reason.REFUSAL),
        Filter.FLOODS: lambda: _floods(often),
        Filter.LANGUAGE: lambda: _language(options.languages),
        Filter.LENGTH: lambda: _length(options),
        Filter.TURNS: lambda: lambda conversation: _kept_unless(conversation, reject(conversation, options)),
        Filter.DUPLICATES: _duplicates,
        Filter.NEAR: _near,
    }
    return [Step(name, makers[name]()) for name in options.chosen()]


def _kept_unless(conversation: Conversation, reason: Reason | None, detail: str | None = None) -> Outcome:
    if reason is None:
        return Outcome((conversation,))
    return Outcome((), (Rejected(conversation, reason, detail),))


def _html(conversation: Conversation) -> Outcome:
    from maieutic.data.repair import to_markdown

    texts = [to_markdown(turn.content) for turn in conversation.messages]
    if all(text == turn.content for text, turn in zip(texts, conversation.messages, strict=True)):
        return Outcome((conversation,))
    messages = tuple(
        turn.model_copy(update={"content": text})
        for text, turn in zip(texts, conversation.messages, strict=True)
    )
    return Outcome((conversation.model_copy(update={"messages": messages}),), repairs=(Repair.HTML,))


def _personal(conversation: Conversation) -> Outcome:
    from maieutic.data.personal import mask_conversation

    masked, found = mask_conversation(conversation)
    counts = Counter({kind.value: count for kind, count in found.items()})
    return Outcome((masked,), repairs=(Repair.MASKED,) if found else (), found=counts)


def _roles(options: CleanOptions) -> Callable[[Conversation], Outcome]:
    texts = [
        run for name, run in ((Filter.HTML, _html), (Filter.PERSONAL, _personal)) if name in options.filters
    ]

    def run(conversation: Conversation) -> Outcome:
        mended, repairs = mend(conversation, options.keep_opening)
        while True:
            # Merged turns are new text: what mends texts looks once more, until all have nothing left to do.
            again = mended
            for mend_text in texts if repairs else ():
                (again,) = mend_text(again).kept
            again, more = mend(again, options.keep_opening)
            if again == mended:
                return Outcome((mended,), repairs=repairs)
            mended, repairs = Mended(again, tuple(dict.fromkeys((*repairs, *more))))

    return run


def _phrase(name: str, reason: Reason) -> Callable[[Conversation], Outcome]:
    find: Callable[[Conversation], str | None] = {
        "mention": mention,
        "branding": branding,
        "refusal": refusal,
    }[name]

    def run(conversation: Conversation) -> Outcome:
        phrase = find(conversation)
        return _kept_unless(conversation, reason if phrase else None, phrase)

    return run


def is_later_part(conversation: Conversation) -> bool:
    """Whether a cut left this behind another part: its whole was judged, and its first turn is no opening."""
    part = conversation.meta.get("part")
    return "part_of" in conversation.meta and isinstance(part, int) and part > 1


def _floods(often: frozenset[int]) -> Callable[[Conversation], Outcome]:
    from maieutic.data.near_duplicates import template

    def run(conversation: Conversation) -> Outcome:
        words = None if is_later_part(conversation) else template(conversation, often)
        return _kept_unless(conversation, Reason.FLOOD if words else None, words)

    return run


def _language(wanted: tuple[str, ...]) -> Callable[[Conversation], Outcome]:
    from maieutic.data.language import asks_to_translate, check_codes, other_language

    check_codes(wanted)

    def run(conversation: Conversation) -> Outcome:
        if "part_of" in conversation.meta:  # its whole was judged
            return Outcome((conversation,))
        code = other_language(conversation, wanted)
        if code and asks_to_translate(conversation):
            return Outcome((conversation,), repairs=(Repair.TRANSLATION,))
        return _kept_unless(conversation, Reason.LANGUAGE if code else None, code)

    return run


def _length(options: CleanOptions) -> Callable[[Conversation], Outcome]:
    from maieutic.data.lengths import counter, cut

    count = counter(options.tokenizer)

    def run(conversation: Conversation) -> Outcome:
        fitting, too_long = cut(conversation, options.max_tokens, count)
        rejected = tuple(Rejected(part, Reason.LONG) for part in too_long)
        return Outcome(fitting, rejected, (Repair.CUT,) if len(fitting) + len(too_long) > 1 else ())

    return run


def reject(conversation: Conversation, options: CleanOptions) -> Reason | None:
    """Why a repaired conversation is not worth keeping, duplicates aside; None where it is.

    A prompt that awaits its reply (`meta.prompt`, from seed lists) needs no assistant turn and may be one turn long.
    """
    users = len(conversation.turns(Role.USER))
    assistants = len(conversation.turns(Role.ASSISTANT))
    awaits = "prompt" in conversation.meta
    if not users:
        return Reason.NO_USER
    if not assistants and not awaits:
        return Reason.NO_ASSISTANT
    if users + assistants < (1 if awaits and options.min_turns == 2 else options.min_turns):
        return Reason.SHORT
    return None


def _duplicates() -> Callable[[Conversation], Outcome]:
    seen: set[bytes] = set()

    def run(conversation: Conversation) -> Outcome:
        digest = bytes.fromhex(identity(conversation))
        is_new = digest not in seen
        seen.add(digest)
        return _kept_unless(conversation, None if is_new else Reason.DUPLICATE)

    return run


def _near() -> Callable[[Conversation], Outcome]:
    import numpy as np

    from maieutic.data.near_duplicates import NEAR, NearIndex, grams

    index = NearIndex()
    ids: list[str] = []
    wholes: dict[int, Any] = {}

    def run(conversation: Conversation) -> Outcome:
        spoken = "\n".join(turn.content for turn in conversation.messages if turn.role != Role.SYSTEM)
        # Conversations about different problems share nothing, however alike their words are.
        about = problem_key(conversation.problem)
        sketch = index.sketch(grams(spoken) ^ np.uint64(int(about[:16], 16) if about else 0))
        # In one long conversation much is said again, a text worked on together above all: its parts are no copies.
        whole = conversation.meta.get("part_of")
        close = index.close(sketch, NEAR)
        found = next((place for place in close if whole is None or wholes.get(place) != whole), None)
        if found is not None:
            return _kept_unless(conversation, Reason.NEAR, ids[found])
        place = index.add(sketch)
        ids.append(conversation.id)
        if whole is not None:
            wholes[place] = whole
        return Outcome((conversation,))

    return run


OPENING = 300
"""Characters of an assistant turn in which a refusal is looked for: what declines, declines at once."""


def mention(conversation: Conversation) -> str | None:
    """The first name of a service (OpenAI, ChatGPT, …) in any turn."""
    return next(filter(None, (_first("mentions", turn.content) for turn in conversation.messages)), None)


def branding(conversation: Conversation) -> str | None:
    """The first phrase in which the assistant speaks of being somebody's model."""
    found = (_first("branding", text) for text in conversation.turns(Role.ASSISTANT))
    return next(filter(None, found), None)


def refusal(conversation: Conversation) -> str | None:
    """The first phrase with which the assistant declines, near the beginning of a turn."""
    found = (_first("refusals", text[:OPENING]) for text in conversation.turns(Role.ASSISTANT))
    return next(filter(None, found), None)


def phrases(name: str) -> tuple[str, ...]:
    """The phrases of a file: `mentions`, `branding` or `refusals`."""
    text = (resources.files("maieutic.data") / "phrases" / f"{name}.txt").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _first(name: str, text: str) -> str | None:
    pattern, hints = _compiled(name)
    text = text.lower().replace("’", "'")
    # Looking for short strings is many times faster than the pattern, and in most texts it is all there is to do.
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
