"""Limits on tokens and dollars for model calls (`Budget`), and what was spent so far (`Spending`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, field_validator

from maieutic.core.errors import BudgetSpent, InputError
from maieutic.core.messages import Record, Reply


class Price(NamedTuple):
    """US dollars per million prompt tokens, and per million generated tokens."""

    read: float
    written: float


class Budget(Record):
    """Limits on tokens and dollars; null: no limit."""

    flags: ClassVar = {"tokens": "--budget-tokens", "usd": "--budget-usd", "prices": "--price"}
    """The budget as settings of a step."""

    tokens: int | None = Field(None, ge=1, description="Stop after this many tokens, prompt tokens included.")
    usd: float | None = Field(None, ge=0, description="Stop after this many dollars.")
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="MODEL=IN,OUT: dollars per million prompt and generated tokens. Other models cost nothing.",
    )

    @field_validator("prices", mode="before")
    @classmethod
    def _read_prices(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            name: prices([f"{name}={price}"])[name] if isinstance(price, str) else price
            for name, price in value.items()
        }

    def checked(self, models: Sequence[str]) -> Budget:
        """The budget.

        Raises:
            InputError: there is a limit in dollars, and a remote model has no price.
        """
        local = ("hf/", "script/", "baseline/", "student/", "ollama/")
        unpriced = [model for model in models if model not in self.prices and not model.startswith(local)]
        if self.usd is not None and unpriced:
            raise InputError(
                f"a budget in dollars needs the price of {unpriced[0]}",
                f"Give --price {unpriced[0]}=IN,OUT in dollars per million prompt and generated tokens.",
            )
        return self


class Spending:
    """The tokens and dollars that one call has spent.

    Args:
        budget: limits for this call only; the costs of earlier calls are in the rows that they wrote.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self.replies = self.tokens = 0
        self.usd = 0.0

    def charge(self, reply: Reply) -> float | None:
        """Count a reply, and return its cost in dollars; null if its model has no price."""
        self.replies += 1
        self.tokens += reply.prompt_tokens + reply.completion_tokens
        cost = spend(self._budget.prices, reply.model, reply.prompt_tokens, reply.completion_tokens)
        self.usd += cost or 0.0
        return cost

    def check(self) -> None:
        """Raise BudgetSpent if a limit is reached. The caller keeps the replies that it already has."""
        limits = self._budget
        spent = []
        if limits.tokens is not None and self.tokens >= limits.tokens:
            spent.append(f"{limits.tokens} tokens")
        if limits.usd is not None and self.usd >= limits.usd:
            spent.append(f"${limits.usd:g}")
        if spent:
            raise BudgetSpent(
                f"the budget of {' and '.join(spent)} is used up",
                "Run the same command with a larger budget to continue.",
            )

    def __str__(self) -> str:
        return f"{self.tokens} tokens" + (f", ${self.usd:.2f}" if self._budget.prices else "")


def prices(given: Sequence[str]) -> dict[str, Price]:
    """Prices from the form `MODEL=IN,OUT`.

    Raises:
        InputError: a text does not have this form.
    """
    found: dict[str, Price] = {}
    for text in given:
        model, _, numbers = text.rpartition("=")
        try:
            price = Price(*map(float, numbers.split(",")))
        except (TypeError, ValueError):
            price = Price(-1, -1)
        if not model or not (0 <= price.read < float("inf") and 0 <= price.written < float("inf")):
            raise InputError(
                f"{text!r} is not a price",
                "Write MODEL=IN,OUT: dollars per million prompt and generated tokens.",
            )
        found[model] = price
    return found


def spend(prices: Mapping[str, Price], model: str, read: int, written: int) -> float | None:
    """The cost of tokens in dollars; null if the model has no price."""
    price = prices.get(model)
    return None if price is None else (read * price.read + written * price.written) / 1e6
