"""Refuse a final judge that also made the preference pairs: the tutor may have adapted to that judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maieutic.core.errors import RecipeError

_MAKE_PAIRS = ("preferences", "rewards", "prefer", "mix")
_TRAIN = ("train dpo",)


def refuse_training_judges(stages: Mapping[str, Any], needs: Mapping[str, Sequence[str]]) -> None:
    """Raise where a model judged the replies that a tutor was trained on, and later judges that tutor's replies.

    One judge may make the pairs of several training rounds. A judge in code may make pairs and report results.
    In a panel, each model counts.

    Args:
        stages: the stages of a recipe, in order.
        needs: for each stage the stages that it reads.

    Raises:
        RecipeError: names the model and both stages.
    """
    above = _all_inputs(needs)
    made = [name for name, step in stages.items() if _command(step) in _MAKE_PAIRS]
    training = {read for name in made for read in needs[name]}
    judges = {name: set(map(str.strip, s.models())) for name, s in stages.items() if _command(s) == "judge"}
    for final in (name for name in judges if name not in training):
        tutors = [name for name in above[final] if _command(stages[name]) in _TRAIN]
        used = {name for tutor in tutors for name in above[tutor] if name in training and name in judges}
        for earlier in (name for name in stages if name in used):
            if both := sorted(judges[final] & judges[earlier]):
                raise RecipeError(
                    f"{both[0]} would grade the tutor that learned from its own verdicts (stages {earlier}, {final})",
                    "Use different models as training judge and final judge, also inside panels.",
                )


def _command(step: Any) -> str:
    return getattr(step, "command", None) or type(step).__name__.lower()


def _all_inputs(needs: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """For each stage all stages that it reads, directly or through others."""
    found: dict[str, set[str]] = {}
    for name, direct in needs.items():
        found[name] = set(direct).union(*(found[each] for each in direct))
    return found
