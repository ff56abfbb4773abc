"""MT-Bench and Vicuna-Bench from FastChat's own judgment files (Zheng et al. 2023, arXiv 2306.05685).

Rules: a recorded score of -1 is unscored; without a recorded score the verdict is read from the judgment, `[[x]]`
first, else `[x]`, else unscored. A turn's score is the mean of its scored rows, the average that of all scored rows
pooled; a second judgment of the same turn stays in the mean, as FastChat keeps it, and is counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.errors import EmptyCorpus, InputError
from maieutic.evals import stats, verdicts
from maieutic.evals.files import Row, number, read_table


class Grade(NamedTuple):
    """One judged turn; `score` is null where the judge gave none."""

    model: str
    question: str
    turn: int
    score: float | None


def verdict(judgment: Any) -> float | None:
    """The rating a judge wrote: the first `[[x]]`, else the first `[x]`, else null."""
    return verdicts.rating(judgment) if isinstance(judgment, str) else None


def grades(rows: Sequence[Row], path: object = "the file") -> list[Grade]:
    """FastChat's single-answer judgments.

    Raises:
        InputError: the rows are no such judgments.
    """
    missing = [key for key in ("question_id", "model") if not any(key in row for row in rows)]
    if missing or not any("score" in row or "judgment" in row for row in rows):
        raise InputError(
            f"{path}: no single-answer judgments (rows hold {', '.join(sorted(rows[0])[:8])})",
            "Expected are question_id, model, turn, and score or judgment; pairs go to `eval mt-bench pairwise`.",
        )
    return [_grade(row) for row in rows]


def _grade(row: Row) -> Grade:
    score = verdict(row.get("judgment")) if row.get("score") is None else number(row["score"])
    turn = number(row.get("turn"))
    return Grade(
        str(row.get("model")),
        str(row.get("question_id")),
        1 if turn is None else int(turn),
        None if score is None or score == -1 else score,
    )


def score(judgments: Sequence[Path], questions: Path | None = None, turns: int = 2) -> dict[str, Any]:
    """The scores of every model in one or more judgment files.

    Args:
        judgments: FastChat's JSONL, any number of files.
        questions: FastChat's question file, for the categories; without it `by_category` is empty.
        turns: 2 for MT-Bench; 1 for Vicuna-Bench, where later turns are left out.

    Returns:
        `{"models": {NAME: {first_turn, second_turn, average, rows, unscored, duplicates, se, ci, by_category, ...}}}`
        and `notes`. `se` is sd (n - 1) of the question means / √questions; `ci` resamples questions.
    """
    tables = [read_table(path) for path in judgments]
    notes = [text for table in tables for text in table.notes]
    rows = [
        grade for table, path in zip(tables, judgments, strict=True) for grade in grades(table.rows, path)
    ]
    kept = [grade for grade in rows if turns > 1 or grade.turn == 1]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} judgments of a later turn left out")
    if not kept:
        raise EmptyCorpus(
            "no judgments of a first turn", "Check the file's `turn`, or use `eval mt-bench score`."
        )
    categories = _categories(questions, notes) if questions else {}
    return {**score_grades(kept, categories, notes), "notes": notes}


def _categories(path: Path, notes: list[str]) -> dict[str, str]:
    rows, own = read_table(path)
    notes.extend(own)
    found = {
        str(row["question_id"]): str(row["category"])
        for row in rows
        if {"question_id", "category"} <= row.keys()
    }
    if not found:
        raise InputError(f"{path}: no row has question_id and category", "Give FastChat's question.jsonl.")
    return found


def score_grades(
    rows: Sequence[Grade], categories: Mapping[str, str] | None = None, notes: list[str] | None = None
) -> dict[str, Any]:
    """`score` on judgments already read."""
    by_model: dict[str, list[Grade]] = defaultdict(list)
    for grade in rows:
        by_model[grade.model].append(grade)
    if categories and notes is not None:
        strangers = {grade.question for grade in rows} - categories.keys()
        if strangers:
            notes.append(f"{len(strangers)} judged questions are not in the question file and in no category")
    return {"models": {name: _model(own, categories or {}) for name, own in sorted(by_model.items())}}


def _model(rows: Sequence[Grade], categories: Mapping[str, str]) -> dict[str, Any]:
    scored = [grade for grade in rows if grade.score is not None]
    places = Counter((grade.question, grade.turn) for grade in scored)
    by_category: dict[str, list[Grade]] = defaultdict(list)
    for grade in scored:
        if grade.question in categories:
            by_category[categories[grade.question]].append(grade)
    whole = _turns(scored)
    return {
        **whole,
        "rows": len(scored),
        "unscored": len(rows) - len(scored),
        "duplicates": len(scored) - len(places),
        "questions": len({grade.question for grade in scored}),
        "se": stats.standard_error(_question_means(scored)),
        "ci": whole["average_ci"],
        "by_category": {name: {**_turns(own), "n": len(own)} for name, own in sorted(by_category.items())},
    }


def _turns(scored: Sequence[Grade]) -> dict[str, Any]:
    """The two turns and their pooled average, each with an interval over questions; null where nothing was scored."""
    parts = {
        "first_turn": [grade for grade in scored if grade.turn == 1],
        "second_turn": [grade for grade in scored if grade.turn == 2],
        "average": scored,
    }
    shape: dict[str, Any] = {}
    for name, own in parts.items():
        values = [grade.score for grade in own if grade.score is not None]
        estimate = stats.mean(values, [grade.question for grade in own])
        shape |= {name: estimate.value, f"{name}_ci": estimate.ci}
    return shape


def _question_means(scored: Sequence[Grade]) -> list[float]:
    by_question: dict[str, list[float]] = defaultdict(list)
    for grade in scored:
        if grade.score is not None:
            by_question[grade.question].append(grade.score)
    return [math.fsum(values) / len(values) for values in by_question.values()]


# Pairs: two games a row, the answers swapped in the second; FastChat records winners in the row's own names.


class Match(NamedTuple):
    """A row of two games. `first` and `second` are `model_1`, `model_2`, `tie`, or null where a game failed."""

    question: str
    model_1: str
    model_2: str
    first: str | None
    second: str | None

    @property
    def winner(self) -> str:
        """`tie` where game 1 ties or the games differ, else the winner of both."""
        return self.first if self.first == self.second and self.first else "tie"


def matches(rows: Sequence[Row], path: object = "the file") -> list[Match]:
    """FastChat's pairwise judgments.

    Raises:
        InputError: the rows are no such judgments.
    """
    if not any({"model_1", "model_2"} <= row.keys() for row in rows):
        raise InputError(
            f"{path}: no pairwise judgments (rows hold {', '.join(sorted(rows[0])[:8])})",
            "Expected are question_id, model_1, model_2, g1_winner, g2_winner.",
        )
    return [_match(row) for row in rows]


def _match(row: Row) -> Match:
    names = str(row.get("model_1")), str(row.get("model_2"))
    first = _winner(row.get("g1_winner"), row.get("g1_judgment"), names, swapped=False)
    second = _winner(row.get("g2_winner"), row.get("g2_judgment"), names, swapped=True)
    return Match(str(row.get("question_id")), *names, first, second)


def _winner(recorded: Any, judgment: Any, names: tuple[str, str], *, swapped: bool) -> str | None:
    """A game's winner as recorded; where nothing is recorded, by the judgment's `[[A]]`, `[[B]]` or `[[C]]`."""
    if recorded is None and isinstance(judgment, str):
        return side(verdicts.winner(judgment), swapped=swapped)
    if recorded in ("model_1", "model_2", "tie"):
        return str(recorded)
    return f"model_{names.index(recorded) + 1}" if recorded in names else None


def side(letter: str | None, *, swapped: bool) -> str | None:
    """Which of a row's models a verdict is for: `model_1`, `model_2` or `tie`; null where there is none."""
    models = {"A": "model_2", "B": "model_1"} if swapped else {"A": "model_1", "B": "model_2"}
    return {**models, "C": "tie"}.get(letter or "")


