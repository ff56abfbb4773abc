"""maieutic: train either side of a conversation.

    from maieutic import Judge, Simulate, TrainSft, render

The public names are the steps, the data types, `render`, `load_model`, and reading and writing a corpus. Everything
else may change without notice. Names are imported when first used, so that `import maieutic` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maieutic.core.errors import MaieuticError
from maieutic.core.messages import Conversation, Message, Problem, Role, Sampling

if TYPE_CHECKING:
    from maieutic.chat_templates.rendering import render
    from maieutic.cli.demo import Demo
    from maieutic.core.rows import CandidateRow, Episode, JudgedRow, PreferenceRow
    from maieutic.core.settings import Budget, LocalModel, Requests
    from maieutic.data.corpus import read_corpus, write_corpus
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
    from maieutic.models import load as load_model
    from maieutic.recipes.demo.steps import DemoBase, DemoWorld
    from maieutic.recipes.runner import Run
    from maieutic.recipes.utility import EvalUtility
    from maieutic.report.steps import Report
    from maieutic.rollouts.chat import Chat
    from maieutic.rollouts.steps import Candidates, Continuations, Intents, PrePostTest, Simulate
    from maieutic.serving.export import Export
    from maieutic.serving.server import Serve
    from maieutic.train.mask import Mask
    from maieutic.train.steps import TrainDpo, TrainSft

__version__ = "0.1.0"

_MODULES = {
    "core.settings": ("Budget", "LocalModel", "Requests"),
    "core.rows": ("CandidateRow", "Episode", "JudgedRow", "PreferenceRow"),
    "data.corpus": ("read_corpus", "write_corpus"),
    "chat_templates.rendering": ("render",),
    "data.steps": ("Clean", "Convert", "Decontaminate", "Import", "Split", "Stats"),
    "rollouts.steps": ("Candidates", "Continuations", "Intents", "PrePostTest", "Simulate"),
    "judging.steps": ("EvalTutorPairwise", "Judge", "Preferences", "Rewards"),
    "train.steps": ("TrainDpo", "TrainSft"),
    "train.mask": ("Mask",),
    "evals.steps": (
        "EvalJudgeRated",
        "EvalJudgeScore",
        "EvalPaired",
        "EvalSimulator",
        "EvalTutorGrid",
        "EvalTutorScore",
    ),
    "evals.dialogue_steps": ("EvalDialogueRun", "EvalDialogueScore"),
    "evals.benchmark_steps": (
        "EvalAlpacaEvalAnswer",
        "EvalAlpacaEvalJudge",
        "EvalAlpacaEvalScore",
        "EvalMtBenchAnswer",
        "EvalMtBenchJudge",
        "EvalMtBenchPairwise",
        "EvalMtBenchScore",
        "EvalVicunaBenchScore",
    ),
    "recipes.utility": ("EvalUtility",),
    "recipes.demo.steps": ("DemoBase", "DemoWorld"),
    "recipes.runner": ("Run",),
    "report.steps": ("Report",),
    "serving.export": ("Export",),
    "serving.server": ("Serve",),
    "rollouts.chat": ("Chat",),
    "cli.demo": ("Demo",),
}
"""The public names by module."""

_LAZY = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Budget",
    "CandidateRow",
    "Candidates",
    "Chat",
    "Clean",
    "Continuations",
    "Conversation",
    "Convert",
    "Decontaminate",
    "Demo",
    "DemoBase",
    "DemoWorld",
    "Episode",
    "EvalAlpacaEvalAnswer",
    "EvalAlpacaEvalJudge",
    "EvalAlpacaEvalScore",
    "EvalDialogueRun",
    "EvalDialogueScore",
    "EvalJudgeRated",
    "EvalJudgeScore",
    "EvalMtBenchAnswer",
    "EvalMtBenchJudge",
    "EvalMtBenchPairwise",
    "EvalMtBenchScore",
    "EvalPaired",
    "EvalSimulator",
    "EvalTutorGrid",
    "EvalTutorPairwise",
    "EvalTutorScore",
    "EvalUtility",
    "EvalVicunaBenchScore",
    "Export",
    "Import",
    "Intents",
    "Judge",
    "JudgedRow",
    "LocalModel",
    "MaieuticError",
    "Mask",
    "Message",
    "PrePostTest",
    "PreferenceRow",
    "Preferences",
    "Problem",
    "Report",
    "Requests",
    "Rewards",
    "Role",
    "Run",
    "Sampling",
    "Serve",
    "Simulate",
    "Split",
    "Stats",
    "TrainDpo",
    "TrainSft",
    "__version__",
    "load_model",
    "read_corpus",
    "render",
    "write_corpus",
]


def __getattr__(name: str) -> Any:
    if name == "load_model":
        return import_module("maieutic.models").load
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"maieutic.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
