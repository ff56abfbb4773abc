"""What a simulator's turns are like, each number beside people's: the metrics of text over whole corpora.

Where a simulated conversation went on from a start, only the turns that were drawn count as the simulator's; its start
is somebody else's text. The number of turns of a conversation is that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.messages import Conversation, Estimate, Role, fingerprint
from maieutic.core.progress import track
from maieutic.evals import likeness, pupils, text, topics
from maieutic.evals.embed import Embed, lexical

Corpus = Sequence[Conversation]
Scalar = Callable[[Corpus], Estimate]
Measured = dict[str, Estimate]
NOT_GIVEN = "no simulated conversations given"


class Beside(NamedTuple):
    """A metric, the same of held-out people and of baselines; null where it has no meaning or was not given."""

    own: Estimate
    human: Estimate | None = None
    baselines: Mapping[str, Estimate] = {}
    halves: tuple[Estimate, Estimate] | None = None
    """The metric on each half of the people: how far apart people are from people."""
    difference: Estimate | None = None
    """The simulator minus the first baseline that has a model, on the same people."""

    def json(self) -> dict[str, Any]:
        """The printed shape: `value`, `ci`, `n`; `human` and `baseline`, each with `_ci` and `_n`; `human_halves`.

        `baseline` is the first baseline that has a value, and `baselines` holds all of them by name.
        """
        shape = self.own.json()
        first = next((one for one in self.baselines.values() if one.value is not None), None)
        for name, other in (("human", self.human), ("baseline", first)):
            told = other or stats.undefined(NOT_GIVEN)
            shape |= {name: told.value, f"{name}_ci": told.ci, f"{name}_n": told.n}
        if self.halves:
            shape["human_halves"] = [half.value for half in self.halves]
        if self.baselines:
            shape["baselines"] = {name: one.json() for name, one in self.baselines.items()}
        if self.difference:
            gap = self.difference.json()
            shape["difference"] = {"difference": gap.pop("value"), **gap}
        return shape


def halves(people: Corpus, seed: int = 0) -> tuple[list[Conversation], list[Conversation]]:
    """People split in two by a hash of `seed` and the conversation: people's distance from people has a number."""
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in people:
        text_of = [turn.content for turn in conversation.messages]
        sides[int(fingerprint([seed, text_of])[0], 16) % 2].append(conversation)
    return sides


def drawn(conversation: Conversation) -> list[bool]:
    """For each human turn, whether it is to be measured: of a simulated row those turns that its run drew, else all.

    A simulated row has `meta["dialogue"]`, and under `meta["turns"]` the places of what was drawn.
    """
    told = conversation.meta.get("turns")
    places = told if isinstance(told, Mapping) and "dialogue" in conversation.meta else None
    return [
        places is None or str(place) in places
        for place, turn in enumerate(conversation.messages)
        if turn.role == Role.USER
    ]


def human_turns(conversation: Conversation) -> tuple[str, ...]:
    """The human side's texts that are to be measured; see `drawn`."""
    said = conversation.turns(Role.USER)
    return tuple(turn for turn, own in zip(said, drawn(conversation), strict=True) if own)


def first_turn_diversity(conversations: Corpus) -> Estimate:
    """How unlike each other the opening turns are; see `text.pairwise_diversity`."""
    opened = [c for c in conversations if (own := drawn(c)) and own[0]]
    return text.pairwise_diversity([c.turns(Role.USER)[0] for c in opened])


def _distinct(n: int, limit: int | None) -> Scalar:
    return lambda conversations: text.distinct([human_turns(c) for c in conversations], n, limit)


def mtld(conversations: Corpus) -> Estimate:
    """MTLD at .72 of each human turn, averaged (PlatoLM, arXiv 2308.11534)."""
    pairs = [(value, i) for i, c in enumerate(conversations) for turn in human_turns(c)
             if (value := text.mtld(text.words(turn))) is not None]  # fmt: skip
    return stats.mean([value for value, _ in pairs], [group for _, group in pairs])


def _per_hundred(count: Callable[[Conversation], int]) -> Scalar:
    """Events per hundred human turns, resampled by conversation.

    Where no turn has one (or each has) resampling says nothing, and the interval is the exact binomial over turns.
    """

    def rate(conversations: Corpus) -> Estimate:
        rows = [(count(c), len(turns)) for c in conversations if (turns := human_turns(c))]
        events, spoken = sum(row[0] for row in rows), sum(row[1] for row in rows)
        estimate = stats.ratio([100.0 * row[0] for row in rows], [row[1] for row in rows])
        exact = stats.binomial(events, spoken).ci
        if estimate.reason == stats.NO_SPREAD and events in (0, spoken) and exact:
            return Estimate(estimate.value, (100 * exact[0], 100 * exact[1]), len(rows))
        return estimate

    return rate


