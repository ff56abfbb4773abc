"""A corpus → ids and labels on disk, ready for a trainer: `datasets.load_from_disk(OUT)`.

The folder is a stage's: what decides its content (the corpus', the tokenizer's and the template's hashes among it)
stands in `config.json`, so the same call again does nothing and another one is refused with what differs. Several
processes share the work chunk by chunk; the rows come out in the corpus' order however many there are. Conversations
that cannot be trained on are left out and named in `rows.jsonl`; a template that cannot be used stops everything.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import orjson

from maieutic.chat_templates.encode import END
from maieutic.chat_templates.fast import Ids
from maieutic.chat_templates.renderer import Rendered, Renderer, mask_problem, side_of
from maieutic.chat_templates.templates import template_text
from maieutic.chat_templates.truncate import Keep, fit
from maieutic.core.console import note
from maieutic.core.errors import EmptyCorpus, InputError, MaieuticError, MissingInput
from maieutic.core.messages import Conversation, Role, fingerprint
from maieutic.core.progress import track
from maieutic.core.store import Stage, full_disk
from maieutic.data.corpus import corpus_rows, to_conversation
from maieutic.data.reading import BadRows

RENDERING = 2
"""Raised where the same corpus, tokenizer and template come to give other ids or labels."""
CHUNK = 256
"""Conversations a process takes at a time."""
WORTH_A_PROCESS = 1 << 26
"""Bytes of corpus for which one more process pays."""


class Prepared(NamedTuple):
    """What lies in the folder."""

    folder: Path
    manifest: dict[str, Any]
    """Counts: rows, tokens, supervised, share, cut, ends, dropped by reason, broken; and what encoded."""
    new: bool
    """False where all of it was there already."""

    def json(self) -> dict[str, Any]:
        """As printed."""
        return {"out": str(self.folder), "new": self.new, **self.manifest}


class _Work(NamedTuple):
    """What one process is given."""

    corpus: Path
    tokenizer: Any
    role: Role
    template: str | None
    system: str | None
    end: bool
    max_length: int | None
    keep: Keep
    faster: bool
    check_all: bool
    parts: Path
    processes: int = 1

    def renderer(self) -> Renderer:
        """Ready to render."""
        return Renderer(self.tokenizer, self.template, self.system, self.faster, self.check_all)


class _Share(NamedTuple):
    """What came of it."""

    counts: Counter[str]
    dropped: list[dict[str, str]]
    broken: int
    encoder: str
    disproved: bool


def prepare(
    corpus: Path,
    tokenizer: Any,
    role: str,
    out: Path,
    template: str | None = None,
    system: str | None = None,
    end: bool = True,
    max_length: int | None = None,
    keep: Keep = "start",
    processes: int | None = None,
    check_all: bool = False,
) -> Prepared:
    """Write a corpus as columns `input_ids`, `labels` (-100 outside the loss), both int32, and `length`.

    Args:
        corpus: a corpus file, or a stage's folder.
        tokenizer: a fast Hugging Face tokenizer; END, where it is taught, has the next free id.
        role: `user` or `assistant`.
        out: a new folder, or one that the same call has made.
        template: null or `chat`, `dyadic`, `plain`, or a Jinja file's path.
        system: text of a system turn for conversations that have none.
        end: whether conversations that ended teach END.
        max_length: tokens a row may have; whole turns are left out of longer conversations.
        keep: which part of those is kept, `start` or `end`.
        processes: null for as many as the corpus is worth.
        check_all: have the tokenizer itself confirm every id of a faster encoder (see `fast`).

    Raises:
        EmptyCorpus: nothing is left.
        RunConflict: the folder was made from other settings, or holds something else.
        RenderError: a conversation that the template cannot write.
    """
    work = _Work(
        corpus, tokenizer, side_of(role), template, system, end, max_length, keep, True, check_all, out
    )
    with Stage(out, _decides(work)) as stage:
        if stage.done:
            return Prepared(out, stage.manifest, new=False)
        parts = out / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        work = work._replace(parts=parts, processes=processes or _worthwhile(corpus))
        shares = _run(work)
        if any(share.disproved for share in shares):
            note("a faster encoder gave other ids than the tokenizer; everything is encoded anew without it")
            shares = _run(work._replace(faster=False))
        manifest = _manifest(shares, work)
        dropped = [row for share in shares for row in share.dropped]
        for number, row in enumerate(dropped):
            if (key := f"{row['id']}:{number}") not in stage.rows:
                stage.rows.append(key, row)
        if not manifest["rows"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in manifest["dropped"].items())
            raise EmptyCorpus(
                f"{corpus}: not one conversation can be trained on ({reasons or 'it holds none'})",
                "Train the other role, raise --max-length, or give another corpus.",
            )
        with full_disk(out):
            _save(parts, work.processes, out)
        shutil.rmtree(parts)
        return Prepared(out, stage.finish(manifest), new=True)


def _decides(work: _Work) -> dict[str, Any]:
    """Everything that the rows depend on."""
    own_frame = work.template in ("dyadic", "plain")
    text = work.template if own_frame else template_text(work.tokenizer, work.template)
    return {
        "stage": "prepare",
        "rendering": RENDERING,
        "corpus": _file_hash(work.corpus),
        "tokenizer": tokenizer_hash(work.tokenizer),
        "template": fingerprint(text),
        "system": work.system,
        "role": work.role,
        "end": work.end,
        "max_length": work.max_length,
        "keep": work.keep,
    }


def tokenizer_hash(tokenizer: Any) -> str:
    """What a tokenizer does to a text, as a hash; whether END was added to it makes no difference."""
    shape = orjson.loads(tokenizer.backend_tokenizer.to_str())
    added = [token for token in shape["added_tokens"] if token["content"] != END]
    shape.update(added_tokens=added, truncation=None, padding=None)
    named = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    return fingerprint([shape, named])


def _file_hash(path: Path) -> str:
    file = path / "rows.jsonl" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise MissingInput(f"{path}: no rows.jsonl in it", "Name a corpus file, or a stage's own folder.")
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder", "Check the path.")
    if not file.is_file():
        raise InputError(f"{path} is no ordinary file", "Write the corpus to a file first: it is read twice.")
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]


def _worthwhile(corpus: Path) -> int:
    file = corpus / "rows.jsonl" if corpus.is_dir() else corpus
    size = file.stat().st_size * (4 if file.suffix == ".gz" else 1)
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
               1 + size // WORTH_A_PROCESS)  # fmt: skip


def _run(work: _Work) -> list[_Share]:
    renderer = work.renderer()
    if work.processes == 1:
        return [_share(work, renderer, 0)]
    # A fork has the tokenizer, its faster encoder and the libraries already; others start from nothing.
    forks = sys.platform == "linux"
    if forks:
        renderer.batches.build()
    context = get_context("fork" if forks else "spawn")
    given = (work, renderer if forks else None)
    with warnings.catch_warnings(), ProcessPoolExecutor(work.processes, context, _begin, given) as pool:
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside other libraries' idle threads
        try:
            return list(pool.map(_share_of, range(work.processes)))
        except BrokenProcessPool:
            raise MaieuticError(
                "a process that prepared the corpus was killed", "Try fewer --processes: memory may be short."
            ) from None


_here: dict[str, Any] = {}
"""In a process of a pool: its work and its renderer."""


def _begin(work: _Work, renderer: Renderer | None) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the first process says that it was interrupted
    Thread(target=_end_with_parent, daemon=True).start()
    _here.update(work=work, renderer=renderer or work.renderer())


def _end_with_parent() -> None:
    """A process that outlives a killed first one would hold the folder's lock."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _share_of(number: int) -> _Share:
    return _share(_here["work"], _here["renderer"], number)


