"""What an MT-Bench judge is asked: our own wording by default, or a file of FastChat's `judge_prompts.jsonl` form.

Ours fences every text with a mark that stands in none of them. A file's templates are filled as they are, in one
pass, so that a published protocol stays what it is; their frame is fixed, and a text can imitate it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import prompts
from maieutic.core.errors import InputError
from maieutic.core.messages import Message, Role, fingerprint
from maieutic.core.prompts import fenced
from maieutic.evals.files import read_table
from maieutic.evals.mt_files import Question

_FASTCHAT = {"single": ("single-v1", "single-math-v1"), "pair": ("pair-v2", "pair-math-v1")}
_VERDICT = {"single": "[[rating]]", "pair": "[[A]]"}
_OURS = {"single": "mt_bench_single", "pair": "mt_bench_pair"}
_PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")


class Asked(NamedTuple):
    """One question to a judge."""

    name: str
    """Of the prompt; stands in the judgment's `judge`."""
    system: str
    user: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """As a model takes them."""
        system = (Message(role=Role.SYSTEM, content=self.system),) if self.system.strip() else ()
        return (*system, Message(role=Role.USER, content=self.user))


class Prompts(NamedTuple):
    """The prompts of one kind of judging."""

    kind: str
    """`single` or `pair`."""
    templates: dict[str, dict[str, Any]] | None
    """A file's, by name; null: ours."""

    @property
    def hash(self) -> str:
        """Of every wording that could be used."""
        return fingerprint(self.templates or prompts.load(_OURS[self.kind]).hash)[:16]

    def ask(self, question: Question, turn: int, answers: Sequence[Sequence[str]]) -> Asked:
        """What is asked about a turn (1 the first) of one or two models' answers, in the order shown."""
        reference = question.reference[:turn] if len(question.reference) >= turn else ()
        if self.templates is None:
            return self._ours(question, turn, answers, reference)
        name = _FASTCHAT[self.kind][bool(reference)] + ("-multi-turn" if turn > 1 else "")
        template = self.templates[name]
        values = _values(question, turn, answers, reference)
        return Asked(name, template["system_prompt"], _filled(template["prompt_template"], values, name))

    def _ours(
        self, question: Question, turn: int, answers: Sequence[Sequence[str]], reference: Sequence[str]
    ) -> Asked:
        parts: list[tuple[str, str]] = []
        for place in range(turn):
            parts.append((f"question {place + 1}", question.turns[place]))
            if reference:
                parts.append((f"reference answer to question {place + 1}", reference[place]))
        wanted = "TO BE RATED" if self.kind == "single" else "TO BE COMPARED"
        for who, turns in zip(("A", "B") if self.kind == "pair" else ("",), answers, strict=True):
            for place in range(turn):
                title = f"{f'assistant {who}, ' if who else ''}answer to question {place + 1}"
                parts.append((f"{wanted}: {title}" if place + 1 == turn else title, turns[place]))
        mark, material = fenced(parts)
        name = f"maieutic-{self.kind}{'-math' if reference else ''}-v1{'-multi-turn' if turn > 1 else ''}"
        return Asked(name, "", prompts.load(_OURS[self.kind]).fill(mark=mark, material=material))


def load(kind: str, path: Path | None = None) -> Prompts:
    """Our prompts of a kind, or those of a file.

    Raises:
        MissingInput, InputError: the file cannot be read, or lacks one of the four it must hold.
    """
    if path is None:
        return Prompts(kind, None)
    found = {str(row.get("name")): row for row in read_table(path).rows}
    names = [name + turns for name in _FASTCHAT[kind] for turns in ("", "-multi-turn")]
    for name in names:
        row = found.get(name, {})
        if not all(isinstance(row.get(key), str) for key in ("system_prompt", "prompt_template")):
            raise InputError(f"{path}: no prompt {name!r}", f"Give all of {', '.join(names)}.")
        if row.get("output_format") != _VERDICT[kind]:
            raise InputError(
                f"{path}: {name} has its verdict as {row.get('output_format')!r}",
                f"Known is {_VERDICT[kind]}.",
            )
    return Prompts(kind, {name: found[name] for name in names})


def _values(
    question: Question, turn: int, answers: Sequence[Sequence[str]], reference: Sequence[str]
) -> dict[str, str]:
    """The texts under the names that FastChat's templates have for them."""
    sides = ("",) if len(answers) == 1 else ("_a", "_b")
    shown = dict(zip(sides, answers, strict=True))
    values = {f"ref_answer_{place}": text for place, text in enumerate(reference, 1)}
    if turn == 1:
        return values | {"question": question.turns[0]} | {f"answer{s}": own[0] for s, own in shown.items()}
    for place in range(turn):
        values[f"question_{place + 1}"] = question.turns[place]
        values |= {f"answer{side}_{place + 1}": turns[place] for side, turns in shown.items()}
    return values


def _filled(template: str, values: Mapping[str, str], name: str) -> str:
    """The template with its places filled in one pass; a doubled brace is one brace, as `str.format` has it.

    Raises:
        InputError: it has a place that there is no text for.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in values:
            raise InputError(f"prompt {name}: no text for {{{match[1]}}}", f"Known: {', '.join(values)}.")
        return values[match[1]]

    return _PLACE.sub(value, template)