def pairwise(judgments: Sequence[Path], baseline: str | None = None) -> dict[str, Any]:
    """Wins, losses and ties of every model in one or more pairwise judgment files.

    Args:
        judgments: FastChat's JSONL, any number of files.
        baseline: only the matches against this model, which is then left out of the result.

    Returns:
        `{"models": {NAME: {win, loss, tie, win_rate, adjusted_win_rate, ...}}, "dropped", "strict_ties",
        "inconsistent"}` and `notes`. `dropped`: an error in either game; `strict_ties`: both games tie;
        `inconsistent`: the games differ (a tie too).
    """
    tables = [read_table(path) for path in judgments]
    notes = [text for table in tables for text in table.notes]
    rows = [
        match for table, path in zip(tables, judgments, strict=True) for match in matches(table.rows, path)
    ]
    if baseline is not None:
        rows = [match for match in rows if baseline in (match.model_1, match.model_2)]
        if not rows:
            raise InputError(f"no match against {baseline!r}", "Name a model that the file holds.")
    result = score_matches(rows)
    result["models"].pop(baseline, None)
    return {**result, "notes": notes}


def score_matches(rows: Sequence[Match]) -> dict[str, Any]:
    """`pairwise` on matches already read."""
    played = [match for match in rows if match.first and match.second]
    outcomes: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for match in played:
        points = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5}[match.winner]
        outcomes[match.model_1].append((match.question, points))
        outcomes[match.model_2].append((match.question, 1 - points))
    return {
        "models": {name: _record(own) for name, own in sorted(outcomes.items())},
        "dropped": len(rows) - len(played),
        "strict_ties": sum(match.first == match.second == "tie" for match in played),
        "inconsistent": sum(match.first != match.second for match in played),
    }


def _record(outcomes: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Win rate W/(W+L+T) and adjusted (W+T/2)/(W+L+T), intervals over questions."""
    questions = [question for question, _ in outcomes]
    points = [value for _, value in outcomes]
    wins = stats.mean([float(value == 1) for value in points], questions)
    adjusted = stats.mean(points, questions)
    return {
        "win": points.count(1.0),
        "loss": points.count(0.0),
        "tie": points.count(0.5),
        "win_rate": wins.value,
        "win_rate_ci": wins.ci,
        "adjusted_win_rate": adjusted.value,
        "adjusted_win_rate_ci": adjusted.ci,
        "n": len(points),
    }
