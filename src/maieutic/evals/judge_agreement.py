"""How well a judge agrees with people, compared with trivial rules; and the rated replies that such a test needs.

The trivial baselines are "the text has a question mark", the length of the text, and a constant (the people's most
frequent rating). On the published human scores of socratic-llm the first alone reaches r = .754 where GPT-4o reaches
.782, so a judge's correlation means little without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, Estimate, Message, Role, fingerprint
from maieutic.core.rows import Candidate, CandidateRow, JudgedRow, read_step
from maieutic.data.formats.tutoring import seed_conversation
from maieutic.evals import agreement, tutor
from maieutic.evals.files import Row, parse_number, parse_yes_no, read_table

BASELINES = ("question_mark", "length", "constant")
_NO_TEXT = "the rows have no `text`"
_CHANCE = 0.025


class RatedPair(NamedTuple):
    """The ratings of one text by one or more people and by the judge."""

    people: tuple[float | None, ...]
    """The people's ratings, always in the same order of people; null for a missing or unclear rating."""
    judge: float
    text: str | None

    @property
    def known(self) -> list[float]:
        """The people's clear ratings, at least one."""
        return [value for value in self.people if value is not None]

    @property
    def human(self) -> float:
        """The mean of the people's ratings."""
        return self.known[0] if len(self.known) == 1 else float(np.mean(self.known))


def score_judge(path: Path | str) -> dict[str, Any]:
    """Read rated pairs, of a file or of a judge step over `eval judge rated`, and measure the agreement.

    Rows are `{"human", "judge", "text"?}`: a rating is a number, yes/no, or an object of these by criterion (each
    reported under `criteria`; for socratic-llm's evaluation the summary score is compared as well); `human` may be a
    list of several people's ratings, always in the same order.

    Returns:
        `pearson`, `spearman`, `kendall`, `kappa`, `weighted_kappa`, `alpha`, `accuracy`, `bias`, each an estimate;
        `baselines` with the same for each trivial rule; `gate`; `n`, `unscored`, `notes`.

    Raises:
        InputError: the rows are of another format.
    """
    rows, notes = (human_and_judge(path), []) if Path(path).is_dir() else read_table(path)
    judge_key = next((key for key in ("judge", "gpt4o") if any(key in row for row in rows)), None)
    if judge_key is None or not any("human" in row for row in rows):
        raise InputError(
            f"{path}: the keys of the rows are {', '.join(sorted(rows[0])[:8])}",
            'Expected: {"human", "judge", "text"?}.',
        )
    pairs = [pair for row in rows if (pair := _pair(row, judge_key, _rating))]
    result = score_pairs(pairs)
    result["unscored"] = len(rows) - len(pairs)
    notes = [*notes, *_text_notes(pairs)]
    if any(isinstance(value, Mapping) for row in rows for value in _human_ratings(row)):
        result["criteria"], more = _by_criterion(rows, judge_key)
        notes += more
    return {**result, "notes": notes}


def _text_notes(pairs: Sequence[RatedPair]) -> list[str]:
    """Notes on the rows for which the baselines question_mark and length can be computed."""
    with_text = sum(pair.text is not None for pair in pairs)
    if not pairs or with_text == len(pairs):
        return []
    if not with_text:
        return [
            "no rated row has a `text`: the baselines question_mark and length cannot be computed, and the gate "
            "cannot pass; add `text` to the rows"
        ]
    return [
        f"{with_text} of {len(pairs)} rated rows have a `text`: question_mark and length, and the judge's difference "
        "from them, use only these rows"
    ]


def _by_criterion(rows: Sequence[Row], judge_key: str) -> tuple[dict[str, Any], list[str]]:
    """The agreement on each criterion that people and the judge both rated, and notes."""
    people = [value for row in rows for value in _human_ratings(row) if isinstance(value, Mapping)]
    judged = [value for row in rows if isinstance(value := row.get(judge_key), Mapping)]
    socratic = any(tutor.parse_criteria(value) is not None for value in (*people, *judged))
    sides = [
        dict.fromkeys(name for value in side for name in _ratings(value, socratic))
        for side in (people, judged)
    ]
    both = [name for name in sides[0] if name in sides[1]]
    names = list(dict.fromkeys([*(tutor.CRITERIA if socratic else ()), *both]))
    notes = (
        []
        if socratic
        else ["the ratings have no summary score; the agreement by criterion is under `criteria`"]
    )
    if one_sided := sorted((sides[0].keys() ^ sides[1].keys()) - set(names)):
        notes.append(f"left out, since only people or only the judge rated them: {', '.join(one_sided[:8])}")
    result = {}
    for name in names:
        rating = partial(_rating_of_criterion, name=name, socratic=socratic)
        result[name] = score_pairs([pair for row in rows if (pair := _pair(row, judge_key, rating))])
    return result, notes


