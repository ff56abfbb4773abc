"""Benchmark questions in a corpus: found whole, in part and nearly, and not where only the topic is the same."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from conversations import conversations, run, talk, write_lines
from hypothesis import given
from hypothesis import strategies as st

from maieutic.core.errors import EmptyCorpus, MissingInput, StoreError
from maieutic.core.messages import Conversation
from maieutic.data.corpus import read_corpus, write_corpus
from maieutic.data.decontaminate import (
    Benchmark,
    ContaminationReport,
    Match,
    Question,
    decontaminate,
    questions,
)
from maieutic.data.importing import import_files
from maieutic.data.steps import Decontaminate

LONG = (
    "Describe a vivid and unique character, using strong imagery and creative language, in no more than two paragraphs "
    "and without ever naming the town that the character comes from."
)
MIDDLE = "What is the central dogma of molecular biology, exactly?"
SHORT = "Who was Ada Lovelace?"


@pytest.mark.parametrize(
    ("asked", "said", "how"),
    [
        (LONG, LONG, Match.RUN),
        (LONG, "Hi! " + LONG.upper().replace(",", "") + " Thanks!", Match.RUN),
        (LONG, "Please: " + " ".join(LONG.split()[3:18]), Match.RUN),
        (
            LONG,
            " ".join("oh" if place % 12 == 11 else word for place, word in enumerate(LONG.split())),
            Match.NEAR,
        ),
        (LONG, " ".join(LONG.split()[:12]), None),
        (LONG, "Describe a character with strong imagery in two paragraphs.", None),
        (MIDDLE, "Tell me: what is the central dogma of molecular biology exactly", Match.RUN),
        (MIDDLE, "What is the central dogma of physics, exactly?", None),
        (SHORT, "who was ada lovelace", Match.RUN),
        (SHORT, "Who was Ada Lovelace? And who was Babbage?", None),
    ],
)
def test_found(asked: str, said: str, how: Match | None) -> None:
    for conversation in (
        talk(said, "Well.", id="c"),
        talk("Hm.", said, id="c"),
        talk("?", "!", problem=said, id="c"),
    ):
        hits = Benchmark([Question("q", asked)]).find(conversation)
        assert [hit.how for hit in hits] == ([how] if how else [])
        for hit in hits:
            assert (hit.conversation, hit.question) == ("c", "q") and hit.words in said.casefold()
            assert hit.share == 1 or hit.how == Match.NEAR or said.startswith("Please")


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=30).map(" ".join)


@given(WORDS, WORDS)
def test_runs_are_found_exactly_where_they_stand(asked: str, said: str) -> None:
    size = min(13, len(asked.split()))
    pieces = [f" {' '.join(asked.split()[at : at + size])} " for at in range(len(asked.split()) - size + 1)]
    expected = any(piece in f" {said} " for piece in pieces) if size >= 8 else asked == said
    hits = Benchmark([Question("q", asked)]).find(talk(said))
    assert (Match.RUN in [hit.how for hit in hits]) == expected


@given(st.lists(conversations(WORDS), max_size=5), st.lists(WORDS, max_size=3))
def test_what_is_left_holds_no_question(corpus: list[Conversation], asked: list[str]) -> None:
    named = [Question(str(place), text) for place, text in enumerate(asked)]
    report, again = ContaminationReport(), ContaminationReport()
    left = list(decontaminate(corpus, named, report))
    assert report.read == len(corpus) == len(left) + report.flagged
    assert list(decontaminate(left, named, again)) == left and not again.hits


def test_questions_of_every_form(tmp_path: Path) -> None:
    fastchat = write_lines(
        tmp_path / "question.jsonl", {"question_id": 81, "turns": ["one", "two"]}, {"x": 1}, b"{"
    )
    alpaca = tmp_path / "eval.json"
    alpaca.write_bytes(orjson.dumps([{"instruction": "three", "output": "no"}, {"prompt": "four"}, "five"]))
    chats = write_lines(tmp_path / "chats.jsonl", talk("six", "no").row())
    lines = tmp_path / "q.txt"
    lines.write_text("seven\n\neight\n", encoding="utf-8")
    report = ContaminationReport()
    assert [(q.name.removeprefix(str(fastchat)), q.text) for q in questions(fastchat, report.bad)] == [
        (":81:1", "one"),
        (":81:2", "two"),
    ]
    assert report.bad.count == 2
    assert [question.text for question in questions(alpaca)] == ["three", "four", "five"]
    assert [question.text for question in questions(chats)] == ["six"]
    answers = {"question_id": 81, "choices": [{"index": 0, "turns": ["nine", "ten"]}]}
    assert [q.text for q in questions(write_lines(tmp_path / "gpt.jsonl", answers))] == ["nine", "ten"]
    assert [(q.name.removeprefix(str(lines)), q.text) for q in questions(lines)] == [
        (":1", "seven"),
        (":3", "eight"),
    ]
    with pytest.raises(MissingInput):
        questions(tmp_path / "none.jsonl")
    with pytest.raises(EmptyCorpus, match="1 broken row"):
        questions(write_lines(tmp_path / "empty.jsonl", {"x": 1}))


def test_the_command_flags_and_writes_the_rest(tmp_path: Path) -> None:
    asked = write_lines(tmp_path / "question.jsonl", {"question_id": 7, "turns": [LONG, SHORT]})
    corpus, out = tmp_path / "c.jsonl", tmp_path / "out.jsonl"
    write_corpus(
        corpus, [talk("x", "y", id="clean"), talk(LONG, "z", id="dirty"), talk(SHORT, "[b]", id="too")]
    )
    code, shown, _ = run("decontaminate", corpus, "--against", asked)
    assert code == 0 and "dirty" in shown and "2 of 2 questions found, in 2 of 3 conversations" in shown
    code, shown, _ = run("decontaminate", corpus, "--against", asked, "--out", out, "--fail", "--json")
    found = orjson.loads(shown)
    assert code == 1 and found["flagged"] == found["questions_found"] == 2 and found["read"] == 3
    assert [(hit["conversation"], hit["question"], hit["how"]) for hit in found["hits"]] == [
        ("dirty", f"{asked}:7:1", "run"),
        ("too", f"{asked}:7:2", "run"),
    ]
    assert [conversation.id for conversation in read_corpus(out)] == ["clean"]
    code, shown, _ = run("decontaminate", out, "--against", asked, "--fail")
    assert code == 0 and "0 of 2 questions found" in shown
    with pytest.raises(StoreError):
        Decontaminate(corpus=corpus, against=[asked], force=True).run(asked)
    all_bad = tmp_path / "bad.jsonl"
    write_corpus(all_bad, [talk(LONG, "z")])
    with pytest.raises(EmptyCorpus):
        Decontaminate(corpus=all_bad, against=[asked]).run(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_real_benchmarks_are_found_in_themselves_and_not_in_real_chats(
    real_data: Path, tmp_path: Path
) -> None:
    files = [real_data / "mt_bench" / "question.jsonl", real_data / "vicuna_bench" / "question.jsonl"]
    asked = [question for file in files for question in questions(file)]
    assert len(asked) == 240
    corpus = tmp_path / "c.jsonl"
    write_corpus(
        corpus, import_files([*(real_data / "real-chats").glob("*.jsonl"), real_data / "mathdial"])[0]
    )
    found = Decontaminate(corpus=corpus, against=files).run()
    assert (found.flagged, found.read) == (0, 467)
    inside = [talk("Hello.", "Hi!", f"Here it is: {question.text}", "Well.") for question in asked]
    report = ContaminationReport()
    left = list(decontaminate(inside, asked, report))
    assert report.flagged + len(left) == 240 and report.flagged > 225, "all but the very short follow-ups"
