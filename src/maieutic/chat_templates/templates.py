"""Split a conversation into pieces with a chat template, and save templates with trained checkpoints.

A chat template is rendered once for each order of roles, with a marker in place of every message text. The text between
the markers is the frame. A template is refused if the frame of a turn depends on later turns, since the prompt ids in
generation would then differ from the ids in training. The template is also rendered for every conversation. It is
refused if it writes another frame there, or changes a message text in any way other than trimming.

A trained checkpoint is saved with a template from `serving_template`, so that any server generates the trained side.
The generation prompt of a user simulator opens the *user's* turn, so a server for chat models generates user turns. The
template accepts a chat that ends with an assistant turn. It also accepts a chat of one system message, from which the
simulator writes a first turn; many templates refuse such a chat. If training put a system text before every
conversation, the template adds this text to chats without a system message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from maieutic.chat_templates.encode import Encoder, Piece
from maieutic.chat_templates.layout import DYADIC, LABELS, Layout, filled, until_opening
from maieutic.core import prompts
from maieutic.core.errors import (
    BadMask,
    InputError,
    MissingExtra,
    MissingInput,
    NoTemplate,
    RenderError,
    UnstablePrefix,
)
from maieutic.core.messages import Message, Role

KEEP = "Pass a template that writes every turn as it is, with --template FILE."
MERGE = "Merge neighbours of one role (`maieutic clean` does), or pass another template with --template FILE."

WRAPPED = "{# maieutic: here begins the template as it was #}{{ '' }}"
WRAPPED_END = "{{ '' }}{# maieutic: here it ends #}"
"""`serving_template` puts these around the original template of a user simulator."""


def _mark(index: int) -> str:
    return f"\ue000{index}\ue001"


def template_text(tokenizer: Any, template: str | None) -> str:
    """The Jinja text of `template`: the tokenizer's chat template, or a file."""
    if template in (None, "chat"):
        text = tokenizer.chat_template
        if isinstance(text, dict):
            text = text.get("default")
        if not text:
            raise NoTemplate(
                "the tokenizer has no chat template", "Pass --template dyadic, plain or a Jinja file."
            )
        return unwrapped(str(text))
    return unwrapped(_file_text(Path(str(template))))


def _file_text(path: Path) -> str:
    kinds = "Give chat, dyadic, plain or a Jinja file."
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"template {path}: not UTF-8 text", kinds) from None
    except IsADirectoryError:
        raise InputError(f"template {path}: a folder", "Give a Jinja file in it.") from None
    except FileNotFoundError:
        raise MissingInput(f"template {str(path)!r}: no such file", kinds) from None
    except (OSError, ValueError) as error:  # a name that is too long, or contains a zero byte
        raise InputError(f"template {str(path)[:80]!r} cannot be read: {error.args[-1]}", kinds) from None


def unwrapped(text: str) -> str:
    """The original template inside a template that opens the user's turn (see `serving_template`)."""
    if WRAPPED not in text:
        return text
    return text.split(WRAPPED, 1)[1].split(WRAPPED_END, 1)[0]


