"""The options of every command that pays models for answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from maieutic.core.budget import Budget

BudgetTokens = Annotated[
    int | None, typer.Option(min=1, help="Stop cleanly after so many tokens, prompts counted.")
]
BudgetUsd = Annotated[float | None, typer.Option(min=0, help="Stop cleanly after so many dollars.")]
Prices = Annotated[
    list[str] | None,
    typer.Option(
        "--price", help="MODEL=IN,OUT: dollars for a million tokens read, written; may be repeated."
    ),
]


def budget(tokens: int | None, usd: float | None, given: list[str] | None) -> Budget:
    """The budget that these options say."""
    from maieutic.core.budget import Budget, prices

    return Budget(tokens=tokens, usd=usd, prices=prices(given or []))
