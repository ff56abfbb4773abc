"""What a chat completion says: its text, why it stopped, and what it cost, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from maieutic.chat_templates import END
from maieutic.core.errors import MalformedReply, ModelError
from maieutic.core.messages import Finish, Role, utf8
from maieutic.models.faults import ODD_SERVER, line


class Said(NamedTuple):
    """What one answer, or one event of a stream, said."""

    text: str
    """END stands in it where the server left it there, or named it as the stop."""
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    first: Mapping[str, float] | None = None
    """Natural-log probabilities of the likeliest first tokens, where they were asked for and given."""


NOTHING = Said("", Finish.STOP, 0, 0)


def read(value: dict[str, Any]) -> Said:
    """A chat completion's text, finish and usage.

    Raises:
        MalformedReply: there is no text where one should be.
        ModelError: the server's filter withheld it, which asking again will not change.
    """
    choice = _first_choice(value)
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    reason = choice.get("finish_reason")
    if content is None and isinstance(message, dict):
        content = message.get("refusal")
        if content is None and reason == "length":  # all its tokens went into thinking
            content = ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is None and reason == "content_filter":
        raise ModelError("the server's filter withheld the reply", "Change the conversation or the model.")
    if not isinstance(content, str):
        raise MalformedReply("answered without a text", ODD_SERVER)
    if choice.get("stop_reason") == END and END not in content:
        content += END
    return Said(utf8(content), _finish(reason), *_usage(value), _first_tokens(choice))


def _first_tokens(choice: dict[str, Any]) -> Mapping[str, float] | None:
    """`logprobs.content[0].top_logprobs` as a mapping; null where the server gave none, or in another form."""
    logprobs = choice.get("logprobs")
    places = logprobs.get("content") if isinstance(logprobs, dict) else None
    tops = (
        places[0].get("top_logprobs")
        if isinstance(places, list) and places and isinstance(places[0], dict)
        else None
    )
    if not isinstance(tops, list):
        return None
    found = {
        str(top["token"]): float(top["logprob"])
        for top in tops
        if isinstance(top, dict) and "token" in top and isinstance(top.get("logprob"), (int, float))
    }
    return found or None


def _first_choice(value: dict[str, Any]) -> dict[str, Any]:
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        words = value.get("error")
        words = words.get("message") if isinstance(words, dict) else words
        raise MalformedReply(
            f"answered without choices{f': {line(str(words))}' if words else ''}", ODD_SERVER
        )
    return choices[0]


def read_piece(event: dict[str, Any], before: Said = NOTHING) -> Said:
    """One event's text, and the finish and usage as far as they are known by now.

    The usage may come in an event of its own, without choices. A whole answer is read as such.

    Raises:
        MalformedReply, ModelError: it is no event, or a whole answer that `read` would not take.
    """
    own = event.get("choices") == [] and event.get("object") != "chat.completion" and not event.get("error")
    choice = {} if own else _first_choice(event)
    if "message" in choice and "delta" not in choice:
        return read(event)
    part = choice.get("delta")
    content = part.get("content") if isinstance(part, dict) else None
    text = utf8(content) if isinstance(content, str) else ""
    prompt, completion = _usage(event)
    return Said(
        text + END if choice.get("stop_reason") == END else text,
        _finish(choice.get("finish_reason")) if choice.get("finish_reason") else before.finish,
        prompt or before.prompt_tokens,
        completion or before.completion_tokens,
    )


def settled(text: str, role: Role) -> str:
    """The part of a growing text that no later piece can turn into END."""
    text, ended = until_end(text, role)
    for size in range(0 if ended else min(len(END) - 1, len(text)), 0, -1):
        if END.startswith(text[-size:]):
            return text[:-size]
    return text


def until_end(text: str, role: Role) -> tuple[str, bool]:
    """The text before END, and whether it was there: anywhere in a user's turn, last in an assistant's."""
    if END not in text:
        return text, False
    if role == Role.USER:
        return text.partition(END)[0], True
    return (text.rstrip().removesuffix(END), True) if text.rstrip().endswith(END) else (text, False)


def _finish(reason: Any) -> Finish:
    return Finish.LENGTH if reason in ("length", "max_tokens") else Finish.STOP


def _usage(value: dict[str, Any]) -> tuple[int, int]:
    """Tokens of prompt and completion; 0 where the server does not say."""
    usage = value.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
