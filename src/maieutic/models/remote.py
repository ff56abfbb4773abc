"""Models behind an OpenAI-compatible server: chat completions, one thin client for all servers.

The official client needs nine times the CPU time per reply. The request format is OpenAI's. If a server's error says
that it does not support a field (`seed`, `temperature`, `top_p`, `response_format`, or `max_tokens` instead of
`max_completion_tokens`), the call is repeated without the field, and later calls omit the field too.
"""

from __future__ import annotations

import difflib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from maieutic.chat_templates.encode import END
from maieutic.core import prompts
from maieutic.core.console import note
from maieutic.core.errors import MalformedReply, ModelError, UnknownModel
from maieutic.core.messages import Finish, Message, Reply, Role, Sampling, utf8
from maieutic.core.settings import Requests
from maieutic.models.address import address, key, missing_key
from maieutic.models.transport import ODD_SERVER, SHARE, BadRequest, Transport, line

CHECK_ATTEMPTS = 3
CHECK_SECONDS = 30.0
PULL_SECONDS = 6 * 3600.0
_CHAT = "/chat/completions"
_TOP = 5
"""Number of requested top log-probabilities: all servers return this many."""
_SHOWN = 8
"""Maximum number of model names in an error."""

_OBJECTION = re.compile(
    r"unsupported|not support|unrecogni|unknown|unexpected|extra|not permitted|not allowed|only the default"
    r"|cannot both|deprecated|not available|not implemented|invalid schema|invalid_json_schema",
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


class Completion(NamedTuple):
    """The content of one answer, or of one event of a stream."""

    text: str
    """END if the server left it in the text, or named it as the stop reason."""
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    first: Mapping[str, float] | None = None
    """Natural-log probabilities of the likeliest first tokens, where they were requested and returned."""


NOTHING_YET = Completion("", Finish.STOP, 0, 0)


class RemoteModel:
    """A model of an OpenAI-compatible server. `openai/NAME`, `http(s)://HOST/v1#NAME` or `ollama/NAME`.

    `reply(role=USER)` is for a trained simulator, whose served template opens the human's turn: the messages are sent
    unchanged. A free start is sent as one system message, since servers refuse an empty list. END is recognised where
    the server leaves it in the text or names it as the stop reason. A server cannot be asked to suppress END, so
    with `suppress_end` a reply may still be an empty text with `Finish.END`.

    Args:
        spec: the MODEL. An address without `#NAME` means the only model that the server has.
        system: system text for conversations that have none.
        requests: attempts, timeout, concurrency and pull.

    Raises:
        InputError: the address cannot be read or carries a secret.
    """

    trained_role: Role | None = None
    """A server does not say which side its model was trained to speak."""
    fingerprint: str | None = None

    def __init__(self, spec: str, system: str | None = None, requests: Requests | None = None) -> None:
        requests = requests or Requests()
        self.id = utf8(spec)
        self.server = address(spec)
        self.refused: dict[str, str] = {}
        """Fields that the server refuses, and its error message."""
        self._name = self.server.name
        self._system = system
        self._key = key(self.server)
        self._http = Transport(self.server, self._key, requests)
        self._pulls = requests.pull and spec.startswith("ollama/")

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
        reply, completion = await self._ask(body, Role.ASSISTANT)
        return reply, completion.first or {}

    async def _ask(self, body: dict[str, Any], role: Role) -> tuple[Reply, Completion]:
        """Ask until the server accepts the body; fields that it refuses are dropped."""
        failed, seconds = 0, 0.0
        words: dict[str, str] = {}
        while True:
            asked = time.monotonic()
            try:
                answer = await self._http.ask(_CHAT, body, read_completion)
            except BadRequest as error:
                words[_give_way(error, body)] = error.what
                failed, seconds = failed + 1, seconds + time.monotonic() - asked
                continue
            self._remember(words)
            completion, tries = answer.value, failed + answer.attempts
            return self._reply(completion, role, seconds + answer.seconds, tries), completion

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        done: Callable[[Reply], None] | None = None,
    ) -> AsyncIterator[str]:
        """Stream the next turn of `role` in pieces; `done` gets the whole reply.

        Raises:
            ModelError: as `reply` does; Unreachable also where the answer breaks off.
        """
        started, failed = time.monotonic(), 0
        body = {**self._body(messages, sampling, None, await self._known_name()), "stream": True}
        words: dict[str, str] = {}
        while True:
            whole, shown, calls, completion = "", 0, 0, NOTHING_YET
            try:
                async for calls, event in self._http.events(_CHAT, body, read_event):  # noqa: B007 - used below
                    completion = read_event(event, completion)
                    whole += completion.text
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
                done(self._reply(completion._replace(text=whole), role, seconds, failed + calls))
            return

    async def check(self) -> None:
        """Raise unless the server answers, accepts the key and has the model.

        A server without a list of models (404, 405) is trusted to have the model.
        """
        if self.server.needs_key and not self._key:
            raise missing_key(self.server)
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
                f"{self.server.url} has no model {self._name!r}",
                f"It has {_listed(near or names)}." if names else "It has no models at all.",
            )

    async def _pull(self) -> None:
        """Let an Ollama server fetch the model.

        Raises:
            UnknownModel: the server cannot; the error quotes it.
        """
        note(f"{self.server.url} fetches {self._name}; this can take minutes")
        root = self.server._replace(url=self.server.url.removesuffix("/v1"))
        puller = Transport(root, self._key, Requests(attempts=1, timeout=SHARE * PULL_SECONDS, concurrency=1))
        try:
            await puller.ask("/api/pull", {"model": self._name, "stream": False}, _pulled)
        finally:
            await puller.close()

    async def close(self) -> None:
        """Close the running loop's connections; the model can be used again."""
        await self._http.close()

    def __repr__(self) -> str:
        return f"RemoteModel({self.id!r})"

    async def _known_name(self) -> str:
        if self.server.needs_key and not self._key:
            raise missing_key(self.server)
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
            f"{self.server.url} {why}, and the MODEL has no name", f"Write {self.server.url}#NAME."
        )

    def _reply(self, completion: Completion, role: Role, seconds: float, attempts: int) -> Reply:
        text, ended = until_end(completion.text, role)
        return Reply(
            text=text,
            finish=Finish.END if ended else completion.finish,
            model=self.id,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
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
        """Remember the dropped fields; called once the changed request was answered, which proves the refusal."""
        for field in words.keys() - self.refused.keys():
            self.refused[field] = words[field]
            _log.warning("requests to %s now omit %s (%s)", self.server.url, field, words[field])


def _give_way(error: BadRequest, body: dict[str, Any]) -> str:
    """Remove the field that the server's error names from the body and return its name, or raise the error."""
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
        raise MalformedReply("answered without a list of models", "Check that the address ends in /v1.")
    return [str(model["id"]) for model in data or () if isinstance(model, dict) and "id" in model]


def _pulled(value: dict[str, Any]) -> None:
    if value.get("status") != "success":
        raise UnknownModel(f"the server fetched no model: {line(str(value.get('error')))}", "Check the name.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def read_completion(value: dict[str, Any]) -> Completion:
    """A chat completion's text, finish and usage.

    Raises:
        MalformedReply: the answer has no text.
        ModelError: the server's filter withheld the reply; another attempt would not help.
    """
    choice = _first_choice(value)
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    reason = choice.get("finish_reason")
    if content is None and isinstance(message, dict):
        content = message.get("refusal")
        if content is None and reason == "length":  # all tokens were spent on reasoning
            content = ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is None and reason == "content_filter":
        raise ModelError("the server's filter withheld the reply", "Change the conversation or the model.")
    if not isinstance(content, str):
        raise MalformedReply("answered without a text", ODD_SERVER)
    if choice.get("stop_reason") == END and END not in content:
        content += END
    return Completion(utf8(content), _finish(reason), *_usage(value), _first_tokens(choice))


def _first_tokens(choice: dict[str, Any]) -> Mapping[str, float] | None:
    """`logprobs.content[0].top_logprobs` as a mapping; null where there are none."""
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


def read_event(event: dict[str, Any], before: Completion = NOTHING_YET) -> Completion:
    """One event's text, and the finish reason and usage known so far.

    The usage may come in a separate event without choices. A whole answer in place of events is read too.

    Raises:
        MalformedReply, ModelError: not a valid event, or a whole answer that `read_completion` refuses.
    """
    own = event.get("choices") == [] and event.get("object") != "chat.completion" and not event.get("error")
    choice = {} if own else _first_choice(event)
    if "message" in choice and "delta" not in choice:
        return read_completion(event)
    part = choice.get("delta")
    content = part.get("content") if isinstance(part, dict) else None
    text = utf8(content) if isinstance(content, str) else ""
    prompt, completion = _usage(event)
    return Completion(
        text + END if choice.get("stop_reason") == END else text,
        _finish(choice.get("finish_reason")) if choice.get("finish_reason") else before.finish,
        prompt or before.prompt_tokens,
        completion or before.completion_tokens,
    )


def settled(text: str, role: Role) -> str:
    """The part of a streamed text that cannot be the beginning of END."""
    text, ended = until_end(text, role)
    for size in range(0 if ended else min(len(END) - 1, len(text)), 0, -1):
        if END.startswith(text[-size:]):
            return text[:-size]
    return text


def until_end(text: str, role: Role) -> tuple[str, bool]:
    """The text before END, and whether END was found: anywhere in a user's turn, at the end of an assistant's."""
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
