"""HTTP to one model server: keep-alive connections, retries with backoff, errors that quote the server.

A call has a maximum number of attempts and a maximum time, waiting included. After a 429, all callers of that server
pause together, so that hundreds of dialogues do not retry at once. The machine's proxy settings are not used.
Redirects are not followed, since the key must not reach another host. Errors never contain the key.

The HTTP status decides whether a failed attempt is final; if the status is ambiguous, the server's message decides. An
error quotes the message on one line, without control characters and without the key.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import aiohttp
import orjson
from yarl import URL

from maieutic.core.errors import ContextFull, MalformedReply, ModelError, UnknownModel, Unreachable, WrongKey
from maieutic.core.messages import utf8
from maieutic.core.settings import Requests
from maieutic.models.address import Address, Key, how_to_set

T = TypeVar("T")

FIRST_WAIT = 0.25
"""Seconds before the second attempt, doubled for each further one."""
LONGEST_WAIT = 20.0
LONGEST_PAUSE = 60.0
"""Seconds for which one answer may hold back all callers; a longer Retry-After delays only its own call."""
SHARE = 4
"""One attempt may take 1/SHARE of the time a call has, so that a stall leaves time for further attempts."""
LARGEST_REPLY = 32 * 2**20
LARGEST_BYTES = 2**20
"""aiohttp needs a larger body as a file."""
WORDS = 300
"""Characters of a server's message that an error quotes."""

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
"""What servers say about a conversation that does not fit, in lower case."""
ODD_SERVER = "Check that it is a chat-completions server, and read its log."


class BadRequest(ModelError):
    """The server refused the request; `status` and `raw` are its whole answer."""

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
    overloaded: bool = False
    """The server asked all callers to slow down."""


class Answer(NamedTuple, Generic[T]):
    """The value of a call, and the attempts and seconds it took, waits included."""

    value: T
    attempts: int
    seconds: float


class Gate:
    """Shared by all callers of one server: closed while the server asks for a pause."""

    def __init__(self) -> None:
        self.until = 0.0

    def close(self, seconds: float) -> None:
        """Hold back all callers for `seconds` from now on."""
        self.until = max(self.until, time.monotonic() + min(seconds, LONGEST_PAUSE))

    async def passed(self, deadline: float) -> None:
        """Return when the gate is open (waiting callers are spread a little), or at the deadline."""
        while (wait := min(self.until, deadline) - time.monotonic()) > 0:
            await asyncio.sleep(wait + _spread(min(1.0, wait / 4)))


_gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()


class _Wire(NamedTuple):
    session: aiohttp.ClientSession
    slots: asyncio.Semaphore
    keeper: AsyncGenerator[aiohttp.ClientSession, None]


