"""Log-probabilities of the tokens that a loss asks for, and of no others.

Most positions of a conversation are outside the loss. The output head, for a small model the largest matrix of all, is
applied to the others only, through the `logits_to_keep` that transformers' models take.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from maieutic.train.attention import CannotJoin, layout, segmented
from maieutic.train.packing import Part, join

_FULL = {"full_attention", "sliding_attention"}
"""Kinds of layers whose attention is this one."""
_HANDS_ITS_WINDOW_ON = {"gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3"}
"""Model types known to tell the attention function how far a layer sees; others may tell it in a mask only."""


class Asked(NamedTuple):
    """What a model says of the tokens asked for."""

    logps: torch.Tensor
    """Natural-log probabilities, float32, one a token."""
    right: torch.Tensor
    """Whether the token is the likeliest."""


def logps(model: Any, part: Part, flash: bool = False) -> Asked:
    """Log-probabilities of `part.targets`; of joined rows inside `segmented` only, `flash` as there."""
    if part.segments is None:
        logits = model(input_ids=part.input_ids, position_ids=part.position_ids, use_cache=False).logits
        logits = logits.flatten(0, 1)[part.asked]
    else:
        logits = model(
            input_ids=part.input_ids,
            position_ids=part.position_ids,
            logits_to_keep=part.asked,
            use_cache=False,
            **layout(part.segments, flash, part.input_ids.device),
        ).logits[0]
    found = -cross_entropy(logits.float(), part.targets, reduction="none")
    return Asked(found, logits.detach().argmax(-1) == part.targets)


def joins(model: Any, longest: int) -> bool:
    """Whether a model says the same of joined rows as of each alone; told by its kind, then by trying two.

    Args:
        model: not yet wrapped by anything.
        longest: tokens of the longest row.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if (
        not model._supports_attention_backend
        or "logits_to_keep" not in inspect.signature(model.forward).parameters
        or not _FULL.issuperset(getattr(config, "layer_types", None) or ["full_attention"])
        or getattr(config, "output_router_logits", False)
        or (window and window < longest and config.model_type not in _HANDS_ITS_WINDOW_ON)
    ):
        return False
    ids = torch.arange(24) * 7919 % config.vocab_size
    rows = [{"input_ids": one, "labels": one} for one in (ids[:13], ids[13:])]
    with torch.no_grad():
        alone = torch.cat([logps(model, join([row])._replace(segments=None)).logps for row in rows])
        try:
            with segmented(model):
                joined = logps(model, join(rows)).logps
        except CannotJoin:
            return False
    # What a token of another row would change is as large as what tokens say; what rounding changes is not.
    return bool((joined - alone).abs().max() < 0.05 * alone.std())
