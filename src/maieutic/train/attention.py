"""Attention for rows that lie one after the other in one sequence: each token sees its own row only.

The usual way to train on rows of different lengths pads them to the longest, and computes the padding. Here rows are
joined instead, and attention is computed a row at a time by torch's `scaled_dot_product_attention`, which needs no
mask. A row may also go on from the first tokens of an earlier one, so that two replies share one prompt, computed once.

A model takes this as one of transformers' attention functions. It is in force inside `segmented` only: whatever is
generated or measured elsewhere uses the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "maieutic_segments"
FLASH = "flash_attention_2"


class CannotJoin(Exception):
    """This model's rows cannot be joined."""


class Segment(NamedTuple):
    """A row, or a part of one, in the joined sequence."""

    length: int
    """Tokens."""
    after: int | None = None
    """The number of an earlier segment that it goes on from; null: it starts by itself."""
    shared: int = 0
    """How many of that segment's first tokens come before its own."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Sequence[Segment],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment and what it goes on from.

    Args:
        module: the attention layer; tells how many query heads share a key.
        query: (1, heads, tokens, size); `key` and `value` may have fewer heads.
        key: see `query`.
        value: see `query`.
        attention_mask: unused; transformers makes none for an attention that is not its own.
        segments: they make up all tokens, in order.
        scaling: of the scores; null: one over the root of the size.
        dropout: share of the weights dropped.
        sliding_window: tokens that each sees at most, itself counted; null: all before it.
        softcap: refused, as are `s_aux` and `position_bias`.
        s_aux: refused.
        position_bias: refused.

    Returns:
        (1, tokens, heads, size), and no weights.

    Raises:
        CannotJoin: the model's attention is of a kind that this one is not.
    """
    if not (softcap is None and s_aux is None and position_bias is None):
        raise CannotJoin
    # Autocast leaves rotated queries and keys in float32, and comes too late for a mask of torch's own kind.
    query, key = query.to(value.dtype), key.to(value.dtype)
    lengths = [segment.length for segment in segments]
    # `split` and not slices: the gradient of a slice is as large as the whole sequence, once for each segment.
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    shares_keys = query.shape[1] != key.shape[1]
    outputs = []
    for number, segment in enumerate(segments):
        own_key, own_value = keys[number], values[number]
        if segment.after is not None:
            before = (states[segment.after][:, :, : segment.shared] for states in (keys, values))
            own_key, own_value = (
                torch.cat((shared, own), dim=2)
                for shared, own in zip(before, (own_key, own_value), strict=True)
            )
        mask = _mask(segment.length, own_key.shape[2], sliding_window, query.device)
        seen = scaled_dot_product_attention(
            queries[number],
            own_key,
            own_value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=shares_keys,
        )
        outputs.append(seen.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _mask(asking: int, seen: int, window: int | None, device: torch.device) -> Any:
    """What the last `asking` of `seen` tokens see; null: plainly all before them."""
    if window is not None and seen > window:
        places = torch.arange(seen, device=device)
        back = places[seen - asking :, None] - places[None, :]
        return (back >= 0) & (back < window)
    return None if asking == seen else causal_lower_right(asking, seen)


AttentionInterface.register(NAME, attend)


@contextmanager
def segmented(model: Any, flash: bool = False) -> Iterator[None]:
    """Let a model use this attention, or FlashAttention's for rows that share nothing; call it with `layout`."""
    config = model.config
    own = config._attn_implementation
    config._attn_implementation = FLASH if flash else NAME
    try:
        yield
    finally:
        config._attn_implementation = own


def layout(segments: Sequence[Segment], flash: bool = False, device: Any = None) -> dict[str, Any]:
    """The arguments of a model's call that say where its rows are, inside `segmented`."""
    if not flash:
        return {"segments": segments}
    longest = max(segment.length for segment in segments)
    ends = torch.tensor([0, *(segment.length for segment in segments)], device=device).cumsum(0)
    ends = ends.to(torch.int32)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def has_flash() -> bool:
    """Whether FlashAttention is installed, and a GPU for it there."""
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def places(segments: Sequence[Segment], device: Any = None) -> torch.Tensor:
    """The position of each token in its own row, as (1, tokens)."""
    each = [torch.arange(one.shared, one.shared + one.length, device=device) for one in segments]
    return torch.cat(each)[None]
