"""Preference pairs → sequences in which a pair's prompt is computed once for both replies.

A joined pair is its prompt with the chosen reply after it, and the rejected reply as a segment that goes on from the
prompt's tokens. Where a model cannot take that, each reply follows its own copy of the prompt and rows are padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from maieutic.chat_templates import IGNORED
from maieutic.train.attention import Segment, places
from maieutic.train.packing import Part, bins, pad

Pair = Mapping[str, Any]
"""`prompt_ids`, `chosen_ids` and `rejected_ids`."""


class Replies(NamedTuple):
    """Pairs to compute together."""

    part: Part
    """Asked for are the tokens of each pair's chosen and rejected reply, one after the other."""
    lengths: list[int]
    """Tokens of each reply: chosen, rejected, chosen, ..."""
    numbers: list[int]
    """The pairs, by their place among those given."""


def plan(
    pairs: Sequence[Pair], room: int, most: int | None = None, joined: bool = True, at_least: int = 1
) -> list[list[int]]:
    """Numbers of pairs to compute together.

    Args:
        pairs: of an optimizer step, or of a whole data set.
        room: tokens computed together; a longer pair stands alone.
        most: pairs computed together; null: as many as there is room for.
        joined: whether prompts are computed once.
        at_least: parts to make where there are as many pairs: every process has to make as many passes.
    """
    found = [
        each[start : start + (most or len(each))]
        for each in bins([cost(pair, joined) for pair in pairs], room)
        for start in range(0, len(each), most or len(each))
    ]
    while len(found) < min(at_least, len(pairs)):
        longest = max(found, key=len)
        found.remove(longest)
        found += [longest[::2], longest[1::2]]
    return found


def cost(pair: Pair, joined: bool = True) -> int:
    """Tokens to compute for a pair."""
    prompt, *replies = (len(pair[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    return prompt + sum(replies) if joined else 2 * (prompt + max(replies))


def lay_out(
    pairs: Sequence[Pair], numbers: Sequence[int], joined: bool = True, device: Any = None
) -> Replies:
    """The pairs at these numbers, to be computed together."""
    chosen = [pairs[number] for number in numbers]
    lengths = [len(pair[name]) for pair in chosen for name in ("chosen_ids", "rejected_ids")]
    part = _join(chosen, device) if joined else _pad(chosen, device)
    return Replies(part, lengths, list(numbers))


def _join(pairs: Sequence[Pair], device: Any) -> Part:
    ids: list[torch.Tensor] = []
    segments: list[Segment] = []
    asked: list[torch.Tensor] = []
    offset = 0
    for pair in pairs:
        prompt, chosen, rejected = _ids(pair)
        shared, first, second = len(prompt), len(chosen), len(rejected)
        after = offset + shared + first
        ids += [prompt, chosen, rejected]
        segments += [Segment(shared + first), Segment(second, len(segments), shared)]
        # The prompt's last token says the first of both replies.
        asked.append(torch.arange(offset + shared - 1, after - 1))
        asked.append(torch.tensor([offset + shared - 1]))
        asked.append(torch.arange(after, after + second - 1))
        offset = after + second
    targets = torch.cat([reply for pair in pairs for reply in _ids(pair)[1:]])
    moved = (torch.cat(ids)[None], places(segments), torch.cat(asked), targets)
    input_ids, position_ids, at, targets = (each.to(device) for each in moved)
    return Part(input_ids, position_ids, tuple(segments), at, targets)


def _pad(pairs: Sequence[Pair], device: Any) -> Part:
    rows = []
    for pair in pairs:
        prompt, *replies = _ids(pair)
        for reply in replies:
            labels = torch.cat((torch.full_like(prompt, IGNORED), reply))
            rows.append({"input_ids": torch.cat((prompt, reply)), "labels": labels})
    return pad(rows, device)


def _ids(pair: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    prompt, chosen, rejected = (
        torch.as_tensor(pair[name], dtype=torch.long) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    return prompt, chosen, rejected


def totals(values: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over each chosen and over each rejected reply of a value for each reply token."""
    sums = torch.nn.utils.rnn.pad_sequence(values.split(list(lengths)), batch_first=True).sum(1)
    return sums[0::2], sums[1::2]
