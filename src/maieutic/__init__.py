"""maieutic: train either side of a conversation.

    from maieutic import Conversation, render

The public names are these, and nothing else is promised. The heavy ones are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maieutic.errors import MaieuticError
from maieutic.render import render  # eager: the function must win over the room of the same name
from maieutic.types import Conversation, Preference, Problem, Role, Sampling, Turn

if TYPE_CHECKING:
    from maieutic.data.corpus import read_corpus, write_corpus
    from maieutic.models import load as load_model
    from maieutic.prefer import prefer
    from maieutic.simulate import simulate

__version__ = "0.1.0"

_LAZY = {
    "load_model": ("maieutic.models", "load"),
    "prefer": ("maieutic.prefer", "prefer"),
    "read_corpus": ("maieutic.data.corpus", "read_corpus"),
    "simulate": ("maieutic.simulate", "simulate"),
    "write_corpus": ("maieutic.data.corpus", "write_corpus"),
}

__all__ = [
    "Conversation", "MaieuticError", "Preference", "Problem", "Role", "Sampling", "Turn", "__version__",
    "load_model", "prefer", "read_corpus", "render", "simulate", "write_corpus",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
