"""The demo's small closed world: seeded, deterministic, with so few words that a tiny model can learn its language.

A generator writes both sides. People have one of four styles and misconceptions, they keep, leave and change topics,
and their endings depend on the goal but are not certain. Train, validation and test have different problems (other
pairs of numbers), prices and people. The world is a toy that tests the programs, not the science.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from maieutic.core.messages import Conversation, Message, Problem, Role
from maieutic.recipes.demo import everyday, students

PARTS = ("train", "validation", "test")
SOURCE = "maieutic-world"
LICENCE = "Apache-2.0"
TALKS_A_PERSON = 4
CUT = 0.06
"""Share of dialogues that were cut: they teach nothing about ending."""


class Sizes(NamedTuple):
    """Number of conversations of a part."""

    dialogues: int
    """Half of them are lessons, the rest everyday dialogues."""
    seeds: int
    """Lessons that stop at a turn of a student who is still wrong."""
    starts: int = 0
    """System messages alone, for a simulator that writes the first turn."""


class Part(NamedTuple):
    """One of train, validation and test."""

    dialogues: list[Conversation]
    seeds: list[Conversation]
    starts: list[Conversation]


def build(
    sizes: dict[str, Sizes], seed: int = 0, options: students.LessonOptions = students.PLAIN
) -> dict[str, Part]:
    """The whole world by part; the same arguments give the same world."""
    random = Random(f"maieutic world {seed}")  # noqa: S311 (not cryptography)
    pairs = _split(random, students.number_pairs(), (0.6, 0.15, 0.25))
    by_good = [
        _split(random, [(good, price) for price in everyday.PRICES], (0.5, 0.25, 0.25))
        for good in everyday.GOODS
    ]
    facts = [[fact for heaps in by_good for fact in heaps[place]] for place in range(len(PARTS))]
    parts = {}
    for place, part in enumerate(PARTS):
        own = Random(f"maieutic world {seed} {part}")  # noqa: S311
        parts[part] = _Maker(own, part, pairs[place], facts[place], options).make(sizes[part])
    return parts


def write(
    out: Path, sizes: dict[str, Sizes], seed: int = 0, options: students.LessonOptions = students.PLAIN
) -> dict[str, Any]:
    """Write the world into a folder: `PART.jsonl`, `PART-seeds.jsonl`, `starts.jsonl` (those of train).

    Also `students.yaml`, the same students by rule (MODEL `student/…/students.yaml`), and `answer_prompt.md`, which
    asks for a student's answer in the words of this world.

    Returns:
        Counts by file, and the number of distinct words.
    """
    from maieutic.data.corpus import write_corpus

    counts = {}
    parts = build(sizes, seed, options)
    for name, part in parts.items():
        files = {f"{name}.jsonl": part.dialogues, f"{name}-seeds.jsonl": part.seeds}
        if name == "train":
            files["starts.jsonl"] = part.starts
        for file, conversations in files.items():
            counts[file] = write_corpus(out / file, conversations, overwrite=True)
    text = yaml.safe_dump(students.scripted(), sort_keys=False, width=120)
    (out / "students.yaml").write_text(text, encoding="utf-8")
    (out / "answer_prompt.md").write_text(f"{students.ANSWER_PROMPT}\n", encoding="utf-8")
    return {"conversations": counts, "vocabulary": len(vocabulary(parts))}


def vocabulary(parts: dict[str, Part]) -> set[str]:
    """The distinct words of a world, without numbers."""
    from maieutic.evals.text import words

    texts = (turn.content for part in parts.values() for talk in part.dialogues for turn in talk.messages)
    return {word for text in texts for word in words(text) if not word.isdigit()}


def _split(random: Random, items: list[Any], shares: tuple[float, float, float]) -> list[list[Any]]:
    """The items in three disjoint parts."""
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
        options: students.LessonOptions,
    ) -> None:
        self._random, self._part, self._pairs, self._facts = random, part, pairs, facts
        self._options = options
        self._people = 0

    def make(self, sizes: Sizes) -> Part:
        dialogues = self._by_people(sizes.dialogues, self._talk)
        seeds = self._by_people(sizes.seeds, self._seed)
        starts = [self._start(number) for number in range(sizes.starts)]
        return Part(dialogues, seeds, starts)

    def _by_people(
        self, count: int, make: Callable[[str, dict[str, Any]], Conversation]
    ) -> list[Conversation]:
        """Each person has a few dialogues, all in one style."""
        made: list[Conversation] = []
        while len(made) < count:
            self._people += 1
            style = self._random.choice(students.STYLES)
            person = {"user_id": f"{self._part}-person-{self._people}", "profile": students.PROFILES[style]}
            for _ in range(min(TALKS_A_PERSON, count - len(made))):
                made.append(make(style, {**person, "id": f"{self._part}-{self._people}-{len(made)}"}))
        self._random.shuffle(made)
        return made

    def _talk(self, style: str, about: dict[str, Any]) -> Conversation:
        kind = self._random.choices(("lesson", "shop", "bored"), (2, 1, 1))[0]
        problem = None
        if kind == "lesson":
            task = students.draw_task(self._random, self._pairs)
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
        task = students.draw_task(self._random, self._pairs)
        lesson = self._lesson(task, style)
        stop = lesson.openings[0] if self._random.random() < 0.8 else self._random.choice(lesson.openings)
        return _row(list(lesson.turns[:stop]), _INTENTS["lesson"], task.problem(), False, about)

    def _lesson(self, task: students.Task, style: str) -> students.Lesson:
        return students.lesson(self._random, task, style, self._options)

    def _start(self, number: int) -> Conversation:
        """A system message alone: of three, two are problems and one is a shop's list."""
        kind = "shop" if number % 3 == 1 else "lesson"
        about = {"id": f"{self._part}-start-{number}"}
        if kind == "lesson":
            task = students.draw_task(self._random, self._pairs)
            return _row([students.task_sheet(task)], _INTENTS[kind], task.problem(), False, about)
        turns = everyday.shop(self._random, "terse", self._facts)[:1]
        return _row(turns, _INTENTS[kind], None, False, about)


_INTENTS = {
    "lesson": "Find out whether the own answer is right.",
    "shop": "Buy something, once the price is known.",
    "bored": "Find something to do on a free day.",
}


def _cut(turns: list[Message]) -> list[Message]:
    """The dialogue up to an assistant turn before the last turn, where there is one."""
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
