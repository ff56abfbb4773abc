"""How conversations with one order of roles are written: pieces whose texts are still missing; and our own frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maieutic.chat_templates.encode import Piece
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
    if any(role == Role.SYSTEM for _, role in turns):
        raise RenderError(
            "a system turn stands inside the conversation", "Put it first, or use a chat template."
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
