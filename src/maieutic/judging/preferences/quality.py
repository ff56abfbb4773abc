"""What became of the prompts: which gave pairs, why the others did not, and what DPO would learn from the pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.core.messages import Preference, fingerprint
from maieutic.judging.preferences.pairs import Pair, Refusal, Rules, Strategy, choose
from maieutic.judging.preferences.rows import Graded


class Quality(NamedTuple):
    """What became of the prompts. A prompt gave pairs or was refused: `paired` and `refused` add up to `prompts`."""

    prompts: int
    paired: int
    """Prompts that gave a pair or more."""
    pairs: int
    refused: dict[str, int]
    """Prompts without a pair, by why."""
    unscored: int
    """Candidates without a score, over all prompts."""
    chosen_cut: int
    """Chosen replies that stopped at the token limit."""
    score_chosen: float | None
    score_rejected: float | None
    """Means of the summary scores."""
    words_chosen: float | None
    words_rejected: float | None
    """Mean lengths: a gap here is what DPO learns first."""
    words_gap: dict[str, Any]
    """Words of the chosen less those of the rejected reply: mean, interval over prompts, prompts."""
    longer_chosen: float | None
    """The share of pairs whose chosen reply is the longer one."""
    rejected_reveal: float | None
    """The share of pairs whose rejected reply gives the answer away."""
    by_strategy: dict[str, dict[str, Any]]
    """`paired`, `pairs` and `refused` as each strategy would have them, all else being equal."""

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return self._asdict()


class Tally:
    """Counts what a strategy makes of rows, each pair once over all of them."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.paired = self.pairs = 0
        self.refused: Counter[str] = Counter()
        self._seen: set[str] = set()

    def add(self, row: Mapping[str, Any], scored: Sequence[Graded]) -> list[Pair]:
        """The new pairs of a row."""
        found = choose(row, self.rules, scored)
        if not isinstance(found, Refusal):
            new = []
            for pair in found:
                key = fingerprint([row["messages"], pair.chosen.text, pair.rejected.text])
                if key not in self._seen:
                    self._seen.add(key)
                    new.append(pair)
            if new:
                self.paired += 1
                self.pairs += len(new)
                return new
            found = Refusal.REPEATED
        self.refused[found.value] += 1
        return []

    def counts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "paired": self.paired,
            "pairs": self.pairs,
            "refused": dict(self.refused.most_common()),
        }


def quality(
    tallies: Mapping[Strategy, Tally],
    strategy: Strategy,
    found: Sequence[tuple[int, Preference]],
    unscored: int,
) -> Quality:
    """The report; `found` are the pairs, each with the number of its row."""
    from maieutic.core.statistics import mean

    tally = tallies[strategy]
    preferences = [preference for _, preference in found]
    chosen = [_words(preference.chosen[0].content) for preference in preferences]
    rejected = [_words(preference.rejected[0].content) for preference in preferences]
    gaps = [a - b for a, b in zip(chosen, rejected, strict=True)]
    return Quality(
        prompts=tally.paired + tally.refused.total(),
        **tally.counts(),
        unscored=unscored,
        chosen_cut=sum(bool(preference.meta["cut"]) for preference in preferences),
        score_chosen=_mean([preference.scores["chosen"] for preference in preferences]),
        score_rejected=_mean([preference.scores["rejected"] for preference in preferences]),
        words_chosen=_mean(chosen),
        words_rejected=_mean(rejected),
        words_gap=mean(gaps, [row for row, _ in found]).json(),
        longer_chosen=_mean([gap > 0 for gap in gaps]),
        rejected_reveal=_mean([bool(preference.meta["rejected_reveals"]) for preference in preferences]),
        by_strategy={name: one.counts() for name, one in tallies.items()},
    )


def _words(text: str) -> int:
    return len(text.split())


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
