"""A corpus dealt into disjoint parts of about one size: rounds that never see a problem twice, people for two students.

What belongs together (a problem, a person) goes to one part, by a seeded order of the groups; so any number of
parts can be had, and a part's size does not hang on the luck of a hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, fingerprint
from maieutic.data.corpus import identity, line, read_corpus, refuse_source, replacing_all
from maieutic.data.split import By, group

MOST = 64
"""Parts at most: their files have fixed names."""


class Dealt(NamedTuple):
    """What became of a corpus."""

    by: str
    parts: list[int]
    """Conversations of each part."""
    groups: list[int]
    """Problems or people of each; a conversation without one is a group of its own."""

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return self._asdict()


def file_name(number: int) -> str:
    """Of a part, from 1 on."""
    return f"part-{number}.jsonl"


def deal(
    corpus: Path | str,
    out: Path | str,
    *,
    parts: int,
    by: str = "problem",
    apart_from: Sequence[Path] = (),
    seed: int = 0,
    overwrite: bool = False,
) -> Dealt:
    """Write `part-1.jsonl`, `part-2.jsonl`, … into `out`, which share no problem, or no person.

    Args:
        corpus: what is dealt.
        out: the folder.
        parts: how many.
        by: what must not stand in two parts: `problem`, `user` or `conversation`.
        apart_from: corpora that hold none of the corpus's problems (or people), such as those that evaluate.
        seed: another one deals otherwise.
        overwrite: replace files that hold other parts.

    Raises:
        InputError: there are fewer groups than parts, or one stands in a corpus of `apart_from`.
    """
    if not 1 <= parts <= MOST:
        raise InputError(f"{parts} parts", f"Deal into 1 to {MOST}.")
    if by not in list(By):
        raise InputError(f"by {by!r} is not known", f"Use {', '.join(By)}.")
    groups = _groups(read_corpus(Path(corpus)), By(by))
    for other in apart_from:
        if shared := groups.keys() & _groups(read_corpus(other), By(by)).keys():
            raise InputError(
                f"{len(shared)} of {len(groups)} groups of {corpus} (by {by}) stand in {other} too",
                "Take them out of one of the two: what trains must not evaluate.",
            )
    if len(groups) < parts:
        raise InputError(
            f"{corpus}: {len(groups)} groups (by {by}) for {parts} parts", "Give more, or fewer parts."
        )
    order = sorted(groups, key=lambda key: fingerprint([seed, key]))
    heaps = [order[number::parts] for number in range(parts)]
    files = [Path(out) / file_name(number) for number in range(1, parts + 1)]
    for file in files:
        refuse_source(file, [corpus, *apart_from])
    with replacing_all(files, overwrite=overwrite) as writers:
        for heap, write in zip(heaps, writers, strict=True):
            for key in heap:
                for conversation in groups[key]:
                    write(line(conversation.row()))
    return Dealt(by, [sum(len(groups[key]) for key in heap) for heap in heaps], [len(heap) for heap in heaps])


def _groups(conversations: Iterable[Conversation], by: By) -> dict[str, list[Conversation]]:
    """The conversations by what belongs together, in their order."""
    found: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        found.setdefault(group(conversation, by) or identity(conversation), []).append(conversation)
    return found
