"""Render a conversation as token ids and labels for one role.

The loss is on the text of one side and on the token that ends each of its turns. It is also on END if the user ended
the conversation. Ids are made in one pass over the conversation. The prompt ids in generation are exactly a prefix of
the ids in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.chat_templates.encode import END, Encoded, Encoder, Ids, Piece
from maieutic.chat_templates.fast import Batches
from maieutic.chat_templates.layout import (
    Layout,
    Plan,
    dyadic_layout,
    filled,
    make_plan,
    plain_layout,
    plan_of,
    until_opening,
)
from maieutic.chat_templates.templates import ChatFrames, template_text
from maieutic.core.console import shown
from maieutic.core.errors import BadMask, InputError, NoTemplate, RenderError, UnstablePrefix
from maieutic.core.messages import Conversation, Message, Role

_IN_LOSS = "background: #cfeccf; color: #063; font-weight: 600"
_NOT_IN_LOSS = "color: #777"

IGNORED = -100
"""The label of a token outside the loss."""

TOGETHER = 64
"""Number of conversations whose texts are encoded in one call."""
LAYOUTS = 1024
"""Maximum number of cached layouts (one per order of roles)."""

PROBES = (
    "How would I make a cake? In 12 steps",
    "First: take 3 eggs.\n\nThen  mix them; don't stop!\n    f(x) = {'a': 1}",
    "Merci, très bon – 谢谢 🍰",
)
"""Test texts: for them, encoding stretch by stretch must give the same ids as encoding the whole string."""


class Rendered(NamedTuple):
    """`input_ids`, and `labels` of the same length: the id where a token is in the loss, -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """Number of tokens in the loss."""
        return len(self.labels) - self.labels.count(IGNORED)

    def stretches(self, tokenizer: Any) -> list[tuple[str, bool]]:
        """The text as a list of parts, each with whether its tokens are in the loss."""
        pairs = zip(self.input_ids, self.labels, strict=True)
        return [
            (tokenizer.decode([token for token, _ in stretch]), supervised)
            for supervised, stretch in groupby(pairs, key=lambda pair: pair[1] != IGNORED)
        ]


class RenderedText(Rendered):
    """A rendered conversation with its tokenizer, so that a notebook shows the text."""

    tokenizer: Any = None

    def _repr_html_(self) -> str:
        """The text; tokens in the loss are coloured."""
        spans = [
            f'<span style="{_IN_LOSS if supervised else _NOT_IN_LOSS}">{escape(shown(text))}</span>'
            for text, supervised in self.stretches(self.tokenizer)
        ]
        head = f"{self.supervised} of {len(self.labels)} tokens in the loss"
        return f'<div>{head}</div><pre style="white-space: pre-wrap">{"".join(spans)}</pre>'


class Columns(NamedTuple):
    """Ids and labels of many conversations, concatenated."""

    input_ids: Ids
    labels: Ids
    lengths: NDArray[np.int64]
    """Number of tokens of each conversation."""
    supervised: NDArray[np.int64]
    """Number of tokens in the loss of each conversation."""

    def rows(self) -> Iterable[tuple[Ids, Ids]]:
        """Ids and labels of each conversation, in order."""
        ends = [0, *np.cumsum(self.lengths).tolist()]
        return ((self.input_ids[start:end], self.labels[start:end]) for start, end in pairwise(ends))


class _Cached(NamedTuple):
    """The layout and the plan of one order of roles."""

    layout: Layout
    plan: Plan | None


class _Planned(NamedTuple):
    """A conversation's plan, and the texts for its holes."""

    plan: Plan
    texts: Sequence[str]


