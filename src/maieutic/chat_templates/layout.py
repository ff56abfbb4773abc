"""Layouts and plans: how conversations with one order of roles are written, and the ids of their frame.

A layout is a list of pieces of text without the texts of the messages; this module has the layouts of our own two
frames. A plan contains the ids of the frame, which are made once, and holes for the ids of the texts. With a plan, only
the texts of a conversation are encoded, and arrays are concatenated. There is no plan if a stretch of text belongs to
several turns (in frames without control tokens); such conversations are encoded one by one, with character offsets.
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
    """The pieces of conversations with one order of roles. Pieces with a `turn` do not have their text yet."""

    pieces: tuple[Piece, ...]
    frames: tuple[str, ...] = ()
    """The text that a chat template writes before, between and after the contents."""


def filled(pieces: Sequence[Piece], texts: Sequence[str]) -> list[Piece]:
    """The pieces of a layout with their texts. If there are fewer texts than turns, later turns get empty texts."""
    return [
        piece
        if piece.turn is None
        else piece._replace(text=texts[piece.turn] if piece.turn < len(texts) else "")
        for piece in pieces
    ]


def until_opening(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces before the last opening: the prompt from which the last turn is generated."""
    return list(pieces[: max(index for index, piece in enumerate(pieces) if piece.opens)])


def dyadic_layout(roles: Sequence[Role], tokenizer: Any) -> Layout:
    """PlatoLM's frame: SYSTEM + `Human: <s>…</s>Assistant: <s>…</s>…`, without text between turns."""
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
    """A frame for models without a template: `User: …</s>` and `Assistant: …</s>`, one line per turn."""
    _, eos = _marks(tokenizer, "plain")
    system, turns = _system(roles)
    pieces = [Piece("", is_content=True, turn=system), Piece("\n\n")] if system is not None else []
    for index, role in turns:
        pieces += [Piece(f"{LABELS[role]}:"), Piece(" ", index, opens=True)]
        pieces += [Piece("", index, is_content=True, turn=index), Piece(eos, index), Piece("\n")]
    return Layout(tuple(pieces))


def _system(roles: Sequence[Role]) -> tuple[int | None, list[tuple[int, Role]]]:
    """The index of the leading system turn, and the other turns with their indices."""
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
    """The place for a turn's text in a plan, with the text of the frame that is encoded together with it."""

    position: int
    turn: int
    before: str
    after: str
    start: str

    def text(self, content: str) -> str:
        """The text to encode for this place."""
        return f"{self.before}{content}{self.after}" if self.before or self.after else content


class Plan(NamedTuple):
    """The arrays of ids of a conversation, which arrays are in the loss of each side, and the holes."""

    parts: list[Ids]
    in_loss: dict[Role, NDArray[np.bool_]]
    holes: tuple[Hole, ...]


def make_plan(
    pieces: Sequence[Piece], roles: Sequence[Role], encoder: Encoder, leading: list[int], apart: bool
) -> Plan | None:
    """The plan of a layout's pieces; null if a stretch of text belongs to several turns.

    Args:
        pieces: the pieces without the texts of the turns.
        roles: the roles of the turns.
        encoder: makes the frame's ids.
        leading: the ids before the first piece.
        apart: encode each stretch as a separate string.
    """
    parts: list[list[int]] = [leading]
    owners = [FRAME]
    holes: list[Hole] = []
    for item in encoder.stretches(pieces):
        if isinstance(item, Control):
            parts.append([item.id])
            owners.append(item.owner)
            continue
        own = {piece.owner for piece in item.pieces if piece.text or piece.turn is not None}
        texts_here = [index for index, piece in enumerate(item.pieces) if piece.turn is not None]
        if len(own) > 1 or len(texts_here) > 1:
            return None
        start = "first" if apart else item.start
        texts = [piece.text for piece in item.pieces]
        owners += own
        if texts_here:
            turn = item.pieces[texts_here[0]].turn or 0
            before, after = "".join(texts[: texts_here[0]]), "".join(texts[texts_here[0] :])
            holes.append(Hole(len(parts), turn, before, after, start))
            parts.append([])
        else:
            parts.append(encoder.text_ids("".join(texts), start))
    speaks = [None if owner == FRAME else roles[owner] for owner in owners]
    in_loss = {side: np.array([one == side for one in speaks]) for side in (Role.USER, Role.ASSISTANT)}
    return Plan([np.asarray(ids, np.int32) for ids in parts], in_loss, tuple(holes))


def plan_of(encoded: Encoded, roles: Sequence[Role]) -> Plan:
    """A plan from finished ids, without holes: one array for each run of ids with the same owner."""
    runs = [(owner, len(list(run))) for owner, run in groupby(encoded.owners)] or [(FRAME, 0)]
    ends = list(accumulate(length for _, length in runs))
    ids = np.asarray(encoded.ids, np.int32)
    speaks = [None if owner == FRAME else roles[owner] for owner, _ in runs]
    in_loss = {side: np.array([one == side for one in speaks]) for side in (Role.USER, Role.ASSISTANT)}
    return Plan([ids[start:end] for start, end in pairwise([0, *ends])], in_loss, ())
