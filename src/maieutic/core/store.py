"""Run folders: `RUN/<stage>/{config.json, rows.jsonl, manifest.json}`.

The store resumes runs, so no step does. Rows are only appended. A row's key is a hash of everything that decides its
content. An incomplete last line after a crash is dropped, and its item stays pending. The manifest is written last, so
a step without a manifest is not finished. A process locks the folder that it writes. A folder with the run of another
config is refused, and the error names the changed settings. A folder without rows accepts new settings, so that a
wrong setting can be corrected by repeating the command. Nothing is ever deleted.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from maieutic.core.errors import DiskFull, MaieuticError, MissingInput, RunConflict, RunLocked, StoreError

FORMAT = 2
"""The format version of run folders, in `config.json`. A folder of another format is not resumed."""
GROUP_ROWS = 64
GROUP_SECONDS = 0.5
"""One `fdatasync` is made per this many rows, or after this many seconds. It runs in a thread; rows written meanwhile
wait for the next `fdatasync`. A power cut can lose both groups: about 128 rows on a fast disk."""
MOST_ROWS = 16 * GROUP_ROWS
"""On a slow disk at most this many rows wait for a sync; then the writer waits."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
_OF_ANY_RUN = {".lock", "config.json", ".config.json.part"}


_SLOTS = 1024
"""Number of slots in an empty index."""


