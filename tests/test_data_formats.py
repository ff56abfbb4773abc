"""Importers: every known shape, with nothing that was said lost, on rows of ours and on the real files."""

from __future__ import annotations

import ast
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from conversations import JSON, SAFE, TEXT, conversations, run, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.core.errors import EmptyCorpus, InputError, MissingInput
from maieutic.core.messages import Conversation, Message, Problem, Role
from maieutic.data.convert import sharegpt_row
from maieutic.data.corpus import program
from maieutic.data.formats.chats import from_turns
from maieutic.data.formats.tutoring import fragments, last_number, parse_seed, seed_conversation
from maieutic.data.importing import FORMATS, guess, import_files
from maieutic.data.steps import Convert


def one(path: Path, value: Any, format: str = "auto", **options: Any) -> Conversation:
    path.write_bytes(orjson.dumps([value]))
    rows, report = import_files([path], format, **options)
    (conversation,) = rows
    assert not report.bad.count
    return conversation


def test_messages_in_their_many_spellings(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    turns = [
        {"role": "Human", "content": "Look", "metadata": {"lang": "en"}},
        {
            "role": "bot",
            "content": [{"type": "text", "text": "At"}, {"type": "image_url", "image_url": "…"}, "what?"],
        },
        {"role": "user", "content": ["/tmp/picture.PNG"]},
        {"role": "assistant", "content": None},
    ]
    row = {
        "conversation_id": 7,
        "task_description": "Show it.",
        "turns": turns,
        "why_stop": "done",
        "rating": 3,
    }
    conversation = one(path, row, licence="MIT")
    assert [(turn.role.value, turn.content) for turn in conversation.messages] == [
        ("user", "Look"),
        ("assistant", "At\nwhat?"),
        ("user", ""),
        ("assistant", ""),
    ]
    assert (conversation.id, conversation.intent, conversation.ended) == ("7", "Show it.", True)
    assert (conversation.source, conversation.licence) == ("chats.json", "MIT")
    assert conversation.meta["rating"] == 3 and conversation.meta["why_stop"] == "done"
    assert conversation.meta["turns"]["2"] == {"attachments": ["/tmp/picture.PNG"]}
    assert conversation.meta["turns"]["1"]["attachments"][0]["type"] == "image_url"


def test_fields_that_are_something_else_go_to_meta(tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "x"}],
        "id": 1.5,
        "intent": ["a"],
        "problem": {"question": "?"},
        "ended": "no",
        "meta": "text",
        "source": "theirs",
    }
    conversation = one(tmp_path / "c.json", row, source="ours", ended=True)
    assert conversation.source == "theirs" and conversation.ended
    assert conversation.meta == {
        "id": 1.5,
        "intent": ["a"],
        "problem": {"question": "?"},
        "ended": "no",
        "meta": "text",
    }


def test_sharegpt(tmp_path: Path) -> None:
    turns = [
        {"from": name, "value": name}
        for name in ("system", "human", "gpt", "user", "chatgpt", "bing", "bard")
    ]
    for key in ("conversations", "items", "conversation"):
        conversation = one(tmp_path / "c.json", {"id": "a", key: turns})
        assert [turn.role.value[0] for turn in conversation.messages] == ["s", "u", "a", "u", "a", "a", "a"]
    assert guess({"items": turns}) == guess({"conversations": turns}) == "sharegpt"


def node(text: str, role: str, *replies: Any, **more: Any) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "lang": "en", "replies": list(replies), **more}


def test_oasst_trees_give_every_path_and_nothing_deleted(tmp_path: Path) -> None:
    tree = node(
        "q",
        "prompter",
        node("a1", "assistant", node("q2", "prompter", node("a2", "assistant", deleted=True))),
        node("a3", "assistant"),
        node("a4", "assistant", node("q5", "prompter"), deleted=True),
    )
    path = write_lines(tmp_path / "t.jsonl", {"message_tree_id": "t", "prompt": tree})
    rows, _ = import_files([path])
    found = list(rows)
    assert [[turn.content for turn in c.messages] for c in found] == [["q", "a1", "q2"], ["q", "a3"]]
    assert [c.id for c in found] == ["q2", "a3"]
    assert all(c.meta == {"tree": "t", "lang": "en"} and not c.ended for c in found)


def test_a_very_deep_tree_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    tree = node("leaf", "assistant")
    for depth in range(60):
        tree = node(str(depth), "prompter" if depth % 2 == 0 else "assistant", tree)
    write_lines(path, {"message_tree_id": "t", "prompt": tree})
    (found,) = import_files([path])[0]
    assert len(found.messages) == 61


