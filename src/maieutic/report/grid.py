"""Every test set with every tutor, read from its stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maieutic.core.messages import Estimate
from maieutic.core.store import read_json
from maieutic.report.collect import StageRun
from maieutic.report.estimates import estimates


class Grid(NamedTuple):
    """A finished grid stage."""

    label: str
    tests: list[str]
    tutors: list[str]
    shown: str
    """The tuned tutor that the figures show."""
    cells: dict[tuple[str, str], dict[str, Any]]
    """By test set and tutor, as `evals.grid` gives them."""
    leakage: dict[str, dict[str, Any]]

    @property
    def few(self) -> list[str]:
        """The base, the prompted ones and the shown tutor."""
        return [
            name
            for name in self.tutors
            if name == self.shown or self.cells[self.tests[0], name]["trained_on"] is None
        ]

    def estimate(self, test: str, tutor: str, part: str, name: str = "summary_score") -> Estimate:
        """A cell's number; null where nothing was scored."""
        result = self.cells[test, tutor][part]
        reason = (result.get("reasons") or {}).get(name)
        return estimates(result).get(name, Estimate(None, None, 0, reason))


def grids(stages: Sequence[StageRun]) -> list[Grid]:
    """Those of the stages that are grids, finished."""
    return [_read(stage) for stage in stages if stage.kind == "grid" and stage.manifest is not None]


def _read(stage: StageRun) -> Grid:
    found = read_json(stage.folder / "grid.json")
    cells = {(cell["test"], cell["tutor"]): cell for cell in found["cells"]}
    tutors = [one["name"] for one in found["tutors"]]
    shown = next((one["name"] for one in found["tutors"] if one["trained_on"] == found["shown"]), tutors[-1])
    return Grid(stage.label, found["tests"], tutors, shown, cells, found["leakage"])


def called(tutor: str) -> str:
    """A tutor's name for people."""
    return tutor.replace("from_finetuned_with_", "tuned on ")
