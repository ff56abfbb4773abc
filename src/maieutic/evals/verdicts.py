"""What the benchmarks' judges share: verdicts that a judged text cannot speak for the judge."""

from __future__ import annotations

import re
from collections.abc import Sequence

_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_WINNER = re.compile(r"\[\[([ABC])\]\]")


def rating(judgment: str, material: Sequence[str] = ()) -> float | None:
    """The rating a judge wrote: FastChat's rule, the first `[[x]]`, else the first `[x]`, else null.

    Where the judged `material` holds such a mark itself, the first may be a quotation: there the last one counts.
    """
    for pattern in _RATINGS:
        if marks := pattern.findall(judgment):
            return float(marks[-1] if _holds(material, pattern) else marks[0])
    return None


def winner(judgment: str, material: Sequence[str] = ()) -> str | None:
    """`A`, `B` or `C` as a judge wrote it: FastChat's rule, `[[A]]` before `[[B]]` before `[[C]]`, else null.

    Where the judged `material` holds such a mark itself, the last one in the judgment counts.
    """
    marks: list[str] = _WINNER.findall(judgment)
    if not marks:
        return None
    return marks[-1] if _holds(material, _WINNER) else min(marks)


def _holds(material: Sequence[str], pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(text) for text in material)
