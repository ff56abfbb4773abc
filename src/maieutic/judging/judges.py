"""A model as judge of one text by a rubric.

The judged text and its context are material: each part stands between two lines with a mark that is made from the
texts themselves and stands in none of them, so nothing a tutor or a student wrote can close its fence or open
another. A verdict that the judge took from the material, word for word, is a quotation and not its own. One that
cannot be read is asked for again, with what was wrong; after that it is unscored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from maieutic.core import prompts
from maieutic.core.messages import Finish, Message, Problem, Reply, Role, Sampling, Verdict, fingerprint
from maieutic.core.prompts import fenced
from maieutic.judging.parse import Parsed, parse_verdict, shape, verdict_schema
from maieutic.judging.rubrics import Criterion, Kind, Rubric
from maieutic.models import ChatModel

JUDGE = Sampling(temperature=0.2, max_tokens=400)
"""As published (socratic-llm): temperature 0.2, seed 0."""
_SPEAKERS = {Role.USER: "student", Role.ASSISTANT: "tutor"}


class Judgement(NamedTuple):
    """A verdict, and the calls it took."""

    verdict: Verdict
    calls: int


def prompt_hash() -> str:
    """Of the two prompts that decide a model's verdict."""
    return fingerprint([prompts.load("judge_rubric").hash, prompts.load("judge_again").hash])[:16]


async def ask(
    model: ChatModel,
    rubric: Rubric,
    text: str,
    context: Sequence[Message] = (),
    problem: Problem | None = None,
    *,
    sampling: Sampling = JUDGE,
    retries: int = 2,
    pay: Callable[[Reply], object] | None = None,
) -> Judgement:
    """The model's verdict on a text.

    Args:
        model: the judge.
        rubric: what to judge; its `show_answer` decides whether the known answer is shown.
        text: the judged text.
        context: the turns before it; system turns are left out, for they address the tutor.
        problem: what the dialogue is about.
        sampling: how the verdict is drawn.
        retries: re-asks at most.
        pay: told of each answer as it comes.

    Raises:
        ModelError: the model did not answer.
    """
    prompt, shown = judge_prompt(rubric, text, context, problem), material(rubric, text, context, problem)
    return await insist(
        model,
        Question(prompt, verdict_schema(rubric), shape(rubric), "judge_again"),
        lambda answer: parse_verdict(answer, rubric, [part for _, part in shown]),
        sampling=sampling,
        retries=retries,
        pay=pay,
    )


class Question(NamedTuple):
    """What a judge is asked: the prompt, the form of its answer, and how it is asked again."""

    prompt: str
    schema: dict[str, Any]
    shape: str
    again: str
    """The prompt of a re-ask, by name; it has `error` and `shape`."""


async def insist(
    model: ChatModel,
    question: Question,
    read: Callable[[str], Parsed],
    *,
    sampling: Sampling,
    retries: int,
    pay: Callable[[Reply], object] | None = None,
) -> Judgement:
    """Ask until the answer can be read, each time with what was wrong, `retries` times more at most; else unscored.

    Raises:
        ModelError: the model did not answer.
    """
    turns, calls = [Message(role=Role.USER, content=question.prompt)], 0
    while True:
        reply = await model.reply(turns, sampling, schema=question.schema)
        calls += 1
        if pay:
            pay(reply)
        parsed = read(reply.text)
        if parsed.error is None:
            return Judgement(Verdict(judge=model.id, values=parsed.values, raw=reply.text), calls)
        error = parsed.error + (", cut off at the token limit" if reply.finish == Finish.LENGTH else "")
        if calls > retries:
            return Judgement(Verdict(judge=model.id, raw=reply.text, error=f"no verdict: {error}"), calls)
        again = prompts.load(question.again).fill(error=error, shape=question.shape)
        said = Message(role=Role.ASSISTANT, content=reply.text if reply.text.strip() else "(nothing)")
        turns = [turns[0], said, Message(role=Role.USER, content=again)]


def judge_prompt(
    rubric: Rubric, text: str, context: Sequence[Message] = (), problem: Problem | None = None
) -> str:
    """The whole question to a judge."""
    mark, between = fenced(material(rubric, text, context, problem))
    return prompts.load("judge_rubric").fill(
        judged=rubric.judged,
        mark=mark,
        material=between,
        criteria="\n".join(described(criterion) for criterion in rubric.criteria),
        shape=shape(rubric),
    )


def material(
    rubric: Rubric, text: str, context: Sequence[Message] = (), problem: Problem | None = None
) -> list[tuple[str, str]]:
    """The parts that a judge is shown, each under its title."""
    return [*background(rubric, context, problem), (f"TO BE GRADED: {rubric.judged}", text)]


def background(
    rubric: Rubric, context: Sequence[Message] = (), problem: Problem | None = None
) -> list[tuple[str, str]]:
    """The problem, with its answer where the rubric shows it, and the dialogue; system turns address the tutor."""
    spoken = [turn for turn in context if turn.role != Role.SYSTEM]
    return _problem_parts(problem, rubric.show_answer) + [
        (f"the dialogue, turn {number}: {_SPEAKERS[turn.role]}", turn.content)
        for number, turn in enumerate(spoken, 1)
    ]


def _problem_parts(problem: Problem | None, show_answer: bool) -> list[tuple[str, str]]:
    if problem is None:
        return []
    parts = [("the problem", problem.statement), ("the student's first attempt", problem.attempt)]
    if show_answer:
        parts += [
            ("what is wrong in the attempt (known to the judge alone)", problem.misconception),
            ("the solution (known to the judge alone)", problem.solution),
            ("the known answer (known to the judge alone)", problem.answer),
        ]
    return [(title, text) for title, text in parts if text]


def described(criterion: Criterion) -> str:
    """A criterion as a judge reads it."""
    scale = "yes or no" if criterion.kind == Kind.YES_NO else f"{criterion.low} to {criterion.high}"
    anchors = "".join(f"\n    {value}: {meaning}" for value, meaning in criterion.anchors.items())
    return f"- {criterion.name} ({scale}): {criterion.question}{anchors}"
