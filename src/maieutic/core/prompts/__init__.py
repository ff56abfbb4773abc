"""Every prompt, one Markdown file each, filled in one pass.

A placeholder is `{{name}}`. Single braces mean nothing, so LaTeX and JSON stand in prompts as they are; and what a
user wrote is never read again for placeholders, so nobody can smuggle one in.
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
    """A prompt's text and the hash that stands in every key and row it decides."""

    name: str
    text: str
    hash: str

    def fill(self, **values: str) -> str:
        """The text with each placeholder replaced, in one pass.

        Raises:
            InputError: a placeholder has no value, or a value no placeholder.
        """
        names = set(_PLACEHOLDER.findall(self.text))
        if names != values.keys():
            wrong = ", ".join(sorted(names ^ values.keys()))
            raise InputError(
                f"prompt {self.name}: placeholders and values differ in {wrong}", "Name them alike."
            )
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


@cache
def load(name: str) -> Prompt:
    """A prompt by name (one of this folder) or by path (a file ending in `.md`)."""
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
    """A mark made from the texts that stands in none of them: a fence no text can close. Same texts, same mark."""
    mark = fingerprint(list(texts))[:12]
    while any(mark in text for text in texts):
        mark = fingerprint(mark)[:12]
    return mark


def fenced(parts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """A mark that stands in none of the texts, and the titled texts between lines that carry it."""
    mark = mark_for([text for _, text in parts])
    return mark, "\n\n".join(f"--- {mark} {title} ---\n{text}\n--- {mark} end ---" for title, text in parts)
