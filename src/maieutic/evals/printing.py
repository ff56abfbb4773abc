"""Results of evaluations as steps return them, and how their tables print numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maieutic.core.console import note
from maieutic.core.step import Result


class Measurements(Result):
    """Measurements by name: `result["solved"]["value"]`."""

    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The measurements alone."""
        return self.values

    def remarks(self) -> list[str]:
        """The notes of the measurement."""
        return list(self.values.get("notes", ()))


def interval_text(ci: Any) -> str:
    """An interval for a table."""
    return f"{ci[0]:.3f} to {ci[1]:.3f}" if ci else "–"


def words(name: str) -> str:
    """The name of a metric for a table."""
    return name.replace("_", " ")


def note_reasons(shapes: Mapping[str, Mapping[str, Any]], only: Sequence[str] = ()) -> None:
    """Print why a number or an interval is missing: each reason once, with its metrics.

    Args:
        shapes: by name, results that have `reasons`; an empty name stands for the whole result.
        only: the metrics to mention; by default all.
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
