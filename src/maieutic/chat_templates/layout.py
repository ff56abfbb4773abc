"""An order of roles → how such conversations are written, and a plan of their ids.

A layout is pieces of text whose contents are still missing; the layouts of our own two frames are here. A plan holds
the ids of the frame, made once, with holes for the ids of the texts: with a plan, rendering a conversation is
encoding its texts and concatenating arrays. There is no plan where a stretch of text belongs to several turns at once
(frames without control tokens); such conversations are encoded separately, with offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.chat_templates.encode import FRAME, Control, Encoded, Encoder, Ids, Piece
from maieutic.core import prompts
from maieutic.core.errors import RenderError
from maieutic.core.messages import Role

LABELS = {Role.USER: "User", Role.ASSISTANT: "Assistant"}
DYADIC = {Role.USER: "Human: ", Role.ASSISTANT: "Assistant: "}


class Layout(NamedTuple):
    """How conversations with one order of roles are written: pieces, those with a `turn` still without their text."""

    pieces: tuple[Piece, ...]
    frames: tuple[str, ...] = ()
    """What a chat template writes before, between and after the texts."""


def filled(pieces: Sequence[Piece], texts: Sequence[str]) -> list[Piece]:
    """The pieces of a layout with their texts (of its first turns, where there are fewer)."""
    return [
        piece
        if piece.turn is None
        else piece._replace(text=texts[piece.turn] if piece.turn < len(texts) else "")
        for piece in pieces
    ]


def until_opening(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces before the last opening: what generation of that turn starts from."""
    return list(pieces[: max(index for index, piece in enumerate(pieces) if piece.opens)])


def dyadic_layout(roles: Sequence[Role], tokenizer: Any) -> Layout:
    """PlatoLM's frame: SYSTEM + `Human: <s>…</s>Assistant: <s>…</s>…`, nothing between turns."""
    bos, eos = _marks(tokenizer, "dyadic")
    system, turns = _system(roles)
    pieces = [
        Piece("", is_content=True, turn=system)
        if system is not None
        else Piece(prompts.load("dyadic").text, is_content=True)
    ]
    for index, role in turns:
        pieces += [Piece(DYADIC[role] + bos), Piece("", index, opens=True)]
        pieces += [Piece("", index, is_content=True, turn=index), Piece(eos, index)]
    return Layout(tuple(pieces))


def plain_layout(roles: Sequence[Role], tokenizer: Any) -> Layout:
    """A frame for models without a template: `User: …</s>` and `Assistant: …</s>`, a line each."""
    _, eos = _marks(tokenizer, "plain")
    system, turns = _system(roles)
    pieces = [Piece("", is_content=True, turn=system), Piece("\n\n")] if system is not None else []
    for index, role in turns:
        pieces += [Piece(f"{LABELS[role]}:"), Piece(" ", index, opens=True)]
        pieces += [Piece("", index, is_content=True, turn=index), Piece(eos, index), Piece("\n")]
    return Layout(tuple(pieces))


def _system(roles: Sequence[Role]) -> tuple[int | None, list[tuple[int, Role]]]:
    """The index of the leading system turn, and the other turns with theirs."""
    turns = list(enumerate(roles))
    system = turns.pop(0)[0] if turns and turns[0][1] == Role.SYSTEM else None
    if odd := next((role for _, role in turns if role not in (Role.USER, Role.ASSISTANT)), None):
        raise RenderError(
            f"the conversation has a {odd.value} turn that this frame cannot write",
            "Put a system turn first; use a chat template for tool turns.",
        )
    return system, turns


def _marks(tokenizer: Any, name: str) -> tuple[str, str]:
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    if not eos or (not bos and name == "dyadic"):
        raise RenderError(
            f"the {name} frame needs the tokenizer's own {'BOS and EOS' if name == 'dyadic' else 'EOS'}",
            "Set bos_token and eos_token in the tokenizer, or use its chat template.",
        )
    return bos or "", eos


class Hole(NamedTuple):
    """Where a turn's text goes, with the frame's text that is encoded together with it."""

    position: int
    turn: int
    before: str
    after: str
    start: str

    def text(self, said: str) -> str:
        """What is encoded here."""
        return f"{self.before}{said}{self.after}" if self.before or self.after else said


class Plan(NamedTuple):
    """The arrays of a conversation, for each side which of them are in its loss, and the holes."""

    parts: list[Ids]
    taught: dict[Role, NDArray[np.bool_]]
    holes: tuple[Hole, ...]


def make_plan(
    pieces: Sequence[Piece], roles: Sequence[Role], encoder: Encoder, leading: list[int], apart: bool
) -> Plan | None:
    """The plan of a layout's pieces, or null where there can be none.

    Args:
        pieces: without their texts.
        roles: of the turns that own pieces.
        encoder: makes the frame's ids.
        leading: ids that stand before everything.
        apart: encode each stretch as a string of its own.
    """
    parts: list[list[int]] = [leading]
    owners = [FRAME]
    holes: list[Hole] = []
    for item in encoder.stretches(pieces):
        if isinstance(item, Control):
            parts.append([item.id])
            owners.append(item.owner)
            continue
        whose = {piece.owner for piece in item.pieces if piece.text or piece.turn is not None}
        said = [index for index, piece in enumerate(item.pieces) if piece.turn is not None]
        if len(whose) > 1 or len(said) > 1:
            return None
        start = "first" if apart else item.start
        texts = [piece.text for piece in item.pieces]
        owners += whose
        if said:
            turn = item.pieces[said[0]].turn or 0
            before, after = "".join(texts[: said[0]]), "".join(texts[said[0] :])
            holes.append(Hole(len(parts), turn, before, after, start))
            parts.append([])
        else:
            parts.append(encoder.text_ids("".join(texts), start))
    speaks = [None if owner == FRAME else roles[owner] for owner in owners]
    taught = {side: np.array([one == side for one in speaks]) for side in (Role.USER, Role.ASSISTANT)}
    return Plan([np.asarray(ids, np.int32) for ids in parts], taught, tuple(holes))


def plan_of(encoded: Encoded, roles: Sequence[Role]) -> Plan:
    """Ids made otherwise, in the same form: one array for each unbroken run of an owner."""
    runs = [(owner, len(list(run))) for owner, run in groupby(encoded.owners)] or [(FRAME, 0)]
    ends = list(accumulate(length for _, length in runs))
    ids = np.asarray(encoded.ids, np.int32)
    speaks = [None if owner == FRAME else roles[owner] for owner, _ in runs]
    taught = {side: np.array([one == side for one in speaks]) for side in (Role.USER, Role.ASSISTANT)}
    return Plan([ids[start:end] for start, end in pairwise([0, *ends])], taught, ())
