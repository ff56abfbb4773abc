"""What is wrong with the turns themselves and can be mended: empty ones, a leading assistant, one role twice."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Message, Role


class Repair(StrEnum):
    """What was mended in a conversation that was kept."""

    HTML = "HTML made Markdown"
    MASKED = "personal data masked"
    EMPTY = "empty turns dropped"
    OPENING = "leading assistant turns dropped"
    MERGED = "same-role neighbours merged"
    TRANSLATION = "another language kept, to translate"
    CUT = "cut at turn borders"


class Mended(NamedTuple):
    """A conversation after repairs, and which there were."""

    conversation: Conversation
    repairs: tuple[Repair, ...]


def mend(conversation: Conversation, keep_opening: bool = False) -> Mended:
    """Drop empty turns and a leading assistant, then merge same-role neighbours with a blank line between.

    What `meta["turns"]` holds by turn index moves with its turn; of merged turns the later ones' stands in `merged`.

    Args:
        conversation: any.
        keep_opening: keep assistant turns before the first user turn. They are kept in any case where the importer
            noted that the tutor rightly speaks first (`meta.opens`).
    """
    turns = conversation.messages
    keep_opening = keep_opening or conversation.meta.get("opens") == "assistant"
    spoken = [index for index, turn in enumerate(turns) if turn.content.strip()]
    first = next((index for index in spoken if turns[index].role == Role.USER), len(turns))
    wanted = [
        index for index in spoken if keep_opening or index >= first or turns[index].role != Role.ASSISTANT
    ]
    groups: list[list[int]] = []
    for index in wanted:
        if groups and turns[groups[-1][-1]].role == turns[index].role:
            groups[-1].append(index)
        else:
            groups.append([index])
    if len(groups) == len(turns):
        return Mended(conversation, ())
    repairs = (
        *([Repair.EMPTY] if len(spoken) < len(turns) else []),
        *([Repair.OPENING] if len(wanted) < len(spoken) else []),
        *([Repair.MERGED] if len(groups) < len(wanted) else []),
    )
    messages = tuple(
        turns[group[0]]
        if len(group) == 1
        else Message(role=turns[group[0]].role, content="\n\n".join(turns[index].content for index in group))
        for group in groups
    )
    changes = {"messages": messages, "meta": _moved(conversation.meta, groups)}
    return Mended(conversation.model_copy(update=changes), repairs)


def _moved(meta: dict[str, Any], groups: list[list[int]]) -> dict[str, Any]:
    extras = meta.get("turns")
    if not isinstance(extras, Mapping):
        return meta
    moved: dict[str, Any] = {}
    for place, group in enumerate(groups):
        own, *later = [extras.get(str(index)) or {} for index in group]
        later = [extra for extra in later if extra]
        if whole := {**own, **({"merged": later} if later else {})}:
            moved[str(place)] = whole
    rest = {key: value for key, value in meta.items() if key != "turns"}
    return {**rest, "turns": moved} if moved else rest
