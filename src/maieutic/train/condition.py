"""One simulator for all ways to start: what each row is told of its person, mixed at stated rates.

A row is told nothing, its person's intent, problem or profile, or is given its first round; see `render.told`. Which
row gets what depends on the seed and on the row's place alone. A row that lacks what it drew is told nothing, and
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from maieutic.chat_templates import IGNORED, Rendered
from maieutic.chat_templates.conditioning import NONE, ROUND, check_kind, conditioned, wording
from maieutic.core.messages import Conversation, fingerprint


def read_condition(text: str) -> dict[str, float]:
    """Rates from the form `none=0.4,round=0.2,intent=0.4`.

    Raises:
        ValueError: it is not of that form.
    """
    rates: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            rates[name.strip()] = float(number)
        except ValueError:
            raise ValueError(f"{part.strip()!r} is no rate; write none=0.4,round=0.2,intent=0.4") from None
    return rates


def whole_condition(rates: Mapping[str, float]) -> dict[str, float]:
    """Rates that sum to 1, by kind in one order; what is left of 1 is `none`.

    Raises:
        ValueError: a kind is not known, or the rates are none.
    """
    checked = Counter[str]()
    for name, rate in rates.items():
        checked[check_kind(name)] += rate
    total = sum(checked.values())
    if min(checked.values(), default=0) < 0 or total > 1 + 1e-6 or (NONE in rates and total < 1 - 1e-6):
        raise ValueError(f"the rates must be shares of all rows; they sum to {total:g}")
    rest = 0.0 if total > 1 - 1e-6 else 1 - total
    whole = {kind: checked[kind] for kind in sorted(checked) if kind != NONE and checked[kind]}
    return {NONE: round(checked[NONE] + rest, 9), **whole}


class Mixture:
    """Draws each row's condition.

    Args:
        rates: see `whole_condition`.
        seed: of the draws.
        system: the system text of conversations that have none.
    """

    def __init__(self, rates: Mapping[str, float], seed: int, system: str | None) -> None:
        self._rates, self._seed, self._system = rates, seed, system
        self._words = wording()
        self.counts: Counter[str] = Counter()
        """Rows by the condition they got."""
        self.lacking: Counter[str] = Counter()
        """Rows that lack what they drew, by that."""

    def drawn(self, place: int) -> str:
        """What the row of that place draws."""
        left = int(fingerprint(["condition", self._seed, place])[:13], 16) / 16**13
        for kind, rate in self._rates.items():
            left -= rate
            if left < 0:
                return kind
        return max(self._rates, key=lambda kind: self._rates[kind])  # the rates' sum may be rounded below 1

    def told(self, conversation: Conversation, place: int) -> Told:
        """A row as it is trained on, as far as its text goes."""
        kind = self.drawn(place)
        if kind in (NONE, ROUND):
            return Told(conversation, kind, kind)
        changed = conditioned(conversation, kind, self._system, self._words)
        return Told(changed or conversation, kind, kind if changed else NONE)

    def settled(self, row: Told, rendered: Rendered) -> Rendered:
        """The row's rendering, counted; where the first round is given it leaves the loss."""
        kind = row.kind
        if kind == ROUND:
            rest = without_first_turn(rendered)
            kind, rendered = (ROUND, rest) if rest else (NONE, rendered)
        self.counts[kind] += 1
        if kind != row.drawn:
            self.lacking[row.drawn] += 1
        return rendered


class Told(NamedTuple):
    """A row, and what it is told."""

    conversation: Conversation
    drawn: str
    kind: str
    """`none` where it lacks what it drew."""


def without_first_turn(rendered: Rendered) -> Rendered | None:
    """The first turn in the loss taken out of it; null where nothing would be left."""
    labels = rendered.labels
    start = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
    stop = next((place for place in range(start, len(labels)) if labels[place] == IGNORED), len(labels))
    rest = Rendered(rendered.input_ids, [*[IGNORED] * stop, *labels[stop:]])
    return rest if rest.supervised else None