def _share(work: _Work, renderer: Renderer, number: int) -> _Share:
    """One process's chunks, written as one Arrow file of a batch each."""
    import pyarrow as pa

    counts: Counter[str] = Counter()
    dropped: list[dict[str, str]] = []
    broken, rows_broken = BadRows(), BadRows()
    ids = pa.list_(pa.int32())
    schema = pa.schema({"input_ids": ids, "labels": ids, "length": pa.int32()})
    with (
        pa.OSFile(str(_part(work.parts, number)), "wb") as file,
        pa.ipc.new_stream(file, schema) as writer,
        track(None, "preparing") if number == 0 else nullcontext() as bar,
    ):
        for chunk in _chunks(work, number, rows_broken):
            conversations = list(_conversations(chunk, broken))
            rows = _rows(conversations, renderer, work, counts, dropped)
            writer.write_batch(_batch(rows, schema))
            if bar is not None:
                bar.advance(len(chunk) * work.processes)
            if renderer.batches.disproved:
                break
    counts["checked"] += renderer.batches.checked
    bad = broken.count + (rows_broken.count if number == 0 else 0)
    return _Share(counts, dropped, bad, renderer.batches.name, renderer.batches.disproved)


def _part(parts: Path, index: int) -> Path:
    return parts / f"{index}.arrow"


