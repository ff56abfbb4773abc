"""`maieutic demo`: the recipe of the same name; what came of it as tables, `summary.json` and `report.html`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.console import say, table
from maieutic.core.messages import Conversation
from maieutic.core.store import read_json, write_json
from maieutic.data.corpus import read_corpus
from maieutic.evals.paired import compare_files
from maieutic.recipes import runner
from maieutic.recipes.demo.base import one_thread
from maieutic.report.baselines import shown_better
from maieutic.report.page import write_report

_SIMULATOR = (
    ("perplexity_on_human_turns", "perplexity on their turns"),
    ("end_f1", "F1 of the ending"),
    ("first_turn_diversity", "first-turn diversity"),
    ("distinct_2", "distinct word pairs"),
    ("repeats_rate", "repeated turns in a hundred"),
)
_TUTOR = (
    ("asks_question", "asks a question"),
    ("reveals_answer", "reveals the answer"),
    ("takes_up", "takes up what is there"),
    ("misjudges", "misjudges the answer"),
    ("summary_score", "summary score"),
)
_DIALOGUE = (
    ("solved", "solved without being told"),
    ("told", "told by the tutor"),
    ("turns", "turns"),
)


class Demo(NamedTuple):
    """What a demo run made."""

    run: Path
    seconds: float
    """All its stages took, in this call and in earlier ones."""
    stages: dict[str, dict[str, Any]]
    """Manifests by stage."""

    @property
    def summary(self) -> Path:
        """Where the summary lies."""
        return self.run / "summary.json"

    def json(self) -> dict[str, Any]:
        """`{"seconds", "stages": [{"name", "seconds"}], "simulator": …, "tutor": …, "probes": …, "dialogue": …}`."""
        realism = self.stages["realism"]["metrics"]
        timings = read_json(self.run / "timings.json")
        keys = ("value", "ci", "n", "human", "baseline")
        return {
            "seconds": round(self.seconds, 1),
            "stages": [{"name": name, "seconds": timings.get(name)} for name in self.stages],
            "simulator": {name: {key: realism[name][key] for key in keys} for name, _ in _SIMULATOR},
            "tutor": _differences(self.stages["scores"], _TUTOR),
            "probes": {name: self._beside_tutor(name) for name in self.probes},
            "dialogue": _differences(self.stages["outcomes"], _DIALOGUE),
        }

    @property
    def probes(self) -> list[str]:
        """The tutors of fixed words that were judged too."""
        judged = (name.removesuffix("-judged") for name in self.stages if name.endswith("-judged"))
        return [name for name in judged if name not in ("base", "tuned")]

    def _beside_tutor(self, probe: str) -> dict[str, Any]:
        """A probe's means, and the tuned tutor's summary score less its own, paired by dialogue."""
        found = compare_files(self.run / "tuned-judged", self.run / f"{probe}-judged")
        return {
            **{name: found["metrics"][name]["b"] for name, _ in _TUTOR},
            **{key: found[key] for key in ("difference", "ci", "n")},
        }

    def show(self) -> None:
        """Tables, one simulated dialogue, and on the last line the summary's path."""
        found = self.json()
        talk = next(iter(read_corpus(self.run / "tuned-lessons")))
        say("A simulated pupil and the tuned tutor, on the first of the problems that neither has seen:")
        _show_dialogue(talk)
        table(
            "The simulator on people it has not seen",
            ("metric", "simulator", "95 % interval", "people", "base", "n"),
            [(label, *_beside(found["simulator"][name])) for name, label in _SIMULATOR],
        )
        say(f"Simulator less base, on the same people: {', '.join(self._gains())}.")
        header = ("base", "tuned", "difference", "95 % interval", "n")
        for title, part, rows in (
            ("The tutor's replies on problems it has not seen, judged by code", "tutor", _TUTOR),
            ("Whole lessons of a simulated pupil with both tutors", "dialogue", _DIALOGUE),
        ):
            table(title, ("measure", *header), [(label, *_paired(found[part][name])) for name, label in rows])
        self._show_probes(found["probes"])
        if open_ones := _holding_zero(found):
            say(f"No difference is shown: {', '.join(open_ones)}.")
        say("Tiny models in a toy world: this proves the machinery, not the science.")
        say(f"{self.run}: {len(self.stages)} stages, {self.seconds:.0f} s; {self.run / 'report.html'}")
        say(str(self.summary))

    def _show_probes(self, probes: Mapping[str, Any]) -> None:
        names = [name for name, _ in _TUTOR]
        table(
            "Probes: tutors that must not win, on the same problems",
            ("tutor", "asks", "reveals", "takes up", "misjudges", "summary", "tuned less it"),
            [(probe, *(row[name] for name in names), _gap(row)) for probe, row in probes.items()],
        )
        if winning := [name for name, row in probes.items() if not shown_better(row)]:
            say(f"Not shown to be below the tuned tutor: {', '.join(winning)}.")

    def _gains(self) -> Iterator[str]:
        """What the simulator has over the base, paired by conversation."""
        realism = self.stages["realism"]["metrics"]
        for name, label in _SIMULATOR[:2]:
            gap = realism[name]["difference"]
            if gap["ci"] is None:
                yield f"{label}: no difference can be told"
            else:
                yield f"{label} {gap['difference']:+.3f} ({gap['ci'][0]:+.3f} to {gap['ci'][1]:+.3f})"


