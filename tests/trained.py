"""A tiny user simulator, trained for real in some seconds, for the tests that serve one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import tiny_checkpoint

from maieutic.data.corpus import write_corpus
from maieutic.train.config import SftConfig
from maieutic.train.sft import sft
from maieutic.types import Conversation


def simulator(folder: Path, **more: Any) -> Path:
    """Train it on `folder/talks.jsonl`, which is written too; the run's folder."""
    talks = [
        Conversation.model_validate(
            {
                "messages": [
                    {"role": "user", "content": f"What is {name} in {{LaTeX}}?"},
                    {"role": "assistant", "content": "Which sign would you try first?"},
                    {"role": "user", "content": sign},
                    {"role": "assistant", "content": "Yes."},
                ],
                "ended": True,
                "licence": "CC0-1.0",
            }
        )
        for name, sign in (("a half", "\\frac{1}{2}"), ("a sum", "$a+b$ 🙂"), ("a root", "\\sqrt{x}"))
    ]
    write_corpus(folder / "talks.jsonl", talks)
    base = tiny_checkpoint(folder / "base", hidden=64, context=512)
    known = {"role": "user", "batch": 3, "epochs": 40, "learning_rate": 1e-2}
    sft(SftConfig(model=f"hf/{base}", data=folder / "talks.jsonl", out=folder / "run", **{**known, **more}))
    return folder / "run"
