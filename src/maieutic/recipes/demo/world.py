"""A small closed world: seeded, deterministic, and with so few words that a tiny model learns to speak in it.

Its people are the human sides that a generator writes: four styles, misconceptions, topics kept, left and changed,
and an ending that follows the goal without being certain. Train, validation and test have different problems
(other pairs of numbers), other prices and other people. It is a toy that proves the machinery, not the science.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from maieutic.core.messages import Conversation, Message, Problem, Role
from maieutic.recipes.demo import everyday, pupils

PARTS = ("train", "validation", "test")
SOURCE = "maieutic-world"
LICENCE = "Apache-2.0"
TALKS_A_PERSON = 4
CUT = 0.06
"""Share of dialogues that were cut: their last opening says nothing about ending."""


class Sizes(NamedTuple):
    """How much a part holds."""

    dialogues: int
    """Half of them lessons, the rest in shops and at home."""
    seeds: int
    """Lessons stopped at a pupil who has not got it yet."""
    starts: int = 0
    """Sheets alone, for a simulator that opens itself."""


class Part(NamedTuple):
    """One of train, validation and test."""

    dialogues: list[Conversation]
    seeds: list[Conversation]
    starts: list[Conversation]


def build(sizes: dict[str, Sizes], seed: int = 0, ways: pupils.Ways = pupils.ORDINARY) -> dict[str, Part]:
    """The whole world, by part; the same seed and sizes give the same world.

    `ways` is what its lessons have beside the ordinary.
    """
    random = Random(f"maieutic world {seed}")  # noqa: S311 (not cryptography)
    pairs = _dealt(random, pupils.operands(), (0.6, 0.15, 0.25))
    by_good = [
        _dealt(random, [(good, price) for price in everyday.PRICES], (0.5, 0.25, 0.25))
        for good in everyday.GOODS
    ]
    facts = [[fact for heaps in by_good for fact in heaps[place]] for place in range(len(PARTS))]
    parts = {}
    for place, part in enumerate(PARTS):
        own = Random(f"maieutic world {seed} {part}")  # noqa: S311
        parts[part] = _Maker(own, part, pairs[place], facts[place], ways).make(sizes[part])
    return parts


def write(
    out: Path, sizes: dict[str, Sizes], seed: int = 0, ways: pupils.Ways = pupils.ORDINARY
) -> dict[str, Any]:
    """Write the world into a folder: `PART.jsonl`, `PART-seeds.jsonl`, `starts.jsonl` (those of train).

    Beside them `pupils.yaml`, its pupils by rule (`student/…/pupils.yaml`), and `exam.md`, what a pupil is asked in
    words of this world before and after a dialogue.

    Returns:
        Counts by file, and the number of different words.
    """
    from maieutic.data.corpus import write_corpus

    counts = {}
    parts = build(sizes, seed, ways)
    for name, part in parts.items():
        files = {f"{name}.jsonl": part.dialogues, f"{name}-seeds.jsonl": part.seeds}
        if name == "train":
            files["starts.jsonl"] = part.starts
        for file, conversations in files.items():
            counts[file] = write_corpus(out / file, conversations, overwrite=True)
    text = yaml.safe_dump(pupils.scripted(), sort_keys=False, width=120)
    (out / "pupils.yaml").write_text(text, encoding="utf-8")
    (out / "exam.md").write_text(f"{pupils.EXAM}\n", encoding="utf-8")
    return {"conversations": counts, "vocabulary": len(vocabulary(parts))}


def vocabulary(parts: dict[str, Part]) -> set[str]:
    """The words of a world, numbers left out."""
    from maieutic.evals.text import words

    texts = (turn.content for part in parts.values() for talk in part.dialogues for turn in talk.messages)
    return {word for text in texts for word in words(text) if not word.isdigit()}


def _dealt(random: Random, items: list[Any], shares: tuple[float, float, float]) -> list[list[Any]]:
    """The items in three disjoint heaps."""
    random.shuffle(items)
    first, second = round(shares[0] * len(items)), round((shares[0] + shares[1]) * len(items))
    return [items[:first], items[first:second], items[second:]]


class _Maker:
    def __init__(
        self,
        random: Random,
        part: str,
        pairs: list[tuple[int, int]],
        facts: list[tuple[str, int]],
        ways: pupils.Ways,
    ) -> None:
        self._random, self._part, self._pairs, self._facts = random, part, pairs, facts
        self._ways = ways
        self._people = 0

    def make(self, sizes: Sizes) -> Part:
        dialogues = self._by_people(sizes.dialogues, self._talk)
        seeds = self._by_people(sizes.seeds, self._seed)
        starts = [self._start(number) for number in range(sizes.starts)]
        return Part(dialogues, seeds, starts)

    def _by_people(
        self, count: int, make: Callable[[str, dict[str, Any]], Conversation]
    ) -> list[Conversation]:
        """Each person talks a few times, always in their own style."""
        made: list[Conversation] = []
        while len(made) < count:
            self._people += 1
            style = self._random.choice(pupils.STYLES)
            person = {"user_id": f"{self._part}-person-{self._people}", "profile": pupils.PROFILES[style]}
            for _ in range(min(TALKS_A_PERSON, count - len(made))):
                made.append(make(style, {**person, "id": f"{self._part}-{self._people}-{len(made)}"}))
        self._random.shuffle(made)
        return made

    def _talk(self, style: str, about: dict[str, Any]) -> Conversation:
        kind = self._random.choices(("lesson", "shop", "bored"), (2, 1, 1))[0]
        problem = None
        if kind == "lesson":
            task = pupils.draw_task(self._random, self._pairs)
            turns, problem = list(self._lesson(task, style).turns), task.problem()
        elif kind == "shop":
            turns = everyday.shop(self._random, style, self._facts)
        else:
            turns = everyday.bored(self._random, style)
        ended = self._random.random() >= CUT
        if not ended:
            turns = _cut(turns)
        return _row(turns, _INTENTS[kind], problem, ended, about)

    def _seed(self, style: str, about: dict[str, Any]) -> Conversation:
        task = pupils.draw_task(self._random, self._pairs)
        lesson = self._lesson(task, style)
        stop = lesson.openings[0] if self._random.random() < 0.8 else self._random.choice(lesson.openings)
        return _row(list(lesson.turns[:stop]), _INTENTS["lesson"], task.problem(), False, about)

    def _lesson(self, task: pupils.Task, style: str) -> pupils.Lesson:
        return pupils.lesson(self._random, task, style, self._ways)

    def _start(self, number: int) -> Conversation:
        """What lies there before anybody speaks: of three, two problems and a shop's list."""
        kind = "shop" if number % 3 == 1 else "lesson"
        about = {"id": f"{self._part}-start-{number}"}
        if kind == "lesson":
            task = pupils.draw_task(self._random, self._pairs)
            return _row([pupils.sheet(task)], _INTENTS[kind], task.problem(), False, about)
        turns = everyday.shop(self._random, "terse", self._facts)[:1]
        return _row(turns, _INTENTS[kind], None, False, about)


_INTENTS = {
    "lesson": "Find out whether the own answer is right.",
    "shop": "Buy something, once the price is known.",
    "bored": "Find something to do on a free day.",
}


def _cut(turns: list[Message]) -> list[Message]:
    """The talk up to some reply of the assistant's that is not its last turn, where there is one."""
    places = [place for place, turn in enumerate(turns[:-1], 1) if turn.role == Role.ASSISTANT]
    return turns[: places[len(places) // 2]] if places else turns


def _row(
    turns: list[Message], intent: str, problem: Problem | None, ended: bool, about: dict[str, Any]
) -> Conversation:
    return Conversation(
        messages=tuple(turns),
        intent=intent,
        problem=problem,
        ended=ended,
        source=SOURCE,
        licence=LICENCE,
        **about,
    )
