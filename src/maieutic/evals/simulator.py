"""Compare a user simulator with people: perplexity on held-out human turns, END decisions, and metrics of text.

Every metric is reported next to the values of people and of baselines. A metric that needs a model, a judge or a corpus
that was not given is null, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import EmptyCorpus, InputError, MissingInput
from maieutic.core.messages import Conversation, Estimate, Role
from maieutic.core.workers import run_async
from maieutic.evals import adherence, likelihood, realism
from maieutic.evals.likelihood import END_METRICS, PERPLEXITIES, Likelihood
from maieutic.evals.realism import Comparison
from maieutic.evals.steps import EvalSimulator
from maieutic.evals.topics import Embedder, sentence_embedder
from maieutic.models import ChatModel, load

NO_SCORER = "needs the simulator as an hf/ model"
MODEL_KINDS = (
    "hf/",
    "openai/",
    "ollama/",
    "script/",
    "baseline/",
    "student/",
    "http://",
    "https://",
    "inspect/",
)
DEFAULT_BASELINE = "baseline"
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


class Baseline(NamedTuple):
    """A baseline: a model, conversations in which the model wrote the user turns, or both."""

    model: Any = None
    """A `ChatModel`, a `likelihood.Scorer` or both."""
    corpus: Sequence[Conversation] | None = None


def evaluate_simulator(
    people: Sequence[Conversation],
    *,
    model: Any = None,
    simulated: Sequence[Conversation] | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    embed: Embedder | None = None,
    judge: ChatModel | None = None,
) -> dict[str, Any]:
    """All metrics of a simulator, by name: `{"value", "ci", "n", "human", "baseline", ...}`, see `realism.Comparison`.

    The result also holds `end_bins` (see `likelihood.end_bins`) and `notes`.

    Args:
        people: held-out conversations of people.
        model: the simulator: in this process for perplexity and END, any `ChatModel` for adherence.
        simulated: the simulator's conversations, for the metrics of text.
        baselines: by name, such as its base model and a prompted user.
        embed: texts → vectors, for the metrics of topics; null: `topics.ngram_embedder`.
        judge: for adherence and the four judged criteria. With a judge, every model is closed at the end.

    Raises:
        EmptyCorpus: there are no people to compare with.
    """
    if not people:
        raise EmptyCorpus("no held-out conversations of people", "Give a corpus with --people.")
    given = dict(baselines or {})
    corpora = {name: each.corpus for name, each in given.items() if each.corpus}
    metrics, bins, notes = _likelihood_metrics(model, people, given)
    metrics |= realism.compare_with_people(simulated, people, corpora, embed)
    judged = adherence.without_judge()
    if judge is not None:
        judged = adherence.judge_simulator(
            judge,
            people,
            model=model if hasattr(model, "reply") else None,
            simulated=simulated,
            base_models={name: each.model for name, each in given.items() if hasattr(each.model, "reply")},
            base_corpora=corpora,
        )
    shapes: dict[str, Any] = {name: metric.json() for name, metric in (metrics | judged.metrics).items()}
    return {**shapes, "end_bins": bins, "notes": [*notes, *judged.notes]}


def _likelihood_metrics(
    model: Any, people: Sequence[Conversation], baselines: Mapping[str, Baseline]
) -> tuple[dict[str, Comparison], list[dict[str, float]], list[str]]:
    """Perplexity and END of the simulator and of the baselines that are models, with differences."""
    speaking = [conversation for conversation in people if conversation.turns(Role.USER)]
    names = (*PERPLEXITIES, *END_METRICS)
    absent = Likelihood(dict.fromkeys(names, stats.undefined(NO_SCORER)), {}, [], [])
    own = likelihood.score_likelihood(model, speaking) if likelihood.is_scorer(model) else absent
    based = {
        name: likelihood.score_likelihood(each.model, speaking, name)
        for name, each in baselines.items()
        if likelihood.is_scorer(each.model)
    }
    first = next(iter(based.values()), None)
    metrics = {
        name: Comparison(
            own.scores[name],
            None,
            {base: of.scores[name] for base, of in based.items()},
            difference=_difference(name, own, first) if first and own is not absent else None,
        )
        for name in names
    }
    notes = [*own.notes, *(note for of in based.values() for note in of.notes)]
    return metrics, likelihood.end_bins(own.decisions), notes


def _difference(name: str, own: Likelihood, base: Likelihood) -> Estimate | None:
    """The simulator minus a baseline on the same people, for perplexities and END F1."""
    if name == "end_f1":
        return likelihood.end_f1_difference(own.decisions, base.decisions)
    if name in own.logprobs and name in base.logprobs:
        return likelihood.perplexity_difference(own.logprobs[name], base.logprobs[name])
    return None


def run_eval_simulator(step: EvalSimulator) -> dict[str, Any]:
    """`evaluate_simulator` with the corpora and models that a step names.

    Raises:
        InputError, MissingInput, MissingExtra, ModelError: an input cannot be used; raised before any work.
    """
    from maieutic.data.corpus import read_corpus

    parsed = parse_baselines(step.baselines)
    specs = [spec for spec in (step.model, *(spec for spec, _ in parsed.values())) if spec]
    for spec in specs:
        _check_measurable(spec, step.judge is not None)
    people = list(read_corpus(step.people))
    simulated = list(read_corpus(step.simulated)) if step.simulated else None
    corpora = {name: list(read_corpus(path)) for name, (_, path) in parsed.items() if path}
    embed = sentence_embedder(step.embedder) if step.embedder else None
    loaded: dict[str, ChatModel] = {}
    try:
        for spec in dict.fromkeys(specs):
            loaded[spec] = load(spec, step.local, step.requests)
        plain = step.local.model_copy(update={"template": None, "system": None})
        return evaluate_simulator(
            people,
            model=loaded.get(step.model or ""),
            simulated=simulated,
            baselines={
                name: Baseline(loaded.get(spec or ""), corpora.get(name))
                for name, (spec, _) in parsed.items()
            },
            embed=embed,
            judge=load(step.judge, plain, step.requests) if step.judge else None,
        )
    finally:
        for each in loaded.values():
            run_async(each.close())


def is_model(text: str) -> bool:
    """Whether a text is a MODEL and not a path."""
    return text.startswith(MODEL_KINDS)


def split_name(text: str) -> tuple[str, str]:
    """The name and the rest of `[NAME=]MODEL_OR_CORPUS`; a path that exists is not split."""
    named = None if Path(text).exists() else _NAMED.fullmatch(text)
    return (named[1], named[2]) if named else (DEFAULT_BASELINE, text)


def parse_baselines(texts: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
    """By name the MODEL and the corpus path of each baseline.

    Raises:
        InputError: a name has two models or two corpora.
        MissingInput: a baseline is neither a MODEL nor an existing path.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    for name, value in map(split_name, texts):
        spec, path = found.get(name, (None, None))
        if not is_model(value) and not Path(value).exists():
            raise MissingInput(f"{value}: neither a corpus nor a MODEL", "Give a path, or hf/PATH_OR_ID.")
        if (spec if is_model(value) else path) is not None:
            raise InputError(
                f"two {'models' if is_model(value) else 'corpora'} for the baseline {name}",
                f"Give each a different name: --baseline NAME={value}.",
            )
        found[name] = (value, path) if is_model(value) else (spec, value)
    return found


def _check_measurable(spec: str, with_judge: bool) -> None:
    """Refuse a model that no metric can be computed for.

    Raises:
        InputError: it is behind a server, which gives no token probabilities, and there is no judge of its replies.
    """
    if not spec.startswith("hf/") and not (with_judge and is_model(spec)):
        raise InputError(
            f"{spec}: perplexity and END need token probabilities, which only a model in this process gives",
            "Give hf/PATH_OR_ID, or add --judge MODEL to measure adherence, or simulate with it and give the "
            "run with --simulated or --baseline.",
        )
