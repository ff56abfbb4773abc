"""maieutic: train either side of a conversation.

    from maieutic import Conversation, render

The public names are these, and nothing else is promised; everything else is imported from its own module.
Heavy names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maieutic.core.errors import MaieuticError
from maieutic.core.messages import Conversation, Message, Problem, Role, Sampling

if TYPE_CHECKING:
    from maieutic.chat_templates import render
    from maieutic.core.rows import PreferenceRow
    from maieutic.data.corpus import read_corpus, write_corpus
    from maieutic.models import load as load_model

__version__ = "0.1.0"

_LAZY = {
    "PreferenceRow": ("maieutic.core.rows", "PreferenceRow"),
    "render": ("maieutic.chat_templates", "render"),
    "load_model": ("maieutic.models", "load"),
    "read_corpus": ("maieutic.data.corpus", "read_corpus"),
    "write_corpus": ("maieutic.data.corpus", "write_corpus"),
}

__all__ = [
    "Conversation",
    "MaieuticError",
    "Message",
    "PreferenceRow",
    "Problem",
    "Role",
    "Sampling",
    "__version__",
    "load_model",
    "read_corpus",
    "render",
    "write_corpus",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
