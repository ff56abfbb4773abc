"""Two models talk: the user side and the assistant side of whole dialogues, as many at once as the models allow."""

from maieutic.rollouts.cost import SimulationCost, cost
from maieutic.rollouts.simulate import SimulateConfig, Summary, simulate
from maieutic.rollouts.users import user_mode

__all__ = ["SimulateConfig", "SimulationCost", "Summary", "cost", "simulate", "user_mode"]
