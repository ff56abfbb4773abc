"""Words of a text, and the diversity of texts, measured by shared words.

Words are runs of letters, digits and underscores in lower case; apostrophes inside a word are kept. Scripts without
spaces give long words, so compare such corpora only with each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maieutic.core import statistics
from maieutic.core.messages import Estimate

Array = NDArray[np.float64]
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_BLOCK = 4_000_000
"""Maximum pairs of texts in memory: 32 MB."""


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def jaccard_means(texts: Sequence[str]) -> Array:
    """For each text, the mean Jaccard overlap of its word set with the word sets of all *other* texts.

    The caller leaves out texts without a word. Sparse blocks keep memory from growing quadratically.
    """
    from scipy.sparse import csr_matrix

    vocabulary: dict[str, int] = {}
    sets = [sorted({vocabulary.setdefault(word, len(vocabulary)) for word in words(text)}) for text in texts]
    sizes = np.array([len(own) for own in sets], dtype=np.float64)
    columns = np.fromiter((word for own in sets for word in own), dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    shape = (len(texts), max(1, len(vocabulary)))
    matrix = csr_matrix((np.ones(len(columns), dtype=np.float64), columns, starts), shape=shape)
    totals = np.zeros(len(texts))
    start = 0
    while start < len(texts):
        stop = min(len(texts), start + max(1, _BLOCK // (len(texts) - start)))
        shared = (matrix[start:stop] @ matrix[start:].T).toarray()
        shared /= sizes[start:stop, None] + sizes[None, start:] - shared
        totals[start:stop] += shared.sum(axis=1)
        totals[stop:] += shared[:, stop - start :].sum(axis=0)
        start = stop
    return (totals - 1) / max(1, len(texts) - 1)


def pairwise_diversity(texts: Sequence[str], *, seed: int = 0, interval: bool = True) -> Estimate:
    """100 · (1 - mean pairwise Jaccard overlap of word sets), pairs of a text with itself excluded: 0 to 100.

    Texts without a word are left out; undefined for fewer than two texts.

    Source: first-turn diversity of UserLM-8b (arXiv 2510.06552). The interval resamples the first-order terms of
    the U-statistic, since resampling texts would pair a text with its own copy.

    Args:
        texts: any number of texts.
        seed: the random seed of the resamples.
        interval: also compute the interval.
    """
    kept = [text for text in texts if words(text)]
    if len(kept) < 2:
        return statistics.undefined("fewer than two texts with words", len(kept))
    overlaps = jaccard_means(kept)
    centre = float(overlaps.mean())
    value = 100 * (1 - centre)
    if not interval:
        return Estimate(value, None, len(kept))
    return statistics.mean(100 * (1 - (2 * overlaps - centre)), seed=seed)._replace(value=value)
