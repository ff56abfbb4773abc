"""A judge's words → values, or what is wrong with them in words that a re-ask can carry.

Tolerant of dress (fences, prose around the JSON, "No.", numbers as text), strict in substance: a value outside its
scale, a missing or a strange key, two verdicts that differ, and anything unclear are refused and never guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, NamedTuple

from maieutic.judging.rubrics import Criterion, Kind, Rubric

_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"[\s.!,;:\"'*`]+")
"""What may stand around a word."""
_YES = frozenset({"yes", "y", "true", "1"})
_NO = frozenset({"no", "n", "false", "0"})
REASON = "reason"
"""The one key beside the criteria: a sentence that comes first, since a judge that reasons first judges better."""


class Parsed(NamedTuple):
    """Values by criterion, or why there are none."""

    values: dict[str, float]
    error: str | None = None


class _Twice(ValueError):
    """A key stands twice in one object."""


def parse_verdict(text: str, rubric: Rubric, material: Sequence[str] = ()) -> Parsed:
    """The verdict in a judge's answer; an object that stands in the `material` is a quotation, not a verdict."""
    names = [name for criterion in rubric.criteria for name in (criterion.name, *criterion.also)]
    shown = [criterion.name for criterion in rubric.criteria]
    return _parse(text, names, shown, lambda found: read_values(found, rubric), material)


def _parse(
    text: str,
    names: Sequence[str],
    shown: Sequence[str],
    read: Callable[[dict[str, Any]], Parsed],
    material: Sequence[str],
) -> Parsed:
    """The one verdict among the objects of an answer: those with any of the `names`, not quoted from the material."""
    try:
        return _sole(text, {_key(name) for name in names}, shown, read, material)
    except RecursionError:
        return Parsed({}, "its JSON is nested too deeply")


def _sole(
    text: str,
    known: Set[str],
    shown: Sequence[str],
    read: Callable[[dict[str, Any]], Parsed],
    material: Sequence[str],
) -> Parsed:
    objects = list(_objects(_THINKING.sub("", text)))
    if not objects:
        return Parsed({}, "it holds no JSON object" if text.strip() else "it is empty")
    verdicts = [found for found in objects if any(_key(key) in known for key in found)]
    if not verdicts:
        return Parsed({}, f"the object has none of the keys {', '.join(shown)}")
    own = [found for found in verdicts if not _quoted(found, material)]
    if not own:
        return Parsed({}, "it repeats, word for word, an object that stands in the material")
    parsed = [read(found) for found in own]
    whole = [one for one in parsed if one.error is None]
    if any(one.values != whole[0].values for one in whole[1:]):
        return Parsed({}, "it holds several verdicts that differ")
    return whole[0] if whole and len(whole) == len(parsed) else next(one for one in parsed if one.error)


def _quoted(found: dict[str, Any], material: Sequence[str]) -> bool:
    """Whether an object stands in one of the texts, whatever the white space."""
    written = {_squeezed(json.dumps(found, ensure_ascii=plain)) for plain in (True, False)}
    return any(one in squeezed for squeezed in map(_squeezed, material) for one in written)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


BETTER = "better"
"""The key of a verdict on a pair, and of its value: 1 for A, 0 for B, .5 for a tie."""
_SIDES = {"a": 1.0, "b": 0.0, "tie": 0.5}


def parse_pair(text: str, material: Sequence[str] = ()) -> Parsed:
    """Which of A and B a judge's answer says is better."""
    return _parse(text, [BETTER], [BETTER], _read_pair, material)


def _read_pair(found: dict[str, Any]) -> Parsed:
    strange = [key for key in found if _key(key) not in (BETTER, REASON)]
    if strange:
        return Parsed({}, f"not asked for: {', '.join(_short(key) for key in strange)}")
    said = [value for key, value in found.items() if _key(key) == BETTER]
    word = _WORD.sub("", said[0]).lower() if len(said) == 1 and isinstance(said[0], str) else ""
    if word not in _SIDES:
        return Parsed({}, f'{BETTER} must be "A", "B" or "tie", not {_short(said[0])}')
    return Parsed({BETTER: _SIDES[word]})


