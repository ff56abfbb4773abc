"""As much of Go's text/template as our Modelfiles use: variables, range, if with eq, fields, strings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Node = tuple[Any, ...]


def execute(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama would make of a template and messages.

    Raises:
        ValueError: it uses something that this does not know.
    """
    parts = iter(re.split(r"(\{\{.*?\}\})", template, flags=re.S))
    tree, end = _block(parts)
    if end:
        raise ValueError(f"{end} outside of a block")
    return "".join(_run(tree, {"": {"Messages": messages}}))


def _block(parts: Iterator[str]) -> tuple[list[Node], str]:
    """The nodes up to the `end` or `else` that closes them, and that word."""
    nodes: list[Node] = []
    for part in parts:
        if not part.startswith("{{"):
            nodes.append(("text", part))
            continue
        words = part[2:-2].strip()
        if words == "end" or words.startswith("else"):
            return nodes, words
        nodes.append(_opened(words, parts) if words.startswith(("if ", "range ")) else ("value", words))
    return nodes, ""


def _opened(words: str, parts: Iterator[str]) -> Node:
    kind, _, what = words.partition(" ")
    body, end = _block(parts)
    other: list[Node] = []
    if end.startswith("else if "):
        other = [_opened(end.removeprefix("else "), parts)]
    elif end == "else":
        other, end = _block(parts)
        if end != "end":
            raise ValueError(f"{end} after else")
    return kind, what, body, other


def _run(nodes: list[Node], scope: dict[str, Any]) -> Iterator[str]:
    for node in nodes:
        if node[0] == "text":
            yield node[1]
        elif node[0] == "value":
            if match := re.fullmatch(r"(\$\w+) :?= (.+)", node[1]):
                scope[match[1]] = _value(match[2], scope)
            else:
                yield _value(node[1], scope)
        elif node[0] == "range":
            outer = scope[""]
            for item in _value(node[1], scope):
                scope[""] = item
                yield from _run(node[2], scope)
            scope[""] = outer
        else:
            called, first, second = re.fullmatch(r"(eq) (\S+) (\S+)", node[1]).groups()  # type: ignore[union-attr]
            assert called == "eq"
            yield from _run(node[2] if _value(first, scope) == _value(second, scope) else node[3], scope)


def _value(text: str, scope: dict[str, Any]) -> Any:
    if text.startswith('"'):
        return json.loads(text)
    if text.startswith("$"):
        return scope[text]
    if text in (".Messages", ".Role", ".Content"):
        held = scope[""]
        return held[text[1:]] if text == ".Messages" else held[text[1:].lower()]
    raise ValueError(f"unknown: {text}")
