"""The demo world's tutoring lessons: which operation a word problem needs, students who chose a wrong one, and tutors.

The answer follows from the problem's words, so that a small model needs no arithmetic. Numbers, names and things do
not matter. The tutors of the corpus ask, hint or tell.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from maieutic.core.messages import Message, Problem, Role

NAMES = ("Ana", "Ben", "Tom", "Kim", "Sam", "Eva")
THINGS = ("nuts", "pens", "cups", "eggs", "hats", "keys")
STYLES = ("terse", "chatty", "polite", "sloppy")
"""How a person writes. Each person has one style."""
PROFILES = {
    "terse": "Says little.",
    "chatty": "Talks a lot and says why.",
    "polite": "Polite and careful.",
    "sloppy": "In a hurry, with typing errors.",
}


class Story(NamedTuple):
    """A kind of problem: its text, the right operation, and the operations that students choose instead."""

    statement: str
    right: str
    wrong: tuple[tuple[str, str], ...]
    """Wrong operation and misconception."""
    questions: tuple[str, ...]
    """Questions of a tutor; none contains an operation."""


_ADDS = ("plus", "Adds whatever numbers there are.")
_TAKES = ("minus", "Takes the smaller number from the larger one.")
_GROUPS = ("times", "Sees groups where there are none.")
STORIES = (
    Story(
        "{name} has {a} {things} and gets {b} more. How many {things} are there now?",
        "plus", (_TAKES, _GROUPS),
        ("Are there more {things} now, or less?", "What does the word gets tell you?"),
    ),
    Story(
        "{name} has {a} {things} and {other} has {b}. How many {things} are there in all?",
        "plus", (_TAKES, _GROUPS),
        ("Whose {things} do we count?", "What do the words in all tell you?"),
    ),
    Story(
        "{name} has {a} {things} and gives {b} away. How many {things} are left?",
        "minus", (_ADDS, _GROUPS),
        ("Are there more {things} now, or less?", "What does the word away tell you?"),
    ),
    Story(
        "{name} has {a} {things} and {other} has {b}. How many more {things} has {name}?",
        "minus", (_ADDS, _GROUPS),
        ("Who has more {things}?", "What do the words how many more ask you for?"),
    ),
    Story(
        "{name} has {a} bags with {b} {things} in each bag. How many {things} is that?",
        "times", (_ADDS, _TAKES),
        ("How many {things} are in two bags?", "What does the word each tell you?"),
    ),
)  # fmt: skip


class Task(NamedTuple):
    """A problem with its words filled in, and the operation that the student chose."""

    story: Story
    words: dict[str, str]
    wrong: tuple[str, str]

    def fill(self, text: str) -> str:
        """A text of this module with the problem's words filled in."""
        return text.format(**self.words, answer=self.story.right, attempt=self.wrong[0])

    def problem(self) -> Problem:
        """The problem as a corpus row holds it."""
        return Problem(
            statement=f"{self.fill(self.story.statement)} Which sign?",
            answer=self.story.right,
            attempt=self.wrong[0],
            misconception=self.wrong[1],
        )


def number_pairs() -> list[tuple[int, int]]:
    """The pairs of numbers in the problems."""
    return [(a, b) for b in range(2, 13) for a in range(b + 1, 31)]


def draw_task(random: Random, pairs: list[tuple[int, int]]) -> Task:
    """A random problem with one of the pairs."""
    a, b = random.choice(pairs)
    name, other = random.sample(NAMES, 2)
    words = {"a": str(a), "b": str(b), "name": name, "other": other, "things": random.choice(THINGS)}
    story = random.choice(STORIES)
    return Task(story, words, random.choice(story.wrong))


def task_sheet(task: Task) -> Message:
    """The system message: the problem, as both sides see it."""
    return Message(role=Role.SYSTEM, content=f"Task: {task.problem().statement}")


