"""Forward passes of any causal language model of transformers: logits, draws from logits, and scores of given texts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax

from maieutic.chat_templates.rendering import IGNORED
from maieutic.core.errors import ContextFull, ModelError

_CACHE_NAMES = ("cache", "past_key_values")
"""The parameter's name in transformers since 5.24, and before."""


class Network:
    """A model in evaluation mode, and what decoding and scoring need to know about it."""

    def __init__(self, model: Any, pad_id: int = 0) -> None:
        self.model = model.eval()
        self.pad_id = pad_id
        self.device = model.device
        config = model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        """Positions that it can attend to; null where there is no limit."""
        self.passes = 0
        """Forward passes so far."""
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        # Of the class: a trainer may have replaced the instance's function.
        self._accepts = set(inspect.signature(type(model).forward).parameters)
        self._takes_cache = next((name for name in _CACHE_NAMES if name in self._accepts), "")
        if not self._takes_cache:
            raise ModelError(
                f"{type(model).__name__} keeps no key-value cache",
                "Use a decoder model that generates with a cache.",
            )

    def problem(self, ids: Sequence[int], room: int = 0) -> ModelError | None:
        """Why the model cannot read these ids with `room` further ids; null where it can."""
        if not ids:
            return ModelError("an empty prompt", "A model needs at least one token to continue.")
        if self.context is not None and len(ids) + room > self.context:
            return ContextFull(
                f"the conversation has {len(ids)} tokens and the model's context holds {self.context}",
                "Shorten it, or use a model with a longer context.",
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
            cache: a transformers cache, extended in place; null: without a cache.
            keep: the number of last positions whose logits are returned, or a tensor of positions.
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

    Temperature 0 takes the likeliest token. Otherwise the number, uniform in [0, 1), is looked up in the cumulative
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


def token_logprobs(
    network: Network, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_tokens: int = 4096
) -> list[list[float]]:
    """Natural-log probability of every supervised token, in order.

    Args:
        network: the model.
        rows: ids and labels of each text (a `Rendered` is one); tokens with label -100 are not scored.
        batch_tokens: positions, padding included, of one forward pass; a longer text gets a separate pass.

    Raises:
        ContextFull: a text is longer than the model's context.
    """
    wanted = [[i - 1 for i, label in enumerate(labels) if i and label != IGNORED] for _, labels in rows]
    results: list[list[float]] = [[] for _ in rows]
    for index, logprobs in _scored(network, [ids for ids, _ in rows], wanted, batch_tokens):
        labels = torch.tensor([rows[index][1][i + 1] for i in wanted[index]], device=network.device)
        results[index] = logprobs.gather(-1, labels[:, None])[:, 0].tolist()
    return results


def probabilities(
    network: Network,
    texts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    token: int,
    batch_tokens: int = 4096,
) -> list[list[float]]:
    """Probability of `token` as the one that follows each of the given positions of each text.

    Raises:
        ContextFull: a text is longer than the model's context.
    """
    results: list[list[float]] = [[] for _ in texts]
    for index, logprobs in _scored(network, texts, positions, batch_tokens):
        results[index] = logprobs[:, token].exp().tolist()
    return results


def _scored(
    network: Network, texts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[tuple[int, Any]]:
    """Each text with wanted positions, by its index, and log-probabilities `[positions, vocabulary]` there."""
    order = sorted((index for index in range(len(texts)) if positions[index]), key=lambda i: len(texts[i]))
    for index in order:
        if problem := network.problem(texts[index]):
            raise problem
    while order:
        size = 1
        while size < len(order) and len(texts[order[size]]) * (size + 1) <= batch_tokens:
            size += 1
        batch, order = order[:size], order[size:]
        logits, column = _logits(
            network, [texts[index] for index in batch], [positions[index] for index in batch]
        )
        for place, index in enumerate(batch):
            columns = torch.tensor([column[position] for position in positions[index]], device=network.device)
            yield index, log_softmax(logits[place, columns], -1)


def _logits(
    network: Network, texts: list[Sequence[int]], positions: list[Sequence[int]]
) -> tuple[Any, dict[int, int]]:
    """Logits at all positions that any text wants, and the column of each position.

    The model's own head makes them, not a product with its weights: some models scale or cap their logits.
    """
    device = network.device
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[network.pad_id] * (width - len(text))] for text in texts], device=device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=device)
    union = sorted({position for wanted in positions for position in wanted})
    where = torch.arange(width, device=device).expand(len(texts), -1)
    with torch.inference_mode():
        logits = network.logits(ids, mask, where, None, torch.tensor(union, device=device))
    return logits, {position: column for column, position in enumerate(union)}