def _rating_of_criterion(value: Any, name: str, socratic: bool) -> float | None:
    return _ratings(value, socratic).get(name) if isinstance(value, Mapping) else None


def _ratings(evaluation: Mapping[str, Any], socratic: bool) -> dict[str, float]:
    """The ratings of an evaluation by criterion: the socratic four all or none, any other as it is."""
    own = (tutor.parse_criteria(evaluation) or {}) if socratic else {}
    taken = tutor.CRITERION_KEYS if socratic else frozenset()
    others = {name: _number_or_yes_no(value) for name, value in evaluation.items() if name not in taken}
    return {**own, **{name: value for name, value in others.items() if value is not None}}


def _human_ratings(row: Row) -> list[Any]:
    human = row.get("human")
    return human if isinstance(human, list) else [human]


def _pair(row: Row, judge_key: str, rating: Callable[[Any], float | None]) -> RatedPair | None:
    """The row's ratings, or null where the judge's or every person's is missing or unclear."""
    people = tuple(rating(value) for value in _human_ratings(row))
    judge = rating(row.get(judge_key))
    text = next((row[key] for key in ("text", "output") if isinstance(row.get(key), str)), None)
    known = any(value is not None for value in people)
    return RatedPair(people, judge, text) if known and judge is not None else None


def _rating(value: Any) -> float | None:
    """A number, a yes or no, or the summary score of socratic-llm's evaluation."""
    if isinstance(value, Mapping):
        values = tutor.parse_criteria(value)
        return None if values is None else tutor.summary_score(values)
    return _number_or_yes_no(value)


def _number_or_yes_no(value: Any) -> float | None:
    number = parse_number(value)
    return parse_yes_no(value) if number is None else number


def score_pairs(pairs: Sequence[RatedPair]) -> dict[str, Any]:
    """`score_judge` of pairs already read."""
    own = _agreement(pairs, [pair.judge for pair in pairs])
    if any(len(pair.known) > 1 for pair in pairs):
        own["alpha"] = agreement.krippendorff([[*pair.people, pair.judge] for pair in pairs])
        own["alpha_people"] = agreement.krippendorff([pair.people for pair in pairs])
    baselines = {name: _baseline(name, pairs) for name in BASELINES}
    return {
        **{name: estimate.json() for name, estimate in own.items()},
        "baselines": {name: {key: e.json() for key, e in of.items()} for name, of in baselines.items()},
        "gate": _gate(pairs, own["pearson"]),
        "n": len(pairs),
    }


def _agreement(pairs: Sequence[RatedPair], ratings: Sequence[float]) -> dict[str, Estimate]:
    """Ratings against the people's mean; kappa and accuracy against each person, since they compare single ratings."""
    result = agreement.agreement([pair.human for pair in pairs], ratings)
    if any(len(pair.known) > 1 for pair in pairs):
        result |= agreement.against_each([pair.people for pair in pairs], ratings)
    return result


def _predictions(name: str, pairs: Sequence[RatedPair]) -> list[float]:
    """The ratings of a trivial rule."""
    if name == "constant":
        given = Counter(value for pair in pairs for value in pair.known)
        mode = min(given.items(), key=lambda item: (-item[1], item[0]))[0] if given else 0.0
        return [mode] * len(pairs)
    texts = [pair.text or "" for pair in pairs]
    return [float("?" in text) if name == "question_mark" else float(len(text)) for text in texts]


def _baseline(name: str, pairs: Sequence[RatedPair]) -> dict[str, Estimate]:
    """The agreement of a trivial rule, on the rows it can rate."""
    rows = pairs if name == "constant" else [pair for pair in pairs if pair.text is not None]
    if pairs and not rows:
        names = (*agreement.CORRELATIONS, *agreement.SAME_SCALE, "alpha")
        return {key: stats.undefined(_NO_TEXT, len(pairs)) for key in names}
    result = _agreement(rows, _predictions(name, rows))
    binary = all(value in (0.0, 1.0) for pair in rows for value in pair.known)
    if name != "constant" and not (name == "question_mark" and binary):
        for key in (*agreement.SAME_SCALE, "alpha"):
            result[key] = stats.undefined("not on the people's scale", len(rows))
    return result


