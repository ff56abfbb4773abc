"""Texts as vectors of unit length: by a sentence-transformers model where one is named, else from their n-grams.

The offline default needs no model and gives the same digits everywhere: content words (no English function words),
their character 3- to 5-grams hashed into 2^18 places, (1 + ln count) times an inverse document frequency learned from
people's turns. It sees shared words and stems, not meaning: two ways of saying one thing look unlike. So compare its
numbers with each other only, never with a neural embedder's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maieutic.core.errors import MissingExtra, ModelError
from maieutic.evals import text

Embed = Callable[[Sequence[str]], Any]
"""Texts → a row of unit length for each (dense or sparse); a row of zeros where there is nothing to embed."""
LEXICAL = (3, 4, 5)
BITS = 18
_CHUNK = 1_000_000
"""Characters hashed at once."""
_STEP = np.uint64(0x9E3779B97F4A7C15)


def gram_counts(texts: Sequence[str], sizes: Sequence[int], bits: int, *, inside_words: bool = False) -> Any:
    """How often each hashed character n-gram stands in each text: sparse, texts by 2^bits.

    Args:
        texts: NUL must not stand in them (it parts them); it is dropped.
        sizes: the n of the n-grams.
        bits: log2 of the places they are hashed into.
        inside_words: leave out n-grams with a space that is not at their ends.
    """
    from scipy.sparse import csr_matrix, vstack

    parts = [
        _counts(chunk, sizes, bits, inside_words)
        for chunk in _chunks([one.replace("\0", "") for one in texts])
    ]
    return vstack(parts, format="csr") if parts else csr_matrix((0, 2**bits))


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    held: list[str] = []
    size = 0
    for one in texts:
        held.append(one)
        size += len(one) + 1
        if size >= _CHUNK:
            yield held
            held, size = [], 0
    if held:
        yield held


def _counts(texts: list[str], sizes: Sequence[int], bits: int, inside_words: bool) -> Any:
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
            hashes = (hashes ^ windows[:, place]) * _STEP
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
    """A sparse matrix with every row that is not zero scaled to length one."""
    from scipy.sparse import diags

    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return (diags(scale) @ matrix).tocsr()


def _content(turn: str) -> str:
    """The content words of a turn, each between single spaces; nothing where it has none."""
    kept = [word for word in text.words(turn) if word not in text.STOPWORDS]
    return f" {' '.join(kept)} " if kept else ""


def lexical(people: Sequence[str]) -> Embed:
    """The offline default (see the module), with word weights learned from people's turns.

    Inverse document frequency is ln((1 + texts) / (1 + texts with it)) + 1, so that a word new to people counts most.
    """

    def counts(texts: Sequence[str]) -> Any:
        return gram_counts([_content(turn) for turn in texts], LEXICAL, BITS, inside_words=True)

    found = counts(people)
    seen = np.bincount(found.indices, minlength=2**BITS)
    weight = np.log((1 + len(people)) / (1 + seen)) + 1

    def embed(texts: Sequence[str]) -> Any:
        matrix = counts(texts)
        matrix.data = (1 + np.log(matrix.data)) * weight[matrix.indices]
        return unit_rows(matrix)

    return embed


def sentences(name: str) -> Embed:
    """A sentence-transformers model, by path or name; each different text is embedded once.

    Raises:
        MissingExtra: the library is not installed.
        ModelError: there is no such model.
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
            f"{name}: no sentence-transformers model ({str(error).splitlines()[0]})",
            "Give a path or a name on the hub, or leave --embedder out.",
        ) from None
    known: dict[str, NDArray[Any]] = {}

    def embed(texts: Sequence[str]) -> Any:
        new = [one for one in dict.fromkeys(texts) if one not in known and not text.empty(one)]
        if new:
            rows = np.asarray(model.encode(new, show_progress_bar=False), dtype=np.float64)
            known.update(zip(new, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))
        nothing = np.zeros_like(next(iter(known.values()), np.zeros(1)))
        return np.array([known.get(one, nothing) for one in texts] or np.empty((0, 1)))

    return embed
