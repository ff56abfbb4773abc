"""Models behind an OpenAI-compatible server: chat completions, one thin client for all of them.

The official client costs nine times the CPU a reply that this one does, and per reply nothing of it is
used. The request is OpenAI's; where a server's words say that it does not know a field (`seed`,
`temperature`, `top_p`, `response_format`, or `max_tokens` where it wants `max_completion_tokens`), the call
is made again without it, and the model remembers.
"""

from __future__ import annotations

import difflib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from maieutic.core import prompts
from maieutic.core.console import note
from maieutic.core.errors import MalformedReply, UnknownModel
from maieutic.core.messages import Finish, Message, Reply, Role, Sampling, utf8
from maieutic.models import ModelOptions
from maieutic.models.address import address, key, missing_key
from maieutic.models.completions import NOTHING, Said, read, read_piece, settled, until_end
from maieutic.models.faults import BadRequest, line
from maieutic.models.transport import SHARE, Transport

CHECK_ATTEMPTS = 3
CHECK_SECONDS = 30.0
PULL_SECONDS = 6 * 3600.0
_CHAT = "/chat/completions"
_TOP = 5
"""First tokens whose log-probabilities are asked for: as many as every server gives."""
_SHOWN = 8
"""Model names an error lists."""

_OBJECTION = re.compile(
    r"unsupported|not support|unrecogni|unknown|unexpected|extra|not permitted|not allowed|only the default"
    r"|cannot both|deprecated|not available|not implemented|invalid schema|invalid_json_schema",
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


class RemoteModel:
    """A model of an OpenAI-compatible server. `openai/NAME`, `http(s)://HOST/v1#NAME` or `ollama/NAME`.

    `reply(role=USER)` is for a trained simulator, whose served template opens the human's turn: the messages
    go as they are. A free start goes as one system message, never as no message at all. END is recognised
    where the server leaves it in the text or names it as the stop; `suppress_end` cannot be asked of a
    server, so there an END may still come first, and shows as a reply with no text and `Finish.END`.

    Without `#NAME` an address stands for the only model its server has.

    Raises:
        InputError: the address cannot be read or carries a secret.
    """

    trained_role: Role | None = None
    fingerprint: str | None = None
    """A server does not say which side its model was trained to speak."""

    def __init__(self, spec: str, options: ModelOptions | None = None) -> None:
        options = options or ModelOptions()
        self.id = utf8(spec)
        self.place = address(spec)
        self.refused: dict[str, str] = {}
        """Fields that the server does not take, and its words."""
        self._name = self.place.name
        self._system = options.system
        self._key = key(self.place)
        self._http = Transport(self.place, self._key, options.attempts, options.timeout, options.concurrency)
        self._pulls = options.pull and spec.startswith("ollama/")

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The next turn of `role`; see `ChatModel.reply`.

        `seconds` counts all attempts and the waits between them.
        """
        return (await self._ask(self._body(messages, sampling, schema, await self._known_name()), role))[0]

    async def reply_with_first(
        self, messages: Sequence[Message], sampling: Sampling
    ) -> tuple[Reply, Mapping[str, float]]:
        """The assistant's next turn, and natural-log probabilities of its likeliest first tokens.

        They are empty where the server does not give them.
        """
        body = self._body(messages, sampling, None, await self._known_name())
        if "logprobs" not in self.refused:
            body |= {"logprobs": True, "top_logprobs": _TOP}
        reply, said = await self._ask(body, Role.ASSISTANT)
        return reply, said.first or {}

    async def _ask(self, body: dict[str, Any], role: Role) -> tuple[Reply, Said]:
        """Ask until the server takes the body, which loses what it objects to."""
        failed, seconds = 0, 0.0
        words: dict[str, str] = {}
        while True:
            asked = time.monotonic()
            try:
                answer = await self._http.ask(_CHAT, body, read)
            except BadRequest as error:
                words[_give_way(error, body)] = error.what
                failed, seconds = failed + 1, seconds + time.monotonic() - asked
                continue
            self._remember(words)
            said, tries = answer.value, failed + answer.attempts
            return self._reply(said, role, seconds + answer.seconds, tries), said

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        done: Callable[[Reply], None] | None = None,
    ) -> AsyncIterator[str]:
        """The next turn of `role` as it is written, in pieces that make up its text; `done` gets the reply.

        Raises:
            ModelError: as `reply` does; Unreachable also where the answer breaks off in its middle.
        """
        started, failed = time.monotonic(), 0
        body = {**self._body(messages, sampling, None, await self._known_name()), "stream": True}
        words: dict[str, str] = {}
        while True:
            whole, shown, calls, said = "", 0, 0, NOTHING
            try:
                async for calls, event in self._http.events(_CHAT, body, read_piece):  # noqa: B007 - used below
                    said = read_piece(event, said)
                    whole += said.text
                    if piece := settled(whole, role)[shown:]:
                        yield piece
                        shown += len(piece)
            except BadRequest as error:
                words[_give_way(error, body)] = error.what
                failed += 1
                continue
            self._remember(words)
            text, _ = until_end(whole, role)
            if len(text) > shown:
                yield text[shown:]
            if done is not None:
                seconds = time.monotonic() - started
                done(self._reply(said._replace(text=whole), role, seconds, failed + calls))
            return

    async def check(self) -> None:
        """Raise unless the server answers, takes the key and has the model.

        A server that lists no models (404, 405) is taken at its word.
        """
        if self.place.needs_key and not self._key:
            raise missing_key(self.place)
        names = await self._names()
        if names is None:
            if not self._name:
                raise self._nameless("does not list its models")
            return
        if not self._name:
            self._name = self._only(names)
        if self._name not in names and f"{self._name}:latest" not in names:
            if self._pulls:
                await self._pull()
                return
            near = difflib.get_close_matches(self._name, names, _SHOWN, 0.3)
            raise UnknownModel(
                f"{self.place.url} has no model {self._name!r}",
                f"It has {_listed(near or names)}." if names else "It has no models at all.",
            )

    async def _pull(self) -> None:
        """Let an Ollama server fetch the model.

        Raises:
            UnknownModel: it cannot, in its words.
        """
        note(f"{self.place.url} fetches {self._name}; this can take minutes")
        root = self.place._replace(url=self.place.url.removesuffix("/v1"))
        server = Transport(root, self._key, 1, SHARE * PULL_SECONDS, 1)
        try:
            await server.ask("/api/pull", {"model": self._name, "stream": False}, _pulled)
        finally:
            await server.close()

    async def close(self) -> None:
        """Close the running loop's connections; the model can be used again."""
        await self._http.close()

    def __repr__(self) -> str:
        return f"RemoteModel({self.id!r})"

    async def _known_name(self) -> str:
        if self.place.needs_key and not self._key:
            raise missing_key(self.place)
        if not self._name:
            names = await self._names()
            if names is None:
                raise self._nameless("does not list its models")
            self._name = self._only(names)
        return self._name

    async def _names(self) -> list[str] | None:
        """The names the server lists, or null where it has no list."""
        try:
            return (await self._http.ask("/models", None, _model_names, CHECK_ATTEMPTS, CHECK_SECONDS)).value
        except (UnknownModel, BadRequest) as error:
            if isinstance(error, BadRequest) and error.status != 405:
                raise
            return None

    def _only(self, names: list[str]) -> str:
        if len(names) != 1:
            raise self._nameless(f"has {_listed(names)}" if names else "has no models")
        return names[0]

    def _nameless(self, why: str) -> UnknownModel:
        return UnknownModel(
            f"{self.place.url} {why}, and the MODEL names none", f"Write {self.place.url}#NAME."
        )

    def _reply(self, said: Said, role: Role, seconds: float, attempts: int) -> Reply:
        text, ended = until_end(said.text, role)
        return Reply(
            text=text,
            finish=Finish.END if ended else said.finish,
            model=self.id,
            prompt_tokens=said.prompt_tokens,
            completion_tokens=said.completion_tokens,
            seconds=seconds,
            attempts=attempts,
        )

    def _body(
        self, messages: Sequence[Message], sampling: Sampling, schema: dict[str, Any] | None, name: str
    ) -> dict[str, Any]:
        turns: list[dict[str, str]] = [{"role": turn.role, "content": turn.content} for turn in messages]
        if not turns or (self._system is not None and turns[0]["role"] != "system"):
            system = prompts.load("dyadic").text if self._system is None else utf8(self._system)
            turns.insert(0, {"role": "system", "content": system})
        body: dict[str, Any] = {
            "model": name,
            "messages": turns,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed % 2**31,
        }
        if schema is not None:
            named = {"name": "reply", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        for field in self.refused:
            _drop(field, body)
        return body

    def _remember(self, words: dict[str, str]) -> None:
        """Called once a changed request was answered: only then was the field to blame."""
        for field in words.keys() - self.refused.keys():
            self.refused[field] = words[field]
            _log.warning("%s is asked without %s from now on (%s)", self.place.url, field, words[field])


def _give_way(error: BadRequest, body: dict[str, Any]) -> str:
    """Take the field that the server's words object to out of the body and name it, or raise the error."""
    words = error.raw
    if "max_tokens" in body and "max_completion_tokens" in words:
        return _drop("max_tokens", body)
    if "response_format" in body and re.search(
        r"response_format|json_schema|structured output|guided", words
    ):
        return _drop("response_format", body)
    if "logprobs" in body and "logprobs" in words:
        body.pop("top_logprobs", None)
        return _drop("logprobs", body)
    if _OBJECTION.search(words):
        for field in ("seed", "top_p", "temperature"):
            if field in body and re.search(rf"\b{field}\b", words):
                return _drop(field, body)
    raise error


def _drop(field: str, body: dict[str, Any]) -> str:
    value = body.pop(field, None)
    if field == "max_tokens" and value is not None:
        body["max_completion_tokens"] = value
    return field


def _model_names(value: dict[str, Any]) -> list[str]:
    data = value.get("data")
    if data is not None and not isinstance(data, list):
        raise MalformedReply("answered with no list of models", "Check that the address ends in /v1.")
    return [str(model["id"]) for model in data or () if isinstance(model, dict) and "id" in model]


def _pulled(value: dict[str, Any]) -> None:
    if value.get("status") != "success":
        raise UnknownModel(f"the server fetched no model: {line(str(value.get('error')))}", "Check the name.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