class ChatFrames:
    """A Jinja chat template, analysed with markers in place of message texts."""

    def __init__(self, tokenizer: Any, encoder: Encoder, text: str) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._text = text
        self._stable: set[bool] = set()
        self._closings: dict[Role, str] = {}

    def layout(self, roles: Sequence[Role]) -> Layout:
        """The layout of a conversation with these roles; each turn owns its text and the end of its turn."""
        self._check_stable(roles[0] == Role.SYSTEM)
        frames = self._frames(roles)
        self._check_one_shorter(roles, frames)
        self._encoder.learn_frame(frames)
        pieces: list[Piece] = []
        before = frames[0]
        ends: dict[Role, str] = {}
        for index, (role, after) in enumerate(zip(roles, frames[1:], strict=True)):
            following = roles[index + 1] if index + 1 < len(roles) else None
            if role == Role.SYSTEM:
                pieces += [Piece(before), Piece("", is_content=True, turn=index)]
                before = after
                continue
            opening = self._opening_end(before, role)
            closing, rest = self._closing(role, after, following)
            self._check_end(role, closing, rest, ends.setdefault(role, closing))
            pieces += [Piece(before[:opening]), Piece(before[opening:], index, opens=True)]
            pieces += [Piece("", index, is_content=True, turn=index), Piece(closing, index)]
            before = rest
        pieces.append(Piece(before))
        return Layout(tuple(pieces), tuple(frames))

    def texts(self, messages: Sequence[Message], layout: Layout) -> list[str]:
        """The text of each turn as the template writes it: unchanged or trimmed. Any other change is refused."""
        frames = layout.frames
        rendered = self._render([{"role": turn.role.value, "content": turn.content} for turn in messages])
        texts, position = [], len(frames[0])
        if not rendered.startswith(frames[0]):
            raise UnstablePrefix("the chat template's opening depends on what is said", KEEP)
        for number, (turn, after) in enumerate(zip(messages, frames[1:], strict=True), 1):
            for text in _trimmed(turn.content):
                if rendered.startswith(text + after, position):
                    break
            else:
                raise UnstablePrefix(
                    f"the chat template rewrites turn {number} (a {turn.role.value} turn)", KEEP
                )
            texts.append(text)
            position += len(text) + len(after)
        if position != len(rendered):
            raise UnstablePrefix("the chat template's end depends on what is said", KEEP)
        return texts

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """The frame and content of a whole conversation, as pieces."""
        layout = self.layout([turn.role for turn in messages])
        return filled(layout.pieces, self.texts(messages, layout))

    def opening(self, messages: Sequence[Message], role: Role) -> list[Piece]:
        """The pieces of the prompt for the next turn of `role`: the conversation and the opening of the turn."""
        return until_opening(self.pieces([*messages, Message(role=role, content="x")]))

    @cached_property
    def tail(self) -> str:
        """The text that the template writes only at the end of a conversation: end of text (Phi-3), or empty."""
        end = self._tokenizer.eos_token or ""
        written, asked = self._asked
        return end if not asked.startswith(written) and asked.startswith(written.removesuffix(end)) else ""

    @cached_property
    def _asked(self) -> tuple[str, str]:
        """The rendered text of one user turn, without and with the generation prompt."""
        rows = [{"role": "user", "content": "\ue000"}]
        return self._render(rows), self._render(rows, generate=True)

    @cached_property
    def _generation_prompt(self) -> str:
        written, asked = self._asked
        return asked[len(written) - len(self.tail) :]

    def _render(self, rows: list[dict[str, str]], generate: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                rows, chat_template=self._text, tokenize=False, add_generation_prompt=generate
            )
        except ImportError as error:
            raise MissingExtra(f"chat templates need jinja2: {error}", "Run: pip install jinja2") from None
        except Exception as error:  # Jinja has its own exceptions, and templates may raise any exception
            raise self._refusal(rows, error) from None
        return str(text)

    def _refusal(self, rows: list[dict[str, str]], error: Exception) -> RenderError:
        """The template's error message, and what to do."""
        from jinja2 import TemplateSyntaxError

        if isinstance(error, TemplateSyntaxError):
            return NoTemplate(
                f"the chat template is not Jinja: line {error.lineno}: {error.message}",
                "Correct it, or pass another template with --template FILE.",
            )
        if rows[0]["role"] == Role.SYSTEM and self._writes(rows[1:]):
            return RenderError(
                f"the chat template takes no system turn: {error}",
                "Drop the system turn (or --system), or pass another template with --template FILE.",
            )
        turns = [row for row in rows if row["role"] != Role.SYSTEM]
        if turns and turns[0]["role"] == Role.ASSISTANT:
            if self._writes([{"role": "user", "content": "x"}, *turns]):
                return RenderError(
                    f"the assistant opens this conversation, which the chat template cannot write: {error}",
                    "Drop its first turn (`maieutic clean` does), or pass another template with --template FILE.",
                )
        elif any(one["role"] == two["role"] for one, two in pairwise(turns)):
            return RenderError(f"the chat template refuses two turns of one role in a row: {error}", MERGE)
        return RenderError(f"the chat template refuses this conversation: {error}", KEEP)

    def _writes(self, rows: list[dict[str, str]], learn: bool = False) -> bool:
        """Whether the template accepts these turns; with `learn`, control tokens are collected from its output."""
        try:
            text = self._tokenizer.apply_chat_template(rows, chat_template=self._text, tokenize=False)
        except Exception:  # templates may raise any exception
            return False
        if learn:
            self._encoder.learn_frame([str(text)])
        return True

    def _frames(self, roles: Sequence[Role]) -> list[str]:
        """The texts of the frame before, between and after the message texts: one more than there are turns."""
        text = self._render(
            [{"role": role.value, "content": _mark(index)} for index, role in enumerate(roles)]
        )
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

    def _check_one_shorter(self, roles: Sequence[Role], frames: Sequence[str]) -> None:
        """Refuse a template that writes the earlier turns differently without the last turn."""
        if len(roles) < 2 or roles[-2] == Role.SYSTEM:
            return
        try:
            shorter = self._frames(roles[:-1])
        except RenderError:  # a template may require an answer to every question
            return
        shorter[-1] = shorter[-1].removesuffix(self.tail)
        if list(frames[: len(shorter) - 1]) != shorter[:-1] or not frames[len(shorter) - 1].startswith(
            shorter[-1]
        ):
            raise UnstablePrefix(
                "the chat template writes a turn differently once another turn follows", KEEP
            )

    def _check_stable(self, has_system: bool) -> None:
        """Refuse a template that writes a turn differently once more turns follow."""
        if has_system in self._stable:
            return
        if (
            not has_system
        ):  # learn the control token that opens a system turn, also for conversations without a system turn
            self._writes([{"role": role, "content": "x"} for role in ("system", "user", "assistant")], True)
        roles = ([Role.SYSTEM] if has_system else []) + [Role.USER, Role.ASSISTANT] * 3
        rows = [{"role": role.value, "content": _mark(index)} for index, role in enumerate(roles)]
        start = 2 if has_system else 1
        whole = [self._render(rows[:count]) for count in range(start, len(rows) + 1)]
        self._encoder.learn_frame(whole[-1:])
        for shorter, longer in pairwise(whole):
            if not longer.startswith(shorter.removesuffix(self.tail)):
                raise UnstablePrefix(
                    "the chat template writes a turn differently once another turn follows", KEEP
                )
        for count in range(start, len(rows), 2):
            prompt = self._render(rows[:count], generate=True)
            if not self._render(rows[: count + 1]).startswith(prompt):
                raise UnstablePrefix(
                    "the chat template's generation prompt differs from the opening of an assistant turn",
                    KEEP,
                )
        self._stable.add(has_system)

    def _check_end(self, role: Role, closing: str, rest: str, first: str) -> None:
        """Refuse a template if only part of a turn's end would be in the loss, or if the end differs between turns."""
        eos = self._tokenizer.eos_token
        if eos and eos in rest.removesuffix(self.tail) and eos not in closing:
            raise BadMask(
                f"the end token {eos} would be outside the loss: the {role.value}'s turn ends before it",
                "Pass a template that ends a turn with one token, with --template FILE.",
            )
        if first != closing or closing != self._canonical_closing(role):
            raise UnstablePrefix(
                f"the chat template ends the {role.value}'s turn depending on the next turn: {closing!r} here",
                MERGE,
            )

    def _opening_end(self, frame: str, role: Role) -> int:
        """The position in the frame where the opening ends; spaces after it belong to the first token of the text."""
        if role != Role.ASSISTANT:
            return len(frame.rstrip(" "))
        prompt = self._generation_prompt
        return len(frame) if prompt and frame.endswith(prompt) else len(frame.rstrip(" "))

    def _closing(self, role: Role, after: str, following: Role | None) -> tuple[str, str]:
        """The end of a turn (up to its first control token), and the rest of the frame."""
        match = self._encoder.first_control(after)
        if match:
            return after[: match.end()], after[match.end() :]
        if following is None:  # some templates write the end of a human turn only when another turn follows
            canonical = self._canonical_closing(role)
            return (after, "") if after.strip() else (canonical, "")
        prompt = self._generation_prompt.rstrip(" ") if following == Role.ASSISTANT else ""
        closing = after.rstrip(" ").removesuffix(prompt) if prompt else after.rstrip(" ")
        if not closing:
            raise RenderError(f"the chat template has no end for the {role.value}'s turn", KEEP)
        return closing, after[len(closing) :]

    def _canonical_closing(self, role: Role) -> str:
        """The end of a turn of this role in conversations with alternating roles."""
        if role not in self._closings:
            roles = [Role.USER, Role.ASSISTANT, Role.USER]
            index = roles.index(role)
            self._closings[role] = self._closing(role, self._frames(roles)[index + 1], roles[index + 1])[0]
        return self._closings[role]