class Transport:
    """Calls to one server.

    Args:
        server: its address.
        key: its key; empty for none.
        requests: `attempts`: calls one answer may take. `timeout`: seconds for one answer, all attempts and waits
            together; the wait for a free slot is not counted. `concurrency`: calls in flight at most.
    """

    def __init__(self, server: Address, key: Key, requests: Requests) -> None:
        self.server = server
        self._key = key
        self._attempts = requests.attempts
        self._timeout = requests.timeout
        self._concurrency = requests.concurrency
        self._gate = _gates.setdefault(server.url, Gate())
        self._wires: dict[asyncio.AbstractEventLoop, _Wire] = {}
        self._urls: dict[str, URL] = {}

    async def ask(
        self,
        path: str,
        body: Any,
        read: Callable[[Any], T],
        attempts: int | None = None,
        timeout: float | None = None,
    ) -> Answer[T]:
        """POST a JSON body (null: GET) and read the JSON answer.

        `read` takes the parsed JSON object, and raises MalformedReply if it is not a valid answer; this is retried too.

        Raises:
            ModelError: final, or out of attempts or time.
        """
        data = None if body is None else orjson.dumps(body)
        attempts, allowed = attempts or self._attempts, timeout or self._timeout
        wire = self._wires.get(asyncio.get_running_loop()) or await self._wire()
        begun = deadline = 0.0
        for attempt in range(1, attempts + 1):
            async with wire.slots:
                begun = begun or time.monotonic()
                deadline = begun + allowed
                if self._gate.until:
                    await self._gate.passed(deadline)
                outcome = await self._once(wire.session, path, data, allowed / SHARE, deadline)
            if isinstance(outcome, bytes):
                try:
                    return Answer(read(parsed(outcome)), attempt, time.monotonic() - begun)
                except MalformedReply as error:
                    outcome = malformed(self.server, self._key, error)
            await self._wait_or_raise(outcome, attempt, attempts, deadline)
        raise AssertionError("the last attempt returns or raises")

    async def events(
        self, path: str, body: Any, check: Callable[[Any], object]
    ) -> AsyncIterator[tuple[int, Any]]:
        """POST a JSON body and yield each server-sent event's JSON, after the number of the attempt it took.

        `check` raises MalformedReply where a JSON value is no event. Faults before the first event are retried; later
        faults are not, since part of the answer has been seen. The whole answer of a server that does not stream is
        one event.
        """
        data = orjson.dumps(body)
        wire = await self._wire()
        begun = time.monotonic()
        deadline = begun + self._timeout
        for attempt in range(1, self._attempts + 1):
            started = False
            failure: Failure | None = None
            await self._gate.passed(deadline)
            try:
                timeout = aiohttp.ClientTimeout(
                    total=max(0.001, deadline - time.monotonic()), sock_read=self._timeout / SHARE
                )
                async with self._request(wire.session, path, data, timeout) as response:
                    if response.status == 200:
                        async for event in _events(response, self._key):
                            check(event)
                            started = True
                            yield attempt, event
                        if started:
                            return
                        failure = Failure(
                            MalformedReply(f"{self.server.url} answered nothing", ODD_SERVER), True
                        )
                    else:
                        failure = refused(
                            self.server, self._key, response.status, response.headers, await _whole(response)
                        )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = unreached(self.server, error)
            except MalformedReply as error:
                failure = malformed(self.server, self._key, error)
            if started:
                raise failure.error
            await self._wait_or_raise(failure, attempt, self._attempts, deadline)

    async def close(self) -> None:
        """Close the connections of the running loop; a later call opens new ones."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        if wire:
            await wire.keeper.aclose()

    async def _wire(self) -> _Wire:
        """The session of the running loop; a session cannot outlive its loop, so each loop has its own."""
        loop = asyncio.get_running_loop()
        wire = self._wires.get(loop)
        if wire is None:
            for closed in [other for other in self._wires if other.is_closed()]:
                del self._wires[closed]
            keeper = self._keep(loop)
            session = await anext(keeper)  # does not suspend, so no second caller opens another
            wire = self._wires[loop] = _Wire(session, asyncio.Semaphore(self._concurrency), keeper)
        return wire

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession, None]:
        """Hold a session open. `asyncio.run` closes open generators before its loop, and with them the session."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "maieutic",
                **self._key.header(),
            },
            trust_env=False,
        )
        try:
            yield session
        finally:
            self._wires.pop(loop, None)
            await session.close()

    def _request(
        self, session: aiohttp.ClientSession, path: str, data: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.server.url + path)
        if data is None:
            return session.get(url, allow_redirects=False, timeout=timeout)
        payload = aiohttp.BytesPayload(data) if len(data) <= LARGEST_BYTES else io.BytesIO(data)
        return session.post(url, data=payload, allow_redirects=False, timeout=timeout)

    async def _once(
        self, session: aiohttp.ClientSession, path: str, data: bytes | None, most: float, deadline: float
    ) -> bytes | Failure:
        left = deadline - time.monotonic()
        if left <= 0:  # the call would be paid for and not waited for
            hint = "Raise --timeout, or lower --concurrency."
            return Failure(Unreachable(f"{self.server.url} asked for too long a pause", hint), False)
        timeout = _total(min(most, left))
        try:
            async with self._request(session, path, data, timeout) as response:
                raw = self._key.struck(await _whole(response))
                if response.status == 200:
                    return raw
                return refused(self.server, self._key, response.status, response.headers, raw)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return unreached(self.server, error)
        except MalformedReply as error:
            return malformed(self.server, self._key, error)

    async def _wait_or_raise(self, failure: Failure, attempt: int, attempts: int, deadline: float) -> None:
        """Wait before the next attempt, or raise where no attempt is left."""
        if not failure.retry:
            raise failure.error
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * (0.5 + _spread(0.5))
        if failure.wait is not None:
            wait = failure.wait + _spread(FIRST_WAIT)
        out_of_time = time.monotonic() + wait >= deadline
        if failure.overloaded and attempt < attempts:
            self._gate.close(wait)
        if attempt >= attempts or out_of_time:
            asked = f"; it asks to wait {failure.wait:.0f} s" if failure.wait and out_of_time else ""
            calls = "1 call" if attempt == 1 else f"{attempt} calls"
            raise type(failure.error)(f"{failure.error.what} (after {calls}{asked})", failure.error.hint)
        if not failure.overloaded:
            await asyncio.sleep(wait)