def _gate(pairs: Sequence[RatedPair], own: Estimate) -> dict[str, Any]:
    """Whether the judge beats every baseline: the interval of the difference in Pearson lies above zero.

    A constant has no correlation; against it the judge's own interval must lie above zero. A baseline that needs a
    text is compared on the rows that have one; where no row has one, it is not beaten, and `reason` says why.
    """
    rows = [pair for pair in pairs if pair.text is not None]
    beats: dict[str, Any] = {"constant": _beaten(own, pairs)}
    for name in ("question_mark", "length"):
        if not rows:
            beats[name] = {"beaten": False, "difference": stats.undefined(_NO_TEXT, len(pairs)).json()}
            continue
        human, judge = [pair.human for pair in rows], [pair.judge for pair in rows]
        difference = agreement.pearson_difference(human, judge, _predictions(name, rows))
        if difference.reason == agreement.CONSTANT:
            difference = own if len(rows) == len(pairs) else agreement.agreement(human, judge)["pearson"]
        beats[name] = _beaten(difference, rows)
    passed = all(entry["beaten"] for entry in beats.values())
    reason = (
        {} if rows or not pairs else {"reason": f"{_NO_TEXT}: question_mark and length cannot be computed"}
    )
    return {"passed": passed, **reason, "baselines": {name: beats[name] for name in BASELINES}}


def _beaten(difference: Estimate, pairs: Sequence[RatedPair]) -> dict[str, Any]:
    above = (difference.value or 0) > 0 and (
        difference.ci[0] > 0
        if difference.ci is not None
        else difference.reason == stats.NO_SPREAD and _enough_variation(pairs)
    )
    return {"beaten": above, "difference": difference.json()}


def _enough_variation(pairs: Sequence[RatedPair]) -> bool:
    """Whether at most 1 in 40 resamples consists of equal human ratings, in which a correlation is undefined.

    Without this check a perfect judge passes on two rows: in every resample that has a correlation it is 1.
    """
    counts = Counter(pair.human for pair in pairs).values()
    return sum((count / len(pairs)) ** len(pairs) for count in counts) <= _CHANCE


class RatedRow(CandidateRow):
    """A candidate row with one reply, and people's evaluation of it."""

    prompt: str
    """The prompt as published."""
    human: Any


class JudgedRatedRow(JudgedRow):
    """A rated row with the judge's verdict."""

    prompt: str
    human: Any


def rated_replies(path: Path | str) -> Iterator[RatedRow]:
    """Replies that people rated, as candidate rows for a judge: one reply each, the evaluation under `human`.

    Formats read: socratic-llm's `[{prompt, output, evaluation}]` (the evaluation is a person's) and `[{prompt, output,
    human, …}]`. A prompt in one of the published forms is parsed as in `import`, so that the judge sees turns and
    material; any other prompt is one student turn.

    Raises:
        InputError: a row has no prompt, no output or no evaluation by people.
    """
    for place, row in enumerate(read_table(path).rows):
        prompt, output, human = row.get("prompt"), row.get("output"), row.get("human", row.get("evaluation"))
        if not isinstance(prompt, str) or not isinstance(output, str) or human is None:
            raise InputError(
                f"{path}, row {place + 1}: not a reply rated by people",
                "Expected: socratic-llm's `prompt`, `output`, and `human` or `evaluation`.",
            )
        conversation = _parse_prompt(prompt)
        yield RatedRow(
            key=fingerprint([place, prompt, output]),
            id=conversation.id,
            index=place,
            messages=conversation.messages,
            problem=conversation.problem,
            candidates=(Candidate(text=output),),
            prompt=prompt,
            human=human,
        )


def _parse_prompt(prompt: str) -> Conversation:
    try:
        return seed_conversation(prompt)
    except ValueError:
        turn = Message(role=Role.USER, content=prompt)
        return Conversation(id=fingerprint(prompt)[:16], messages=(turn,))


def human_and_judge(path: Path | str) -> list[dict[str, Any]]:
    """The judged rows of `rated_replies` as `[{prompt, output, human, gpt4o}]`, in the order of the file.

    The judge's evaluation is under `gpt4o`, the published key, for every judge; it is null where there
    is no readable verdict, and then counts as unscored.
    """
    rows = sorted(read_step(JudgedRatedRow, path, "judge"), key=lambda row: row.index or 0)
    return [
        {
            "prompt": row.prompt,
            "output": row.candidates[0].text,
            "human": row.human,
            "gpt4o": _judge_evaluation(row),
        }
        for row in rows
    ]


def _judge_evaluation(row: JudgedRow) -> dict[str, Any] | None:
    verdict = row.verdicts[0]
    complete = verdict.scored and set(tutor.CRITERIA) <= verdict.values.keys()
    return tutor.published_criteria(verdict.values) if complete else None
