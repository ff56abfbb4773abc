"""Log-probabilities of the tokens that a loss asks for, and of no others.

Most positions of a conversation are outside the loss. The output head, for a small model the largest matrix of all, is
applied to the others only, through the `logits_to_keep` that transformers' models take.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from maieutic.train.packing import Packed


class Asked(NamedTuple):
    """What a model says of the tokens asked for."""

    logps: torch.Tensor
    """Natural-log probabilities, float32, one a token."""
    right: torch.Tensor
    """Whether the token is the likeliest."""


def logps(model: Any, packed: Packed) -> Asked:
    """Log-probabilities of `packed.targets`; inside `segmented`."""
    logits = model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        segments=packed.segments,
        logits_to_keep=packed.asked,
        use_cache=False,
    ).logits[0]
    found = -cross_entropy(logits.float(), packed.targets, reduction="none")
    return Asked(found, logits.detach().argmax(-1) == packed.targets)
