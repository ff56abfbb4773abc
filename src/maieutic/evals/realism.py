"""What a simulator's turns are like, each number beside people's: the metrics of `text` over whole corpora."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from maieutic.evals import stats, text
from maieutic.types import Conversation, Estimate, Role, fingerprint

Scalar = Callable[[Sequence[Conversation]], Estimate]


class Beside(NamedTuple):
    """A metric, the same of held-out people, and of a baseline; null where it has no meaning or was not given."""

    own: Estimate
    human: Estimate | None = None
    baseline: Estimate | None = None

    def json(self) -> dict[str, object]:
        """The printed shape: `value`, `ci`, `n`, then `human` and `baseline` with their intervals."""
        shape = self.own.json()
        for name, other in (("human", self.human), ("baseline", self.baseline)):
            shape |= {name: other.value if other else None, f"{name}_ci": other.ci if other else None}
        return shape


def halves(people: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """People split in two by a hash of the conversation, so that a person's distance from people has a number."""
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in people:
        text_of = [turn.content for turn in conversation.messages]
        sides[int(fingerprint([conversation.id, text_of])[0], 16) % 2].append(conversation)
    return sides


def human_turns(conversation: Conversation) -> tuple[str, ...]:
    """The human side's texts."""
    return conversation.turns(Role.USER)


def first_turn_diversity(conversations: Sequence[Conversation]) -> Estimate:
    """How unlike each other the opening turns are; see `text.pairwise_diversity`."""
    return text.pairwise_diversity([turns[0] for c in conversations if (turns := human_turns(c))])


def _distinct(n: int, limit: int | None) -> Scalar:
    return lambda conversations: text.distinct([human_turns(c) for c in conversations], n, limit)


def mtld(conversations: Sequence[Conversation]) -> Estimate:
    """MTLD at .72 of each human turn, averaged (PlatoLM, arXiv 2308.11534)."""
    pairs = [(value, i) for i, c in enumerate(conversations) for turn in human_turns(c)
             if (value := text.mtld(text.words(turn))) is not None]  # fmt: skip
    return stats.mean([value for value, _ in pairs], [group for _, group in pairs])


def _per_hundred(count: Callable[[Sequence[str]], int]) -> Scalar:
    """Events per hundred human turns, resampled by conversation.

    Where no turn has one (or each has) resampling says nothing, and the interval is the exact binomial over turns.
    """

    def rate(conversations: Sequence[Conversation]) -> Estimate:
        rows = [(count(turns), len(turns)) for c in conversations if (turns := human_turns(c))]
        events, spoken = sum(row[0] for row in rows), sum(row[1] for row in rows)
        estimate = stats.ratio([100.0 * row[0] for row in rows], [row[1] for row in rows])
        exact = stats.binomial(events, spoken).ci
        if estimate.reason == stats.NO_SPREAD and events in (0, spoken) and exact:
            return Estimate(estimate.value, (100 * exact[0], 100 * exact[1]), len(rows))
        return estimate

    return rate


def intent_overlap(conversations: Sequence[Conversation]) -> Estimate:
    """`text.intent_overlap`, averaged over the conversations that have an intent."""
    values = [text.intent_overlap(human_turns(c), c.intent) for c in conversations if c.intent]
    known = [value for value in values if value is not None]
    return stats.mean(known) if known else stats.undefined("no conversation has an intent")


def _turn_counts(conversations: Sequence[Conversation]) -> list[list[float]]:
    return [[float(len(human_turns(c)))] for c in conversations]


def _lengths(conversations: Sequence[Conversation]) -> list[list[float]]:
    return [[float(len(text.words(turn))) for turn in human_turns(c)] for c in conversations]


def compare(
    simulated: Sequence[Conversation] | None,
    people: Sequence[Conversation],
    baseline: Sequence[Conversation] | None = None,
) -> dict[str, Beside]:
    """Every text metric of simulated conversations beside held-out people's and a baseline's.

    For a metric of one corpus *human* is that of all held-out people; for a distance from people it is the distance
    between two halves of them. distinct-n counts equally many n-grams in each corpus.
    """
    corpora = [corpus for corpus in (simulated, people, baseline) if corpus]
    limits = {
        n: min(text.ngram_total([human_turns(c) for c in corpus], n) for corpus in corpora) for n in (1, 2)
    }
    scalars: dict[str, Scalar] = {
        "first_turn_diversity": first_turn_diversity,
        "distinct_1": _distinct(1, limits[1] or None),
        "distinct_2": _distinct(2, limits[2] or None),
        "mtld": mtld,
        "repeats_rate": _per_hundred(text.repeats),
        "role_flips_rate": _per_hundred(lambda turns: sum(map(text.role_flip, turns))),
        "empty_turns_rate": _per_hundred(lambda turns: sum(map(text.empty, turns))),
        "intent_overlap": intent_overlap,
        "turns_per_conversation": lambda cs: stats.mean([value for row in _turn_counts(cs) for value in row]),
    }
    absent = stats.undefined("no simulated conversations given")
    result = {
        name: Beside(of(simulated) if simulated else absent, of(people), of(baseline) if baseline else None)
        for name, of in scalars.items()
    }
    one, other = halves(people)
    for name, values in (("turn_count", _turn_counts), ("turn_length", _lengths)):
        human = text.distances(values(one), values(other))
        base = text.distances(values(baseline), values(people)) if baseline else (None, None)
        own = text.distances(values(simulated), values(people)) if simulated else (absent, absent)
        for place, kind in enumerate(("wasserstein", "ks")):
            result[f"{name}_{kind}"] = Beside(own[place], human[place], base[place])
    return result
