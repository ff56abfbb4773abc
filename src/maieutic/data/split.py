"""Train, validation and test by a hash of what belongs together: nothing is shuffled, so nothing moves later on.

A conversation's part depends on its group alone (its problem, its user, or its own content), never on the rest of the
corpus. Only content decides otherwise: a conversation seen before goes where it went before, so the same content never
stands in two parts, whoever it came from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.data.corpus import identity, line, read_corpus, refuse_source, replacing_all
from maieutic.data.reading import BadRows
from maieutic.errors import InputError
from maieutic.types import Conversation, Problem, fingerprint

PARTS = ("train", "validation", "test")


class By(StrEnum):
    """What must not be torn apart."""

    CONVERSATION = "conversation"
    PROBLEM = "problem"
    USER = "user"


@dataclass
class SplitReport:
    """Counts; full once the split conversations are consumed."""

    by: By
    counts: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    alone: int = 0
    """Conversations without a user or a problem to go by, grouped by their own content."""
    moved: int = 0
    """Conversations that went to the part of their equal instead of their group's."""
    bad: BadRows = field(default_factory=BadRows)

    def json(self) -> dict[str, Any]:
        """`{"by", "counts": {part: n}, "groups": {part: n}, "alone", "moved", "bad"}`."""
        return {
            "by": self.by.value,
            "counts": {part: self.counts[part] for part in PARTS},
            "groups": {part: self.groups[part] for part in PARTS},
            "alone": self.alone,
            "moved": self.moved,
            "bad": self.bad.json(),
        }


class Placed(NamedTuple):
    """A conversation and the part it belongs to."""

    part: str
    conversation: Conversation


def split(
    conversations: Iterable[Conversation],
    by: str = "conversation",
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    seed: int = 0,
    report: SplitReport | None = None,
) -> Iterator[Placed]:
    """Place each conversation, streaming and in order.

    Args:
        conversations: any.
        by: `conversation` (paths of one message tree stay together), `problem` (same statement and program) or
            `user`. A conversation without a problem or a user goes by its own content.
        parts: shares of train, validation and test, summing to 1; of groups, so of conversations about.
        seed: another one gives another split.
        report: filled on the way.

    Raises:
        InputError: `by` or `parts` is not what it should be.
    """
    kind, bounds = _by(by), _bounds(parts)
    return _placed(conversations, kind, bounds, seed, report or SplitReport(kind))


def _placed(
    conversations: Iterable[Conversation], by: By, bounds: tuple[float, float], seed: int, report: SplitReport
) -> Iterator[Placed]:
    part_of_content: dict[bytes, str] = {}
    groups: set[bytes] = set()
    for conversation in conversations:
        content = identity(conversation)
        key = group(conversation, by)
        report.alone += key is None and by != By.CONVERSATION
        hashed = bytes.fromhex(fingerprint([seed, by.value, key or _own(conversation, content)]))
        at = int.from_bytes(hashed[:8]) / 2**64
        own = PARTS[0] if at < bounds[0] else PARTS[1] if at < bounds[1] else PARTS[2]
        part = part_of_content.setdefault(bytes.fromhex(content), own)
        if part == own and hashed not in groups:
            groups.add(hashed)
            report.groups[part] += 1
        report.moved += part != own
        report.counts[part] += 1
        yield Placed(part, conversation)


def _by(by: str) -> By:
    try:
        return By(by)
    except ValueError:
        raise InputError(f"no split by {by!r}", f"Known: {', '.join(By)}.") from None


def _bounds(parts: tuple[float, float, float]) -> tuple[float, float]:
    if len(parts) != 3 or min(parts) < 0 or abs(sum(parts) - 1) > 1e-6:
        raise InputError("the parts are not three shares that sum to 1", "Give for example 0.8,0.1,0.1.")
    train, validation, test = parts
    # Without a test part everything above train is validation, whatever rounding does to the sum.
    return train if validation + test else 1.0, train + validation if test else 1.0


def group(conversation: Conversation, by: By) -> str | None:
    """The key of what a conversation must stay together with, or None where there is nothing but itself."""
    if by == By.USER:
        return conversation.user_id
    return problem_key(conversation.problem) if by == By.PROBLEM else None


def _own(conversation: Conversation, content: str) -> list[str]:
    tree = conversation.meta.get("tree")
    return ["tree", tree] if isinstance(tree, str) else ["content", content]


_CODE = re.compile(
    r"^\s*(?:\d+\.\s*)?(?:def \w+\s*\(|class \w+|import \w+|from [\w.]+ import |#include|function \w*\s*\(|"
    r"(?:public|private|static) \w+|(?:for|while|if) .*[:{]\s*$|(?:const|let|var) \w+ ?=)",
    re.MULTILINE,
)


def program(problem: Problem) -> str | None:
    """The student's attempt where it is code. A wrong solution in words is the student's, not the problem's."""
    return problem.attempt if problem.attempt and _CODE.search(problem.attempt) else None


def problem_key(problem: Problem | None) -> str | None:
    """What makes two problems the same: statement and program, up to white space; None without either."""
    if problem is None:
        return None
    words = [" ".join(text.split()) for text in (problem.statement, program(problem) or "")]
    return fingerprint(words) if any(words) else None


def split_file(
    source: Path | str,
    out: Path | str,
    by: str = "conversation",
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1),
    *,
    seed: int = 0,
    overwrite: bool = False,
    strict: bool = False,
) -> SplitReport:
    """Split a corpus into `train.jsonl`, `validation.jsonl`, `test.jsonl` and `split.json` in the folder `out`.

    Raises:
        StoreError: one of them exists with other content, or is the source; then none is written.
    """
    source, out = Path(source), Path(out)
    report = SplitReport(_by(by), bad=BadRows(strict))
    paths = [*(out / f"{part}.jsonl" for part in PARTS), out / "split.json"]
    for path in paths:
        refuse_source(path, [source])
    placed = split(read_corpus(source, on_bad=report.bad), by, parts, seed=seed, report=report)
    with replacing_all(paths, overwrite=overwrite) as writers:
        write = dict(zip(PARTS, writers, strict=False))
        for part, conversation in placed:
            write[part](line(conversation.row()))
        method = {"method": "hash of the group", "source": str(source), "parts": list(parts), "seed": seed}
        writers[-1](orjson.dumps({**method, **report.json()}, option=orjson.OPT_INDENT_2) + b"\n")
    return report
