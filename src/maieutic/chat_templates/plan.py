"""An order of roles → a plan: the frame's ids, made once, with holes where the texts' ids go.

With a plan, rendering a conversation is encoding its texts and laying arrays end to end. There is none where a
stretch of text belongs to several turns at once (frames without control tokens): such conversations are encoded one
by one, with offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.chat_templates.encode import FRAME, Control, Encoded, Encoder, Piece
from maieutic.chat_templates.fast import Ids
from maieutic.core.messages import Role


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
