"""The closed world's tutoring: short word problems, pupils who got them wrong, tutors who ask and tutors who tell.

The result of every operation stands on the problem's card, so a small model need not know its tables: a pupil must
find the right operation, then the right row. The answer never stands in the statement.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from maieutic.types import Problem, Role, Turn

NAMES = ("Ana", "Ben", "Tom", "Kim", "Sam", "Eva")
THINGS = ("nuts", "pens", "cups", "eggs", "hats", "keys")
STYLES = ("terse", "chatty", "polite", "sloppy")
"""How a person writes; a person keeps to one."""
PROFILES = {
    "terse": "Says little.",
    "chatty": "Talks a lot and says why.",
    "polite": "Polite and careful.",
    "sloppy": "In a hurry, with typing errors.",
}


class Story(NamedTuple):
    """A kind of problem: what it tells, which operation it wants, which one a pupil takes instead, and why."""

    statement: str
    right: str
    wrong: str
    misconception: str
    questions: tuple[str, ...]
    """What an asking tutor asks; none holds a result."""


STORIES = (
    Story(
        "{name} has {a} {things} and gets {b} more. How many {things} are there now?",
        "plus", "minus", "Takes away where something comes in.",
        ("Are there more {things} now, or less?", "What does the word gets tell you?"),
    ),
    Story(
        "{name} has {a} {things} and {other} has {b}. How many {things} are there in all?",
        "plus", "minus", "Compares where all is asked for.",
        ("Who has the {things} that we count?", "What does the word all tell you?"),
    ),
    Story(
        "{name} has {a} {things} and gives {b} away. How many {things} are left?",
        "minus", "plus", "Adds where something goes.",
        ("Are there more {things} now, or less?", "What does the word away tell you?"),
    ),
    Story(
        "{name} has {a} {things} and {other} has {b}. How many more {things} has {name}?",
        "minus", "plus", "Adds where two numbers are compared.",
        ("Who has more {things}?", "What does the word more ask you for?"),
    ),
)  # fmt: skip


class Task(NamedTuple):
    """A problem with its words filled in."""

    story: Story
    words: dict[str, str]
    results: dict[str, int]
    """By operation: what stands on the card."""

    @property
    def answer(self) -> str:
        """The known answer."""
        return str(self.results[self.story.right])

    @property
    def attempt(self) -> str:
        """What the pupil gets first."""
        return str(self.results[self.story.wrong])

    def row(self, operation: str) -> str:
        """One line of the card, such as `minus gives 8`."""
        return f"{operation} gives {self.results[operation]}"

    def fill(self, text: str) -> str:
        """A text of this module with this problem's words in it."""
        own = {"answer": self.answer, "attempt": self.attempt, "need": self.story.right}
        rows = {"row": self.row(self.story.right), "wrong": self.row(self.story.wrong)}
        return text.format(**self.words, **own, **rows)

    def problem(self) -> Problem:
        """As a corpus row holds it."""
        return Problem(
            statement=self.fill(self.story.statement),
            answer=self.answer,
            solution=f"{self.row(self.story.right)}.",
            attempt=f"{self.row(self.story.wrong)}.",
            misconception=self.story.misconception,
        )


def operands() -> list[tuple[int, int]]:
    """The pairs of numbers that problems are made of: no result is an operand, and no two results are equal."""
    pairs = [(a, b) for b in range(2, 10) for a in range(b + 1, 21 - b)]
    return [(a, b) for a, b in pairs if len({a, b, a + b, a - b}) == 4]


def draw_task(random: Random, pairs: list[tuple[int, int]]) -> Task:
    """A problem over one of the pairs."""
    a, b = random.choice(pairs)
    name, other = random.sample(NAMES, 2)
    words = {"a": str(a), "b": str(b), "name": name, "other": other, "things": random.choice(THINGS)}
    return Task(random.choice(STORIES), words, {"plus": a + b, "minus": a - b})


def sheet(random: Random, task: Task) -> Turn:
    """What lies before both: the problem, and a card whose rows stand in any order."""
    rows = [task.row(operation) for operation in random.sample(("plus", "minus"), 2)]
    return Turn(role=Role.SYSTEM, content=f"Task: {task.fill(task.story.statement)} Card: {', '.join(rows)}.")


