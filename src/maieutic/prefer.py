"""Judged candidates → preference pairs for DPO, and why the other prompts gave none.

The prompt of a pair is exactly what the tutor saw, its system text included, so that DPO trains on the prompt that is
used. A chosen reply scores above the floor and above the rejected one, and never reveals a known answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from maieutic.candidates import read_stage
from maieutic.errors import EmptyCorpus, InputError
from maieutic.judge.parse import read_values
from maieutic.rubrics import Rubric, load, summary_score
from maieutic.types import Finish, Preference, Role, Turn, Verdict, fingerprint

Strategy = Literal["best-worst"]
REVEALS = "reveals_answer"
_CLOSE = 1e-6
"""Scores closer than this are one score: sums of weights are not exact."""


class Refusal(StrEnum):
    """Why a prompt gave no pair."""

    FAILED = "failed"
    """The tutor or the judge did not answer."""
    TOO_FEW = "too few candidates"
    UNSCORED = "unscored"
    """Fewer than two candidates have a score."""
    REVEALS = "chosen reveals"
    """Every candidate above the floor and better than another gives the answer away."""
    TOO_LOW = "chosen too low"
    TIE = "tie"
    """The best is no better than the worst."""
    MARGIN = "margin too small"


class Quality(NamedTuple):
    """What became of the prompts."""

    prompts: int
    pairs: int
    refused: dict[str, int]
    """Prompts without a pair, by why."""
    unscored: int
    """Candidates without a score, over all prompts."""
    chosen_cut: int
    """Chosen replies that stopped at the token limit."""
    score_chosen: float | None
    score_rejected: float | None
    """Means of the summary scores."""
    words_chosen: float | None
    words_rejected: float | None
    """Mean lengths: a gap here is what DPO learns first."""

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return self._asdict()


class _Graded(NamedTuple):
    place: int
    text: str
    score: float
    reveals: bool
    cut: bool


def prefer(
    source: Path | str,
    out: Path | str,
    *,
    strategy: Strategy = "best-worst",
    min_chosen: float = 0.8,
    min_margin: float = 0.0,
    overwrite: bool = False,
) -> Quality:
    """Write the pairs of a judge stage as JSONL, in the order of the prompts.

    Args:
        source: a judge stage, its run, a file of its rows, or socratic-llm's `train_dataset.json`.
        out: the JSONL file.
        strategy: `best-worst`, one pair a prompt.
        min_chosen: the chosen reply scores more than this (as published: .8).
        min_margin: the chosen reply scores more than this above the rejected one.
        overwrite: replace a file that holds other pairs.

    Raises:
        EmptyCorpus: not one prompt gave a pair; says why.
        StoreError: the file exists and holds something else.
    """
    from maieutic.data.corpus import line, refuse_source, replacing

    _known(strategy)
    out = Path(out)
    refuse_source(out, [source])
    kept: list[tuple[int, int, Preference]] = []
    rows: list[Preference | Refusal] = []
    unscored = 0
    for place, row in enumerate(judged_rows(source)):
        result = pair(row, min_chosen=min_chosen, min_margin=min_margin)
        rows.append(result)
        unscored += sum(score is None for score in row.get("scores") or ())
        if isinstance(result, Preference):
            index = row.get("index")
            kept.append((index if isinstance(index, int) else place, place, result))
    kept.sort(key=lambda one: one[:2])
    found = [preference for *_, preference in kept]
    quality = _quality(rows, found, unscored)
    if not found:
        why = (
            ", ".join(f"{count} {reason}" for reason, count in quality.refused.items())
            or "there is no prompt"
        )
        hint = "Lower --min-chosen, or judge more candidates."
        if quality.refused.keys() == {Refusal.UNSCORED.value}:
            hint = "Judge them with a model: where no answer is known, code cannot tell whether a reply reveals it."
        raise EmptyCorpus(f"{source}: no prompt gave a pair ({why})", hint)
    with replacing(out, overwrite=overwrite) as write:
        for preference in found:
            write(line(preference.model_dump(mode="json")))
    return quality


def pairs(
    rows: Iterable[Mapping[str, Any]],
    *,
    strategy: Strategy = "best-worst",
    min_chosen: float = 0.8,
    min_margin: float = 0.0,
) -> Iterator[Preference]:
    """The pairs of judged rows, in their order; prompts that give none are passed over."""
    _known(strategy)
    for row in rows:
        result = pair(row, min_chosen=min_chosen, min_margin=min_margin)
        if isinstance(result, Preference):
            yield result


def pair(row: Mapping[str, Any], *, min_chosen: float = 0.8, min_margin: float = 0.0) -> Preference | Refusal:
    """The best candidate of a judged row that reveals nothing, against its worst; or why there is none.

    Of equal candidates the first counts.
    """
    graded = _graded(row)
    if isinstance(graded, Refusal):
        return graded
    worst = min(graded, key=lambda one: one.score)
    silent = [one for one in graded if not one.reveals and one.text.strip()]
    best = max(silent, key=lambda one: one.score, default=None)
    top = max(graded, key=lambda one: one.score)
    if top.score - worst.score <= _CLOSE:
        return Refusal.TIE
    if best is None:
        return Refusal.REVEALS
    if best.score - min_chosen <= _CLOSE:
        return Refusal.REVEALS if top.score - min_chosen > _CLOSE else Refusal.TOO_LOW
    if best.text == worst.text:
        return Refusal.TIE
    if best.score - worst.score <= _CLOSE:
        return Refusal.REVEALS  # what beats the worst gives the answer away
    if best.score - worst.score - min_margin <= _CLOSE:
        return Refusal.MARGIN
    return _preference(row, best, worst)


def _preference(row: Mapping[str, Any], best: _Graded, worst: _Graded) -> Preference:
    meta = {
        key: row[key] for key in ("id", "model", "rubric", "source", "licence") if row.get(key) is not None
    }
    verdicts = row["verdicts"]
    return Preference(
        prompt=tuple(Turn.model_validate(turn) for turn in row["messages"]),
        chosen=(Turn(role=Role.ASSISTANT, content=best.text),),
        rejected=(Turn(role=Role.ASSISTANT, content=worst.text),),
        scores={"chosen": best.score, "rejected": worst.score},
        meta={
            **meta,
            "judge": verdicts[best.place]["judge"],
            "values": {"chosen": verdicts[best.place]["values"], "rejected": verdicts[worst.place]["values"]},
            "cut": best.cut,
        },
    )


def _graded(row: Mapping[str, Any]) -> list[_Graded] | Refusal:
    """The scored candidates of a row, or why there are fewer than two."""
    if row.get("fault"):
        return Refusal.FAILED
    try:
        candidates, verdicts, scores = row["candidates"], row["verdicts"], row["scores"]
        if len(candidates) < 2:
            return Refusal.TOO_FEW
        found = [
            _Graded(
                place,
                str(candidate["text"]),
                float(score),
                bool((verdict.get("values") or {}).get(REVEALS, 0) > 0),
                candidate.get("finish") == Finish.LENGTH,
            )
            for place, (candidate, verdict, score) in enumerate(
                zip(candidates, verdicts, scores, strict=True)
            )
            if score is not None and not verdict.get("error")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"row {row.get('id', row.get('key'))}: not a judged row ({type(error).__name__}: {error})",
            "Give a judge stage, or socratic-llm's train_dataset.json.",
        ) from None
    return found if len(found) >= 2 else Refusal.UNSCORED


def _quality(rows: Sequence[Preference | Refusal], found: Sequence[Preference], unscored: int) -> Quality:
    refused = Counter(result.value for result in rows if isinstance(result, Refusal))
    return Quality(
        prompts=len(rows),
        pairs=len(found),
        refused=dict(refused.most_common()),
        unscored=unscored,
        chosen_cut=sum(bool(preference.meta["cut"]) for preference in found),
        score_chosen=_mean([preference.scores["chosen"] for preference in found]),
        score_rejected=_mean([preference.scores["rejected"] for preference in found]),
        words_chosen=_mean([len(preference.chosen[0].content.split()) for preference in found]),
        words_rejected=_mean([len(preference.rejected[0].content.split()) for preference in found]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def _known(strategy: str) -> None:
    if strategy != "best-worst":
        raise InputError(f"strategy {strategy!r} is not known", "Use best-worst.")


def judged_rows(source: Path | str) -> Iterator[dict[str, Any]]:
    """Judged rows of a stage or file; socratic-llm's DPO artefact is turned into them."""
    rubric = load("socratic")
    for row in read_stage(source, "judge"):
        yield published_row(row, rubric) if "all_evaluations" in row or "chosen_eval" in row else row


