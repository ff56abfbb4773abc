"""Scores of single tutor replies from recorded verdicts, and of recorded comparisons of two tutors. No judge is called.

Formats read: the evaluation files of socratic-llm (`[{prompt, output, evaluation, evaluation_error, score}]`), its DPO
files (every candidate in `all_evaluations`), its two-rater files (one rater chosen by name), and our own judged and
compared rows. A verdict with an unclear criterion is *unscored* as a whole: counted, never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.core.messages import Estimate, fingerprint
from maieutic.evals.files import Row, parse_number, parse_yes_no, read_table

CRITERIA = ("asks_question", "on_topic", "helpful", "reveals_answer")
_KEYS = {
    "asks_question": ("questions", "asks_question", "asks_questions", "question"),
    "on_topic": ("on_topic",),
    "helpful": ("helpful",),
    "reveals_answer": ("reveal_answer", "reveals_answer", "reveal"),
}
CRITERION_KEYS = frozenset(key for keys in _KEYS.values() for key in keys)
"""Every key that is one of the four criteria."""
_FORMATS = ("verdicts", "all_evaluations", "evaluation")
_TOLERANCE = 1e-6
_WIN_POINTS = {"a": 1.0, "b": 0.0, "tie": 0.5}


class JudgedReply(NamedTuple):
    """One judged reply. `values` is null where it is unscored."""

    group: str
    """The prompt it answers: replies to one prompt are one unit."""
    has_id: bool
    """False if the row has no prompt or id: `group` is then the row number."""
    values: dict[str, float] | None
    """By criterion: yes/no as 1 and 0, the two scales divided by 5 (or the rubric's own criteria, as they are)."""
    recorded: float | None
    """The summary score recorded in the file with the verdict."""


def summary_score(values: Mapping[str, float]) -> float:
    """.25 for asking, .25 for not revealing, and .25 · x/5 for each scale (socratic-llm, CEUR-WS 3879-26, sec. 4)."""
    score = 0.25 * values["asks_question"] + 0.25 * (1 - values["reveals_answer"])
    return score + 0.25 * values["on_topic"] + 0.25 * values["helpful"]


def parse_criteria(evaluation: Any, averaged: bool = False) -> dict[str, float] | None:
    """The four criteria of an evaluation as numbers; null where one is missing, unclear or off its scale.

    `averaged`: a yes/no may lie between 0 and 1, the mean of several samples or judges.
    """
    if not isinstance(evaluation, Mapping):
        return None
    values: dict[str, float] = {}
    for name in CRITERIA:
        raw = next((evaluation[key] for key in _KEYS[name] if key in evaluation), None)
        if name in ("on_topic", "helpful"):
            value = _parse_scale(raw)
        else:
            value = parse_number(raw) if averaged else parse_yes_no(raw)
            value = value if value is not None and 0 <= value <= 1 else None
        if value is None:
            return None
        values[name] = value
    return values


def _parse_scale(raw: Any) -> float | None:
    """A 1 to 5 rating divided by 5; `"4/5"` is a 4. A recorded 0 is kept, since published means include it."""
    value = parse_number(raw.strip().removesuffix("/5") if isinstance(raw, str) else raw)
    return value / 5 if value is not None and 0 <= value <= 5 else None


def published_criteria(values: Mapping[str, float]) -> dict[str, Any]:
    """The criteria under their published keys; a mean of several judges stays a number."""

    def yes_no(value: float) -> Any:
        return "Yes" if value == 1 else "No" if value == 0 else value

    def rating(value: float) -> Any:
        return int(value) if value == int(value) else value

    return {
        "questions": yes_no(values["asks_question"]),
        "on_topic": rating(values["on_topic"]),
        "helpful": rating(values["helpful"]),
        "reveal_answer": yes_no(values["reveals_answer"]),
    }


def judged_replies(
    rows: Sequence[Row], path: object = "the file", rater: str | None = None
) -> list[JudgedReply]:
    """The judged replies of a file in any of the known formats.

    Raises:
        InputError: the format is unknown or broken, or the file has several raters and none was chosen.
    """
    if rater is not None:
        if all(not isinstance(row.get(rater), Mapping) for row in rows):
            raise InputError(
                f"{path}: no row has an evaluation under {rater!r}", f"Raters in the file: {_raters(rows)}."
            )
        return [
            JudgedReply(*_group(row, at), parse_criteria(row.get(rater)), None) for at, row in enumerate(rows)
        ]
    if not any(key in row for row in rows for key in _FORMATS):
        if raters := _raters(rows):
            raise InputError(
                f"{path}: has several raters ({raters}) and no `evaluation`",
                "Choose one with --rater NAME; `eval judge score --pairs` compares two.",
            )
        raise InputError(
            f"{path}: the keys of the rows are {', '.join(sorted(rows[0])[:8]) or 'missing'}",
            "Expected: `evaluation`, `all_evaluations`, or the `verdicts` of a judge step.",
        )
    try:
        return [reply for at, row in enumerate(rows) for reply in _replies_of_row(row, at)]
    except _WrongType as error:
        raise InputError(f"{path}, {error}", "docs/metrics.md describes the formats that are read.") from None


class _WrongType(Exception):
    """A row holds the wrong type where a list or an object is expected; the message names it."""


def _replies_of_row(row: Row, at: int) -> Iterator[JudgedReply]:
    """A row's replies in any format; a row without a verdict is one unscored reply."""
    if "verdicts" in row:
        yield from _replies_of_judge(row, at)
    elif "all_evaluations" in row:
        for item in _list(row, at, "all_evaluations"):
            if not isinstance(item, Mapping):
                raise _WrongType(f"row {at + 1}: `all_evaluations` holds {_type_name(item)}, not an object")
            yield _recorded_reply(_group(row, at), item)
    else:
        yield _recorded_reply(_group(row, at), row)


def _list(row: Row, at: int, key: str) -> list[Any]:
    value = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _WrongType(f"row {at + 1}: `{key}` is {_type_name(value)}, not a list")
    return value


def _type_name(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list) else repr(value)[:40]


def _group(row: Row, at: int, keys: Sequence[str] = ("prompt", "id", "key")) -> tuple[str, bool]:
    """The group of the row's replies (the prompt's id), and whether the row has an id; else the row is a group."""
    name = next((row[key] for key in keys if row.get(key) not in (None, "")), None)
    return (f"row {at + 1}", False) if name is None else (str(name), True)


def _raters(rows: Sequence[Row]) -> str:
    return ", ".join(
        sorted({key for row in rows for key, value in row.items() if parse_criteria(value) is not None})
    )


def _recorded_reply(group: tuple[str, bool], item: Mapping[str, Any]) -> JudgedReply:
    failed = item.get("evaluation_error") is not None
    values = None if failed else parse_criteria(item.get("evaluation"))
    return JudgedReply(*group, values, parse_number(item.get("score")))


def _replies_of_judge(row: Row, at: int) -> Iterator[JudgedReply]:
    """The replies of a judged row: the socratic criteria where the verdict has them, else the rubric's own."""
    verdicts, scores = _list(row, at, "verdicts"), _list(row, at, "scores")
    texts = _list(row, at, "candidates") or verdicts
    for index in range(max(len(texts), len(verdicts))):
        verdict = verdicts[index] if index < len(verdicts) else None
        score = parse_number(scores[index]) if index < len(scores) else None
        values = None
        if verdict is not None and not isinstance(verdict, Mapping):
            raise _WrongType(f"row {at + 1}: `verdicts` holds {_type_name(verdict)}, not an object")
        if verdict is not None and not verdict.get("error"):
            raw = verdict.get("values") or {}
            if not isinstance(raw, Mapping):
                raise _WrongType(f"row {at + 1}: a verdict's `values` is {_type_name(raw)}, not an object")
            own = {name: value for name, x in raw.items() if (value := parse_number(x)) is not None}
            values = parse_criteria(raw, averaged=True) or own or None
        yield JudgedReply(*_group(row, at, ("id", "key", "prompt")), values, score)


def score_tutor(path: Path | str, rater: str | None = None) -> dict[str, Any]:
    """Read a file of recorded verdicts and average them.

    Returns:
        `summary_score`, `asks_question`, `on_topic`, `helpful`, `reveals_answer` as numbers from 0 to 1 (null without
        scored rows), each with `_ci`; `n` scored and `unscored` replies; `reasons` for what is null; `notes`.
    """
    rows, notes = read_table(path)
    return score_replies(judged_replies(rows, path, rater), notes)


def score_replies(replies: Sequence[JudgedReply], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The averages of judged replies; see `score_tutor`."""
    notes = list(notes)
    if without_id := len({reply.group for reply in replies if not reply.has_id}):
        notes.append(f"{without_id} rows have no `prompt`, `id` or `key`: each counts as its own unit")
    scored = [reply for reply in replies if reply.values is not None]
    socratic = [reply for reply in scored if is_socratic(reply)]
    use_socratic = bool(socratic) or not scored
    estimates = _socratic_means(socratic, notes) if use_socratic else _rubric_means(scored)
    counted = len(socratic) if use_socratic else len(scored)
    result: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name in ("summary_score", *CRITERIA):
        estimate = estimates.pop(name, stats.undefined("not in this rubric"))
        result |= {name: estimate.value, f"{name}_ci": estimate.ci}
        if estimate.reason:
            reasons[name] = estimate.reason
    result |= {"n": counted, "unscored": len(replies) - counted}
    if estimates:
        result["criteria"] = {name: estimate.json() for name, estimate in sorted(estimates.items())}
    return {**result, **({"reasons": reasons} if reasons else {}), "notes": notes}


def is_socratic(reply: JudgedReply) -> bool:
    """Whether the reply is scored by all four criteria."""
    return reply.values is not None and set(CRITERIA) <= reply.values.keys()


def _socratic_means(scored: Sequence[JudgedReply], notes: list[str]) -> dict[str, Estimate]:
    groups = [reply.group for reply in scored]
    rows = [reply.values for reply in scored if reply.values is not None]
    sums = [summary_score(values) for values in rows]
    differing = sum(
        reply.recorded is not None and abs(reply.recorded - own) > _TOLERANCE
        for reply, own in zip(scored, sums, strict=True)
    )
    if differing:
        notes.append(
            f"in {differing} rows the recorded score differs from the score of its criteria; the criteria count"
        )
    estimates = {"summary_score": stats.mean(sums, groups)}
    for name in CRITERIA:
        of = stats.mean if name in ("on_topic", "helpful") else stats.proportion
        estimates[name] = of([values[name] for values in rows], groups)
    return estimates


def _rubric_means(scored: Sequence[JudgedReply]) -> dict[str, Estimate]:
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


class _Game(NamedTuple):
    """One order of one comparison by one judge."""

    at: int
    """The place of its pair in the file."""
    unit: str
    """Its dialogue."""
    row: Mapping[str, Any]

    @property
    def better(self) -> Any:
        return self.row.get("better")

    @property
    def judge(self) -> str:
        return str(self.row.get("judge"))


def has_comparisons(path: Path | str) -> bool:
    """Whether a file holds comparisons of two tutors."""
    return all("winner" in row and "games" in row for row in read_table(path).rows)


def score_comparisons(path: Path | str) -> dict[str, Any]:
    """Win rate and position bias of recorded comparisons of two tutors; rates are those of A against B.

    Returns:
        `win`, `loss`, `tie`, `n` (their sum), `unscored`; `win_rate`: (W + T/2)/(W + L + T); `position_bias`: of the
        games that did not end in a tie, the share won by the reply shown first (.5: none); `inconsistent`: of the
        votes with two readable games, the share in which the games differ; `decided`: the number of pairs
        decided by code and by judges; `judges`: position_bias and inconsistent of each judge. Estimates resample
        dialogues.

    Raises:
        InputError: the rows are no comparisons.
    """
    rows, notes = read_table(path)
    winners = [_winner(row, at, path) for at, row in enumerate(rows)]
    units = [fingerprint(row.get("messages")) for row in rows]
    scored = [
        (_WIN_POINTS[side], unit) for side, unit in zip(winners, units, strict=True) if side is not None
    ]
    counts = Counter(winners)
    games = [
        _Game(at, unit, game)
        for at, (row, unit) in enumerate(zip(rows, units, strict=True))
        for game in row.get("games") or ()
    ]
    judges = dict.fromkeys(game.judge for game in games)
    return {
        "win": counts["a"],
        "loss": counts["b"],
        "tie": counts["tie"],
        "n": len(scored),
        "unscored": counts[None],
        "win_rate": stats.mean([points for points, _ in scored], [unit for _, unit in scored]).json(),
        **_position_effects(games),
        "decided": dict(Counter(str(row.get("decided")) for row in rows)),
        "judges": {
            name: _position_effects([game for game in games if game.judge == name]) for name in judges
        },
        "notes": notes,
    }


def _winner(row: Row, at: int, path: Path | str) -> str | None:
    side = row.get("winner", "")
    games = row.get("games", [])
    readable = isinstance(games, list) and all(isinstance(game, Mapping) for game in games)
    if not readable or not (side is None or side in _WIN_POINTS):
        raise InputError(
            f"{path}, row {at + 1}: not a comparison of two replies",
            "Give the output of `eval tutor pairwise`: its --out folder, or its rows.jsonl.",
        )
    return None if side is None else str(side)


def _position_effects(games: Sequence[_Game]) -> dict[str, Any]:
    """How much the order of the two replies decided the games."""
    won = [game for game in games if game.better in ("a", "b")]
    bias = stats.proportion(
        [float(game.row.get("first") == game.better) for game in won], [game.unit for game in won]
    )
    votes: dict[tuple[Any, ...], list[Any]] = {}
    for game in games:
        votes.setdefault((game.unit, game.at, game.judge, game.row.get("draw")), []).append(game.better)
    whole = [(key[0], sides) for key, sides in votes.items() if len(sides) == 2 and None not in sides]
    differ = stats.proportion([float(a != b) for _, (a, b) in whole], [unit for unit, _ in whole])
    return {"position_bias": bias.json(), "inconsistent": differ.json()}
