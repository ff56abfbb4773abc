"""Which candidates of a prompt make pairs, by which rule; or why none do.

A pair is *admissible* where the chosen reply says something, reveals nothing, scores above the floor and above the
rejected one by the margin, both are of like length where that is asked for, and the repeats of the judging agree.
A strategy picks among the admissible pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from pydantic import Field

from maieutic.core.errors import InputError
from maieutic.core.messages import Message, Preference, Record, Role, fingerprint
from maieutic.judging.preferences.rows import Graded, graded, repeats

Strategy = Literal["best-worst", "all-pairs", "margin"]
STRATEGIES: tuple[Strategy, ...] = ("best-worst", "all-pairs", "margin")
_CLOSE = 1e-6
"""Scores closer than this are one score: sums of weights are not exact."""


class Rules(Record):
    """What makes a pair."""

    strategy: Strategy = "best-worst"
    """`best-worst`: one pair a prompt, that with the widest gap. `margin`: every admissible pair, the widest gap first.
    `all-pairs`: every admissible pair; of more than `per_prompt`, those with the smallest hash, so that close pairs are
    as likely as wide ones."""
    min_chosen: float = 0.8
    """The chosen reply scores more than this (as published: .8)."""
    min_margin: float = Field(0.0, ge=0)
    """And above the rejected one by at least this; for `best-worst` by more, as published. Ties never pair."""
    match_length: float | None = Field(None, ge=1)
    """The longer of the two has at most so many times the words of the shorter."""
    per_prompt: int | None = Field(None, ge=1)
    """Pairs a prompt, at most."""
    agreement: float = Field(0.5, ge=0, le=1)
    """Where the judging was repeated, the chosen reply beats the rejected one in at least this share of the repeats,
    and in more of them than it loses; 0: not asked."""


class Refusal(StrEnum):
    """Why a prompt gave no pair."""

    FAILED = "failed"
    """The tutor or the judge did not answer."""
    TOO_FEW = "too few candidates"
    UNSCORED = "unscored"
    """Fewer than two candidates have a score."""
    REVEALS = "chosen reveals"
    """Every candidate above the floor and better than another gives the answer away."""
    TOO_LOW = "chosen too low"
    TIE = "tie"
    """The best is no better than the worst."""
    MARGIN = "margin too small"
    LENGTH = "lengths too different"
    """What the margin leaves does not match in length."""
    DISAGREE = "repeats disagree"
    """What is left is no better in enough repeats of the judging."""
    REPEATED = "repeated"
    """An earlier row gave all of its pairs."""


class Pair(NamedTuple):
    """Two candidates of a prompt, the better one first."""

    chosen: Graded
    rejected: Graded

    @property
    def gap(self) -> float:
        """How much better."""
        return self.chosen.score - self.rejected.score


def pairs(rows: Iterable[Mapping[str, Any]], **rules: Any) -> Iterator[Preference]:
    """The pairs of judged rows by `Rules(**rules)`, in their order; prompts that give none are passed over."""
    whole = Rules(**rules)
    for row in rows:
        found = choose(row, whole)
        if not isinstance(found, Refusal):
            yield from (preference(row, one) for one in found)


def pair(row: Mapping[str, Any], *, min_chosen: float = 0.8, min_margin: float = 0.0) -> Preference | Refusal:
    """The best candidate of a judged row that reveals nothing, against its worst; or why there is none.

    Of equal candidates the first counts.
    """
    found = choose(row, Rules(min_chosen=min_chosen, min_margin=min_margin))
    return found if isinstance(found, Refusal) else preference(row, found[0])


def choose(
    row: Mapping[str, Any], rules: Rules, scored: Sequence[Graded] | None = None
) -> list[Pair] | Refusal:
    """The pairs of a row, the widest gap first, or why there are none. `scored`: its candidates, if already read."""
    if row.get("fault"):
        return Refusal.FAILED
    scored = graded(row) if scored is None else scored
    if why := _hopeless(row, scored, rules):
        return why
    one = rules.strategy == "best-worst"
    chosen, rejected = (scored, scored) if one else _by_text(scored)
    found = [
        Pair(good, bad)
        for good in chosen
        if not good.reveals and good.text.strip() and good.score - rules.min_chosen > _CLOSE
        for bad in rejected
        if good.text != bad.text
    ]
    for fits, why in _filters(row, rules):
        found = [pair for pair in found if fits(pair)]
        if not found:
            return why
    found.sort(key=lambda p: (-p.gap, -p.chosen.score, p.chosen.place, p.rejected.place))
    return found[:1] if one else _at_most(found, rules)


def _hopeless(row: Mapping[str, Any], scored: Sequence[Graded], rules: Rules) -> Refusal | None:
    """Why no strategy can make a pair of these, if so."""
    if len(row["candidates"]) < 2:
        return Refusal.TOO_FEW
    if len(scored) < 2:
        return Refusal.UNSCORED
    top, worst = max(scored, key=_score), min(scored, key=_score)
    best = max((one for one in scored if not one.reveals and one.text.strip()), key=_score, default=None)
    if top.score - worst.score <= _CLOSE:
        return Refusal.TIE
    if best is None:
        return Refusal.REVEALS
    if best.score - rules.min_chosen <= _CLOSE:
        return Refusal.REVEALS if top.score - rules.min_chosen > _CLOSE else Refusal.TOO_LOW
    if rules.strategy == "best-worst" and best.text == worst.text:
        return Refusal.TIE
    return Refusal.REVEALS if best.score - worst.score <= _CLOSE else None


def _score(one: Graded) -> float:
    return one.score


def _by_text(scored: Sequence[Graded]) -> tuple[list[Graded], list[Graded]]:
    """Each text once, as it may be chosen and as it may be rejected.

    A text that got several scores is chosen by its lowest and rejected by its highest, so that no two pairs say the
    opposite; it reveals where it does once.
    """
    groups: dict[str, list[Graded]] = {}
    for one in scored:
        groups.setdefault(one.text, []).append(one)
    chosen = [
        min(group, key=_score)._replace(reveals=any(one.reveals for one in group))
        for group in groups.values()
    ]
    return chosen, [max(group, key=_score) for group in groups.values()]


def _filters(row: Mapping[str, Any], rules: Rules) -> Iterator[tuple[Callable[[Pair], bool], Refusal]]:
    """What a pair must hold to, in order, and what is said where none is left."""
    least = _CLOSE if rules.strategy == "best-worst" else -_CLOSE
    yield lambda pair: pair.gap > _CLOSE, Refusal.TIE
    yield lambda pair: pair.gap - rules.min_margin > least, Refusal.MARGIN
    if (ratio := rules.match_length) is not None:
        yield lambda pair: _alike(pair, ratio), Refusal.LENGTH
    if rules.agreement:
        yield lambda pair: _agreed(row, pair, rules.agreement), Refusal.DISAGREE


def _alike(pair: Pair, ratio: float) -> bool:
    short, long = sorted((pair.chosen.words, pair.rejected.words))
    return long <= ratio * short


class Repeats(NamedTuple):
    """How often the chosen reply beat the rejected one, over the repeats that could be read for both."""

    won: int
    lost: int
    of: int


def compared(row: Mapping[str, Any], pair: Pair) -> Repeats | None:
    """The repeats of a pair; null where the judging was not repeated."""
    good, bad = repeats(row, pair.chosen.place), repeats(row, pair.rejected.place)
    if not good and not bad:
        return None
    # A reply that code alone decided has no repeats: it scores the same in each.
    good, bad = good or [pair.chosen.score] * len(bad), bad or [pair.rejected.score] * len(good)
    if len(good) != len(bad):
        raise InputError(
            f"row {row.get('id', row.get('key'))}: {len(good)} repeats of one candidate and {len(bad)} of another",
            "Give each candidate as many, null where one could not be read, or --agreement 0.",
        )
    gaps = [a - b for a, b in zip(good, bad, strict=True) if a is not None and b is not None]
    return Repeats(sum(gap > _CLOSE for gap in gaps), sum(gap < -_CLOSE for gap in gaps), len(gaps))


def _agreed(row: Mapping[str, Any], pair: Pair, share: float) -> bool:
    found = compared(row, pair)
    return found is None or (found.won > found.lost and found.won >= share * found.of - _CLOSE)


def _at_most(found: list[Pair], rules: Rules) -> list[Pair]:
    """The first of the pairs, or, for `all-pairs`, a draw of them that does not look at the gap."""
    if rules.per_prompt is None or len(found) <= rules.per_prompt:
        return found
    if rules.strategy == "margin":
        return found[: rules.per_prompt]
    drawn = sorted(found, key=lambda p: fingerprint([p.chosen.text, p.rejected.text]))[: rules.per_prompt]
    return [pair for pair in found if pair in drawn]


def preference(row: Mapping[str, Any], pair: Pair) -> Preference:
    """A pair as it is written."""
    best, worst = pair
    meta = {
        key: row[key] for key in ("id", "model", "rubric", "source", "licence") if row.get(key) is not None
    }
    verdicts = row["verdicts"]
    meta |= {
        "judge": verdicts[best.place].get("judge"),
        "values": {
            name: verdicts[one.place].get("values") or {}
            for name, one in (("chosen", best), ("rejected", worst))
        },
        "cut": best.cut,
        "rejected_reveals": worst.reveals,
    }
    return Preference(
        prompt=tuple(Message.model_validate(turn) for turn in row["messages"]),
        chosen=(Message(role=Role.ASSISTANT, content=best.text),),
        rejected=(Message(role=Role.ASSISTANT, content=worst.text),),
        scores={"chosen": best.score, "rejected": worst.score},
        meta=meta,
    )