class Renderer:
    """A tokenizer and a template, ready to render many conversations; `renderer` caches them.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        template: null or `chat`, `dyadic`, `plain`, or the path of a Jinja file.
        system: text of a system turn for conversations without a system turn.
        faster: whether a faster encoder may be used if its ids are the same.
        check_all: encode every text by both encoders, which checks every id but saves no time.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        system: str | None,
        faster: bool = True,
        check_all: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._system = system
        self._encoder = Encoder(tokenizer)
        self.batches = Batches(self._encoder, faster, check_all)
        self._cached: dict[tuple[str, bool, bool], _Cached] = {}
        self._apart = template == "dyadic"
        self._by_stretches: bool | None = True if self._apart else None
        self._frames: ChatFrames | None = None
        self._leading: list[int] = []
        if template in ("dyadic", "plain"):
            self._encoder.learn_frame([tokenizer.bos_token or "", tokenizer.eos_token or ""])
            self._leading = self._encoder.leading
        else:
            self._frames = ChatFrames(tokenizer, self._encoder, template_text(tokenizer, template))

    def render(self, conversation: Conversation, role: str, end: bool = True) -> Rendered:
        """See `maieutic.chat_templates.render`."""
        return self.render_many([conversation], role, end)[0]

    def render_many(
        self, conversations: Sequence[Conversation], role: str, end: bool = True
    ) -> list[Rendered]:
        """`render` for each conversation; the texts of many are encoded together.

        Raises:
            RenderError: a conversation cannot be rendered; the message names the first such conversation.
        """
        rendered: list[Rendered] = []
        trusted = not self.batches.disproved
        for start in range(0, len(conversations), TOGETHER):
            some = conversations[start : start + TOGETHER]
            columns = self.columns(some, role, end)
            for index, (ids, labels) in enumerate(columns.rows()):
                if problem := mask_problem(columns, index, role):
                    raise BadMask(f"conversation {some[index].id}: {problem.what}", problem.hint)
                rendered.append(Rendered(ids.tolist(), labels.tolist()))
        if trusted and self.batches.disproved:  # unchecked ids before the first difference may be wrong too
            return self.render_many(conversations, role, end)
        return rendered

    def columns(self, conversations: Sequence[Conversation], role: str, end: bool = True) -> Columns:
        """Ids and labels of all conversations, concatenated; masks are not checked (see `mask_problem`).

        Raises:
            RenderError: a conversation cannot be rendered; the message names the first such conversation.
        """
        side = side_of(role)
        planned: list[_Planned] = []
        ends: list[bool] = []
        for conversation in conversations:
            if not conversation.messages:
                raise BadMask(
                    f"conversation {conversation.id} has no turns", "Drop it: `maieutic clean` does."
                )
            messages = self._framed(conversation.messages)
            speaker = messages[-1].role
            ended = end and conversation.ended and side == Role.USER and speaker != Role.SYSTEM
            ends.append(ended)
            try:
                planned.append(
                    self._plan(messages, Role.USER if ended and speaker == side.other else None, ended)
                )
            except NoTemplate:
                raise
            except RenderError as error:
                raise type(error)(f"conversation {conversation.id}: {error.what}", error.hint) from None
        last = add_end(self._tokenizer) if any(ends) else None
        return _laid_out(self._parts(planned), planned, [last if one else None for one in ends], side)

    def prompt_ids(self, messages: Sequence[Message], role: str) -> list[int]:
        """See `maieutic.chat_templates.prompt_ids`."""
        planned = self._plan(self._framed(messages), side_of(role))
        ids: list[int] = np.concatenate(self._parts([planned])[0]).tolist()
        return ids

    @property
    def control_ids(self) -> frozenset[int]:
        """The control tokens that are known so far."""
        return self._encoder.control_ids

    def turn_end(self, role: str) -> int:
        """The first token after a turn's text."""
        roles = [Role.USER, Role.ASSISTANT]
        pieces = filled(self._layout(roles).pieces, ["x", "x"])
        index = roles.index(side_of(role))
        closing = [piece for piece in pieces if piece.owner == index and not piece.is_content][-1]
        ids = self._encoder.encode([closing]).ids
        return next((token for token in ids if token in self._encoder.control_ids), ids[0])

    def lead(self, role: str) -> str:
        """The spaces of the frame before a turn's text. A model generates them, but they are not part of the text."""
        roles = [Role.USER, Role.ASSISTANT]
        index = roles.index(side_of(role))
        pieces = self._layout(roles).pieces
        return next((piece.text for piece in pieces if piece.opens and piece.owner == index), "")

    def _framed(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self._system is None or (messages and messages[0].role == Role.SYSTEM):
            return messages
        if not self._system and self._template == "plain":
            return messages
        return [Message(role=Role.SYSTEM, content=self._system), *messages]

    def _layout(self, roles: Sequence[Role]) -> Layout:
        if Role.TOOL in roles:
            raise RenderError("tool messages cannot be rendered yet", "Leave out conversations with tools.")
        if self._frames is not None:
            return self._frames.layout(roles)
        make = dyadic_layout if self._apart else plain_layout
        return make(roles, self._tokenizer)

    def _plan(
        self, messages: Sequence[Message], opening: Role | None = None, ended: bool = False
    ) -> _Planned:
        """The plan of a conversation, and the texts for its holes.

        Args:
            messages: the turns of the conversation.
            opening: stop where the next turn of this side begins.
            ended: leave out the text that a template writes only at the end of a conversation, since END follows.
        """
        if opening is not None:
            messages = [*messages, Message(role=opening, content="x")]
        roles = [turn.role for turn in messages]
        key = ("".join([role[0] for role in roles]), opening is not None, ended)
        if key not in self._cached:
            if len(self._cached) >= LAYOUTS:
                self._cached.clear()
            self._cached[key] = self._make(roles, opening is not None, ended)
        try:
            texts = self._texts(messages, self._cached[key].layout)
        except UnstablePrefix:  # the template may now write a different text, such as a new date
            self._cached[key] = self._make(roles, opening is not None, ended)
            texts = self._texts(messages, self._cached[key].layout)
        held = self._cached[key]
        if held.plan is not None and all(texts):
            return _Planned(held.plan, texts)
        # An empty text can have white space of the frame on both sides, so it cannot fill a hole.
        pieces = self._cut(filled(held.layout.pieces, texts), opening is not None, ended)
        return _Planned(plan_of(self._encode(pieces), roles), ())

    def _texts(self, messages: Sequence[Message], layout: Layout) -> list[str]:
        if self._frames is not None:
            return self._frames.texts(messages, layout)
        return [turn.content for turn in messages]

    def _make(self, roles: Sequence[Role], opening: bool, ended: bool) -> _Cached:
        layout = self._layout(roles)
        if self._by_stretches is None:
            self._by_stretches = self._stretches_agree(layout)
        if not self._by_stretches:
            return _Cached(layout, None)
        pieces = self._cut(layout.pieces, opening, ended)
        return _Cached(layout, make_plan(pieces, roles, self._encoder, self._leading, self._apart))

    def _cut(self, pieces: Sequence[Piece], opening: bool, ended: bool) -> Sequence[Piece]:
        if opening:
            return until_opening(pieces)
        if ended and self._frames is not None:
            return [*pieces[:-1], pieces[-1]._replace(text=pieces[-1].text.removesuffix(self._frames.tail))]
        return pieces

    def _stretches_agree(self, layout: Layout) -> bool:
        """Whether encoding stretch by stretch gives the ids of the whole string, as a server encodes it."""
        last = max((piece.turn for piece in layout.pieces if piece.turn is not None), default=0)
        pieces = filled(layout.pieces, [PROBES[index % len(PROBES)] for index in range(last + 1)])
        return self._encoder.encode(pieces) == self._encoder.encode_whole(pieces)

    def _encode(self, pieces: Sequence[Piece]) -> Encoded:
        if self._by_stretches:
            encoded = self._encoder.encode(pieces, self._apart)
        else:
            encoded = self._encoder.encode_whole(pieces)
        return Encoded(self._leading + encoded.ids, [-1] * len(self._leading) + encoded.owners)

    def _parts(self, planned: Sequence[_Planned]) -> list[list[Ids]]:
        """The arrays of each conversation; all texts are encoded together."""
        parts = [one.plan.parts.copy() for one in planned]
        holes = [
            (arrays, hole.position, hole.text(one.texts[hole.turn]), hole.start)
            for arrays, one in zip(parts, planned, strict=True)
            for hole in one.plan.holes
        ]
        made = self.batches.ids([text for _, _, text, _ in holes], [start for _, _, _, start in holes])
        for (arrays, position, _, _), ids in zip(holes, made, strict=True):
            arrays[position] = ids
        return parts


def _laid_out(
    parts: list[list[Ids]], planned: Sequence[_Planned], ends: Sequence[int | None], side: Role
) -> Columns:
    flags = [one.plan.in_loss[side] for one in planned]
    for index, end in enumerate(ends):
        if end is not None:
            parts[index].append(np.asarray([end], np.int32))
            flags[index] = np.append(flags[index], True)
    if not parts:
        nothing, none = np.empty(0, np.int32), np.empty(0, np.int64)
        return Columns(nothing, nothing, none, none)
    arrays = [array for mine in parts for array in mine]
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    in_loss = np.concatenate(flags)
    ids = np.concatenate(arrays)
    labels = np.where(np.repeat(in_loss, lengths), ids, np.int32(IGNORED))
    firsts = np.cumsum([0, *(len(mine) for mine in parts[:-1])])
    return Columns(ids, labels, np.add.reduceat(lengths, firsts), np.add.reduceat(lengths * in_loss, firsts))


def mask_problem(columns: Columns, index: int, role: str) -> BadMask | None:
    """The error if no token or every token of a conversation is in the loss; else null."""
    if columns.supervised[index] == 0:
        return BadMask(
            f"nothing of the {role} would be in the loss",
            f"The conversation has no {role} turn: drop it, or train the other role.",
        )
    if columns.supervised[index] == columns.lengths[index]:
        return BadMask(
            "every token would be in the loss",
            "The template marks no turns; use a template that does.",
        )
    return None


def side_of(role: str) -> Role:
    """The role as one of the two sides of a conversation.

    Raises:
        InputError: the role is neither user nor assistant.
    """
    if role not in (Role.USER, Role.ASSISTANT):
        raise InputError(f"{role!r} is no side of a conversation", "Give user or assistant.")
    return Role(role)


def end_id(tokenizer: Any) -> int | None:
    """END's id; null if the tokenizer does not have END."""
    index = tokenizer.convert_tokens_to_ids(END) if END in tokenizer.get_added_vocab() else None
    return None if index is None else int(index)


def add_end(tokenizer: Any) -> int:
    """END's id; the token is added to the tokenizer if it is missing."""
    index = end_id(tokenizer)
    if index is None:
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(END, special=True, normalized=False)], special_tokens=True)
        index = int(tokenizer.convert_tokens_to_ids(END))
    return index


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
        tokenizer: a fast Hugging Face tokenizer. END is added to it if it is needed and missing.
        role: `user` or `assistant`.
        template: null or `chat` (the tokenizer's own), `dyadic`, `plain`, or the path of a Jinja file.
        system: text of a system turn for conversations without a system turn.
        end: for `role="user"`, train END if the conversation is `ended`. After an assistant turn, END follows the
            opening of one more user turn; after a user turn, END follows directly.

    Raises:
        NoTemplate, UnstablePrefix, BadMask, RenderError: the conversation cannot be rendered; the hint says what to do.
    """
    rendered = RenderedText(*renderer(tokenizer, template, system).render(conversation, role, end))
    rendered.tokenizer = tokenizer
    return rendered


def render_many(
    conversations: Iterable[Conversation],
    tokenizer: Any,
    role: str,
    template: str | None = None,
    system: str | None = None,
    end: bool = True,
) -> list[Rendered]:
    """`render` for many conversations, several times faster. It raises if a conversation cannot be rendered."""
    return renderer(tokenizer, template, system).render_many(list(conversations), role, end)


def prompt_ids(
    messages: Sequence[Message],
    tokenizer: Any,
    role: str,
    template: str | None = None,
    system: str | None = None,
) -> list[int]:
    """The prompt ids for the next turn of `role`; they end with the opening of that turn."""
    return renderer(tokenizer, template, system).prompt_ids(messages, role)


def turn_end_id(tokenizer: Any, template: str | None = None, role: str = "user") -> int:
    """The token that ends a turn of `role`."""
    return renderer(tokenizer, template, None).turn_end(role)


def turn_lead(tokenizer: Any, template: str | None = None, role: str = "user") -> str:
    """The spaces of the frame before a turn's text. A model generates them, but they are not part of the text."""
    return renderer(tokenizer, template, None).lead(role)


def stop_ids(tokenizer: Any, template: str | None = None) -> set[int]:
    """The ids that stop generation: the tokens that end a turn of either side, and the tokenizer's end of text.

    If plain text ends a turn (`[/INST]` in Llama 2), it does not stop generation: its first token may occur in a reply.
    """
    view = renderer(tokenizer, template, None)
    ends = {view.turn_end("user"), view.turn_end("assistant")} & view.control_ids
    return ends | ({int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set())


def renderer(tokenizer: Any, template: str | None = None, system: str | None = None) -> Renderer:
    """The cached renderer of a tokenizer and a template; a changed tokenizer or template gets a new renderer."""
    text = template if template in ("dyadic", "plain") else template_text(tokenizer, template)
    marks = (tokenizer.bos_token, tokenizer.eos_token, len(tokenizer))
    return _renderer(tokenizer, template, system, text, marks)


@lru_cache(maxsize=16)
def _renderer(
    tokenizer: Any, template: str | None, system: str | None, _text: str | None, _marks: tuple[Any, ...]
) -> Renderer:
    return Renderer(tokenizer, template, system)
