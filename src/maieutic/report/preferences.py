"""The pairs that a run trained on: what they are like, and which prompts gave none, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maieutic.report.collect import Run
from maieutic.report.numbers import NONE, num, span
from maieutic.report.tables import Table


def pairs(runs: Sequence[Run]) -> Iterator[Table]:
    """Two tables for each stage that made pairs."""
    for stage in (stage for run in runs for stage in run.stages if stage.kind == "prefer"):
        manifest = stage.manifest or {}
        if "pairs" in manifest:
            yield _sides(stage.label, manifest)
        if manifest.get("by_strategy"):
            yield _strategies(stage.label, manifest, str(stage.config.get("strategy") or "best-worst"))


def _sides(label: str, manifest: Mapping[str, Any]) -> Table:
    gap = manifest.get("words_gap") or {}
    longer = manifest.get("longer_chosen")
    note = (
        f"Chosen less rejected: {num(gap['value'])} words (95 % {span(gap)}, {gap['n']} prompts); the chosen reply is "
        f"the longer one in {num(longer)} of the pairs. A tutor trained on a gap in length learns it first."
        if gap.get("value") is not None
        else ""
    )
    rows = [
        ("mean score", num(manifest.get("score_chosen")), num(manifest.get("score_rejected"))),
        ("mean words", num(manifest.get("words_chosen")), num(manifest.get("words_rejected"))),
        ("share that reveals", num(0), num(manifest.get("rejected_reveal"))),
        ("cut at the token limit", num(manifest.get("chosen_cut")), NONE),
    ]
    return Table(f"Pairs to learn from ({label})", ("", "chosen", "rejected"), rows, note)


def _strategies(label: str, manifest: Mapping[str, Any], used: str) -> Table:
    rows = [
        (
            f"{name}\n{'used here' if name == used else ''}",
            num(of.get("pairs")),
            num(of.get("paired")),
            ", ".join(f"{why}: {num(count)}" for why, count in (of.get("refused") or {}).items()) or NONE,
        )
        for name, of in manifest["by_strategy"].items()
    ]
    note = (
        f"Of {num(manifest.get('prompts'))} prompts; {num(manifest.get('unscored'))} replies have no score."
    )
    columns = ("strategy", "pairs", "prompts with pairs", "prompts without, by why")
    return Table(f"Where pairs come from ({label})", columns, rows, note, (0, 3))
