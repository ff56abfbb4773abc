"""Words, n-grams and the index: the same as the plain definition, on every machine, and only what is near."""

from __future__ import annotations

import random
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.data.near_duplicates import NEAR, NearIndex, distinct, grams, jaccard, runs, words

TEXT = st.text(st.sampled_from("ab _.Zß1é\n東京กΣ'")) | st.text()


def plain(text: str) -> list[str]:
    """The definition, one regular expression and a cut between characters of scripts without spaces."""
    alone = (
        "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    )
    found = re.findall(r"\w+", text.casefold())
    return [piece for word in found for piece in re.findall(f"[{alone}]|[^{alone}]+", word)]


@given(TEXT)
@settings(deadline=None)  # the first call makes the table of letters
def test_words_are_what_they_are_said_to_be(text: str) -> None:
    found = words(text)
    pieces = [
        found.text[start:end] for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    ]
    assert pieces == (plain(text) or text.casefold().split()) and len(found.hashes) == len(pieces)
    by_word = dict(zip(pieces, found.hashes.tolist(), strict=True))
    assert [by_word[piece] for piece in pieces] == found.hashes.tolist()
    assert len(set(by_word.values())) == len(by_word)


@given(st.lists(st.sampled_from("ab"), max_size=12), st.lists(st.sampled_from("ab"), max_size=12))
def test_grams_overlap_as_their_words_do(one: list[str], other: list[str]) -> None:
    def sets(said: list[str]) -> set[tuple[str, ...]]:
        size = min(5, len(said))
        return {tuple(said[at : at + size]) for at in range(len(said) - size + 1)}

    mine, yours = sets(one), sets(other)
    assert jaccard(grams(" ".join(one)), grams(" ".join(other))) == len(mine & yours) / len(mine | yours)


@given(st.lists(st.integers(0, 9)))
def test_distinct_is_unique(values: list[int]) -> None:
    assert distinct(np.array(values, np.uint64)).tolist() == sorted(set(values))


def test_hashes_are_the_same_on_every_machine() -> None:
    assert grams("The quick, brown fox jumps over it.").tolist() == [
        367044733093194423,
        4658978835123022152,
        17657577787089558919,
    ]
    assert runs(words("a b").hashes, 3).tolist() == []
    assert words("Ab c-d").run(0, 2) == "ab c" and words("Ab c-d").run(1, 9) == "c-d"


def test_the_index_finds_the_near_and_only_them() -> None:
    draw = random.Random(5)
    index = NearIndex()
    texts = [[f"w{draw.randrange(10**6)}" for _ in range(200)] for _ in range(300)]
    for text in texts:
        index.add(index.sketch(grams(" ".join(text))))
    for place, text in enumerate(texts):
        close = [*text[:-3], "x", "y", "z"]  # about .97
        far = [word if at % 8 else "other" for at, word in enumerate(text)]  # about .2
        assert list(index.close(index.sketch(grams(" ".join(close))), NEAR)) == [place]
        assert not list(index.close(index.sketch(grams(" ".join(far))), NEAR))
    assert not list(index.close(index.sketch(grams(" ".join(texts[3]))), NEAR, {3}))


def test_pairs_at_the_bound_are_candidates() -> None:
    draw = np.random.default_rng(2)
    for bands, rows, least in ((16, 6, 0.97), (32, 4, 1.0)):
        found = 0
        for _ in range(200):
            values = draw.integers(0, 2**63, 120, dtype=np.uint64)  # 96 of 120 in common
            one, other = distinct(values[:108]), distinct(values[12:])
            assert jaccard(one, other) == NEAR
            index = NearIndex(bands, rows)
            index.add(index.sketch(one))
            found += list(index.close(index.sketch(other), 0)) == [0]
        assert found >= 200 * least
