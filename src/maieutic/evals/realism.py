"""How similar simulated human turns are to people's: metrics of text over whole corpora, each next to people's value.

Where a simulated conversation continued a given start, only the generated turns count as the simulator's; the start was
written by others. Turn counts are those of whole conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.core import statistics as stats
from maieutic.core.messages import Conversation, Estimate, Role, fingerprint
from maieutic.core.progress import track
from maieutic.core.words import pairwise_diversity
from maieutic.evals import student_realism, text, topics
from maieutic.evals.topics import Embedder, ngram_counts, ngram_embedder, unit_rows

Array = NDArray[np.float64]
Corpus = Sequence[Conversation]
CorpusMetric = Callable[[Corpus], Estimate]
NOT_GIVEN = "no simulated conversations given"
CLASSIFIER_GRAM_SIZES = (1, 2, 3, 4)
CLASSIFIER_GRAM_BITS = 16
CLASSIFIER_FOLDS = 5
CLASSIFIER_L2 = 0.1
"""Times half the squared length of the weights, against the summed loss (scikit-learn's C is 1 / this: 10)."""
CLASSIFIER_MAX_TURNS = 600
"""Turns used on each side: whole conversations, in the order of their hashes."""
JACKKNIFE_GROUPS = 13
"""Jackknife groups of conversations; coprime to the number of folds, so no group removes most of a fold."""


class Comparison(NamedTuple):
    """A metric of the simulator, of held-out people and of baselines; null where undefined or not given."""

    own: Estimate
    human: Estimate | None = None
    baselines: Mapping[str, Estimate] = {}
    halves: tuple[Estimate, Estimate] | None = None
    """The metric on each half of the people: how much people differ from people."""
    difference: Estimate | None = None
    """The simulator minus the first baseline that has a model, on the same people."""

    def json(self) -> dict[str, Any]:
        """The printed shape: `value`, `ci`, `n`; `human` and `baseline`, each with `_ci` and `_n`; `human_halves`.

        `baseline` is the first baseline that has a value, and `baselines` holds all of them by name.
        """
        shape = self.own.json()
        first = next((each for each in self.baselines.values() if each.value is not None), None)
        for name, other in (("human", self.human), ("baseline", first)):
            value = other or stats.undefined(NOT_GIVEN)
            shape |= {name: value.value, f"{name}_ci": value.ci, f"{name}_n": value.n}
        if self.halves:
            shape["human_halves"] = [half.value for half in self.halves]
        if self.baselines:
            shape["baselines"] = {name: each.json() for name, each in self.baselines.items()}
        if self.difference:
            difference = self.difference.json()
            shape["difference"] = {"difference": difference.pop("value"), **difference}
        return shape


def split_in_halves(people: Corpus, seed: int = 0) -> tuple[list[Conversation], list[Conversation]]:
    """People split in two by a hash of `seed` and the conversation, to measure people against people."""
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in people:
        turns = [turn.content for turn in conversation.messages]
        sides[int(fingerprint([seed, turns])[0], 16) % 2].append(conversation)
    return sides


def generated(conversation: Conversation) -> list[bool]:
    """For each human turn, whether it is measured: in a simulated row the turns its run generated, else all.

    A simulated row has `meta["dialogue"]`, and the places of the generated turns as keys of `meta["turns"]`.
    """
    turns = conversation.meta.get("turns")
    places = turns if isinstance(turns, Mapping) and "dialogue" in conversation.meta else None
    return [
        places is None or str(place) in places
        for place, turn in enumerate(conversation.messages)
        if turn.role == Role.USER
    ]


def human_turns(conversation: Conversation) -> tuple[str, ...]:
    """The texts of the human turns that are measured; see `generated`."""
    turns = conversation.turns(Role.USER)
    return tuple(turn for turn, own in zip(turns, generated(conversation), strict=True) if own)


def first_turn_diversity(conversations: Corpus) -> Estimate:
    """How different the opening turns are from each other; see `core.words.pairwise_diversity`."""
    opened = [c for c in conversations if (own := generated(c)) and own[0]]
    return pairwise_diversity([c.turns(Role.USER)[0] for c in opened])


def _distinct(n: int, limit: int | None) -> CorpusMetric:
    return lambda conversations: text.distinct([human_turns(c) for c in conversations], n, limit)


def mtld(conversations: Corpus) -> Estimate:
    """MTLD at .72 of each human turn, averaged (PlatoLM, arXiv 2308.11534)."""
    pairs = [(value, i) for i, c in enumerate(conversations) for turn in human_turns(c)
             if (value := text.mtld(text.words(turn))) is not None]  # fmt: skip
    return stats.mean([value for value, _ in pairs], [group for _, group in pairs])


def _per_hundred(count: Callable[[Conversation], int]) -> CorpusMetric:
    """Events per hundred human turns, resampled by conversation.

    Where no turn has one (or each has) the bootstrap gives no interval, and the exact binomial over turns is used.
    """

    def rate(conversations: Corpus) -> Estimate:
        rows = [(count(c), len(turns)) for c in conversations if (turns := human_turns(c))]
        events, total = sum(row[0] for row in rows), sum(row[1] for row in rows)
        estimate = stats.ratio([100.0 * row[0] for row in rows], [row[1] for row in rows])
        exact = stats.binomial(events, total).ci
        if estimate.reason == stats.NO_SPREAD and events in (0, total) and exact:
            return Estimate(estimate.value, (100 * exact[0], 100 * exact[1]), len(rows))
        return estimate

    return rate


def repeats(conversation: Conversation) -> int:
    """How many of the measured human turns repeat any earlier human turn; see `text.repeats_earlier`."""
    again = text.repeats_earlier(conversation.turns(Role.USER))
    return sum(each for each, own in zip(again, generated(conversation), strict=True) if own)


def intent_overlap(conversations: Corpus) -> Estimate:
    """`text.intent_overlap`, averaged over the conversations that have an intent."""
    values = [text.intent_overlap(human_turns(c), c.intent) for c in conversations if c.intent]
    known = [value for value in values if value is not None]
    return stats.mean(known) if known else stats.undefined("no conversation has an intent")


def _turn_counts(conversations: Corpus) -> list[list[float]]:
    return [[float(len(c.turns(Role.USER)))] for c in conversations]


def _turn_lengths(conversations: Corpus) -> list[list[float]]:
    return [[float(len(text.words(turn))) for turn in human_turns(c)] for c in conversations]


def _corpus_metrics(limits: Mapping[int, int], with_problems: bool) -> dict[str, CorpusMetric]:
    return {
        "first_turn_diversity": first_turn_diversity,
        "distinct_1": _distinct(1, limits[1] or None),
        "distinct_2": _distinct(2, limits[2] or None),
        "mtld": mtld,
        "repeats_rate": _per_hundred(repeats),
        "role_flips_rate": _per_hundred(lambda c: sum(map(text.role_flip, human_turns(c)))),
        "empty_turns_rate": _per_hundred(lambda c: sum(map(text.is_blank, human_turns(c)))),
        "intent_overlap": intent_overlap,
        "turns_per_conversation": lambda cs: stats.mean([value for row in _turn_counts(cs) for value in row]),
        **(student_realism.METRICS if with_problems else {}),
    }


def _topic_metrics(
    conversations: Corpus, embed: Embedder, thresholds: topics.MoveThresholds | None
) -> dict[str, Estimate]:
    embedded = topics.embed_turns([human_turns(c) for c in conversations], embed)
    return {
        "topic_diversity": topics.topic_diversity(embedded),
        "question_cosine": topics.question_cosine(embedded),
        **topics.topic_moves(embedded, thresholds),
    }


def _distances_from_people(conversations: Corpus, people: Corpus) -> dict[str, Estimate]:
    """How far turn counts and turn lengths are from people's, and how well a classifier separates the turns."""
    result: dict[str, Estimate] = {}
    for name, values in (("turn_count", _turn_counts), ("turn_length", _turn_lengths)):
        wasserstein, ks = text.distances(values(conversations), values(people))
        result |= {f"{name}_wasserstein": wasserstein, f"{name}_ks": ks}
    sides = [[human_turns(c) for c in side] for side in (conversations, people)]
    return {**result, "human_likeness_auc": human_likeness_auc(*sides)}


def compare_with_people(
    simulated: Corpus | None,
    people: Corpus,
    baselines: Mapping[str, Corpus] | None = None,
    embed: Embedder | None = None,
) -> dict[str, Comparison]:
    """Every text metric of simulated conversations, of held-out people and of baselines.

    Args:
        simulated: the simulator's conversations.
        people: held-out conversations of people.
        baselines: corpora of the baselines, by name.
        embed: texts → vectors; null: `topics.ngram_embedder`, with weights learned from the people.

    For a metric of one corpus *human* is the value of all held-out people, and `halves` that of each half; for a
    distance from people *human* is the distance between the halves. distinct-n counts equally many n-grams everywhere.
    """
    first, second = split_in_halves(people)
    others = dict(baselines or {})
    corpora = [corpus for corpus in (simulated or [], first, second, people, *others.values()) if corpus]
    turns = [list(map(human_turns, corpus)) for corpus in corpora]
    totals = {n: [total for each in turns if (total := text.ngram_total(each, n))] for n in (1, 2)}
    limits = {n: min(found, default=0) for n, found in totals.items()}
    embed = embed or ngram_embedder([turn for c in people for turn in human_turns(c)])
    thresholds = topics.learn_thresholds(topics.embed_turns([human_turns(c) for c in people], embed))
    metrics = _corpus_metrics(limits, student_realism.has_known_answers(people))

    def of_corpus(corpus: Corpus) -> dict[str, Estimate]:
        bar.advance()
        return {name: of(corpus) for name, of in metrics.items()} | _topic_metrics(corpus, embed, thresholds)

    def from_people(corpus: Corpus) -> dict[str, Estimate]:
        bar.advance()
        return _distances_from_people(corpus, people)

    result: dict[str, Comparison] = {}
    with track(3 + 2 * (bool(simulated) + len(others)), "compare with people") as bar:
        halves = of_corpus(first), of_corpus(second)
        for measure, human in (
            (of_corpus, of_corpus(people)),
            (from_people, _distances_from_people(first, second)),
        ):
            own = measure(simulated) if simulated else dict.fromkeys(human, stats.undefined(NOT_GIVEN))
            based = {name: measure(corpus) for name, corpus in others.items()}
            result |= {
                name: Comparison(
                    own[name],
                    human[name],
                    {base: of[name] for base, of in based.items()},
                    (halves[0][name], halves[1][name]) if name in halves[0] else None,
                )
                for name in human
            }
    return result


class _LabelledTurns(NamedTuple):
    """The turns of both sides, the simulated first."""

    features: Array
    """A row for each turn, in as many dimensions as there are independent ones."""
    label: Array
    """1 for a simulated turn, -1 for a person's."""
    conversation: NDArray[Any]
    """The conversation of each turn, numbered from 0 on either side."""


def human_likeness_auc(simulated: Sequence[Sequence[str]], people: Sequence[Sequence[str]]) -> Estimate:
    """The AUC of a classifier that separates simulated turns from people's; .5 is indistinguishable.

    Args:
        simulated: the turns of each conversation of one side.
        people: those of the other side.

    A logistic regression on hashed character n-grams, cross-validated by conversation: each turn is scored by a model
    that saw no turn of its conversation; pairs of turns of one fold count, ties ½. Offline, deterministic, and only as
    sensitive as its features: .5 means that this classifier finds no difference, not that there is none.

    Up to 600 turns a side, five folds of conversations by hash (fewer where a side has fewer conversations), both
    sides with equal weight. The interval is value ± t standard errors of a grouped jackknife that trains again without
    each of 13 groups of conversations: which conversations were trained on matters more than which were tested.
    After human-likeness by a trained detector (PlatoLM, arXiv 2308.11534; UserLM-8b, arXiv 2510.06552), whose
    detectors are closed.
    """
    sides = [[turns for turns in side if turns] for side in (simulated, people)]
    fewest = min(map(len, sides))
    folds = min(CLASSIFIER_FOLDS, fewest)
    if folds < 2:
        return stats.undefined("fewer than two conversations on one side: nothing to train and to test on")
    turns = _labelled_turns([_limit_turns(side, folds) for side in sides])
    value = cross_validated_auc(turns, folds)
    units, groups = int(turns.conversation[turns.label > 0].max()) + 1, min(JACKKNIFE_GROUPS, fewest)
    if value is None:
        return stats.undefined("no fold has turns of both sides", units)
    without = [
        cross_validated_auc(
            _LabelledTurns(*(part[turns.conversation % groups != group] for part in turns)), folds
        )
        for group in range(groups)
    ]
    ci, reason = _jackknife_interval(value, [each for each in without if each is not None])
    return Estimate(value, ci, units, reason)


def _jackknife_interval(
    value: float, without: Sequence[float]
) -> tuple[tuple[float, float] | None, str | None]:
    """Value ± t standard errors of the grouped jackknife."""
    from scipy.special import stdtrit

    count = len(without)
    if count < 3:
        return None, "too few conversations: no interval"
    if np.ptp(without) == 0:
        return None, stats.NO_SPREAD
    error = float(np.sqrt((count - 1) * np.var(without))) * float(stdtrit(count - 1, 0.975))
    return (max(0.0, value - error), min(1.0, value + error)), None


def _limit_turns(side: Sequence[Sequence[str]], folds: int) -> list[Sequence[str]]:
    """Conversations in the order of their hashes, at least one a fold, within the limit of turns; long ones cut."""
    short = [turns[: CLASSIFIER_MAX_TURNS // folds] for turns in side]
    ordered = sorted(short, key=lambda turns: fingerprint(list(turns)))
    total = np.cumsum([len(turns) for turns in ordered])
    return ordered[: max(folds, int(np.searchsorted(total, CLASSIFIER_MAX_TURNS, side="right")))]


def _labelled_turns(sides: Sequence[Sequence[Sequence[str]]]) -> _LabelledTurns:
    """Features of all turns: n-grams by 1 + ln count, of unit length, rotated into their own few dimensions.

    The rotation changes no product of two rows, hence no penalised regression on them, only its cost.
    """
    turns = [(f"\2{turn}\3", sign, index) for sign, side in zip((1.0, -1.0), sides, strict=True)
             for index, of in enumerate(side) for turn in of]  # fmt: skip
    counts = ngram_counts([turn for turn, _, _ in turns], CLASSIFIER_GRAM_SIZES, CLASSIFIER_GRAM_BITS)
    counts.data = 1 + np.log(counts.data)
    rows = unit_rows(counts)
    sizes, axes = np.linalg.eigh((rows @ rows.T).toarray())
    kept = sizes > 1e-9
    features = axes[:, kept] * np.sqrt(sizes[kept])
    labels, owners = np.array([sign for _, sign, _ in turns]), np.array([index for *_, index in turns])
    return _LabelledTurns(features, labels, owners)


def cross_validated_auc(turns: _LabelledTurns, folds: int) -> float | None:
    """The AUC over pairs of turns of one fold, each fold scored by a model trained on the other folds."""
    fold = turns.conversation % folds
    won = pairs = 0.0
    for number in range(folds):
        train, test = fold != number, fold == number
        if len(set(turns.label[train])) < 2 or len(set(turns.label[test])) < 2:
            continue
        weights, bias = fit_logistic(turns.features[train], turns.label[train])
        # a score differs in its last digits with the order of sums; equal turns must tie
        scores = np.round(turns.features[test] @ weights + bias, 9)
        more, of = pairwise_wins(scores[turns.label[test] > 0], scores[turns.label[test] < 0])
        won, pairs = won + more, pairs + of
    return won / pairs if pairs else None


def pairwise_wins(first: Array, second: Array) -> tuple[float, int]:
    """In how many pairs the first is greater, ties counted half; and the number of pairs (Mann & Whitney 1947)."""
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
    return float(below.sum()) / 2, len(first) * len(second)


def fit_logistic(features: Array, label: Array) -> tuple[Array, float]:
    """Weights and bias of the least penalised log-loss, both labels (1 and -1) with equal weight; by L-BFGS."""
    from scipy.optimize import minimize
    from scipy.special import expit

    balance = 0.5 / np.where(label > 0, (label > 0).mean(), (label < 0).mean())

    def loss(point: Array) -> tuple[float, Array]:
        margins = label * (features @ point[:-1] + point[-1])
        slope = -balance * label * expit(-margins)
        value = balance @ np.logaddexp(0, -margins) + CLASSIFIER_L2 / 2 * point[:-1] @ point[:-1]
        return float(value), np.append(slope @ features + CLASSIFIER_L2 * point[:-1], slope.sum())

    found = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[:-1], float(found.x[-1])
