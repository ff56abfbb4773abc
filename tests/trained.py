"""A tiny user simulator, trained for real in some seconds, for the tests that serve one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs import sft_job
from tiny import tiny_checkpoint

from maieutic.core.messages import Conversation
from maieutic.data.corpus import write_corpus

PUPILS = {"one": ("a half", "\\frac{1}{2}"), "two": ("a sum", "$a+b$ 🙂"), "three": ("a root", "\\sqrt{x}")}


def talk(pupil: str) -> list[dict[str, str]]:
    """What a pupil says, and is told."""
    name, sign = PUPILS[pupil]
    return [
        {"role": "system", "content": f"You are pupil {pupil}."},
        {"role": "user", "content": f"What is {name} in {{LaTeX}}?"},
        {"role": "assistant", "content": "Which sign would you try first?"},
        {"role": "user", "content": sign},
        {"role": "assistant", "content": "Yes."},
    ]


def simulator(folder: Path, **more: Any) -> Path:
    """Train it on `folder/talks.jsonl`, which is written too; the run's folder."""
    rows = [{"messages": talk(pupil), "ended": True, "licence": "CC0-1.0"} for pupil in PUPILS]
    write_corpus(folder / "talks.jsonl", [Conversation.model_validate(row) for row in rows])
    base = tiny_checkpoint(folder / "base", hidden=64, context=512)
    known = {"role": "user", "batch_size": 3, "epochs": 60, "learning_rate": 1e-2}
    sft_job(model=f"hf/{base}", data=folder / "talks.jsonl", out=folder / "run", **{**known, **more}).run()
    return folder / "run"
