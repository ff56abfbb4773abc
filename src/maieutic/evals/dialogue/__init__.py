"""Whole dialogues with a tutor, on problems with known answers: did the student get there alone, or was it told?

`outcome.py` says what happened in one dialogue, `score.py` what comes of many, and of two tutors over the same starts;
`attempts.py` lets the student try alone before and after, `play.py` plays tutors with students, controls with them.
"""

from __future__ import annotations

from maieutic.checks.outcomes import DialogueOutcome, outcome, solves
from maieutic.checks.turns import states_answer
from maieutic.evals.dialogue.load_outcomes import Lost, Outcomes, outcomes
from maieutic.evals.dialogue.play import PlayConfig, name_all, play, play_cost
from maieutic.evals.dialogue.score import METRICS, compare, score
from maieutic.rollouts.pre_post_test import Attempts, attempts

__all__ = [
    "METRICS",
    "Attempts",
    "DialogueOutcome",
    "Lost",
    "Outcomes",
    "PlayConfig",
    "attempts",
    "compare",
    "name_all",
    "outcome",
    "outcomes",
    "play",
    "play_cost",
    "score",
    "solves",
    "states_answer",
]
