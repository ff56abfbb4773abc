"""Metrics of a simulator that need a judge: intent adherence, role adherence, and the quality of its questions.

The two adherence tests are UserLM-8b's (arXiv 2510.06552), with our own prompts (`prompts/probe_*.md`). Each gives the
simulator a conversation of two turns, generates the next human turn, and asks the judge for a yes or no:

- *intent adherence*: a person's own first turn, then an assistant that proposes a diversion; yes where the simulator,
  conditioned on the person's intent, continues with the intent;
- *role adherence*: a problem with a known answer, as a question, then an assistant that feigns doubt and asks for the
  answer; yes where the simulator does not answer in the assistant's place. If the turn states the known answer,
  code decides "no"; the judge decides the other turns.

A blank turn is unscored. At most 100 items of a corpus are used, chosen by hash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.checks.turns import states_answer
from maieutic.core import prompts
from maieutic.core import statistics as stats
from maieutic.core.errors import ModelError, UnknownModel, WrongKey
from maieutic.core.messages import Conversation, Estimate, Message, Problem, Role, Sampling, fingerprint
from maieutic.core.progress import Progress, track
from maieutic.core.prompts import mark_for
from maieutic.core.workers import run_async
from maieutic.evals.likelihood import NO_INTENT, add_intent
from maieutic.evals.realism import NOT_GIVEN, Comparison, split_in_halves
from maieutic.judging.judges import ask_judge
from maieutic.judging.rubrics import Rubric, load_rubric
from maieutic.models import ChatModel
from maieutic.rollouts.steps import UserMode
from maieutic.rollouts.users import can_condition, next_user_message, user_mode

Corpus = Sequence[Conversation]
ITEMS = 100
CONCURRENCY = 16
SAMPLING = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
"""How the human turn is sampled: UserLM's temperature and top-p."""
QUALITY = ("complexity", "relevancy", "logicality", "diversity")
JUDGED_METRICS = ("intent_adherence", "role_adherence", *(f"judged_{criterion}" for criterion in QUALITY))
NO_JUDGE = "needs a judge"
NO_MODEL = "needs the simulator as a MODEL"
NO_ANSWER = "no held-out conversation has a problem with a known answer"
_SPEAKERS = {Role.USER: "the person", Role.ASSISTANT: "the assistant"}


class Verdicts(NamedTuple):
    """The judge's verdicts on a set of items."""

    values: list[dict[str, float] | None]
    """By item, in order: values by criterion; null where the turn was blank or the verdict unreadable."""
    errors: list[str]
    """Why items are unscored."""

    def estimate(self, criterion: str) -> Estimate:
        """The mean of a criterion, items resampled; for yes and no the share of yes, with an exact interval."""
        known = [values[criterion] for values in self.values if values is not None]
        if not known:
            return stats.undefined(self.errors[0] if self.errors else stats.NO_UNITS)
        return stats.proportion(known)


class JudgedMetrics(NamedTuple):
    """Metrics by name, and notes for the person who reads them."""

    metrics: dict[str, Comparison]
    notes: list[str]


def without_judge() -> JudgedMetrics:
    """All judged metrics as undefined."""
    return JudgedMetrics(dict.fromkeys(JUDGED_METRICS, Comparison(stats.undefined(NO_JUDGE))), [])


def judge_simulator(
    judge: ChatModel,
    people: Corpus,
    *,
    model: ChatModel | None = None,
    simulated: Corpus | None = None,
    base_models: Mapping[str, ChatModel] | None = None,
    base_corpora: Mapping[str, Corpus] | None = None,
) -> JudgedMetrics:
    """Measure the adherence of the models and the four criteria of the corpora, then close all models.

    Raises:
        WrongKey, UnknownModel: a model refuses every call.
    """
    models = {**({"": model} if model else {}), **(base_models or {})}
    corpora = {**({"": simulated} if simulated else {}), **(base_corpora or {})}
    return run_async(_judge_simulator(judge, people, models, corpora))


async def _judge_simulator(
    judge: ChatModel, people: Corpus, models: Mapping[str, ChatModel], corpora: Mapping[str, Corpus]
) -> JudgedMetrics:
    """All judged metrics. In `models` and `corpora` the simulator has the empty name."""
    notes: list[str] = []
    try:
        with track(None, "judge") as progress:
            metrics = await _adherence_metrics(judge, people, models, notes, progress)
            metrics |= await _quality_metrics(judge, people, corpora, notes, progress)
    finally:
        await asyncio.gather(*(each.close() for each in (judge, *models.values())))
    return JudgedMetrics(metrics, notes)


async def _adherence_metrics(
    judge: ChatModel, people: Corpus, models: Mapping[str, ChatModel], notes: list[str], progress: Progress
) -> dict[str, Comparison]:
    tests = (
        ("intent_adherence", "stays_with_intent", intent_adherence, NO_INTENT),
        ("role_adherence", "stays_in_role", role_adherence, NO_ANSWER),
    )
    metrics = {}
    for metric, criterion, test, reason in tests:
        found: dict[str, Estimate] = {}
        for name, model in models.items():
            verdicts = await test(model, judge, people, progress)
            found[name] = verdicts.estimate(criterion) if verdicts.values else stats.undefined(reason)
            notes += _unscored_note(metric, name, verdicts)
        own = found.pop("", stats.undefined(NO_MODEL))
        metrics[metric] = Comparison(own, None, found)
    return metrics


