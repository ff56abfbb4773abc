"""Conversation → pieces, by a chat template or by one of our own frames.

A chat template is read by rendering it once for each order of roles, with a mark in place of every text: what stands
between the marks is the frame. It is refused where the frame of a turn depends on what comes after it, since then the
ids a model generates from are not those it was trained on. Where reading the template does not prove that it never
looks at a text (see `proof`), it is rendered for every conversation, and refused if it writes another frame there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from maieutic import prompts
from maieutic.errors import MissingExtra, MissingInput, NoTemplate, RenderError, UnstablePrefix
from maieutic.render.encode import Encoder, Piece
from maieutic.types import Role, Turn

KEEP = "Pass a template that writes every turn as it is, with --template FILE."
LAYOUTS = 1024
"""Orders of roles whose layout is kept."""
LABELS = {Role.USER: "User", Role.ASSISTANT: "Assistant"}
DYADIC = {Role.USER: "Human: ", Role.ASSISTANT: "Assistant: "}

WRAPPED = "{# maieutic: here begins the template as it was #}{{ '' }}"
WRAPPED_END = "{{ '' }}{# maieutic: here it ends #}"
"""What `serving` puts around a template whose generation prompt shall open the user's turn."""


Strip = Callable[[str], str]
AROUND = "\n\u2003\n"
"""White space put around a mark, to see what a template trims; no template writes an em space itself."""
LEFT: dict[str, Strip] = {AROUND: str, AROUND[1:]: lambda text: text.lstrip("\n"), "": str.lstrip}
RIGHT: dict[str, Strip] = {AROUND: str, AROUND[:-1]: lambda text: text.rstrip("\n"), "": str.rstrip}


def _strip(left: Strip, right: Strip) -> Strip:
    if left is str:
        return right
    return left if right is str else lambda text: right(left(text))


def _mark(index: int) -> str:
    return f"\ue000{index}\ue001"


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


class Layout(NamedTuple):
    """How conversations with one order of roles are written: pieces, those with a `turn` still without their text."""

    pieces: tuple[Piece, ...]
    frames: tuple[str, ...] = ()
    """What a chat template writes before, between and after the texts."""
    strips: tuple[Strip, ...] | None = None
    """What a chat template cuts off each text; null where that must be seen for each conversation."""


