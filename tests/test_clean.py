"""Cleaning: named reasons, counted; nothing is lost but what is rejected, and a clean corpus stays as it is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from conversations import conversations, run, talk, write_lines
from hypothesis import given
from hypothesis import strategies as st

from maieutic.data.clean import CleanReport, clean, clean_file
from maieutic.data.corpus import read_corpus, write_corpus
from maieutic.data.filters import CleanOptions, Reason
from maieutic.data.formats import import_files
from maieutic.data.mend import Repair, mend
from maieutic.errors import EmptyCorpus, StoreError
from maieutic.types import Conversation, Role

OPTIONS = st.builds(
    CleanOptions, keep_opening=st.booleans(), min_turns=st.integers(1, 4), keep_duplicates=st.booleans()
)


@given(st.lists(conversations(st.sampled_from(["", " ", "a", "b", "\n"])), max_size=8), OPTIONS)
def test_cleaning_twice_changes_nothing_more(corpus: list[Conversation], options: CleanOptions) -> None:
    report = CleanReport()
    once = list(clean(corpus, options, report))
    again = CleanReport()
    assert list(clean(once, options, again)) == once
    assert not again.rejected and not again.repaired
    assert report.read == len(corpus) == report.kept + sum(report.rejected.values()) and report.kept == len(
        once
    )
    for conversation in once:
        roles = [turn.role for turn in conversation.messages]
        assert all(one != other for one, other in pairwise(roles))
        assert all(turn.content.strip() for turn in conversation.messages) and Role.USER in roles


@given(conversations())
def test_mending_loses_no_spoken_text(conversation: Conversation) -> None:
    mended = mend(conversation, keep_opening=True).conversation
    for role in Role:
        spoken = [text for text in conversation.turns(role) if text.strip()]
        assert "\n\n".join(mended.turns(role)) == "\n\n".join(spoken)
    assert (mended.id, mended.problem) == (conversation.id, conversation.problem)


def test_each_reason_and_repair_is_counted() -> None:
    rejected: list[tuple[str, str]] = []
    corpus = [
        talk("a", "b", id="good"),
        talk("a", "b", id="same again", user_id="x"),
        talk("hello", "a", "b", first="assistant", id="opening"),
        talk("Hi, what is 2?", "a", "b", first="assistant", id="tutor", meta={"opens": "assistant"}),
        talk("a", " ", "c", "d", id="hole"),
        talk("a", "\n", id="one-sided"),
        talk("a", first="assistant", id="no user"),
        talk("help", id="seed", meta={"prompt": "…"}, problem="p"),
        talk("help", id="seed of another problem", meta={"prompt": "…"}, problem="q"),
    ]
    report = CleanReport()
    kept = list(clean(corpus, None, report, lambda found: rejected.append((found.conversation.id, found.reason.value))))
    assert [c.id for c in kept] == ["good", "tutor", "hole", "seed", "seed of another problem"]
    assert rejected == [
        ("same again", "exact duplicate"),
        ("opening", "exact duplicate"),
        ("one-sided", "no assistant turn"),
        ("no user", "no user turn"),
    ]
    assert [t.content for t in kept[2].messages] == ["a\n\nc", "d"]
    assert report.repaired == {Repair.EMPTY: 1, Repair.MERGED: 1}
    assert [c.id for c in clean(corpus, CleanOptions(keep_opening=True, min_turns=3))] == ["opening", "tutor"]
    assert len(list(clean(corpus, CleanOptions(keep_duplicates=True)))) == 7
    long = CleanReport()
    assert not list(clean([corpus[0]], CleanOptions(min_turns=3), long)) and long.rejected == {
        Reason.SHORT: 1
    }


def test_what_is_known_of_a_turn_moves_with_it() -> None:
    turns = {"0": {"move": "generic"}, "2": {"move": "probing"}, "3": {"move": "telling"}, "4": {"n": 1}}
    messages = [("assistant", "hi"), ("user", ""), ("assistant", "a"), ("assistant", "b"), ("user", "c")]
    conversation = Conversation.model_validate(
        {
            "messages": [{"role": role, "content": text} for role, text in messages],
            "meta": {"turns": turns, "opens": "assistant"},
        }
    )
    mended, repairs = mend(conversation)
    assert repairs == (Repair.EMPTY, Repair.MERGED)
    assert mended.meta["turns"] == {
        "0": {"move": "generic", "merged": [{"move": "probing"}, {"move": "telling"}]},
        "1": {"n": 1},
    }
    assert mended.messages[0].content == "hi\n\na\n\nb"


def test_rejected_rows_lie_beside_the_output(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    write_corpus(source, [talk("a", "b", id="1"), talk("a", "b", id="2"), talk("x", id="3")])
    code, out, _ = run("clean", source, "--out", tmp_path / "out" / "d.jsonl")
    assert code == 0 and "exact duplicate" in out and "kept" in out
    rows = [orjson.loads(row) for row in (tmp_path / "out" / "rejected.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["reason"]) for row in rows] == [
        ("2", "exact duplicate"),
        ("3", "no assistant turn"),
    ]
    code, out, _ = run("clean", source, "--out", tmp_path / "out" / "d.jsonl", "--json")
    assert code == 0 and orjson.loads(out)["rejected"]["exact duplicate"] == 1
    other = write_lines(tmp_path / "e.jsonl", talk("q", "r").row(), talk("only").row())
    assert (
        clean_file(other, tmp_path / "out" / "f.jsonl").rejected_file == tmp_path / "out" / "f.rejected.jsonl"
    )
    assert (
        clean_file(other, tmp_path / "out" / "f.jsonl").rejected_file == tmp_path / "out" / "f.rejected.jsonl"
    )
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(before) == 4
    with pytest.raises(StoreError):
        clean_file(source, tmp_path / "out" / "f.jsonl")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_nothing_left_is_an_error_that_counts(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    write_corpus(source, [talk("x", id="3")])
    with pytest.raises(EmptyCorpus, match="1 no assistant turn"):
        clean_file(source, tmp_path / "d.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_real_corpora_clean(real_data: Path, tmp_path: Path) -> None:
    names = ("debugging", "mathdial", "tutorchat")
    sources = [
        real_data / "real-chats",
        *(real_data / "socratic-llm" / f"{name}_train.json" for name in names),
    ]
    write_corpus(tmp_path / "c.jsonl", import_files(sources)[0])
    report = clean_file(tmp_path / "c.jsonl", tmp_path / "d.jsonl")
    assert report.read == 188 + 663 + 498 + 594
    assert report.rejected == {Reason.DUPLICATE: 131}
    for conversation in read_corpus(tmp_path / "d.jsonl"):
        roles = [turn.role for turn in conversation.messages]
        assert all(one != other for one, other in pairwise(roles))
        assert "prompt" not in conversation.meta or roles[-1] == Role.USER
