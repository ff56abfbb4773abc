"""Judged candidates → preference pairs for DPO, and why the other prompts gave none.

    rows (what was judged) → pairs (rules, refusals) → quality (what became of the prompts) → the file

The prompt of a pair is exactly what the tutor saw, its system text included, so that DPO trains on the prompt that is
used. A chosen reply scores above the floor and above the rejected one, and never reveals a known answer.
"""

from maieutic.judging.preferences.pairs import Refusal, Rules, Strategy, pair, pairs
from maieutic.judging.preferences.quality import Quality
from maieutic.judging.preferences.rows import judged_rows, published_row
from maieutic.judging.preferences.run import prefer

__all__ = [
    "Quality",
    "Refusal",
    "Rules",
    "Strategy",
    "judged_rows",
    "pair",
    "pairs",
    "prefer",
    "published_row",
]