def _chunks(work: _Work, mine: int, bad: BadRows) -> Iterator[list[tuple[str, Any]]]:
    """One process's chunks of the corpus: every `processes`-th."""
    rows = corpus_rows(work.corpus, bad)
    number = 0
    while chunk := list(islice(rows, CHUNK)):
        if number % work.processes == mine:
            yield chunk
        number += 1


def _conversations(chunk: Sequence[tuple[str, Any]], bad: BadRows) -> Iterator[Conversation]:
    for where, value in chunk:
        try:
            yield to_conversation(value)
        except ValueError as error:
            bad.add(where, str(error))


def _rows(
    conversations: list[Conversation],
    renderer: Renderer,
    work: _Work,
    counts: Counter[str],
    dropped: list[dict[str, str]],
) -> list[tuple[Ids, Ids]]:
    """Ids and labels of the conversations that can be trained on; the others are counted."""

    def drop(conversation: Conversation, reason: str) -> None:
        counts[f"dropped: {reason}"] += 1
        dropped.append({"id": conversation.id, "reason": reason})

    speaking = [one for one in conversations if any(turn.role == work.role for turn in one.messages)]
    for conversation in conversations:
        if not any(turn.role == work.role for turn in conversation.messages):
            drop(conversation, f"without a turn of the {work.role.value}")
    columns = renderer.columns(speaking, work.role, work.end)
    rows: list[tuple[Ids, Ids]] = []
    for index, (conversation, row) in enumerate(zip(speaking, columns.rows(), strict=True)):
        if problem := mask_problem(columns, index, work.role):
            drop(conversation, problem.what)
            continue
        ended = conversation.ended
        if work.max_length is not None and len(row[0]) > work.max_length:
            cut = _cut(conversation, row, renderer, work)
            if cut is None:
                drop(conversation, f"no turn of the {work.role.value} fits --max-length")
                continue
            row, ended = cut
            counts["cut"] += 1
        rows.append(row)
        counts["rows"] += 1
        counts["tokens"] += len(row[0])
        counts["supervised"] += int(np.count_nonzero(row[1] >= 0))
        counts["ends"] += ended and work.end and work.role == Role.USER
    return rows


def _cut(
    conversation: Conversation, row: tuple[Ids, Ids], renderer: Renderer, work: _Work
) -> tuple[tuple[Ids, Ids], bool] | None:
    assert work.max_length is not None
    whole = Rendered(row[0].tolist(), row[1].tolist())
    left = fit(
        conversation,
        lambda shorter: renderer.render(shorter, work.role, work.end),
        {work.role},
        work.max_length,
        work.keep,
        whole,
    )
    if left.rendered is None:
        return None
    ids, labels = (np.asarray(column, np.int32) for column in left.rendered)
    return (ids, labels), left.conversation.ended


def _batch(rows: Sequence[tuple[Ids, Ids]], schema: Any) -> Any:
    import pyarrow as pa

    lengths = np.array([len(ids) for ids, _ in rows], np.int32)
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)]))
    nothing = [np.empty(0, np.int32)]
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([row[index] for row in rows] or nothing)))
        for index in (0, 1)
    ]
    return pa.record_batch([*columns, pa.array(lengths)], schema=schema)


def _manifest(shares: Sequence[_Share], work: _Work) -> dict[str, Any]:
    counts: Counter[str] = sum((share.counts for share in shares), Counter())
    encoders = sorted({share.encoder for share in shares})
    return {
        **{name: counts[name] for name in ("rows", "tokens", "supervised", "cut", "ends")},
        "share": counts["supervised"] / counts["tokens"] if counts["tokens"] else None,
        "dropped": {
            name.removeprefix("dropped: "): count
            for name, count in sorted(counts.items())
            if name.startswith("dropped: ")
        },
        "broken": sum(share.broken for share in shares),
        "corpus": work.corpus.name,
        "encoder": ", ".join(encoders),
        "checked": counts["checked"],
    }


def _save(parts: Path, processes: int, out: Path) -> None:
    """Bring the processes' chunks together, in the corpus' order, in the form `datasets` reads."""
    import datasets
    import pyarrow as pa

    sources = [pa.memory_map(str(_part(parts, index))) for index in range(processes)]
    held = [list(pa.ipc.open_stream(source)) for source in sources]
    batches = [held[number % processes][number // processes] for number in range(sum(map(len, held)))]
    quiet = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset(pa.Table.from_batches(batches)).save_to_disk(out)
    finally:
        if quiet:
            datasets.enable_progress_bars()
