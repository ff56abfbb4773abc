"""An Ollama Modelfile: the frame of a model's conversations as a Go template, its system text, and its stops.

Ollama does not read the Jinja template inside a GGUF file. The Modelfile has that template's frame, found by marks as
in training: the opening and the end of each side's turn, and the text that generation starts from.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from maieutic.chat_templates.encode import Encoder
from maieutic.chat_templates.layout import DYADIC, LABELS
from maieutic.chat_templates.templates import KEEP, ChatFrames, template_text
from maieutic.core import prompts
from maieutic.core.errors import RenderError
from maieutic.core.messages import Message, Role
from maieutic.serving.checkpoint import Opened

MOST = 8192
"""Context that the Modelfile requests at most: Ollama reserves memory for all of it."""


class Frame(NamedTuple):
    """The texts around the turns' contents."""

    system: tuple[str, str]
    """Before a system text, and between it and the first turn's text."""
    first: str
    """Before the user's first text, if there is no system text."""
    opens: dict[Role, str]
    closes: dict[Role, str]
    """At the end of each side's turn."""
    asks: str
    """After the last turn: the opening of the generated turn."""
    asks_first: str
    """The same, if there is no turn."""
    asks_after_system: str


def modelfile(model: Opened, context: int, adds_bos: bool) -> str:
    """The Modelfile for `model.gguf` in the same folder.

    Args:
        model: the exported model.
        context: tokens a conversation may have.
        adds_bos: Ollama puts BOS before the prompt, so the template must not.

    Raises:
        RenderError: the chat template writes a turn depending on more than its role, which a Modelfile cannot express.
    """
    template, system = model.frame
    frame = own_frame(model, template) if template in ("dyadic", "plain") else chat_frame(model)
    if adds_bos:
        bos = model.tokenizer.bos_token
        before, after = frame.system
        frame = frame._replace(
            system=(before.removeprefix(bos), after),
            first=frame.first.removeprefix(bos),
            asks_first=frame.asks_first.removeprefix(bos),
        )
    if system is None and template == "dyadic":
        system = prompts.load("dyadic").text
    lines = ["FROM ./model.gguf", f"TEMPLATE {_quoted(go_template(frame))}"]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    texts = model.tokenizer.convert_ids_to_tokens(model.ends)
    lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in texts]
    lines.append(f"PARAMETER num_ctx {min(context, MOST)}")
    return "\n".join(lines) + "\n"


def chat_frame(model: Opened) -> Frame:
    """The frame that a chat template writes."""
    tokenizer = model.tokenizer
    frames = ChatFrames(
        tokenizer, Encoder(tokenizer), template_text(tokenizer, model.frame.template).removesuffix("\n")
    )
    user, assistant = Role.USER, Role.ASSISTANT
    first, to_assistant, to_user, again, last = frames.layout([user, assistant, user, assistant]).frames
    closes = {
        user: frames.layout([user]).frames[1].removesuffix(frames.tail),
        assistant: last.removesuffix(frames.tail),
    }
    if (
        again != to_assistant
        or not to_assistant.startswith(closes[user])
        or not to_user.startswith(closes[assistant])
    ):
        raise RenderError("the chat template writes a turn depending on its neighbours", KEEP)
    opens = {
        user: to_user.removeprefix(closes[assistant]),
        assistant: to_assistant.removeprefix(closes[user]),
    }
    try:
        before, after, *_ = frames.layout([Role.SYSTEM, user, assistant]).frames
    except RenderError:  # a template without a system turn: the text goes before the user's opening
        before, after = "", "\n\n" + first
    asks = _opening(frames, Role(model.role))
    if model.role == "assistant":
        return Frame((before, after), first, opens, closes, asks, asks, asks)
    return Frame((before, after), first, opens, closes, asks, first.rstrip(" "), after.rstrip(" "))


def _opening(frames: ChatFrames, side: Role) -> str:
    """The opening of a turn, without the spaces that are part of the first token."""
    said = [Message(role=Role.USER, content="x"), Message(role=Role.ASSISTANT, content="x")]
    before = said if side == Role.USER else said[:1]
    written = "".join(piece.text for piece in frames.pieces(before)).removesuffix(frames.tail)
    return "".join(piece.text for piece in frames.opening(before, side)).removeprefix(written)


def own_frame(model: Opened, template: str | None) -> Frame:
    """The frame of `dyadic` or `plain`."""
    tokenizer = model.tokenizer
    leading = "".join(tokenizer.convert_ids_to_tokens(Encoder(tokenizer).leading))
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    if template == "dyadic":
        opens, space, gap, tail = {side: label + bos for side, label in DYADIC.items()}, "", "", ""
    else:
        opens, space, gap, tail = {side: f"{label}:" for side, label in LABELS.items()}, " ", "\n\n", "\n"
    side = Role(model.role)
    said = {role: text + space for role, text in opens.items()}
    return Frame(
        (leading, gap + said[Role.USER]),
        leading + said[Role.USER],
        said,
        dict.fromkeys(Role, eos + tail),
        opens[side],
        leading + opens[side],
        gap + opens[side],
    )


def go_template(frame: Frame) -> str:
    """The frame in Go's template language; `.Messages` includes the system turn."""
    user, assistant = Role.USER, Role.ASSISTANT
    before, after = (_verbatim(text) for text in frame.system)
    opens = {role: _verbatim(text) for role, text in frame.opens.items()}
    closes = {role: _verbatim(text) for role, text in frame.closes.items()}
    return (
        '{{ $last := "" }}{{ range .Messages }}'
        f'{{{{ if eq .Role "system" }}}}{before}{{{{ .Content }}}}'
        '{{ else if eq .Role "user" }}'
        f'{{{{ if eq $last "" }}}}{_verbatim(frame.first)}{{{{ else if eq $last "system" }}}}{after}'
        f"{{{{ else }}}}{opens[user]}{{{{ end }}}}{{{{ .Content }}}}{closes[user]}"
        f'{{{{ else if eq .Role "assistant" }}}}{opens[assistant]}{{{{ .Content }}}}{closes[assistant]}'
        "{{ end }}{{ $last = .Role }}{{ end }}"
        f'{{{{ if eq $last "" }}}}{_verbatim(frame.asks_first)}{{{{ else if eq $last "system" }}}}'
        f"{_verbatim(frame.asks_after_system)}{{{{ else }}}}{_verbatim(frame.asks)}{{{{ end }}}}"
    )


def _verbatim(text: str) -> str:
    """A text inside a Go template: unchanged, or as a string constant where it would be read as a tag."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if "{{" in text else text


def _quoted(text: str) -> str:
    """A text of several lines in a Modelfile."""
    if '"""' in text:
        raise RenderError(
            'a text contains """, which a Modelfile cannot quote',
            "Take it out of the template or system text.",
        )
    return f'"""{text}"""'