def pair_schema() -> dict[str, Any]:
    """The JSON schema of a verdict on a pair."""
    return {
        "type": "object",
        "properties": {
            REASON: {"type": "string", "description": "One sentence."},
            BETTER: {"type": "string", "enum": ["A", "B", "tie"]},
        },
        "required": [REASON, BETTER],
        "additionalProperties": False,
    }


def pair_shape() -> str:
    """Its shape, as the prompt shows it."""
    return f'{{\n  "{REASON}": "one sentence",\n  "{BETTER}": "A", "B" or "tie"\n}}'


def read_values(found: dict[str, Any], rubric: Rubric) -> Parsed:
    """The values of one object, read by the rubric."""
    names = {
        _key(name): criterion for criterion in rubric.criteria for name in (criterion.name, *criterion.also)
    }
    values: dict[str, float] = {}
    strange, wrong = [], []
    for key, raw in found.items():
        criterion = names.get(_key(key))
        if criterion is None:
            strange += [] if _key(key) == REASON else [key]
            continue
        value = _yes_no(raw) if criterion.kind == Kind.YES_NO else _on_scale(raw, criterion)
        if value is None:
            wrong.append(f"{criterion.name} must be {_allowed(criterion)}, not {_short(raw)}")
        elif criterion.name in values:
            wrong.append(f"{criterion.name} stands twice")
        else:
            values[criterion.name] = value
    missing = [
        c.name
        for c in rubric.criteria
        if c.name not in values and not any(w.startswith(c.name) for w in wrong)
    ]
    problems = wrong + ([f"missing: {', '.join(missing)}"] if missing else [])
    problems += [f"not in the rubric: {', '.join(_short(key) for key in strange)}"] if strange else []
    return Parsed({}, "; ".join(problems)) if problems else Parsed(values)


def verdict_schema(rubric: Rubric) -> dict[str, Any]:
    """The JSON schema of a verdict: a reason, then each criterion; all required, nothing else."""
    properties: dict[str, Any] = {REASON: {"type": "string", "description": "One sentence."}}
    for criterion in rubric.criteria:
        if criterion.kind == Kind.YES_NO:
            properties[criterion.name] = {"type": "string", "enum": ["yes", "no"]}
        else:
            properties[criterion.name] = {
                "type": "integer",
                "enum": list(range(criterion.low, criterion.high + 1)),
            }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def shape(rubric: Rubric) -> str:
    """The verdict's shape, as the prompt shows it."""
    lines = [f'  "{REASON}": "one sentence"']
    for criterion in rubric.criteria:
        what = (
            '"yes" or "no"'
            if criterion.kind == Kind.YES_NO
            else f"a whole number from {criterion.low} to {criterion.high}"
        )
        lines.append(f'  "{criterion.name}": {what}')
    return "{\n" + ",\n".join(lines) + "\n}"


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in the text, and the objects inside one."""
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse)
    place = text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield from _nested(found)
        place = text.find("{", end)


def _nested(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        yield found
        for value in found.values():
            yield from _nested(value)
    elif isinstance(found, list):
        for value in found:
            yield from _nested(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Twice
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _yes_no(raw: Any) -> float | None:
    if isinstance(raw, bool):
        return float(raw)
    if isinstance(raw, (int, float)):
        return float(raw) if raw in (0, 1) else None
    word = _WORD.sub("", raw).lower() if isinstance(raw, str) else ""
    return 1.0 if word in _YES else 0.0 if word in _NO else None


def _on_scale(raw: Any, criterion: Criterion) -> float | None:
    if isinstance(raw, str):
        match = re.fullmatch(r"\s*\**(\d+(?:\.0+)?)\**(?:\s*/\s*(\d+))?\s*\.?\s*", raw, re.ASCII)
        if not match or (match[2] and int(match[2]) != criterion.high):
            return None
        raw = float(match[1])
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    return float(raw) if criterion.low <= raw <= criterion.high and raw == int(raw) else None


def _allowed(criterion: Criterion) -> str:
    if criterion.kind == Kind.YES_NO:
        return '"yes" or "no"'
    return f"a whole number from {criterion.low} to {criterion.high}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