def test_mathdial(tmp_path: Path) -> None:
    row = {
        "qid": 3,
        "question": "How many?",
        "ground_truth": "It is 1,000 + 5 = 1,005.\n 1,005",
        "student_incorrect_solution": "1 + 5\n 6",
        "student_profile": "Ana is in class 7.",
        "teacher_described_confusion": "place value",
        "conversation": "Teacher: (generic)Hi: how?|EOM|Ana: I added (all).|EOM|Teacher: (sic) No |EOM|Ana:  ok",
    }
    conversation = one(tmp_path / "m.json", row)
    assert [(t.role.value, t.content) for t in conversation.messages] == [
        ("assistant", "Hi: how?"),
        ("user", "I added (all)."),
        ("assistant", "(sic) No "),
        ("user", " ok"),
    ]
    problem = conversation.problem
    assert problem and (problem.statement, problem.answer, problem.attempt) == (
        "How many?",
        "1,005",
        "1 + 5\n 6",
    )
    assert problem.misconception == "place value" and conversation.profile == "Ana is in class 7."
    assert conversation.ended and conversation.meta["turns"] == {"0": {"move": "generic"}}
    assert conversation.meta["opens"] == "assistant" and conversation.meta["qid"] == 3


@pytest.mark.parametrize(
    ("solution", "number"),
    [
        ("x = 3\n 3", "3"),
        ("3\n$1,200.50.", "1,200.50"),
        ("a\n-4", "-4"),
        ("is 3/4", "3/4"),
        ("", None),
        ("none", None),
    ],
)
def test_last_number(solution: str, number: str | None) -> None:
    assert last_number(solution) == number


def test_bridge_keeps_neighbours_of_one_role(tmp_path: Path) -> None:
    said = [("tutor", "Hi"), ("student", "5"), ("student", "no, 6")]
    row = {
        "c_id": "1_2",
        "c_h": [{"id": n, "user": user, "text": text} for n, (user, text) in enumerate(said)],
        "c_r": [{"user": "tutor", "text": "Why?"}],
        "c_revision": [{"user": "tutor", "text": "Draw it."}],
        "e": "guess",
    }
    conversation = one(tmp_path / "b.json", row)
    assert [t.role.value[0] for t in conversation.messages] == ["a", "u", "u", "a"]
    assert conversation.id == "1_2" and not conversation.ended and conversation.problem is None
    assert conversation.meta["c_revision"][0]["text"] == "Draw it." and conversation.meta["turns"]["1"] == {
        "id": 1
    }


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
@settings(max_examples=300)
def test_printed_lists_are_read_as_python_would(pieces: list[str]) -> None:
    pieces = [piece.encode("utf-8", "replace").decode() for piece in pieces]
    printed = repr(pieces)
    assert fragments(printed[1:-1]) == fragments(printed[1:]) == pieces


def test_apostrophes_nobody_escaped_stay_in_the_words() -> None:
    assert fragments("'It's Ann's', \"a \"b\" c\", 'it'") == ["It's Ann's", 'a "b" c', "it"]
    assert fragments("'never closed") == ["never closed"] and fragments("") == []
    assert fragments(r"'a\x41\u00e9\U0001F600\q\\n'") == ["aAé😀\\q\\n"]


SAID = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip)


