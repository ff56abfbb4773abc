"""Divide the rows or pairs of an optimizer step into micro-batches, and compute their log-probabilities.

Rows are packed into one sequence without padding where the model supports it (`attention`); otherwise rows of similar
length are padded together. A packed pair is its prompt with the chosen reply, and the rejected reply as a segment that
continues the prompt's tokens: the prompt is computed once. Without packing each reply follows its own
copy of the prompt.

Most tokens of a conversation are outside the loss. The output head, the largest matrix of a small model, is applied
only to the tokens in the loss, through the argument `logits_to_keep` of transformers' models.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from maieutic.chat_templates.rendering import IGNORED
from maieutic.train.attention import CannotPack, Segment, layout, positions, segmented

Row = dict[str, Any]
"""`input_ids` and `labels` (-100 outside the loss), equally long."""
Pair = Mapping[str, Any]
"""`prompt_ids`, `chosen_ids` and `rejected_ids`."""

_ATTENTION_KINDS = {"full_attention", "sliding_attention"}
"""Kinds of layers that `attention.attend` can compute."""
_WINDOW_IS_PASSED = {"gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3"}
"""Model types known to pass a layer's window to the attention function; others may put it into a mask only."""


class MicroBatch(NamedTuple):
    """Rows that are computed together: (1, tokens) if packed, else (rows, tokens)."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    """Each token's position in its own row."""
    segments: tuple[Segment, ...] | None
    """The packed rows; null: padded."""
    positions: torch.Tensor
    """Indices, over all rows, of the positions whose next token is in the loss."""
    targets: torch.Tensor
    """The next tokens at these positions."""


class PairBatch(NamedTuple):
    """Preference pairs that are computed together."""

    batch: MicroBatch
    """Its targets are the tokens of each pair's chosen and rejected reply, one after the other."""
    lengths: list[int]
    """Tokens of each reply: chosen, rejected, chosen, ..."""


class TokenLogps(NamedTuple):
    """A model's predictions for the targets of a micro-batch."""

    logps: torch.Tensor
    """Natural-log probability of each target, float32."""
    correct: torch.Tensor
    """Whether each target is the most likely token."""


