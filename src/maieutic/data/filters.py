"""The filters of cleaning, in the order in which they run: each keeps, repairs, cuts or rejects one conversation.

What mends texts comes first, so that all later filters see what will be kept; what compares conversations comes last.
Filters know nothing of each other. Only two remember anything: those that look for duplicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from maieutic.data.corpus import identity
from maieutic.data.mend import Mended, Repair, mend
from maieutic.data.problems import problem_key
from maieutic.types import Conversation, Record, Role


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
    from maieutic.data.markup import to_markdown

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
    from maieutic.data import phrases

    find: Callable[[Conversation], str | None] = getattr(phrases, name)

    def run(conversation: Conversation) -> Outcome:
        phrase = find(conversation)
        return _kept_unless(conversation, reason if phrase else None, phrase)

    return run


def is_later_part(conversation: Conversation) -> bool:
    """Whether a cut left this behind another part: its whole was judged, and its first turn is no opening."""
    part = conversation.meta.get("part")
    return "part_of" in conversation.meta and isinstance(part, int) and part > 1


def _floods(often: frozenset[int]) -> Callable[[Conversation], Outcome]:
    from maieutic.data.floods import template

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
    from maieutic.data.near import NEAR, NearIndex, grams

    index = NearIndex()
    ids: list[str] = []

    def run(conversation: Conversation) -> Outcome:
        spoken = "\n".join(turn.content for turn in conversation.messages if turn.role != Role.SYSTEM)
        # Conversations about different problems share nothing, however alike their words are.
        about = problem_key(conversation.problem)
        sketch = index.sketch(grams(spoken) ^ np.uint64(int(about[:16], 16) if about else 0))
        close = next(index.close(sketch, NEAR), None)
        if close is not None:
            return _kept_unless(conversation, Reason.NEAR, ids[close])
        index.add(sketch)
        ids.append(conversation.id)
        return Outcome((conversation,))

    return run