def demo(out: Path, seed: int = 0, settings: Mapping[str, Any] | None = None) -> Demo:
    """Run the demo recipe into `out`; the same call goes on, or finds it done.

    `summary.json`, `report.html` and its `figures/` lie there too.

    Args:
        out: the run's folder.
        seed: of the world, the models and every draw.
        settings: other values of the recipe, such as sizes.
    """
    started = time.monotonic()
    plan = runner.resolve("demo", out, {**(settings or {}), "seed": seed})
    with one_thread():
        stages = runner.run_plan(plan)
    took = sum(read_json(out / "timings.json").values())
    result = Demo(out, max(took, time.monotonic() - started), stages)
    write_json(result.summary, result.json())
    write_report([out])
    return result


def _differences(scores: Mapping[str, Any], rows: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """By metric base, tuned, and the paired difference with its interval."""
    metrics = scores["difference"]["metrics"]
    return {
        name: {
            "base": metrics[name]["b"],
            "tuned": metrics[name]["a"],
            **{key: metrics[name][key] for key in ("difference", "ci", "n")},
        }
        for name, _ in rows
    }


def _holding_zero(found: Mapping[str, Any]) -> list[str]:
    """What has a difference whose interval holds zero, or no interval."""
    rows = [(label, found["tutor"][name]) for name, label in _TUTOR]
    rows += [(label, found["dialogue"][name]) for name, label in _DIALOGUE]
    return [label for label, row in rows if not row["ci"] or row["ci"][0] <= 0 <= row["ci"][1]]


def _show_dialogue(conversation: Conversation) -> None:
    for turn in conversation.messages:
        say(f"  {turn.role.value:>9}: {' '.join(turn.content.split())}")
    if conversation.ended:
        say("             (the simulator ended it)")


def _interval(ci: list[float] | None) -> str | None:
    return f"{ci[0]:.2f} – {ci[1]:.2f}" if ci else None


def _gap(row: Mapping[str, Any]) -> str:
    interval = f" ({_interval(row['ci'])})" if row["ci"] else ""
    return f"{row['difference']:+.2f}{interval}"


def _beside(metric: Mapping[str, Any]) -> tuple[Any, ...]:
    return metric["value"], _interval(metric["ci"]), metric["human"], metric["baseline"], metric["n"]


def _paired(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["base"], row["tuned"], row["difference"], _interval(row["ci"]), row["n"]
