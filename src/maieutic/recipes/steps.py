"""The steps that a recipe may name, in the order of the pipeline: `do:` is a step's command."""

from __future__ import annotations

from maieutic.core.step import Step
from maieutic.data.steps import Clean, Convert, Decontaminate, Import, Split, Stats
from maieutic.evals.benchmark_steps import (
    EvalAlpacaEvalAnswer,
    EvalAlpacaEvalJudge,
    EvalAlpacaEvalScore,
    EvalMtBenchAnswer,
    EvalMtBenchJudge,
    EvalMtBenchPairwise,
    EvalMtBenchScore,
    EvalVicunaBenchScore,
)
from maieutic.evals.dialogue_steps import EvalDialogueRun, EvalDialogueScore
from maieutic.evals.steps import (
    EvalJudgeRated,
    EvalJudgeScore,
    EvalPaired,
    EvalSimulator,
    EvalTutorGrid,
    EvalTutorScore,
)
from maieutic.judging.steps import EvalTutorPairwise, Judge, Preferences, Rewards
from maieutic.recipes.demo.steps import DemoBase, DemoWorld
from maieutic.recipes.utility import EvalUtility
from maieutic.rollouts.steps import Candidates, Continuations, Intents, PrePostTest, Simulate
from maieutic.train.steps import TrainDpo, TrainSft

STEPS: tuple[type[Step], ...] = (
    DemoWorld,
    DemoBase,
    Import,
    Clean,
    Split,
    Decontaminate,
    Stats,
    Convert,
    Intents,
    TrainSft,
    Simulate,
    Candidates,
    Continuations,
    PrePostTest,
    Judge,
    Rewards,
    Preferences,
    TrainDpo,
    EvalSimulator,
    EvalTutorScore,
    EvalTutorGrid,
    EvalTutorPairwise,
    EvalJudgeRated,
    EvalJudgeScore,
    EvalDialogueRun,
    EvalDialogueScore,
    EvalMtBenchAnswer,
    EvalMtBenchJudge,
    EvalMtBenchScore,
    EvalMtBenchPairwise,
    EvalVicunaBenchScore,
    EvalAlpacaEvalAnswer,
    EvalAlpacaEvalJudge,
    EvalAlpacaEvalScore,
    EvalPaired,
    EvalUtility,
)