def _trimmed(text: str) -> Iterator[str]:
    """The forms in which templates write a text: unchanged, or trimmed of white space or line breaks."""
    yield text
    for characters in (None, "\n"):
        yield text.strip(characters)
        yield text.lstrip(characters)
        yield text.rstrip(characters)


def serving_template(
    tokenizer: Any, role: str, template: str | None = None, system: str | None = None
) -> str:
    """The Jinja text to save: the template unchanged or, for `role="user"`, a template that opens the user's turn."""
    side = Role(role)
    if template in ("dyadic", "plain"):
        return _own_frame(tokenizer, side, template, system)
    text = template_text(tokenizer, template).removesuffix("\n")
    first = "" if system is None else _system_before(system)
    if side == Role.USER:
        return first + _opening_user(tokenizer, text)
    return f"{first}{WRAPPED}{text}{WRAPPED_END}" if first else text


def _system_before(system: str) -> str:
    """Jinja text that adds the system turn of training to a chat without a system turn."""
    return (
        "{% if not messages or messages[0]['role'] != 'system' %}"
        f"{{% set messages = [{{'role': 'system', 'content': {_literal(system)}}}] + messages %}}{{% endif %}}"
    )


def _literal(text: str) -> str:
    """A Jinja string literal; characters beyond ASCII are not escaped, since Jinja has no surrogate pairs."""
    return json.dumps(text, ensure_ascii=False)


