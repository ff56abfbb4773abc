"""The filters of cleaning, in the order in which they run: each keeps, repairs, cuts or rejects one conversation.

What mends texts comes first, so that all later filters see what will be kept; what compares conversations comes last.
Filters know nothing of each other. Only two remember anything: those that look for duplicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from maieutic.core.messages import Conversation, Role
from maieutic.data.corpus import identity
from maieutic.data.options import CleanOptions, Filter, Reason
from maieutic.data.problems import problem_key
from maieutic.data.repair import Mended, Repair, mend


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
