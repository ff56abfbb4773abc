"""A judge against people: agreement, and the same beside rules nobody would call a judge.

The trivial baselines are "the text has a question mark", the length of the text, and a constant (the people's most
frequent rating). On the published human scores of socratic-llm the first alone reaches r = .754 where GPT-4o reaches
.782, so a judge's correlation means little without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maieutic.errors import InputError
from maieutic.evals import agreement, stats, tutor
from maieutic.evals.files import Row, number, read_table, yes_no
from maieutic.types import Estimate

BASELINES = ("question_mark", "length", "constant")
_NO_TEXT = "the rows have no `text`"


class Pair(NamedTuple):
    """One text rated by one or more people and by the judge."""

    people: tuple[float, ...]
    judge: float
    text: str | None

    @property
    def human(self) -> float:
        """The mean of the people's ratings."""
        return self.people[0] if len(self.people) == 1 else float(np.mean(self.people))


def score(path: Path | str) -> dict[str, Any]:
    """Read pairs and measure the agreement.

    Rows are `{"human", "judge", "text"?}`: a rating is a number, yes/no, or socratic-llm's evaluation object (then
    the summary score is compared, and each criterion under `criteria`); `human` may be a list of several people's.

    Returns:
        `pearson`, `spearman`, `kendall`, `kappa`, `weighted_kappa`, `alpha`, `accuracy`, `bias`, each an estimate;
        `baselines` with the same for each trivial rule; `gate`; `n`, `unscored`, `notes`.

    Raises:
        InputError: no row has a rating of both.
    """
    rows, notes = read_table(path)
    judge_key = next((key for key in ("judge", "gpt4o") if any(key in row for row in rows)), None)
    if judge_key is None or not any("human" in row for row in rows):
        raise InputError(
            f"{path}: rows hold {', '.join(sorted(rows[0])[:8])}", 'Expected are {"human", "judge", "text"?}.'
        )
    pairs = [pair for row in rows if (pair := _pair(row, judge_key, None))]
    result = score_pairs(pairs)
    result["unscored"] = len(rows) - len(pairs)
    if any(isinstance(row.get("human"), Mapping) for row in rows):
        result["criteria"] = {
            name: score_pairs([pair for row in rows if (pair := _pair(row, judge_key, name))])
            for name in tutor.CRITERIA
        }
    return {**result, "notes": notes}


def _pair(row: Row, judge_key: str, criterion: str | None) -> Pair | None:
    """The row's ratings, or null where the judge's or every person's is missing or unclear."""
    human = row.get("human")
    people = [_rating(value, criterion) for value in (human if isinstance(human, list) else [human])]
    known = tuple(value for value in people if value is not None)
    judge = _rating(row.get(judge_key), criterion)
    text = next((row[key] for key in ("text", "output") if isinstance(row.get(key), str)), None)
    return Pair(known, judge, text) if known and judge is not None else None


def _rating(value: Any, criterion: str | None) -> float | None:
    if isinstance(value, Mapping):
        values = tutor.criteria(value)
        if values is None:
            return None
        return tutor.summary_score(values) if criterion is None else values[criterion]
    plain = number(value)
    return yes_no(value) if plain is None else plain


def score_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """`score` on pairs already read."""
    human = [pair.human for pair in pairs]
    judge = [pair.judge for pair in pairs]
    own = agreement.agreement(human, judge)
    if any(len(pair.people) > 1 for pair in pairs):
        own["alpha"] = agreement.krippendorff([[*pair.people, pair.judge] for pair in pairs])
        own["alpha_people"] = agreement.krippendorff([pair.people for pair in pairs])
    baselines = {name: _baseline(name, pairs, human) for name in BASELINES}
    return {
        **{name: estimate.json() for name, estimate in own.items()},
        "baselines": {name: {key: e.json() for key, e in of.items()} for name, of in baselines.items()},
        "gate": _gate(pairs, human, own["pearson"]),
        "n": len(pairs),
    }


def _predictions(name: str, pairs: Sequence[Pair], human: Sequence[float]) -> list[float] | None:
    """What a trivial rule says of each row; null where it needs a text and a row has none."""
    if name == "constant":
        mode = min(Counter(human).items(), key=lambda item: (-item[1], item[0]))[0] if human else 0.0
        return [mode] * len(human)
    texts = [pair.text for pair in pairs if pair.text is not None]
    if len(texts) < len(pairs):
        return None
    return [float("?" in text) if name == "question_mark" else float(len(text)) for text in texts]


def _baseline(name: str, pairs: Sequence[Pair], human: Sequence[float]) -> dict[str, Estimate]:
    predictions = _predictions(name, pairs, human)
    if predictions is None:
        names = (*agreement.CORRELATIONS, *agreement.SAME_SCALE, "alpha")
        return {key: stats.undefined(_NO_TEXT, len(pairs)) for key in names}
    result = agreement.agreement(human, predictions)
    on_scale = name == "constant" or (name == "question_mark" and set(human) <= {0.0, 1.0})
    if not on_scale:
        for key in (*agreement.SAME_SCALE, "alpha"):
            result[key] = stats.undefined("not on the people's scale", len(pairs))
    return result


def _gate(pairs: Sequence[Pair], human: Sequence[float], own: Estimate) -> dict[str, Any]:
    """Whether the judge beats every baseline there is: the interval of the difference in Pearson lies above zero.

    A constant has no correlation; against it the judge's own interval must lie above zero.
    """
    judge = [pair.judge for pair in pairs]
    beats: dict[str, Any] = {}
    for name in BASELINES:
        if name == "constant":
            difference = own
        elif (predictions := _predictions(name, pairs, human)) is None or not pairs:
            beats[name] = {"beaten": None, "difference": stats.undefined(_NO_TEXT, len(pairs)).json()}
            continue
        else:
            difference = agreement.pearson_difference(human, judge, predictions)
            if difference.reason == agreement.CONSTANT and own.value is not None:
                difference = own
        above = (difference.value or 0) > 0 and (difference.ci is None or difference.ci[0] > 0)
        beats[name] = {"beaten": above, "difference": difference.json()}
    return {"passed": all(entry["beaten"] is not False for entry in beats.values()), "baselines": beats}
