"""Rows of an optimizer step → parts of at most so many tokens, computed one after the other.

Rows are joined without padding where the model can take them so (`attention`); otherwise those of like length are
padded together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from maieutic.chat_templates import IGNORED
from maieutic.train.attention import Segment, places

Row = dict[str, Any]
"""`input_ids` and `labels` (-100 outside the loss), equally long."""


class Part(NamedTuple):
    """Rows to compute together, as (1, tokens) where they are joined, else as (rows, tokens)."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    """Each token's place in its own row."""
    segments: tuple[Segment, ...] | None
    """The rows, where they are joined."""
    asked: torch.Tensor
    """Numbers of the positions, of all rows, whose next token is in the loss."""
    targets: torch.Tensor
    """Those next tokens."""


def parts(rows: Sequence[Row], most: int, joined: bool = True, device: Any = None) -> list[Part]:
    """The rows in parts of at most `most` tokens, padding counted; a longer row is a part by itself."""
    if joined:
        return [join([rows[number] for number in each], device) for each in bins(_lengths(rows), most)]
    ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
    found: list[Part] = []
    while ordered:
        together = max(1, most // len(ordered[0]["input_ids"]))
        found.append(pad(ordered[:together], device))
        ordered = ordered[together:]
    return found


def bins(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of rows to compute together: longest first, each where it first fits; a longer one stands alone.

    Args:
        lengths: tokens of each row.
        most: tokens of all rows of a bin.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = next((place for place, left in enumerate(room) if left >= lengths[number]), len(room))
        if place == len(room):
            found.append([])
            room.append(most)
        found[place].append(number)
        room[place] -= lengths[number]
    return found


def shares(lengths: Sequence[int], among: int) -> list[list[int]]:
    """Numbers of rows for each of so many processes: longest first, each to the one that has the fewest tokens."""
    found: list[list[int]] = [[] for _ in range(among)]
    tokens = [0] * among
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = tokens.index(min(tokens))
        found[place].append(number)
        tokens[place] += lengths[number]
    return found


def join(rows: Sequence[Row], device: Any = None) -> Part:
    """Rows one after the other in one sequence."""
    ids = torch.cat([torch.as_tensor(row["input_ids"], dtype=torch.long) for row in rows])
    segments = tuple(map(Segment, _lengths(rows)))
    following = torch.cat([_following(row) for row in rows])
    asked = (following != IGNORED).nonzero()[:, 0]
    moved = (ids[None], places(segments), asked, following[asked])
    input_ids, position_ids, asked, targets = (each.to(device) for each in moved)
    return Part(input_ids, position_ids, segments, asked, targets)


def pad(rows: Sequence[Row], device: Any = None) -> Part:
    """Rows filled up at their ends to the longest; what fills them is seen by nothing before it."""
    longest = max(_lengths(rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    following = torch.full((len(rows), longest), IGNORED)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[number, :length] = torch.as_tensor(row["input_ids"], dtype=torch.long)
        following[number, :length] = _following(row)
    following = following.flatten()
    asked = (following != IGNORED).nonzero()[:, 0]
    positions = torch.arange(longest).expand(len(rows), -1)
    moved = (ids, positions, asked, following[asked])
    input_ids, position_ids, asked, targets = (each.to(device) for each in moved)
    return Part(input_ids, position_ids, None, asked, targets)


def _following(row: Row) -> torch.Tensor:
    """The label of the token after each; none after the last, since what stands there is another row."""
    labels = torch.as_tensor(row["labels"], dtype=torch.long)
    return torch.cat((labels[1:], labels.new_full((1,), IGNORED)))


def _lengths(rows: Sequence[Row]) -> list[int]:
    return [len(row["input_ids"]) for row in rows]
