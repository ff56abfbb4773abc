"""What a judge says of a simulator: does it stay with its intent, does it stay a user, and how good are its questions?

The two probes are UserLM-8b's (arXiv 2510.06552), in our own words (`prompts/probe_*.md`). Each gives the simulator a
conversation of two turns, draws the person's next turn, and asks the judge for a yes or no:

- *intent adherence*: a person's own first turn, then an assistant that proposes a diversion; yes where the simulator,
  told the person's intent, goes on with it;
- *role adherence*: a problem whose answer is known, as a question, then an assistant that feigns doubt and asks for
  the answer; yes where the simulator does not answer in its place. A turn that states the known answer is a no by
  code; the judge is asked of the others.

A turn that says nothing is left out. At most 100 items of a corpus are used, by hash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from maieutic.checks.turns import states_answer
from maieutic.core import prompts
from maieutic.core import statistics as stats
from maieutic.core.errors import ModelError, UnknownModel, WrongKey
from maieutic.core.messages import Conversation, Estimate, Message, Problem, Role, Sampling, fingerprint
from maieutic.core.progress import Progress
from maieutic.core.prompts import mark_for
from maieutic.evals.perplexity import with_intent
from maieutic.judging import rubrics
from maieutic.judging.judges import ask
from maieutic.judging.rubrics import Rubric
from maieutic.models import ChatModel
from maieutic.rollouts.users import UserMode, next_user_turn, tells, user_mode

ITEMS = 100
AT_ONCE = 16
DRAW = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
"""How the person's turn is drawn: UserLM's temperature and top-p."""
PROBES = ("intent_adherence", "role_adherence")
QUALITY = ("complexity", "relevancy", "logicality", "diversity")
_SPEAKERS = {Role.USER: "the person", Role.ASSISTANT: "the assistant"}


class Graded(NamedTuple):
    """What came of a set of items."""

    values: list[dict[str, float] | None]
    """By item, in order: values by criterion; null where nothing was said or the judge was not understood."""
    errors: list[str]
    """Why items are unscored."""

    def estimate(self, criterion: str) -> Estimate:
        """The mean of a criterion, items resampled; for yes and no the share of yes, exact."""
        known = [values[criterion] for values in self.values if values is not None]
        if not known:
            return stats.undefined(self.errors[0] if self.errors else stats.NO_UNITS)
        return stats.proportion(known)


def sample(conversations: Sequence[Conversation]) -> list[Conversation]:
    """At most 100 of them, those with the least hash."""
    spoken = [one for one in conversations if one.turns(Role.USER)]
    return sorted(spoken, key=lambda one: fingerprint([one.id, one.turns(Role.USER)]))[:ITEMS]


async def intent_adherence(
    model: ChatModel, judge: ChatModel, people: Sequence[Conversation], progress: Progress
) -> Graded:
    """Of people's conversations with an intent: does the simulator stay with it? See the module."""
    mode, rubric = user_mode(model), rubrics.load("intent_adherence")
    lure = Message(role=Role.ASSISTANT, content=prompts.load("probe_diversion").text)

    async def one(person: Conversation) -> dict[str, float] | None:
        first = Message(role=Role.USER, content=person.turns(Role.USER)[0])
        said = await _next_turn(model, mode, person, [first, lure])
        if said is None:
            return None
        return await _graded(judge, rubric, transcript([first, lure, said], person.intent))

    return await _each(sample([person for person in people if person.intent]), one, progress)


async def role_adherence(
    model: ChatModel, judge: ChatModel, people: Sequence[Conversation], progress: Progress
) -> Graded:
    """Of people's problems with a known answer: does the simulator leave the answer to the assistant?"""
    mode, rubric = user_mode(model), rubrics.load("role_adherence")
    doubt = Message(role=Role.ASSISTANT, content=prompts.load("probe_doubt").text)

    async def one(problem: Problem) -> dict[str, float] | None:
        question = Message(role=Role.USER, content=problem.statement)
        start = Conversation(id="probe", messages=(question,), problem=problem)
        said = await _next_turn(model, mode, start, [question, doubt])
        if said is None:
            return None
        if states_answer(said.content, problem):
            return {"stays_in_role": 0.0}
        return await _graded(judge, rubric, transcript([question, doubt, said]), problem)

    known = {person.problem: person for person in people if person.problem and person.problem.answer}
    asked = [person.problem for person in sample(list(known.values()))]
    return await _each(asked, one, progress)


async def quality(judge: ChatModel, conversations: Sequence[Conversation], progress: Progress) -> Graded:
    """PlatoLM's four criteria of a person's questions over a whole conversation, 1 to 10 (rubric question_quality)."""
    rubric = rubrics.load("question_quality")

    async def one(conversation: Conversation) -> dict[str, float] | None:
        return await _graded(judge, rubric, transcript(conversation.messages))

    return await _each(conversations, one, progress)


def transcript(turns: Sequence[Message], intent: str | None = None) -> str:
    """A conversation as the judge reads it; a mark that stands in no turn opens each, so none can fake another."""
    shown = [(_SPEAKERS[turn.role], turn.content) for turn in turns if turn.role != Role.SYSTEM]
    parts = [("what the person wants", intent), *shown] if intent else shown
    mark = mark_for([said for _, said in parts])
    return "\n\n".join(f"[{mark}] {who}:\n{said}" for who, said in parts)


async def _next_turn(
    model: ChatModel, mode: UserMode, start: Conversation, messages: list[Message]
) -> Message | None:
    """What the simulator says next, told the intent in the way of its kind; null where it says nothing."""
    if mode == "trained" and start.intent and not tells(model, start, "intent"):
        so_far = start.model_copy(update={"messages": tuple(messages)})
        messages = list(with_intent(so_far, getattr(model, "system", None)).messages)
    sampling = DRAW.model_copy(update={"seed": int(fingerprint([turn.content for turn in messages])[:7], 16)})
    reply = await next_user_turn(model, mode, start, messages, sampling, may_end=False)
    return Message(role=Role.USER, content=reply.text) if reply.text.strip() else None


async def _graded(
    judge: ChatModel, rubric: Rubric, text: str, problem: Problem | None = None
) -> dict[str, float]:
    verdict = (await ask(judge, rubric, text, (), problem)).verdict
    if not verdict.scored:
        raise ModelError(verdict.error or "no verdict", "Try another judge.")
    return verdict.values


async def _each(
    items: Sequence[Any], work: Callable[[Any], Awaitable[dict[str, float] | None]], progress: Progress
) -> Graded:
    """Do each item, some at once; one that fails is unscored, and a wrong key or name ends it all.

    Raises:
        WrongKey, UnknownModel: no item can go on with such a model.
    """
    slots, errors = asyncio.Semaphore(AT_ONCE), list[str]()

    async def guarded(item: Any) -> dict[str, float] | None:
        async with slots:
            try:
                return await work(item)
            except (WrongKey, UnknownModel):
                raise
            except ModelError as error:
                errors.append(error.what)
                return None
            finally:
                progress.advance()

    return Graded(list(await asyncio.gather(*map(guarded, items))), errors)
