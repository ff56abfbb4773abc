"""How useful a corpus is for training: assistants that differ only in their corpus, on one benchmark's questions.

An *arm* is one trained assistant: a corpus, the number of its conversations, a base model, a training seed, and the
file of its scored answers. Arms are compared question by question, so that differences in difficulty cancel:
corpora with the first corpus at the same base and size, and sizes with the smallest of the same corpus and base (the
scalability and transferability of PlatoLM, arXiv 2308.11534). Several seeds of one arm are averaged by question.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, Estimate, Role
from maieutic.core.words import pairwise_diversity
from maieutic.evals import text, topics
from maieutic.evals.paired import Item, read_scored
from maieutic.evals.steps import Arm

FEWEST = 4
"""The minimum number of arms for a rank correlation, and of corpora for its interval."""

Values = dict[Item, float]
"""A score by item; the first part of an item is its question."""
Cell = tuple[str, int, str]
"""Corpus, size, base model."""


def compare_corpora(arms: Sequence[Arm]) -> dict[str, Any]:
    """Compare corpora by the benchmark scores of the assistants trained on them.

    Args:
        arms: the other corpora are compared with the corpus of the first arm.

    Returns:
        - `metric`, and `cells`: for each corpus, size and base the mean score (`value`, `ci`, `n` questions), the
          number of `rows` and of `unscored` rows, and the same for each training seed;
        - `differences`: `overall` (a corpus minus the first one, over all bases and sizes that both have), `blocks`
          (the same at each base and size), `sizes` (a size minus the smallest of the same corpus and base), each with
          `difference`, `ci`, `n` questions, `p` by sign flips and `p_holm` over its list;
        - `corpora`: the metrics of each training sample (see `corpus_metrics`);
        - `correlations`: of each metric with the scores (see `rank_correlation`);
        - `notes`.

    Raises:
        MissingInput, EmptyCorpus, InputError: a file cannot be used, the files are of several kinds, or an arm occurs
            twice.
    """
    if len({(a.corpus, a.size, a.model, a.seed) for a in arms}) < len(arms):
        raise InputError(
            "an arm occurs twice", "Each combination of corpus, size, model and seed must occur once."
        )
    read = [read_scored(arm.judged, arm.name) for arm in arms]
    if len(kinds := {(scored.kind, scored.main) for scored, _ in read}) != 1:
        what = ", ".join(sorted(kind for kind, _ in kinds)) or "nothing"
        raise InputError(f"the arms have scores of {what}", "Compare the scores of one benchmark.")
    ((_, main),) = kinds
    notes = [note for _, notes in read for note in notes]
    by_cell: dict[Cell, dict[int, Values]] = {}
    unscored: dict[Cell, int] = {}
    for arm, (scored, _) in zip(arms, read, strict=True):
        cell = (arm.corpus, arm.size, arm.model)
        by_cell.setdefault(cell, {})[arm.seed] = {item: v[main] for item, v in scored.items.items()}
        unscored[cell] = unscored.get(cell, 0) + scored.unscored
    values = {cell: _averaged(list(seeds.values())) for cell, seeds in by_cell.items()}
    if all(len(seeds) == 1 for seeds in by_cell.values()):
        notes.append("one training seed: the intervals cover questions, not other training runs")
    measured = _measure_samples(arms)
    return {
        "metric": main,
        "cells": [_cell(cell, by_cell[cell], values[cell], unscored[cell]) for cell in by_cell],
        "differences": _differences(values),
        "corpora": [
            {"corpus": corpus, "size": size, **{name: one.json() for name, one in of.items()}}
            for (corpus, size), of in measured.items()
        ],
        "correlations": _correlations(values, measured),
        "notes": list(dict.fromkeys(notes)),
    }


def _averaged(seeds: Sequence[Values]) -> Values:
    """By item, the mean over the seeds that have it."""
    found = {item: [one[item] for one in seeds if item in one] for seed in seeds for item in seed}
    return {item: math.fsum(several) / len(several) for item, several in found.items()}


def _mean(values: Values) -> Estimate:
    return stats.mean(list(values.values()), [item[0] for item in values])


def _cell(cell: Cell, seeds: Mapping[int, Values], values: Values, unscored: int) -> dict[str, Any]:
    return {
        **_named(cell),
        **_mean(values).json(),
        "rows": sum(map(len, seeds.values())),
        "unscored": unscored,
        "seeds": {str(seed): _mean(own).json() for seed, own in seeds.items()},
    }


def _named(cell: Cell) -> dict[str, Any]:
    return dict(zip(("corpus", "size", "model"), cell, strict=True))


def _differences(values: Mapping[Cell, Values]) -> dict[str, Any]:
    first = next(iter(values))[0]
    pairs = [
        (cell, (first, *cell[1:])) for cell in values if cell[0] != first and (first, *cell[1:]) in values
    ]
    smallest = {(c, m): min(s for k, s, n in values if (k, n) == (c, m)) for c, _, m in values}
    grown = [
        (cell, (c, smallest[c, m], m)) for cell in values for c, size, m in [cell] if smallest[c, m] < size
    ]
    overall = {c: [pair for pair in pairs if pair[0][0] == c] for (c, *_), _ in pairs}
    rows = {
        "overall": [
            {"corpus": corpus, "against": first, **_difference(own, values)}
            for corpus, own in overall.items()
        ],
        "blocks": [{**_named(a), "against": first, **_difference([(a, b)], values)} for a, b in pairs],
        "sizes": [{**_named(a), "against": b[1], **_difference([(a, b)], values)} for a, b in grown],
    }
    return {name: _adjusted(of) for name, of in rows.items()}


def _difference(pairs: Iterable[tuple[Cell, Cell]], values: Mapping[Cell, Values]) -> dict[str, Any]:
    """The mean of first - second on the items that both have, resampled by question."""
    differences, questions = [], []
    for a, b in pairs:
        shared = [item for item in values[a] if item in values[b]]
        differences += [values[a][item] - values[b][item] for item in shared]
        questions += [item[0] for item in shared]
    shape = (
        stats.mean(differences, questions) if differences else stats.undefined("no question in common")
    ).json()
    return {"difference": shape.pop("value"), **shape, "p": stats.sign_flip(differences, questions)}


def _adjusted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    adjusted = stats.holm([row["p"] for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


def _measure_samples(arms: Sequence[Arm]) -> dict[tuple[str, int], dict[str, Estimate]]:
    """The metrics of each training sample, by corpus and size; distinct-2 over equally many 2-grams at one size."""
    from maieutic.data.corpus import read_corpus

    data = {(arm.corpus, arm.size): arm.data for arm in arms if arm.data}
    result: dict[tuple[str, int], dict[str, Estimate]] = {}
    for size in dict.fromkeys(size for _, size in data):
        alike = {key: list(read_corpus(path)) for key, path in data.items() if key[1] == size}
        asked = {key: [c.turns(Role.USER) for c in own] for key, own in alike.items()}
        limit = min(text.ngram_total(own, 2) for own in asked.values())
        embed = topics.ngram_embedder([turn for own in asked.values() for turns in own for turn in turns])
        for key, own in alike.items():
            topic = topics.topic_diversity(topics.embed_turns(asked[key], embed))
            result[key] = {**corpus_metrics(own, limit), "topic_diversity": topic}
    return {key: result[key] for key in data}


def corpus_metrics(conversations: Sequence[Conversation], limit: int | None = None) -> dict[str, Estimate]:
    """Metrics of a corpus, mostly of its human side; simulated or not, an assistant learns from all of it.

    `first_turn_diversity`, `distinct_2` (of the first `limit` 2-grams) and `mtld` as in `evals.text`;
    `turns_per_conversation` counts human turns; `question_words` and `answer_words` are words per turn of each side.
    """
    asked = [c.turns(Role.USER) for c in conversations]
    values = [text.mtld(text.words(turn)) for turns in asked for turn in turns]
    owners = [index for index, turns in enumerate(asked) for _ in turns]
    known = [(value, owner) for value, owner in zip(values, owners, strict=True) if value is not None]
    return {
        "first_turn_diversity": pairwise_diversity([turns[0] for turns in asked if turns]),
        "distinct_2": text.distinct(asked, 2, limit or None),
        "mtld": stats.mean([value for value, _ in known], [owner for _, owner in known]),
        "turns_per_conversation": stats.mean([len(turns) for turns in asked]),
        "question_words": _words_per_turn(asked),
        "answer_words": _words_per_turn([c.turns(Role.ASSISTANT) for c in conversations]),
    }


def _words_per_turn(conversations: Sequence[Sequence[str]]) -> Estimate:
    lengths = [(len(text.words(turn)), owner) for owner, turns in enumerate(conversations) for turn in turns]
    return stats.mean([length for length, _ in lengths], [owner for _, owner in lengths])


def _correlations(
    values: Mapping[Cell, Values], measured: Mapping[tuple[str, int], Mapping[str, Estimate]]
) -> dict[str, Any]:
    scores = {cell: score for cell, own in values.items() if (score := _mean(own).value) is not None}
    names = dict.fromkeys(name for of in measured.values() for name in of)
    result = {}
    for name in names:
        of = {key: estimates[name].value for key, estimates in measured.items()}
        points = {cell: (x, y) for cell, y in scores.items() if (x := of.get(cell[:2])) is not None}
        result[name] = rank_correlation(points).json()
    return result


def rank_correlation(points: Mapping[Cell, tuple[float, float]]) -> Estimate:
    """Spearman's correlation of a metric with the scores: ranks among the corpora of one base and size, over all arms.

    A larger base or sample lifts every corpus, so ranks are taken where both are equal; with one base and one size it
    is the plain coefficient. `n` counts the arms that have another corpus at the same base and size. Arms of one corpus
    are not independent, so the interval rests on the number of corpora k: z ± 1.96 · √((1 + r²/2) / (k - 3)), with
    Fisher's z (Bonett & Wright 2000).
    """
    from scipy.stats import rankdata

    blocks: dict[tuple[int, str], list[Cell]] = {}
    for cell in points:
        blocks.setdefault(cell[1:], []).append(cell)
    kept = [own for own in blocks.values() if len(own) > 1]
    n, k = sum(map(len, kept)), len({cell[0] for own in kept for cell in own})
    if n < FEWEST:
        return stats.undefined(f"fewer than {FEWEST} arms with another corpus at the same base and size", n)
    ranks = [rankdata([points[cell] for cell in own], axis=0) - (len(own) + 1) / 2 for own in kept]
    x, y = np.concatenate(ranks).T
    if not x.any() or not y.any():
        return stats.undefined(f"the {'scores' if x.any() else 'metrics'} of all corpora are equal", n)
    r = max(-1.0, min(1.0, float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))))
    if k < FEWEST or abs(r) > 1 - 1e-12:
        return Estimate(
            r,
            None,
            n,
            f"fewer than {FEWEST} corpora: no interval"
            if k < FEWEST
            else "all arms in one order: no interval",
        )
    half = 1.96 * math.sqrt((1 + r * r / 2) / (k - 3))
    return Estimate(r, (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)), n)
