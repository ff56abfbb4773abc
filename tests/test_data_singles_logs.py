"""Single rounds, logs, transcripts and TutorChat: every text to the byte, in order, broken rows by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from conversations import write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.core.messages import Conversation, Role
from maieutic.data.importing import FORMATS, guess, import_files

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SOME = st.lists(WORDS, min_size=1, max_size=7)


def read(value: Any, format: str | None = None) -> Conversation:
    """The one conversation in a value, in the format it looks like."""
    name = guess(value)
    assert name is not None and (format is None or name == format), name
    (conversation,) = FORMATS[name](orjson.loads(orjson.dumps(value)))
    assert Conversation.model_validate_json(orjson.dumps(conversation.row())) == conversation
    return conversation


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role.value[0], turn.content) for turn in conversation.messages]


def alternating(texts: list[str], first: str = "u") -> list[tuple[str, str]]:
    order = "ua" if first == "u" else "au"
    return [(order[n % 2], text) for n, text in enumerate(texts)]


@given(WORDS, WORDS, WORDS, st.sampled_from(["alpaca", "dolly"]))
@settings(max_examples=200)
def test_a_single_round_keeps_instruction_material_and_answer(
    asked: str, material: str, answer: str, format: str
) -> None:
    names = {"alpaca": ("input", "output"), "dolly": ("context", "response")}[format]
    row = {"instruction": asked, names[0]: material, names[1]: answer, "category": "open_qa"}
    conversation = read(row, format)
    expected = f"{asked}\n\n{material}" if material else asked
    assert said(conversation) == [("u", expected), ("a", answer)]
    assert conversation.meta == {"category": "open_qa"} and not conversation.ended
    del row[names[0]]
    assert said(read(row, format)) == [("u", asked), ("a", answer)]


def test_what_only_repeats_a_round_is_left_out() -> None:
    row = {"instruction": "Name two.", "input": "of many", "output": "One, two."}
    framed = "Below is a task.\n\nName two.\n\nof many\n\nOne, two."
    assert read({**row, "text": framed, "prompt": framed[:27]}).meta == {}
    assert read({**row, "text": "else", "prompt": "other"}).meta == {"text": "else", "given_prompt": "other"}
    assert read({"instruction": "", "output": "", "text": "kept"}).meta == {"text": "kept"}
    assert read({**row, "id": 3, "source": "s", "licence": "l"}).source == "s"


def test_wizardlm_in_both_its_forms() -> None:
    (one,) = FORMATS["wizardlm"]({"instruction": "Do.", "output": "Done."})
    turns = [{"from": "human", "value": "Do."}, {"from": "gpt", "value": "Done."}]
    two = read({"idx": "q7", "conversations": turns}, "wizardlm")
    assert said(one) == said(two) == [("u", "Do."), ("a", "Done.")] and two.id == "q7"


@pytest.mark.parametrize(
    ("format", "row", "reason"),
    [
        ("alpaca", {"instruction": "x"}, "no instruction with an output"),
        ("dolly", {"instruction": 3, "response": "x"}, "instruction: not a text"),
        ("dolly", {"instruction": "x", "response": ["y"]}, "response: not a text"),
        ("alpaca", [1], "a list, not an object"),
        ("ultrachat", {"data": ["a", 3]}, "turn 1: not a text"),
        ("ultrachat", {"data": "a"}, "no list of texts"),
        ("ultrachat", {"data": []}, "without turns"),
        ("baize", {"input": "no labels"}, "no transcript"),
        ("wildchat", {"conversation": "x"}, "no list of turns under `conversation`"),
        ("lmsys", {"conversation": [{"role": "judge", "content": "x"}]}, "unknown role"),
        ("tutorchat", {"mode": "openbook", "conversation": []}, "no TutorChat dialogue"),
        ("tutorchat", {"mode": "?", "conversation": ["a"]}, "neither openbook"),
        ("tutorchat", {"mode": "openbook", "conversation": ["only the chapter"]}, "without turns"),
        ("tutorchat", {"mode": "singleturn", "conversation": ["no labels"]}, "STUDENT: or TEACHER:"),
    ],
)
def test_broken_rows_are_named_and_the_rest_stays(tmp_path: Path, format: str, row: Any, reason: str) -> None:
    good = {
        "ultrachat": {"data": ["a", "b"]},
        "baize": {"input": "[|Human|] a\n[|AI|] b"},
        "tutorchat": {"mode": "closedbook", "conversation": ["a", "b"]},
    }.get(format, {"instruction": "a", "output": "b"})
    if format in ("wildchat", "lmsys"):
        good = {"conversation": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = write_lines(tmp_path / "c.jsonl", good, row, good)
    rows, report = import_files([path], format)
    assert [[turn.content for turn in c.messages] for c in rows] == [["a", "b"]] * 2
    assert report.bad.count == 1 and report.bad.rows[0]["where"] == f"{path}:2"
    assert reason in report.bad.rows[0]["reason"]


@given(SOME)
@settings(max_examples=200)
def test_ultrachat_alternates_from_the_person(texts: list[str]) -> None:
    conversation = read({"id": "12", "data": texts}, "ultrachat")
    assert said(conversation) == alternating(texts) and conversation.id == "12"


def test_ultrachat_200k_says_its_prompt_once() -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    conversation = read({"prompt": "Why?", "prompt_id": "ab", "messages": turns}, "ultrachat")
    assert (conversation.id, conversation.meta) == ("ab", {})
    other = read({"prompt": "Else?", "prompt_id": "ab", "messages": turns}, "ultrachat")
    assert other.meta == {"given_prompt": "Else?"}


PLAIN = WORDS.filter(lambda text: "[|" not in text)


@given(st.lists(PLAIN, min_size=2, max_size=6), PLAIN, st.booleans())
@settings(max_examples=300)
def test_baize_transcripts_to_the_byte(texts: list[str], topic: str, opening: bool) -> None:
    if len(texts) % 2 and not texts[-1].strip():
        texts[-1] = "not empty"
    labels = {"u": "[|Human|] ", "a": "[|AI|] "}
    lines = [f"{labels[role]}{text}\n" for role, text in alternating(texts)]
    frame = "The conversation between human and AI assistant.\n"
    text = frame + "".join(lines) + (labels["u"] if opening and len(texts) % 2 == 0 else "")
    conversation = read({"topic": topic, "input": text}, "baize")
    assert said(conversation) == alternating(texts) and conversation.meta == {"topic": topic}
    assert said(read({"chat_sample": text, "dataset_origin": "quora"}, "baize")) == alternating(texts)
    assert said(read(text, "baize")) == alternating(texts)


def test_baize_labels_inside_a_line_are_words() -> None:
    conversation = read("Another frame.\n[|Human|]Say [|AI|] twice.\n[|AI|] [|AI|]\n[|Human|]\n ", "baize")
    assert said(conversation) == [("u", "Say [|AI|] twice."), ("a", "[|AI|]")]
    assert conversation.meta == {"preamble": "Another frame."}


def log_turn(role: str, text: str, **more: Any) -> dict[str, Any]:
    person = {"hashed_ip": "f00", "country": "Chile", "state": None, "header": {"user-agent": "x"}}
    return {"role": role, "content": text, "toxic": False, "redacted": False, "language": "Spanish"} | (
        (person if role == "user" else dict.fromkeys(person)) | more
    )


def test_wildchat_rows_keep_language_user_and_flags() -> None:
    flags = [{"flagged": False, "categories": {"hate": False, "self_harm": None}}]
    row = {
        "conversation_hash": "abc",
        "model": "gpt-4-0314",
        "timestamp": "2023-04-09T00:02:53+00:00",
        "conversation": [
            log_turn("user", "Hola\n", turn_identifier=101002, timestamp=None),
            log_turn("assistant", "", turn_identifier=101002),
            log_turn("user", "¿y?", country="Peru", toxic=True),
        ],
        "turn": 2,
        "language": "Spanish",
        "openai_moderation": flags,
        "detoxify_moderation": [{"toxicity": 0.1}],
        "toxic": True,
        "redacted": False,
        "hashed_ip": "f00",
        "country": "Chile",
        "header": {"user-agent": "x"},
    }
    conversation = read(row, "wildchat")
    assert said(conversation) == [("u", "Hola\n"), ("a", ""), ("u", "¿y?")]
    assert (conversation.id, conversation.user_id) == ("abc", "f00")
    meta = conversation.meta
    assert (meta["model"], meta["language"], meta["toxic"], meta["redacted"]) == (
        "gpt-4-0314",
        "Spanish",
        True,
        False,
    )
    assert meta["timestamp"] == "2023-04-09T00:02:53+00:00" and meta["turn"] == 2
    assert meta["openai_moderation"] == [{"flagged": False, "categories": {"hate": False}}]
    assert meta["country"] == "Chile" and "hashed_ip" not in meta
    flags_of = {"toxic": False, "redacted": False, "language": "Spanish"}
    assert meta["turns"]["0"] == meta["turns"]["1"] == {**flags_of, "turn_identifier": 101002}
    assert meta["turns"]["2"] == {**flags_of, "toxic": True, "country": "Peru"}


def test_the_user_is_found_in_the_turns_and_never_lost() -> None:
    turns = [log_turn("assistant", "a"), log_turn("user", "b")]
    row = {"conversation_id": "1", "conversation": turns, "timestamp": 1690000000, "toxic": False}
    row["openai_moderation"] = []
    conversation = read(row, "wildchat")
    assert conversation.user_id == "f00" and conversation.meta["timestamp"] == "1690000000"
    known = read({**row, "user_id": "ann"}, "wildchat")
    assert known.user_id == "ann" and known.meta["hashed_ip"] == "f00"


@given(SOME)
@settings(max_examples=100)
def test_lmsys_rows(texts: list[str]) -> None:
    turns = [
        {"role": "user" if role == "u" else "assistant", "content": text} for role, text in alternating(texts)
    ]
    row = {"conversation_id": "9", "model": "m", "conversation": turns, "turn": len(texts), "redacted": True}
    row |= {"language": "English", "openai_moderation": [{"flagged": True}]}
    conversation = read(row, "lmsys")
    assert said(conversation) == alternating(texts) and conversation.id == "9"
    assert (
        conversation.meta["redacted"] is True and conversation.meta["openai_moderation"][0]["flagged"] is True
    )
    assert conversation.user_id is None


TUTOR = {"name": "teacherstart-1", "stop_reason": "stop", "textbook_folder": "books/bio", "num_turns": 4}


@given(SOME, WORDS)
@settings(max_examples=150)
def test_tutorchat_books_open_and_closed(texts: list[str], chapter: str) -> None:
    row = {**TUTOR, "processed_conversation": "<s>…</s>"}
    closed = read({**row, "mode": "closedbook", "conversation": texts}, "tutorchat")
    assert said(closed) == alternating(texts, "a") and closed.problem is None
    assert closed.meta == {**TUTOR, "mode": "closedbook", "opens": "assistant"}
    opened = read({**row, "mode": "openbook", "conversation": [chapter, *texts]}, "tutorchat")
    assert said(opened) == alternating(texts)
    assert opened.problem is not None and opened.problem.statement == chapter and "opens" not in opened.meta


def test_tutorchat_transcripts_are_split_at_their_labels() -> None:
    text = (
        "Sure!\n### STUDENT: What is it?\nSTUDENT life.\n\n**TEACHER:** A cell:\n\nsmall.\nSTUDENT: Ok.\n### "
    )
    row = {"name": "studentstart", "mode": "singleturn", "conversation": ["The chapter.\n", text]}
    conversation = read(row, "tutorchat")
    assert said(conversation) == [
        ("u", "What is it?\nSTUDENT life."),
        ("a", "A cell:\n\nsmall."),
        ("u", "Ok."),
    ]
    assert conversation.problem is not None and conversation.problem.statement == "The chapter.\n"
    assert conversation.meta["preamble"] == "Sure!"
    exam = "QUESTION 1: Who?\nANSWER: TEACHER: no one.\nTEACHER: me."
    (quiz,) = FORMATS["tutorchat"]({"name": "generateexam", "mode": "singleturn", "conversation": [exam]})
    assert said(quiz) == [("u", "Who?"), ("a", "TEACHER: no one.\nTEACHER: me.")]


def test_licence_and_source_travel_in_each_row(tmp_path: Path) -> None:
    row = {"instruction": "a", "output": "b"}
    path = write_lines(
        tmp_path / "d.jsonl", {**row, "license": "CC BY 4.0", "source": "them"}, row, {**row, "license": 3}
    )
    rows, report = import_files([path], licence="MIT")
    found = list(rows)
    assert [(c.source, c.licence) for c in found] == [
        ("them", "CC BY 4.0"),
        ("d.jsonl", "MIT"),
        ("d.jsonl", "MIT"),
    ]
    assert found[0].meta == {} and found[2].meta == {"license": 3}
    assert report.json()["licences"] == {"CC BY 4.0": 1, "MIT": 2} and report.json()["unlicensed"] == 0


def test_a_prompt_beside_its_turns_does_not_await_a_reply() -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert read({"prompt": "Why?", "messages": turns}, "messages").meta == {}
    assert "prompt" not in read({"prompt": "x", "conversations": turns}).meta


def test_every_format_is_guessed_by_its_keys() -> None:
    turn = {"role": "user", "content": "x"}
    shapes = {
        "wildchat": {"conversation": [turn], "conversation_hash": "x"},
        "lmsys": {"conversation": [turn], "conversation_id": "x", "openai_moderation": []},
        "messages": {"conversation": [turn], "conversation_id": "x"},
        "tutorchat": {"conversation": ["x"], "mode": "closedbook"},
        "dolly": {"instruction": "x", "context": "", "response": "y"},
        "alpaca": {"instruction": "x", "output": "y", "prompt": "x and y"},
        "ultrachat": {"data": ["x"]},
        "baize": {"topic": "t", "input": "[|Human|] x\n[|AI|] y"},
        "wizardlm": {"idx": "1", "conversations": [{"from": "human", "value": "x"}]},
    }
    assert {name: guess(row) for name, row in shapes.items()} == {name: name for name in shapes}
    for unknown in (
        {"data": [1]},
        {"instruction": "x"},
        {"conversation": ["x"]},
        {"input": "x"},
        {},
        3,
        None,
    ):
        assert guess(unknown) is None, unknown
    assert {Role.USER, Role.ASSISTANT} == {turn.role for turn in read(shapes["baize"]).messages}


DOCS = (Path(__file__).parent.parent / "docs" / "formats.md").read_text()


@pytest.mark.parametrize("format", FORMATS)
def test_the_documented_example_of_each_format_is_read(format: str, tmp_path: Path) -> None:
    section = DOCS.partition(f"\n### {format}\n")[2].partition("\n### ")[0]
    value = orjson.loads(section.partition("```json\n")[2].partition("```")[0])
    assert guess(value) == format and read(value).messages
    rows, report = import_files([write_lines(tmp_path / "c.jsonl", value)])
    assert len(list(rows)) == 1 and not report.bad.count