def parsed(raw: bytes) -> Any:
    """The JSON of an answer; lone surrogates and raw control characters, which orjson refuses, are read too.

    Raises:
        MalformedReply: it is no JSON object.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(raw.decode("utf-8-sig", "replace"), strict=False)
        except (ValueError, RecursionError):
            kind = "an HTML page" if raw.lstrip()[:1] == b"<" else "broken JSON" if raw.strip() else "nothing"
            raise MalformedReply(
                f"answered with {kind}",
                "Check that the address is that of a chat-completions server, /v1 included.",
            ) from None
    if not isinstance(value, dict):
        raise MalformedReply("answered with JSON that is not an object", ODD_SERVER)
    return value


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    while chunk := await response.content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_REPLY:
            raise MalformedReply(
                f"answered with more than {LARGEST_REPLY >> 20} MB", "Ask for fewer new tokens."
            )
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _events(response: aiohttp.ClientResponse, key: Key) -> AsyncIterator[Any]:
    """Server-sent events: `data:` lines up to `[DONE]`; an answer that is not an event stream is one event."""
    if "event-stream" not in response.headers.get("Content-Type", ""):
        yield parsed(key.struck(await _whole(response)))
        return
    rest, size = b"", 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > LARGEST_REPLY:
            raise MalformedReply(
                f"answered with more than {LARGEST_REPLY >> 20} MB", "Ask for fewer new tokens."
            )
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if data := _data(line):
                yield parsed(key.struck(data))
    if data := _data(rest):
        yield parsed(key.struck(data))


def _data(line: bytes) -> bytes:
    """The content of a `data:` line; empty for other lines and for `[DONE]`."""
    data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
    return b"" if data == b"[DONE]" else data


@lru_cache
def _total(seconds: float) -> aiohttp.ClientTimeout:
    """Cached: most calls have the same time."""
    return aiohttp.ClientTimeout(total=seconds)


def _spread(seconds: float) -> float:
    return random.uniform(0, seconds)  # noqa: S311 (spreads callers in time, decides no content)


def unreached(server: Address, error: BaseException) -> Failure:
    """The failure of an attempt without a whole answer. The error's own text may quote headers and is not used."""
    hint = f"Check that the server runs and that its address is {server.url}."
    if isinstance(error, aiohttp.ClientSSLError):
        return Failure(Unreachable(f"{server.url}: no trusted TLS connection", hint), False)
    if isinstance(error, TimeoutError):
        return Failure(Unreachable(f"{server.url}: no answer in time", hint), True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        words = "the host's name is not known"
    elif isinstance(error, aiohttp.ClientPayloadError):
        words = "the answer broke off"
    elif isinstance(error, aiohttp.ClientResponseError):
        words = "the answer is no HTTP"
    elif isinstance(error, OSError) and error.errno:
        words = os.strerror(error.errno) if error.errno > 0 else "the host's name is not known"
    else:
        words = "the connection was cut"
    return Failure(Unreachable(f"{server.url}: {words}", hint), True)


def malformed(server: Address, key: Key, error: MalformedReply) -> Failure:
    """The failure of an attempt that got status 200 and no reply."""
    return Failure(MalformedReply(f"{server.url}: {key.hidden(error.what)}", error.hint), True)


def refused(server: Address, key: Key, status: int, headers: Mapping[str, str], raw: bytes) -> Failure:
    """The failure of an attempt with another status than 200."""
    text = key.hidden(utf8(raw[:20_000].decode("utf-8", "replace")))
    words = _words(text)
    what = f"{server.url} answered {status}: {words}" if words else f"{server.url} answered {status}"
    if status in (401, 403):
        return Failure(_wrong_key(server, key, words), False)
    if status == 404:
        hint = "Check the model's name, and that the address ends in /v1."
        return Failure(UnknownModel(what, hint), False)
    if 200 <= status < 300:
        return Failure(MalformedReply(what, "This is not a chat-completions server."), True)
    if 300 <= status < 400:
        target = key.hidden(line(headers.get("Location", "")))
        hint = "Redirects are not followed, so that a key reaches no other host: give the final address in the MODEL."
        return Failure(ModelError(f"{server.url} redirects to {target or 'somewhere else'}", hint), False)
    if status in (400, 413, 422) and (status == 413 or any(sign in text.lower() for sign in _FULL)):
        return Failure(ContextFull(what, "Shorten the conversation, or ask for fewer new tokens."), False)
    if status == 429 and ("insufficient_quota" in text or "billing_hard_limit" in text):
        return Failure(
            ModelError(what, "The account has no credit left; add some, or use another key."), False
        )
    if status in _RETRYABLE or status >= 500:
        wait = _retry_after(headers.get("Retry-After"))
        hint = "The server is overloaded or broken: try again later, or lower --concurrency."
        return Failure(Unreachable(what, hint), True, wait, status == 429 or wait is not None)
    return Failure(BadRequest(what, "The server does not accept this request.", status, text), False)


def _wrong_key(server: Address, key: Key, words: str) -> WrongKey:
    variable, said = server.key_variable, f": {words}" if words else ""
    if variable is None:
        return WrongKey(f"{server.url} asks for a key{said}", "This kind of MODEL sends none.")
    if not key:
        return WrongKey(f"{server.url} asks for a key{said}", how_to_set(server))
    return WrongKey(
        f"{server.url} refused the key in {variable}{said}",
        f"Set {variable} to a key that it accepts.",
    )


def _words(text: str) -> str:
    """A server's error message, on one line."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = "an HTML page" if text.lstrip()[:1] == "<" else text
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    return line(value if isinstance(value, str) else json.dumps(value) if value else "")


def line(text: str) -> str:
    """Text from outside on one line, cut, without characters that could act on a terminal."""
    short = "".join(char if char.isprintable() else "\ufffd" for char in " ".join(utf8(text).split()))
    return short if len(short) <= WORDS else f"{short[:WORDS]}…"


def _retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After header, which gives seconds or a date."""
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
