"""Attention for several rows packed into one sequence: each token attends to its own row only.

A padded batch computes its padding too. Packed rows need no padding: torch's `scaled_dot_product_attention` computes
attention for one row at a time, without a mask. A row may also continue the first tokens of an earlier row: two
replies then share one prompt, and the prompt is computed once.

The function is registered as one of transformers' attention functions. It is active inside `segmented` only; all other
calls use the model's own attention.
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


class CannotPack(Exception):
    """The rows of this model cannot be packed."""


class Segment(NamedTuple):
    """A row, or a part of one, in the packed sequence."""

    length: int
    """Tokens."""
    parent: int | None = None
    """Index of the earlier segment (the parent) whose first tokens this segment continues; null: no prefix."""
    prefix: int = 0
    """Number of the parent's first tokens that precede this segment."""


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
    """Causal attention within each segment and its prefix.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, size); `key` and `value` may have fewer heads.
        key: see `query`.
        value: see `query`.
        attention_mask: unused; transformers creates no mask for a custom attention function.
        segments: in order; together they cover all tokens.
        scaling: factor of the attention scores; null: one over the square root of `size`.
        dropout: share of the weights dropped.
        sliding_window: tokens that each token attends to at most, itself included; null: all before it.
        softcap: refused, as are `s_aux` and `position_bias`.
        s_aux: refused.
        position_bias: refused.

    Returns:
        (1, tokens, heads, size), and null for the attention weights.

    Raises:
        CannotPack: the model's attention has a feature that is not supported here.
    """
    if not (softcap is None and s_aux is None and position_bias is None):
        raise CannotPack
    # Autocast leaves rotated queries and keys in float32, which a `CausalBias` mask does not take.
    query, key = query.to(value.dtype), key.to(value.dtype)
    lengths = [segment.length for segment in segments]
    # `split` instead of slices: the gradient of each slice would be as large as the whole sequence.
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    shares_keys = query.shape[1] != key.shape[1]
    outputs = []
    for number, segment in enumerate(segments):
        own_key, own_value = keys[number], values[number]
        if segment.parent is not None:
            before = (states[segment.parent][:, :, : segment.prefix] for states in (keys, values))
            own_key, own_value = (
                torch.cat((prefix, own), dim=2)
                for prefix, own in zip(before, (own_key, own_value), strict=True)
            )
        mask = _mask(segment.length, own_key.shape[2], sliding_window, query.device)
        output = scaled_dot_product_attention(
            queries[number],
            own_key,
            own_value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=shares_keys,
        )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Any:
    """The mask of the last `queries` of `keys` tokens; null: plain causal attention."""
    if window is not None and keys > window:
        places = torch.arange(keys, device=device)
        back = places[keys - queries :, None] - places[None, :]
        return (back >= 0) & (back < window)
    return None if queries == keys else causal_lower_right(queries, keys)


AttentionInterface.register(NAME, attend)


@contextmanager
def segmented(model: Any, flash: bool = False) -> Iterator[None]:
    """Make a model use this attention, or FlashAttention if no row has a prefix. Pass the arguments from `layout`."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = FLASH if flash else NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def layout(segments: Sequence[Segment], flash: bool = False, device: Any = None) -> dict[str, Any]:
    """Arguments for a model call inside `segmented`: the places of the rows in the packed sequence."""
    if not flash:
        return {"segments": segments}
    longest = max(segment.length for segment in segments)
    ends = torch.tensor([0, *(segment.length for segment in segments)], device=device).cumsum(0)
    ends = ends.to(torch.int32)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def has_flash() -> bool:
    """Whether FlashAttention is installed and there is a GPU for it."""
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def positions(segments: Sequence[Segment], device: Any = None) -> torch.Tensor:
    """The position of each token in its own row, as (1, tokens)."""
    each = [torch.arange(s.prefix, s.prefix + s.length, device=device) for s in segments]
    return torch.cat(each)[None]
