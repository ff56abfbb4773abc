"""Conversation + role → token ids and loss mask; the only room that knows chat templates.

The loss is on exactly one side's text and the token that ends its turn, and, where a person ended the conversation,
on END. Ids are made in one pass over the conversation, and what a model generates from is, id for id, a prefix of
what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from maieutic.errors import BadMask, InputError
from maieutic.render.encode import FRAME, Encoded, Encoder, Piece
from maieutic.render.serving import serving_template
from maieutic.render.templates import ChatFrames, dyadic_pieces, plain_pieces, template_text
from maieutic.types import Conversation, Role, Turn

__all__ = [
    "END", "IGNORED", "Rendered", "add_end", "end_id", "prompt_ids", "render", "renderer", "serving_template",
    "stop_ids", "turn_end_id",
]  # fmt: skip

END = "<|endofconversation|>"
"""The token by which a user simulator ends the conversation; added to a tokenizer that lacks it."""

IGNORED = -100
"""The label of a token outside the loss."""


class Rendered(NamedTuple):
    """`input_ids`, and `labels` of the same length: the id where a token is in the loss, -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """Tokens in the loss."""
        return sum(label != IGNORED for label in self.labels)


def render(
    conversation: Conversation,
    tokenizer: Any,
    role: str,
    template: str | None = None,
    system: str | None = None,
    end: bool = True,
) -> Rendered:
    """Token ids of a conversation, with labels on the turns of `role`.

    Args:
        conversation: at least one turn of `role`.
        tokenizer: a fast Hugging Face tokenizer. END is added to it where it is needed and missing.
        role: `user` or `assistant`.
        template: null or `chat` (the tokenizer's own), `dyadic`, `plain`, or the path of a Jinja file.
        system: text of a system turn for conversations that have none.
        end: for `role="user"`, teach END where the conversation is `ended`: in one more human opening after an
            assistant's turn, directly after a human's.

    Raises:
        NoTemplate, UnstablePrefix, BadMask, RenderError: said with what to do.
    """
    return renderer(tokenizer, template, system).render(conversation, role, end)


def prompt_ids(
    messages: Sequence[Turn],
    tokenizer: Any,
    role: str,
    template: str | None = None,
    system: str | None = None,
) -> list[int]:
    """The ids from which the next turn of `role` is generated; they end with that turn's opening."""
    return renderer(tokenizer, template, system).prompt_ids(messages, role)


def end_id(tokenizer: Any) -> int | None:
    """END's id, or null where the tokenizer does not have it."""
    index = tokenizer.get_vocab().get(END)
    return None if index is None else int(index)


def add_end(tokenizer: Any) -> int:
    """END's id, adding the token where it is missing."""
    index = end_id(tokenizer)
    if index is None:
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(END, special=True, normalized=False)], special_tokens=True)
        index = int(tokenizer.get_vocab()[END])
    return index


def turn_end_id(tokenizer: Any, template: str | None = None, role: str = "user") -> int:
    """The token that ends a turn of `role`."""
    return renderer(tokenizer, template, None).turn_end(role)


