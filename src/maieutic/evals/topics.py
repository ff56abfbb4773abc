"""Topics of human turns, by cosine similarity: how varied they are, and how a topic continues from turn to turn.

Texts become vectors of unit length: by a sentence-transformers model where one is given, else from character n-grams.
The n-gram default needs no model and gives the same digits everywhere: content words (English function words removed),
their character 3- to 5-grams hashed into 2^18 places, (1 + ln count) times an inverse document frequency learned from
people's turns. It sees shared words and stems, not meaning: two paraphrases look different. Compare its
numbers only with each other, never with numbers of a neural embedder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.core import statistics as stats
from maieutic.core.errors import MissingExtra, ModelError
from maieutic.core.messages import Estimate
from maieutic.evals import text

Array = NDArray[np.float64]
Embedder = Callable[[Sequence[str]], Any]
"""Texts → one row of unit length each (dense or sparse); a row of zeros where the text is empty."""
MOVES = ("topic_maintenance", "topic_drift", "topic_shift")
CHANCE_QUANTILE = 0.95
UNRELATED_PAIRS = 10_000
"""Pairs of turns of different conversations that the shift threshold is learned from."""
GRAM_SIZES = (3, 4, 5)
GRAM_BITS = 18
_CHUNK_CHARACTERS = 1_000_000
"""Characters hashed at once."""
_HASH_STEP = np.uint64(0x9E3779B97F4A7C15)


class EmbeddedTurns(NamedTuple):
    """The turns of a corpus that have a vector."""

    vectors: Any
    """Turns by dimensions, rows of unit length."""
    conversations: list[int]
    """The index of each turn's conversation."""
    follows: list[bool]
    """Whether the previous turn in the list is the previous human turn of the same conversation."""


def embed_turns(conversations: Sequence[Sequence[str]], embed: Embedder) -> EmbeddedTurns:
    """The vectors of all turns of these conversations; turns without content are left out.

    The turn after one that was left out does not count as following any turn.
    """
    vectors = embed([turn for turns in conversations for turn in turns])
    places = [(index, place) for index, turns in enumerate(conversations) for place in range(len(turns))]
    lengths = np.asarray(
        (vectors.multiply(vectors) if hasattr(vectors, "multiply") else vectors**2).sum(axis=1)
    )
    kept = np.flatnonzero(lengths.ravel() > 0)
    follows = [
        bool(number) and kept[number - 1] == index - 1 and places[index][1] > 0
        for number, index in enumerate(kept)
    ]
    return EmbeddedTurns(vectors[kept], [places[index][0] for index in kept], follows)


def topic_diversity(embedded: EmbeddedTurns) -> Estimate:
    """1 - mean cosine over all pairs of different turns; pairs of a turn with itself are excluded.

    0 where all turns are the same, 1 where all are unrelated. The interval resamples the first-order terms of the
    U-statistic by conversation, since resampling turns would pair a turn with its own copy. The sum over all pairs is
    the squared length of the sum of the vectors, so the cost grows linearly with the number of turns.
    """
    turns = len(embedded.conversations)
    if turns < 2:
        return stats.undefined("fewer than two turns with content", turns)
    total = np.asarray(embedded.vectors.sum(axis=0)).ravel()
    overlaps = (np.asarray(embedded.vectors @ total).ravel() - 1) / (turns - 1)
    centre = float(overlaps.mean())
    estimate = stats.mean(1 - (2 * overlaps - centre), embedded.conversations)
    return estimate._replace(value=1 - centre)


def question_cosine(embedded: EmbeddedTurns) -> Estimate:
    """Mean cosine over all pairs of turns, each turn with itself included, as PlatoLM counts it (arXiv 2308.11534).

    Lower is more diverse. The pairs of a turn with itself add 1/turns, so compare corpora of equal size only.
    """
    own, turns = topic_diversity(embedded), len(embedded.conversations)
    if own.value is None:
        return own

    def with_diagonal(diversity: float) -> float:
        return ((1 - diversity) * (turns - 1) + 1) / turns

    ci = (with_diagonal(own.ci[1]), with_diagonal(own.ci[0])) if own.ci else None
    return own._replace(value=with_diagonal(own.value), ci=ci)


