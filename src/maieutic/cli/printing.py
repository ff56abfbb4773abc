"""How the `eval` commands print what they measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maieutic.core.console import note, print_json


def printed(result: dict[str, Any], as_json: bool) -> bool:
    """Say the notes on standard error, and print the JSON where it is wanted."""
    for line in result.get("notes", []):
        note(line)
    if as_json:
        print_json(result)
    return as_json


def span(ci: Any) -> str:
    """An interval."""
    return f"{ci[0]:.3f} to {ci[1]:.3f}" if ci else "–"


def say_reasons(shapes: Mapping[str, Mapping[str, Any]], only: Sequence[str] = ()) -> None:
    """Say why a number or an interval is missing: once for each reason, with the metrics and whose they are.

    Args:
        shapes: by name, what has `reasons`; a nameless one is the whole result.
        only: the metrics that are shown; by default all.
    """
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for name, shape in shapes.items():
        for key, reason in shape["reasons"].items():
            metric = key.removesuffix("_ci")
            if not only or metric in only:
                metrics, names = found.setdefault(reason, ({}, {}))
                metrics[metric] = names[name] = None
    for reason, (metrics, names) in found.items():
        shown = [name for name in names if name]
        of = f" of {', '.join(shown[:5])}{' and others' if len(shown) > 5 else ''}" if shown else ""
        note(f"without a value or an interval: {', '.join(metrics)}{of} ({reason})")
