"""Sample dialogues, chosen by a fixed rule, each turn with its verdicts and sampling facts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from heapq import heappush, heapreplace
from typing import Any, NamedTuple

from maieutic.core.errors import MaieuticError
from maieutic.core.messages import Conversation
from maieutic.judging.rubrics import Better, Kind, Rubric, load_rubric
from maieutic.report.collect import Run, StageRun

TEN = 10
RULE = (
    "The dialogues are chosen by a fixed rule. Each way in which the dialogues of a simulation ended is one group, and "
    "so is each set of judged replies, except those of baselines. The groups take turns in the order of the run; each "
    "gives its next dialogue in the order of the SHA-256 of the row's key, until there are ten."
)
ENDS = {
    "end": "the simulator ended it",
    "rounds": "stopped at the limit of rounds",
    "context": "stopped at the end of the context",
    "failed": "failed",
}


class Mark(NamedTuple):
    """A verdict or a fact shown with a turn."""

    text: str
    good: bool | None = None
    """Whether the verdict is good; null for facts that are neither good nor bad."""


class ShownTurn(NamedTuple):
    """A turn as the page shows it."""

    who: str
    side: str
    """`user`, `assistant` or `system`."""
    text: str
    marks: tuple[Mark, ...] = ()
    folded: bool = False
    """Hidden until opened: a reply that is neither the best nor the worst."""


class SampleDialogue(NamedTuple):
    """A dialogue as the page shows it."""

    title: str
    group: str
    turns: tuple[ShownTurn, ...]


def sample_dialogues(runs: Sequence[Run], limit: int = TEN) -> list[SampleDialogue]:
    """At most `limit` dialogues of these runs, chosen by `RULE`."""
    queues: list[list[tuple[Run, StageRun, dict[str, Any]]]] = []
    for run in runs:
        for stage in run.stages:
            if stage.kind in ("simulate", "judge"):
                groups = {} if _of_baseline(stage) else _smallest(stage, limit)
                queues += [[(run, stage, row) for row in groups[name]] for name in sorted(groups)]
    chosen: list[SampleDialogue] = []
    for place in range(limit):
        for queue in queues:
            if place < len(queue) and len(chosen) < limit:
                chosen.append(_shown(*queue[place]))
    return chosen


def _of_baseline(stage: StageRun) -> bool:
    """Whether the replies are the fixed ones of a baseline."""
    return stage.kind == "judge" and str(next(stage.rows(), {}).get("model")).startswith("baseline/")


def _smallest(stage: StageRun, limit: int) -> dict[str, list[dict[str, Any]]]:
    """The `limit` rows of each group with the smallest hashes; streaming, so that memory holds only these."""
    heaps: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    finished = set()
    for place, row in enumerate(stage.rows()):
        if stage.kind == "simulate" and "failure" not in row:
            finished.add((row.get("meta") or {}).get("dialogue"))
        heap = heaps.setdefault(_group(stage, row), [])
        item = (-int(hashlib.sha256(str(row["key"]).encode()).hexdigest(), 16), place, row)
        if len(heap) < limit:
            heappush(heap, item)
        elif item[:2] > heap[0][:2]:
            heapreplace(heap, item)
    found = {name: [item[2] for item in sorted(heap, key=lambda i: -i[0])] for name, heap in heaps.items()}
    # A dialogue that failed at first and finished later does not count as failed.
    if "failed" in found:
        found["failed"] = [
            row for row in found["failed"] if row.get("meta", {}).get("dialogue") not in finished
        ]
    return found


def _group(stage: StageRun, row: Mapping[str, Any]) -> str:
    if stage.kind == "judge":
        return ""
    return "failed" if "failure" in row else str((row.get("meta") or {}).get("end") or "")


def _shown(run: Run, stage: StageRun, row: Mapping[str, Any]) -> SampleDialogue:
    if stage.kind == "judge":
        title = f"{stage.label}: {row.get('id') or row['key']}"
        model = run.relative(str(row.get("model") or "a model"))
        return SampleDialogue(title, f"judged replies of {model}", (*_prompt(row), *_replies(row)))
    end = _group(stage, row)
    why = ENDS.get(end, end or "no end is recorded")
    if "failure" not in row and (result := _outcome(row)):
        why = f"{why}; {result}"
    if failure := row.get("failure"):
        why = f"{why} ({failure.get('fault')}: {failure.get('error') or failure.get('what') or ''})"
    return SampleDialogue(f"{stage.label}: {row.get('id') or row['key']}", why, tuple(_dialogue(row)))


def _prompt(row: Mapping[str, Any]) -> Iterator[ShownTurn]:
    who = {"user": "student", "assistant": "tutor", "system": "instructions"}
    for turn in row.get("messages") or ():
        side = str(turn.get("role"))
        yield ShownTurn(who.get(side, side), side, str(turn.get("content")))


def _dialogue(row: Mapping[str, Any]) -> Iterator[ShownTurn]:
    infos = (row.get("meta") or {}).get("turns") or {}
    who = {"user": "simulated user", "assistant": "assistant", "system": "instructions"}
    for place, turn in enumerate(row.get("messages") or ()):
        side, info = str(turn.get("role")), infos.get(str(place))
        name = who.get(side, side)
        if info is None and side == "user":
            name = "person (the seed)"
        yield ShownTurn(name, side, str(turn.get("content")), tuple(_facts(info or {})))
    if last := infos.get("end"):
        yield ShownTurn(who["user"], "user", "", tuple(_facts(last)))


def _outcome(row: Mapping[str, Any]) -> str:
    """The outcome of a dialogue on a problem with a known answer, else empty."""
    from maieutic.checks.outcomes import outcome

    found = outcome(Conversation.model_validate({key: value for key, value in row.items() if key != "key"}))
    if found is None:
        return ""
    if found.solved:
        return "solved by the student"
    return "told by the tutor" if found.told else "neither solved nor told"


def _facts(info: Mapping[str, Any]) -> Iterator[Mark]:
    chance = info.get("end_probability")
    if isinstance(chance, (int, float)):
        yield Mark("probability of END " + (f"{100 * chance:.0f} %" if chance >= 0.01 else "under 1 %"))
    if info.get("finish") == "length":
        yield Mark("cut at the token limit", False)
    if info.get("finish") == "end":
        yield Mark("END")
    for draw in info.get("redrawn") or ():
        yield Mark(f"sampled again: {draw.get('guard')}")
    if info.get("broken_guard"):
        yield Mark(f"kept although the guard failed: {info['broken_guard']}", False)


def _replies(row: Mapping[str, Any]) -> Iterator[ShownTurn]:
    """The replies, best first and unscored last; of more than two, only the best and the worst are not folded."""
    texts = [str((one or {}).get("text") or "") for one in row.get("candidates") or ()]
    verdicts = [*(row.get("verdicts") or ()), *({} for _ in texts)]
    scores = [*(row.get("scores") or ()), *(None for _ in texts)]
    rubric = _rubric(str(row.get("rubric") or ""))
    order = sorted(range(len(texts)), key=lambda place: (scores[place] is None, -(scores[place] or 0), place))
    scored = sum(score is not None for score in scores)
    for rank, place in enumerate(order):
        name = f"reply {place + 1} of {len(texts)}" if len(texts) > 1 else "tutor's reply"
        if scored > 1 and rank in (0, scored - 1):
            name += ", the worst" if rank else ", the best"
        marks = tuple(_marks(verdicts[place], scores[place], rubric))
        yield ShownTurn(
            name,
            "assistant",
            texts[place],
            marks,
            folded=len(texts) > 2 and rank not in (0, max(scored, 2) - 1),
        )
    if row.get("error"):
        yield ShownTurn("failed", "system", str(row["error"]))


def _rubric(name: str) -> Rubric | None:
    try:
        return load_rubric(name) if name else None
    except MaieuticError:  # a rubric file that is gone; its values are shown as plain numbers
        return None


def _marks(verdict: Mapping[str, Any], score: Any, rubric: Rubric | None) -> Iterator[Mark]:
    if verdict.get("error"):
        yield Mark(f"unscored: {verdict['error']}", False)
        return
    if isinstance(score, (int, float)):
        yield Mark(f"score {score:.2f}")
    known = {criterion.name: criterion for criterion in rubric.criteria} if rubric else {}
    for name, value in (verdict.get("values") or {}).items():
        title, criterion = str(name).replace("_", " "), known.get(str(name))
        if criterion is None or criterion.kind != Kind.YES_NO:
            top = f" of {criterion.high}" if criterion else ""
            yield Mark(f"{title}: {value:g}{top}")
        else:
            answer = "yes" if value >= 1 else "no" if value <= 0 else f"{value:.0%} yes"
            good = None if 0 < value < 1 else (value >= 1) == (criterion.better == Better.HIGH)
            yield Mark(f"{title}: {answer}", good)
    if judge := verdict.get("judge"):
        yield Mark(f"by {judge}")
