"""Judged replies → preference pairs for DPO, and the reason for every prompt without a pair.

    rows (replies to one context) → pairs (rules, refusals) → the report and the file

The prompt of a pair is exactly what the tutor saw, its system text included, so that DPO trains on the prompt that is
used. A chosen reply scores above the floor and above the rejected reply, and never reveals a known answer.

A pair is *admissible* where the chosen reply is not empty, reveals nothing, scores above the floor and above the
rejected reply by the margin, where both have similar lengths if that is asked for, and where the repeats of the judging
agree. A strategy selects among the admissible pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from maieutic.checks.turns import reveals_answer
from maieutic.core.errors import EmptyCorpus, InputError, MaieuticError
from maieutic.core.json_rows import Placed
from maieutic.core.messages import Finish, Message, Role, Verdict, fingerprint
from maieutic.core.rows import JudgedRow, PreferenceRow, parse, read_placed
from maieutic.judging.judges import read_values
from maieutic.judging.rubrics import Rubric, load_rubric, summary_score
from maieutic.judging.steps import Preferences, PreferencesResult, Strategy

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
_REVEALS = "reveals_answer"
_CLOSE = 1e-6
"""Scores closer than this are equal: sums of weights are not exact."""


class Refusal(StrEnum):
    """Why a prompt gave no pair."""

    FAILED = "failed"
    """The tutor or the judge did not answer."""
    TOO_FEW = "too few candidates"
    UNSCORED = "unscored"
    """Fewer than two candidates have a score."""
    REVEALS = "chosen reveals"
    """Every candidate above the floor and better than another reveals the answer."""
    TOO_LOW = "chosen too low"
    TIE = "tie"
    """The best candidate is no better than the worst."""
    MARGIN = "margin too small"
    LENGTH = "lengths too different"
    """The pairs that have the margin differ in length."""
    DISAGREE = "repeats disagree"
    """The remaining pairs are not better in enough repeats of the judging."""
    REPEATED = "repeated"
    """An earlier row gave all of its pairs."""


_HINTS = {
    Refusal.UNSCORED: "Judge them with a model: without a known answer, code cannot tell whether a reply reveals it.",
    Refusal.MARGIN: "Lower --min-margin, or judge more candidates.",
    Refusal.LENGTH: "Raise --match-length, or judge more candidates.",
    Refusal.DISAGREE: "Lower --agreement, or judge with more --samples.",
}
"""What helps, by the most frequent reason."""


class Graded(NamedTuple):
    """A candidate that has a score."""

    place: int
    text: str
    score: float
    reveals: bool
    """It reveals a known answer, by its verdict or by code."""
    cut: bool
    """It stopped at the token limit."""

    @property
    def words(self) -> int:
        """Its length in words."""
        return len(self.text.split())


class Pair(NamedTuple):
    """Two candidates of a prompt, the better one first."""

    chosen: Graded
    rejected: Graded

    @property
    def gap(self) -> float:
        """The difference of the scores."""
        return self.chosen.score - self.rejected.score


class Repeats(NamedTuple):
    """How often the chosen reply scored higher or lower, over the repeats that have a score for both."""

    won: int
    lost: int
    of: int


def write_preferences(step: Preferences, out: Path) -> PreferencesResult:
    """Write the pairs of the step's rows as JSONL, in the order of the prompts.

    Raises:
        EmptyCorpus: no prompt gave a pair; names the reasons.
        StoreError: the file exists and holds something else.
    """
    from maieutic.data.corpus import line, refuse_source, replacing

    refuse_source(out, [source for source in step.data if isinstance(source, Path)])
    tallies = {name: _Tally(step.model_copy(update={"strategy": name})) for name in STRATEGIES}
    found: list[tuple[int, int, PreferenceRow]] = []
    unscored = 0
    shared = False
    for place, row in enumerate(by_context(judged_rows(step.data))):
        scored = [] if row.fault else graded(row)
        unscored += sum(score is None for score in row.scores)
        shared |= row.turn is None or len(row.candidates) > 1
        made = {name: tally.add(row, scored) for name, tally in tallies.items()}[step.strategy]
        order = place if row.index is None else row.index
        found += [(order, place, preference(row, pair)) for pair in made]
    found.sort(key=lambda one: one[:2])
    result = _result(tallies, step.strategy, [(place, one) for _, place, one in found], unscored, str(out))
    if not found:
        raise _empty(step, result, shared)
    with replacing(out, overwrite=step.force) as write:
        for *_, one in found:
            write(line(one.model_dump(mode="json")))
    return result


def _empty(step: Preferences, result: PreferencesResult, shared: bool) -> EmptyCorpus:
    name = ", ".join(str(source) for source in step.data if isinstance(source, Path)) or "the rows"
    if result.prompts and not shared:
        return EmptyCorpus(
            f"{name}: each of the {result.prompts} replies answers a different context, so there are no pairs",
            "Simulate several dialogues from each start (--repeat), or give the dialogues of two tutors together.",
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.refused.items())
    first = next(iter(result.refused), "")
    hint = _HINTS.get(Refusal(first)) if first else None
    return EmptyCorpus(
        f"{name}: no prompt gave a pair ({reasons or 'there is no prompt'})",
        hint or "Lower --min-chosen, or judge more candidates.",
    )


def pairs(rows: Iterable[JudgedRow], **rules: Any) -> Iterator[PreferenceRow]:
    """The pairs of judged rows by the rules of `Preferences`, in their order; prompts without a pair are skipped."""
    step = Preferences(data=[], **rules)
    for row in by_context(rows):
        found = choose(row, step)
        if not isinstance(found, Refusal):
            yield from (preference(row, one) for one in found)


def choose(
    row: JudgedRow, rules: Preferences, scored: Sequence[Graded] | None = None
) -> list[Pair] | Refusal:
    """The pairs of a row, the widest gap first, or the reason why there are none.

    Args:
        row: the replies to one context.
        rules: which pairs are admissible, and which of them are taken.
        scored: what `graded` returns for the row, if it is known already.
    """
    if row.fault:
        return Refusal.FAILED
    scored = graded(row) if scored is None else scored
    if why := _impossible(row, scored, rules):
        return why
    one = rules.strategy == "best-worst"
    chosen, rejected = (scored, scored) if one else _by_text(scored)
    found = [
        Pair(good, bad)
        for good in chosen
        if not good.reveals and good.text.strip() and good.score - rules.min_chosen > _CLOSE
        for bad in rejected
        if good.text != bad.text
    ]
    for fits, why in _filters(row, rules):
        found = [pair for pair in found if fits(pair)]
        if not found:
            return why
    found.sort(key=lambda p: (-p.gap, -p.chosen.score, p.chosen.place, p.rejected.place))
    return found[:1] if one else _at_most(found, rules)


def _impossible(row: JudgedRow, scored: Sequence[Graded], rules: Preferences) -> Refusal | None:
    """The reason why no strategy can make a pair of the candidates, or null."""
    if len(row.candidates) < 2:
        return Refusal.TOO_FEW
    if len(scored) < 2:
        return Refusal.UNSCORED
    top, worst = max(scored, key=_score), min(scored, key=_score)
    best = max((one for one in scored if not one.reveals and one.text.strip()), key=_score, default=None)
    if top.score - worst.score <= _CLOSE:
        return Refusal.TIE
    if best is None:
        return Refusal.REVEALS
    if best.score - rules.min_chosen <= _CLOSE:
        return Refusal.REVEALS if top.score - rules.min_chosen > _CLOSE else Refusal.TOO_LOW
    if rules.strategy == "best-worst" and best.text == worst.text:
        return Refusal.TIE
    return Refusal.REVEALS if best.score - worst.score <= _CLOSE else None


def _score(one: Graded) -> float:
    return one.score


def _by_text(scored: Sequence[Graded]) -> tuple[list[Graded], list[Graded]]:
    """Each text once, as it may be chosen and as it may be rejected.

    A text with several scores is chosen by its lowest and rejected by its highest, so that no two pairs contradict each
    other; it reveals the answer where one of its candidates does.
    """
    groups: dict[str, list[Graded]] = {}
    for one in scored:
        groups.setdefault(one.text, []).append(one)
    chosen = [
        min(group, key=_score)._replace(reveals=any(one.reveals for one in group))
        for group in groups.values()
    ]
    return chosen, [max(group, key=_score) for group in groups.values()]


def _filters(row: JudgedRow, rules: Preferences) -> Iterator[tuple[Callable[[Pair], bool], Refusal]]:
    """The rules for a pair, in order, each with the reason if no pair is left."""
    least = _CLOSE if rules.strategy == "best-worst" else -_CLOSE
    yield lambda pair: pair.gap > _CLOSE, Refusal.TIE
    yield lambda pair: pair.gap - rules.min_margin > least, Refusal.MARGIN
    if (ratio := rules.match_length) is not None:
        yield lambda pair: _similar(pair, ratio), Refusal.LENGTH
    if rules.agreement:
        yield lambda pair: _agreed(row, pair, rules.agreement), Refusal.DISAGREE


def _similar(pair: Pair, ratio: float) -> bool:
    short, long = sorted((pair.chosen.words, pair.rejected.words))
    return long <= ratio * short


def _agreed(row: JudgedRow, pair: Pair, share: float) -> bool:
    found = compared(row, pair)
    return found is None or (found.won > found.lost and found.won >= share * found.of - _CLOSE)


def _at_most(found: list[Pair], rules: Preferences) -> list[Pair]:
    """The first of the pairs, or, for `all-pairs`, a sample of them that does not depend on the gap."""
    if rules.per_prompt is None or len(found) <= rules.per_prompt:
        return found
    if rules.strategy == "margin":
        return found[: rules.per_prompt]
    sample = sorted(found, key=lambda p: fingerprint([p.chosen.text, p.rejected.text]))[: rules.per_prompt]
    return [pair for pair in found if pair in sample]


def compared(row: JudgedRow, pair: Pair) -> Repeats | None:
    """The repeats of a pair; null where the judging was not repeated."""
    good, bad = repeats(row, pair.chosen.place), repeats(row, pair.rejected.place)
    if not good and not bad:
        return None
    # A reply that code alone decided has no repeats: it has the same score in each.
    good, bad = good or [pair.chosen.score] * len(bad), bad or [pair.rejected.score] * len(good)
    if len(good) != len(bad):
        raise InputError(
            f"row {row.id or row.key}: {len(good)} repeats of the chosen candidate and {len(bad)} of the rejected one",
            "Record the same number of repeats for each candidate (null if unreadable), or set --agreement 0.",
        )
    gaps = [a - b for a, b in zip(good, bad, strict=True) if a is not None and b is not None]
    return Repeats(sum(gap > _CLOSE for gap in gaps), sum(gap < -_CLOSE for gap in gaps), len(gaps))


def repeats(row: JudgedRow, place: int) -> list[float | None]:
    """A candidate's scores in each repeat of the judging, null where one is unreadable; empty without repeats.

    The values that code decided hold in every repeat.

    Raises:
        InputError: the row has several verdicts by an unknown rubric.
    """
    if row.repeats:
        return list(row.repeats[place])
    verdicts = row.model_verdicts[place] if row.model_verdicts else ()
    if len(verdicts) < 2:
        return []
    try:
        rubric = load_rubric(str(row.rubric))
    except MaieuticError:
        raise InputError(
            f"row {row.id or row.key}: no rubric {row.rubric!r}, which is needed to score the repeats",
            "Judge the replies again, which records the score of each repeat, or set --agreement 0.",
        ) from None
    decided = row.decided_by[place] if row.decided_by else {}
    by_code = {name: row.verdicts[place].values[name] for name, by in decided.items() if by == "code"}
    return [summary_score(rubric, {**one.values, **by_code}) if one.scored else None for one in verdicts]


def graded(row: JudgedRow) -> list[Graded]:
    """The candidates of a row that have a score."""
    turns = row.user_turns
    return [
        Graded(
            place,
            candidate.text,
            score,
            verdict.values.get(_REVEALS, 0) > 0 or bool(reveals_answer(candidate.text, row.problem, turns)),
            candidate.finish == Finish.LENGTH,
        )
        for place, (candidate, verdict, score) in enumerate(
            zip(row.candidates, row.verdicts, row.scores, strict=True)
        )
        if score is not None and verdict.scored
    ]


def by_context(rows: Iterable[JudgedRow]) -> Iterator[JudgedRow]:
    """Rows of candidates as they are; then the judged replies of dialogues, those to one context as one row."""
    groups: dict[str, list[JudgedRow]] = {}
    for row in rows:
        if row.turn is None:
            yield row
        else:
            context = [[message.key() for message in row.messages], row.problem]
            groups.setdefault(fingerprint(context), []).append(row)
    yield from map(_joined, groups.values())


def _joined(rows: Sequence[JudgedRow]) -> JudgedRow:
    """The replies of rows with the same context as the candidates of one row."""
    first, *others = rows
    if not others:
        return first
    named = [
        one.model_copy(update={"model": one.model or row.model}) for row in rows for one in row.candidates
    ]
    models = {one.model for one in named}

    def chained(name: str) -> tuple[Any, ...]:
        values = [getattr(row, name) for row in rows]
        return tuple(item for value in values for item in value) if all(values) else ()

    return first.model_copy(
        update={
            "candidates": tuple(named),
            "model": models.pop() if len(models) == 1 else None,
            "fault": first.fault if all(row.fault for row in rows) else None,
            **{
                name: chained(name)
                for name in ("verdicts", "scores", "model_verdicts", "decided_by", "repeats")
            },
        }
    )


def preference(row: JudgedRow, pair: Pair) -> PreferenceRow:
    """A pair as it is written."""
    best, worst = pair
    both = {"chosen": best.place, "rejected": worst.place}
    meta: dict[str, Any] = {
        name: value
        for name in ("id", "turn", "model", "rubric", "source", "licence")
        if (value := getattr(row, name)) is not None
    }
    if row.model is None and row.candidates[best.place].model:
        meta["models"] = {side: row.candidates[place].model for side, place in both.items()}
    meta |= {
        "judge": row.verdicts[best.place].judge or None,
        "values": {side: row.verdicts[place].values for side, place in both.items()},
        "cut": best.cut,
        "rejected_reveals": worst.reveals,
    }
    return PreferenceRow(
        prompt=row.messages,
        chosen=(Message(role=Role.ASSISTANT, content=best.text),),
        rejected=(Message(role=Role.ASSISTANT, content=worst.text),),
        scores={"chosen": best.score, "rejected": worst.score},
        meta=meta,
    )


class _Tally:
    """Counts the pairs of a strategy, each pair once over all rows."""

    def __init__(self, rules: Preferences) -> None:
        self.rules = rules
        self.paired = self.pairs = 0
        self.refused: Counter[str] = Counter()
        self._seen: set[str] = set()

    def add(self, row: JudgedRow, scored: Sequence[Graded]) -> list[Pair]:
        """The new pairs of a row."""
        found = choose(row, self.rules, scored)
        if not isinstance(found, Refusal):
            context = [message.key() for message in row.messages]
            keys = {fingerprint([context, pair.chosen.text, pair.rejected.text]): pair for pair in found}
            new = [pair for key, pair in keys.items() if key not in self._seen]
            self._seen |= keys.keys()
            self.pairs += len(new)
            self.paired += bool(new)
            if new:
                return new
            found = Refusal.REPEATED
        self.refused[found.value] += 1
        return []

    def counts(self) -> dict[str, Any]:
        return {"paired": self.paired, "pairs": self.pairs, "refused": dict(self.refused.most_common())}


def _result(
    tallies: Mapping[Strategy, _Tally],
    strategy: Strategy,
    found: Sequence[tuple[int, PreferenceRow]],
    unscored: int,
    run: str,
) -> PreferencesResult:
    """The report; `found` are the pairs, each with the number of its row."""
    from maieutic.core.statistics import mean

    tally = tallies[strategy]
    preferences = [preference for _, preference in found]
    chosen = [len(preference.chosen[0].content.split()) for preference in preferences]
    rejected = [len(preference.rejected[0].content.split()) for preference in preferences]
    gaps = [a - b for a, b in zip(chosen, rejected, strict=True)]
    return PreferencesResult(
        run=run,
        strategy=strategy,
        prompts=tally.paired + tally.refused.total(),
        **tally.counts(),
        unscored=unscored,
        chosen_cut=sum(bool(preference.meta["cut"]) for preference in preferences),
        score_chosen=_mean([preference.scores["chosen"] for preference in preferences]),
        score_rejected=_mean([preference.scores["rejected"] for preference in preferences]),
        words_chosen=_mean(chosen),
        words_rejected=_mean(rejected),
        words_gap=mean(gaps, [row for row, _ in found]),
        longer_chosen=_mean([gap > 0 for gap in gaps]),
        rejected_reveal=_mean([bool(preference.meta["rejected_reveals"]) for preference in preferences]),
        by_strategy={name: one.counts() for name, one in tallies.items()},
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def judged_rows(sources: Path | str | Sequence[Any]) -> Iterator[JudgedRow]:
    """The judged rows of steps, files or a list; items of socratic-llm's DPO files are converted to judged rows."""
    rubric = load_rubric("socratic")
    for source in [sources] if isinstance(sources, (Path, str)) else sources:
        if isinstance(source, (Path, str)):
            placed = read_placed(source, "judge")
        else:
            placed = (Placed(f"row {number}", row) for number, row in enumerate(source, 1))
        for where, row in placed:
            if isinstance(row, JudgedRow):
                yield row
            elif "all_evaluations" in row or "chosen_eval" in row:
                yield published_row(row, rubric)
            else:
                yield parse(JudgedRow, row, where)


