"""Single tutor replies: recorded verdicts of people or judges, averaged. Nothing is judged again here.

Read are the evaluation files of socratic-llm (`[{prompt, output, evaluation, evaluation_error, score}]`), its DPO
files (every candidate in `all_evaluations`), its two-rater files (one rater chosen by name), and our own judged
rows. A verdict with an unclear criterion is *unscored* as a whole: counted, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.core.messages import Estimate
from maieutic.evals.files import Row, number, read_table, yes_no

CRITERIA = ("asks_question", "on_topic", "helpful", "reveals_answer")
_NAMES = {
    "asks_question": ("questions", "asks_question", "asks_questions", "question"),
    "on_topic": ("on_topic",),
    "helpful": ("helpful",),
    "reveals_answer": ("reveal_answer", "reveals_answer", "reveal"),
}
ALIASES = frozenset(alias for names in _NAMES.values() for alias in names)
"""Every key that is one of the four criteria."""
_SHAPES = ("verdicts", "all_evaluations", "evaluation")
_TOLERANCE = 1e-6


class Reply(NamedTuple):
    """One judged reply. `values` is null where it is unscored."""

    group: str
    """The prompt it answers: replies to one prompt are one unit."""
    named: bool
    """False where the row names no prompt: `group` is then the row's place in the file."""
    values: dict[str, float] | None
    """By criterion: yes/no as 1 and 0, the two scales divided by 5 (or the rubric's own criteria, as they are)."""
    recorded: float | None
    """The summary score the file holds beside the verdict."""


def summary_score(values: Mapping[str, float]) -> float:
    """.25 for asking, .25 for not revealing, and .25 · x/5 for each scale (socratic-llm, CEUR-WS 3879-26, sec. 4)."""
    score = 0.25 * values["asks_question"] + 0.25 * (1 - values["reveals_answer"])
    return score + 0.25 * values["on_topic"] + 0.25 * values["helpful"]


def criteria(evaluation: Any, averaged: bool = False) -> dict[str, float] | None:
    """The four criteria of an evaluation as numbers, null where one is missing, unclear or off its scale.

    `averaged`: a yes/no may lie between 0 and 1, the mean of several samples or judges.
    """
    if not isinstance(evaluation, Mapping):
        return None
    values: dict[str, float] = {}
    for name in CRITERIA:
        raw = next((evaluation[key] for key in _NAMES[name] if key in evaluation), None)
        if name in ("on_topic", "helpful"):
            value = _scale(raw)
        else:
            value = number(raw) if averaged else yes_no(raw)
            value = value if value is not None and 0 <= value <= 1 else None
        if value is None:
            return None
        values[name] = value
    return values


def _scale(raw: Any) -> float | None:
    """A 1 to 5 rating as a share of 5; `"4/5"` is a 4. A recorded 0 is kept, for published means hold it."""
    value = number(raw.strip().removesuffix("/5") if isinstance(raw, str) else raw)
    return value / 5 if value is not None and 0 <= value <= 5 else None


def replies(rows: Sequence[Row], path: object = "the file", rater: str | None = None) -> list[Reply]:
    """The judged replies of a file, whichever of the known shapes it has.

    Raises:
        InputError: the shape is unknown or broken, or it holds several raters and none was chosen.
    """
    if rater is not None:
        if all(not isinstance(row.get(rater), Mapping) for row in rows):
            raise InputError(
                f"{path}: no row holds an evaluation under {rater!r}", f"Known: {_raters(rows)}."
            )
        return [Reply(*_unit(row, at), criteria(row.get(rater)), None) for at, row in enumerate(rows)]
    if not any(shape in row for row in rows for shape in _SHAPES):
        if raters := _raters(rows):
            raise InputError(
                f"{path}: holds several raters ({raters}) and no `evaluation`",
                "Choose one with --rater NAME; `eval judge score --pairs` compares two.",
            )
        raise InputError(
            f"{path}: rows hold {', '.join(sorted(rows[0])[:8]) or 'nothing'}",
            "Expected are `evaluation`, `all_evaluations`, or a judge stage's `verdicts`.",
        )
    try:
        return [reply for at, row in enumerate(rows) for reply in _replies(row, at)]
    except _WrongShape as error:
        raise InputError(
            f"{path}: {error}", "See what `eval tutor score` reads in docs/metrics.md."
        ) from None


class _WrongShape(Exception):
    """A row holds something else where a list or an object stands; the message says which."""


def _replies(row: Row, at: int) -> Iterator[Reply]:
    """A row's replies, whichever shape the row has; one without any verdict is an unscored reply."""
    if "verdicts" in row:
        yield from _judged(row, at)
    elif "all_evaluations" in row:
        for item in _list(row, at, "all_evaluations"):
            if not isinstance(item, Mapping):
                raise _WrongShape(f"row {at + 1}: `all_evaluations` holds {_shown(item)}, no object")
            yield _recorded(_unit(row, at), item)
    else:
        yield _recorded(_unit(row, at), row)


def _list(row: Row, at: int, key: str) -> list[Any]:
    value = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _WrongShape(f"row {at + 1}: `{key}` is {_shown(value)}, no list")
    return value


