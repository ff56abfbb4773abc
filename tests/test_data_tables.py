"""CSV, Parquet and datasets: cells to the byte, odd headers and huge cells, broken rows by line."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from conversations import SAFE, conversations, run, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.core.errors import EmptyCorpus, InputError, MissingExtra, MissingInput, StoreError
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation
from maieutic.core.reading import read_rows
from maieutic.data.corpus import write_corpus
from maieutic.data.importing import import_files
from maieutic.data.steps import Convert


def csv_text(rows: list[list[str]], separator: str = ",", ending: str = "\r\n") -> str:
    text = io.StringIO(newline="")
    # Where lines end in a bare newline, Python's writer leaves a carriage return in a cell unquoted.
    quoting = csv.QUOTE_MINIMAL if ending == "\r\n" else csv.QUOTE_ALL
    csv.writer(text, delimiter=separator, lineterminator=ending, quoting=quoting).writerows(rows)
    return text.getvalue()


@given(
    st.lists(st.tuples(SAFE, SAFE, SAFE).filter(any), min_size=1, max_size=5),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["c.csv", "c.tsv", "c.csv.gz"]),
)
@settings(deadline=None, max_examples=150)
def test_csv_cells_come_back_to_the_byte(rows: list[Any], separator: str, ending: str, name: str) -> None:
    header = ["instruction", "context", "response"]
    text = csv_text([header, *map(list, rows)], separator, ending).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        bad = BadRows()
        read = [row.value for row in read_rows(path, bad)]
        found = [[turn.content for turn in c.messages] for c in import_files([path])[0]]
    assert not bad.count and [list(row.values()) for row in read] == [list(row) for row in rows]
    assert found == [[f"{a}\n\n{b}" if b else a, c] for a, b, c in rows]


def test_a_cell_larger_than_the_csv_limit(tmp_path: Path) -> None:
    huge = 'line, "quoted"\n' * 200_000
    assert len(huge) > 2_000_000
    path = tmp_path / "c.csv"
    path.write_text(csv_text([["instruction", "output"], [huge, "short"], ["a", "b"]]), newline="")
    first, second = import_files([path])[0]
    assert first.messages[0].content == huge and second.messages[1].content == "b"


def test_csv_with_a_column_of_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": 'Hi; "you"'}, {"role": "assistant", "content": "Ho\n"}]
    header = ["id", "messages", "meta", "ended", "category", "licence", "user_id"]
    cell = orjson.dumps(turns).decode()
    rows = [
        ["7", cell, '{"a": 1}', "True", "x", "MIT", ""],
        ["", cell, "", "", "", "", "ann"],
        ["", "[{'role': 'user', 'content': 'x'}]", "", "", "", "", ""],
        ["", '[{"role": "user"}]', "", "", "", "", ""],
    ]
    path = tmp_path / "c.csv"
    path.write_bytes(b"\xef\xbb\xbf" + csv_text([header, *rows], ";").encode())
    found, report = import_files([path])
    one, two = found
    assert one.id == "7" and one.ended and one.meta == {"a": 1, "category": "x"} and one.licence == "MIT"
    assert [turn.content for turn in one.messages] == ['Hi; "you"', "Ho\n"] and one.messages == two.messages
    assert (two.user_id, two.licence, two.meta, two.ended) == ("ann", None, {}, False)
    assert "JSON list" in report.bad.rows[0]["reason"]
    assert [row["where"].rpartition(":")[2] for row in report.bad.rows] == ["4", "5"]


def test_broken_csv_rows_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(
        b'instruction,output\na,b\n"two\nlines",b\nonly one\na,b,c\n\n\xff,b\n"a"x,b\na,b\n"never closed,b\na,b\n'
    )
    rows, report = import_files([path])
    assert [c.messages[0].content for c in rows] == ["a", "two\nlines", "a"]
    assert [(row["where"].rpartition(":")[2], row["reason"][:12]) for row in report.bad.rows] == [
        ("5", "broken CSV ("),
        ("6", "broken CSV ("),
        ("8", "not UTF-8 (c"),
        ("9", "broken CSV ("),
        ("11", "broken CSV ("),
    ]
    assert "never closed" in report.bad.rows[-1]["reason"]
    with pytest.raises(InputError, match=r"c\.csv:5"):
        list(import_files([path], strict=True)[0])


@pytest.mark.parametrize("header", ["", "\n", "a,a\n1,2\n", '"open\n'])
def test_csv_without_a_header(tmp_path: Path, header: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(header)
    with pytest.raises(EmptyCorpus, match="header"):
        list(import_files([path])[0])
    (tmp_path / "d.csv").write_text("instruction,output\na,b\n")
    rows, report = import_files([tmp_path])
    assert len(list(rows)) == report.bad.count == 1


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("riddle;answer\nwhy;so\n")
    rows, report = import_files([path])
    with pytest.raises(EmptyCorpus):
        list(rows)
    assert report.bad.rows == [{"where": f"{path}:2", "reason": "unknown format (keys: answer, riddle)"}]


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(arrow.table(columns), path)
    return path


def test_a_damaged_parquet_file_keeps_what_could_be_read(tmp_path: Path) -> None:
    columns = {"instruction": [f"q{number}" for number in range(4000)], "output": ["a"] * 4000}
    path = parquet(tmp_path / "c.parquet", columns)
    whole = path.read_bytes()

    def read(text: bytes) -> tuple[int, list[str]]:
        path.write_bytes(text)
        rows, report = import_files([tmp_path])
        return sum(1 for _ in rows), [row["reason"] for row in report.bad.rows]

    parquet(tmp_path / "d.parquet", {"instruction": ["q"], "output": ["a"]})
    for broken in (b"", b"PAR1" + bytes(50) + b"PAR1", whole[: len(whole) // 2]):
        count, (reason,) = read(broken)
        assert count == 1 and "not a Parquet file" in reason
    middle = len(whole) // 2
    count, reasons = read(whole[:middle] + b"\xff" * 400 + whole[middle + 400 :])
    assert 1 <= count <= 4001 and len(reasons) == 1
    (tmp_path / "d.parquet").unlink()
    with pytest.raises(EmptyCorpus, match="not a Parquet file"):
        read(b"x")
    with pytest.raises(InputError, match="not a Parquet file"):
        list(import_files([path], strict=True)[0])


def test_a_cell_that_is_not_utf8_loses_its_row_alone(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    path = tmp_path / "c.parquet"
    cells = arrow.array([b"a", b"caf\xe9", b"c"]).cast(arrow.binary()).view(arrow.string())
    writer.write_table(arrow.table({"instruction": cells, "output": ["x", "y", "z"]}), path)
    rows, report = import_files([path])
    assert [c.messages[0].content for c in rows] == ["a", "c"]
    assert report.bad.rows[0]["where"].endswith("row 2") and "UTF-8" in report.bad.rows[0]["reason"]


UTC = datetime.UTC
LOG = {
    "conversation_hash": ["a", "b"],
    "timestamp": [datetime.datetime(2023, 4, 9, 0, 2, 53, tzinfo=UTC), None],
    "conversation": [
        [
            {"role": "user", "content": "Hi", "hashed_ip": "f00", "toxic": False, "created": None},
            {"role": "assistant", "content": None, "hashed_ip": None, "toxic": True, "created": 3},
        ],
        [{"role": "user", "content": "\n", "hashed_ip": None, "toxic": False, "created": None}],
    ],
    "picture": [b"\xff\xd8", None],
}


def test_parquet_rows_are_json_values(tmp_path: Path) -> None:
    one, two = import_files([parquet(tmp_path / "w.parquet", LOG)])[0]
    assert [turn.content for turn in one.messages] == ["Hi", ""] and one.user_id == "f00"
    assert one.meta == {
        "timestamp": "2023-04-09T00:02:53+00:00",
        "picture": "(2 bytes)",
        "turns": {"0": {"toxic": False}, "1": {"toxic": True, "created": 3}},
    }
    assert (
        two.messages[0].content == "\n"
        and two.user_id is None
        and two.meta == {"turns": {"0": {"toxic": False}}}
    )


def test_turns_that_a_table_stores_as_text_or_turned(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    text = parquet(tmp_path / "t.parquet", {"conversations": [orjson.dumps(turns).decode(), "[broken"]})
    rows, report = import_files([text])
    assert [[turn.content for turn in c.messages] for c in rows] == [["a", "b"]]
    assert report.bad.rows[0]["where"].endswith("row 2") and "broken JSON" in report.bad.rows[0]["reason"]
    turned = parquet(
        tmp_path / "u.parquet", {"conversations": [{"from": ["human", "gpt"], "value": ["a", "b"]}]}
    )
    assert [[turn.content for turn in c.messages] for c in import_files([turned])[0]] == [["a", "b"]]
    meta = parquet(
        tmp_path / "m.parquet", {"messages": [[{"role": "user", "content": "x"}]], "meta": ["{no"]}
    )
    assert next(iter(import_files([meta])[0])).meta == {"meta": "{no"}


@given(st.lists(conversations(SAFE), min_size=3, max_size=12), st.integers(1, 3), st.integers(1, 400))
@settings(deadline=None, max_examples=25)
def test_parquet_in_any_row_groups_is_the_corpus(corpus: list[Conversation], rows: int, size: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("maieutic.data.convert._ROWS", rows)
        patch.setattr("maieutic.data.convert._BYTES", size)
        patch.setattr("maieutic.core.tables._BATCH", rows)
        folder = Path(name)
        write_corpus(folder / "c.jsonl", corpus)
        Convert(corpus=folder / "c.jsonl", to="parquet").run(folder / "c.parquet")
        assert parquet.ParquetFile(folder / "c.parquet").num_row_groups >= len(corpus) / rows
        write_corpus(folder / "d.jsonl", import_files([folder / "c.parquet"], source="x")[0])
        read = [orjson.loads(row) for row in (folder / "d.jsonl").read_bytes().splitlines()]
    assert read == [
        c.model_copy(update={"source": c.source or "x"}).row() if c.source is None else c.row()
        for c in corpus
    ]


CARD = """---
license: [odc-by, mit]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
# Ours
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like a dataset on the hub."""
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hub") / "wild"
    for split, more in (
        ("train-00000-of-00002", "x"),
        ("train-00001-of-00002", "y"),
        ("test-00000-of-00001", "z"),
    ):
        hashes = [f"{name}{more}" for name in LOG["conversation_hash"]]
        parquet(folder / "data" / f"{split}.parquet", {**LOG, "conversation_hash": hashes})
    (folder / "README.md").write_text(CARD)
    return folder


def test_a_dataset_streams_with_its_licence_and_name(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, report = import_files([f"hub:{dataset}"])
    found = list(rows)
    assert [c.id for c in found] == ["ax", "bx", "ay", "by"]
    assert "left out: test" in capsys.readouterr().err
    assert {(c.source, c.licence) for c in found} == {("hub:wild:train", "odc-by, mit")}
    assert report.json()["formats"] == {"hub:wild:train": {"wildchat": 4}}
    assert found[0].meta["timestamp"] == "2023-04-09T00:02:53+00:00" and found[0].user_id == "f00"
    assert found[0].messages == next(iter(import_files([dataset / "data"])[0])).messages

    rows, _ = import_files([Path(f"hub:{dataset}:test")], licence="CC0", source="mine")
    assert [(c.id, c.source, c.licence) for c in rows] == [("az", "mine", "CC0"), ("bz", "mine", "CC0")]


def test_a_dataset_without_a_card_and_of_another_kind(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "d").mkdir()
    write_lines(
        tmp_path / "d" / "a.jsonl", {"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d"}
    )
    rows, report = import_files([f"hub:{tmp_path / 'd'}"])
    assert [c.messages[1].content for c in rows] == ["b", "d"] and report.licences == {None: 2}


def test_datasets_that_cannot_be_opened(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no split 'nope'") as caught:
        import_files([f"hub:{dataset}:nope"])
    assert "test, train" in caught.value.hint
    with pytest.raises(MissingInput, match="no such dataset"):
        import_files([f"hub:{tmp_path / 'none'}"])
    for name in ("hub:", "hub:a:b:c:d", "hub:a::c"):
        with pytest.raises(InputError, match="hub:"):
            import_files([name])
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(InputError):
        import_files([f"hub:{tmp_path / 'script'}"])


def test_several_splits_and_none_named_train(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for split in ("train_sft", "test_sft"):
        parquet(tmp_path / "u" / "data" / f"{split}-0.parquet", LOG)
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in ("train_sft", "test_sft"))
    (tmp_path / "u" / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    )
    with pytest.raises(MissingInput, match="several splits") as caught:
        import_files([f"hub:{tmp_path / 'u'}"])
    assert "test_sft, train_sft" in caught.value.hint


def test_a_broken_file_of_a_dataset_is_two_lines(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(b'{"data": ["a", "b"]}\n' + b"{broken\n" * 3)
    with pytest.raises(InputError, match=r"cannot be opened|the stream broke"):
        list(import_files([f"hub:{folder}"])[0])


def test_without_the_library_the_extra_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets"):
        import_files([f"hub:{dataset}"])


def test_the_command_never_writes_into_a_dataset(dataset: Path, tmp_path: Path) -> None:
    inside = dataset / "data" / "train-00000-of-00002.parquet"
    before = inside.read_bytes()
    code, _, err = run("import", f"hub:{dataset}:test", "--out", inside, "--force")
    assert code == 1 and "is an input of this command" in err and inside.read_bytes() == before
    code, out, _ = run("import", f"hub:{dataset}:test", "--out", tmp_path / "c.jsonl", "--json")
    assert code == 0 and orjson.loads(out)["licences"] == {"odc-by, mit": 2}
    with pytest.raises(StoreError):
        write_corpus(inside, [], sources=[dataset])
