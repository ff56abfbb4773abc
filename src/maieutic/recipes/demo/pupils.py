"""The closed world's tutoring: which sign a short word problem needs, pupils who chose wrongly, tutors who ask or tell.

What decides stands in the problem's words, so that a small model need not know its tables; numbers, names and things
are beside the point, as they often are.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from maieutic.core.messages import Message, Problem, Role

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
    """A kind of problem: what it tells, the sign it wants, and the signs that pupils take instead, with why."""

    statement: str
    right: str
    wrong: tuple[tuple[str, str], ...]
    """Sign and misconception."""
    questions: tuple[str, ...]
    """What an asking tutor asks; none holds a sign."""


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
    """A problem with its words filled in, and the sign that the pupil took."""

    story: Story
    words: dict[str, str]
    wrong: tuple[str, str]

    def fill(self, text: str) -> str:
        """A text of this module with this problem's words in it."""
        return text.format(**self.words, answer=self.story.right, attempt=self.wrong[0])

    def problem(self) -> Problem:
        """As a corpus row holds it."""
        return Problem(
            statement=f"{self.fill(self.story.statement)} Which sign?",
            answer=self.story.right,
            attempt=self.wrong[0],
            misconception=self.wrong[1],
        )


def operands() -> list[tuple[int, int]]:
    """The pairs of numbers that problems are made of."""
    return [(a, b) for b in range(2, 13) for a in range(b + 1, 31)]


def draw_task(random: Random, pairs: list[tuple[int, int]]) -> Task:
    """A problem over one of the pairs."""
    a, b = random.choice(pairs)
    name, other = random.sample(NAMES, 2)
    words = {"a": str(a), "b": str(b), "name": name, "other": other, "things": random.choice(THINGS)}
    story = random.choice(STORIES)
    return Task(story, words, random.choice(story.wrong))


def sheet(task: Task) -> Message:
    """What lies before both: the problem."""
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
"""How probably a person who has got what they wanted leaves without another word."""
_ASKS = {"terse": 0.35, "chatty": 0.8, "polite": 0.75, "sloppy": 0.4}
"""How probably a tutor of the corpus answers such a person with a question; the rest mostly tells."""
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
"""Questions that lead nowhere; the last three speak of this very problem."""
_PREFIX = ("Not quite. ", "Good try. ", "")
_CONFIRMS = ("Yes, that is right.", "Well done, {answer} is right.")
_MOVES = ("ask", "hint", "tell")
_SOLVES = {"ask": 0.65, "hint": 0.25, "idle": 0.1}
"""How probably a pupil finds the sign after such a turn of the tutor's; the idle is no move of its own choice."""
_MORE = {"ask": 0.15, "hint": 0.15, "idle": 0.05}
"""By so much more after each turn before."""
_KEEPS = 0.5
"""How probably a pupil who was told the sign says it when asked again."""
EXAM = "What do you say now?"
_PRESSES = 0.4
"""How probably a pupil who has not found it asks for the answer."""


class Lesson(NamedTuple):
    """A tutoring dialogue, and the places at which a tutor may be asked for a reply to a wrong pupil."""

    turns: tuple[Message, ...]
    openings: tuple[int, ...]
    """Lengths of the beginnings that end on a pupil who has not got it yet."""
    ended: bool


class Ways(NamedTuple):
    """How a world's lessons go beside the ordinary; with the defaults nothing of it occurs."""

    idle: float = 0.0
    """Share of the tutor's questions that lead nowhere."""
    exams: float = 0.0
    """Share of the tutor's turns that also ask what the pupil says now, as attempts before and after a dialogue do."""


ORDINARY = Ways()


def lesson(random: Random, task: Task, style: str, ways: Ways = ORDINARY) -> Lesson:
    """A whole dialogue on a problem, from the pupil's wrong attempt to their leaving."""
    turns = [sheet(task)]
    openings: list[int] = []

    def say(role: Role, choice: str | tuple[str, ...]) -> None:
        text = choice if isinstance(choice, str) else random.choice(choice)
        turns.append(Message(role=role, content=task.fill(text)))

    def examined() -> bool:
        return bool(ways.exams) and random.random() < ways.exams

    def close(text: tuple[str, ...], knows: float) -> None:
        """The tutor's last turn, and where it asks for the sign once more, the pupil's word."""
        asks = examined()
        say(Role.ASSISTANT, f"{random.choice(text)}\n\n{EXAM}" if asks else text)
        if asks:
            say(Role.USER, _SOLVED[style] if random.random() < knows else OPENINGS[style])

    say(Role.USER, OPENINGS[style])
    if examined():
        say(Role.ASSISTANT, EXAM)
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
        if move == "ask" and ways.idle and random.random() < ways.idle:
            move = "idle"
        asks = examined()
        say(Role.ASSISTANT, _moved(random, move, task) + (f"\n\n{EXAM}" if asks else ""))
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
    """What a tutor who does not tell says."""
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
    """The same pupils by rule, as a file of `maieutic.models.student` holds them.

    A rule cannot see which of two questions about the problem leads anywhere: it tells apart only those that speak of
    it and those that would fit anything.
    """
    asks, hint, idle = ({"solves": _SOLVES[move], "more": _MORE[move]} for move in ("ask", "hint", "idle"))
    rest = {"presses": _PRESSES, "sticks": 0.5}
    return {
        "name": "pupils",
        "about": "The closed world's pupils, by rule.",
        "profile": "You are a pupil who chose the wrong sign. You say little.",
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
    """One style's phrases, with the marks that such a file has."""
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