class KeyIndex:
    """An ordered set of texts that takes about twenty bytes per text, for runs of millions of rows.

    Only the 64-bit hash of a text is stored. Among a million texts, two share a hash with a probability of 3 in a
    hundred million. Each process has another random hash seed, so a collision does not repeat.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._slots = array("I", bytes(array("I").itemsize * _SLOTS))
        """Hash table with open addressing: the index of the text, counted from 1; 0 marks a free slot."""

    def add(self, text: str) -> bool:
        """Add a text at the end; false if the set already contains it."""
        value = hash(text)
        slot = self._slot(value)
        if self._slots[slot]:
            return False
        self._hashes.append(value)
        self._slots[slot] = len(self._hashes)
        if 3 * len(self._hashes) > 2 * len(self._slots):
            self._grow()
        return True

    def get(self, text: str, default: int) -> int:
        """The index of a text, counted from 0."""
        place = self._slots[self._slot(hash(text))]
        return place - 1 if place else default

    def __contains__(self, text: str) -> bool:
        return self._slots[self._slot(hash(text))] > 0

    def __len__(self) -> int:
        return len(self._hashes)

    def _slot(self, value: int) -> int:
        """The slot of a hash, or the free slot for it."""
        slots, last = self._slots, len(self._slots) - 1
        slot = value & last
        while (place := slots[slot]) and self._hashes[place - 1] != value:
            slot = (slot + 1) & last
        return slot

    def _grow(self) -> None:
        self._slots = array("I", bytes(2 * len(self._slots) * self._slots.itemsize))
        for place, value in enumerate(self._hashes, 1):
            self._slots[self._slot(value)] = place


class Keys(Set[str]):
    """The keys of a journal. Counting and lookup use memory; iteration reads the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = KeyIndex()

    def add(self, key: str) -> None:
        """Add a key."""
        self._known.add(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[str]:
        return (row["key"] for row in first_per_key(read_rows(self._path)))


class Journal:
    """An append-only JSONL file. Every row has a `key`; if rows have the same key, the first row counts.

    With `index=False` the keys are not kept in memory.
    """

    def __init__(self, path: Path, index: bool = True) -> None:
        self.path = path
        self.keys = Keys(path)
        self._index = index
        self._pending = 0
        self._synced = time.monotonic()
        self._syncing: Future[None] | None = None
        self._syncer = ThreadPoolExecutor(1, "sync")
        with full_disk(path):
            self._file: io.FileIO = path.open("ab+", buffering=0)
            self._drop_torn_tail()
        if index:
            for row in read_rows(path):
                self.keys.add(row["key"])

    def _drop_torn_tail(self) -> None:
        """Drop an incomplete last line (without a newline); its item is still pending."""
        size = self._file.seek(0, os.SEEK_END)
        cut = size
        while cut > 0:
            start = max(0, cut - 65536)
            self._file.seek(start)
            newline = self._file.read(cut - start).rfind(b"\n")
            if newline >= 0:
                cut = start + newline + 1
                break
            cut = start
        if cut < size:
            self._file.truncate(cut)
            os.fsync(self._file.fileno())
        self._file.seek(0, os.SEEK_END)

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def append(self, key: str, row: Mapping[str, Any]) -> None:
        """Write one row. The row survives a killed process at once, and a power cut after the next `sync`.

        Raises:
            DiskFull: there is no space for this row, or for earlier rows.
        """
        line = orjson.dumps({"key": key, **row}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"
        try:
            self._write(line)
        except OSError as error:
            raise (_refused(self.path, error) or error) from None
        self._pending += 1
        if self._index:
            self.keys.add(key)
        due = self._pending >= GROUP_ROWS or time.monotonic() - self._synced > GROUP_SECONDS
        if due and (self._syncing is None or self._syncing.done() or self._pending >= MOST_ROWS):
            self._sync_beside()

    def _write(self, line: bytes) -> None:
        """Write a line completely or not at all, so that no line follows an incomplete line."""
        done = 0
        try:
            while done < len(line):
                done += self._file.write(line[done:])
        except OSError:
            self._file.truncate(self._file.seek(0, os.SEEK_END) - done)
            raise

    def _sync_beside(self) -> None:
        """Start a sync in a thread, after the previous sync, so that an event loop is not blocked."""
        self._synced_before()
        self._syncing = self._syncer.submit(os.fdatasync, self._file.fileno())
        self._pending, self._synced = 0, time.monotonic()

    def _synced_before(self) -> None:
        """Wait for the sync that is running, if any."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            with full_disk(self.path):
                syncing.result()

    def sync(self) -> None:
        """Make everything written so far survive a power cut."""
        self._sync_beside()
        self._synced_before()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each key's first row, in the order written."""
        return first_per_key(read_rows(self.path))

    def sort(self, order: KeyIndex) -> None:
        """Sort the rows by `order`, so that the file does not depend on which row was finished first.

        The part of a key after `:` is ignored. Rows with a key that is not in `order` are last. The file is replaced
        as a whole; this takes sixteen bytes of memory per row.
        """
        self.sync()
        places = _places_in_order(self.path, order)
        if places is None:
            return
        part = self.path.with_name(f".{self.path.name}.part")
        with full_disk(self.path):
            with self.path.open("rb") as old, part.open("wb") as new:
                for place in places:
                    old.seek(place)
                    new.write(old.readline())
                new.flush()
                os.fsync(new.fileno())
            part.replace(self.path)
            self._file.close()
            self._file = self.path.open("ab+", buffering=0)

    def close(self) -> None:
        """Sync and close."""
        with full_disk(self.path):
            try:
                self.sync()
            finally:
                self._syncer.shutdown()
                self._file.close()


class Stage:
    """One step's folder, open for writing.

    Args:
        folder: created if it does not exist.
        config: everything that decides the rows' content, and nothing else. A run with another config is refused.

    Raises:
        RunConflict: the folder holds another run, or other files.
        RunLocked: another process writes the folder.
        DiskFull: no space is left.
    """

    def __init__(self, folder: Path | str, config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.config = orjson.loads(orjson.dumps(dict(config), default=_jsonable))
        with full_disk(self.folder):
            _refuse_strangers(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(self.folder)
        try:
            self._check_config()
            self.rows = Journal(self.folder / "rows.jsonl")
        except BaseException:
            os.close(self._lock)
            raise
        self._journals = [self.rows]

    def _check_config(self) -> None:
        path = self.folder / "config.json"
        whole = {"format": FORMAT, **self.config}
        held = read_json(path) if path.exists() else None
        if held == whole:
            return
        if held is None or _is_blank(self.folder):
            write_json(path, whole)
        elif not isinstance(held, dict) or held.get("format") != FORMAT:
            named = listed(sorted(held)) if isinstance(held, dict) else "no object"
            raise RunConflict(
                f"{self.folder} holds a run of maieutic 1, or another program's config.json ({named})",
                "Choose another output folder. Later steps can still read the rows of this one.",
            )
        elif changed := changed_keys(held, whole):
            raise RunConflict(
                f"{self.folder} holds a run with other settings: {listed(changed)}",
                "Give the same settings to continue that run, or another output folder for a new one.",
            )

    @property
    def done(self) -> bool:
        """Whether the step is finished: whether it has a manifest."""
        return (self.folder / "manifest.json").exists()

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished step."""
        manifest: dict[str, Any] = read_json(self.folder / "manifest.json")
        return manifest

    def journal(self, name: str) -> Journal:
        """A second append-only file next to the rows, such as the turns of unfinished dialogues."""
        journal = Journal(self.folder / f"{name}.jsonl", index=False)
        self._journals.append(journal)
        return journal

    def finish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Sync, then write the manifest: the step is finished."""
        for journal in self._journals:
            journal.sync()
        whole = {"rows": len(self.rows.keys), **manifest}
        write_json(self.folder / "manifest.json", whole)
        return whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            for journal in self._journals:
                journal.close()
        finally:
            os.close(self._lock)


def read_rows(path: Path | str) -> Iterator[dict[str, Any]]:
    """The rows of a run's JSONL file, streaming; an incomplete last line is skipped.

    Raises:
        MissingInput: there is no such file.
        StoreError: a line before the last is broken.
    """
    return (row for _, row in _placed_rows(Path(path)))


def _placed_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row, and the offset of its line."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such file", "Name a run's rows.jsonl, or its folder.")
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise StoreError(
                    f"{path}:{number}: a damaged line inside a run",
                    "Move that line out of the file and run again.",
                ) from None
            yield place, row
            place += len(line)


def _places_in_order(path: Path, order: KeyIndex) -> array[int] | None:
    """The offset of each line, in the order of the keys; null if the lines already have that order."""
    free = array("Q", bytes(8 * (len(order) + 2)))
    before, is_sorted = 0, True
    for number, _ in _numbered_rows(path, order):
        is_sorted, before = is_sorted and number >= before, number
        free[number + 1] += 1
    if is_sorted:
        return None
    for number in range(1, len(free)):
        free[number] += free[number - 1]
    places = array("Q", bytes(8 * free[-1]))
    for number, place in _numbered_rows(path, order):
        places[free[number]] = place
        free[number] += 1
    return places


def _numbered_rows(path: Path, order: KeyIndex) -> Iterator[tuple[int, int]]:
    """The position of each row in an order, and the offset of its line; keys that are not in the order are last."""
    for place, row in _placed_rows(path):
        yield order.get(row["key"].partition(":")[0], len(order)), place


def stage_rows(folder: Path | str) -> Iterator[dict[str, Any]]:
    """The rows of a step, each key once, given its folder, its run's folder (with one step) or the file."""
    return first_per_key(read_rows(rows_file(Path(folder))))


def rows_file(path: Path) -> Path:
    """The `rows.jsonl` of a step, given its folder, its run's folder (with one step) or the file."""
    if path.is_dir() and not (path / "rows.jsonl").exists():
        stages = [stage for stage in sorted(path.iterdir()) if (stage / "rows.jsonl").exists()]
        if len(stages) != 1:
            raise MissingInput(
                f"{path}: {'several steps' if stages else 'no step'} in this folder",
                "Name the step's own folder.",
            )
        path = stages[0]
    return path / "rows.jsonl" if path.is_dir() else path


def first_per_key(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, without later rows of the same key."""
    seen = KeyIndex()
    return (row for row in rows if seen.add(row["key"]))


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The dotted names of the settings in which two JSON values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            name
            for key in sorted(old.keys() | new.keys())
            for name in changed_keys(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [f"{prefix} ({_short(old)} → {_short(new)})"]


def listed(names: Sequence[str], most: int = 8) -> str:
    """The names in one line; of many names, the first few and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "…"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file completely or not at all."""
    part = path.with_name(f".{path.name}.part")
    with full_disk(path):
        with part.open("wb") as file:
            file.write(
                orjson.dumps(
                    value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=_jsonable
                )
            )
            file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def read_json(path: Path) -> Any:
    """Read the value of a JSON file."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file", "Check the path.") from None
    except orjson.JSONDecodeError as error:
        raise StoreError(
            f"{path}: not JSON ({error})", "Restore the file, or start in another folder."
        ) from None


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turn the system's write errors into errors that say what to do."""
    try:
        yield
    except MaieuticError:
        raise
    except Exception as error:
        if refused := _refused(path, error):
            raise refused from None
        raise


def _refused(path: Path, error: Exception) -> StoreError | None:
    """A StoreError for a write error of the operating system; null for any other error."""
    number = _errno(error)
    if number in _FULL:
        hint = "Free some space and run the same command again: it continues."
        return DiskFull(f"{path}: no space is left on the disk", hint)
    if number in _REFUSED:
        return StoreError(f"{path}: {os.strerror(number)}", "Choose an output path that can be written.")
    return None


def _errno(error: Exception) -> int:
    """The errno of an error, else 0; Rust libraries (safetensors, tokenizers) give it only in the message."""
    if isinstance(error, OSError):
        return error.errno or 0
    worded = re.search(r"\(os error (\d+)\)", str(error))
    return int(worded[1]) if worded else 0


def _refuse_strangers(folder: Path) -> None:
    if not folder.is_dir():
        return
    names = {entry.name for entry in folder.iterdir()} - (_OF_ANY_RUN - {"config.json"})
    if names and "config.json" not in names:
        raise RunConflict(
            f"{folder} is not empty and holds no run (found {', '.join(sorted(names)[:3])})",
            "Choose a new or empty output folder; nothing in this folder was changed.",
        )


def _is_blank(folder: Path) -> bool:
    """Whether the run in a folder wrote no row."""
    others = [entry for entry in folder.iterdir() if entry.name not in _OF_ANY_RUN]
    return folder / "rows.jsonl" in others and all(
        entry.suffix == ".jsonl" and entry.stat().st_size == 0 for entry in others
    )


def _take_lock(folder: Path) -> int:
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunLocked(
            f"{folder} is being written by another process",
            "Wait until it ends, or choose another output folder.",
        ) from None
    return handle


def _jsonable(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