def micro_batches(
    rows: Sequence[Row], max_tokens: int, packed: bool = True, device: Any = None
) -> list[MicroBatch]:
    """The rows in micro-batches of at most `max_tokens` tokens, padding included; a longer row gets its own."""
    if packed:
        return [
            pack_rows([rows[index] for index in each], device) for each in bins(_lengths(rows), max_tokens)
        ]
    ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
    found: list[MicroBatch] = []
    while ordered:
        together = max(1, max_tokens // len(ordered[0]["input_ids"]))
        found.append(pad_rows(ordered[:together], device))
        ordered = ordered[together:]
    return found


def bins(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of rows to pack together: the longest first, each into the first bin with enough space.

    Args:
        lengths: tokens of each row.
        max_tokens: maximum tokens of all rows in a bin; a longer row gets its own bin.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for index in _longest_first(lengths):
        place = next((place for place, left in enumerate(room) if left >= lengths[index]), len(room))
        if place == len(room):
            found.append([])
            room.append(max_tokens)
        found[place].append(index)
        room[place] -= lengths[index]
    return found


def shares(lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Indices of the rows of each process: the longest first, each to the process with the fewest tokens so far."""
    found: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for index in _longest_first(lengths):
        place = tokens.index(min(tokens))
        found[place].append(index)
        tokens[place] += lengths[index]
    return found


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


def pack_rows(rows: Sequence[Row], device: Any = None) -> MicroBatch:
    """Rows one after the other in one sequence."""
    ids = torch.cat([torch.as_tensor(row["input_ids"], dtype=torch.long) for row in rows])
    segments = tuple(map(Segment, _lengths(rows)))
    following = torch.cat([_next_labels(row) for row in rows])
    supervised = (following != IGNORED).nonzero()[:, 0]
    return _on(device, ids[None], positions(segments), segments, supervised, following[supervised])


def pad_rows(rows: Sequence[Row], device: Any = None) -> MicroBatch:
    """Rows padded at their ends to the longest; no token attends to the padding after it."""
    longest = max(_lengths(rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    following = torch.full((len(rows), longest), IGNORED)
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[index, :length] = torch.as_tensor(row["input_ids"], dtype=torch.long)
        following[index, :length] = _next_labels(row)
    following = following.flatten()
    supervised = (following != IGNORED).nonzero()[:, 0]
    places = torch.arange(longest).expand(len(rows), -1)
    return _on(device, ids, places, None, supervised, following[supervised])


def _on(
    device: Any,
    ids: torch.Tensor,
    places: torch.Tensor,
    segments: tuple[Segment, ...] | None,
    supervised: torch.Tensor,
    targets: torch.Tensor,
) -> MicroBatch:
    ids, places, supervised, targets = (each.to(device) for each in (ids, places, supervised, targets))
    return MicroBatch(ids, places, segments, supervised, targets)


def _next_labels(row: Row) -> torch.Tensor:
    """The label of each token's next token; ignored for the last token, which another row follows."""
    labels = torch.as_tensor(row["labels"], dtype=torch.long)
    return torch.cat((labels[1:], labels.new_full((1,), IGNORED)))


def _lengths(rows: Sequence[Row]) -> list[int]:
    return [len(row["input_ids"]) for row in rows]


def plan_pairs(
    pairs: Sequence[Pair],
    max_tokens: int,
    max_pairs: int | None = None,
    packed: bool = True,
    at_least: int = 1,
) -> list[list[int]]:
    """Indices of the pairs of each micro-batch.

    Args:
        pairs: of an optimizer step, or of a whole data set.
        max_tokens: maximum tokens of a micro-batch; a longer pair gets its own micro-batch.
        max_pairs: maximum pairs of a micro-batch; null: no limit.
        packed: whether prompts are computed once.
        at_least: minimum number of micro-batches, if there are enough pairs: all processes need equally many passes.
    """
    found = [
        each[start : start + (max_pairs or len(each))]
        for each in bins([pair_tokens(pair, packed) for pair in pairs], max_tokens)
        for start in range(0, len(each), max_pairs or len(each))
    ]
    while len(found) < min(at_least, len(pairs)):
        longest = max(found, key=len)
        found.remove(longest)
        found += [longest[::2], longest[1::2]]
    return found


def pair_tokens(pair: Pair, packed: bool = True) -> int:
    """Tokens that are computed for a pair."""
    prompt, *replies = (len(pair[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    return prompt + sum(replies) if packed else 2 * (prompt + max(replies))


def pair_batch(
    pairs: Sequence[Pair], indices: Sequence[int], packed: bool = True, device: Any = None
) -> PairBatch:
    """The pairs at these indices as one micro-batch."""
    some = [pairs[index] for index in indices]
    lengths = [len(pair[name]) for pair in some for name in ("chosen_ids", "rejected_ids")]
    return PairBatch(_pack_pairs(some, device) if packed else _pad_pairs(some, device), lengths)


def _pack_pairs(pairs: Sequence[Pair], device: Any) -> MicroBatch:
    ids: list[torch.Tensor] = []
    segments: list[Segment] = []
    supervised: list[torch.Tensor] = []
    offset = 0
    for pair in pairs:
        prompt, chosen, rejected = _ids(pair)
        shared, first, second = len(prompt), len(chosen), len(rejected)
        after = offset + shared + first
        ids += [prompt, chosen, rejected]
        segments += [Segment(shared + first), Segment(second, len(segments), shared)]
        # The prompt's last token predicts the first token of both replies.
        supervised.append(torch.arange(offset + shared - 1, after - 1))
        supervised.append(torch.tensor([offset + shared - 1]))
        supervised.append(torch.arange(after, after + second - 1))
        offset = after + second
    targets = torch.cat([reply for pair in pairs for reply in _ids(pair)[1:]])
    return _on(
        device, torch.cat(ids)[None], positions(segments), tuple(segments), torch.cat(supervised), targets
    )


def _pad_pairs(pairs: Sequence[Pair], device: Any) -> MicroBatch:
    rows = []
    for pair in pairs:
        prompt, *replies = _ids(pair)
        for reply in replies:
            labels = torch.cat((torch.full_like(prompt, IGNORED), reply))
            rows.append({"input_ids": torch.cat((prompt, reply)), "labels": labels})
    return pad_rows(rows, device)


def _ids(pair: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    prompt, chosen, rejected = (
        torch.as_tensor(pair[name], dtype=torch.long) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    return prompt, chosen, rejected


def reply_sums(values: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums over each chosen and over each rejected reply, of a value for each reply token."""
    sums = torch.nn.utils.rnn.pad_sequence(values.split(list(lengths)), batch_first=True).sum(1)
    return sums[0::2], sums[1::2]


def token_logps(model: Any, batch: MicroBatch, flash: bool = False) -> TokenLogps:
    """Log-probabilities of `batch.targets`. Packed rows need `attention.segmented`; `flash` as there."""
    if batch.segments is None:
        logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
        logits = logits.flatten(0, 1)[batch.positions]
    else:
        logits = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            logits_to_keep=batch.positions,
            use_cache=False,
            **layout(batch.segments, flash, batch.input_ids.device),
        ).logits[0]
    logps = -cross_entropy(logits.float(), batch.targets, reduction="none")
    return TokenLogps(logps, logits.detach().argmax(-1) == batch.targets)


def supports_packing(model: Any, longest: int) -> bool:
    """Whether packed rows get the same log-probabilities as separate rows: checks the model's type, then runs a test.

    Args:
        model: without wrappers such as PEFT's or accelerate's.
        longest: tokens of the longest row.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if (
        not model._supports_attention_backend
        or "logits_to_keep" not in inspect.signature(model.forward).parameters
        or not _ATTENTION_KINDS.issuperset(getattr(config, "layer_types", None) or ["full_attention"])
        or getattr(config, "output_router_logits", False)
        or (window and window < longest and config.model_type not in _WINDOW_IS_PASSED)
    ):
        return False
    ids = torch.arange(24) * 7919 % config.vocab_size
    rows = [{"input_ids": some, "labels": some} for some in (ids[:13], ids[13:])]
    with torch.no_grad():
        alone = torch.cat(
            [token_logps(model, pack_rows([row])._replace(segments=None)).logps for row in rows]
        )
        try:
            with segmented(model):
                packed = token_logps(model, pack_rows(rows)).logps
        except CannotPack:
            return False
    # A token of another row would change log-probabilities by as much as they vary; rounding changes them far less.
    return bool((packed - alone).abs().max() < 0.05 * alone.std())