@given(st.lists(SAID, min_size=2, max_size=6), SAID)
def test_tutorchat_strings(texts: list[str], lesson: str) -> None:
    texts = texts[: len(texts) // 2 * 2]
    roles = ["assistant", "user"] * (len(texts) // 2)
    turns = [f"\n{role}: {text}" for role, text in zip(roles, texts, strict=True)]
    seed = parse_seed(" " + repr(turns)[1:-1])
    assert [turn["content"] for turn in seed.turns] == texts and seed.problem is None
    seed = parse_seed(repr([f"Lesson: {lesson}", *turns[1:]])[:-1])
    assert [turn["content"] for turn in seed.turns] == texts[1:]
    assert seed.problem and seed.problem.statement == f"Lesson: {lesson}".strip()


MATHDIAL = (
    """Student: "Professor, I have a problem, here is the text: Ann's 3 bags hold 4. """
    """Here is my solution 3 + 4 = 7.\\n 7"""
    """Teacher: (generic)Hi Cody, why?\\n", 'Cody: "Bags" add: 3 + 4', 'Teacher: (telling)No', "Student: I'm lost"'"""
)[:-1]


def test_mathdial_strings() -> None:
    conversation = seed_conversation(MATHDIAL)
    assert [(t.role.value, t.content) for t in conversation.messages] == [
        ("assistant", "Hi Cody, why?\n"),
        ("user", '"Bags" add: 3 + 4'),
        ("assistant", "No"),
        ("user", "I'm lost"),
    ]
    problem = conversation.problem
    assert problem and problem.statement == "Ann's 3 bags hold 4." and problem.attempt == "3 + 4 = 7.\n 7"
    assert conversation.meta["turns"] == {"0": {"move": "generic"}, "2": {"move": "telling"}}
    assert conversation.meta["prompt"] == MATHDIAL and conversation.meta["opens"] == "assistant"
    assert not conversation.ended and program(problem) is None


DEBUGGING = """<problem>
Add them.
</problem>
<bug_code>
1. def add(a, b):
2.     return a - b
</bug_code>
<bug_desc>
Minus.
</bug_desc>
<bug_fixes>
Write a plus on line 2.
</bug_fixes>User: Help! It says the User: field is wrong
Assistant: Which test?\tUser: The first.<code>1. def add(a, b):2.     return a</code>\t  Assistant: And?   User: Hm.
Assistant: """


def test_debugging_strings(tmp_path: Path) -> None:
    conversation = seed_conversation(DEBUGGING)
    assert [(t.role.value, t.content) for t in conversation.messages] == [
        ("user", "Help! It says the User: field is wrong"),
        ("assistant", "Which test?"),
        ("user", "The first.<code>1. def add(a, b):2.     return a</code>"),
        ("assistant", "And?"),
        ("user", "Hm."),
    ]
    problem = conversation.problem
    assert problem and problem.statement == "Add them." and problem.misconception == "Minus."
    assert problem.solution == "Write a plus on line 2." and program(problem) == problem.attempt
    text = (
        DEBUGGING.replace("</bug_fixes>User", "</bug_fixes>\n<dialogue>\nUser")
        + "\n\t<alt>Assistant: Or?\n</dialogue>"
    )
    (tmp_path / "one.txt").write_text(text)
    rows, report = import_files([tmp_path])
    (conversation,) = rows
    assert conversation.messages[-1].content == "Hm." and conversation.messages[-1].role == Role.USER
    assert conversation.meta["alternatives"] == [{"role": "assistant", "content": "Or?"}]
    assert next(iter(report.formats.values())) == {"socratic-debugging": 1}


def test_result_rows_keep_reply_and_scores(tmp_path: Path) -> None:
    conversation = one(tmp_path / "r.json", {"prompt": MATHDIAL, "output": "Why?", "score": 0.75})
    assert conversation.meta["output"] == "Why?" and conversation.meta["score"] == 0.75
    assert conversation.messages[-1].role == Role.USER


@given(conversations())
@settings(max_examples=200)
def test_sharegpt_there_and_back(conversation: Conversation) -> None:
    assert list(from_turns(orjson.loads(orjson.dumps(sharegpt_row(conversation))))) == [conversation]


@given(st.lists(conversations(SAFE), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_every_export_is_imported_unchanged(corpus: list[Conversation]) -> None:
    pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lines(folder / "c.jsonl", *(conversation.row() for conversation in corpus))
        for to, file in (
            ("sharegpt", "s.json"),
            ("sharegpt", "s.jsonl.gz"),
            ("parquet", "p.parquet"),
            ("messages", "m.jsonl"),
        ):
            step = Convert.model_validate({"corpus": folder / "c.jsonl", "to": to})
            assert step.run(folder / file).conversations == len(corpus)
            rows, report = import_files([folder / file], source="x")
            expected = [c if c.source is not None else c.model_copy(update={"source": "x"}) for c in corpus]
            assert list(rows) == expected, file
            assert not report.bad.count


@given(
    st.sampled_from(list(FORMATS)),
    JSON
    | st.dictionaries(
        st.sampled_from(["messages", "prompt", "c_h", "conversation", "question", "meta", "id"]),
        JSON
        | st.lists(
            st.dictionaries(
                st.sampled_from(["role", "content", "from", "value", "text", "user"]),
                st.sampled_from(["user", "gpt", None, 3]),
            ),
            max_size=3,
        ),
    ),
)
@settings(max_examples=400)
def test_no_value_breaks_an_importer(name: str, value: Any) -> None:
    guess(value)
    try:
        for conversation in FORMATS[name](value):
            assert conversation.messages and orjson.dumps(conversation.row())
    except ValueError as error:
        assert str(error)


@given(TEXT)
@settings(max_examples=300)
def test_no_string_breaks_the_seed_parser(text: str) -> None:
    for start in (
        "",
        "Student: '",
        "<problem>x</problem>",
        "<problem>x</problem>User: ",
        " '\\nuser: ",
        "['",
    ):
        try:
            seed_conversation(start + text)
        except ValueError as error:
            assert "seed shapes" in str(error) or "without turns" in str(error)


def test_unknown_shapes_say_their_keys(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", {"question_id": 1, "turns": ["What?"]}, 3, {"messages": "x"})
    write_lines(
        tmp_path / "r.jsonl",
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
        {"instruction": "Say", "input": "", "output": None},
    )
    rows, report = import_files([path, tmp_path / "r.jsonl"])
    with pytest.raises(EmptyCorpus, match="no conversation"):
        list(rows)
    *reasons, preference, single = [row["reason"] for row in report.bad.rows]
    assert "seed shapes" in preference and "(keys: chosen, prompt, rejected)" in preference
    assert single == "no instruction with an output or a response (keys: input, instruction, output)"
    assert reasons == [
        "unknown format (keys: question_id, turns)",
        "unknown format (no object)",
        "unknown format (keys: messages)",
    ]
    with pytest.raises(InputError, match="no format 'x'"):
        import_files([path], "x")
    with pytest.raises(MissingInput):
        import_files([tmp_path / "none"])
    (tmp_path / "only").mkdir()
    with pytest.raises(MissingInput, match="no file to read"):
        import_files([tmp_path / "only"])


def test_import_command_reads_folders_and_says_what_it_guessed(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    turns = [{"from": "human", "value": "[bold]Hi\x1b[0m"}, {"from": "gpt", "value": "Ho"}]
    write_lines(
        folder / "a.jsonl", {"conversations": turns}, {"messages": [{"role": "user", "content": "x"}]}, b"{"
    )
    (folder / "notes.md").write_text("not data")
    (folder / ".hidden.jsonl").write_text("{")
    code, out, err = run(
        "import", tmp_path / "in", "--out", tmp_path / "c.jsonl", "--licence", "CC0", "--ended"
    )
    assert code == 0 and "1 as sharegpt, 1 as messages" in out and "2 conversations" in out
    assert "a.jsonl:3: broken JSON" in err
    rows = [orjson.loads(row) for row in (tmp_path / "c.jsonl").read_bytes().splitlines()]
    assert [(row["source"], row["licence"], row["ended"]) for row in rows] == [("a.jsonl", "CC0", True)] * 2
    code, out, _ = run("import", tmp_path / "in", "--out", tmp_path / "c.jsonl", "--json", "--force")
    report = orjson.loads(out)
    assert code == 0 and report["conversations"] == 2 and report["bad"]["count"] == 1


REAL = {
    "real-chats/document.jsonl": ("messages", 22),
    "real-chats/math-tutoring.jsonl": ("messages", 26),
    "real-chats/oasst1.jsonl": ("messages", 140),
    "mathdial/dialogues.jsonl": ("mathdial", 279),
    "bridge/test.json": ("bridge", 210),
    "sharegpt/dummy_conversation.json": ("sharegpt", 500),
    "oasst-tree/en_100_tree.jsonl": ("oasst", 626),
    "socratic-llm/mathdial_train.json": ("socratic-llm", 498),
    "socratic-llm/tutorchat_train.json": ("socratic-llm", 594),
    "socratic-llm/debugging_train.json": ("socratic-llm", 663),
    "socratic-llm/mathdial_human_eval_dev.json": ("socratic-llm", 50),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_import_whole(real_data: Path, name: str) -> None:
    format, count = REAL[name]
    rows, report = import_files([real_data / name])
    found = list(rows)
    assert len(found) == count and not report.bad.count
    assert list(report.formats[str(real_data / name)]) == [format]
    assert all(conversation.turns(Role.USER) for conversation in found)
    assert {c.ended for c in found} == {"why_stop" in c.meta or format == "mathdial" for c in found}
    again = [Conversation.model_validate_json(orjson.dumps(c.row())) for c in found]
    assert again == found
    if format == "oasst":
        assert len({c.meta["tree"] for c in found}) == 100 and len({c.id for c in found}) == count
    if format == "mathdial":
        assert all(c.problem and c.problem.answer and c.profile for c in found)
        assert Counter(c.messages[0].role for c in found) == {Role.ASSISTANT: 279}


@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("socratic-llm")])
def test_real_seeds_lose_no_word_and_await_the_tutor(real_data: Path, name: str) -> None:
    for conversation in import_files([real_data / name])[0]:
        prompt, kind = conversation.meta["prompt"], conversation.meta["kind"]
        assert conversation.messages[-1].role == Role.USER and conversation.messages[-1].content.strip()
        problem = conversation.problem
        assert (problem is not None) or kind == "tutorchat"
        kept = "".join(turn.content for turn in conversation.messages)
        if problem:
            parts = (problem.statement, problem.attempt, problem.misconception, problem.solution)
            kept = "".join(part or "" for part in parts) + kept
        assert _bare(kept) == _bare(_said(prompt, kind))


def _said(prompt: str, kind: str) -> str:
    """The prompt without its labels: what `ast` reads of a printed list, or the text between the tags."""
    if kind == "debugging":
        text = re.sub(r"</?(?:problem|bug_code|bug_desc|bug_fixes)>", "\n", prompt)
        order = re.search(r"(?s)^(.*?<bug_desc>)", prompt)
        assert order
        return re.sub(r"(?:^|(?<=\s))(?:User|Assistant): ", "", text)
    body = prompt.strip().removeprefix("Student: ").removeprefix("[")
    pieces = ast.literal_eval(f"[{body}]")
    if kind == "tutorchat":
        return "".join(re.sub(r"^\s*(?:assistant|user): ", "", piece) for piece in pieces)
    head = pieces[0].removeprefix("Professor, I have a problem, here is the text: ")
    head = re.sub(r"Teacher: (?:\(\w+\))?", "", head.replace(" Here is my solution ", ""), count=1)
    return head + "".join(
        re.sub(r"^\w+: ?(?:\((?:generic|focus|probing|telling)\))?", "", p) for p in pieces[1:]
    )


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_a_teachers_table_becomes_starts_of_lessons(tmp_path: Path) -> None:
    table = tmp_path / "forty.csv"
    table.write_text(
        'problem;answer;attempt;topic\n"Ana has 3; she gets 4.";7;1;sums\nHalf of 9?;4.5;;\n;3;;\n'
    )
    rows, report = import_files([table])
    first, second = rows
    assert report.bad.count == 1
    assert first.problem == Problem(statement="Ana has 3; she gets 4.", answer="7", attempt="1")
    assert first.messages == (Message(role=Role.SYSTEM, content="Ana has 3; she gets 4."),)
    assert first.meta == {"topic": "sums"}
    assert second.problem == Problem(statement="Half of 9?", answer="4.5")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("first", ["", "sep=;\r\n"])
def test_a_table_as_a_spreadsheet_writes_it(tmp_path: Path, encoding: str, first: str) -> None:
    """Capital heads, a column without a name, rows of nothing, decimal commas."""
    table = tmp_path / "Aufgaben.csv"
    rows = 'Nr;Problem;ANSWER;Attempt;\r\n1;"Wie groß ist die ""Hälfte""; von 9?";4,5;9;\r\n;;;;\r\n\r\n2;Über 3?;4;;\r\n'
    table.write_bytes(f"{first}{rows}".encode(encoding))
    stream, report = import_files([table])
    found = list(stream)
    assert not report.bad.count
    assert [one.problem for one in found] == [
        Problem(statement='Wie groß ist die "Hälfte"; von 9?', answer="4,5", attempt="9"),
        Problem(statement="Über 3?", answer="4"),
    ]
    assert [one.meta for one in found] == [{"Nr": "1"}, {"Nr": "2"}]


def test_what_a_table_breaks_is_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes("sep=;\nProblem;Answer\nGr\xf6\xdfe?;1\na;b;c\nOne?;1\n".encode("latin-1"))
    stream, report = import_files([table])
    assert [one.problem and one.problem.answer for one in stream] == ["1"]
    reasons = {row["where"].rpartition(":")[2]: row["reason"] for row in report.bad.rows}
    assert reasons.keys() == {"3", "4"}
    assert "CSV UTF-8" in reasons["3"]
    assert "3 cells under 2 names" in reasons["4"]


def test_gsm8k_is_taken_apart() -> None:
    row = {"question": "3 and 4?", "answer": "3 + 4 = <<3+4=7>>7\n#### 1,007"}
    assert guess(row) == "problems"
    (one,) = FORMATS["problems"](row)
    assert one.problem == Problem(statement="3 and 4?", answer="1,007", solution=row["answer"])
