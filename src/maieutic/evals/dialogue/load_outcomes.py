"""The rows of a simulate stage as outcomes. A dialogue lost to anybody but the tutor is left out, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.checks.outcomes import DialogueOutcome, States, models_by_side, outcome
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Conversation, Fault
from maieutic.core.store import stage_rows
from maieutic.data.corpus import read_corpus


class Lost(NamedTuple):
    """A dialogue that could not be finished, as far as it came."""

    conversation: Conversation
    fault: str


class Outcomes(NamedTuple):
    """What came of a stage's dialogues, in its order."""

    found: list[DialogueOutcome]
    """Those broken off by the tutor are among them."""
    lost: dict[str, int]
    """Dialogues left out, by whose fault they broke off."""
    who: dict[str, list[str]]
    """`student` and `tutor`: the models that spoke, by the rows' own word."""
    conversations: list[Conversation]
    """Those of `found`, in the same order."""


def outcomes(source: Path | str, states: States | None = None) -> Outcomes:
    """The outcomes of a stage's dialogues.

    Args:
        source: a simulate stage's folder, its run with that one stage, its `rows.jsonl`, or a corpus of such rows.
        states: whether a student's turn solves the problem; null: by the known answer.

    Raises:
        InputError: not one has a problem with a known answer.
    """
    found: list[tuple[Conversation, DialogueOutcome]] = []
    lost: Counter[str] = Counter()
    spoken: list[Conversation] = []
    for conversation, fault in _dialogues(Path(source)):
        if fault is not None and fault != Fault.ASSISTANT_MODEL:
            lost[fault] += 1
            continue
        result = outcome(conversation, states, fault)
        if result is not None:
            found.append((conversation, result))
            spoken.append(conversation)
    if not found and not lost:
        raise InputError(f"{source}: no dialogue has a known answer", "Seed the dialogues with problems.")
    return Outcomes(
        [one for _, one in found], dict(lost), models_by_side(spoken), [talk for talk, _ in found]
    )


def _dialogues(path: Path) -> Iterator[tuple[Conversation, str | None]]:
    """Each dialogue and whose fault it broke off by; those that no later call has mended stand once, at the end."""
    if not (path.is_dir() or path.name == "rows.jsonl"):
        yield from ((one, None) for one in read_corpus(path))
        return
    broken: dict[str, Lost] = {}
    done: set[str] = set()
    found = False
    for row in stage_rows(path if path.is_dir() else path.parent):
        found = True
        key = str((row.get("meta") or {}).get("dialogue", row["key"]))
        conversation = Conversation.model_validate(
            {name: value for name, value in row.items() if name not in ("key", "failure")}
        )
        if "failure" in row:
            broken[key] = Lost(conversation, _fault(row["failure"]))
        else:
            done.add(key)
            yield conversation, None
    if not found:
        raise EmptyCorpus(f"{path}: no dialogue in it", "Simulate some first.")
    yield from ((lost.conversation, lost.fault) for key, lost in broken.items() if key not in done)


def _fault(failure: Any) -> str:
    return str(failure.get("fault")) if isinstance(failure, dict) else Fault.US.value