def _shown(value: Any) -> str:
    return (
        "an object"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, list)
        else repr(value)[:40]
    )


def _unit(row: Row, at: int, keys: Sequence[str] = ("prompt", "id", "key")) -> tuple[str, bool]:
    """What the row's replies answer, and whether the row names it; a row that does not is a unit of its own."""
    name = next((row[key] for key in keys if row.get(key) not in (None, "")), None)
    return (f"row {at + 1}", False) if name is None else (str(name), True)


def _raters(rows: Sequence[Row]) -> str:
    return ", ".join(
        sorted({key for row in rows for key, value in row.items() if criteria(value) is not None})
    )


def _recorded(unit: tuple[str, bool], item: Mapping[str, Any]) -> Reply:
    values = None if item.get("evaluation_error") is not None else criteria(item.get("evaluation"))
    return Reply(*unit, values, number(item.get("score")))


def _judged(row: Row, at: int) -> Iterator[Reply]:
    """A judged row's replies: the socratic criteria where the verdict has them, else the rubric's own."""
    verdicts, scores = _list(row, at, "verdicts"), _list(row, at, "scores")
    texts = _list(row, at, "candidates") or verdicts
    for index in range(max(len(texts), len(verdicts))):
        verdict = verdicts[index] if index < len(verdicts) else None
        score = number(scores[index]) if index < len(scores) else None
        values = None
        if verdict is not None and not isinstance(verdict, Mapping):
            raise _WrongShape(f"row {at + 1}: `verdicts` holds {_shown(verdict)}, no object")
        if verdict is not None and not verdict.get("error"):
            raw = verdict.get("values") or {}
            if not isinstance(raw, Mapping):
                raise _WrongShape(f"row {at + 1}: a verdict's `values` is {_shown(raw)}, no object")
            values = (
                criteria(raw, averaged=True)
                or {name: v for name, x in raw.items() if (v := number(x)) is not None}
                or None
            )
        yield Reply(*_unit(row, at, ("id", "key", "prompt")), values, score)


def score(path: Path | str, rater: str | None = None) -> dict[str, Any]:
    """Read a file of recorded verdicts and average them.

    Returns:
        `summary_score`, `asks_question`, `on_topic`, `helpful`, `reveals_answer` as numbers from 0 to 1 (null without
        scored rows), each with `_ci`; `n` scored and `unscored` replies; `reasons` for what is null; `notes`.
    """
    rows, notes = read_table(path)
    return score_replies(replies(rows, path, rater), notes)


def score_replies(judged: Sequence[Reply], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The averages of judged replies; see `score`."""
    notes = list(notes)
    if nameless := len({reply.group for reply in judged if not reply.named}):
        notes.append(f"{nameless} rows name no `prompt`, `id` or `key`: each counts as a unit of its own")
    scored = [reply for reply in judged if reply.values is not None]
    socratic = [reply for reply in scored if is_socratic(reply)]
    estimates = _socratic(socratic, notes) if socratic or not scored else _other(scored)
    counted = len(socratic) if socratic or not scored else len(scored)
    result: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name in ("summary_score", *CRITERIA):
        estimate = estimates.pop(name, stats.undefined("not in this rubric"))
        result |= {name: estimate.value, f"{name}_ci": estimate.ci}
        if estimate.reason:
            reasons[name] = estimate.reason
    result |= {"n": counted, "unscored": len(judged) - counted}
    if estimates:
        result["criteria"] = {name: estimate.json() for name, estimate in sorted(estimates.items())}
    return {**result, **({"reasons": reasons} if reasons else {}), "notes": notes}


def is_socratic(reply: Reply) -> bool:
    """Whether the reply is scored by all four criteria."""
    return reply.values is not None and set(CRITERIA) <= reply.values.keys()


def _socratic(scored: Sequence[Reply], notes: list[str]) -> dict[str, Estimate]:
    groups = [reply.group for reply in scored]
    rows = [reply.values for reply in scored if reply.values is not None]
    sums = [summary_score(values) for values in rows]
    differing = sum(
        reply.recorded is not None and abs(reply.recorded - own) > _TOLERANCE
        for reply, own in zip(scored, sums, strict=True)
    )
    if differing:
        notes.append(
            f"in {differing} rows the recorded score is not the one its criteria give; the criteria count"
        )
    estimates = {"summary_score": stats.mean(sums, groups)}
    for name in CRITERIA:
        of = stats.mean if name in ("on_topic", "helpful") else stats.proportion
        estimates[name] = of([values[name] for values in rows], groups)
    return estimates


def _other(scored: Sequence[Reply]) -> dict[str, Estimate]:
    """Another rubric: its recorded summary scores, and its criteria as they are."""
    graded = [reply for reply in scored if reply.recorded is not None]
    estimates = {
        "summary_score": stats.mean([reply.recorded or 0.0 for reply in graded], [r.group for r in graded])
    }
    for name in sorted({key for reply in scored for key in reply.values or ()}):
        holding = [reply for reply in scored if reply.values and name in reply.values]
        values = [reply.values[name] for reply in holding if reply.values]
        estimates[name] = stats.mean(values, [reply.group for reply in holding])
    return estimates