def published_row(item: Mapping[str, Any], rubric: Rubric) -> JudgedRow:
    """An item of socratic-llm's `dpo/{dataset}/train_dataset.json` as a judged row.

    Its prompt, one string, becomes one user message, byte for byte. Verdicts are read from the recorded values by our
    rules: an evaluation with an error, an unclear word or a value off its scale is unscored. The file's own choice of a
    pair is not used.
    """
    evaluations = item.get("all_evaluations") or [item.get("chosen_eval"), item.get("rejected_eval")]
    if not isinstance(item.get("prompt"), str) or not all(isinstance(one, Mapping) for one in evaluations):
        raise InputError(
            "an item is not of the published form (prompt, all_evaluations)",
            "Give dpo/{dataset}/train_dataset.json.",
        )
    verdicts = [_published_verdict(one, rubric) for one in evaluations]
    fields = {
        "key": str(item.get("key") or ""),
        "id": fingerprint(item["prompt"])[:16],
        "messages": [{"role": "user", "content": item["prompt"]}],
        "candidates": [{"text": str(one.get("output") or "")} for one in evaluations],
        "verdicts": verdicts,
        "scores": [summary_score(rubric, verdict.values) if verdict.scored else None for verdict in verdicts],
        "rubric": rubric.name,
        "source": "socratic-llm",
    }
    return JudgedRow.model_validate(fields)


def _published_verdict(evaluation: Mapping[str, Any], rubric: Rubric) -> Verdict:
    raw = str(evaluation.get("raw_evaluation") or "")
    if evaluation.get("evaluation_error"):
        return Verdict(judge="recorded", raw=raw, error=str(evaluation["evaluation_error"]))
    values = evaluation.get("evaluation")
    if not isinstance(values, Mapping):
        return Verdict(judge="recorded", raw=raw, error="no evaluation")
    parsed = read_values(dict(values), rubric)
    try:
        return Verdict(judge="recorded", values=parsed.values, raw=raw, error=parsed.error)
    except ValidationError:
        return Verdict(judge="recorded", raw=raw, error="values that are no numbers")
