"""Every known format by name, and which of them a value looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from maieutic.core.messages import Conversation
from maieutic.data.formats.logs import from_baize, from_log, from_ultrachat, is_transcript
from maieutic.data.formats.problem import from_problems, is_problem
from maieutic.data.formats.singles import from_single, from_wizardlm
from maieutic.data.formats.turns import from_oasst, from_turns, turn_list
from maieutic.data.formats.tutoring import from_bridge, from_mathdial, from_seeds, from_tutorchat

FORMATS: dict[str, Callable[[Any], Iterator[Conversation]]] = {
    "messages": from_turns,
    "sharegpt": from_turns,
    "oasst": from_oasst,
    "mathdial": from_mathdial,
    "bridge": from_bridge,
    "socratic-llm": from_seeds,
    "socratic-debugging": from_seeds,
    "tutorchat": from_tutorchat,
    "problems": from_problems,
    "alpaca": from_single,
    "dolly": from_single,
    "wizardlm": from_wizardlm,
    "ultrachat": from_ultrachat,
    "baize": from_baize,
    "wildchat": from_log,
    "lmsys": from_log,
}
"""Every format by the name the command line knows."""


def guess(value: Any) -> str | None:
    """The format a JSON value looks like, by its keys; None where it looks like none."""
    if isinstance(value, str):
        if is_transcript(value):
            return "baize"
        return "socratic-debugging" if "<dialogue>" in value else "socratic-llm"
    if not isinstance(value, dict):
        return None
    name = turn_list(value)
    if name is not None and value[name]:
        return _guess_list(value, name)
    if "instruction" in value and ("response" in value or "output" in value):
        return "dolly" if "response" in value else "alpaca"
    return _guess_rest(value, name)


def _guess_list(row: Mapping[str, Any], name: str) -> str | None:
    first = row[name][0]
    if isinstance(first, str) and name == "conversation" and "mode" in row:
        return "tutorchat"
    if not isinstance(first, dict):
        return None
    if name == "conversation" and ("openai_moderation" in row or "conversation_hash" in row):
        wild = "conversation_hash" in row or "timestamp" in row or "toxic" in row
        return "wildchat" if wild else "lmsys"
    if name == "messages" and "prompt_id" in row:
        return "ultrachat"
    if name == "conversations" and "idx" in row:
        return "wizardlm"
    return "sharegpt" if name == "items" or "from" in first else "messages"


def _guess_rest(row: Mapping[str, Any], name: str | None) -> str | None:
    if isinstance(row.get("prompt"), dict):
        return "oasst"
    if isinstance(row.get("prompt"), str) and name is None:
        return "socratic-llm"
    if isinstance(row.get("c_h"), list):
        return "bridge"
    if isinstance(row.get("conversation"), str) and "question" in row:
        return "mathdial"
    if isinstance(row.get("data"), list) and all(isinstance(text, str) for text in row["data"]):
        return "ultrachat"
    if any(is_transcript(row.get(key)) for key in ("input", "chat_sample", "text")):
        return "baize"
    if name is not None:
        return "sharegpt" if name == "items" else "messages"
    return "problems" if is_problem(row) else None