def published_row(item: Mapping[str, Any], rubric: Rubric) -> dict[str, Any]:
    """An item of socratic-llm's `dpo/{dataset}/train_dataset.json` as a judged row.

    Its prompt, one string, becomes one user turn, byte for byte. Verdicts are read from what is recorded, by our
    rules: an evaluation with an error, an unclear word or a value off its scale is unscored. The file's own choice of
    pair is not used.
    """
    evaluations = item.get("all_evaluations") or [item.get("chosen_eval"), item.get("rejected_eval")]
    if not isinstance(item.get("prompt"), str) or not all(isinstance(one, Mapping) for one in evaluations):
        raise InputError(
            "an item is not of the published form (prompt, all_evaluations)",
            "Give dpo/{dataset}/train_dataset.json.",
        )
    verdicts = [_published_verdict(one, rubric) for one in evaluations]
    return {
        "key": item.get("key"),
        "id": fingerprint(item["prompt"])[:16],
        "messages": [{"role": "user", "content": item["prompt"]}],
        "candidates": [{"text": str(one.get("output") or "")} for one in evaluations],
        "verdicts": [verdict.model_dump() for verdict in verdicts],
        "scores": [summary_score(rubric, verdict.values) if verdict.scored else None for verdict in verdicts],
        "rubric": rubric.name,
        "source": "socratic-llm",
    }


def _published_verdict(evaluation: Mapping[str, Any], rubric: Rubric) -> Verdict:
    raw = str(evaluation.get("raw_evaluation") or "")
    if evaluation.get("evaluation_error"):
        return Verdict(judge="recorded", raw=raw, error=str(evaluation["evaluation_error"]))
    values = evaluation.get("evaluation")
    if not isinstance(values, Mapping):
        return Verdict(judge="recorded", raw=raw, error="no evaluation")
    parsed = read_values(dict(values), rubric)
    try:
        return Verdict(judge="recorded", values=parsed.values, raw=raw, error=parsed.error)
    except ValidationError:
        return Verdict(judge="recorded", raw=raw, error="values that are no numbers")
