"""Numbers for people's eyes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maieutic.core.messages import Estimate

NONE = "–"


def num(value: Any) -> str:
    """Three figures or so; null is a dash."""
    if value is None:
        return NONE
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    places = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    said = f"{value:,.{places}f}"
    return said.lstrip("-") if not float(said.replace(",", "")) else said.replace("-", "−")


def span(estimate: Estimate | Mapping[str, Any]) -> str:
    """The interval of an estimate, or a dash."""
    ci = estimate.ci if isinstance(estimate, Estimate) else estimate.get("ci")
    return f"{num(float(ci[0]))} to {num(float(ci[1]))}" if ci else NONE


def sure(estimate: Estimate | Mapping[str, Any]) -> str:
    """The interval of an estimate, in a sentence."""
    said = span(estimate)
    return "no interval" if said == NONE else f"95 % {said}"


def holds_zero(ci: Any) -> bool:
    """Whether an interval holds zero."""
    return bool(ci) and ci[0] <= 0 <= ci[1]


def plural(count: int, what: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