class ChatFrames:
    """A Jinja chat template, read by marks."""

    def __init__(self, tokenizer: Any, encoder: Encoder, text: str) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._text = text
        self._stable: dict[bool, None] = {}
        self._layouts: dict[str, Layout] = {}

    def layout(self, roles: Sequence[Role]) -> Layout:
        """How a conversation with these roles is written; each turn owns its text and the end of its turn."""
        key = "".join([role[0] for role in roles])
        if key not in self._layouts:
            if len(self._layouts) >= LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = self._read(roles)
        return self._layouts[key]

    def _read(self, roles: Sequence[Role]) -> Layout:
        self._check_stable(roles[0] == Role.SYSTEM)
        frames = self._frames(roles)
        self._check_one_shorter(roles, frames)
        self._encoder.learn_frame(frames)
        pieces: list[Piece] = []
        before = frames[0]
        for index, (role, after) in enumerate(zip(roles, frames[1:], strict=True)):
            following = roles[index + 1] if index + 1 < len(roles) else None
            if role == Role.SYSTEM:
                pieces += [Piece(before), Piece("", is_content=True, turn=index)]
                before = after
                continue
            opening = self._opening_end(before, role)
            closing, rest = self._closing(role, after, following)
            pieces += [Piece(before[:opening]), Piece(before[opening:], index, opens=True)]
            pieces += [Piece("", index, is_content=True, turn=index), Piece(closing, index)]
            before = rest
        pieces.append(Piece(before))
        strips = self._strips(roles, frames) if self._only_places else None
        return Layout(tuple(pieces), tuple(frames), strips)

    def texts(self, messages: Sequence[Turn], layout: Layout) -> list[str]:
        """Each turn's text as the template writes it: whole, or trimmed; anything else is refused."""
        if layout.strips is not None:
            texts = [strip(turn.content) for strip, turn in zip(layout.strips, messages, strict=True)]
            if all(texts) and not any(turn.content.isspace() for turn in messages):
                return texts
        try:
            return self._texts_as_written(messages, layout.frames)
        except UnstablePrefix:  # unless what the template writes has changed since, with the date say
            return self._texts_as_written(messages, self._frames([turn.role for turn in messages]))

    def pieces(self, messages: Sequence[Turn]) -> list[Piece]:
        """Frame and content of a whole conversation."""
        layout = self.layout([turn.role for turn in messages])
        return filled(layout.pieces, self.texts(messages, layout))

    def opening(self, messages: Sequence[Turn], role: Role) -> list[Piece]:
        """The pieces that generation of the next turn of `role` starts from, the conversation included."""
        return until_opening(self.pieces([*messages, Turn(role=role, content="x")]))

    def _render(self, rows: list[dict[str, str]], generate: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                rows, chat_template=self._text, tokenize=False, add_generation_prompt=generate
            )
        except ImportError as error:
            raise MissingExtra(f"chat templates need jinja2: {error}", "Run: pip install jinja2") from None
        except Exception as error:  # Jinja raises its own kinds, and templates raise what they like
            raise self._refusal(rows, error) from None
        return str(text)

    def _refusal(self, rows: list[dict[str, str]], error: Exception) -> RenderError:
        """What the template says, and what to do; a conversation that the assistant opens is a case of its own."""
        turns = [row for row in rows if row["role"] != Role.SYSTEM]
        if turns and turns[0]["role"] == Role.ASSISTANT:
            opened = [{"role": "user", "content": "x"}, *turns]
            try:
                self._tokenizer.apply_chat_template(opened, chat_template=self._text, tokenize=False)
            except Exception:
                return RenderError(f"the chat template refuses this conversation: {error}", KEEP)
            return RenderError(
                f"the assistant opens this conversation, which the chat template cannot write: {error}",
                "Drop its first turn (`maieutic clean` does), or pass another template with --template FILE.",
            )
        return RenderError(f"the chat template refuses this conversation: {error}", KEEP)

    def _marked(self, roles: Sequence[Role], around: str = "") -> str:
        return self._render(
            [
                {"role": role.value, "content": f"{around}{_mark(index)}{around}"}
                for index, role in enumerate(roles)
            ]
        )

    def _frames(self, roles: Sequence[Role]) -> list[str]:
        """What the template writes before, between and after the texts: one more than there are turns."""
        text = self._marked(roles)
        frames, rest = [], text
        for index, role in enumerate(roles):
            mark = _mark(index)
            frame, found, rest = rest.partition(mark)
            if not found or mark in rest:
                what = "swallows" if not found and mark not in text else "repeats or reorders"
                hint = f"Drop the {role.value} turn, or pass a template that writes every turn, with --template FILE."
                raise RenderError(f"the chat template {what} a {role.value} turn", hint)
            frames.append(frame)
        return [*frames, rest]

    @cached_property
    def _only_places(self) -> bool:
        from maieutic.render.proof import only_places

        return only_places(self._text)

    def _strips(self, roles: Sequence[Role], frames: Sequence[str]) -> tuple[Strip, ...] | None:
        """What is cut off each text, seen on marks with white space around them."""
        rest = self._marked(roles, AROUND)
        strips: list[Strip] = []
        if not rest.startswith(frames[0]):
            return None
        rest = rest[len(frames[0]) :]
        for index, frame in enumerate(frames[1:]):
            left, found, rest = rest.partition(_mark(index))
            right = next(kept for kept in (AROUND, AROUND[:-1], "") if rest.startswith(kept))
            rest = rest[len(right) :]
            if not found or left not in LEFT or not rest.startswith(frame):
                return None
            rest = rest[len(frame) :]
            strips.append(_strip(LEFT[left], RIGHT[right]))
        return None if rest else tuple(strips)

    def _texts_as_written(self, messages: Sequence[Turn], frames: Sequence[str]) -> list[str]:
        rendered = self._render([{"role": turn.role.value, "content": turn.content} for turn in messages])
        texts, position = [], len(frames[0])
        if not rendered.startswith(frames[0]):
            raise UnstablePrefix("the chat template's opening depends on what is said", KEEP)
        for number, (turn, after) in enumerate(zip(messages, frames[1:], strict=True), 1):
            for variant in dict.fromkeys(
                _strip(left, right)(turn.content) for left in LEFT.values() for right in RIGHT.values()
            ):
                if rendered.startswith(variant + after, position):
                    break
            else:
                raise UnstablePrefix(
                    f"the chat template rewrites turn {number} (a {turn.role.value} turn)", KEEP
                )
            texts.append(variant)
            position += len(variant) + len(after)
        if position != len(rendered):
            raise UnstablePrefix("the chat template's end depends on what is said", KEEP)
        return texts

    def _check_one_shorter(self, roles: Sequence[Role], frames: Sequence[str]) -> None:
        """Refuse a template that writes these turns otherwise without the last of them."""
        if len(roles) < 2 or roles[-2] == Role.SYSTEM:
            return
        try:
            shorter = self._frames(roles[:-1])
        except RenderError:  # a template may want an answer to every question
            return
        if list(frames[: len(shorter) - 1]) != shorter[:-1] or not frames[len(shorter) - 1].startswith(
            shorter[-1]
        ):
            raise UnstablePrefix("the chat template writes a turn otherwise once the next one follows", KEEP)

    def _check_stable(self, has_system: bool) -> None:
        """Refuse a template that writes a turn otherwise once more turns follow it."""
        if has_system in self._stable:
            return
        roles = ([Role.SYSTEM] if has_system else []) + [Role.USER, Role.ASSISTANT] * 3
        rows = [{"role": role.value, "content": _mark(index)} for index, role in enumerate(roles)]
        start = 2 if has_system else 1
        whole = [self._render(rows[:count]) for count in range(start, len(rows) + 1)]
        self._encoder.learn_frame(whole[-1:])
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


