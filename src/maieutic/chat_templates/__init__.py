"""Conversation + role → token ids and loss mask; the only package that knows chat templates."""

from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import (
    IGNORED,
    Rendered,
    add_end,
    end_id,
    prompt_ids,
    render,
    render_many,
    stop_ids,
    turn_end_id,
)
from maieutic.chat_templates.templates import serving_template

__all__ = [
    "END",
    "IGNORED",
    "Rendered",
    "add_end",
    "end_id",
    "prompt_ids",
    "render",
    "render_many",
    "serving_template",
    "stop_ids",
    "turn_end_id",
]
