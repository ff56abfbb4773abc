"""Small train and test lists of the real seed prompts, some test items given away on purpose, and how many."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SETS = ("mathdial", "tutorchat", "debugging")


class Lists(NamedTuple):
    """The files of each set, and how its own train list gives its test items away."""

    train: dict[str, Path]
    test: dict[str, Path]
    leaks: dict[str, dict[str, int]]


def write_lists(data: Path, folder: Path, train: int, test: int, longest: int = 9000) -> Lists:
    """`train` prompts of each set to train on, `test` others to test on, and before these what was given away.

    One test item is a train item to the byte. One more is a train item with another last word of the student: near. In
    Debugging, one more has the program of a train item under another statement and dialogue.
    """
    made = Lists({}, {}, {})
    for name in SETS:
        listed = json.loads((data / "socratic-llm" / f"{name}_train.json").read_text(encoding="utf-8"))
        found = different([prompt for prompt in listed if len(prompt) <= longest])
        kept, unseen = found[:train], found[train : train + test]
        given = {"exact": kept[0], "near": kept[1] + " indeed"}
        if name == "debugging":
            given["program"] = _same_program(kept[2])
        rows = {"train": kept, "test": [*given.values(), *unseen]}
        for part, files in (("train", made.train), ("test", made.test)):
            files[name] = folder / f"{name}_{part}.json"
            files[name].write_text(json.dumps(rows[part]), encoding="utf-8")
        made.leaks[name] = dict.fromkeys(given, 1)
    return made


def different(prompts: Sequence[str], least: int = 60) -> list[str]:
    """The prompts that share no problem, program or beginning with one before, so that no leak is there by chance."""
    seen: set[str] = set()
    kept = []
    for prompt in prompts:
        keys = [_program(prompt), _squeezed(prompt)[40 : 40 + least], *_sentences(prompt)]
        if not seen.intersection(keys):
            kept.append(prompt)
        seen.update(keys)
    return kept


def _program(prompt: str) -> str:
    code = re.search(r"<bug_code>(.*?)</bug_code>", prompt, re.DOTALL)
    return _squeezed(code[1]) if code else _squeezed(prompt)


def _sentences(prompt: str) -> list[str]:
    problem = re.search(r"<problem>(.*?)</problem>|the text: (.*?) Here is my solution", prompt, re.DOTALL)
    return [_squeezed(problem[0])] if problem else []


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _same_program(prompt: str) -> str:
    code = re.search(r"<bug_code>.*?</bug_code>", prompt, re.DOTALL)
    assert code
    return (
        f"<problem>\nSay what the function below gives for small inputs.\n</problem>\n{code[0]}\n"
        "<bug_desc>\nUnknown.\n</bug_desc>\n<bug_fixes>\nUnknown.\n</bug_fixes>User: What is wrong with it?\nAssistant: "
    )
