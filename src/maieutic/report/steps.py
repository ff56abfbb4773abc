"""The step that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from maieutic.core.console import say
from maieutic.core.step import Result, Step


class ReportResult(Result):
    """The files of a report."""

    report: str
    """The HTML page."""
    figures: str
    """The folder of its figures."""

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """See `Result`."""
        return {"report": self.report, "figures": self.figures}

    def show(self) -> None:
        say(self.report)


class Report(Step):
    """Write one HTML page about runs: stages, numbers with intervals, figures and sample dialogues.

    The page needs no other file and no network.
    """

    command: ClassVar = "report"
    arguments: ClassVar = ("runs",)
    examples: ClassVar = ("maieutic report demo-run",)

    runs: list[Path] = Field(
        description="Run folders, stage folders, or files of human and judge ratings.", min_length=1
    )
    artefacts: bool = Field(False, description="Also write dpo/ and evaluation/ in socratic-llm's form.")

    def run(self, out: Path | str = "") -> ReportResult:
        """Write `report.html` and `figures/` into a folder; by default that of the first run."""
        from maieutic.report.page import write_report

        path = write_report(self.runs, out or self.default_out(), self.artefacts)
        return ReportResult(run=str(path.parent), report=str(path), figures=str(path.parent / "figures"))

    def default_out(self) -> Path:
        return self.runs[0] if self.runs[0].is_dir() else self.runs[0].parent
