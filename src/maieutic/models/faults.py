"""What a failed attempt means: to be tried again, or final, and in which words.

Decided by status first and by the server's words where a status says too little. The words are the server's
own, cut to one line, with control characters and the key taken out.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp

from maieutic.core.errors import ContextFull, MalformedReply, ModelError, UnknownModel, Unreachable, WrongKey
from maieutic.core.messages import utf8
from maieutic.models.address import Address, Key, how_to_set

WORDS = 300
"""Characters of a server's words that an error repeats."""

_RETRYABLE = {408, 409, 425, 429}
_FULL = (
    "context length",
    "context_length",
    "context window",
    "context size",
    "maximum model length",
    "too many tokens",
    "prompt is too long",
    "input is too long",
    "reduce the length",
    "maximum number of tokens",
)
"""What servers say of a conversation that no longer fits, in lower case."""


class BadRequest(ModelError):
    """The server did not like the request; `status` and `raw` are all it said."""

    def __init__(self, what: str, hint: str, status: int, raw: str) -> None:
        super().__init__(what, hint)
        self.status = status
        self.raw = raw


class Failure(NamedTuple):
    """One failed attempt."""

    error: ModelError
    retry: bool
    wait: float | None = None
    """Seconds the server asked for."""
    crowded: bool = False
    """The server asked for less from everybody."""


def unreached(place: Address, error: BaseException) -> Failure:
    """The failure of an attempt that got no whole answer. The error's own text may quote headers: unused."""
    hint = f"Check that the server runs and that its address is {place.url}."
    if isinstance(error, aiohttp.ClientSSLError):
        return Failure(Unreachable(f"{place.url}: no trusted TLS connection", hint), False)
    if isinstance(error, TimeoutError):
        return Failure(Unreachable(f"{place.url}: no answer in time", hint), True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        words = "the host's name is not known"
    elif isinstance(error, aiohttp.ClientPayloadError):
        words = "the answer broke off"
    elif isinstance(error, aiohttp.ClientResponseError):
        words = "what answers there does not speak HTTP"
    elif isinstance(error, OSError) and error.errno:
        words = os.strerror(error.errno) if error.errno > 0 else "the host's name is not known"
    else:
        words = "the connection was cut"
    return Failure(Unreachable(f"{place.url}: {words}", hint), True)


ODD_SERVER = "Check that it is a chat-completions server, and what its own log says."


def malformed(place: Address, key: Key, error: MalformedReply) -> Failure:
    """The failure of an attempt that got a 200 with something that is no reply."""
    return Failure(MalformedReply(f"{place.url}: {key.hidden(error.what)}", error.hint), True)


def refused(place: Address, key: Key, status: int, headers: Mapping[str, str], raw: bytes) -> Failure:
    """The failure of an attempt that got another status than 200."""
    text = key.hidden(utf8(raw[:20_000].decode("utf-8", "replace")))
    words = _words(text)
    what = f"{place.url} answered {status}: {words}" if words else f"{place.url} answered {status}"
    if status in (401, 403):
        return Failure(_wrong_key(place, key, words), False)
    if status == 404:
        hint = "Check the model's name, and that the address ends in /v1."
        return Failure(UnknownModel(what, hint), False)
    if 200 <= status < 300:
        return Failure(MalformedReply(what, "What answers there is no chat-completions server."), True)
    if 300 <= status < 400:
        target = key.hidden(line(headers.get("Location", "")))
        hint = "Redirects are not followed, so that no key goes astray: give the final address in the MODEL."
        return Failure(ModelError(f"{place.url} redirects to {target or 'somewhere else'}", hint), False)
    if status in (400, 413, 422) and (status == 413 or any(sign in text.lower() for sign in _FULL)):
        return Failure(ContextFull(what, "Shorten the conversation, or ask for fewer new tokens."), False)
    if status == 429 and ("insufficient_quota" in text or "billing_hard_limit" in text):
        return Failure(
            ModelError(what, "The account has no credit left; add some, or use another key."), False
        )
    if status in _RETRYABLE or status >= 500:
        wait = _retry_after(headers.get("Retry-After"))
        hint = "The server is overloaded or broken: try later, or with fewer calls at once."
        return Failure(Unreachable(what, hint), True, wait, status == 429 or wait is not None)
    return Failure(BadRequest(what, "The server does not accept this request.", status, text), False)


def _wrong_key(place: Address, key: Key, words: str) -> WrongKey:
    variable, said = place.key_variable, f": {words}" if words else ""
    if variable is None:
        return WrongKey(f"{place.url} asks for a key{said}", "This kind of MODEL sends none.")
    if not key:
        return WrongKey(f"{place.url} asks for a key{said}", how_to_set(place))
    return WrongKey(
        f"{place.url} refused the key in {variable}{said}",
        f"Set {variable} to a key that it accepts.",
    )


def _words(text: str) -> str:
    """What a server says went wrong, on one line."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = "an HTML page" if text.lstrip()[:1] == "<" else text
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    return line(value if isinstance(value, str) else json.dumps(value) if value else "")


def line(text: str) -> str:
    """Text from outside on one line, cut, with nothing in it that could act on a terminal."""
    short = "".join(char if char.isprintable() else "\ufffd" for char in " ".join(utf8(text).split()))
    return short if len(short) <= WORDS else f"{short[:WORDS]}…"


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as a date."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
