"""Conversation + role → token ids and loss mask; the only package that knows chat templates.

The names are imported when first used, since they need numpy, which a command's help does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {"END": "encode", "serving_template": "templates"}
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'rendering')}"), name)
