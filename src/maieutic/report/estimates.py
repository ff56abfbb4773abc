"""Estimates read from a manifest's JSON, and numbers as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maieutic.core.messages import Estimate
from maieutic.evals import tutor
from maieutic.evals.files import parse_number

NONE = "–"


def score_estimates(result: Mapping[str, Any]) -> dict[str, Estimate]:
    """The numbers of `eval tutor score` as estimates; criteria that the rubric lacks are left out."""
    found = {}
    for name in ("summary_score", *tutor.CRITERIA):
        if (value := parse_number(result.get(name))) is not None:
            reason = (result.get("reasons") or {}).get(name)
            found[name] = Estimate(value, interval(result.get(f"{name}_ci")), result.get("n") or 0, reason)
    for name, shape in (result.get("criteria") or {}).items():
        if shape.get("value") is not None:
            found[str(name)] = estimate(shape)
    return found


def estimate(shape: Mapping[str, Any]) -> Estimate:
    """An estimate from `{"value", "ci", "n"}`."""
    n = shape.get("n")
    return Estimate(
        parse_number(shape.get("value")),
        interval(shape.get("ci")),
        n if isinstance(n, int) else 0,
        shape.get("reason"),
    )


def interval(value: Any) -> tuple[float, float] | None:
    """An interval, or null where `value` is not two numbers."""
    ends = [parse_number(end) for end in value] if isinstance(value, (list, tuple)) else []
    return (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None


def num(value: Any) -> str:
    """A number with about three significant figures; null is a dash."""
    if value is None:
        return NONE
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    places = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    text = f"{value:,.{places}f}"
    return text.lstrip("-") if not float(text.replace(",", "")) else text.replace("-", "−")


def span(ci: Any) -> str:
    """An interval as `LOW to HIGH`, or a dash."""
    return f"{num(float(ci[0]))} to {num(float(ci[1]))}" if ci else NONE


def with_interval(value: Any, ci: Any) -> str:
    """A table cell: the number, and on a second line its interval."""
    if value is None:
        return NONE
    return f"{num(float(value))}\n{span(ci)}" if ci else num(float(value))


def ci_text(ci: Any) -> str:
    """An interval as it is written in a sentence."""
    return f"95 % {span(ci)}" if ci else "no interval"


def estimate_text(found: Estimate) -> str:
    """An estimate with its interval and n, as it is written in a sentence."""
    return f"{num(found.value)} ({ci_text(found.ci)}, n = {found.n})"


def plural(count: int, what: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
