"""HTTP to one model server: connections kept, faults retried politely, errors in the server's own words.

A call has so many attempts and so much time, waiting included. A server that answers 429 is left alone by
every caller of that server together, so that a storm is not multiplied by the number of dialogues. Nothing
comes from the machine's proxy settings, redirects are not followed (a key must not travel), and the key
stands in no error.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import aiohttp
import orjson
from yarl import URL

from maieutic.core.errors import MalformedReply, Unreachable
from maieutic.models.address import Address, Key
from maieutic.models.faults import ODD_SERVER, Failure, malformed, refused, unreached

T = TypeVar("T")

FIRST_WAIT = 0.25
"""Seconds before the second attempt, doubled for each further one."""
LONGEST_WAIT = 20.0
LONGEST_PAUSE = 60.0
"""Seconds for which one answer may silence everybody; a longer Retry-After binds only its own call."""
SHARE = 4
"""One attempt may take this part of the time a call has, so that a stall leaves room for others."""
LARGEST_REPLY = 32 * 2**20
LARGEST_BYTES = 2**20
"""aiohttp wants a larger body as a file."""


class Answer(NamedTuple, Generic[T]):
    """What a call gave, how many attempts it took, and how many seconds, the waits between them included."""

    value: T
    attempts: int
    seconds: float


class Gate:
    """Shared by all callers of one server: closed while the server asks to be left alone."""

    def __init__(self) -> None:
        self.until = 0.0

    def close(self, seconds: float) -> None:
        """Hold everybody back from now on for `seconds`."""
        self.until = max(self.until, time.monotonic() + min(seconds, LONGEST_PAUSE))

    async def passed(self, deadline: float) -> None:
        """Return when the gate is open, a little apart from the others who wait, or at the deadline."""
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
        place: the server.
        key: its key; empty for none.
        attempts: calls one answer may take.
        timeout: seconds for one answer, all attempts and waits together; the wait for a free place in
            `concurrency` is not counted.
        concurrency: calls in flight at most.
    """

    def __init__(self, place: Address, key: Key, attempts: int, timeout: float, concurrency: int) -> None:
        self.place = place
        self._key = key
        self._attempts = max(1, attempts)
        self._timeout = timeout
        self._concurrency = max(1, concurrency)
        self._gate = _gates.setdefault(place.url, Gate())
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

        `read` takes the parsed JSON object and raises MalformedReply where it is no answer; that is retried
        too.

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
                    outcome = malformed(self.place, self._key, error)
            await self._rest(outcome, attempt, attempts, deadline)
        raise AssertionError("the last attempt returns or raises")

    async def events(
        self, path: str, body: Any, check: Callable[[Any], object]
    ) -> AsyncIterator[tuple[int, Any]]:
        """POST a JSON body and yield each server-sent event's JSON, after the number of the attempt it took.

        `check` raises MalformedReply where an event is none. Faults before the first event are retried, later
        ones are not: part of the answer has been seen. A server that does not stream gives its whole answer as
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
                            MalformedReply(f"{self.place.url} answered nothing", ODD_SERVER), True
                        )
                    else:
                        failure = refused(
                            self.place, self._key, response.status, response.headers, await _whole(response)
                        )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = unreached(self.place, error)
            except MalformedReply as error:
                failure = malformed(self.place, self._key, error)
            if started:
                raise failure.error
            await self._rest(failure, attempt, self._attempts, deadline)

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
            session = await anext(keeper)  # suspends nowhere, so no second caller opens another
            wire = self._wires[loop] = _Wire(session, asyncio.Semaphore(self._concurrency), keeper)
        return wire

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession, None]:
        """Hold a session open. `asyncio.run` closes open generators before its loop, so this session too."""
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
            url = self._urls[path] = URL(self.place.url + path)
        if data is None:
            return session.get(url, allow_redirects=False, timeout=timeout)
        payload = aiohttp.BytesPayload(data) if len(data) <= LARGEST_BYTES else io.BytesIO(data)
        return session.post(url, data=payload, allow_redirects=False, timeout=timeout)

    async def _once(
        self, session: aiohttp.ClientSession, path: str, data: bytes | None, most: float, deadline: float
    ) -> bytes | Failure:
        left = deadline - time.monotonic()
        if left <= 0:  # asking now would be paid for and not waited for
            hint = "Give it more time, or ask with fewer calls at once."
            return Failure(Unreachable(f"{self.place.url} asked to be left alone for too long", hint), False)
        timeout = _total(min(most, left))
        try:
            async with self._request(session, path, data, timeout) as response:
                raw = self._key.struck(await _whole(response))
                if response.status == 200:
                    return raw
                return refused(self.place, self._key, response.status, response.headers, raw)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return unreached(self.place, error)
        except MalformedReply as error:
            return malformed(self.place, self._key, error)

    async def _rest(self, failure: Failure, attempt: int, attempts: int, deadline: float) -> None:
        """Wait before the next attempt, or raise where there is none."""
        if not failure.retry:
            raise failure.error
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * (0.5 + _spread(0.5))
        if failure.wait is not None:
            wait = failure.wait + _spread(FIRST_WAIT)
        out_of_time = time.monotonic() + wait >= deadline
        if failure.crowded and attempt < attempts:
            self._gate.close(wait)
        if attempt >= attempts or out_of_time:
            asked = f"; it asks to wait {failure.wait:.0f} s" if failure.wait and out_of_time else ""
            calls = "1 call" if attempt == 1 else f"{attempt} calls"
            raise type(failure.error)(
                f"{failure.error.what} (given up after {calls}{asked})", failure.error.hint
            )
        if not failure.crowded:
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
        raise MalformedReply("answered with JSON that is no object", ODD_SERVER)
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
    """Server-sent events: `data:` lines up to `[DONE]`; anything else than an event stream is one event."""
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
    """What a `data:` line carries; nothing for any other line and for the last one."""
    data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
    return b"" if data == b"[DONE]" else data


@lru_cache
def _total(seconds: float) -> aiohttp.ClientTimeout:
    """Most calls have the same."""
    return aiohttp.ClientTimeout(total=seconds)


def _spread(seconds: float) -> float:
    return random.uniform(0, seconds)  # noqa: S311 - keeps callers apart, decides no content
