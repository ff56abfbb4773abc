"""`maieutic report`: a run folder as one page with its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maieutic.core.console import Json, print_json, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", help=report.__doc__)(report)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders, stage folders, or files of people's and judge's ratings."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write into; default: the first RUN.")] = None,
    artefacts: Annotated[
        bool, typer.Option("--artefacts", help="Also write dpo/ and evaluation/ in socratic-llm's form.")
    ] = False,
    json: Json = False,
) -> None:
    """One page that stands by itself: what was run, every number with its interval, figures, ten dialogues.

    Example: maieutic report demo-run
    """
    from maieutic.report.page import write_report

    path = write_report(runs, out, artefacts)
    if json:
        print_json({"report": str(path), "figures": str(path.parent / "figures")})
    else:
        say(str(path))
