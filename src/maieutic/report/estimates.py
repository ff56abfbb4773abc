"""Estimates out of the shapes that they are printed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maieutic.core.messages import Estimate
from maieutic.evals import tutor
from maieutic.evals.files import parse_number


def estimates(result: Mapping[str, Any]) -> dict[str, Estimate]:
    """The numbers of `eval tutor score` as estimates, those that its rubric has."""
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
    """An estimate from its printed shape."""
    n = shape.get("n")
    reason = shape.get("reason")
    return Estimate(
        parse_number(shape.get("value")), interval(shape.get("ci")), n if isinstance(n, int) else 0, reason
    )


def interval(value: Any) -> tuple[float, float] | None:
    """An interval, or null."""
    ends = [parse_number(end) for end in value] if isinstance(value, (list, tuple)) else []
    return (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None
