"""Embedding without a model, topic diversity, and the moves from one turn to the next: by hand, and on real people."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maieutic.core.errors import MissingExtra, ModelError
from maieutic.evals import topics

AXES = {"a": [1.0, 0.0], "b": [0.0, 1.0], "ab": [0.6, 0.8], "": [0.0, 0.0]}


def by_axes(texts: list[str]) -> np.ndarray:
    return np.array([AXES[one] for one in texts]).reshape(-1, 2)


def test_grams_are_counted_and_do_not_cross_texts() -> None:
    counts = topics.ngram_counts(["abab", "ab", "", "ba\0b"], (2,), 16).toarray()
    assert counts.sum(axis=1).tolist() == [3, 1, 0, 2], "ab ba ab | ab | nothing | ba ab, the NUL dropped"
    place = int(counts[1].argmax())
    assert counts[:, place].tolist() == [2, 1, 0, 1]


def test_grams_inside_words() -> None:
    counts = topics.ngram_counts([" cat is "], (3, 5), 18, inside_words=True)
    assert counts.sum() == 6, "' ca' 'cat' 'at ' ' is' 'is ', and ' cat '"


@given(st.lists(st.text(max_size=12), max_size=6))
def test_chunks_change_nothing(texts: list[str]) -> None:
    whole = topics.ngram_counts(texts, (1, 3), 10).toarray()
    kept, topics._CHUNK_CHARACTERS = topics._CHUNK_CHARACTERS, 3
    try:
        assert (topics.ngram_counts(texts, (1, 3), 10).toarray() == whole).all()
    finally:
        topics._CHUNK_CHARACTERS = kept
    assert whole.shape == (len(texts), 1024)


def test_lexical_vectors() -> None:
    vectors = topics.ngram_embedder(["fix my loop", "the loops fail", "boil an egg"])(
        ["Fix my loop!", "loop, fix", "two loops", "eggs", "and why?"]
    )
    cosine = (vectors @ vectors.T).toarray()
    assert cosine[0, 0] == pytest.approx(1)
    assert cosine[0, 1] > 0.8, "the same content words"
    assert 0 < cosine[0, 2] < cosine[0, 1], "a shared stem"
    assert cosine[0, 3] == 0
    assert cosine[4].sum() == 0, "no content word, nothing to embed"


def test_diversity_by_hand() -> None:
    made = topics.embed_turns([["a", "ab"], ["b"], [""]], by_axes)
    # cosines: a·ab .6, a·b 0, ab·b .8
    assert topics.topic_diversity(made).value == pytest.approx(1 - 1.4 / 3)
    assert topics.topic_diversity(made).n == 2, "conversations with content"
    whole = topics.question_cosine(made)
    assert whole.value == pytest.approx((3 + 2 * 1.4) / 9), "the diagonal included"
    assert whole.ci is not None
    assert whole.ci[0] <= whole.value <= whole.ci[1]


def test_diversity_of_nothing_and_of_one_and_the_same() -> None:
    assert topics.topic_diversity(topics.embed_turns([["a"], [""]], by_axes)).value is None
    assert topics.topic_diversity(topics.embed_turns([], topics.ngram_embedder([]))).value is None
    same = topics.topic_diversity(topics.embed_turns([["a"], ["a"], ["a"]], by_axes))
    assert same.value == pytest.approx(0)
    assert same.reason


def test_what_follows_what() -> None:
    made = topics.embed_turns([["a", "b", "", "b"], ["a"], ["ab", "ab"]], by_axes)
    near, homes = topics.consecutive_cosines(made)
    assert near.tolist() == pytest.approx([0, 1]), "nothing follows a turn without content, or another's turn"
    assert homes == [0, 2]


def test_moves_by_hand() -> None:
    made = topics.embed_turns([["a", "a", "ab", "b"], ["a", "b"]], by_axes)
    # cosines 1, .6, .8, and 0
    found = topics.topic_moves(made, topics.MoveThresholds(shift=0.0, maintenance=0.8))
    assert [found[name].value for name in topics.MOVES] == [0.5, 0.25, 0.25]
    assert sum(one.value or 0 for one in found.values()) == 1
    assert all(one.value is None for one in topics.topic_moves(made, None).values())
    alone = topics.topic_moves(topics.embed_turns([["a"]], by_axes), topics.MoveThresholds(0, 1))
    assert all(one.value is None and one.reason for one in alone.values())


def test_cuts_are_learned_from_people() -> None:
    people = topics.embed_turns([["a", "a", "ab"], ["b", "b"]], by_axes)
    # unrelated pairs have cosine 0 or .8; consecutive ones 1, .6, 1
    at = topics.learn_thresholds(people)
    assert at is not None
    assert at.shift == pytest.approx(0.8)
    assert at.maintenance == pytest.approx(1)
    assert topics.learn_thresholds(topics.embed_turns([["a", "b"]], by_axes)) is None, (
        "one conversation: nothing is unrelated"
    )
    assert topics.learn_thresholds(topics.embed_turns([["a"], ["b"]], by_axes)) is None, (
        "no turn follows another"
    )


def test_people_move_less_at_random_than_turns_that_were_shuffled(real_data: Path) -> None:
    rows = [json.loads(line) for line in (real_data / "real-chats" / "oasst1.jsonl").read_text().splitlines()]
    people = [[turn["content"] for turn in row["turns"] if turn["role"] == "user"] for row in rows]
    embedder = topics.ngram_embedder([turn for turns in people for turn in turns])
    made = topics.embed_turns(people, embedder)
    at = topics.learn_thresholds(made)
    turns = np.random.default_rng(0).permutation([turn for turns in people for turn in turns]).tolist()
    shuffled = [[turns.pop() for _ in said] for said in people]
    own, mixed = topics.topic_moves(made, at), topics.topic_moves(topics.embed_turns(shuffled, embedder), at)
    assert own["topic_shift"].value < 0.55
    assert mixed["topic_shift"].value > 0.9
    assert own["topic_maintenance"].ci[0] > mixed["topic_maintenance"].value


def test_a_named_embedder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        with pytest.raises(MissingExtra, match="sentence-transformers"):
            topics.sentence_embedder("any")
    else:
        with pytest.raises(ModelError):
            topics.sentence_embedder(str(tmp_path / "none"))


@pytest.mark.slow
def test_a_sentence_model(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tiny import tiny_checkpoint

    tiny_checkpoint(tmp_path / "checkpoint")
    parts = [Transformer(str(tmp_path / "checkpoint")), Pooling(32)]
    library.SentenceTransformer(modules=parts).save(str(tmp_path / "model"))
    embedder = topics.sentence_embedder(str(tmp_path / "model"))
    vectors = embedder(["one text", "another", " ", "one text"])
    assert (vectors**2).sum(axis=1) == pytest.approx([1, 1, 0, 1])
    assert vectors[0].tolist() == vectors[3].tolist()
    assert topics.topic_diversity(
        topics.embed_turns([["one text"], ["one text"]], embedder)
    ).value == pytest.approx(0)
    assert topics.topic_diversity(topics.embed_turns([], embedder)).value is None