def filled(pieces: Sequence[Piece], texts: Sequence[str]) -> list[Piece]:
    """The pieces of a layout with their texts (of its first turns, where there are fewer)."""
    return [
        piece
        if piece.turn is None
        else piece._replace(text=texts[piece.turn] if piece.turn < len(texts) else "")
        for piece in pieces
    ]


def until_opening(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces before the last opening: what generation of that turn starts from."""
    return list(pieces[: max(index for index, piece in enumerate(pieces) if piece.opens)])


def dyadic_layout(roles: Sequence[Role], tokenizer: Any) -> Layout:
    """PlatoLM's frame: SYSTEM + `Human: <s>…</s>Assistant: <s>…</s>…`, nothing between turns."""
    bos, eos = _marks(tokenizer, "dyadic")
    system, turns = _system(roles)
    pieces = [
        Piece("", is_content=True, turn=system)
        if system is not None
        else Piece(prompts.load("dyadic").text, is_content=True)
    ]
    for index, role in turns:
        pieces += [Piece(DYADIC[role] + bos), Piece("", index, opens=True)]
        pieces += [Piece("", index, is_content=True, turn=index), Piece(eos, index)]
    return Layout(tuple(pieces))


def plain_layout(roles: Sequence[Role], tokenizer: Any) -> Layout:
    """A frame for models without a template: `User: …</s>` and `Assistant: …</s>`, a line each."""
    _, eos = _marks(tokenizer, "plain")
    system, turns = _system(roles)
    pieces = [Piece("", is_content=True, turn=system), Piece("\n\n")] if system is not None else []
    for index, role in turns:
        pieces += [Piece(f"{LABELS[role]}:"), Piece(" ", index, opens=True)]
        pieces += [Piece("", index, is_content=True, turn=index), Piece(eos, index), Piece("\n")]
    return Layout(tuple(pieces))


def _system(roles: Sequence[Role]) -> tuple[int | None, list[tuple[int, Role]]]:
    """The index of the leading system turn, and the other turns with theirs."""
    turns = list(enumerate(roles))
    system = turns.pop(0)[0] if turns and turns[0][1] == Role.SYSTEM else None
    if any(role == Role.SYSTEM for _, role in turns):
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
