"""A real chat-completions server on 127.0.0.1, in a thread, whose faults are scripted.

    with Loopback(reply="Why?", faults=[500, RESET, None]) as server:
        model = load(server.spec)          # http://127.0.0.1:PORT/v1#tiny
        ...
        assert server.chats[0].body["messages"] == [...]

`reply` is a text, a list of texts (in order, from the start again), or a function of the request's JSON that
gives a text or a whole answer (a dict). `faults` holds one fault a chat request, in their order, and none
afterwards; or it is a function of (number of the chat request from 0, its JSON). A bare number is a status.
`slots` and `latency` make it a server that answers so many at once, each after so many seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from aiohttp import web


class Seen(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One way to fail."""

    kind: str = "status"
    status: int = 200
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    size: int = 0


def status(code: int, words: str = "", *, retry_after: float | str | None = None, **headers: str) -> Fault:
    """An error in OpenAI's form."""
    text = json.dumps({"error": {"message": words or f"status {code}", "type": "error", "code": None}})
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Fault("status", code, text, {"Content-Type": "application/json", **headers})


def raw(text: str, code: int = 200, content_type: str = "application/json") -> Fault:
    """Any body at all."""
    return Fault("status", code, text, {"Content-Type": content_type})


def answer(**message: Any) -> Fault:
    """A 200 whose message is exactly this."""
    return raw(json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))


def stall(seconds: float) -> Fault:
    """Silence, then the ordinary answer."""
    return Fault("stall", seconds=seconds)


def drip(seconds: float) -> Fault:
    """The ordinary answer, a byte at a time, this long between two."""
    return Fault("drip", seconds=seconds)


def big(size: int) -> Fault:
    """A good answer of so many characters."""
    return Fault("big", size=size)


RESET = Fault("reset")
"""The connection is reset in the middle of the body."""
HANG_UP = Fault("hang_up")
"""The connection is closed before any answer."""
TRUNCATED = Fault("truncated")
"""Half the JSON, with status 200."""
EMPTY_CHOICES = raw('{"object": "chat.completion", "choices": []}')
NULL_CONTENT = answer(role="assistant", content=None)
NO_CONTENT = answer(role="assistant")
NO_OBJECT = raw("[1, 2]")
HTML = raw("<!doctype html><html><body>Bad gateway</body></html>", 200, "text/html")
SURROGATE = answer(role="assistant", content="a\ud800b")
NUL = answer(role="assistant", content="a\x00b")
REDIRECT = Fault("status", 307, "", {"Location": "/elsewhere/chat/completions"})
EVERY = [
    status(500),
    status(429, retry_after=0.05),
    RESET,
    HANG_UP,
    TRUNCATED,
    EMPTY_CHOICES,
    NULL_CONTENT,
    HTML,
]
"""One of each that a client must survive."""

Faults = Sequence[Fault | int | None] | Callable[[int, dict[str, Any]], Fault | int | None]
Answer = str | Sequence[str] | Callable[[dict[str, Any]], str | dict[str, Any]]


