"""What is in a corpus, counted in one pass."""

from __future__ import annotations

import hashlib
import heapq
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from maieutic.core.errors import EmptyCorpus, MissingExtra
from maieutic.core.messages import Conversation, Estimate, Role
from maieutic.data.lengths import CountTokens, counter

SAMPLE = 2000
"""First turns compared with each other; from a larger corpus, those with the smallest hashes."""
_WORD = re.compile(r"\w+")
_QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def stats(
    conversations: Iterable[Conversation], *, tokenizer: Path | str | None = None, languages: bool = True
) -> dict[str, Any]:
    """Count a corpus, streaming: `survey(...).json()`, where the arguments and the shape are explained."""
    return survey(conversations, tokenizer=tokenizer, languages=languages).json()


def survey(
    conversations: Iterable[Conversation], *, tokenizer: Path | str | None = None, languages: bool = True
) -> Survey:
    """Count a corpus, streaming.

    Args:
        conversations: any, at least one.
        tokenizer: what counts the tokens (see `data.lengths.counter`); without one they are estimated from the words.
        languages: tell the languages apart, which takes most of the time. Where py3langid is not installed they stay
            untold.

    Raises:
        EmptyCorpus: there was not one conversation.
        MissingInput, MissingExtra: the tokenizer cannot be loaded.
    """
    tally = Survey(counter(tokenizer), _identifier() if languages else None, tokenizer)
    for conversation in conversations:
        tally.add(conversation)
    if not tally.conversations:
        raise EmptyCorpus("not one conversation to count", "Name a corpus with conversations in it.")
    return tally


def _identifier() -> Callable[[Conversation], str] | None:
    from maieutic.data.language import known_languages, language

    try:
        known_languages()
    except MissingExtra:
        return None
    return language


class Survey:
    """What was counted: eight bytes a turn and number, whatever the texts' length.

    A *round* is a user turn that an assistant turn answers. Lengths are in characters, words between white space and
    tokens. *First-turn diversity* is one minus the mean pairwise Jaccard index of the word sets of the first user turns
    (lower case), between 0 and 1; the literature often prints it times 100.
    """

    def __init__(
        self,
        count_tokens: CountTokens,
        identify: Callable[[Conversation], str] | None,
        tokenizer: Path | str | None,
    ) -> None:
        self.conversations = self.ended = self.problems = 0
        self.users: set[str] = set()
        self.sources: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.rounds, self.turns = array("l"), array("l")
        self.characters = {role: array("l") for role in Role}
        self.tokens = {role: array("l") for role in Role}
        """By role, one number a turn."""
        self.words: Counter[Role] = Counter()
        self.tokenizer = None if tokenizer is None else str(tokenizer)
        """What counted the tokens; null where they are estimated."""
        self._count, self._identify = count_tokens, identify
        self._firsts: list[tuple[int, int, str]] = []

    def add(self, conversation: Conversation) -> None:
        """Count one more."""
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
        sizes = self._count([turn.content for turn in conversation.messages])
        for turn, size in zip(conversation.messages, sizes, strict=True):
            self.characters[turn.role].append(len(turn.content))
            self.words[turn.role] += len(turn.content.split())
            self.tokens[turn.role].append(size)
        if self._identify:
            self.languages[self._identify(conversation)] += 1
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
        """By role where a role matters; an undefined value is null, and so are languages nobody looked for.

        `{"conversations", "rounds", "turns", "characters", "words", "tokens", "tokenizer", "lengths", "languages",
        "first_turn_diversity", "ended", "problems", "users", "sources", "licences"}`.
        """
        spoken = {role: lengths for role, lengths in self.characters.items() if len(lengths)}
        return {
            "conversations": self.conversations,
            "rounds": _quantiles(self.rounds),
            "turns": {role.value: len(lengths) for role, lengths in spoken.items()},
            "characters": {role.value: sum(lengths) for role, lengths in spoken.items()},
            "words": {role.value: self.words[role] for role in spoken},
            "tokens": {role.value: sum(self.tokens[role]) for role in spoken},
            "tokenizer": self.tokenizer,
            "lengths": {
                "turns": _quantiles(self.turns),
                **{f"{role.value}_characters": _quantiles(lengths) for role, lengths in spoken.items()},
                **{f"{role.value}_tokens": _quantiles(self.tokens[role]) for role in spoken},
            },
            "languages": dict(self.languages.most_common()) if self._identify else None,
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
