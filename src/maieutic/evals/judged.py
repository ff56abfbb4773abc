"""What a judge says of a simulator (`adherence`), beside people and baselines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.messages import Conversation, Estimate
from maieutic.core.progress import Progress, track
from maieutic.evals import adherence
from maieutic.evals.adherence import Graded
from maieutic.evals.realism import NOT_GIVEN, Beside, halves
from maieutic.models import ChatModel

Corpus = Sequence[Conversation]
NO_JUDGE = "needs a judge"
NO_SPEAKER = "needs the simulator as a MODEL"
NO_INTENT = "no held-out conversation has an intent"
NO_ANSWER = "no held-out conversation has a problem with a known answer"
METRICS = (*adherence.PROBES, *(f"judged_{criterion}" for criterion in adherence.QUALITY))


class Judged(NamedTuple):
    """Metrics by name, and what a person should know of them."""

    metrics: dict[str, Beside]
    notes: list[str]


def absent() -> Judged:
    """What stands there without a judge."""
    return Judged(dict.fromkeys(METRICS, Beside(stats.undefined(NO_JUDGE))), [])


def judge_all(
    judge: ChatModel,
    people: Corpus,
    *,
    model: ChatModel | None = None,
    simulated: Corpus | None = None,
    base_models: Mapping[str, ChatModel] | None = None,
    base_corpora: Mapping[str, Corpus] | None = None,
) -> Judged:
    """Intent and role adherence of the models, and the four criteria of the corpora; all models are closed after it.

    Raises:
        WrongKey, UnknownModel: no item can go on with such a model.
    """
    speakers = {**({"": model} if model else {}), **(base_models or {})}
    wrote = {**({"": simulated} if simulated else {}), **(base_corpora or {})}
    return asyncio.run(_all(judge, people, speakers, wrote))


async def _all(
    judge: ChatModel, people: Corpus, speakers: Mapping[str, ChatModel], wrote: Mapping[str, Corpus]
) -> Judged:
    """The simulator goes by the empty name."""
    notes: list[str] = []
    try:
        with track(None, "judge") as progress:
            metrics = await _probes(judge, people, speakers, notes, progress)
            metrics |= await _quality(judge, people, wrote, notes, progress)
    finally:
        await asyncio.gather(*(one.close() for one in (judge, *speakers.values())))
    return Judged(metrics, notes)


async def _probes(
    judge: ChatModel,
    people: Corpus,
    speakers: Mapping[str, ChatModel],
    notes: list[str],
    progress: Progress,
) -> dict[str, Beside]:
    asked = (
        ("intent_adherence", "stays_with_intent", adherence.intent_adherence, NO_INTENT),
        ("role_adherence", "stays_in_role", adherence.role_adherence, NO_ANSWER),
    )
    metrics = {}
    for name, criterion, probe, lacking in asked:
        found: dict[str, Estimate] = {}
        for speaker, model in speakers.items():
            graded = await probe(model, judge, people, progress)
            found[speaker] = graded.estimate(criterion) if graded.values else stats.undefined(lacking)
            notes += _unscored(name, speaker, graded)
        own = found.pop("", stats.undefined(NO_SPEAKER))
        metrics[name] = Beside(own, None, found)
    return metrics


async def _quality(
    judge: ChatModel, people: Corpus, wrote: Mapping[str, Corpus], notes: list[str], progress: Progress
) -> dict[str, Beside]:
    one, other = halves(adherence.sample(people))
    found = {}
    for name, corpus in {**wrote, "people": [*one, *other]}.items():
        items = corpus if name == "people" else adherence.sample(corpus)
        found[name] = await adherence.quality(judge, items, progress)
        notes += _unscored("the four criteria", name, found[name])
    human = found.pop("people")
    parts = Graded(human.values[: len(one)], human.errors), Graded(human.values[len(one) :], human.errors)
    metrics = {}
    for criterion in adherence.QUALITY:
        based = {name: graded.estimate(criterion) for name, graded in found.items()}
        own = based.pop("", stats.undefined(NOT_GIVEN))
        split = parts[0].estimate(criterion), parts[1].estimate(criterion)
        metrics[f"judged_{criterion}"] = Beside(own, human.estimate(criterion), based, split)
    return metrics


def _unscored(what: str, name: str, graded: Graded) -> list[str]:
    lost = sum(values is None for values in graded.values)
    if not lost:
        return []
    why = f": {graded.errors[0]}" if graded.errors else ": nothing was said"
    return [f"{what} of {name or 'the simulator'}: {lost} of {len(graded.values)} unscored{why}"]
