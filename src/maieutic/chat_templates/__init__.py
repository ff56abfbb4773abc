"""Conversation + role → token ids and loss mask; the only room that knows chat templates.

The loss is on exactly one side's text and the token that ends its turn, and, where a person ended the conversation,
on END. Ids are made in one pass over the conversation, and what a model generates from is, id for id, a prefix of
what it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from maieutic.chat_templates.encode import END
from maieutic.chat_templates.renderer import IGNORED, Rendered, Renderer, add_end, end_id
from maieutic.chat_templates.serving import serving_template
from maieutic.chat_templates.templates import template_text
from maieutic.core.messages import Conversation, Message

__all__ = [
    "END", "IGNORED", "Rendered", "add_end", "end_id", "prompt_ids", "render", "render_many", "renderer",
    "serving_template", "stop_ids", "turn_end_id",
]  # fmt: skip


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


def render_many(
    conversations: Iterable[Conversation],
    tokenizer: Any,
    role: str,
    template: str | None = None,
    system: str | None = None,
    end: bool = True,
) -> list[Rendered]:
    """`render` for each of many conversations, several times faster; the first that cannot be rendered raises."""
    return renderer(tokenizer, template, system).render_many(list(conversations), role, end)


def prompt_ids(
    messages: Sequence[Message],
    tokenizer: Any,
    role: str,
    template: str | None = None,
    system: str | None = None,
) -> list[int]:
    """The ids from which the next turn of `role` is generated; they end with that turn's opening."""
    return renderer(tokenizer, template, system).prompt_ids(messages, role)


def turn_end_id(tokenizer: Any, template: str | None = None, role: str = "user") -> int:
    """The token that ends a turn of `role`."""
    return renderer(tokenizer, template, None).turn_end(role)


def turn_lead(tokenizer: Any, template: str | None = None, role: str = "user") -> str:
    """The spaces that the frame puts before a turn's text: drawn with its first word, and no part of what is said."""
    return renderer(tokenizer, template, None).lead(role)


def stop_ids(tokenizer: Any, template: str | None = None) -> set[int]:
    """The ids at which a reply stops: the tokens that end either side's turn, and the tokenizer's end of text.

    A turn's end that is plain text (Llama 2's `[/INST]`) is none: its first token may stand in any reply.
    """
    view = renderer(tokenizer, template, None)
    ends = {view.turn_end("user"), view.turn_end("assistant")} & view.control_ids
    return ends | ({int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set())


def renderer(tokenizer: Any, template: str | None = None, system: str | None = None) -> Renderer:
    """The renderer of a tokenizer and a template, made once; a changed tokenizer or template gets a new one."""
    text = template if template in ("dyadic", "plain") else template_text(tokenizer, template)
    marks = (tokenizer.bos_token, tokenizer.eos_token, len(tokenizer))
    return _renderer(tokenizer, template, system, text, marks)


@lru_cache(maxsize=16)
def _renderer(
    tokenizer: Any, template: str | None, system: str | None, _text: str | None, _marks: tuple[Any, ...]
) -> Renderer:
    return Renderer(tokenizer, template, system)
