"""Texts numbered as they come, for runs of millions: some twenty bytes each, however long they are.

A text is known by its 64-bit hash alone, drawn anew in each process: among a million texts two share one with a chance
of 3 in a hundred million, and not again in the next process.
"""

from __future__ import annotations

from array import array

_FEW = 1024


class Numbered:
    """A set of texts that knows in which order they came."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._slots = array("I", bytes(array("I").itemsize * _FEW))
        """Open addressing: by hash, the number of its text and one; 0 is free."""

    def add(self, text: str) -> bool:
        """Number a text; false where it has its number already."""
        value = hash(text)
        slot = self._slot(value)
        if self._slots[slot]:
            return False
        self._hashes.append(value)
        self._slots[slot] = len(self._hashes)
        if 3 * len(self._hashes) > 2 * len(self._slots):
            self._grow()
        return True

    def get(self, text: str, otherwise: int) -> int:
        """The number of a text."""
        number = self._slots[self._slot(hash(text))]
        return number - 1 if number else otherwise

    def __contains__(self, text: str) -> bool:
        return self._slots[self._slot(hash(text))] > 0

    def __len__(self) -> int:
        return len(self._hashes)

    def _slot(self, value: int) -> int:
        """Where a hash stands, or would."""
        slots, last = self._slots, len(self._slots) - 1
        slot = value & last
        while (number := slots[slot]) and self._hashes[number - 1] != value:
            slot = (slot + 1) & last
        return slot

    def _grow(self) -> None:
        self._slots = array("I", bytes(2 * len(self._slots) * self._slots.itemsize))
        for number, value in enumerate(self._hashes, 1):
            self._slots[self._slot(value)] = number
