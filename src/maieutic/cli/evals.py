"""`maieutic eval …`: the groups of hand-written commands; the others are generated from steps."""

from __future__ import annotations

from typing import Any

import typer

from maieutic.cli import pairwise

_SETTINGS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}

evals = typer.Typer(name="eval", help="Measure simulators, tutors, assistants and judges.", **_SETTINGS)
tutor_app = typer.Typer(help="Single tutor replies, judged by people or models.", **_SETTINGS)


def register(app: typer.Typer) -> None:
    """Add the `eval` commands."""
    evals.add_typer(tutor_app, name="tutor")
    pairwise.add_to(tutor_app)
    app.add_typer(evals, name="eval")
