"""How the `eval` commands print what they measured."""

from __future__ import annotations

from typing import Any

from maieutic.console import note, print_json


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
