"""The pairs of a judge stage as a file, and the report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Preference
from maieutic.judging.preferences.pairs import STRATEGIES, Refusal, Rules, preference
from maieutic.judging.preferences.quality import Quality, Tally, quality
from maieutic.judging.preferences.rows import graded, judged_rows


def prefer(source: Path | str, out: Path | str, *, overwrite: bool = False, **rules: Any) -> Quality:
    """Write the pairs of a judge stage as JSONL, in the order of the prompts.

    Args:
        source: a judge stage, its run, a file of its rows, or socratic-llm's `train_dataset.json`.
        out: the JSONL file.
        overwrite: replace a file that holds other pairs.
        **rules: see `Rules`: strategy, min_chosen, min_margin, match_length, per_prompt, agreement.

    Raises:
        InputError: a rule is not known or out of its range.
        EmptyCorpus: not one prompt gave a pair; says why.
        StoreError: the file exists and holds something else.
    """
    from maieutic.data.corpus import line, refuse_source, replacing

    whole, out = _checked(rules), Path(out)
    refuse_source(out, [source])
    tallies = {name: Tally(whole.model_copy(update={"strategy": name})) for name in STRATEGIES}
    found: list[tuple[int, int, Preference]] = []
    unscored = 0
    for place, row in enumerate(judged_rows(source)):
        scored = [] if row.get("fault") else graded(row)
        unscored += sum(score is None for score in row.get("scores") or ())
        made = {name: tally.add(row, scored) for name, tally in tallies.items()}[whole.strategy]
        index = row.get("index")
        order = index if isinstance(index, int) else place
        found += [(order, place, preference(row, pair)) for pair in made]
    found.sort(key=lambda one: one[:2])
    report = quality(tallies, whole.strategy, [(place, one) for _, place, one in found], unscored)
    if not found:
        raise _empty(source, report)
    with replacing(out, overwrite=overwrite) as write:
        for *_, one in found:
            write(line(one.model_dump(mode="json")))
    return report


def _checked(rules: dict[str, Any]) -> Rules:
    try:
        return Rules(**rules)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{name} {first['input']!r}: {first['msg']}",
            f"Strategies are {', '.join(STRATEGIES)}; see docs/dpo.md for the other rules.",
        ) from None


def _empty(source: Path | str, report: Quality) -> EmptyCorpus:
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.refused.items())
    hint = _HINTS.get(next(iter(report.refused), ""), "Lower --min-chosen, or judge more candidates.")
    return EmptyCorpus(f"{source}: no prompt gave a pair ({reasons or 'there is no prompt'})", hint)


_HINTS = {
    Refusal.UNSCORED.value: "Judge them with a model: where no answer is known, code cannot tell whether a reply "
    "reveals it.",
    Refusal.MARGIN.value: "Lower --min-margin, or judge more candidates.",
    Refusal.LENGTH.value: "Raise --match-length, or judge more candidates.",
    Refusal.DISAGREE.value: "Lower --agreement, or judge with more --samples.",
}
"""What helps, by the commonest reason."""