def repeats(conversation: Conversation) -> int:
    """How many of the measured human turns say again what any earlier human turn said; see `text.repeated`."""
    again = text.repeated(conversation.turns(Role.USER))
    return sum(one for one, own in zip(again, drawn(conversation), strict=True) if own)


def intent_overlap(conversations: Corpus) -> Estimate:
    """`text.intent_overlap`, averaged over the conversations that have an intent."""
    values = [text.intent_overlap(human_turns(c), c.intent) for c in conversations if c.intent]
    known = [value for value in values if value is not None]
    return stats.mean(known) if known else stats.undefined("no conversation has an intent")


def _turn_counts(conversations: Corpus) -> list[list[float]]:
    return [[float(len(c.turns(Role.USER)))] for c in conversations]


def _lengths(conversations: Corpus) -> list[list[float]]:
    return [[float(len(text.words(turn))) for turn in human_turns(c)] for c in conversations]


def _scalars(limits: Mapping[int, int], tutored: bool) -> dict[str, Scalar]:
    return {
        "first_turn_diversity": first_turn_diversity,
        "distinct_1": _distinct(1, limits[1] or None),
        "distinct_2": _distinct(2, limits[2] or None),
        "mtld": mtld,
        "repeats_rate": _per_hundred(repeats),
        "role_flips_rate": _per_hundred(lambda c: sum(map(text.role_flip, human_turns(c)))),
        "empty_turns_rate": _per_hundred(lambda c: sum(map(text.empty, human_turns(c)))),
        "intent_overlap": intent_overlap,
        "turns_per_conversation": lambda cs: stats.mean([value for row in _turn_counts(cs) for value in row]),
        **(pupils.SCALARS if tutored else {}),
    }


def _topics(conversations: Corpus, embed: Embed, at: topics.Cuts | None) -> dict[str, Estimate]:
    made = topics.embedded([human_turns(c) for c in conversations], embed)
    found = {"topic_diversity": topics.diversity(made), "question_cosine": topics.question_cosine(made)}
    return {**found, **topics.moves(made, at)}


def _distances(conversations: Corpus, people: Corpus) -> Measured:
    """How far turn counts, turn lengths and looks are from people's."""
    result: Measured = {}
    for name, values in (("turn_count", _turn_counts), ("turn_length", _lengths)):
        for kind, found in zip(
            ("wasserstein", "ks"), text.distances(values(conversations), values(people)), strict=True
        ):
            result[f"{name}_{kind}"] = found
    said = [[human_turns(c) for c in side] for side in (conversations, people)]
    return {**result, "human_likeness_auc": likeness.auc(*said)}


def compare(
    simulated: Corpus | None,
    people: Corpus,
    baselines: Mapping[str, Corpus] | None = None,
    embed: Embed | None = None,
) -> dict[str, Beside]:
    """Every text metric of simulated conversations beside held-out people's and baselines'.

    Args:
        simulated: what the simulator wrote.
        people: held-out people.
        baselines: corpora of what it is compared with, by name.
        embed: texts → vectors; null: `embed.lexical`, with word weights learned from the people.

    For a metric of one corpus *human* is that of all held-out people, and stands on each half of them too; for a
    distance from people it is the distance between the halves. distinct-n counts equally many n-grams everywhere.
    """
    one, other = halves(people)
    based = dict(baselines or {})
    corpora = [corpus for corpus in (simulated or [], one, other, people, *based.values()) if corpus]
    said = [list(map(human_turns, corpus)) for corpus in corpora]
    totals = {n: [total for turns in said if (total := text.ngram_total(turns, n))] for n in (1, 2)}
    limits = {n: min(found, default=0) for n, found in totals.items()}
    embed = embed or lexical([turn for c in people for turn in human_turns(c)])
    at = topics.cuts(topics.embedded([human_turns(c) for c in people], embed))
    scalars = _scalars(limits, pupils.tutored(people))

    def alone(corpus: Corpus) -> Measured:
        bar.advance()
        return {name: of(corpus) for name, of in scalars.items()} | _topics(corpus, embed, at)

    def apart(corpus: Corpus) -> Measured:
        bar.advance()
        return _distances(corpus, people)

    result: dict[str, Beside] = {}
    with track(3 + 2 * (bool(simulated) + len(based)), "beside people") as bar:
        split = alone(one), alone(other)
        for measure, human in ((alone, alone(people)), (apart, _distances(one, other))):
            own = measure(simulated) if simulated else dict.fromkeys(human, stats.undefined(NOT_GIVEN))
            beside = {name: measure(corpus) for name, corpus in based.items()}
            result |= {
                name: Beside(
                    own[name],
                    human[name],
                    {base: of[name] for base, of in beside.items()},
                    (split[0][name], split[1][name]) if name in split[0] else None,
                )
                for name in human
            }
    return result
