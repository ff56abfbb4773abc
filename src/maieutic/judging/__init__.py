"""Verdicts on texts: deterministic checks first, then models that are asked, re-asked and else leave it unscored."""

from maieutic.judging.judge import Judged, judge
from maieutic.judging.pairwise import Compared, pairwise

__all__ = ["Compared", "Judged", "judge", "pairwise"]
