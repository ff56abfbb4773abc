"""Conversation → pieces, by a chat template or by one of our own frames.

A chat template is read by rendering it once with a mark in place of every text: what stands between the marks is the
frame. It is refused where the frame of a turn depends on what comes after it, since then the ids a model generates
from are not those it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from maieutic import prompts
from maieutic.errors import MissingInput, NoTemplate, RenderError, UnstablePrefix
from maieutic.render.encode import Encoder, Piece
from maieutic.types import Role, Turn

KEEP = "Pass a template that writes every turn as it is, with --template FILE."
LABELS = {Role.USER: "User", Role.ASSISTANT: "Assistant"}
DYADIC = {Role.USER: "Human: ", Role.ASSISTANT: "Assistant: "}

WRAPPED = "{# maieutic: here begins the template as it was #}{{ '' }}"
WRAPPED_END = "{{ '' }}{# maieutic: here it ends #}"
"""What `serving` puts around a template whose generation prompt shall open the user's turn."""


def template_text(tokenizer: Any, template: str | None) -> str:
    """The Jinja text that `template` means: the tokenizer's own, or a file's."""
    if template in (None, "chat"):
        text = tokenizer.chat_template
        if isinstance(text, dict):
            text = text.get("default")
        if not text:
            raise NoTemplate(
                "the tokenizer carries no chat template", "Pass --template dyadic, plain or a Jinja file."
            )
        return unwrapped(str(text))
    path = Path(str(template))
    if not path.is_file():
        raise MissingInput(
            f"template {template!r}: no such file", "Give chat, dyadic, plain or a Jinja file."
        )
    return unwrapped(path.read_text(encoding="utf-8"))


def unwrapped(text: str) -> str:
    """The template inside one that opens the user's turn (see `serving`)."""
    if WRAPPED not in text:
        return text
    return text.split(WRAPPED, 1)[1].split(WRAPPED_END, 1)[0]


