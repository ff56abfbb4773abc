"""Who made the pairs does not grade the result: a tutor would be praised for having learned its examiner's taste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maieutic.core.errors import RecipeError


def refuse_own_examiner(stages: Mapping[str, Any], needs: Mapping[str, Sequence[str]]) -> None:
    """Raise where a model judged the replies that a tutor learned from, and then judges what the tutor says.

    A judge whose verdicts make pairs again, as in rounds of training, grades nothing; code may do both, since it has
    no taste. A panel counts by each of its models.

    Args:
        stages: a recipe's, in order.
        needs: for each the stages it reads.

    Raises:
        RecipeError: names the model and both stages.
    """
    above = _above(needs)
    made = [name for name, action in stages.items() if _kind(action) in _MAKE_PAIRS]
    teaching = {read for name in made for read in needs[name]}
    judges = {name: set(map(str.strip, a.models())) for name, a in stages.items() if _kind(a) == "judge"}
    for grading in (name for name in judges if name not in teaching):
        tutors = [name for name in above[grading] if _kind(stages[name]) in _TRAIN]
        taught = {one for tutor in tutors for one in above[tutor] if one in teaching and one in judges}
        for one in (name for name in stages if name in taught):
            if both := sorted(judges[grading] & judges[one]):
                raise RecipeError(
                    f"{both[0]} would grade the tutor that learned from its own verdicts (stages {one}, {grading})",
                    "Give another model as the final judge than as the training judge; in a panel too.",
                )


_MAKE_PAIRS = ("preferences", "rewards", "prefer", "mix")
_TRAIN = ("train dpo", "dpo")


def _kind(step: Any) -> str:
    """The word that a recipe names a step by."""
    return getattr(step, "command", None) or type(step).__name__.lower()


def _above(needs: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """For each stage all that it reads, directly or through others."""
    found: dict[str, set[str]] = {}
    for name, direct in needs.items():
        found[name] = set(direct).union(*(found[one] for one in direct))
    return found
