"""What is paired: rows with `messages`, `candidates`, `verdicts` and `scores`, whoever judged them.

`repeats`, where a row has it, holds each candidate's score in each repeat of the judging (one judge, one draw; or one
student, one dialogue), the same repeat at the same place; else they are read from what each judge `said`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from maieutic.checks.turns import reveals_answer
from maieutic.core.errors import InputError, MaieuticError
from maieutic.core.messages import Finish, Message, Problem, Role, Verdict, fingerprint
from maieutic.core.rows import read_stage
from maieutic.judging.parse import read_values
from maieutic.judging.rubrics import Rubric, load, summary_score

REVEALS = "reveals_answer"


class Graded(NamedTuple):
    """A candidate that has a score."""

    place: int
    text: str
    score: float
    reveals: bool
    """It gives a known answer away: the verdict says so, or code sees it."""
    cut: bool
    """It stopped at the token limit."""

    @property
    def words(self) -> int:
        """Its length."""
        return len(self.text.split())


def graded(row: Mapping[str, Any]) -> list[Graded]:
    """The candidates of a row that have a score.

    Raises:
        InputError: it is no judged row.
    """
    try:
        turns = [Message.model_validate(turn) for turn in row["messages"]]
        if not turns:
            raise ValueError("no messages")
        said = [turn.content for turn in turns if turn.role == Role.USER]
        problem = Problem.model_validate(row["problem"]) if row.get("problem") else None
        return [
            Graded(
                place,
                text := str(candidate["text"]),
                float(score),
                bool((verdict.get("values") or {}).get(REVEALS, 0) > 0)
                or bool(reveals_answer(text, problem, said)),
                candidate.get("finish") == Finish.LENGTH,
            )
            for place, (candidate, verdict, score) in enumerate(
                zip(row["candidates"], row["verdicts"], row["scores"], strict=True)
            )
            if score is not None and not verdict.get("error")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = " ".join(str(error).split())[:120]
        raise InputError(
            f"row {row.get('id', row.get('key'))}: not a judged row ({type(error).__name__}: {words})",
            "Give a judge stage, or socratic-llm's train_dataset.json.",
        ) from None


def repeats(row: Mapping[str, Any], place: int) -> list[float | None]:
    """A candidate's scores in each repeat of the judging, null where one could not be read; empty without repeats.

    What code decided holds in every repeat.

    Raises:
        InputError: they cannot be read, or are several verdicts by a rubric that is not known here.
    """
    try:
        return _repeats(row, place)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"row {row.get('id', row.get('key'))}: its repeats cannot be read ({type(error).__name__}: {error})",
            "Give a judge stage, or --agreement 0.",
        ) from None


def _repeats(row: Mapping[str, Any], place: int) -> list[float | None]:
    if row.get("repeats"):
        return list(row["repeats"][place])
    said = row["said"][place] if row.get("said") else ()
    if len(said) < 2:
        return []
    try:
        rubric = load(str(row.get("rubric")))
    except MaieuticError:
        raise InputError(
            f"row {row.get('id', row.get('key'))}: no rubric {row.get('rubric')!r} to score its repeats by",
            "Judge again, which records the score of each repeat, or give --agreement 0.",
        ) from None
    decided = row["decided"][place] if row.get("decided") else {}
    known = {name: row["verdicts"][place]["values"][name] for name, by in decided.items() if by == "code"}
    return [None if one.get("error") else summary_score(rubric, {**one["values"], **known}) for one in said]


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
