"""Reading and writing corpora: nothing lost but what is broken, and that is named."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from conversations import JSON, conversations, run, talk, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.core.errors import EmptyCorpus, InputError, MissingInput, StoreError
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation
from maieutic.core.reading import read_rows, without_rows
from maieutic.core.store import Stage
from maieutic.data.corpus import read_corpus, to_conversation, write_corpus
from maieutic.data.importing import import_files

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@given(st.lists(conversations(), min_size=1, max_size=5), st.sampled_from(["c.jsonl", "c.jsonl.gz"]))
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_back(corpus: list[Conversation], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        assert write_corpus(path, corpus) == len(corpus)
        assert list(read_corpus(path)) == corpus
        assert [entry.name for entry in Path(folder).iterdir()] == [name]


@given(st.lists(JSON | st.floats(), max_size=12), st.sampled_from([None, 1, "\t"]), st.integers(1, 40))
@settings(deadline=None, max_examples=150)
def test_a_json_list_is_read_piece_by_piece_as_a_whole(values: list[Any], indent: Any, chunk: int) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=chunk % 2 == 0)
    expected = json.loads(text, parse_constant=lambda _: None)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("maieutic.core.reading._CHUNK", chunk)
        path = Path(folder) / "list.json"
        path.write_text(text, encoding="utf-8", errors="replace")
        bad = BadRows()
        read = [row.value for row in read_rows(path, bad)]
    assert not bad.count
    assert len(read) == len(expected)
    if chunk % 2 and "\ud800" not in text and "\\u" not in text:
        assert read == expected


def test_broken_rows_are_named_and_the_rest_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(
        tmp_path / "c.jsonl",
        b"\xef\xbb\xbf" + orjson.dumps(GOOD),
        b'{"messages": [',
        b"",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        [1, 2],
        b"NaN",
        {"messages": []},
        {"text": "no turns"},
        {"messages": [{"role": "tool", "content": "x"}]},
        b'{"messages": [{"role": "user", "content": "\\ud83d"}], "score": NaN, "n": 123456789012345678901234567890}',
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "deep": ' + b"[" * 300 + b"]" * 300 + b"}",
        GOOD,
    )
    bad = BadRows()
    corpus = list(read_corpus(path, on_bad=bad))
    assert [turn.content for conversation in corpus for turn in conversation.messages] == [
        *("Hi", "Hello"),
        "\ufffd",
        *("Hi", "Hello"),
    ]
    assert corpus[1].meta == {"score": None, "n": "123456789012345678901234567890"}
    assert [int(row["where"].rpartition(":")[2]) for row in bad.rows] == [2, 4, 5, 6, 7, 8, 9, 11, 12]
    reasons = [row["reason"] for row in bad.rows]
    assert reasons[0].startswith("broken JSON") and reasons[1].startswith("not UTF-8")
    assert reasons[2] == "a list, not an object" and "text" in reasons[5] and "role" in reasons[6]
    assert write_corpus(tmp_path / "again.jsonl", corpus) == 3
    assert list(read_corpus(tmp_path / "again.jsonl")) == corpus

    list(read_corpus(path))
    assert "9 broken rows skipped" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"c\.jsonl:2"):
        list(read_corpus(path, on_bad=BadRows(strict=True)))


def test_lone_surrogates_are_mended_wherever_they_stand(tmp_path: Path) -> None:
    row = '{"messages":[{"role":"user","content":"a\\udc00"}],"intent":"\\ud800","meta":{"\\ud801":["\\ud802"]}}'
    (conversation,) = read_corpus(write_lines(tmp_path / "c.jsonl", row.encode()))
    assert conversation.row()["intent"] == "\ufffd"
    assert write_corpus(tmp_path / "d.jsonl", [conversation]) == 1
    built = Conversation(id="x", messages=conversation.messages, profile="\ud800")
    assert write_corpus(tmp_path / "e.jsonl", [built]) == 1


@pytest.mark.parametrize(
    ("text", "kept", "reason"),
    [
        (b'[{"a": 1}, {"a": 2]', 1, "broken JSON"),
        (b'[{"a": 1}, {"a": 2}', 1, "never closed"),
        (b'[{"a": 1} {"a": 2}]', 0, "no comma"),
        (b'[{"a": "\xff"}]', 0, "not UTF-8"),
        (b"[" * 5000, 0, "too deeply"),
        (b"[", 0, "never closed"),
    ],
)
def test_a_broken_list_keeps_what_stood_before(tmp_path: Path, text: bytes, kept: int, reason: str) -> None:
    path, bad = tmp_path / "c.json", BadRows()
    path.write_bytes(text)
    assert len(list(read_rows(path, bad))) == kept
    assert bad.count == 1 and reason in bad.rows[0]["reason"]


@pytest.mark.parametrize("name", ["c.json", "c.jsonl", "c"])
def test_lists_lines_and_single_objects_are_told_apart(tmp_path: Path, name: str) -> None:
    path, bad = tmp_path / name, BadRows()
    path.write_bytes(b" \n[\n" + orjson.dumps(GOOD) + b",\n" + orjson.dumps(GOOD) + b"\n]\n")
    assert len(list(read_rows(path, bad))) == 2
    write_lines(path, GOOD, GOOD, GOOD)
    assert len(list(read_rows(path, bad))) == 3
    if name != "c.jsonl":
        path.write_bytes(orjson.dumps(GOOD, option=orjson.OPT_INDENT_2))
        assert [row.value for row in read_rows(path, bad)] == [GOOD]
    assert not bad.count


def test_a_torn_gzip_keeps_what_could_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    rows = [
        {**GOOD, "id": str(number), "noise": "".join(map(chr, range(33, 33 + number % 90)))}
        for number in range(5000)
    ]
    path.write_bytes(gzip.compress(b"".join(orjson.dumps(row) + b"\n" for row in rows))[:-2000])
    bad = BadRows()
    assert 0 < len(list(read_corpus(path, on_bad=bad))) < 5000
    assert "gzip" in bad.rows[-1]["reason"]


@pytest.mark.parametrize("name", ["c.JSONL.GZ", "c.Json.gz", "c.NDJSON.gz"])
def test_names_may_be_in_capitals(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(orjson.dumps(GOOD) + b"\n"))
    assert len(list(import_files([tmp_path])[0])) == 1


def test_a_folder_without_rows_says_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "clean"
    with Stage(folder, {}) as stage:
        stage.finish({})
    write_lines(folder / "corpus.jsonl", GOOD)
    for read in (lambda: read_corpus(folder), lambda: import_files([folder])):
        with pytest.raises(MissingInput, match=r"rows\.jsonl") as caught:
            read()
        assert caught.value.hint == "Name one of its files: corpus.jsonl."
    assert "maieutic import" in without_rows(tmp_path).hint


def test_a_stage_is_a_corpus_without_its_keys(tmp_path: Path) -> None:
    corpus = [talk("a", "b", id="1"), talk("c", "d", id="2")]
    with Stage(tmp_path / "run" / "simulate", {"n": 2}) as stage:
        for number, conversation in enumerate([*corpus, corpus[0]]):
            stage.rows.append(str(number % 2), conversation.row())
    for place in ("run", "run/simulate", "run/simulate/rows.jsonl"):
        assert list(read_corpus(tmp_path / place)) == corpus
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match=r"rows\.jsonl"):
        read_corpus(tmp_path / "empty")


def test_missing_and_empty_corpora(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file"):
        read_corpus(tmp_path / "none.jsonl")
    for content in (b"", b"\n\n", b"\xef\xbb\xbf", b"[]"):
        (tmp_path / "empty.json").write_bytes(content)
        with pytest.raises(EmptyCorpus, match="no conversation"):
            list(read_corpus(tmp_path / "empty.json"))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write_corpus(path, [talk("a", "b")])
    before = path.read_bytes()
    write_corpus(path, read_corpus(path))  # the same again is no harm
    with pytest.raises(StoreError, match="exists with other content"):
        write_corpus(path, [talk("c", "d")])
    with pytest.raises(StoreError, match="is an input"):
        write_corpus(path, read_corpus(path), overwrite=True, sources=[tmp_path / "." / "c.jsonl"])
    with pytest.raises(EmptyCorpus):
        write_corpus(path, _empty(tmp_path), overwrite=True)
    with pytest.raises(StoreError, match="not an ordinary file"):
        write_corpus(tmp_path, [talk("c", "d")], overwrite=True)
    assert path.read_bytes() == before
    assert write_corpus(path, [talk("c", "d")], overwrite=True) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c.jsonl", "empty.jsonl"]


def _empty(folder: Path) -> Any:
    (folder / "empty.jsonl").write_bytes(b"")
    return read_corpus(folder / "empty.jsonl")


@given(JSON)
def test_any_row_is_a_conversation_or_refused_with_a_reason(value: Any) -> None:
    try:
        to_conversation(value)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


def test_commands_say_two_lines_for_a_mistake(tmp_path: Path) -> None:
    good = write_lines(tmp_path / "c.jsonl", GOOD, b"{")
    for args in (
        ("import", tmp_path / "none", "--out", tmp_path / "x"),
        ("import", good, "--format", "zz", "--out", tmp_path / "x"),
        ("import", good, "--out", good),
        ("import", good, "--strict", "--out", tmp_path / "x"),
        ("clean", tmp_path / "none", "--out", tmp_path / "x"),
        ("clean", good, "--out", good, "--force"),
        ("split", good, "--out", tmp_path / "d", "--parts", "1,2"),
        ("split", good, "--out", tmp_path / "d", "--parts", "0.5,0.6,0.1"),
        ("split", good, "--out", tmp_path / "d", "--parts", "nan,0,0"),
        ("split", good, "--out", tmp_path / "d", "--parts", "inf,-inf,1"),
        ("stats", tmp_path),
    ):
        code, out, err = run(*args)
        is_setting = "--format" in args or "--parts" in args
        assert (code, out) == (2 if is_setting else 1, ""), args
        assert len(err.splitlines()) == 2, err
    assert run("split", good, "--out", tmp_path / "d", "--by", "zz")[0] == 2
    assert run("convert", good, "--to", "zz", "--out", tmp_path / "x")[0] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.jsonl"]
