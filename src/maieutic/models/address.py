"""The address of a remote MODEL, and which key may be sent there.

A key comes from one environment variable, which only the form of the MODEL decides, so an address in a recipe or on a
command line never gets the key of another service. MAIEUTIC_API_KEY is sent to this machine, and beyond it only to
the host that MAIEUTIC_API_HOST names: a recipe's URL cannot obtain it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from yarl import URL

from maieutic.core.errors import InputError, WrongKey
from maieutic.core.messages import utf8

OPENAI = "https://api.openai.com/v1"
OLLAMA_PORT = 11434
OURS = "MAIEUTIC_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Address(NamedTuple):
    """A server, a model there, and the key it may get."""

    url: str
    """The base, as `http://HOST:PORT/v1`; holds no secret."""
    name: str
    """The model's name; may be empty."""
    key_variable: str | None
    """The environment variable of the key; null where no key is ever sent."""
    needs_key: bool = False


class Key:
    """A secret that no `repr`, `str` or f-string shows."""

    __slots__ = ("_bytes", "_value", "variable")

    def __init__(self, value: str, variable: str) -> None:
        self._value = value
        self._bytes = value.encode() if len(value) >= 16 else b""
        self.variable = variable

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Key({self.variable}, {'set' if self._value else 'not set'})"

    def header(self) -> dict[str, str]:
        """The header with the key; empty without a key."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def hidden(self, text: str) -> str:
        """The text with the key taken out: some servers quote it in their errors.

        Placeholders of fewer than eight characters ("none", "EMPTY") are not secrets and stay.
        """
        return text.replace(self._value, "[the key]") if len(self._value) >= 8 else text

    def struck(self, raw: bytes) -> bytes:
        """The answer without the key: a server may quote the key, and it must not get into a corpus.

        Text is otherwise kept to the byte; keys under sixteen characters, which a text may contain by
        chance, stay.
        """
        return raw.replace(self._bytes, b"[the key]") if self._bytes and self._bytes in raw else raw


def address(spec: str, environment: Mapping[str, str] = os.environ) -> Address:
    """The address that a MODEL of a remote kind names.

    Raises:
        InputError: it is no address, or it carries a secret. The secret is not repeated.
    """
    if spec.startswith(("http://", "https://")):
        base, _, name = spec.partition("#")
        return Address(_checked(base, "the MODEL"), utf8(name), OURS)
    kind, _, name = spec.partition("/")
    if kind == "ollama":
        return Address(_ollama(environment.get("OLLAMA_HOST", "").strip()), utf8(name), None)
    base = environment.get("OPENAI_BASE_URL", "").strip() or OPENAI
    return Address(_checked(base, "OPENAI_BASE_URL"), utf8(name), "OPENAI_API_KEY", base == OPENAI)


def key(server: Address, environment: Mapping[str, str] = os.environ) -> Key:
    """The key for an address, empty where none is set.

    Raises:
        InputError: it holds characters that no header can carry.
    """
    if server.key_variable is None:
        return Key("", "")
    if server.key_variable == OURS and not _may_have(server, environment):
        return Key("", "")
    value = environment.get(server.key_variable, "").strip()
    if not value.isascii() or not value.isprintable():
        raise InputError(
            f"{server.key_variable} holds characters that no key may have",
            "Set it again, without spaces or line breaks.",
        )
    return Key(value, server.key_variable)


def _may_have(server: Address, environment: Mapping[str, str]) -> bool:
    url = URL(server.url)
    named = environment.get("MAIEUTIC_API_HOST", "").strip()
    return url.host in LOOPBACK or named in (url.host, url.authority)


def missing_key(server: Address) -> WrongKey:
    """The error for a server that takes no call without a key."""
    return WrongKey(f"{server.url} needs a key and {server.key_variable} is not set", how_to_set(server))


def how_to_set(server: Address, environment: Mapping[str, str] = os.environ) -> str:
    """How to set the key of an address."""
    if server.key_variable == OURS and not _may_have(server, environment):
        return f"Set {OURS}, and MAIEUTIC_API_HOST={URL(server.url).authority} to let it go to that host."
    return f"Set {server.key_variable}."


def _checked(text: str, origin: str) -> str:
    try:
        url = URL(text)
        host, secret = url.host, url.user is not None or url.password is not None or bool(url.query_string)
    except ValueError:
        raise InputError(f"{origin} is not a valid address", "Write http://HOST:PORT/v1.") from None
    if url.scheme not in ("http", "https") or not host:
        raise InputError(f"{origin} is not an http(s) address", "Write http://HOST:PORT/v1.")
    if secret:
        raise InputError(
            f"{origin} carries a user name, a password or a query (host {host})",
            "Leave them out: a key is read from the environment only, MAIEUTIC_API_KEY for an address.",
        )
    return str(url.with_fragment(None)).rstrip("/")


def _ollama(host: str) -> str:
    """Ollama's own reading of OLLAMA_HOST: scheme and port may be missing; 0.0.0.0 is where it listens."""
    if not host:
        return f"http://127.0.0.1:{OLLAMA_PORT}/v1"
    bare = "://" not in host
    if bare:
        host = f"http://127.0.0.1{host}" if host.startswith(":") else f"http://{host}"
    url = URL(_checked(host, "OLLAMA_HOST"))
    if bare and url.explicit_port is None:
        url = url.with_port(OLLAMA_PORT)
    if url.host in ("0.0.0.0", "::"):  # noqa: S104 - not bound to: rewritten
        url = url.with_host("127.0.0.1")
    return str(url).rstrip("/").removesuffix("/v1") + "/v1"
