"""Scores of MT-Bench and Vicuna-Bench from FastChat's judgment files (Zheng et al. 2023, arXiv 2306.05685).

A recorded score of -1 is unscored. Without a recorded score the rating is read from the judgment: `[[x]]`, else `[x]`,
else unscored. A turn's score is the mean of its scored rows; the average is the mean of all scored rows. A second
judgment of the same turn stays in the mean, as in FastChat, and is counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Estimate
from maieutic.evals.benchmark_files import parse_rating, parse_winner, question_name
from maieutic.evals.files import Row, parse_number, read_table

_LATER = "{} judgments of a later turn left out"
_NO_FIRST = "no judgments of a first turn"


class Grade(NamedTuple):
    """One judged turn; `score` is null where it is unscored."""

    model: str
    question: str
    turn: int
    score: float | None


def parse_decimal(value: Any) -> float | None:
    """A number, or null. Text such as "1_0", which only Python reads as a number, is null."""
    return None if isinstance(value, str) and "_" in value else parse_number(value)


def read_grades(
    rows: Sequence[Row], path: object = "the file", notes: list[str] | None = None
) -> list[Grade]:
    """Read FastChat's single-answer judgments; rows without a question, a model or a turn are left out, with a note.

    Raises:
        InputError: the rows are not single-answer judgments.
    """
    missing = [key for key in ("question_id", "model") if not any(key in row for row in rows)]
    if missing or not any("score" in row or "judgment" in row for row in rows):
        raise InputError(
            f"{path}: no single-answer judgments (rows hold {', '.join(sorted(rows[0])[:8])})",
            "Expected: question_id, model, turn, and score or judgment. `eval mt-bench pairwise` reads pairs.",
        )
    return [_grade(row) for row in _whole(rows, ("model",), path, notes)]


def _whole(rows: Sequence[Row], models: Sequence[str], path: object, notes: list[str] | None) -> list[Row]:
    """The rows that have a question, models and a turn; in a file without any `turn` all rows are first turns."""
    known = rows if any("turn" in row for row in rows) else [{**row, "turn": 1} for row in rows]
    lacks = [_lacks(row, models) for row in known]
    counts = Counter(name for name in lacks if name)
    if counts and notes is not None:
        which = ", ".join(f"{count} without a usable {name}" for name, count in sorted(counts.items()))
        notes.append(f"{path}: {counts.total()} judgments left out: {which}")
    return [row for row, name in zip(known, lacks, strict=True) if name is None]


def _lacks(row: Row, models: Sequence[str]) -> str | None:
    """The first required key that a row lacks, or null."""
    if question_name(row.get("question_id")) is None:
        return "question_id"
    if nameless := [name for name in models if row.get(name) in (None, "")]:
        return nameless[0]
    return "turn" if _turn(row) is None else None


def _turn(row: Row) -> int | None:
    turn = parse_decimal(row.get("turn"))
    return int(turn) if turn is not None and turn >= 1 and turn.is_integer() else None


def _grade(row: Row) -> Grade:
    judgment = row["judgment"] if isinstance(row.get("judgment"), str) else ""
    score = parse_rating(judgment) if row.get("score") is None else parse_decimal(row["score"])
    return Grade(
        str(row["model"]),
        question_name(row["question_id"]) or "",
        _turn(row) or 1,
        None if score is None or score == -1 else score,
    )


def score_single(judgments: Sequence[Path], questions: Path | None = None, turns: int = 2) -> dict[str, Any]:
    """The scores of every model in one or more judgment files.

    Args:
        judgments: FastChat's JSONL, any number of files.
        questions: FastChat's question file, for the categories; without it `by_category` is empty.
        turns: 2 for MT-Bench; 1 for Vicuna-Bench: later turns are left out.

    Returns:
        `{"models": {NAME: {first_turn, second_turn, average, rows, unscored, duplicates, se, ci, by_category, ...}}}`
        and `notes`. `se` is sd (n - 1) of the question means / √questions; `ci` resamples questions. `reasons` says,
        by name, why a value is null.
    """
    tables = [read_table(path) for path in judgments]
    notes = [text for table in tables for text in table.notes]
    rows = [
        grade
        for table, path in zip(tables, judgments, strict=True)
        for grade in read_grades(table.rows, path, notes)
    ]
    _refuse_none(rows, notes)
    kept = [grade for grade in rows if turns > 1 or grade.turn == 1]
    if len(kept) < len(rows):
        notes.append(_LATER.format(len(rows) - len(kept)))
    if not kept:
        raise EmptyCorpus(_NO_FIRST, "Check the file's `turn`, or use `eval mt-bench score`.")
    categories = _categories(questions, notes) if questions else {}
    return {**score_grades(kept, categories, notes), "notes": notes}


def _refuse_none(rows: Sequence[object], notes: Sequence[str]) -> None:
    if not rows:
        raise EmptyCorpus(
            notes[-1], "Expected: question_id, turn (1 or 2), and model, or model_1 and model_2."
        )


def _categories(path: Path, notes: list[str]) -> dict[str, str]:
    rows, own = read_table(path)
    notes.extend(own)
    found = {
        name: str(row["category"])
        for row in rows
        if "category" in row and (name := question_name(row.get("question_id")))
    }
    if not found:
        raise InputError(f"{path}: no row has question_id and category", "Give FastChat's question.jsonl.")
    return found


def score_grades(
    rows: Sequence[Grade], categories: Mapping[str, str] | None = None, notes: list[str] | None = None
) -> dict[str, Any]:
    """`score_single` of judgments that were read."""
    by_model: dict[str, list[Grade]] = defaultdict(list)
    for grade in rows:
        by_model[grade.model].append(grade)
    unknown = {grade.question for grade in rows} - categories.keys() if categories else set()
    if unknown and notes is not None:
        notes.append(f"{len(unknown)} judged questions are not in the question file and have no category")
    return {"models": {name: _model(own, categories or {}) for name, own in sorted(by_model.items())}}


def _model(rows: Sequence[Grade], categories: Mapping[str, str]) -> dict[str, Any]:
    scored = [grade for grade in rows if grade.score is not None]
    places = Counter((grade.question, grade.turn) for grade in scored)
    by_category: dict[str, list[Grade]] = defaultdict(list)
    for grade in scored:
        if grade.question in categories:
            by_category[categories[grade.question]].append(grade)
    whole = _turns(scored)
    error = stats.standard_error(_question_means(scored))
    reasons = whole.pop("reasons")
    if error is None:
        reasons["se"] = "fewer than two scored questions"
    if whole["average_ci"] is None:
        reasons["ci"] = reasons["average_ci"]
    return {
        **whole,
        "rows": len(scored),
        "unscored": len(rows) - len(scored),
        "duplicates": len(scored) - len(places),
        "questions": len({grade.question for grade in scored}),
        "se": error,
        "ci": whole["average_ci"],
        "by_category": {name: {**_turns(own), "n": len(own)} for name, own in sorted(by_category.items())},
        "reasons": reasons,
    }


def _turns(scored: Sequence[Grade]) -> dict[str, Any]:
    """The mean of each turn and of both, with intervals over questions; without scores null, with a reason."""
    parts = {
        "first_turn": [grade for grade in scored if grade.turn == 1],
        "second_turn": [grade for grade in scored if grade.turn == 2],
        "average": scored,
    }
    shape: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, own in parts.items():
        values = [grade.score for grade in own if grade.score is not None]
        estimate = stats.mean(values, [grade.question for grade in own])
        if estimate.value is None:
            which = "" if name == "average" else f" of a {name.replace('_', ' ')}"
            estimate = estimate._replace(reason=f"no score{which}")
        shape |= with_reasons(name, estimate, reasons)
        shape[f"{name}_questions"] = estimate.n
    return {**shape, "reasons": reasons}


def with_reasons(name: str, estimate: Estimate, reasons: dict[str, str]) -> dict[str, Any]:
    """A number and its interval under `name` and `name_ci`; the reason of a null goes into `reasons`."""
    shape = {name: estimate.value, f"{name}_ci": estimate.ci}
    reasons |= {key: estimate.reason or "undefined" for key, value in shape.items() if value is None}
    return shape


def _question_means(scored: Sequence[Grade]) -> list[float]:
    by_question: dict[str, list[float]] = defaultdict(list)
    for grade in scored:
        if grade.score is not None:
            by_question[grade.question].append(grade.score)
    return [math.fsum(values) / len(values) for values in by_question.values()]


# Pairs: two games a row, the answers swapped in the second. FastChat records winners by the names model_1 and model_2.


class Match(NamedTuple):
    """A row of two games; `first` and `second` are `model_1`, `model_2`, `tie`, or null for a failed game."""

    question: str
    model_1: str
    model_2: str
    first: str | None
    second: str | None
    turn: int = 1

    @property
    def winner(self) -> str:
        """The winner of both games; `tie` where they differ or game 1 is a tie."""
        return self.first if self.first == self.second and self.first else "tie"


def read_matches(
    rows: Sequence[Row], path: object = "the file", notes: list[str] | None = None
) -> list[Match]:
    """Read FastChat's pairwise judgments; rows without a question, a model or a turn are left out, with a note.

    Raises:
        InputError: the rows are not pairwise judgments.
    """
    if not any({"question_id", "model_1", "model_2"} <= row.keys() for row in rows):
        raise InputError(
            f"{path}: no pairwise judgments (rows hold {', '.join(sorted(rows[0])[:8])})",
            "Expected: question_id, model_1, model_2, g1_winner, g2_winner.",
        )
    return [_match(row) for row in _whole(rows, ("model_1", "model_2"), path, notes)]


def _match(row: Row) -> Match:
    names = str(row.get("model_1")), str(row.get("model_2"))
    first = _winner(row.get("g1_winner"), row.get("g1_judgment"), names, swapped=False)
    second = _winner(row.get("g2_winner"), row.get("g2_judgment"), names, swapped=True)
    return Match(question_name(row["question_id"]) or "", *names, first, second, _turn(row) or 1)


def _winner(recorded: Any, judgment: Any, names: tuple[str, str], *, swapped: bool) -> str | None:
    """A game's recorded winner; where none is recorded, the judgment's `[[A]]`, `[[B]]` or `[[C]]`."""
    if recorded is None and isinstance(judgment, str):
        return model_side(parse_winner(judgment), swapped=swapped)
    if recorded in ("model_1", "model_2", "tie"):
        return str(recorded)
    return f"model_{names.index(recorded) + 1}" if recorded in names else None


def model_side(letter: str | None, *, swapped: bool) -> str | None:
    """The model that a verdict names: `model_1`, `model_2` or `tie`; null without a verdict."""
    models = {"A": "model_2", "B": "model_1"} if swapped else {"A": "model_1", "B": "model_2"}
    return {**models, "C": "tie"}.get(letter or "")


def score_pairwise(judgments: Sequence[Path], baseline: str | None = None, turns: int = 2) -> dict[str, Any]:
    """Wins, losses and ties of every model in one or more pairwise judgment files.

    Args:
        judgments: FastChat's JSONL, any number of files.
        baseline: count only the matches against this model, and leave it out of the result.
        turns: 2 for MT-Bench; 1 for Vicuna-Bench: later turns are left out.

    Returns:
        `{"models": {NAME: {win, loss, tie, win_rate, adjusted_win_rate, ...}}, "dropped", "strict_ties",
        "inconsistent"}` and `notes`. `dropped`: rows with an error in either game; `strict_ties`: both games are ties;
        `inconsistent`: the games differ (counted as ties). If every row of a model was dropped, its counts are 0 and
        its rates null; `reasons` says why a value is null.
    """
    tables = [read_table(path) for path in judgments]
    notes = [text for table in tables for text in table.notes]
    read = [
        match
        for table, path in zip(tables, judgments, strict=True)
        for match in read_matches(table.rows, path, notes)
    ]
    _refuse_none(read, notes)
    rows = [match for match in read if turns > 1 or match.turn == 1]
    if len(rows) < len(read):
        notes.append(_LATER.format(len(read) - len(rows)))
    if not rows:
        raise EmptyCorpus(_NO_FIRST, "Check the file's `turn`, or use `eval mt-bench pairwise`.")
    if baseline is not None:
        rows = [match for match in rows if baseline in (match.model_1, match.model_2)]
        if not rows:
            raise InputError(f"no match against {baseline!r}", "Name a model that the file holds.")
    result = score_matches(rows)
    result["models"].pop(baseline, None)
    return {**result, "notes": notes}


def score_matches(rows: Sequence[Match]) -> dict[str, Any]:
    """`score_pairwise` of matches that were read."""
    played = [match for match in rows if match.first and match.second]
    outcomes: dict[str, list[tuple[str, float]]] = {
        name: [] for match in rows for name in (match.model_1, match.model_2)
    }
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
    """Win rate W/(W+L+T) and adjusted win rate (W+T/2)/(W+L+T), with intervals over questions."""
    questions = [question for question, _ in outcomes]
    points = [value for _, value in outcomes]
    wins = stats.mean([float(value == 1) for value in points], questions)
    adjusted = stats.mean(points, questions)
    if not points:
        wins = adjusted = stats.undefined("no row without an error")
    reasons: dict[str, str] = {}
    return {
        "win": points.count(1.0),
        "loss": points.count(0.0),
        "tie": points.count(0.5),
        **with_reasons("win_rate", wins, reasons),
        **with_reasons("adjusted_win_rate", adjusted, reasons),
        "n": len(points),
        "questions": len(set(questions)),
        "reasons": reasons,
    }