class ChatFrames:
    """A Jinja chat template, read by marks."""

    def __init__(self, tokenizer: Any, encoder: Encoder, text: str) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._text = text
        self._stable: dict[bool, None] = {}

    def pieces(self, messages: Sequence[Turn]) -> list[Piece]:
        """Frame and content of a whole conversation; each turn owns its text and the end of its turn."""
        self._check_stable(messages[0].role == Role.SYSTEM)
        frames = self._frames([turn.role for turn in messages])
        texts = self._texts_as_written(messages, frames)
        pieces: list[Piece] = []
        before = frames[0]
        for index, (turn, text, after) in enumerate(zip(messages, texts, frames[1:], strict=True)):
            following = messages[index + 1].role if index + 1 < len(messages) else None
            opening = self._opening_end(before, turn.role)
            pieces += [
                Piece(before[:opening]),
                Piece(before[opening:], index, opens=turn.role != Role.SYSTEM),
            ]
            closing, before = self._closing(turn.role, after, following)
            pieces += [Piece(text, index, is_content=True), Piece(closing, index)]
        return [*pieces, Piece(before)]

    def opening(self, messages: Sequence[Turn], role: Role) -> list[Piece]:
        """The pieces that generation of the next turn of `role` starts from, the conversation included."""
        whole = self.pieces([*messages, Turn(role=role, content="x")])
        last = max(index for index, piece in enumerate(whole) if piece.opens)
        return whole[:last]

    def _render(self, rows: list[dict[str, str]], generate: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                rows, chat_template=self._text, tokenize=False, add_generation_prompt=generate
            )
        except Exception as error:  # Jinja raises its own kinds, and templates raise what they like
            raise RenderError(f"the chat template refuses this conversation: {error}", KEEP) from None
        return str(text)

    def _frames(self, roles: Sequence[Role]) -> list[str]:
        """What the template writes before, between and after the texts: one more than there are turns."""
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        text = self._render(
            [{"role": role.value, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        )
        frames, rest = [], text
        for role, mark in zip(roles, marks, strict=True):
            frame, found, rest = rest.partition(mark)
            if not found or mark in rest:
                what = "swallows" if not found and mark not in text else "repeats or reorders"
                raise RenderError(f"the chat template {what} a {role.value} turn", KEEP)
            frames.append(frame)
        return [*frames, rest]

    def _texts_as_written(self, messages: Sequence[Turn], frames: Sequence[str]) -> list[str]:
        """Each turn's text as the template writes it: whole, or trimmed; anything else is refused."""
        rendered = self._render([turn.model_dump(mode="json") for turn in messages])
        texts, position = [], len(frames[0])
        if not rendered.startswith(frames[0]):
            raise UnstablePrefix("the chat template's opening depends on what is said", KEEP)
        for number, (turn, after) in enumerate(zip(messages, frames[1:], strict=True), 1):
            text = turn.content
            for variant in dict.fromkeys(
                (text, text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"))
            ):
                if rendered.startswith(variant + after, position):
                    break
            else:
                raise UnstablePrefix(
                    f"the chat template rewrites turn {number} (a {turn.role.value} turn)", KEEP
                )
            texts.append(variant)
            position += len(variant) + len(after)
        return texts

    def _check_stable(self, has_system: bool) -> None:
        """Refuse a template that writes a turn otherwise once more turns follow it."""
        if has_system in self._stable:
            return
        roles = ([Role.SYSTEM] if has_system else []) + [Role.USER, Role.ASSISTANT] * 3
        rows = [{"role": role.value, "content": f"\ue000{index}\ue001"} for index, role in enumerate(roles)]
        start = 2 if has_system else 1
        whole = [self._render(rows[:count]) for count in range(start, len(rows) + 1)]
        for shorter, longer in pairwise(whole):
            if not longer.startswith(shorter):
                raise UnstablePrefix(
                    "the chat template writes a turn otherwise once the next one follows", KEEP
                )
        for count in range(start, len(rows), 2):
            prompt = self._render(rows[:count], generate=True)
            if not self._render(rows[: count + 1]).startswith(prompt):
                raise UnstablePrefix(
                    "the chat template's generation prompt is not how it writes the assistant's turn", KEEP
                )
        self._stable[has_system] = None

    def _opening_end(self, frame: str, role: Role) -> int:
        """Where in the frame before a text the turn's opening ends; spaces after it belong to the first token."""
        if role != Role.ASSISTANT:
            return len(frame.rstrip(" "))
        prompt = self._generation_prompt
        return len(frame) if prompt and frame.endswith(prompt) else len(frame.rstrip(" "))

    @cached_property
    def _generation_prompt(self) -> str:
        rows = [{"role": "user", "content": "\ue000"}]
        return self._render(rows, generate=True)[len(self._render(rows)) :]

    def _closing(self, role: Role, after: str, following: Role | None) -> tuple[str, str]:
        """The end of a turn (up to its first control token), and the frame that is left."""
        if role == Role.SYSTEM:
            return "", after
        match = self._encoder.first_control(after)
        if match:
            return after[: match.end()], after[match.end() :]
        if following is None:  # some templates write the end of a human turn only with what follows it
            canonical = self._canonical_closing(role)
            return (after, "") if after.strip() else (canonical, "")
        prompt = self._generation_prompt.rstrip(" ") if following == Role.ASSISTANT else ""
        closing = after.rstrip(" ").removesuffix(prompt) if prompt else after.rstrip(" ")
        if not closing:
            raise RenderError(f"the chat template has no end for the {role.value}'s turn", KEEP)
        return closing, after[len(closing) :]

    def _canonical_closing(self, role: Role) -> str:
        roles = [Role.USER, Role.ASSISTANT, Role.USER]
        index = roles.index(role)
        return self._closing(role, self._frames(roles)[index + 1], roles[index + 1])[0]


def dyadic_pieces(messages: Sequence[Turn], tokenizer: Any) -> list[Piece]:
    """PlatoLM's frame: SYSTEM + `Human: <s>…</s>Assistant: <s>…</s>…`, nothing between turns."""
    bos, eos = _marks(tokenizer, "dyadic")
    system, turns = _system(messages)
    pieces = [Piece(prompts.load("dyadic").text if system is None else system, is_content=True)]
    for index, turn in turns:
        pieces += [Piece(DYADIC[turn.role] + bos), Piece("", index, opens=True)]
        pieces += [Piece(turn.content, index, is_content=True), Piece(eos, index)]
    return pieces


def plain_pieces(messages: Sequence[Turn], tokenizer: Any) -> list[Piece]:
    """A frame for models without a template: `User: …</s>` and `Assistant: …</s>`, a line each."""
    _, eos = _marks(tokenizer, "plain")
    system, turns = _system(messages)
    pieces = [Piece(f"{system}\n\n", is_content=True)] if system else []
    for index, turn in turns:
        pieces += [Piece(f"{LABELS[turn.role]}:"), Piece(" ", index, opens=True)]
        pieces += [Piece(turn.content, index, is_content=True), Piece(eos, index), Piece("\n")]
    return pieces


def _system(messages: Sequence[Turn]) -> tuple[str | None, list[tuple[int, Turn]]]:
    """The leading system text, and the other turns with their indices."""
    turns = list(enumerate(messages))
    system = None
    if turns and turns[0][1].role == Role.SYSTEM:
        system = turns.pop(0)[1].content
    if any(turn.role == Role.SYSTEM for _, turn in turns):
        raise RenderError(
            "a system turn stands inside the conversation", "Put it first, or use a chat template."
        )
    return system, turns


def _marks(tokenizer: Any, name: str) -> tuple[str, str]:
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    if not eos or (not bos and name == "dyadic"):
        raise RenderError(
            f"the {name} frame needs the tokenizer's own {'BOS and EOS' if name == 'dyadic' else 'EOS'}",
            "Set bos_token and eos_token in the tokenizer, or use its chat template.",
        )
    return bos or "", eos
