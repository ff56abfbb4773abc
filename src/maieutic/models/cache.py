"""A key-value cache whose rows can leave and join, and which grows without being copied at every token.

transformers' own cache makes a new tensor for each drawn token; with short steps that copy is most of the time
(six sevenths of it for a 7 M parameter model, 16 rows of 1,000 tokens, on a CPU).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

HEADROOM = 64
"""Columns reserved ahead at least; a quarter of the columns in use where that is more."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # the library is untyped
    """Keys and values of one layer, `[rows, heads, columns, size]`, as views into larger tensors.

    It keeps every column also for a layer with a sliding window, whose mask hides the older ones: rows of unlike
    length can then be joined.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stores: list[torch.Tensor] = []
        self._end = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; all columns, the new ones included."""
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
        """Copy what is there into stores with room for `new` columns and some more."""
        used = self.keys.shape[-2]
        room = 0 if used == 0 else max(HEADROOM, used // 4)
        self._stores = [
            torch.cat([part, part.new_empty((*part.shape[:2], new + room, part.shape[-1]))], dim=-2)
            for part in (self.keys, self.values)
        ]
        self._end = used

    def select(self, rows: torch.Tensor) -> None:
        """Keep the rows at these indices, in this order; an index may come twice."""
        self._replace(self.keys.index_select(0, rows), self.values.index_select(0, rows))

    def part(self, rows: list[int], start: int, stop: int) -> RoomyLayer:
        """A layer of its own with these columns of the rows at these indices."""
        layer = RoomyLayer()
        layer.lazy_initialization(self.keys, self.values)
        layer.keys, layer.values = self.keys[rows, :, start:stop], self.values[rows, :, start:stop]
        return layer

    def keep_last(self, columns: int) -> None:
        """Drop all but the last columns; nothing is copied."""
        self.keys, self.values = self.keys[..., -columns:, :], self.values[..., -columns:, :]

    def join(self, other: RoomyLayer) -> None:
        """Add another's rows below; the narrower is padded on the left with zeros."""
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
    """Whether a model's layers keep plain keys and values, which can be padded and joined; states cannot."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def new_cache(model: Any) -> Any:
    """An empty cache for a model: of roomy layers where its layers allow it, else transformers' own."""
    if not joinable(model):
        return DynamicCache(config=model.config)
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache
