"""What a model thinks of texts that are already there: one forward pass a text, batched by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax

from maieutic.models.forward import Network

IGNORED = -100


def token_logprobs(
    network: Network, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_tokens: int = 4096
) -> list[list[float]]:
    """Natural-log probability of every supervised token, in order.

    Args:
        network: the model.
        rows: ids and labels of each text (a `Rendered` is one); where a label is -100 nothing is scored.
        batch_tokens: positions, padding included, of one forward pass; a longer text has a pass of its own.

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
    """Log-probabilities `[positions, vocabulary]` of each text of which any are wanted."""
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
    """Logits at every position that any text wants, and the column each stands in.

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