OPENINGS = {
    "terse": ("{attempt}?", "is it {attempt}?"),
    "chatty": ("hi! i think it is {attempt}, is that right?", "hello! this one is easy, it is {attempt}!"),
    "polite": ("hello, please look at my work. i say {attempt}.", "please help me. i think it is {attempt}."),
    "sloppy": ("its {attempt}, rigth?", "i thikn {attempt}, ok?"),
}
_SOLVED = {
    "terse": ("{answer}.", "so {answer}."),
    "chatty": ("oh, then it is {answer}!", "now i get it, so it is {answer} and not {attempt}!"),
    "polite": ("i see, i need {answer}.", "then the answer is {answer}."),
    "sloppy": ("ah {answer} then", "ok so its {answer}"),
}
_STUCK = {
    "terse": ("no idea.", "still {attempt}."),
    "chatty": ("hm, i do not know what to do here.", "but i still think it is {attempt}!"),
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
"""Probability that a person who has reached the goal leaves without another turn."""
_ASKS = {"terse": 0.35, "chatty": 0.8, "polite": 0.75, "sloppy": 0.4}
"""Probability that a tutor of the corpus answers such a person with a question; otherwise it mostly tells."""
_TELLS = (
    "No, the answer is {answer}.",
    "Not quite. Here the answer is {answer}.",
    "The answer is {answer}. Do you see why?",
)
_HINTS = ("Not quite. Read the task again.", "No, that is not it. Look at the words again.")
_IDLE = (
    "Are you sure?",
    "What do you think?",
    "Do you like {things}?",
    "Who is {name}?",
    "Can you see the {things}?",
)
"""Questions that do not help; the last three mention the problem."""
_PREFIX = ("Not quite. ", "Good try. ", "")
_CONFIRMS = ("Yes, that is right.", "Well done, {answer} is right.")
_MOVES = ("ask", "hint", "tell")
_SOLVES = {"ask": 0.65, "hint": 0.25, "idle": 0.1}
"""Probability that a student finds the operation after such a turn; `idle` is a question that does not help."""
_MORE = {"ask": 0.15, "hint": 0.15, "idle": 0.05}
"""Increase of that probability for each earlier turn of the tutor."""
_KEEPS = 0.5
"""Probability that a student who was told the operation repeats it when asked again."""
ANSWER_PROMPT = "What do you say now?"
"""Asks for the student's current answer, in the words of this world."""
_PRESSES = 0.4
"""Probability that a student who has not found the operation demands the answer."""


class Lesson(NamedTuple):
    """A tutoring dialogue, and the points at which the student is still wrong."""

    turns: tuple[Message, ...]
    openings: tuple[int, ...]
    """Numbers of turns after which the last turn is of a student who is still wrong."""
    ended: bool


class LessonOptions(NamedTuple):
    """Optional parts of the lessons; with the defaults they do not occur."""

    idle_questions: float = 0.0
    """Share of the tutor's questions that do not help."""
    answer_questions: float = 0.0
    """Share of the tutor's turns that also ask for the student's current answer, as pre- and post-tests do."""


PLAIN = LessonOptions()


def lesson(random: Random, task: Task, style: str, options: LessonOptions = PLAIN) -> Lesson:
    """A whole dialogue on a problem, from the student's wrong attempt to the end."""
    turns = [task_sheet(task)]
    openings: list[int] = []

    def say(role: Role, choice: str | tuple[str, ...]) -> None:
        text = choice if isinstance(choice, str) else random.choice(choice)
        turns.append(Message(role=role, content=task.fill(text)))

    def asks_answer() -> bool:
        return bool(options.answer_questions) and random.random() < options.answer_questions

    def close(text: tuple[str, ...], knows: float) -> None:
        """The tutor's last turn, and the student's reply where that turn asks for the answer."""
        asks = asks_answer()
        say(Role.ASSISTANT, f"{random.choice(text)}\n\n{ANSWER_PROMPT}" if asks else text)
        if asks:
            say(Role.USER, _SOLVED[style] if random.random() < knows else OPENINGS[style])

    say(Role.USER, OPENINGS[style])
    if asks_answer():
        say(Role.ASSISTANT, ANSWER_PROMPT)
        say(Role.USER, OPENINGS[style])
    asked_for_it, tries, done = False, 0, False
    while not done:
        openings.append(len(turns))
        move = _tutor_move(random, style, tries, asked_for_it)
        tries += 1
        if move == "tell":
            say(Role.ASSISTANT, _TELLS)
            say(Role.USER, _TOLD[style])
            close(("Good.", "Well done."), _KEEPS)
            done = True
            continue
        if move == "ask" and options.idle_questions and random.random() < options.idle_questions:
            move = "idle"
        asks = asks_answer()
        say(Role.ASSISTANT, _moved(random, move, task) + (f"\n\n{ANSWER_PROMPT}" if asks else ""))
        if random.random() < _SOLVES[move] + _MORE[move] * (tries - 1):
            say(Role.USER, _SOLVED[style])
            close(_CONFIRMS, 1.0)
            done = True
        elif asks:
            asked_for_it = False
            say(Role.USER, OPENINGS[style])
        else:
            asked_for_it = random.random() < _PRESSES
            say(Role.USER, _ASK_FOR_IT[style] if asked_for_it else _STUCK[style])
    if random.random() >= LEAVES[style]:
        say(Role.USER, THANKS[style])
    return Lesson(tuple(turns), tuple(openings), True)


def _moved(random: Random, move: str, task: Task) -> str:
    """A turn of a tutor that does not tell."""
    hint = random.choice(_HINTS)
    if move == "hint":
        return hint
    return random.choice(_PREFIX) + random.choice(_IDLE if move == "idle" else task.story.questions)


def _tutor_move(random: Random, style: str, tries: int, asked_for_it: bool) -> str:
    if tries >= 3:
        return "tell"
    ask = 0.25 if asked_for_it else _ASKS[style]
    return random.choices(_MOVES, (ask, 0.15 * (1 - ask), 0.85 * (1 - ask)))[0]


def scripted() -> dict[str, Any]:
    """The same students by rule, in the form of a file that `maieutic.models.student` reads.

    A rule cannot tell which of two questions about the problem helps. It only tells questions that mention the problem
    from questions that would fit any problem.
    """
    asks, hint, idle = ({"solves": _SOLVES[move], "more": _MORE[move]} for move in ("ask", "hint", "idle"))
    rest = {"presses": _PRESSES, "sticks": 0.5}
    return {
        "name": "students",
        "about": "The students of the demo world, by rule.",
        "profile": "You are a student who chose the wrong sign. You say little.",
        "styles": {style: _spoken(style) for style in STYLES},
        "chances": {
            "takes_up": asks | rest,
            "asks": idle | rest,
            "hints": hint | rest,
            "idle": idle | rest,
            "refuses": idle | rest,
            "tells": {},
        },
        "keeps": {"solved": 1.0, "told": _KEEPS},
    }


def _spoken(style: str) -> dict[str, Any]:
    """The phrases of one style, with the placeholders of such a file."""
    stuck = _STUCK[style]
    phrases = {
        "opens": OPENINGS[style],
        "solves": _SOLVED[style],
        "sticks": [text for text in stuck if "{attempt}" in text] or OPENINGS[style],
        "lost": [text for text in stuck if "{attempt}" not in text],
        "presses": [_ASK_FOR_IT[style]],
        "told": _TOLD[style],
        "thanks": THANKS[style],
    }
    marked = {
        name: [text.replace("{", "{{").replace("}", "}}") for text in texts]
        for name, texts in phrases.items()
    }
    return {**marked, "leaves": LEAVES[style]}
