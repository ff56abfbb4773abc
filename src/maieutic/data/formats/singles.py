"""Single rounds: one instruction and its answer (`alpaca`, `dolly`, `wizardlm`).

The material an instruction speaks of (`input`, `context`) follows it in the person's turn, after an empty line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maieutic.core.messages import Conversation, Role
from maieutic.data.corpus import key_list, to_conversation
from maieutic.data.formats.turns import as_object, from_turns, set_misfits_aside, set_prompt_aside, turn_list

_MATERIAL = ("input", "context")
_ANSWERS = ("output", "response")


def from_single(row: Any) -> Iterator[Conversation]:
    """`alpaca` (`instruction`, `input`, `output`) and `dolly` (`instruction`, `context`, `response`).

    All else, `category` among it, goes to `meta`; a `text` or `prompt` that only repeats the round is left out.
    """
    row = dict(as_object(row))
    keys = key_list(row)
    answer = next((name for name in _ANSWERS if row.get(name) is not None), None)
    if row.get("instruction") is None or answer is None:
        raise ValueError(f"no instruction with an output or a response (keys: {keys})")
    material = next((name for name in _MATERIAL if row.get(name)), None)
    asked, answered = _text(row, "instruction"), _text(row, answer)
    _drop_repetitions(row, asked, answered)
    if material:
        asked = f"{asked}\n\n{_text(row, material)}"
    for name in (*_MATERIAL, *_ANSWERS):
        if row.get(name) in (None, ""):
            row.pop(name, None)
    set_misfits_aside(row)
    turns = [{"role": Role.USER, "content": asked}, {"role": Role.ASSISTANT, "content": answered}]
    yield to_conversation({**row, "messages": turns})


def from_wizardlm(row: Any) -> Iterator[Conversation]:
    """WizardLM's evolved instructions: `instruction` and `output`, or `idx` and a list of `conversations`."""
    row = as_object(row)
    return from_single(row) if turn_list(row) is None else from_turns(row)


def _text(row: dict[str, Any], name: str) -> str:
    text = row.pop(name)
    if not isinstance(text, str):
        raise ValueError(f"{name}: not a text")
    return text


def _drop_repetitions(row: dict[str, Any], asked: str, answered: str) -> None:
    """Alpaca's `text` is the round once more inside a prompt template, some copies' `prompt` its first half."""
    text, prompt = row.get("text"), row.get("prompt")
    if isinstance(text, str) and asked and answered and asked in text and answered in text:
        del row["text"]
    set_prompt_aside(row, [prompt] if isinstance(prompt, str) and asked and asked in prompt else [])
