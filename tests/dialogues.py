"""Simulate stages written by hand, for the measures of whole dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.core.store import Stage

PROBLEM = {
    "statement": "Ana packs 4 bags of 6 nuts. How many nuts is that?",
    "answer": "24",
    "attempt": "4 + 6 = 10, so 10 nuts.",
}
OPENING = "I think it is 10 nuts."


def row(seed: str, said: str, fault: str | None = None, **meta: Any) -> dict[str, Any]:
    """A dialogue after the student's wrong opening: lines `T …` of the tutor and `S …` of the student."""
    turns = [{"role": "user", "content": OPENING}]
    for line in filter(None, map(str.strip, said.strip().splitlines())):
        side, _, text = line.partition(" ")
        turns.append({"role": {"T": "assistant", "S": "user"}[side], "content": text})
    infos = {str(place): {"model": f"m/{turns[place]['role']}"} for place in range(1, len(turns))}
    whole = {
        "id": f"{seed}-{abs(hash((seed, said))) % 10**8}",
        "messages": turns,
        "problem": PROBLEM,
        "meta": {"seed": seed, "dialogue": f"{seed}:{said}:{fault}", "end": None if fault else "end", "turns": infos, **meta},
    }  # fmt: skip
    return whole | ({"failure": {"fault": fault, "error": "it broke"}} if fault else {})


def stage(folder: Path, *rows: dict[str, Any]) -> Path:
    """The rows as a finished stage."""
    with Stage(folder, {"stage": "simulate"}) as opened:
        for number, one in enumerate(rows):
            opened.rows.append(f"key{number}", one)
        opened.finish({})
    return folder
