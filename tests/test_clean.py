"""Cleaning: named reasons, counted; nothing is lost but what is rejected, and a clean corpus stays as it is."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from conversations import conversations, run, talk, write_lines
from hypothesis import given
from hypothesis import strategies as st

from maieutic.core.errors import EmptyCorpus, StoreError
from maieutic.core.messages import Conversation, Role
from maieutic.data.clean import CleanReport, clean
from maieutic.data.corpus import read_corpus, write_corpus
from maieutic.data.filters import CleanOptions, Filter, Reason, Rejected
from maieutic.data.importing import import_files
from maieutic.data.repair import Repair, repair_turns
from maieutic.data.steps import Clean

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
    repaired = repair_turns(conversation, keep_opening=True).conversation
    for role in Role:
        spoken = [text for text in conversation.turns(role) if text.strip()]
        assert "\n\n".join(repaired.turns(role)) == "\n\n".join(spoken)
    assert (repaired.id, repaired.problem) == (conversation.id, conversation.problem)


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
    kept = list(
        clean(
            corpus, None, report, lambda found: rejected.append((found.conversation.id, found.reason.value))
        )
    )
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
    repaired, repairs = repair_turns(conversation)
    assert repairs == (Repair.EMPTY, Repair.MERGED)
    assert repaired.meta["turns"] == {
        "0": {"move": "generic", "merged": [{"move": "probing"}, {"move": "telling"}]},
        "1": {"n": 1},
    }
    assert repaired.messages[0].content == "hi\n\na\n\nb"


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
    assert Clean(corpus=other).run(tmp_path / "out" / "f.jsonl").rejected_file == str(
        tmp_path / "out" / "f.rejected.jsonl"
    )
    assert Clean(corpus=other).run(tmp_path / "out" / "f.jsonl").rejected_file == str(
        tmp_path / "out" / "f.rejected.jsonl"
    )
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(before) == 4
    with pytest.raises(StoreError):
        Clean(corpus=source).run(tmp_path / "out" / "f.jsonl")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_nothing_left_is_an_error_that_counts(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    write_corpus(source, [talk("x", id="3")])
    with pytest.raises(EmptyCorpus, match="1 no assistant turn"):
        Clean(corpus=source).run(tmp_path / "d.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_the_platolm_preset_counts_after_each_step(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    more = ("And then?", "Then it rains.")
    corpus = [
        talk("<p>Why does it <b>rain</b> so much?</p>", "<p>Clouds.</p>", *more, id="html", ended=True),
        talk("Why does it **rain** so much?", "Clouds.", *more, id="same as html", ended=True),
        talk("What does ChatGPT say about the rain?", "Nothing.", *more, id="mention"),
        talk(
            "Warum regnet es hier so viel?",
            "Das liegt an den Wolken.",
            "Und dann?",
            "Dann regnet es.",
            id="de",
        ),
        talk("Translate: Warum regnet es hier?", "Why does it rain?", "Danke!", "Bitte!", id="translation"),
        talk("Why is the sky blue today?", "It scatters.", id="one round"),
        *(
            talk("Tell me about the weather.", "rain " * 900, "More!", "snow " * 900, *more, id=f"{n}")
            for n in "xy"
        ),
    ]
    write_corpus(source, corpus)
    code, out, _ = run("clean", source, "--preset", "platolm", "--out", tmp_path / "d.jsonl", "--json")
    found = orjson.loads(out)
    counts = {step["step"]: (step["conversations"], step["segments"]) for step in found["steps"]}
    assert code == 0 and list(counts.items()) == [
        ("html", (8, 8)),
        ("roles", (8, 8)),
        ("mentions", (7, 7)),
        ("language", (6, 6)),
        ("length", (6, 8)),
        ("turns", (5, 5)),
        ("duplicates", (3, 3)),
    ]
    assert (found["read"], found["cut"], found["parts"], found["kept"]) == (8, 2, 4, 3)
    kept = list(read_corpus(tmp_path / "d.jsonl"))
    assert [c.id for c in kept] == ["html", "translation", "x#2"] and [c.ended for c in kept] == [
        True,
        False,
        False,
    ]
    reasons = [orjson.loads(row) for row in (tmp_path / "rejected.jsonl").read_bytes().splitlines()]
    assert {(row["id"], row["reason"], row.get("detail")) for row in reasons} == {
        ("same as html", "exact duplicate", None),
        ("mention", "names a service", "chatgpt"),
        ("de", "another language", "de"),
        ("one round", "too few turns", None),
        ("x#1", "too few turns", None),
        ("y#1", "too few turns", None),
        ("y#2", "exact duplicate", None),
    }
    code, out, _ = run("clean", source, "--preset", "platolm", "--out", tmp_path / "d.jsonl")
    lines = [line.split() for line in out.splitlines()]
    assert ["language", "1", "6", "6"] in lines and ["read", "–", "8", "8"] in lines
    again = run("clean", tmp_path / "d.jsonl", "--preset", "platolm", "--out", tmp_path / "e.jsonl", "--json")
    assert orjson.loads(again[1])["kept"] == 3
    assert (tmp_path / "e.jsonl").read_bytes() == (tmp_path / "d.jsonl").read_bytes()


def test_filters_are_chosen_by_name_or_by_their_options(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    write_corpus(
        source, [talk("Mail jo@mit.edu", "I will.", id="1"), talk("Hallo, wie geht es dir?", "Gut.", id="2")]
    )

    def steps(*options: str) -> list[str]:
        code, out, _ = run("clean", source, "--out", tmp_path / "d.jsonl", "--force", "--json", *options)
        assert code == 0
        return [step["step"] for step in orjson.loads(out)["steps"]]

    assert steps() == ["roles", "turns", "duplicates"]
    assert steps("--filters", "near, personal") == ["personal", "roles", "turns", "duplicates", "near"]
    assert "[EMAIL]" in (tmp_path / "d.jsonl").read_text()
    assert steps("--languages", "en,de", "--max-tokens", "99") == [
        "roles",
        "language",
        "length",
        "turns",
        "duplicates",
    ]
    assert steps("--keep-duplicates", "--preset", "platolm", "--min-turns", "2") == [
        "html",
        "roles",
        "mentions",
        "language",
        "length",
        "turns",
    ]
    assert len(steps("--filters", "all")) == 12
    for wrong in (
        ("--filters", "html,nope"),
        ("--preset", "nope"),
        ("--languages", "zz"),
        ("--tokenizer", "./no"),
    ):
        code, _, err = run("clean", source, "--out", tmp_path / "f.jsonl", *wrong)
        assert code == (1 if "--tokenizer" in wrong else 2) and "\n  " in err, err
    assert not (tmp_path / "f.jsonl").exists()


def test_another_corpus_rejected_rows_are_never_replaced(tmp_path: Path) -> None:
    def cleaned(name: str, text: str) -> list[str]:
        source = tmp_path / f"in-{text}.jsonl"
        write_corpus(source, [talk("hi", "hello"), talk(text)])
        Clean(corpus=source, force=True).run(tmp_path / name)
        return sorted(
            f"{path.name}: {orjson.loads(path.read_bytes())['messages'][0]['content']}"
            for path in tmp_path.glob("*rejected.jsonl")
        )

    assert cleaned("v1.0.jsonl", "one") == ["rejected.jsonl: one"]
    expected = ["rejected.jsonl: one", "v1.1.rejected.jsonl: two"]
    assert cleaned("v1.1.jsonl", "two") == expected
    assert cleaned("v1.2.jsonl", "three") == [*expected, "v1.2.rejected.jsonl: three"]
    (tmp_path / "v1.1.jsonl").unlink()
    cleaned("v1.1.jsonl", "four")
    assert cleaned("v1.0.jsonl", "five") == [
        "rejected.jsonl: five", "v1.1.rejected.jsonl: four", "v1.2.rejected.jsonl: three"
    ]  # fmt: skip


def test_masked_conversations_lie_masked_among_the_rejected(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    write_corpus(
        source, [talk("x", "y"), talk("I am jo@mit.edu", "Hi."), talk("I am al@mit.edu", "Hi.", id="dup")]
    )
    report = Clean(corpus=source, filters=(Filter.PERSONAL,)).run(tmp_path / "d.jsonl")
    assert report.masked == {"EMAIL": 2} and report.repaired[Repair.MASKED] == 1
    row = orjson.loads((tmp_path / "rejected.jsonl").read_bytes())
    assert (row["id"], row["reason"], row["messages"][0]["content"]) == (
        "dup",
        "exact duplicate",
        "I am [EMAIL]",
    )


def test_real_conversations_pass_every_filter_but_where_it_is_right(real_data: Path, tmp_path: Path) -> None:
    write_corpus(
        tmp_path / "c.jsonl",
        import_files([*(real_data / "real-chats").glob("*.jsonl"), real_data / "mathdial"])[0],
    )
    options = CleanOptions(filters=tuple(Filter))
    rejected: list[Rejected] = []
    report = CleanReport()
    kept = list(clean(list(read_corpus(tmp_path / "c.jsonl")), options, report, rejected.append))
    assert report.read == 188 + 279 and report.read - report.cut + report.parts == len(kept) + len(rejected)
    assert [found.detail for found in rejected if found.reason == Reason.LANGUAGE] == ["de"]
    assert not report.masked and not {Reason.FLOOD, Reason.NEAR, Reason.DUPLICATE} & set(report.rejected)
    assert {found.detail for found in rejected if found.reason == Reason.MENTION} <= {
        "openai",
        "chatgpt",
        "gpt-3",
    }
    assert len(kept) > 420
    assert list(clean(kept, options)) == kept


def test_real_corpora_clean(real_data: Path, tmp_path: Path) -> None:
    names = ("debugging", "mathdial", "tutorchat")
    sources = [
        *(real_data / "real-chats").glob("*.jsonl"),
        *(real_data / "socratic-llm" / f"{name}_train.json" for name in names),
    ]
    write_corpus(tmp_path / "c.jsonl", import_files(sources)[0])
    report = Clean(corpus=tmp_path / "c.jsonl").run(tmp_path / "d.jsonl")
    assert report.read == 188 + 663 + 498 + 594
    assert +Counter(report.rejected) == {Reason.DUPLICATE: 131}
    for conversation in read_corpus(tmp_path / "d.jsonl"):
        roles = [turn.role for turn in conversation.messages]
        assert all(one != other for one, other in pairwise(roles))
        assert "prompt" not in conversation.meta or roles[-1] == Role.USER
