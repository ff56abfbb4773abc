"""`maieutic demo`: run the demo recipe and show its results as tables, `summary.json` and `report.html`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from maieutic.core.console import say, table
from maieutic.core.messages import Conversation
from maieutic.core.step import Result, Step
from maieutic.core.store import read_json, write_json

_SIMULATOR = {
    "perplexity_on_human_turns": "perplexity of human turns",
    "end_f1": "end F1",
    "first_turn_diversity": "first-turn diversity",
    "distinct_2": "distinct word pairs",
    "repeats_rate": "repeated turns, per 100",
}
_TUTOR = {
    "asks_question": "asks a question",
    "reveals_answer": "reveals the answer",
    "takes_up": "takes up the student's work",
    "misjudges": "misjudges the answer",
    "summary_score": "summary score",
}
_DIALOGUE = {"solved": "solved by the student", "told": "told by the tutor", "turns": "turns"}


class DemoResult(Result):
    """Results of a demo run."""

    folder: Path
    seconds: float
    """Time of all stages, in this call and in earlier ones."""
    stages: dict[str, dict[str, Any]]
    """Manifests by stage."""

    @property
    def summary(self) -> Path:
        """The file `summary.json`."""
        return self.folder / "summary.json"

    @property
    def baselines(self) -> list[str]:
        """The baseline tutors that were judged."""
        judged = (name.removesuffix("-judged") for name in self.stages if name.endswith("-judged"))
        return [name for name in judged if name not in ("base", "tuned")]

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """`{"seconds", "stages": [{"name", "seconds"}], "simulator": …, "tutor": …, "probes": …, "dialogue": …}`."""
        realism = self.stages["realism"]["metrics"]
        timings = read_json(self.folder / "timings.json")
        keys = ("value", "ci", "n", "human", "baseline")
        return {
            "seconds": round(self.seconds, 1),
            "stages": [{"name": name, "seconds": timings.get(name)} for name in self.stages],
            "simulator": {name: {key: realism[name][key] for key in keys} for name in _SIMULATOR},
            "tutor": _differences(self.stages["scores"], _TUTOR),
            "probes": {name: self._compare_baseline(name) for name in self.baselines},
            "dialogue": _differences(self.stages["outcomes"], _DIALOGUE),
        }

    def _compare_baseline(self, name: str) -> dict[str, Any]:
        """A baseline's means, and the tuned tutor's summary score minus the baseline's, paired by dialogue."""
        from maieutic.evals.paired import compare_files

        found = compare_files(self.folder / "tuned-judged", self.folder / f"{name}-judged")
        return {
            **{criterion: found["metrics"][criterion]["b"] for criterion in _TUTOR},
            **{key: found[key] for key in ("difference", "ci", "n")},
        }

    def show(self) -> None:
        """Print tables, one simulated dialogue, and on the last line the summary's path."""
        from maieutic.data.corpus import read_corpus

        found = self.json()
        say("A dialogue of the simulated student with the tuned tutor, on the first test problem:")
        _show_dialogue(next(iter(read_corpus(self.folder / "tuned-lessons"))))
        table(
            "The user simulator on test conversations",
            ("metric", "simulator", "95 % interval", "people", "base", "n"),
            [(title, *_metric_cells(found["simulator"][name])) for name, title in _SIMULATOR.items()],
        )
        say(f"Simulator minus base, on the same people: {', '.join(self._gains())}.")
        header = ("measure", "base", "tuned", "difference", "95 % interval", "n")
        for title, part, rows in (
            ("The tutor's replies on test problems, judged by code", "tutor", _TUTOR),
            ("Whole dialogues of the simulated student with both tutors", "dialogue", _DIALOGUE),
        ):
            table(title, header, [(label, *_paired_cells(found[part][name])) for name, label in rows.items()])
        _show_baselines(found["probes"])
        if unproven := _without_difference(found):
            say(f"No difference is shown: {', '.join(unproven)}.")
        say("Tiny models on toy data: this tests the software, and says nothing about real models.")
        say(f"{self.folder}: {len(self.stages)} stages, {self.seconds:.0f} s; {self.folder / 'report.html'}")
        say(str(self.summary))

    def _gains(self) -> Iterator[str]:
        """The differences between the simulator and the base, paired by conversation."""
        realism = self.stages["realism"]["metrics"]
        for name in ("perplexity_on_human_turns", "end_f1"):
            gap, title = realism[name]["difference"], _SIMULATOR[name]
            if gap["ci"] is None:
                yield f"{title}: undefined"
            else:
                yield f"{title} {gap['difference']:+.3f} ({gap['ci'][0]:+.3f} to {gap['ci'][1]:+.3f})"


