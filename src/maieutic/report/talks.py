"""How long people's and simulated turns are, and how many make a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from maieutic.errors import MaieuticError
from maieutic.evals import text
from maieutic.report.collect import Run, StageRun
from maieutic.types import Role


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
    """The simulated corpora of a run, and the people that its evaluation compared them with."""
    found = [
        talk for stage in run.stages if stage.kind == "simulate" and (talk := _simulated(stage)) is not None
    ]
    paths: dict[Path, str] = {}
    for stage in run.stages:
        if stage.kind == "eval-simulator" and (path := run.locate(stage, "people")):
            label = run.plain(str(path))
            paths.setdefault(path, label if not Path(label).is_absolute() else path.name)
    people = [talk for path, label in paths.items() if (talk := _people(path, label)) is not None]
    return people + found


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


def _people(path: Path, label: str) -> Talk | None:
    from maieutic.data.corpus import read_corpus
    from maieutic.data.reading import BadRows

    lengths: list[int] = []
    counts: list[int] = []
    try:
        for conversation in read_corpus(path, on_bad=BadRows()):
            said = conversation.turns(Role.USER)
            lengths += [len(text.words(turn)) for turn in said]
            counts.append(len(said))
    except MaieuticError:  # the file was changed or emptied since; its numbers stand in the evaluation
        return None
    return Talk(f"people, {label}", True, lengths, counts) if lengths else None
