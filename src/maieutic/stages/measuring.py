"""The stages that measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from maieutic.costs import Cost, Flow
from maieutic.stages.action import Action, Options, wrapped


class Simulator(Action):
    """Is the simulator like people?"""

    outputs = ("metrics.json",)
    people: Path
    model: str | None = None
    simulated: Path | None = None
    baselines: list[str] = Field(default_factory=list)
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.simulator import evaluate_named
        from maieutic.store import write_json

        def work() -> dict[str, Any]:
            metrics = evaluate_named(
                self.people, self.model, self.simulated, self.baselines, self.options.whole()
            )
            write_json(out / "metrics.json", metrics)
            return {"metrics": metrics}

        wrapped(out, self, work)

    def models(self) -> list[str]:  # noqa: D102
        named = [self.model, *self.baselines]
        return [name for name in named if name and name.startswith("hf/")]

    def describe(self) -> str:  # noqa: D102
        return "set beside people"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return Cost(None, None, flow.memory(self.models()))


class Tutor(Action):
    """Scores of judged replies; beside another tutor's on the same dialogues, the paired difference."""

    outputs = ("scores.json",)
    data: Path
    against: Path | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.paired import compare
        from maieutic.evals.tutor import score
        from maieutic.store import write_json

        def work() -> dict[str, Any]:
            scores: dict[str, Any] = {"scores": score(self.data)}
            if self.against:
                scores["against"] = score(self.against)
                scores["difference"] = compare(self.data, self.against)
            write_json(out / "scores.json", scores)
            return scores

        wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return "score the tutor" + (" against another" if self.against else "")


class Dialogues(Action):
    """What came of whole dialogues with a tutor: solved, told, turns; beside another's from the same starts."""

    outputs = ("scores.json",)
    data: Path
    against: Path | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.dialogue import compare, score
        from maieutic.store import write_json

        def work() -> dict[str, Any]:
            scores: dict[str, Any] = {"scores": score(self.data)}
            if self.against:
                scores["against"] = score(self.against)
                scores["difference"] = {"metrics": compare(self.data, self.against)}
            write_json(out / "scores.json", scores)
            return scores

        wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return "who finds the answer" + (", beside another tutor" if self.against else "")
