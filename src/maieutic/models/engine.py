"""Decoding over token ids, in batches, for any causal language model of transformers.

Rows join and leave while the batch runs. A new request is prefilled separately and its cache is joined to the running
cache, padded on the left; a finished row leaves at once, so a step costs what the running rows cost. Requests with
the same prompt share one prefill, also when some arrive later. Each row draws from its own random numbers, so its
text depends on its seed and not on its neighbours, up to rounding.

The key-value cache grows without a copy at every token. transformers' own cache makes a new tensor for each drawn
token; with short steps that copy is most of the time (six sevenths of it for a model of 7 M parameters, 16 rows of
1,000 tokens, on a CPU).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch.nn.functional import log_softmax, pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from maieutic.core.errors import ModelError
from maieutic.core.messages import Finish
from maieutic.models.forward import Network, sample

PREFILL_TOKENS = 8192
"""Positions, padding included, of one prefill pass."""
HEADROOM = 64
"""Columns reserved ahead at least; a quarter of the used columns where that is more."""


class Request(NamedTuple):
    """A request to decode one reply."""

    ids: Sequence[int]
    """The prompt."""
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    end_id: int | None = None
    """The id of END; null where the model has none."""
    suppress_end: bool = False
    """Never draw `end_id` in this reply."""


class Generated(NamedTuple):
    """The result of a request."""

    ids: list[int]
    """The generated ids, without the stop id."""
    finish: Finish
    stopped_at: int | None = None
    """The stop or end id that was drawn; null where `max_tokens` was reached."""
    end_probability: float | None = None
    """Probability of `end_id` as the first token, at temperature 1 and before any suppression."""


class _Row:
    """A reply that is being decoded."""

    def __init__(self, ticket: int, request: Request, room: int) -> None:
        self.ticket = ticket
        self.request = request
        self.asked = tuple(request.ids)
        self.prompt = len(request.ids)
        self.limit = min(request.max_tokens, room)
        self.random = random.Random(f"maieutic {request.seed}")  # noqa: S311 (sampling is not cryptography)
        self.ids: list[int] = []
        self.end_probability: float | None = None
        self.first: Any = None
        """The logits of its first token, for later rows with the same prompt."""

    def take(self, token: int) -> Generated | None:
        """Append a sampled token; returns the result if the token ends the reply."""
        request = self.request
        if token == request.end_id:
            return Generated(self.ids, Finish.END, token, self.end_probability)
        if token in request.stop_ids:
            return Generated(self.ids, Finish.STOP, token, self.end_probability)
        self.ids.append(token)
        if len(self.ids) >= self.limit:
            return Generated(self.ids, Finish.LENGTH, None, self.end_probability)
        return None


class Engine:
    """A model and the rows that it decodes. Not safe for several threads.

    `generate` decodes a list of requests; `admit`, `step`, `collect` and `cancel` are for a caller whose requests
    arrive while others are decoded.
    """

    def __init__(self, model: Any, pad_id: int = 0) -> None:
        self.network = Network(model, pad_id)
        self._device = self.network.device
        self.joinable = joinable(model)
        """Whether rows may join while others are decoded; else all rows start together."""
        self._tickets = count()
        self._done: list[tuple[int, Generated | ModelError]] = []
        self._rows: list[_Row] = []
        self._cache: Any = None
        self._mask: Any = None

    @property
    def live(self) -> int:
        """Rows that are being decoded."""
        return len(self._rows)

    def generate(self, requests: Sequence[Request], batch: int = 64) -> list[Generated | ModelError]:
        """Decode all requests, at most `batch` rows at a time. A request that fails gets its error."""
        assert not self._rows, "rows of another caller are being decoded"
        self._done.clear()
        # Similar lengths together, and equal prompts, which share a prefill.
        prompts = [(len(request.ids), tuple(request.ids)) for request in requests]
        order = sorted(range(len(requests)), key=lambda index: prompts[index])
        owners: dict[int, int] = {}
        results: dict[int, Generated | ModelError] = {}
        while order or self._rows:
            if order and self.live < batch and (self.joinable or not self._rows):
                now, order = order[: batch - self.live], order[batch - self.live :]
                owners.update(zip(self.admit([requests[index] for index in now]), now, strict=True))
            self.step()
            results.update((owners[ticket], result) for ticket, result in self.collect())
        results.update((owners[ticket], result) for ticket, result in self.collect())
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is imported without its types
    def admit(self, requests: Sequence[Request]) -> list[int]:
        """Prefill requests, draw their first tokens and let them join; returns a ticket for each, in order."""
        tickets = [next(self._tickets) for _ in requests]
        by_prompt: dict[tuple[int, ...], list[_Row]] = {}
        for ticket, request in zip(tickets, requests, strict=True):
            if problem := self.network.problem(request.ids, room=1):
                self._done.append((ticket, problem))
                continue
            context = self.network.context
            room = request.max_tokens if context is None else context - len(request.ids)
            by_prompt.setdefault(tuple(request.ids), []).append(_Row(ticket, request, room))
        try:
            if self.joinable:
                for source, row in enumerate(list(self._rows)):
                    if late := by_prompt.pop(row.asked, None):
                        self._fork(source, late)
            for chunk in self._chunks(sorted(by_prompt, key=len)):
                self._prefill(chunk, [by_prompt[ids] for ids in chunk])
        except BaseException:
            self._forget()
            raise
        return tickets

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is imported without its types
    def step(self) -> None:
        """Draw one more token for every row."""
        if not self._rows:
            return
        try:
            ids = torch.tensor([[row.ids[-1]] for row in self._rows], device=self._device)
            positions = torch.tensor(
                [[row.prompt + len(row.ids) - 1] for row in self._rows], device=self._device
            )
            self._mask = pad(self._mask, (0, 1), value=1)
            logits = self.network.logits(ids, self._mask, positions, self._cache)[:, -1]
            self._keep(self._draw(self._rows, logits))
        except BaseException:
            self._forget()
            raise

    def collect(self) -> list[tuple[int, Generated | ModelError]]:
        """Replies that ended since the last call, with their tickets."""
        done, self._done = self._done, []
        return done

    def drawn(self, ticket: int) -> list[int]:
        """The ids that a row has so far."""
        return next((list(row.ids) for row in self._rows if row.ticket == ticket), [])

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is imported without its types
    def cancel(self, tickets: set[int]) -> None:
        """Drop rows whose results are no longer wanted."""
        if any(row.ticket in tickets for row in self._rows):
            self._keep([index for index, row in enumerate(self._rows) if row.ticket not in tickets])

    def _forget(self) -> None:
        self._rows, self._cache, self._mask = [], None, None

    def _chunks(self, prompts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Prompts of similar length together, sorted by length; all in one chunk where rows cannot join later."""
        chunk: list[tuple[int, ...]] = []
        for ids in prompts:
            wide = chunk and (
                len(ids) * (len(chunk) + 1) > PREFILL_TOKENS or len(ids) > 2 * len(chunk[0]) + 64
            )
            if wide and self.joinable:
                yield chunk
                chunk = []
            chunk.append(ids)
        if chunk:
            yield chunk

    def _prefill(self, prompts: list[tuple[int, ...]], owners: list[list[_Row]]) -> None:
        width = max(map(len, prompts))
        ids = [[self.network.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = new_cache(self.network.model)
        mask = mask.to(self._device)
        logits = self.network.logits(
            torch.tensor(ids, device=self._device), mask, positions.to(self._device), cache
        )[:, -1]
        rows = [row for group in owners for row in group]
        source = [index for index, group in enumerate(owners) for _ in group]
        for row, index in zip(rows, source, strict=True):
            row.first = logits[index]
        alive = self._draw(rows, logits[source])
        chosen = [source[index] for index in alive]
        if not alive:
            return
        if chosen != list(range(len(prompts))):
            self._select(cache, torch.tensor(chosen, device=self._device))
        self._join([rows[index] for index in alive], cache, mask[chosen])

    def _fork(self, source: int, rows: list[_Row]) -> None:
        """Let rows join that have the same prompt as the row at index `source`, whose keys and values are copied."""
        origin = self._rows[source]
        for row in rows:
            row.first = origin.first
        alive = self._draw(rows, origin.first.expand(len(rows), -1))
        if not alive:
            return
        start = self._mask.shape[1] - (origin.prompt + len(origin.ids) - 1)
        cache = new_cache(self.network.model)
        cache.layers = [
            layer.part([source] * len(alive), start, start + origin.prompt) for layer in self._cache.layers
        ]
        self._join([rows[index] for index in alive], cache, self._mask.new_ones(len(alive), origin.prompt))

    def _join(self, rows: list[_Row], cache: Any, mask: torch.Tensor) -> None:
        if self._rows:
            for ours, theirs in zip(self._cache.layers, cache.layers, strict=True):
                ours.join(theirs)
            width = max(mask.shape[1], self._mask.shape[1])
            mask = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (self._mask, mask)])
            cache = self._cache
        self._rows, self._cache, self._mask = self._rows + rows, cache, mask

    def _keep(self, alive: list[int]) -> None:
        """Continue with the rows at these indices only, without columns that none of them uses."""
        if len(alive) == len(self._rows):
            return
        self._rows = [self._rows[index] for index in alive]
        if not alive:
            self._forget()
            return
        chosen = torch.tensor(alive, device=self._device)
        self._select(self._cache, chosen)
        self._mask = self._mask[chosen]
        used = max(row.prompt + len(row.ids) - 1 for row in self._rows)
        if self.joinable and used < self._mask.shape[1]:
            for layer in self._cache.layers:
                layer.keep_last(used)
            self._mask = self._mask[:, -used:]

    def _select(self, cache: Any, rows: torch.Tensor) -> None:
        if not self.joinable:
            cache.reorder_cache(rows)
            return
        for layer in cache.layers:
            layer.select(rows)

    def _draw(self, rows: Sequence[_Row], logits: torch.Tensor) -> list[int]:
        """Draw a token for each row; returns the indices of the rows that continue."""
        logits = logits.clone()
        for index, row in enumerate(rows):
            end = row.request.end_id
            if end is not None and not row.ids:
                row.end_probability = float(log_softmax(logits[index], -1)[end].exp())
            if end is not None and row.request.suppress_end:
                logits[index, end] = -torch.inf
        tokens = sample(
            logits,
            [row.request.temperature for row in rows],
            [row.request.top_p for row in rows],
            [row.random.random() for row in rows],
        )
        alive = []
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            result = row.take(token)
            if result is None:
                alive.append(index)
            else:
                self._done.append((row.ticket, result))
        return alive


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # the library is untyped
    """Keys and values of one layer, `[rows, heads, columns, size]`, as views into larger tensors.

    It keeps every column also for a layer with a sliding window, whose mask hides the older columns, so that rows of
    different length can be joined.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stores: list[torch.Tensor] = []
        self._end = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; returns all columns."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        new = key_states.shape[-2]
        if not self._stores or self._end + new > self._stores[0].shape[-2]:
            self._move(new)
        used = self.keys.shape[-2]
        start, self._end = self._end - used, self._end + new
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[..., self._end - new : self._end, :] = states
        self.keys, self.values = (store[..., start : self._end, :] for store in self._stores)
        return self.keys, self.values

    def _move(self, new: int) -> None:
        """Copy the columns into larger tensors with space for `new` more columns and some reserve."""
        used = self.keys.shape[-2]
        room = 0 if used == 0 else max(HEADROOM, used // 4)
        self._stores = [
            torch.cat([part, part.new_empty((*part.shape[:2], new + room, part.shape[-1]))], dim=-2)
            for part in (self.keys, self.values)
        ]
        self._end = used

    def select(self, rows: torch.Tensor) -> None:
        """Keep the rows at these indices, in this order; an index may occur twice."""
        self._replace(self.keys.index_select(0, rows), self.values.index_select(0, rows))

    def part(self, rows: list[int], start: int, stop: int) -> RoomyLayer:
        """A new layer with these columns of the rows at these indices."""
        layer = RoomyLayer()
        layer.lazy_initialization(self.keys, self.values)
        layer.keys, layer.values = self.keys[rows, :, start:stop], self.values[rows, :, start:stop]
        return layer

    def keep_last(self, columns: int) -> None:
        """Drop all but the last columns, without a copy."""
        self.keys, self.values = self.keys[..., -columns:, :], self.values[..., -columns:, :]

    def join(self, other: RoomyLayer) -> None:
        """Append another layer's rows; the narrower layer is padded on the left with zeros."""
        width = max(self.keys.shape[-2], other.keys.shape[-2])
        self._replace(
            *(
                torch.cat([pad(part, (0, 0, width - part.shape[-2], 0)) for part in pair])
                for pair in ((self.keys, other.keys), (self.values, other.values))
            )
        )

    def _replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self._stores = []


def joinable(model: Any) -> bool:
    """Whether all layers keep plain keys and values, which can be padded and joined; recurrent states cannot."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def new_cache(model: Any) -> Any:
    """An empty cache for a model: of `RoomyLayer` where its layers allow it, else transformers' own."""
    if not joinable(model):
        return DynamicCache(config=model.config)
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache
