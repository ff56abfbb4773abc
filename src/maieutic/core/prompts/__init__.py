"""The prompts. Each is a Markdown file whose placeholders are filled in one pass.

A placeholder is `{{name}}`. Single braces have no meaning, so prompts may contain LaTeX and JSON. Inserted text is not
searched for placeholders, so a placeholder in a user's text is not filled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from maieutic.core.errors import InputError, MissingInput
from maieutic.core.messages import fingerprint

_PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}")


class Prompt(NamedTuple):
    """A prompt's text, and its hash, which is part of the key of every row that depends on it."""

    name: str
    text: str
    hash: str

    def fill(self, **values: str) -> str:
        """The text with every placeholder replaced, in one pass.

        Raises:
            InputError: a placeholder has no value, or a value has no placeholder.
        """
        names = set(_PLACEHOLDER.findall(self.text))
        if names != values.keys():
            wrong = ", ".join(sorted(names ^ values.keys()))
            raise InputError(
                f"prompt {self.name}: placeholders and values differ in {wrong}",
                "Give both the same names.",
            )
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


@cache
def load(name: str) -> Prompt:
    """Load a prompt by name (a file in this folder) or by path (a file that ends in `.md`)."""
    path = Path(name) if name.endswith(".md") else files(__package__) / f"{name}.md"
    if not path.is_file():
        known = ", ".join(
            sorted(file.name[:-3] for file in files(__package__).iterdir() if file.name.endswith(".md"))
        )
        raise MissingInput(f"no prompt {name!r}", f"Known: {known}; or give the path of a .md file.")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise InputError(f"prompt {name}: not UTF-8", "Save the file as UTF-8 text.") from None
    return Prompt(name, text, hashlib.sha256(text.encode()).hexdigest()[:16])


def mark_for(texts: Sequence[str]) -> str:
    """A marker that occurs in no text, so that no text can end its own section. The same texts give the same marker."""
    mark = fingerprint(list(texts))[:12]
    while any(mark in text for text in texts):
        mark = fingerprint(mark)[:12]
    return mark


def fenced(parts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """A marker that occurs in no text, and the texts as titled sections between lines with the marker."""
    mark = mark_for([text for _, text in parts])
    return mark, "\n\n".join(f"--- {mark} {title} ---\n{text}\n--- {mark} end ---" for title, text in parts)