class Demo(Step):
    """Run the whole pipeline offline with tiny models: train a simulator and a tutor, and measure both.

    It takes a few minutes on two processor cores, and needs no network and no key.
    """

    command: ClassVar = "demo"
    shown: ClassVar = ("seed",)
    examples: ClassVar = ("maieutic demo --out demo-run",)

    seed: int = Field(0, description="Random seed of the toy data, the models and the sampling.")
    set: dict[str, Any] = Field(
        default_factory=dict, description="NAME=VALUE: set a value of the recipe, read as YAML."
    )

    def run(self, out: Path | str = "demo-run") -> DemoResult:
        """Run the demo recipe into `out`; `summary.json`, `report.html` and `figures/` are written there too."""
        from maieutic.recipes.demo.base import one_thread
        from maieutic.recipes.runner import Run, resolve, run_plan
        from maieutic.report.page import write_report

        started, folder = time.monotonic(), Path(out)
        plan = resolve("demo", folder, {**Run(recipe="demo", set=self.set).set, "seed": self.seed})
        with one_thread():
            stages = run_plan(plan)
        seconds = max(sum(read_json(folder / "timings.json").values()), time.monotonic() - started)
        result = DemoResult(run=str(out), folder=folder, seconds=seconds, stages=stages)
        write_json(result.summary, result.json())
        write_report([folder])
        return result

    def default_out(self) -> Path:
        """See `Step`."""
        return Path("demo-run")


def _differences(scores: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """By metric: base, tuned, and the paired difference with its interval."""
    metrics = scores["difference"]["metrics"]
    return {
        name: {
            "base": metrics[name]["b"],
            "tuned": metrics[name]["a"],
            **{key: metrics[name][key] for key in ("difference", "ci", "n")},
        }
        for name in names
    }


def _without_difference(found: Mapping[str, Any]) -> list[str]:
    """The measures whose difference has an interval that contains zero, or none."""
    rows = [(label, found["tutor"][name]) for name, label in _TUTOR.items()]
    rows += [(label, found["dialogue"][name]) for name, label in _DIALOGUE.items()]
    return [label for label, row in rows if not row["ci"] or row["ci"][0] <= 0 <= row["ci"][1]]


def _show_baselines(baselines: Mapping[str, Any]) -> None:
    from maieutic.report.baselines import shown_better

    rows = []
    for name, row in baselines.items():
        interval = f" ({_interval(row['ci'])})" if row["ci"] else ""
        rows.append((name, *(row[criterion] for criterion in _TUTOR), f"{row['difference']:+.2f}{interval}"))
    columns = ("tutor", "asks", "reveals", "takes up", "misjudges", "summary", "tuned minus baseline")
    table("Baselines: tutors that must not win, on the same problems", columns, rows)
    if winning := [name for name, row in baselines.items() if not shown_better(row)]:
        say(f"Not shown to score below the tuned tutor: {', '.join(winning)}.")


def _show_dialogue(conversation: Conversation) -> None:
    for turn in conversation.messages:
        say(f"  {turn.role.value:>9}: {' '.join(turn.content.split())}")
    if conversation.ended:
        say("             (the simulator ended it)")


def _interval(ci: list[float] | None) -> str | None:
    return f"{ci[0]:.2f} – {ci[1]:.2f}" if ci else None


def _metric_cells(metric: Mapping[str, Any]) -> tuple[Any, ...]:
    return metric["value"], _interval(metric["ci"]), metric["human"], metric["baseline"], metric["n"]


def _paired_cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["base"], row["tuned"], row["difference"], _interval(row["ci"]), row["n"]
