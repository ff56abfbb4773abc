"""What is in a corpus, counted in one pass."""

from __future__ import annotations

import hashlib
import heapq
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from maieutic.errors import EmptyCorpus
from maieutic.types import Conversation, Estimate, Role

SAMPLE = 2000
"""First turns compared with each other; from a larger corpus, those with the smallest hashes."""
_WORD = re.compile(r"\w+")
_QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def stats(conversations: Iterable[Conversation]) -> dict[str, Any]:
    """Count a corpus, streaming.

    A *round* is a user turn that an assistant turn answers. Lengths are in characters and in words between white
    space. *First-turn diversity* is one minus the mean pairwise Jaccard index of the word sets of the first user turns
    (lower case), between 0 and 1; the literature often prints it times 100.

    Returns:
        `{"conversations", "rounds", "turns", "characters", "words", "lengths", "first_turn_diversity", "ended",
        "problems", "users", "sources", "licences"}`; by role where a role matters; an undefined value is null.

    Raises:
        EmptyCorpus: there was not one conversation.
    """
    tally = _Tally()
    for conversation in conversations:
        tally.add(conversation)
    if not tally.conversations:
        raise EmptyCorpus("not one conversation to count", "Name a corpus with conversations in it.")
    return tally.json()


class _Tally:
    def __init__(self) -> None:
        self.conversations = self.ended = self.problems = 0
        self.users: set[str] = set()
        self.sources: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.rounds, self.turns = array("l"), array("l")
        self.characters = {role: array("l") for role in Role}
        self.words: Counter[Role] = Counter()
        self._firsts: list[tuple[int, int, str]] = []

    def add(self, conversation: Conversation) -> None:
        self.conversations += 1
        self.ended += conversation.ended
        self.problems += conversation.problem is not None
        if conversation.user_id is not None:
            self.users.add(conversation.user_id)
        self.sources[conversation.source or "unknown"] += 1
        self.licences[conversation.licence or "unknown"] += 1
        roles = [turn.role for turn in conversation.messages]
        self.rounds.append(sum(pair == (Role.USER, Role.ASSISTANT) for pair in pairwise(roles)))
        self.turns.append(sum(role != Role.SYSTEM for role in roles))
        for turn in conversation.messages:
            self.characters[turn.role].append(len(turn.content))
            self.words[turn.role] += len(turn.content.split())
        if first := conversation.turns(Role.USER)[:1]:
            self._sample(first[0])

    def _sample(self, text: str) -> None:
        order = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
        entry = (-order, self.conversations, text)
        if len(self._firsts) < SAMPLE:
            heapq.heappush(self._firsts, entry)
        elif entry > self._firsts[0]:
            heapq.heapreplace(self._firsts, entry)

    def json(self) -> dict[str, Any]:
        spoken = {role: lengths for role, lengths in self.characters.items() if len(lengths)}
        return {
            "conversations": self.conversations,
            "rounds": _quantiles(self.rounds),
            "turns": {role.value: len(lengths) for role, lengths in spoken.items()},
            "characters": {role.value: sum(lengths) for role, lengths in spoken.items()},
            "words": {role.value: self.words[role] for role in spoken},
            "lengths": {
                "turns": _quantiles(self.turns),
                **{f"{role.value}_characters": _quantiles(lengths) for role, lengths in spoken.items()},
            },
            "first_turn_diversity": first_turn_diversity(
                [text for _, _, text in sorted(self._firsts)]
            ).json(),
            "ended": self.ended,
            "problems": self.problems,
            "users": len(self.users),
            "sources": dict(self.sources.most_common()),
            "licences": dict(self.licences.most_common()),
        }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    numbers = np.asarray(values, dtype=float)
    found = {name: float(np.quantile(numbers, share)) for name, share in _QUANTILES.items()}
    return {"mean": float(numbers.mean()), **found}


def first_turn_diversity(texts: Sequence[str]) -> Estimate:
    """One minus the mean pairwise Jaccard index of the texts' word sets; undefined below two texts.

    Source: the first-turn diversity of UserLM-8b (there times 100). All pairs are compared: time and memory grow with
    the square of the number of texts.
    """
    if len(texts) < 2:
        return Estimate(None, None, len(texts), "fewer than two first turns")
    from scipy.sparse import csr_array

    sets = [set(_WORD.findall(text.casefold()) or text.split()) for text in texts]
    places: dict[str, int] = {}
    columns = [places.setdefault(word, len(places)) for words in sets for word in sorted(words)]
    starts = np.cumsum([0, *(len(words) for words in sets)])
    if not columns:
        return Estimate(None, None, len(texts), "no words in the first turns")
    matrix = csr_array((np.ones(len(columns), np.float32), columns, starts), (len(sets), len(places)))
    shared = (matrix @ matrix.T).toarray()
    sizes = np.diff(starts)
    union = sizes[:, None] + sizes[None, :] - shared
    similar = np.divide(shared, union, out=np.ones_like(shared), where=union > 0)
    pairs = len(sets) * (len(sets) - 1)
    return Estimate(
        1 - float((similar.sum(dtype=float) - np.trace(similar, dtype=float)) / pairs), None, len(texts)
    )
