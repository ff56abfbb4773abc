"""Decoding over token ids, in batches, for any causal language model of transformers.

Rows come and go while the batch runs: a new request is prefilled apart and its cache joined to the running one,
padded on the left; a row that is done leaves at once, so a step costs what the living rows cost. Requests with
the same prompt share one prefill, also where some come while others are under way. Each row draws from its own
random numbers, so what it says depends on its seed and not on its neighbours, up to the rounding of the arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch.nn.functional import log_softmax, pad

from maieutic.core.errors import ModelError
from maieutic.core.messages import Finish
from maieutic.models.cache import joinable, new_cache
from maieutic.models.forward import Network, sample

PREFILL_TOKENS = 8192
"""Positions, padding included, that one prefill pass may hold."""


class Request(NamedTuple):
    """One reply to be decoded."""

    ids: Sequence[int]
    """The prompt."""
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    end_id: int | None = None
    """The id that ends the conversation; null where there is none."""
    suppress_end: bool = False
    """Never draw `end_id` in this reply."""


class Generated(NamedTuple):
    """What was decoded."""

    ids: list[int]
    """New ids, the one it stopped at not included."""
    finish: Finish
    stopped_at: int | None = None
    """The stop or end id that was drawn; null where the length ran out."""
    end_probability: float | None = None
    """Probability of `end_id` as the first token, at temperature 1 and before any suppression."""


class _Row:
    """A reply under way."""

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
        """The logits its first token was drawn from, for others with the same prompt."""

    def take(self, token: int) -> Generated | None:
        """Accept a drawn token; the result where it ends the reply."""
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
    """A model and the rows it is decoding. Not for use from several threads at once.

    `generate` is whole; `admit`, `step`, `collect` and `cancel` are for a caller whose requests arrive while
    others are under way.
    """

    def __init__(self, model: Any, pad_id: int = 0) -> None:
        self.network = Network(model, pad_id)
        self._device = self.network.device
        self.joinable = joinable(model)
        """Whether rows may be admitted while others are under way; else they start together."""
        self._tickets = count()
        self._done: list[tuple[int, Generated | ModelError]] = []
        self._forget()

    @property
    def live(self) -> int:
        """Rows under way."""
        return len(self._rows)

    def generate(self, requests: Sequence[Request], batch: int = 64) -> list[Generated | ModelError]:
        """Decode all requests, at most `batch` rows at a time; one that cannot be served gets its error."""
        assert not self._rows, "rows of another caller are under way"
        self._done.clear()
        # Like lengths together, and like prompts, which share a prefill.
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

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> list[int]:
        """Prefill requests, draw their first tokens and let them join; a ticket for each, in order."""
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

    @torch.inference_mode()
    def step(self) -> None:
        """Draw one more token for every row under way."""
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
        """The ids a row under way has so far."""
        return next((list(row.ids) for row in self._rows if row.ticket == ticket), [])

    @torch.inference_mode()
    def cancel(self, tickets: set[int]) -> None:
        """Drop rows nobody waits for any more."""
        if any(row.ticket in tickets for row in self._rows):
            self._keep([index for index, row in enumerate(self._rows) if row.ticket not in tickets])

    def _forget(self) -> None:
        self._rows: list[_Row] = []
        self._cache: Any = None
        self._mask: Any = None

    def _chunks(self, prompts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Prompts of similar length together, sorted by length; all at once where rows cannot join later."""
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
        """Let rows join whose prompt the row under way at this index has read: keys and values are copied."""
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
        """Go on with the rows at these indices only, without columns that none of them uses."""
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
        """Draw a token for each row; the indices of those that go on."""
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