class MoveThresholds(NamedTuple):
    """Cosine thresholds that classify the move from one human turn to the next."""

    shift: float
    """A cosine up to this is a shift."""
    maintenance: float
    """A cosine from this on is maintenance. Between the two is drift."""


def consecutive_cosines(embedded: EmbeddedTurns) -> tuple[Array, list[int]]:
    """The cosine of each turn with the previous human turn, and the index of its conversation."""
    second = np.flatnonzero(embedded.follows)
    owners = [embedded.conversations[index] for index in second]
    return _products(embedded.vectors, second - 1, second), owners


def _products(vectors: Any, first: NDArray[Any], second: NDArray[Any]) -> Array:
    a, b = vectors[first], vectors[second]
    return np.asarray((a.multiply(b) if hasattr(a, "multiply") else a * b).sum(axis=1), dtype=float).ravel()


def learn_thresholds(people: EmbeddedTurns, seed: int = 0) -> MoveThresholds | None:
    """Thresholds learned from people's turns; null where there are too few.

    The shift threshold is the 95th percentile of the cosine of unrelated pairs (turns of different conversations,
    10,000 drawn by `seed`). The maintenance threshold is the median cosine of people's consecutive turns above the
    shift threshold. PlatoLM (arXiv 2308.11534) names the three moves and has a judge find them, without thresholds;
    thresholds from the corpus's own similarities follow TextTiling (Hearst 1997). People's drift and maintenance are
    therefore about equal by construction: compare a simulator's shares with people's.
    """
    related, _ = consecutive_cosines(people)
    owners = np.array(people.conversations)
    if not len(related) or len(set(people.conversations)) < 2:
        return None
    pairs = np.random.default_rng(seed).integers(0, len(owners), size=(2, UNRELATED_PAIRS))
    unrelated = pairs[:, owners[pairs[0]] != owners[pairs[1]]]
    if not unrelated.shape[1]:
        return None
    shift = float(np.quantile(_products(people.vectors, unrelated[0], unrelated[1]), CHANCE_QUANTILE))
    above = related[related > shift]
    return MoveThresholds(shift, float(np.median(above))) if len(above) else None


def topic_moves(embedded: EmbeddedTurns, thresholds: MoveThresholds | None) -> dict[str, Estimate]:
    """The shares of topic maintenance, drift and shift among the moves from one human turn to the next."""
    if thresholds is None:
        return dict.fromkeys(MOVES, stats.undefined("too few turns of people to learn the thresholds from"))
    cosines, owners = consecutive_cosines(embedded)
    if not len(cosines):
        return dict.fromkeys(MOVES, stats.undefined("no human turn with content follows another"))
    shift = cosines <= thresholds.shift
    kept = (cosines >= thresholds.maintenance) & ~shift
    hits = dict(zip(MOVES, (kept, ~(kept | shift), shift), strict=True))
    return {name: stats.proportion(hit.astype(float).tolist(), owners) for name, hit in hits.items()}


def ngram_counts(texts: Sequence[str], sizes: Sequence[int], bits: int, *, inside_words: bool = False) -> Any:
    """How often each hashed character n-gram occurs in each text: a sparse matrix, texts by 2^bits.

    Args:
        texts: NUL characters are dropped, since NUL separates the texts internally.
        sizes: the n of the n-grams.
        bits: log2 of the number of places they are hashed into.
        inside_words: exclude n-grams with a space anywhere but at their ends.
    """
    from scipy.sparse import csr_matrix, vstack

    chunks = _chunks([each.replace("\0", "") for each in texts])
    parts = [_chunk_counts(chunk, sizes, bits, inside_words) for chunk in chunks]
    return vstack(parts, format="csr") if parts else csr_matrix((0, 2**bits))


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for each in texts:
        chunk.append(each)
        size += len(each) + 1
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _chunk_counts(texts: list[str], sizes: Sequence[int], bits: int, inside_words: bool) -> Any:
    from scipy.sparse import coo_matrix

    codes = np.frombuffer(("\0".join(texts) + "\0").encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    owner = np.cumsum(codes == 0)
    rows: list[NDArray[Any]] = []
    columns: list[NDArray[Any]] = []
    for n in sizes:
        if len(codes) < n:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(codes, n)
        hashes = np.full(len(windows), n, dtype=np.uint64)
        for place in range(n):
            hashes = (hashes ^ windows[:, place]) * _HASH_STEP
            hashes ^= hashes >> np.uint64(29)
        keep = owner[: len(windows)] == owner[n - 1 :]
        keep &= (codes[: len(windows)] != 0) & (codes[n - 1 :] != 0)
        if inside_words and n > 2:
            keep &= ~(windows[:, 1:-1] == ord(" ")).any(axis=1)
        rows.append(owner[: len(windows)][keep])
        columns.append((hashes[keep] >> np.uint64(64 - bits)).astype(np.int32))
    row, column = (np.concatenate(parts) if parts else np.empty(0, np.int32) for parts in (rows, columns))
    matrix = coo_matrix((np.ones(len(row)), (row, column)), shape=(len(texts), 2**bits))
    return matrix.tocsr()


def unit_rows(matrix: Any) -> Any:
    """A sparse matrix with every non-zero row scaled to unit length."""
    from scipy.sparse import diags

    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return (diags(scale) @ matrix).tocsr()


def _content_text(turn: str) -> str:
    """The content words of a turn between single spaces; an empty text where there are none."""
    kept = [word for word in text.words(turn) if word not in text.STOPWORDS]
    return f" {' '.join(kept)} " if kept else ""


def ngram_embedder(people: Sequence[str]) -> Embedder:
    """The offline default (see the module), with n-gram weights learned from people's turns.

    Inverse document frequency is ln((1 + texts) / (1 + texts with the n-gram)) + 1: an unseen n-gram weighs most.
    """

    def counts(texts: Sequence[str]) -> Any:
        return ngram_counts([_content_text(turn) for turn in texts], GRAM_SIZES, GRAM_BITS, inside_words=True)

    seen = np.bincount(counts(people).indices, minlength=2**GRAM_BITS)
    weight = np.log((1 + len(people)) / (1 + seen)) + 1

    def embed(texts: Sequence[str]) -> Any:
        matrix = counts(texts)
        matrix.data = (1 + np.log(matrix.data)) * weight[matrix.indices]
        return unit_rows(matrix)

    return embed


def sentence_embedder(name: str) -> Embedder:
    """A sentence-transformers model, by path or name; each distinct text is embedded once.

    Raises:
        MissingExtra: the library is not installed.
        ModelError: the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtra(
            f"--embedder {name} needs sentence-transformers: {error}",
            "Run: python -m pip install 'maieutic[embed]'",
        ) from None
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: cannot be loaded as a sentence-transformers model ({str(error).splitlines()[0]})",
            "Give a path or a name on the hub, or omit --embedder.",
        ) from None
    known: dict[str, NDArray[Any]] = {}

    def embed(texts: Sequence[str]) -> Any:
        new = [each for each in dict.fromkeys(texts) if each not in known and not text.is_blank(each)]
        if new:
            rows = np.asarray(model.encode(new, show_progress_bar=False), dtype=np.float64)
            known.update(zip(new, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))
        zeros = np.zeros_like(next(iter(known.values()), np.zeros(1)))
        return np.array([known.get(each, zeros) for each in texts] or np.empty((0, 1)))

    return embed
