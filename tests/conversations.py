"""Hypothesis strategies for conversations, and a way to run the data commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import typer
from hypothesis import strategies as st
from typer.testing import CliRunner

from maieutic.cli import generate
from maieutic.core.errors import MaieuticError
from maieutic.core.messages import Conversation, Message, Problem, Role
from maieutic.data.steps import Clean, Convert, Decontaminate, Import, Split, Stats

TEXT = st.text(max_size=40)
ROLE = st.sampled_from([Role.SYSTEM, Role.USER, Role.ASSISTANT])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SAFE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MAYBE = st.none() | SAFE


@st.composite
def conversations(draw: st.DrawFn, words: Any = TEXT) -> Conversation:
    turns = tuple(Message(role=draw(ROLE), content=draw(words)) for _ in range(draw(st.integers(1, 6))))
    meta = draw(
        st.dictionaries(
            SAFE.filter(lambda key: key not in ("turns", "opens", "prompt", "tree")), SAFE, max_size=2
        )
    )
    return Conversation(
        id=draw(SAFE),
        messages=turns,
        intent=draw(MAYBE),
        user_id=draw(st.none() | st.sampled_from(["ann", "bo"])),
        problem=draw(st.none() | st.builds(Problem, statement=SAFE, attempt=MAYBE, answer=MAYBE)),
        source=draw(MAYBE),
        ended=draw(st.booleans()),
        meta=meta,
    )


def talk(*texts: str, first: str = "user", **fields: Any) -> Conversation:
    """A conversation that alternates."""
    order = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    messages = [{"role": order[n % 2], "content": text} for n, text in enumerate(texts)]
    return Conversation.model_validate({"messages": messages, **fields})


def run(*args: object) -> tuple[int, str, str]:
    """Exit code, standard output and what went to standard error or was raised for it."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    generate.add({"": app}, (Import, Clean, Split, Decontaminate, Stats, Convert), {})
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if isinstance(result.exception, MaieuticError):
        return 1, result.stdout, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def write_lines(path: Path, *rows: Any) -> Path:
    """JSONL of the rows; bytes are written as they are."""
    path.write_bytes(b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows))
    return path
