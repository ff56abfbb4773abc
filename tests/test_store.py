"""Run folders: nothing torn, nothing lost, nobody else's."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maieutic.core.errors import DiskFull, RunConflict, RunLocked, StoreError
from maieutic.core.store import (
    FORMAT,
    GROUP_ROWS,
    MOST_ROWS,
    Journal,
    KeyIndex,
    Stage,
    changed_keys,
    full_disk,
    read_rows,
    stage_rows,
    write_json,
)

rows = st.dictionaries(st.text(max_size=5).filter(lambda key: key != "key"), st.text(max_size=20), max_size=3)


@given(st.lists(rows, min_size=1, max_size=6), st.integers(min_value=0, max_value=200))
def test_a_torn_last_line_is_owed_again_and_nothing_else_is(tmp_path_factory, written, cut):
    path = tmp_path_factory.mktemp("store") / "rows.jsonl"
    journal = Journal(path)
    for number, row in enumerate(written):
        journal.append(str(number), row)
    journal.close()
    data = path.read_bytes()
    torn = data[: max(0, len(data) - cut)]
    path.write_bytes(torn)
    whole = torn.count(b"\n")
    again = Journal(path)
    assert again.keys == {str(number) for number in range(whole)}
    for number, row in enumerate(written):
        if str(number) not in again:
            again.append(str(number), row)
    again.close()
    assert path.read_bytes() == data


def test_the_first_row_under_a_key_counts(tmp_path):
    with Stage(tmp_path / "stage", {}) as stage:
        stage.rows.append("a", {"n": 1})
        stage.rows.append("a", {"n": 2})
        assert [row["n"] for row in stage.rows.rows()] == [1]
    assert [row["n"] for row in stage_rows(tmp_path / "stage")] == [1]
    assert [row["n"] for row in stage_rows(tmp_path)] == [1]


def test_the_manifest_comes_last_and_says_done(tmp_path):
    with Stage(tmp_path / "stage", {"model": "x"}) as stage:
        stage.rows.append("a", {})
        assert not stage.done
        stage.finish({"seconds": 1})
        assert stage.done
        assert stage.manifest == {"rows": 1, "seconds": 1}


def test_another_run_is_refused_with_the_changed_keys_named(tmp_path):
    with Stage(tmp_path / "stage", {"model": "x", "sampling": {"temperature": 1, "seed": 0}}) as stage:
        stage.rows.append("a", {})
    with pytest.raises(RunConflict, match=r"sampling\.temperature \(1 → 2\)"):
        Stage(tmp_path / "stage", {"model": "x", "sampling": {"temperature": 2, "seed": 0}})
    with pytest.raises(RunConflict, match=r"k0 .*, k7 \(null → 1\) and 4 more"):
        Stage(tmp_path / "stage", {f"k{n}": 1 for n in range(10)})


def test_a_run_that_never_wrote_a_row_takes_new_settings(tmp_path):
    """A wrong model name is found after the folder is made: the right one must not be another run."""
    with Stage(tmp_path / "stage", {"model": "wrong"}) as stage:
        stage.journal("failures")
    with Stage(tmp_path / "stage", {"model": "right"}) as stage:
        stage.finish({})
    assert json.loads((tmp_path / "stage" / "config.json").read_text()) == {
        "format": FORMAT,
        "model": "right",
    }
    with pytest.raises(RunConflict):
        Stage(tmp_path / "stage", {"model": "other"})


def test_a_run_of_an_earlier_format_is_refused_and_stays_readable(tmp_path):
    with Stage(tmp_path / "stage", {"model": "x"}) as stage:
        stage.rows.append("a", {"n": 1})
    (tmp_path / "stage" / "config.json").write_text('{"model": "x"}')
    with pytest.raises(RunConflict, match="stage holds a run of maieutic 1"):
        Stage(tmp_path / "stage", {"model": "x"})
    assert [row["n"] for row in stage_rows(tmp_path / "stage")] == [1]


def test_a_config_of_another_program_is_no_blank_run(tmp_path):
    (tmp_path / "config.json").write_text('{"editor": "vi"}')
    with pytest.raises(RunConflict, match="editor"):
        Stage(tmp_path, {"model": "x"})
    assert (tmp_path / "config.json").read_text() == '{"editor": "vi"}'


def test_a_folder_with_a_person_s_files_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunConflict, match=r"thesis\.tex"):
        Stage(tmp_path, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_writer_a_folder(tmp_path):
    with Stage(tmp_path / "stage", {}), pytest.raises(RunLocked):
        Stage(tmp_path / "stage", {})
    with Stage(tmp_path / "stage", {}):
        pass


def test_an_output_path_that_is_a_file_is_said_plainly(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="output path"):
        Stage(tmp_path / "file", {})


def test_damage_inside_a_run_is_named_by_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"key": "a"}\n{"key": \n{"key": "c"}\n')
    with pytest.raises(StoreError, match=r"rows\.jsonl:2"):
        list(read_rows(path))


def test_keys_are_counted_in_memory_and_listed_from_the_file(tmp_path):
    with Stage(tmp_path / "stage", {}) as stage:
        for number in range(3000):
            stage.rows.append(str(number % 2000), {"n": number})
        assert len(stage.rows.keys) == 2000 and stage.rows.keys == {str(number) for number in range(2000)}
        assert "1999" in stage.rows and "2000" not in stage.rows and 5 not in stage.rows.keys
    with Stage(tmp_path / "stage", {}) as stage:
        assert [row["n"] for row in stage.rows.rows()] == list(range(2000))
        assert list(stage.rows.keys) == [str(number) for number in range(2000)]


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_texts_are_numbered_as_they_first_come(texts, others):
    numbered = KeyIndex()
    assert [numbered.add(text) for text in texts] == [text not in texts[:n] for n, text in enumerate(texts)]
    first = list(dict.fromkeys(texts))
    assert len(numbered) == len(first)
    assert all(numbered.get(text, -1) == number for number, text in enumerate(first))
    assert all((text in numbered) == (text in first) for text in others)
    assert all(numbered.get(text, -1) == -1 for text in others if text not in first)


def test_many_texts_keep_their_numbers():
    numbered = KeyIndex()
    assert all(numbered.add(f"key {number}") for number in range(20_000))
    assert not any(numbered.add(f"key {number}") for number in range(20_000))
    assert [numbered.get(f"key {number}", -1) for number in range(20_010)] == [*range(20_000), *[-1] * 10]


def test_a_sync_that_fails_beside_the_writer_is_said_with_a_later_row(tmp_path, monkeypatch):
    with Stage(tmp_path / "stage", {}) as stage:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail_full)
            with pytest.raises(DiskFull, match="no space"):
                for number in range(2 * MOST_ROWS):
                    stage.rows.append(str(number), {})
        written = len(stage.rows.keys)
        assert GROUP_ROWS < written <= GROUP_ROWS + MOST_ROWS
        stage.rows.append("later", {})
        assert len(list(stage.rows.rows())) == written + 1


def test_a_slow_disk_holds_the_writer_back_in_the_end_only(tmp_path, monkeypatch):
    synced, real = threading.Event(), os.fdatasync

    def slow(handle: int) -> None:
        synced.wait(10)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", slow)
    with Stage(tmp_path / "stage", {}) as stage:
        for number in range(GROUP_ROWS + MOST_ROWS - 1):
            stage.rows.append(str(number), {})  # none of them waits for the sync of the first group
        assert not synced.is_set()
        synced.set()
    assert len(list(stage_rows(tmp_path / "stage"))) == GROUP_ROWS + MOST_ROWS - 1


def fail_full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


HALF = """
import resource, signal, sys
from maieutic.core.errors import DiskFull
from maieutic.core.store import Stage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Stage(sys.argv[1], {}) as stage:
    stage.rows.append("whole", {"text": "x" * 100})
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 1 << 30))
    try:
        stage.rows.append("torn", {"text": "x" * 100})
    except DiskFull:
        print("full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    stage.rows.append("later", {"text": "x" * 100})
"""


def test_a_line_that_found_no_space_leaves_none_torn_for_the_next(tmp_path):
    """Another dialogue may still write its turn before the run stops."""
    done = subprocess.run(
        [sys.executable, "-c", HALF, str(tmp_path / "stage")], check=True, capture_output=True, text=True
    )
    assert done.stdout == "full\n"
    assert [row["key"] for row in stage_rows(tmp_path / "stage")] == ["whole", "later"]


WRITER = """
import itertools, sys
from maieutic.core.store import Stage
with Stage(sys.argv[1], {}) as stage:
    for number in itertools.count(len(stage.rows.keys)):
        stage.rows.append(str(number), {"text": "x" * (number % 977)})
        print(number, flush=True)
"""


def test_sigkill_loses_no_row_that_was_acknowledged(tmp_path):
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "stage")], stdout=subprocess.PIPE
        )
        time.sleep(0.4)
        os.kill(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        acknowledged = [int(line) for line in out.split(b"\n")[:-1]]
        with Stage(tmp_path / "stage", {}) as stage:
            keys = {int(key) for key in stage.rows.keys}
        assert keys == set(range(len(keys)))
        assert not acknowledged or acknowledged[-1] in keys


FILLER = """
import sys
from maieutic.core.errors import DiskFull
from maieutic.core.store import Stage
try:
    with Stage(sys.argv[1], {}) as stage:
        for number in range(10000):
            stage.rows.append(str(number), {"text": "x" * 100})
except DiskFull as error:
    print(error)
    sys.exit(1)
"""


def test_a_full_disk_stops_with_two_lines_and_what_stands_is_whole(tmp_path):
    """A file size limit stands for the disk: writing fails in the same place, with EFBIG in place of ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(DiskFull, match="no space"):
        write_json_to_full()
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path / "stage")],
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert len(done.stdout.strip().splitlines()) == 2
    with Stage(tmp_path / "stage", {}) as stage:
        assert len(stage.rows.keys) > 300
        assert all(len(row["text"]) == 100 for row in stage.rows.rows())


