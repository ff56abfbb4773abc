"""Is a simulator like people? Perplexity on held-out human turns, knowing when to end, and what its turns are like.

Every number stands beside people's and the baselines'. What needs a model, a judge or a corpus that was not given is
null and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

from maieutic.chat_templates.openings import Decisions, decisions
from maieutic.core import statistics as stats
from maieutic.core.errors import EmptyCorpus, RenderError
from maieutic.core.messages import Conversation, Estimate, Role
from maieutic.core.progress import track
from maieutic.evals import ending, judged, realism
from maieutic.evals import perplexity as loss
from maieutic.evals.embed import Embed
from maieutic.evals.ending import end_bins, end_scores
from maieutic.evals.realism import Beside
from maieutic.models import ChatModel

PERPLEXITIES = ("perplexity_on_human_turns", "perplexity_with_intent", "perplexity_without_intent")
NO_SCORER = "needs the simulator as an hf/ model"


class Scorer(Protocol):
    """What is asked of a model here beside replies; models in this process can say it."""

    def logprobs(
        self, conversations: Sequence[Conversation], role: Role, *, end: bool = True
    ) -> list[list[float] | None]:
        """Natural-log probability of every token of the role's turns; null for one that does not fit the context."""
        ...

    def end_probabilities(self, conversations: Sequence[Conversation]) -> list[list[float | None]]:
        """Probability of END at each human opening, by conversation; null where it cannot be said."""
        ...


class Baseline(NamedTuple):
    """Something the simulator is compared with: a model, conversations it wrote as a user, or both."""

    model: Any = None
    """A `ChatModel`, a `Scorer` or both."""
    corpus: Sequence[Conversation] | None = None


class _OfModel(NamedTuple):
    """What one model thinks of people's turns."""

    scores: dict[str, Estimate]
    rows: dict[str, loss.Rows]
    """Log-probabilities by perplexity metric."""
    made: list[Decisions]
    notes: list[str]


def _scores(model: Any) -> TypeGuard[Scorer]:
    return hasattr(model, "logprobs")


def of_model(model: Scorer, people: Sequence[Conversation], name: str = "the model") -> _OfModel:
    """Perplexity on people's turns and the END scores of one model; conversations too long for it are counted.

    END itself is no part of a perplexity, so that a model that never learned it is compared on the same tokens. That
    with and that without intent are of the same people, those who have one; see `perplexity.with_intent`.
    """
    wanting = [conversation for conversation in people if conversation.intent]
    system, telling = getattr(model, "system", None), getattr(model, "telling", None)
    told = [loss.with_intent(one, system, telling) for one in wanting]
    with track(3, f"score {name}") as bar:
        whole = model.logprobs(people, Role.USER, end=False)
        bar.advance()
        knowing, untold = _told(model, told)
        bar.advance()
        openings = model.end_probabilities(people)
    alone = [row for row, one in zip(whole, people, strict=True) if one.intent]
    rows: dict[str, loss.Rows] = {PERPLEXITIES[0]: whole}
    scores = dict.fromkeys(PERPLEXITIES[1:], stats.undefined(judged.NO_INTENT))
    if told and untold:
        scores = dict.fromkeys(PERPLEXITIES[1:], stats.undefined(untold))
    elif told:
        both = [bool(a and b) for a, b in zip(knowing, alone, strict=True)]
        rows[PERPLEXITIES[1]] = [row if ok else None for row, ok in zip(knowing, both, strict=True)]
        rows[PERPLEXITIES[2]] = [row if ok else None for row, ok in zip(alone, both, strict=True)]
    made = [decisions(*pair) for pair in zip(people, openings, strict=True)]
    lost = sum(row is None for row in whole)
    notes = [f"{lost} of {len(people)} conversations do not fit the context of {name}"] if lost else []
    ended = [one for one in people if one.ended]
    if unasked := sum(one.messages[-1].role == Role.USER for one in ended):
        notes.append(
            f"{unasked} of {len(ended)} endings come with the person's own last words, where {name} is not asked for "
            "END: they are in no metric of the ending"
        )
    scores |= {metric: loss.perplexity(of) for metric, of in rows.items()}
    return _OfModel(scores | end_scores(made), rows, made, notes)


def _told(model: Scorer, told: Sequence[Conversation]) -> tuple[loss.Rows, str | None]:
    """The log-probabilities where the intent is told; or why it cannot be."""
    try:
        return (model.logprobs(told, Role.USER, end=False) if told else []), None
    except RenderError as error:
        return [], f"no way to tell the intent: {error.what}"


def _difference(name: str, own: _OfModel, base: _OfModel) -> Estimate | None:
    """The simulator minus a baseline on the same people, for the metrics that are compared so."""
    if name == "end_f1":
        return ending.f1_difference(own.made, base.made)
    if name in own.rows and name in base.rows:
        return loss.difference(own.rows[name], base.rows[name])
    return None


def _by_models(
    model: Any, people: Sequence[Conversation], baselines: Mapping[str, Baseline]
) -> tuple[dict[str, Beside], list[dict[str, float]], list[str]]:
    """Perplexity and END of the simulator and of the baselines that are models, with differences."""
    spoken = [conversation for conversation in people if conversation.turns(Role.USER)]
    names = (*PERPLEXITIES, *ending.METRICS)
    absent = _OfModel(dict.fromkeys(names, stats.undefined(NO_SCORER)), {}, [], [])
    own = of_model(model, spoken) if _scores(model) else absent
    based = {name: of_model(one.model, spoken, name) for name, one in baselines.items() if _scores(one.model)}
    first = next(iter(based.values()), None)
    metrics = {
        name: Beside(
            own.scores[name],
            None,
            {base: of.scores[name] for base, of in based.items()},
            difference=_difference(name, own, first) if first and own is not absent else None,
        )
        for name in names
    }
    notes = [*own.notes, *(note for of in based.values() for note in of.notes)]
    return metrics, end_bins(own.made), notes


def evaluate(
    people: Sequence[Conversation],
    *,
    model: Any = None,
    simulated: Sequence[Conversation] | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    embed: Embed | None = None,
    judge: ChatModel | None = None,
) -> dict[str, Any]:
    """All metrics of a simulator, by name: `{"value", "ci", "n", "human", "baseline", ...}`, see `realism.Beside`.

    Beside them `end_bins` (see there) and `notes`.

    Args:
        people: held-out conversations of people.
        model: the simulator: in this process for perplexity and END, any `ChatModel` for adherence.
        simulated: conversations it wrote; for the metrics of its text.
        baselines: by name what it is compared with, such as its base and a prompted user.
        embed: texts → vectors, for the metrics of topics; null: `embed.lexical`.
        judge: for adherence and the four judged criteria. With one, every model is closed in the end.

    Raises:
        EmptyCorpus: there are no people to compare with.
    """
    if not people:
        raise EmptyCorpus("no held-out conversations of people", "Give a corpus with --people.")
    based = dict(baselines or {})
    corpora = {name: one.corpus for name, one in based.items() if one.corpus}
    metrics, bins, notes = _by_models(model, people, based)
    metrics |= realism.compare(simulated, people, corpora, embed)
    said = judged.absent()
    if judge is not None:
        said = judged.judge_all(
            judge,
            people,
            model=model if hasattr(model, "reply") else None,
            simulated=simulated,
            base_models={name: one.model for name, one in based.items() if hasattr(one.model, "reply")},
            base_corpora=corpora,
        )
    shapes: dict[str, Any] = {name: metric.json() for name, metric in (metrics | said.metrics).items()}
    return {**shapes, "end_bins": bins, "notes": [*notes, *said.notes]}
