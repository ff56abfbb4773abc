"""The chat template that a trained checkpoint is saved with, so that any server speaks its side.

A user simulator's generation prompt opens the *user's* turn: served as an ordinary chat model it answers as the
person, with no juggling of roles. It accepts a chat that ends on the assistant, and, for a free start, a chat of one
system message, which many templates would refuse. A system text that stood before every conversation in training is
written into it, for chats that bring none.
"""

from __future__ import annotations

import json
from typing import Any

from maieutic.chat_templates.encode import Encoder
from maieutic.chat_templates.layout import DYADIC, LABELS
from maieutic.chat_templates.templates import WRAPPED, WRAPPED_END, ChatFrames, template_text
from maieutic.core import prompts
from maieutic.core.errors import RenderError
from maieutic.core.messages import Message, Role


def serving_template(
    tokenizer: Any, role: str, template: str | None = None, system: str | None = None
) -> str:
    """The Jinja text to save: the template as it is, or, for `role="user"`, one that opens the user's turn."""
    side = Role(role)
    if template in ("dyadic", "plain"):
        return _own_frame(tokenizer, side, template, system)
    text = template_text(tokenizer, template).removesuffix("\n")
    first = "" if system is None else _system_before(system)
    if side == Role.USER:
        return first + _opening_user(tokenizer, text)
    return f"{first}{WRAPPED}{text}{WRAPPED_END}" if first else text


def _system_before(system: str) -> str:
    """Puts a system turn before a chat that has none, as it was in training."""
    return (
        "{% if not messages or messages[0]['role'] != 'system' %}"
        f"{{% set messages = [{{'role': 'system', 'content': {_literal(system)}}}] + messages %}}{{% endif %}}"
    )


def _literal(text: str) -> str:
    """A text as Jinja writes one; characters beyond ASCII stand as they are, since it knows no surrogate pairs."""
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
    if frames.tail:  # what is written only where nothing more is asked
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
    """What stands around a lone system text before the user's first words."""
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
