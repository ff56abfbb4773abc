"""How long people's and simulated turns are, and how many make a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from maieutic.core.errors import MaieuticError
from maieutic.core.messages import Role
from maieutic.evals import text
from maieutic.report.collect import Run, StageRun


class Talk(NamedTuple):
    """The human side of a corpus."""

    label: str
    people: bool
    """Whether real people said it."""
    lengths: list[int]
    """Words of each human turn."""
    counts: list[int]
    """Human turns of each conversation."""


def talks(run: Run) -> list[Talk]:
    """What an evaluation compared: people, and what the simulator wrote; without one, every simulation of the run."""
    found: dict[Path, Talk | None] = {}
    for setting in ("people", "simulated"):
        for stage in run.stages:
            path = run.locate(stage, setting) if stage.kind == "eval-simulator" else None
            if path is not None and path not in found:
                found[path] = _read(path, _label(run, path), setting == "people")
    several = [talk for talk in found.values() if talk is not None]
    if any(not talk.people for talk in several):
        return several
    alone = [_simulated(stage) for stage in run.stages if stage.kind == "simulate"]
    return several + [talk for talk in alone if talk is not None]


def _label(run: Run, path: Path) -> str:
    named = run.plain(str(path))
    return path.name if Path(named).is_absolute() else named


def _simulated(stage: StageRun) -> Talk | None:
    lengths: list[int] = []
    counts: list[int] = []
    for row in stage.rows():
        if "failure" in row:
            continue
        said = [turn["content"] for turn in row.get("messages") or () if turn.get("role") == Role.USER]
        lengths += [len(text.words(turn)) for turn in said]
        counts.append(len(said))
    return Talk(stage.label, False, lengths, counts) if lengths else None


def _read(path: Path, label: str, people: bool) -> Talk | None:
    from maieutic.core.json_rows import BadRows
    from maieutic.data.corpus import read_corpus

    lengths: list[int] = []
    counts: list[int] = []
    try:
        for conversation in read_corpus(path, on_bad=BadRows()):
            said = conversation.turns(Role.USER)
            lengths += [len(text.words(turn)) for turn in said]
            counts.append(len(said))
    except MaieuticError:  # the file was changed or emptied since; its numbers stand in the evaluation
        return None
    who = "people" if people else "simulated"
    return Talk(f"{who}, {label}", people, lengths, counts) if lengths else None
