"""Is a simulator like people? Perplexity on held-out human turns, knowing when to end, and what its turns are like.

Every number stands beside people's and a baseline's. What needs a model or a corpus that was not given is null and
says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from maieutic.errors import EmptyCorpus, InputError, MissingInput
from maieutic.evals import realism, stats
from maieutic.evals.realism import Beside
from maieutic.types import Conversation, Estimate, Role

Array = NDArray[np.float64]
BINS = 10
_MODEL_KINDS = ("hf/", "openai/", "ollama/", "script/", "http://", "https://", "inspect/")
_END_METRICS = ("end_precision", "end_recall", "end_f1", "end_calibration_error", "end_brier")


class Scorer(Protocol):
    """What is asked of a model here; models in this process can say it."""

    def logprobs(
        self, conversations: Sequence[Conversation], role: Role, *, end: bool = True
    ) -> list[list[float] | None]:
        """Natural-log probability of every token of the role's turns; null for one that does not fit the context."""
        ...

    def end_probabilities(self, conversations: Sequence[Conversation]) -> list[list[float | None]]:
        """Probability of END at each human opening, by conversation; null where it cannot be said."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


class Decisions(NamedTuple):
    """END at the human openings of one conversation: what the model thought, and what the person did."""

    probabilities: list[float]
    ended: list[bool]


def decisions(conversation: Conversation, probabilities: Sequence[float | None]) -> Decisions:
    """One decision at each human opening: every human turn is a going on; what follows the last turn is an end.

    A conversation that was cut (`ended` false) says nothing about its last opening, which is left out, and so is an
    opening without a probability.
    """
    went_on = len(conversation.turns(Role.USER))
    openings = probabilities[: went_on + (1 if conversation.ended else 0)]
    known = [(p, place >= went_on) for place, p in enumerate(openings) if p is not None]
    return Decisions([p for p, _ in known], [ended for _, ended in known])


def end_scores(made: Sequence[Decisions], threshold: float = 0.5) -> dict[str, Estimate]:
    """Precision, recall and F1 of END, its calibration error (ten equal bins) and Brier score; by conversation.

    END counts as predicted from `threshold` on. Sources: end F1, UserLM-8b (arXiv 2510.06552); expected calibration
    error, Naeini et al. 2015.
    """
    rows = [_end_row(one, threshold) for one in made if one.probabilities]
    if not rows:
        return {name: stats.undefined("the model gives no probability of END") for name in _END_METRICS}
    table = np.array(rows)
    positives = "no conversation was ended by its person"
    return {
        "end_precision": stats.bootstrap(table, lambda s: s[..., 0] / (s[..., 0] + s[..., 1]),
                                         undefined_because="END was never predicted"),
        "end_recall": stats.bootstrap(table, lambda s: s[..., 0] / (s[..., 0] + s[..., 2]),
                                      undefined_because=positives),
        "end_f1": stats.bootstrap(table, _f1, undefined_because=positives),
        "end_calibration_error": stats.bootstrap(
            table, lambda s: np.abs(s[..., 5 : 5 + BINS] - s[..., 5 + BINS :]).sum(axis=-1) / s[..., 4]
        ),
        "end_brier": stats.bootstrap(table, lambda s: s[..., 3] / s[..., 4]),
    }  # fmt: skip


def end_bins(made: Sequence[Decisions]) -> list[dict[str, float]]:
    """The calibration of END by ten equal bins of its probability, those with decisions in them.

    Returns:
        `low`, `high` of the bin, `n` decisions, the mean probability `predicted`, the share that `ended`.
    """
    p = np.array([value for one in made for value in one.probabilities])
    ended = np.array([value for one in made for value in one.ended], dtype=float)
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    bins = [(number, place == number) for number in range(BINS)]
    return [
        {"low": number / BINS, "high": (number + 1) / BINS, "n": int(here.sum()),
         "predicted": float(p[here].mean()), "ended": float(ended[here].mean())}
        for number, here in bins if here.any()
    ]  # fmt: skip


def _f1(sums: Array) -> Array:
    """2tp / (2tp + fp + fn); undefined where nobody ended and nothing was predicted."""
    hit, false, missed = sums[..., 0], sums[..., 1], sums[..., 2]
    return np.where(hit + missed > 0, 2 * hit / (2 * hit + false + missed), np.nan)


def _end_row(made: Decisions, threshold: float) -> list[float]:
    """Hits, false ends, missed ends, squared error, decisions; then Σ p and Σ ended by bin of p."""
    p, ended = np.array(made.probabilities), np.array(made.ended, dtype=float)
    said = p >= threshold
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    counts = [(said * ended).sum(), (said * (1 - ended)).sum(), (~said * ended).sum()]
    binned = [np.bincount(place, of, minlength=BINS) for of in (p, ended)]
    return [*map(float, counts), float(((p - ended) ** 2).sum()), float(len(p)), *binned[0], *binned[1]]


def perplexity(logprobs: Iterable[Sequence[float]]) -> Estimate:
    """The exponential of the mean loss of a token, resampled by conversation; rows without tokens left out."""
    rows = [(-float(np.sum(row)), len(row)) for row in logprobs if len(row)]
    return stats.ratio([loss for loss, _ in rows], [count for _, count in rows], transform=np.exp)


class _OfModel(NamedTuple):
    scores: dict[str, Estimate]
    notes: list[str]
    bins: Sequence[dict[str, float]] = ()


def of_model(model: Scorer, people: Sequence[Conversation], name: str = "the model") -> _OfModel:
    """Perplexity on people's turns and the END scores of one model; conversations too long for it are counted.

    END itself is no part of the perplexity, so that a model that never learned it is compared on the same tokens.
    """
    spoken = [conversation for conversation in people if conversation.turns(Role.USER)]
    logprobs = model.logprobs(spoken, Role.USER, end=False)
    openings = model.end_probabilities(spoken)
    made = [decisions(*pair) for pair in zip(spoken, openings, strict=True)]
    known = [row for row in logprobs if row is not None]
    lost = len(spoken) - len(known)
    notes = [f"{lost} of {len(spoken)} conversations do not fit the context of {name}"] if lost else []
    return _OfModel(
        {"perplexity_on_human_turns": perplexity(known), **end_scores(made)}, notes, end_bins(made)
    )


def evaluate(
    people: Sequence[Conversation],
    *,
    model: Scorer | None = None,
    simulated: Sequence[Conversation] | None = None,
    baseline_model: Scorer | None = None,
    baseline: Sequence[Conversation] | None = None,
) -> dict[str, Any]:
    """All metrics of a simulator, by name, each `{"value", "ci", "n", "human", "baseline"}` with their intervals.

    Beside them `end_bins` (see there) and `notes`.

    Args:
        people: held-out conversations of people.
        model: the simulator, in this process; for perplexity and END.
        simulated: conversations it wrote; for the metrics of its text.
        baseline_model: what it is compared with, for perplexity and END.
        baseline: conversations of what it is compared with, for the metrics of text.

    Raises:
        EmptyCorpus: there are no people to compare with.
    """
    if not people:
        raise EmptyCorpus("no held-out conversations of people", "Give a corpus with --people.")
    names = ("perplexity_on_human_turns", *_END_METRICS)
    reason = "needs the simulator as an hf/ model"
    own = of_model(model, people) if model else _OfModel({n: stats.undefined(reason) for n in names}, [])
    base = of_model(baseline_model, people, "the baseline") if baseline_model else _OfModel({}, [])
    metrics = {name: Beside(own.scores[name], None, base.scores.get(name)) for name in names}
    metrics |= realism.compare(simulated, people, baseline)
    shapes: dict[str, Any] = {name: metric.json() for name, metric in metrics.items()}
    return {**shapes, "end_bins": list(own.bins), "notes": [*own.notes, *base.notes]}


def evaluate_named(
    people: Path | str,
    model: str | None = None,
    simulated: Path | str | None = None,
    baselines: Sequence[str] = (),
    options: Any = None,
) -> dict[str, Any]:
    """`evaluate` with everything named: corpora by path, models as MODEL; a baseline is either."""
    from maieutic.data.corpus import read_corpus

    held_out = list(read_corpus(people))
    base_models = [name for name in baselines if name.startswith(_MODEL_KINDS)]
    base_paths = [name for name in baselines if name not in base_models]
    for path in base_paths:
        if not Path(path).exists():
            raise MissingInput(f"{path}: neither a corpus nor a MODEL", "Give a path, or hf/PATH_OR_ID.")
    written = list(read_corpus(simulated)) if simulated else None
    base_corpus = [c for path in base_paths for c in read_corpus(path)] or None
    loaded = {spec: _load(spec, options) for spec in (model, *base_models[:1]) if spec}
    try:
        return evaluate(
            held_out,
            model=loaded.get(model or ""),
            simulated=written,
            baseline_model=loaded.get(base_models[0]) if base_models else None,
            baseline=base_corpus,
        )
    finally:
        for one in loaded.values():
            asyncio.run(one.close())


def _load(spec: str, options: Any) -> Scorer:
    """A model that gives token probabilities.

    Raises:
        InputError: it is reached over the network, where a server does not say them.
    """
    if not spec.startswith("hf/"):
        raise InputError(
            f"{spec}: perplexity and END need token probabilities, which only a model in this process gives",
            "Name it hf/PATH_OR_ID, or simulate with it and give the run with --simulated or --baseline.",
        )
    from maieutic.models import load

    return load(spec, options)  # type: ignore[return-value]