class Loopback:
    """The server. `requests` is everything it saw, `chats` the chat completions among it."""

    def __init__(
        self,
        reply: Answer = "What have you tried?",
        faults: Faults = (),
        *,
        models: Sequence[str] | None = ("tiny",),
        key: str | None = None,
        latency: float = 0.0,
        slots: int | None = None,
    ) -> None:
        self.reply, self.faults, self.models, self.key = reply, faults, models, key
        self.latency, self.slots = latency, slots
        self.requests: list[Seen] = []
        self.busiest = 0
        """The most chat requests in flight at one time."""
        self._peers: set[Any] = set()
        self._port = 0
        self._asked = 0
        self._busy = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL, ending in /v1."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def spec(self) -> str:
        """A MODEL."""
        return f"{self.url}#{self.models[0] if self.models else 'tiny'}"

    @property
    def chats(self) -> list[Seen]:
        """The chat requests, in the order they came."""
        return [seen for seen in self.requests if seen.path.endswith("/chat/completions")]

    @property
    def connections(self) -> int:
        """Different TCP connections it was asked over."""
        return len(self._peers)

    def __enter__(self) -> Loopback:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after a `stop`, on the same port again."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the loopback server did not start")

    def stop(self) -> None:
        """Cut every connection and stop listening."""
        if self._loop and self._thread:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop = self._thread = None

    def _serve(self, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        try:
            loop.run_until_complete(self._listen(runner))
            self._loop = loop
            loop.call_soon(ready.set)
            loop.run_forever()
        finally:
            loop.run_until_complete(runner.cleanup())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _listen(self, runner: web.AppRunner) -> None:
        await runner.setup()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        await web.SockSite(runner, listener, backlog=1024).start()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        gate = asyncio.Semaphore(self.slots) if self.slots else contextlib.nullcontext()

        async def chat(request: web.Request) -> web.StreamResponse:
            body = orjson.loads(await request.read())
            self._saw(request, body)
            number, self._asked = self._asked, self._asked + 1
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            try:
                if refused := self._refused(request):
                    return refused
                async with gate:
                    if self.latency:
                        await asyncio.sleep(self.latency)
                    return await self._answer(request, body, self._fault(number, body))
            finally:
                self._busy -= 1

        async def listed(request: web.Request) -> web.StreamResponse:
            self._saw(request, {})
            if refused := self._refused(request):
                return refused
            if self.models is None:
                return _error(404, "no such page")
            return web.json_response({"object": "list", "data": [{"id": name} for name in self.models]})

        async def pull(request: web.Request) -> web.StreamResponse:
            """Ollama's: fetch a model, unless its name says that there is none."""
            body = orjson.loads(await request.read())
            self._saw(request, body)
            if body["model"].startswith("no-"):
                return web.json_response({"error": "pull model manifest: file does not exist"}, status=500)
            self.models = (*(self.models or ()), body["model"])
            return web.json_response({"status": "success"})

        async def elsewhere(request: web.Request) -> web.StreamResponse:
            self._saw(request, {})
            return _error(404, "nothing here")

        app.router.add_post("/v1/chat/completions", chat)
        app.router.add_get("/v1/models", listed)
        app.router.add_post("/api/pull", pull)
        app.router.add_route("*", "/{rest:.*}", elsewhere)
        return app

    def _saw(self, request: web.Request, body: dict[str, Any]) -> None:
        self._peers.add(request.transport and request.transport.get_extra_info("peername"))
        self.requests.append(Seen(request.path, dict(request.headers), body))

    def _refused(self, request: web.Request) -> web.Response | None:
        if self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}":
            return None
        given = request.headers.get("Authorization", "")
        return _error(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}.")

    def _fault(self, number: int, body: dict[str, Any]) -> Fault | None:
        if callable(self.faults):
            fault = self.faults(number, body)
        else:
            fault = self.faults[number] if number < len(self.faults) else None
        return status(fault) if isinstance(fault, int) else fault

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        if callable(self.reply):
            text = self.reply(body)
        else:
            replies = [self.reply] if isinstance(self.reply, str) else self.reply
            text = replies[(len(self.chats) - 1) % len(replies)]
        return text if isinstance(text, dict) else completion(text, body)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], fault: Fault | None
    ) -> web.StreamResponse:
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            return web.Response(status=fault.status, text=fault.text, headers=fault.headers)
        if fault and kind == "stall":
            await asyncio.sleep(fault.seconds)
        whole = completion("x" * fault.size, body) if fault and kind == "big" else self._whole(body)
        data = json.dumps(whole).encode()
        if kind in ("reset", "hang_up"):
            return await _cut(request, data if kind == "reset" else b"")
        if kind == "truncated":
            return web.Response(body=data[: len(data) // 2], content_type="application/json")
        if fault and kind == "drip":
            return await _drip(request, data, fault.seconds)
        if body.get("stream"):
            return await _stream(request, whole)
        return web.Response(body=data, content_type="application/json")


def completion(text: str, body: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    """A whole answer in OpenAI's form; tokens are words."""
    asked = sum(len(str(turn["content"]).split()) for turn in body["messages"])
    said = len(text.split())
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": body.get("model", ""),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


def _error(code: int, words: str) -> web.Response:
    return web.json_response({"error": {"message": words, "type": "error", "code": None}}, status=code)


async def _cut(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send the head and half the body, then reset the connection."""
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": str(len(data))}
    )
    if data:
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        await asyncio.sleep(0.01)
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        request.transport.abort()
    await asyncio.sleep(3600)  # until the connection's end cancels this handler
    return response


async def _drip(request: web.Request, data: bytes, seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": str(len(data))}
    )
    await response.prepare(request)
    for byte in data:
        await response.write(bytes([byte]))
        await asyncio.sleep(seconds)
    return response


async def _stream(request: web.Request, whole: dict[str, Any]) -> web.StreamResponse:
    """The same answer as server-sent events, a few characters each."""
    choice = whole["choices"][0]
    text = choice["message"]["content"]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for start in range(0, len(text), 4):
        delta = {
            "choices": [{"index": 0, "delta": {"content": text[start : start + 4]}, "finish_reason": None}]
        }
        await response.write(b"data: " + json.dumps(delta).encode() + b"\n\n")
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    await response.write(b": a comment\n\ndata: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")
    return response
