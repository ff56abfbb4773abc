"""`maieutic demo`: the recipe of the same name on the sample that ships, and what came of it."""

from __future__ import annotations

import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

from maieutic import recipe
from maieutic.console import say, table
from maieutic.data.corpus import read_corpus
from maieutic.types import Conversation


class Demo(NamedTuple):
    """What a demo run made."""

    run: Path
    seconds: float
    """Of this call."""
    stages: dict[str, dict[str, Any]]
    """Manifests by stage."""

    def json(self) -> dict[str, Any]:
        """`{"run", "seconds", "simulator": {metric: …}, "tutor": …}`."""
        metrics = {name: value for name, value in self._metrics.items() if name in dict(_SIMULATOR)}
        return {
            "run": str(self.run),
            "seconds": round(self.seconds, 1),
            "simulator": metrics,
            "tutor": self.stages["scores"],
        }

    @property
    def _metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stages["realism"]["metrics"]
        return found

    def show(self) -> None:
        """Tables, and one simulated dialogue."""
        talk = next(iter(read_corpus(self.run / "talk")))
        say(f"One of {self.stages['talk']['dialogues']} dialogues that the simulator held:")
        _show_dialogue(talk)
        table(
            "The simulator on people it has not seen",
            ("metric", "simulator", "95 % interval", "people", "base", "n"),
            [(label, *_beside(self._metrics[name])) for name, label in _SIMULATOR],
        )
        scores = self.stages["scores"]
        table(
            "The tutor on problems it has not seen",
            ("criterion", "base", "tuned"),
            [(label, scores["against"][name], scores["scores"][name]) for name, label in _TUTOR],
        )
        say(
            f"{scores['scores']['n']} replies each, judged by code; tiny models: this proves the machinery only."
        )
        say(f"{self.run}: {len(self.stages)} stages, {self.seconds:.0f} s")


_SIMULATOR = (
    ("perplexity_on_human_turns", "perplexity on their turns"),
    ("end_f1", "F1 of the ending"),
    ("first_turn_diversity", "first-turn diversity"),
    ("distinct_2", "distinct word pairs"),
)
_TUTOR = (
    ("asks_question", "asks a question"),
    ("reveals_answer", "reveals the answer"),
    ("summary_score", "summary score"),
)


def demo(out: Path, seed: int = 0) -> Demo:
    """Run the demo recipe into `out`; the same call goes on, or finds it done."""
    started = time.monotonic()
    room = files("maieutic.demo")
    with as_file(room / "sample.jsonl") as corpus, as_file(room / "seeds.jsonl") as seeds:
        plan = recipe.resolve("demo", out, {"corpus": str(corpus), "seeds": str(seeds), "seed": seed})
        stages = recipe.run(plan)
    return Demo(out, time.monotonic() - started, stages)


def _show_dialogue(conversation: Conversation) -> None:
    for turn in conversation.messages:
        say(f"  {turn.role.value:>9}: {' '.join(turn.content.split())}")
    if conversation.ended:
        say("             (the simulator ended it)")


def _beside(metric: dict[str, Any]) -> tuple[Any, ...]:
    interval = f"{metric['ci'][0]:.2f} – {metric['ci'][1]:.2f}" if metric["ci"] else None
    return metric["value"], interval, metric["human"], metric["baseline"], metric["n"]
