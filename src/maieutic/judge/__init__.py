"""Verdicts on texts: deterministic checks first, then models that are asked, re-asked and else leave it unscored."""

from maieutic.judge.pairwise import Compared, pairwise
from maieutic.judge.run import Judged, judge

__all__ = ["Compared", "Judged", "judge", "pairwise"]
