"""The step `Export` in one line, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.serving.export import Export, ExportResult


def export(model: str, to: Any, out: Path, **settings: Any) -> ExportResult:
    return Export(model=model, to=to, **settings).run(out)
