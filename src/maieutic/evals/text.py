"""Metrics of text alone: diversity, repetition, lengths, and the distance between two samples.

Words are those of `core.words`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maieutic.core import statistics as stats
from maieutic.core.messages import Estimate
from maieutic.core.words import words as words

Array = NDArray[np.float64]
MTLD_THRESHOLD = 0.72
NEAR_REPEAT = 0.9
NEAR_REPEAT_WORDS = 5
JACKKNIFE_BLOCKS = 50


def ngram_total(conversations: Sequence[Sequence[str]], n: int) -> int:
    """The number of n-grams in the turns of these conversations; no n-gram crosses from one turn to the next."""
    return sum(max(0, len(words(turn)) - n + 1) for turns in conversations for turn in turns)


def distinct(conversations: Sequence[Sequence[str]], n: int, limit: int | None = None) -> Estimate:
    """Different n-grams / all n-grams (distinct-n, Li et al. 2016), over the turns of these conversations.

    Args:
        conversations: the turns of each.
        n: words in an n-gram.
        limit: count only the first `limit` n-grams. The ratio falls with size, so compare at equal size.

    The interval is value ± 1.96 standard errors of a grouped jackknife (up to 50 blocks of conversations): drawing
    conversations twice, as a bootstrap does, would count as repetition.
    """
    left = math.inf if limit is None else limit
    blocks = min(JACKKNIFE_BLOCKS, len(conversations))
    found: dict[tuple[str, ...], set[int]] = {}
    totals = np.zeros(max(1, blocks))
    for index, turns in enumerate(conversations):
        for turn in turns:
            tokens = words(turn)
            for start in range(int(min(left, max(0, len(tokens) - n + 1)))):
                found.setdefault(tuple(tokens[start : start + n]), set()).add(index % blocks)
                totals[index % blocks] += 1
                left -= 1
    total = totals.sum()
    if not total:
        return stats.undefined(f"no {n}-grams", len(conversations))
    alone = np.zeros_like(totals)
    for blocks_with_it in found.values():
        if len(blocks_with_it) == 1:
            alone[next(iter(blocks_with_it))] += 1
    value = len(found) / float(total)
    keeps = total - totals > 0
    if blocks < 2 or not keeps.all():
        return Estimate(value, None, len(conversations), stats.ONE_UNIT)
    without = (len(found) - alone) / (total - totals)
    error = math.sqrt((blocks - 1) / blocks * float(((without - without.mean()) ** 2).sum()))
    low, high = max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error)
    return Estimate(value, (low, high), len(conversations))


def mtld(tokens: Sequence[str], threshold: float = MTLD_THRESHOLD) -> float | None:
    """Measure of textual lexical diversity, mean of both directions (McCarthy & Jarvis 2010); null without words.

    A factor ends where the type-token ratio reaches the threshold or falls below it; the last one counts in proportion.
    If the ratio never falls, MTLD is the number of words.
    """
    if not tokens:
        return None
    return (_mtld(tokens, threshold) + _mtld(tokens[::-1], threshold)) / 2


def _mtld(tokens: Sequence[str], threshold: float) -> float:
    factors, seen, count = 0.0, set[str](), 0
    for token in tokens:
        seen.add(token)
        count += 1
        if len(seen) / count <= threshold:
            factors, seen, count = factors + 1, set(), 0
    if count:
        factors += (1 - len(seen) / count) / (1 - threshold)
    return len(tokens) / factors if factors else float(len(tokens))


def is_blank(turn: str) -> bool:
    """Whether a turn has no visible character."""
    return not any(unicodedata.category(char)[0] in "LMNPS" for char in turn)


def repeats_earlier(turns: Sequence[str]) -> list[bool]:
    """Whether each turn repeats an earlier turn: the same words, or nine in ten of at least five."""
    seen: list[list[str]] = []
    again: list[bool] = []
    for turn in turns:
        own = words(turn)
        again.append(any(_near_equal(own, other) for other in seen))
        if own:
            seen.append(own)
    return again


def _near_equal(first: Sequence[str], second: Sequence[str]) -> bool:
    if not first:
        return False
    if first == second:
        return True
    a, b = set(first), set(second)
    return min(len(a), len(b)) >= NEAR_REPEAT_WORDS and len(a & b) >= NEAR_REPEAT * len(a | b)


_ASSISTANT_SPEECH = re.compile(
    r"\bas an ai\b|\bas a (?:large )?language model\b|\bi(?:'|’)?m (?:just )?an ai\b"
    r"|\bhow (?:can|may) i (?:help|assist)\b"
    r"|\bi(?:'|’)?d be (?:happy|glad) to (?:help|assist)\b|\bi(?:'|’)?m here to (?:help|assist)\b"
    r"|\bfeel free to ask\b|\blet me know if you (?:have|need)\b|\bi hope (?:this|that) helps\b"
    r"|\bis there anything else i can\b|\bi apologi[sz]e for (?:the|any) confusion\b"
    r"|\A\W*(?:certainly|of course|sure|absolutely)\b[!,.]? (?:here|i can|i(?:'|’)ll|let(?:'|’)s)\b"
    r"|\A\W*(?:that(?:'|’)s a |what a )?(?:great|excellent|good) question\b",
    re.IGNORECASE,
)


def role_flip(turn: str) -> bool:
    """Whether a human turn contains stock phrases of assistants. People also use some of these phrases."""
    return bool(_ASSISTANT_SPEECH.search(turn))


_FUNCTION_WORDS = """
a about above after again against all also am an and any are as at be because been before being below
between both but by can could did do does doing don't down during each few for from further get got had has
have having he her here hers him his how i i'd i'll i'm i've if in into is isn't it it's its just let like
make may me might more most must my need no nor not now of off on once only or other our out over own please
same she should so some such than that that's the their them then there these they this those through to too
under until up us use very want was we were what what's when where which while who whom why will with would
you your yours
"""
STOPWORDS = frozenset(_FUNCTION_WORDS.split())


def content_words(text: str) -> set[str]:
    """The words of a text without English function words."""
    return set(words(text)) - STOPWORDS


def intent_overlap(turns: Sequence[str], intent: str) -> float | None:
    """100 · mean over turns of the Jaccard overlap of content words with the intent; lower means less copying.

    After UserLM's intent decomposition; turns without content words are left out, null where no turn is left.
    """
    wanted = content_words(intent)
    own = [content_words(turn) for turn in turns]
    shares = [len(wanted & turn) / len(wanted | turn) for turn in own if turn]
    return 100 * math.fsum(shares) / len(shares) if shares and wanted else None


def distances(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """How far apart two samples are: Wasserstein-1 (in the values' unit) and Kolmogorov-Smirnov (0 to 1).

    Args:
        first: the values of each conversation of one side.
        second: those of the other side.
        resamples: bootstrap draws, over the conversations of both sides.
        seed: of the bootstrap draws.

    Resampling adds noise to both sides, which increases their distance; the interval is shifted back by that bias.
    """
    first, second = [row for row in first if len(row)], [row for row in second if len(row)]
    n = len(first)
    if not first or not second:
        reason = "no turns on one side"
        return stats.undefined(reason, n), stats.undefined(reason, n)
    support = np.unique([value for side in (first, second) for row in side for value in row])
    steps = np.diff(support, append=support[-1])
    sides = (_counts(first, support), _counts(second, support))
    whole = [np.ones((1, side.shape[0])) for side in sides]
    differences = np.abs(_shares(whole[0], sides[0]) - _shares(whole[1], sides[1]))
    value = float((differences * steps).sum()), float(differences.max())
    if min(side.shape[0] for side in sides) < 2:
        return Estimate(value[0], None, n, stats.ONE_UNIT), Estimate(value[1], None, n, stats.ONE_UNIT)
    earth, ks = [], []
    for a, b in zip(*_paired_weights(sides, resamples, seed), strict=True):
        differences = np.abs(_shares(a[None], sides[0]) - _shares(b[None], sides[1]))[0]
        earth.append(float((differences * steps).sum()))
        ks.append(float(differences.max()))
    return _centred(value[0], earth, n), _centred(value[1], ks, n)


def _centred(value: float, draws: Sequence[float], n: int) -> Estimate:
    ci, reason = stats.interval(np.array(draws) - (float(np.median(draws)) - value))
    return Estimate(value, (max(0.0, ci[0]), ci[1]) if ci else None, n, reason)


def _counts(rows: Sequence[Sequence[float]], support: Array) -> Array:
    """How often each value occurs in each conversation: a sparse matrix, conversations by support."""
    from scipy.sparse import csr_matrix

    places: list[int] = []
    owners: list[int] = []
    tallies: list[int] = []
    for owner, row in enumerate(rows):
        for value, tally in Counter(row).items():
            owners.append(owner)
            places.append(int(np.searchsorted(support, value)))
            tallies.append(tally)
    matrix: Array = csr_matrix(
        (np.array(tallies, dtype=float), (owners, places)), shape=(len(rows), len(support))
    )
    return matrix


def _shares(weights: Array, counts: Array) -> Array:
    """The cumulative distribution of each row of weights."""
    sums = np.asarray((counts.T @ weights.T).T)
    return np.asarray(np.cumsum(sums, axis=1) / sums.sum(axis=1, keepdims=True))


def _paired_weights(sides: Sequence[Array], resamples: int, seed: int) -> list[Array]:
    return [
        np.concatenate(list(stats.weights(side.shape[0], resamples, seed + number)))
        for number, side in enumerate(sides)
    ]
