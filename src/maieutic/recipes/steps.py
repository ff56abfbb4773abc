"""The steps that a recipe may name, in the order of the pipeline: `do:` is a step's command."""

from __future__ import annotations

from maieutic.core.step import Step

STEPS: tuple[type[Step], ...] = ()