def limit_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def write_json_to_full() -> None:
    full = Path("/dev/full")
    with full_disk(full), full.open("w") as file:
        file.write("x" * 100_000)


def test_a_full_disk_that_a_library_only_words_is_one_too(tmp_path):
    """Libraries written in Rust raise errors of their own, without an errno."""
    with pytest.raises(DiskFull, match="no space"), full_disk(tmp_path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="os error 5"), full_disk(tmp_path):
        raise RuntimeError("I/O error (os error 5)")


def test_json_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {("no", "key"): 1})
    assert json.loads(path.read_text()) == {"a": 1}


def test_changed_keys_are_named_with_both_values():
    assert changed_keys({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["a.b (1 → 3)"]
    assert changed_keys({}, {"new": [1]}) == ["new (null → [1])"]


@given(st.lists(st.integers(0, 30), unique=True), st.data())
def test_settled_rows_stand_in_the_order_given(numbers, data):
    keys = [f"k{number}" for number in numbers]
    wanted = data.draw(st.permutations(keys))
    with TemporaryDirectory() as folder, Stage(Path(folder) / "s", {}) as stage:
        for key in keys:
            stage.rows.append(f"{key}:failed:0", {"of": key})
            stage.rows.append(key, {"of": key})
        order = KeyIndex()
        for key in wanted:
            order.add(key)
        stage.rows.sort(order)
        assert [row["of"] for row in stage.rows.rows()] == [key for key in wanted for _ in range(2)]
        stage.rows.append("later", {"of": "later"})  # the file goes on being written
        assert [row["key"] for row in stage.rows.rows()][-1:] == ["later"]
