"""What cleaning can do, by name: the filters in their order, the reasons they give, their options and presets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field

from maieutic.core.errors import InputError
from maieutic.core.messages import Record


class Filter(StrEnum):
    """The filters by name, in their order."""

    HTML = "html"
    PERSONAL = "personal"
    ROLES = "roles"
    MENTIONS = "mentions"
    BRANDING = "branding"
    REFUSALS = "refusals"
    FLOODS = "floods"
    LANGUAGE = "language"
    LENGTH = "length"
    TURNS = "turns"
    DUPLICATES = "duplicates"
    NEAR = "near"


ALWAYS = (Filter.ROLES, Filter.TURNS, Filter.DUPLICATES)
"""The filters that run unasked."""


class Reason(StrEnum):
    """Why a conversation was rejected."""

    MENTION = "names a service"
    BRANDING = "branding"
    REFUSAL = "refusal"
    FLOOD = "template flood"
    LANGUAGE = "another language"
    LONG = "one round too long"
    NO_USER = "no user turn"
    NO_ASSISTANT = "no assistant turn"
    SHORT = "too few turns"
    DUPLICATE = "exact duplicate"
    NEAR = "near duplicate"


class CleanOptions(Record):
    """What counts as clean."""

    filters: tuple[Filter, ...] = ()
    """Filters to run beside those of `ALWAYS`; their order here does not matter."""
    keep_opening: bool = False
    """Keep assistant turns before the first user turn everywhere. They are kept in any case where the importer noted
    that the tutor rightly speaks first (`meta.opens`)."""
    min_turns: int = Field(2, ge=1)
    """User and assistant turns at least, after repairs and cuts."""
    keep_duplicates: bool = False
    """Keep exact duplicates (same roles, texts and problem)."""
    languages: tuple[str, ...] = Field(("en",), min_length=1)
    """ISO 639 codes that `language` keeps."""
    max_tokens: int = Field(2048, ge=1)
    """Tokens of a part at most, for `length`."""
    tokenizer: Path | str | None = None
    """What counts them; without one, the estimate of `data.lengths`."""

    def chosen(self) -> list[Filter]:
        """The filters to run, in their order."""
        unwanted = {Filter.DUPLICATES} if self.keep_duplicates else set()
        return [name for name in Filter if name in {*ALWAYS, *self.filters} - unwanted]


PRESETS = {
    "platolm": CleanOptions(
        filters=(Filter.HTML, Filter.MENTIONS, Filter.LANGUAGE, Filter.LENGTH), min_turns=3, max_tokens=2048
    )
}
"""`platolm`: the published cleaning (arXiv 2308.11534), in its order. A single turn there is one question and one
answer, so three turns are the least."""


def choose(preset: str | None, filters: Iterable[str], given: Mapping[str, Any]) -> CleanOptions:
    """The options that a preset, further filters by name, and single settings mean together.

    Args:
        preset: one of `PRESETS`; null or empty for none.
        filters: names of `Filter`, to run beside the preset's; or `all` alone.
        given: fields of `CleanOptions`; null ones are not set. One that belongs to a filter asks for it too.

    Raises:
        InputError: there is no such preset or filter.
    """
    if preset and preset not in PRESETS:
        raise InputError(f"no preset {preset!r}", f"Known: {', '.join(PRESETS)}.")
    base = PRESETS[preset] if preset else CleanOptions()
    names = list(filters)
    if names == ["all"]:
        names = list(Filter)
    if unknown := [name for name in names if name not in list(Filter)]:
        raise InputError(f"no filter {unknown[0]!r}", f"Known: {', '.join(Filter)}; or all.")
    changes = {key: value for key, value in given.items() if value is not None}
    implied = {"languages": Filter.LANGUAGE, "max_tokens": Filter.LENGTH, "tokenizer": Filter.LENGTH}
    asked = [*base.filters, *map(Filter, names), *(implied[key] for key in implied if key in changes)]
    return CleanOptions.model_validate(
        {**base.model_dump(), "filters": tuple(dict.fromkeys(asked)), **changes}
    )