async def _quality_metrics(
    judge: ChatModel, people: Corpus, corpora: Mapping[str, Corpus], notes: list[str], progress: Progress
) -> dict[str, Comparison]:
    first, second = split_in_halves(select_items(people))
    found = {}
    for name, corpus in {**corpora, "people": [*first, *second]}.items():
        items = corpus if name == "people" else select_items(corpus)
        found[name] = await question_quality(judge, items, progress)
        notes += _unscored_note("the four criteria", name, found[name])
    human = found.pop("people")
    halves = [
        Verdicts(part, human.errors) for part in (human.values[: len(first)], human.values[len(first) :])
    ]
    metrics = {}
    for criterion in QUALITY:
        based = {name: verdicts.estimate(criterion) for name, verdicts in found.items()}
        own = based.pop("", stats.undefined(NOT_GIVEN))
        split = halves[0].estimate(criterion), halves[1].estimate(criterion)
        metrics[f"judged_{criterion}"] = Comparison(own, human.estimate(criterion), based, split)
    return metrics


def _unscored_note(what: str, name: str, verdicts: Verdicts) -> list[str]:
    unscored = sum(values is None for values in verdicts.values)
    if not unscored:
        return []
    reason = f": {verdicts.errors[0]}" if verdicts.errors else ": the turn was blank"
    return [f"{what} of {name or 'the simulator'}: {unscored} of {len(verdicts.values)} unscored{reason}"]


def select_items(conversations: Corpus) -> list[Conversation]:
    """The 100 conversations with the smallest hashes, or all if there are fewer."""
    speaking = [each for each in conversations if each.turns(Role.USER)]
    return sorted(speaking, key=lambda each: fingerprint([each.id, each.turns(Role.USER)]))[:ITEMS]


async def intent_adherence(
    model: ChatModel, judge: ChatModel, people: Corpus, progress: Progress
) -> Verdicts:
    """Judge whether the simulator keeps to the person's intent; see the module docstring."""
    mode, rubric = user_mode(model), load_rubric("intent_adherence")
    diversion = Message(role=Role.ASSISTANT, content=prompts.load("probe_diversion").text)

    async def judge_one(person: Conversation) -> dict[str, float] | None:
        first = Message(role=Role.USER, content=person.turns(Role.USER)[0])
        turn = await _next_turn(model, mode, person, [first, diversion])
        if turn is None:
            return None
        return await _verdict(judge, rubric, transcript([first, diversion, turn], person.intent))

    return await _judge_each(
        select_items([person for person in people if person.intent]), judge_one, progress
    )


async def role_adherence(model: ChatModel, judge: ChatModel, people: Corpus, progress: Progress) -> Verdicts:
    """Judge whether the simulator leaves the answer of a problem to the assistant."""
    mode, rubric = user_mode(model), load_rubric("role_adherence")
    doubt = Message(role=Role.ASSISTANT, content=prompts.load("probe_doubt").text)

    async def judge_one(problem: Problem) -> dict[str, float] | None:
        question = Message(role=Role.USER, content=problem.statement)
        start = Conversation(id="probe", messages=(question,), problem=problem)
        turn = await _next_turn(model, mode, start, [question, doubt])
        if turn is None:
            return None
        if states_answer(turn.content, problem):
            return {"stays_in_role": 0.0}
        return await _verdict(judge, rubric, transcript([question, doubt, turn]), problem)

    known = {person.problem: person for person in people if person.problem and person.problem.answer}
    problems = [person.problem for person in select_items(list(known.values()))]
    return await _judge_each(problems, judge_one, progress)


async def question_quality(judge: ChatModel, conversations: Corpus, progress: Progress) -> Verdicts:
    """PlatoLM's four criteria of a person's questions over a whole conversation, 1 to 10 (rubric question_quality)."""
    rubric = load_rubric("question_quality")

    async def judge_one(conversation: Conversation) -> dict[str, float] | None:
        return await _verdict(judge, rubric, transcript(conversation.messages))

    return await _judge_each(conversations, judge_one, progress)


def transcript(turns: Sequence[Message], intent: str | None = None) -> str:
    """The conversation as the judge reads it; each turn starts with a marker that occurs in no text of the turns."""
    shown = [(_SPEAKERS[turn.role], turn.content) for turn in turns if turn.role != Role.SYSTEM]
    parts = [("what the person wants", intent), *shown] if intent else shown
    mark = mark_for([content for _, content in parts])
    return "\n\n".join(f"[{mark}] {speaker}:\n{content}" for speaker, content in parts)


async def _next_turn(
    model: ChatModel, mode: UserMode, start: Conversation, messages: list[Message]
) -> Message | None:
    """The simulator's next turn, conditioned on the intent as in its training; null if the turn is blank."""
    if mode == "trained" and start.intent and not can_condition(model, start, "intent"):
        so_far = start.model_copy(update={"messages": tuple(messages)})
        messages = list(add_intent(so_far, getattr(model, "system", None)).messages)
    seed = int(fingerprint([turn.content for turn in messages])[:7], 16)
    sampling = SAMPLING.model_copy(update={"seed": seed})
    reply = await next_user_message(model, mode, start, messages, sampling, may_end=False)
    return Message(role=Role.USER, content=reply.text) if reply.text.strip() else None


async def _verdict(
    judge: ChatModel, rubric: Rubric, text: str, problem: Problem | None = None
) -> dict[str, float]:
    verdict = (await ask_judge(judge, rubric, text, (), problem)).verdict
    if not verdict.scored:
        raise ModelError(verdict.error or "no verdict", "Try another judge.")
    return verdict.values


async def _judge_each(
    items: Sequence[Any], work: Callable[[Any], Awaitable[dict[str, float] | None]], progress: Progress
) -> Verdicts:
    """Judge each item, several at once; an item that fails is unscored.

    Raises:
        WrongKey, UnknownModel: the model refuses every call.
    """
    slots, errors = asyncio.Semaphore(CONCURRENCY), list[str]()

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

    return Verdicts(list(await asyncio.gather(*map(guarded, items))), errors)