def stop_ids(tokenizer: Any, template: str | None = None) -> set[int]:
    """The ids at which a reply stops: the end of either side's turn, and the tokenizer's end of text."""
    view = renderer(tokenizer, template, None)
    ends = {view.turn_end("user"), view.turn_end("assistant")}
    return ends | ({int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set())


class Renderer:
    """A tokenizer and a template, ready to render many conversations. `renderer` keeps one for each."""

    def __init__(self, tokenizer: Any, template: str | None, system: str | None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._system = system
        self._encoder = Encoder(tokenizer)
        self._frames = (
            None
            if template in ("dyadic", "plain")
            else ChatFrames(tokenizer, self._encoder, template_text(tokenizer, template))
        )

    def render(self, conversation: Conversation, role: str, end: bool = True) -> Rendered:
        """See `maieutic.render.render`."""
        side = _side(role)
        if not conversation.messages:
            raise BadMask(f"conversation {conversation.id} has no turns", "Drop it: `maieutic clean` does.")
        messages = self._framed(conversation.messages)
        teach_end = end and conversation.ended and side == Role.USER
        opens_end = teach_end and messages[-1].role == Role.ASSISTANT
        encoded = self._encode(self._opening(messages, Role.USER) if opens_end else self._pieces(messages))
        mine = {index for index, turn in enumerate(messages) if turn.role == side}
        ids = list(encoded.ids)
        labels = [
            token if owner in mine else IGNORED for token, owner in zip(ids, encoded.owners, strict=True)
        ]
        if teach_end:
            ids.append(add_end(self._tokenizer))
            labels.append(ids[-1])
        _check_mask(labels, conversation, side)
        return Rendered(ids, labels)

    def prompt_ids(self, messages: Sequence[Turn], role: str) -> list[int]:
        """See `maieutic.render.prompt_ids`."""
        return self._encode(self._opening(self._framed(messages), _side(role))).ids

    def turn_end(self, role: str) -> int:
        """The first token after a turn's text."""
        turns = [Turn(role=Role.USER, content="x"), Turn(role=Role.ASSISTANT, content="x")]
        pieces = self._pieces(turns)
        index = [turn.role for turn in turns].index(_side(role))
        closing = [piece for piece in pieces if piece.owner == index and not piece.is_content][-1]
        encoded = self._encoder.encode([closing])
        controls = [token for token in encoded.ids if token in self._encoder.control.values()]
        return (controls or encoded.ids)[0]

    def _framed(self, messages: Sequence[Turn]) -> list[Turn]:
        messages = list(messages)
        if self._system is not None and not (messages and messages[0].role == Role.SYSTEM):
            return [Turn(role=Role.SYSTEM, content=self._system), *messages]
        return messages

    def _pieces(self, messages: Sequence[Turn]) -> list[Piece]:
        if self._frames is not None:
            return self._frames.pieces(messages)
        frame = dyadic_pieces if self._template == "dyadic" else plain_pieces
        return frame(messages, self._tokenizer)

    def _encode(self, pieces: Sequence[Piece]) -> Encoded:
        if self._frames is not None:
            return self._encoder.encode(pieces)
        encoded = (self._encoder.encode_apart if self._template == "dyadic" else self._encoder.encode)(pieces)
        leading = self._encoder.leading
        return Encoded(leading + encoded.ids, [FRAME] * len(leading) + encoded.owners)

    def _opening(self, messages: Sequence[Turn], side: Role) -> list[Piece]:
        """The conversation's pieces, and those that open the next turn of `side`."""
        if self._frames is not None:
            return self._frames.opening(messages, side)
        pieces = self._pieces([*messages, Turn(role=side, content="x")])
        return pieces[: max(index for index, piece in enumerate(pieces) if piece.opens)]


def renderer(tokenizer: Any, template: str | None = None, system: str | None = None) -> Renderer:
    """The renderer of a tokenizer and a template, made once; a changed tokenizer or template gets a new one."""
    return _renderer(tokenizer, template, system, len(tokenizer), str(tokenizer.chat_template))


@lru_cache(maxsize=16)
def _renderer(tokenizer: Any, template: str | None, system: str | None, _size: int, _chat: str) -> Renderer:
    return Renderer(tokenizer, template, system)


def _side(role: str) -> Role:
    if role not in (Role.USER, Role.ASSISTANT):
        raise InputError(f"role {role!r} speaks in no conversation", "Give user or assistant.")
    return Role(role)


def _check_mask(labels: Sequence[int], conversation: Conversation, role: Role) -> None:
    supervised = sum(label != IGNORED for label in labels)
    if supervised == 0:
        raise BadMask(
            f"conversation {conversation.id}: nothing of the {role.value} would be in the loss",
            f"It has no {role.value} turn: drop it, or train the other role.",
        )
    if supervised == len(labels):
        raise BadMask(
            f"conversation {conversation.id}: every token would be in the loss",
            "The template frames nothing; use one that marks whose turn it is.",
        )