def _opening_user(tokenizer: Any, text: str) -> str:
    frames = ChatFrames(tokenizer, Encoder(tokenizer), text)
    pieces = frames.opening(
        [Message(role=Role.USER, content="x"), Message(role=Role.ASSISTANT, content="x")], Role.USER
    )
    so_far = frames.pieces([Message(role=Role.USER, content="x"), Message(role=Role.ASSISTANT, content="x")])
    written = "".join(piece.text for piece in so_far).removesuffix(frames.tail)
    opening = "".join(piece.text for piece in pieces).removeprefix(written)
    before, after = _system_frame(frames)
    body = f"{WRAPPED}{text}{WRAPPED_END}{{% if opens_user %}}{{{{ {_literal(opening)} }}}}{{% endif %}}"
    if frames.tail:  # this text is written only without a generation prompt
        body = (
            f"{{% set written %}}{WRAPPED}{text}{WRAPPED_END}{{% endset %}}{{% if opens_user %}}"
            f"{{{{ written[:-{len(frames.tail)}] + {_literal(opening)} }}}}{{% else %}}{{{{ written }}}}{{% endif %}}"
        )
    return (
        "{% set opens_user = add_generation_prompt %}{% set add_generation_prompt = false %}"
        "{% if opens_user and messages | length == 1 and messages[0]['role'] == 'system' %}"
        f"{{{{ {_literal(before)} + messages[0]['content'] + {_literal(after)} }}}}"
        "{% elif opens_user and not messages %}"
        f"{{{{ {_literal(_first_opening(frames))} }}}}"
        "{% else %}"
        f"{body}"
        "{% endif %}"
    )


def _first_opening(frames: ChatFrames) -> str:
    return "".join(piece.text for piece in frames.opening([], Role.USER))


def _system_frame(frames: ChatFrames) -> tuple[str, str]:
    """The text before and after a system text, if the chat has no other message and the user's turn comes next."""
    try:
        text = "".join(
            piece.text for piece in frames.opening([Message(role=Role.SYSTEM, content="\ue002")], Role.USER)
        )
    except RenderError:  # a template without a system turn: the text goes before the user's opening
        return "", "\n\n" + _first_opening(frames)
    before, _, after = text.partition("\ue002")
    return before, after


def _own_frame(tokenizer: Any, role: Role, template: str, system: str | None) -> str:
    leading = "".join(tokenizer.convert_ids_to_tokens(Encoder(tokenizer).leading))
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    if template == "dyadic":
        labels = {side: label + bos for side, label in DYADIC.items()}
        default, gap, tail = prompts.load("dyadic").text if system is None else system, "", ""
        space = ""
    else:
        labels = {side: f"{label}:" for side, label in LABELS.items()}
        default, gap, tail, space = system or "", "\n\n", "\n", " "
    user, assistant = _literal(labels[Role.USER]), _literal(labels[Role.ASSISTANT])
    return (
        f"{{{{ {_literal(leading)} }}}}"
        "{% if messages and messages[0]['role'] == 'system' %}"
        f"{{{{ messages[0]['content'] + {_literal(gap)} }}}}{{% set turns = messages[1:] %}}"
        f"{{% else %}}{{{{ {_literal(default + gap if default else '')} }}}}{{% set turns = messages %}}{{% endif %}}"
        "{% for turn in turns %}"
        f"{{{{ {user} if turn['role'] == 'user' else {assistant} }}}}"
        f"{{{{ {_literal(space)} + turn['content'] + {_literal(eos + tail)} }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {_literal(labels[role])} }}}}{{% endif %}}"
    )