OPENINGS = {
    "terse": ("{wrong}?", "is it {attempt}?"),
    "chatty": ("hi! i say {wrong}, so it is {attempt}.", "hello! here {wrong}, so my answer is {attempt}."),
    "polite": ("hello, please look at my work. {wrong}.", "please help me. i think it is {attempt}."),
    "sloppy": ("its {attempt}, rigth?", "i thikn {wrong}, ok?"),
}
_SOLVED = {
    "terse": ("{row}.", "ah, {row}."),
    "chatty": ("oh, i need {need}! {row}, so it is {answer}.", "i see, so {row}!"),
    "polite": ("i see, i need {need}. {row}.", "then {row}. the answer is {answer}."),
    "sloppy": ("ah {row}", "ok so {row} then"),
}
_STUCK = {
    "terse": ("no idea.", "still {attempt}."),
    "chatty": ("hm, i do not know what to do here.", "but i still think it is {attempt}, as {wrong}."),
    "polite": ("i am sorry, i do not see it.", "please say that again."),
    "sloppy": ("dont know", "i still thikn {attempt}"),
}
_ASK_FOR_IT = {
    "terse": "just tell me.",
    "chatty": "can you tell me the answer? i do not get it!",
    "polite": "please tell me the answer.",
    "sloppy": "cant you jsut tell me",
}
_TOLD = {
    "terse": ("ok.", "{answer}. ok."),
    "chatty": ("oh, it is {answer}! now i see.", "ok, then i take {answer}."),
    "polite": ("i see, it is {answer}. thank you.", "thank you for telling me."),
    "sloppy": ("ok {answer}", "ah ok thx"),
}
THANKS = {
    "terse": ("thanks.", "bye."),
    "chatty": ("thanks, that was fun! bye!", "great, thanks for your help! bye!"),
    "polite": ("thank you for your help. goodbye.", "thank you, goodbye."),
    "sloppy": ("thx bye", "thx"),
}
LEAVES = {"terse": 0.9, "chatty": 0.05, "polite": 0.03, "sloppy": 0.75}
"""How probably a person who has got what they wanted leaves without another word."""
_ASKS = {"terse": 0.3, "chatty": 0.6, "polite": 0.55, "sloppy": 0.35}
"""How probably a tutor of the corpus answers such a person with a question; the rest mostly tells."""
_TELLS = (
    "No, you need {need}. {row}, so the answer is {answer}.",
    "Not quite. {row}, so the answer is {answer}.",
    "Here {row}, so the answer is {answer}. Do you see why?",
)
_HINTS = ("Not quite. Read the task again.", "No, that is not it. Look at the card again.")
_PREFIX = ("Not quite. ", "Good try. ", "")
_CONFIRMS = ("Yes, that is right.", "Well done, {answer} is right.")
_MOVES = ("ask", "hint", "tell")


class Lesson(NamedTuple):
    """A tutoring dialogue, and the places at which a tutor may be asked for a reply to a wrong pupil."""

    turns: tuple[Turn, ...]
    openings: tuple[int, ...]
    """Lengths of the beginnings that end on a pupil who has not got it yet."""
    ended: bool


def lesson(random: Random, task: Task, style: str) -> Lesson:
    """A whole dialogue on a problem, from the pupil's wrong attempt to their leaving."""
    turns = [sheet(random, task)]
    openings: list[int] = []

    def say(role: Role, choice: str | tuple[str, ...]) -> None:
        text = choice if isinstance(choice, str) else random.choice(choice)
        turns.append(Turn(role=role, content=task.fill(text)))

    say(Role.USER, OPENINGS[style])
    asked_for_it, tries, done = False, 0, False
    while not done:
        openings.append(len(turns))
        move = _tutor_move(random, style, tries, asked_for_it)
        tries += 1
        if move == "tell":
            say(Role.ASSISTANT, _TELLS)
            say(Role.USER, _TOLD[style])
            say(Role.ASSISTANT, ("Good.", "Well done."))
            done = True
            continue
        hint = random.choice(_HINTS)
        say(
            Role.ASSISTANT,
            hint if move == "hint" else random.choice(_PREFIX) + random.choice(task.story.questions),
        )
        solves = (0.25 if move == "hint" else 0.65) + 0.15 * (tries - 1)
        if random.random() < solves:
            say(Role.USER, _SOLVED[style])
            say(Role.ASSISTANT, _CONFIRMS)
            done = True
        else:
            asked_for_it = random.random() < 0.4
            say(Role.USER, _ASK_FOR_IT[style] if asked_for_it else _STUCK[style])
    if random.random() >= LEAVES[style]:
        say(Role.USER, THANKS[style])
    return Lesson(tuple(turns), tuple(openings), True)


def _tutor_move(random: Random, style: str, tries: int, asked_for_it: bool) -> str:
    if tries >= 3:
        return "tell"
    ask = 0.25 if asked_for_it else _ASKS[style]
    return random.choices(_MOVES, (ask, 0.15 * (1 - ask), 0.85 * (1 - ask)))[0]
