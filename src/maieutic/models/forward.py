"""One forward pass of any causal language model of transformers, and the draw of a token from its logits."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from maieutic.core.errors import ContextFull, ModelError

_CACHE_NAMES = ("cache", "past_key_values")
"""What transformers' models call the cache they are given, since 5.24 and before."""


class Network:
    """A model in evaluation mode, with what decoding and scoring need to know of it."""

    def __init__(self, model: Any, pad_id: int = 0) -> None:
        self.model = model.eval()
        self.pad_id = pad_id
        self.device = model.device
        config = model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        """Positions it can attend to; null where it has no limit."""
        self.passes = 0
        """Forward passes so far."""
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        # Of its class: a trainer may have put a function of its own in place of the model's.
        self._accepts = set(inspect.signature(type(model).forward).parameters)
        self._takes_cache = next((name for name in _CACHE_NAMES if name in self._accepts), "")
        if not self._takes_cache:
            raise ModelError(
                f"{type(model).__name__} keeps no key-value cache",
                "Take a decoder model that generates with one.",
            )

    def problem(self, ids: Sequence[int], room: int = 0) -> ModelError | None:
        """Why the model cannot read these ids, with room for so many more; null where it can."""
        if not ids:
            return ModelError("an empty prompt", "A model needs at least one token to go on from.")
        if self.context is not None and len(ids) + room > self.context:
            return ContextFull(
                f"the conversation has {len(ids)} tokens and the model's context holds {self.context}",
                "Shorten it, or take a model with a longer context.",
            )
        if max(ids) >= self._vocabulary:
            return ModelError(
                f"token {max(ids)} is beyond the model's {self._vocabulary} embeddings",
                "The tokenizer and the weights do not belong together.",
            )
        return None

    def logits(self, ids: Any, mask: Any, positions: Any, cache: Any = None, keep: Any = 1) -> Any:
        """Logits in float32, or in float64 where the weights are, `[rows, kept, vocabulary]`.

        Args:
            ids: `[rows, new]`.
            mask: `[rows, cached + new]`, 0 where padded.
            positions: `[rows, new]`.
            cache: a transformers cache, extended in place; null for a pass of its own.
            keep: how many of the last positions, or a tensor of positions.
        """
        given = {"position_ids": positions, self._takes_cache: cache, "use_cache": cache is not None}
        slices = "logits_to_keep" in self._accepts
        if slices:
            given["logits_to_keep"] = keep
        given = {name: value for name, value in given.items() if name in self._accepts}
        self.passes += 1
        logits = self.model(input_ids=ids, attention_mask=mask, **given).logits
        if not slices:
            logits = logits[:, -keep:] if isinstance(keep, int) else logits[:, keep]
        return logits if logits.dtype == torch.float64 else logits.float()


def sample(
    logits: Any, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]
) -> list[int]:
    """A token for each row of `logits` `[rows, vocabulary]`, by its own temperature, top-p and random number.

    Temperature 0 takes the likeliest. Otherwise the number, uniform in [0, 1), is looked up in the cumulative
    distribution in vocabulary order, which rounding disturbs least.

    Raises:
        ModelError: a logit is not a number.
    """
    greedy = logits.argmax(-1)
    if torch.isnan(logits).any():
        raise ModelError(
            "the model's output is not a number", "Its weights are damaged, or its dtype overflows."
        )
    if not any(temperatures):
        return list(greedy.tolist())
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    heat = torch.tensor([max(t, 1e-5) for t in temperatures], device=logits.device)
    probabilities = torch.softmax(logits / heat[:, None], -1)
    if any(top_p < 1 for top_p in top_ps):
        mass = torch.tensor(list(top_ps), device=logits.device)[:, None]
        probabilities = torch.where(probabilities >= _cutoff(probabilities, mass), probabilities, 0.0)
    steps = probabilities.to(exact).cumsum(-1)
    aim = torch.tensor(list(uniforms), dtype=exact, device=logits.device)[:, None] * steps[:, -1:]
    drawn = torch.searchsorted(steps, aim, right=True).clamp(max=logits.shape[-1] - 1)[:, 0]
    possible = probabilities.gather(-1, drawn[:, None])[:, 0] > 0
    hot = torch.tensor([t > 0 for t in temperatures], device=logits.device)
    return list(torch.where(hot & possible, drawn, greedy).tolist())


def _cutoff(probabilities: Any, mass: Any) -> Any:
    """The probability `[rows, 1]` of the last token inside each row's top-p; 0 where top-p is 1.

    Nearly always the few likeliest tokens hold the mass, and a whole vocabulary need not be sorted.
    """
    vocabulary, size = probabilities.shape[-1], 128
    while True:
        ranked = probabilities.topk(min(size, vocabulary), -1).values
        held = ranked.cumsum(-1)
        if size >= vocabulary or bool(((held[:, -1:] >= mass) | (mass >= 1)).all()):
            break
        size *= 8
    inside = (held - ranked < mass).sum(-1, keepdim=True)
    return torch.where(mass >= 1, 0.0, ranked.gather(-1, inside - 1))
