"""A scripted student, `student/NAME` or `student/FILE.yaml`: acts by chances on what the tutor has just done.

It reads the whole conversation anew for each turn, so that it says the same under any concurrency and after any
restart: what it draws depends on the conversation and the sampling's seed, its style on the problem and the first words
alone. What the tutor did, the deterministic checks tell; that it finds the answer is a chance, not a thought. Nothing
is proved about people with it; it is there to tell tutors apart where their differences are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any

from maieutic.checks.turns import asks_question, denies, refuses, reveals_answer, states_answer, takes_up
from maieutic.core.errors import ModelError
from maieutic.core.messages import Finish, Message, Problem, Reply, Role, Sampling, fingerprint
from maieutic.models import students
from maieutic.models.students import Chances, Phrases, Style

_PLACEHOLDER = re.compile(r"\{\{(answer|attempt)\}\}")
_HINT_WORDS = 3
"""A turn without a question that says fewer new words than this hints at nothing."""


class ScriptedStudent:
    """See the module. It speaks the user's side, and only where `about` has told it the problem.

    Raises:
        MissingInput, InputError: no such kind, or a file that does not say what it should.
    """

    trained_role: Role | None = Role.USER

    def __init__(self, name: str, problem: Problem | None = None) -> None:
        self.id = f"student/{name}"
        self._name, self._problem = name, problem
        kind = students.load(name)
        self._student = kind.student
        self.fingerprint: str | None = kind.hash

    def about(self, problem: Problem) -> ScriptedStudent:
        """The same student, working on this problem."""
        return ScriptedStudent(self._name, problem)

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The student's next turn.

        Raises:
            ModelError: it is asked for a tutor's turn, or nobody knows the answer that it should find.
        """
        if role != Role.USER:
            raise ModelError(f"{self.id} is a student and cannot tutor", "Name it as the student.")
        if self._problem is None or not self._problem.answer:
            raise ModelError(f"{self.id}: no answer is known here", "Start from problems with known answers.")
        said = [[turn.role, turn.content] for turn in messages]
        random = Random(fingerprint([self.fingerprint, said, sampling.seed]))  # noqa: S311 (not cryptography)
        text, ends = self._turn(messages, self._problem, random, suppress_end)
        read = sum(len(turn.content.split()) for turn in messages)
        return Reply(
            text=text,
            finish=Finish.END if ends else Finish.STOP,
            model=self.id,
            prompt_tokens=read,
            completion_tokens=len(text.split()),
        )

    async def check(self) -> None:
        """Nothing to check: the file was read."""

    async def close(self) -> None:
        """Nothing to free."""

    def _turn(
        self, messages: Sequence[Message], problem: Problem, random: Random, must_stay: bool
    ) -> tuple[str, bool]:
        """What is said, and whether that is the end."""
        phrases, ends = self._choose(self._style(messages, problem), messages, problem, random, must_stay)
        words = {"answer": problem.answer or "", "attempt": (problem.attempt or "").strip()}
        texts = [_PLACEHOLDER.sub(lambda found: words[found[1]], phrase).strip() for phrase in phrases]
        said = {turn.content for turn in messages if turn.role == Role.USER}
        new = [text for text in texts if text not in said] or texts
        return (random.choice(new) if new else ""), ends and not must_stay

    def _choose(
        self, style: Style, messages: Sequence[Message], problem: Problem, random: Random, must_stay: bool
    ) -> tuple[Phrases, bool]:
        """What to draw from, none to leave without a word, and whether it is the last."""
        if not messages or messages[-1].role != Role.ASSISTANT:
            return style.opens, False
        solved, told = _history(messages[:-1], problem)
        if solved or told:
            keeps = self._student.keeps
            knows = random.random() < (keeps.solved if solved else keeps.told)
            leaves = random.random() < style.leaves
            if must_stay:
                return (style.solves if knows else style.sticks if problem.attempt else style.lost), False
            return (() if leaves else style.thanks), True
        did = move(messages[-1].content, problem, [t.content for t in messages if t.role == Role.USER])
        if did == "tells":
            return style.told, False
        tries = sum(turn.role == Role.ASSISTANT for turn in messages) - 1
        return self._tries(self._student.chances[did], tries, style, problem, random, must_stay)

    @staticmethod
    def _tries(
        chances: Chances, tries: int, style: Style, problem: Problem, random: Random, must_stay: bool
    ) -> tuple[Phrases, bool]:
        """One draw after another, in the order of `students.Chances`."""
        if random.random() < chances.solves + chances.more * tries:
            return style.solves, False
        if random.random() < chances.leaves and not must_stay:
            return (), True
        if random.random() < chances.presses:
            return style.presses, False
        sticks = random.random() < chances.sticks and problem.attempt
        return (style.sticks if sticks else style.lost), False

    def _style(self, messages: Sequence[Message], problem: Problem) -> Style:
        """A person keeps to one: the problem and the first words decide it."""
        first = [messages[0].content] if messages else []
        names = sorted(self._student.styles)
        drawn = int(fingerprint([problem.model_dump(), first])[:8], 16)
        return self._student.styles[names[drawn % len(names)]]


def move(text: str, problem: Problem, said: Sequence[str]) -> str:
    """What a tutor's turn does, by the checks: one of `students.MOVES`.

    It `tells` the answer; `refuses`; asks something that takes up the problem or what the student said (`takes_up`), or
    something that fits any problem (`asks`); calls what was said wrong, or says something of the problem, with at least
    three words that the student's last turn did not hold (`hints`); or does none of this, as praise and "go on" do
    (`idle`).
    """
    if reveals_answer(text, problem, said):
        return "tells"
    if refuses(text):
        return "refuses"
    if asks_question(text):
        return "takes_up" if takes_up(text, problem, said) else "asks"
    heard = set(re.findall(r"\w+", (said[-1] if said else "").lower()))
    new = [word for word in re.findall(r"\w+", text.lower()) if word not in heard]
    helps = denies(text) or takes_up(text, problem, said)
    return "hints" if helps and len(new) >= _HINT_WORDS else "idle"


def _history(messages: Sequence[Message], problem: Problem) -> tuple[bool, bool]:
    """Whether the student found the answer before the tutor's last turn, or was told it."""
    said: list[str] = []
    for turn in messages:
        if turn.role == Role.USER:
            if states_answer(turn.content, problem):
                return True, False
            said.append(turn.content)
        elif turn.role == Role.ASSISTANT and reveals_answer(turn.content, problem, said):
            return False, True
    return False, False
