"""What a recipe's stage can do: each kind with its settings, the files it makes, the models it asks, what it costs.

A stage calls the library function that its command calls. Those that append rows keep their own run folder; the
others are wrapped into one, with the manifest last. `corpora`, `talking`, `judging`, `playing`, `measuring`,
`tutoring` and `utility` hold them by what they do.
"""

from __future__ import annotations

from maieutic.recipes.stages.action import Action, Options
from maieutic.recipes.stages.playing import Continuations
from maieutic.recipes.stages.talking import Candidates, Intents, PrePostTest, Simulate

__all__ = ["ACTIONS", "Action", "Options"]

ACTIONS: dict[str, type[Action]] = {
    "intents": Intents,
    "simulate": Simulate,
    "candidates": Candidates,
    "continuations": Continuations,
    "pre-post-test": PrePostTest,
}
