"""Rows of an optimizer step → joined sequences of at most so many tokens, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from maieutic.render import IGNORED
from maieutic.train.attention import Segment, places


class Packed(NamedTuple):
    """Rows joined into one sequence of `tokens`."""

    input_ids: torch.Tensor
    """1 × tokens."""
    position_ids: torch.Tensor
    """1 × tokens: each token's place in its own row."""
    segments: tuple[Segment, ...]
    asked: torch.Tensor
    """Places whose next token is in the loss."""
    targets: torch.Tensor
    """Those next tokens."""


def bins(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of rows to compute together: longest first, each where it first fits; a longer one stands alone.

    Args:
        lengths: tokens of each row.
        most: tokens of all rows of a bin.
    """
    found: list[list[int]] = []
    left: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = next((place for place, room in enumerate(left) if room >= lengths[number]), None)
        if place is None:
            found.append([])
            left.append(most)
            place = len(left) - 1
        found[place].append(number)
        left[place] -= lengths[number]
    return found


def pack(rows: Sequence[dict[str, Any]], device: Any = None) -> Packed:
    """Rows with `input_ids` and `labels` (-100 outside the loss) joined into one sequence."""
    ids = [torch.as_tensor(row["input_ids"], dtype=torch.long) for row in rows]
    segments = tuple(Segment(len(one)) for one in ids)
    following = []
    for row in rows:
        labels = torch.as_tensor(row["labels"], dtype=torch.long)
        # Nothing follows the last token of a row: what stands there is another row.
        following.append(torch.cat((labels[1:], labels.new_full((1,), IGNORED))))
    following = torch.cat(following)
    asked = (following != IGNORED).nonzero()[:, 0]
    moved = (torch.cat(ids)[None], places(segments), asked, following[asked])
    input_ids, position_ids, asked, targets = (each.to(device) for each in moved)
    return Packed(input_ids, position_ids, segments, asked, targets)
