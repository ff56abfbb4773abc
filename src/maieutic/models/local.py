"""`hf/PATH_OR_ID`: a model in this process, decoded in batches, off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

from maieutic.chat_templates import end_id, prompt_ids, render, stop_ids, turn_lead
from maieutic.chat_templates.openings import openings
from maieutic.core.messages import Conversation, Message, Reply, Role, Sampling
from maieutic.models import ModelOptions
from maieutic.models import checkpoint as files
from maieutic.models.worker import Worker

BROKEN = "\ufffd"


class LocalModel:
    """A checkpoint on this machine or on the hub. The tokenizer is loaded at once, the weights at first use.

    Args:
        name: a checkpoint folder, or a name on the hub.
        options: template and system text win over those the checkpoint names in its `maieutic.json`.

    Raises:
        MissingInput: there is no such folder.
        ModelError: the hub does not have it, or it has no safetensors weights, or it needs code of its own.
        MissingExtra: torch or transformers is not installed.
    """

    def __init__(self, name: str, options: ModelOptions | None = None) -> None:
        options = options or ModelOptions()
        self.id = f"hf/{name}"
        self._options = options
        self._source = files.find(name)
        files.check_weights(self._source)
        said = files.settings(self._source)
        self.roles = said.roles
        """The sides it was trained to speak; empty where the checkpoint does not say."""
        self.trained_role: Role | None = (
            Role.USER if Role.USER in said.roles else next(iter(said.roles), None)
        )
        """`user` also where it was trained on both sides: it can then speak as a trained simulator."""
        self.template = options.template if options.template is not None else said.template
        self.system = options.system if options.system is not None else said.system
        self.telling = said.telling
        """What it learned to be told of its person; null where the checkpoint does not say."""
        framing = [self.template, self.system, *({options.precision} - {"auto"})]
        self.fingerprint: str | None = files.state(self._source, *framing)
        self.tokenizer: Any = files.load_tokenizer(self._source, options.remote_code)
        self._stops: frozenset[int] | None = None
        self._lead: dict[Role, str] = {}
        self._worker = Worker(self._load, options.batch)

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The next turn of `role`; see `ChatModel`. `schema` is not enforced here.

        Raises:
            ContextFull: the conversation does not fit the model's context.
            RenderError: the template cannot write it.
        """
        started = time.monotonic()
        request = self._request(messages, sampling, role, suppress_end)
        generated = await asyncio.wrap_future(self._worker.submit(request))
        return self._reply(generated, role, len(request.ids), started)

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        done: Callable[[Reply], None] | None = None,
    ) -> AsyncIterator[str]:
        """The next turn as it is drawn, in pieces that make up its text; `done` gets the whole reply."""
        started = time.monotonic()
        request = self._request(messages, sampling, role, False)
        loop, news = asyncio.get_running_loop(), asyncio.Queue[list[int] | None]()
        future = self._worker.submit(request, lambda ids: _tell(loop, news, ids))
        future.add_done_callback(lambda _: _tell(loop, news, None))
        shown = ""
        try:
            while (ids := await news.get()) is not None:
                text = self._decode(ids, role).rstrip(BROKEN)  # a character may still lack its last bytes
                if text.startswith(shown) and len(text) > len(shown):
                    yield text[len(shown) :]
                    shown = text
            reply = self._reply(await asyncio.wrap_future(future), role, len(request.ids), started)
        finally:
            future.cancel()
        if len(reply.text) > len(shown):
            yield reply.text[len(shown) :]
        if done is not None:
            done(reply)

    async def check(self) -> None:
        """Load everything."""
        await asyncio.wrap_future(self._worker.call(lambda _: None))

    async def close(self) -> None:
        """Free the weights; a later call loads them again."""
        await asyncio.wrap_future(self._worker.close())

    def logprobs(
        self,
        conversations: Sequence[Conversation],
        role: Role,
        *,
        end: bool = True,
        batch_tokens: int = 4096,
    ) -> list[list[float] | None]:
        """Natural-log probabilities of each conversation's tokens that `role` said, ends of turns included.

        With `end`, that of END where the conversation is `ended`. Null for one that does not fit the context.

        Raises:
            RenderError: a conversation has no turn of `role`, or the template cannot write it.
        """
        rows = [render(row, self.tokenizer, role, self.template, self.system, end) for row in conversations]

        def score(engine: Any) -> list[list[float] | None]:
            from maieutic.models.scoring import token_logprobs

            context = engine.network.context
            fits = [i for i, row in enumerate(rows) if context is None or len(row.input_ids) <= context]
            scored = token_logprobs(engine.network, [rows[i] for i in fits], batch_tokens)
            by_index = dict(zip(fits, scored, strict=True))
            return [by_index.get(i) for i in range(len(rows))]

        result: list[list[float] | None] = self._worker.call(score).result()
        return result

    def end_probabilities(
        self, conversations: Sequence[Conversation], *, batch_tokens: int = 4096
    ) -> list[list[float | None]]:
        """Probability of END at each human opening of each conversation, in one forward pass a conversation.

        The openings are those before each of its user turns, and one more where it does not end on the user.
        Null where an opening does not fit the context, or the model knows no END.
        """
        token = end_id(self.tokenizer)
        rows = [openings(row, self.tokenizer, self.template, self.system) for row in conversations]
        if token is None:
            return [[None] * len(places) for _, places in rows]

        def score(engine: Any) -> list[list[float | None]]:
            from maieutic.models.scoring import probabilities

            limit = engine.network.context or max(len(ids) for ids, _ in rows)
            fitting = [[place for place in places if place < limit] for _, places in rows]
            texts = [
                ids[: places[-1] + 1] if places else []
                for (ids, _), places in zip(rows, fitting, strict=True)
            ]
            found = probabilities(engine.network, texts, fitting, token, batch_tokens)
            return [
                [*values, *[None] * (len(places) - len(values))]
                for values, (_, places) in zip(found, rows, strict=True)
            ]

        if not rows:
            return []
        result: list[list[float | None]] = self._worker.call(score).result()
        return result

    def _load(self) -> Any:
        options = self._options
        weights = files.load_weights(self._source, options.device, options.remote_code, options.precision)
        from maieutic.models.engine import Engine

        return Engine(weights, self.tokenizer.pad_token_id or 0)

    def _request(
        self, messages: Sequence[Message], sampling: Sampling, role: Role, suppress_end: bool
    ) -> Any:
        from maieutic.models.engine import Request

        end = end_id(self.tokenizer)
        return Request(
            prompt_ids(messages, self.tokenizer, role, self.template, self.system),
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.seed,
            # Only a person ends a conversation; an assistant that draws END has merely ended its turn.
            self._stop_ids() | (frozenset({end} - {None}) if role != Role.USER else frozenset()),
            end if role == Role.USER else None,
            suppress_end,
        )

    def _stop_ids(self) -> frozenset[int]:
        if self._stops is None:
            makers = files.end_of_text_ids(self._source)
            self._stops = frozenset(stop_ids(self.tokenizer, self.template)) | makers
        return self._stops

    def _decode(self, ids: list[int], role: Role) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix(self._leads(role))

    def _leads(self, role: Role) -> str:
        """See `render.turn_lead`."""
        if role not in self._lead:
            self._lead[role] = turn_lead(self.tokenizer, self.template, role)
        return self._lead[role]

    def _reply(self, generated: Any, role: Role, prompt_tokens: int, started: float) -> Reply:
        return Reply(
            text=self._decode(generated.ids, role),
            finish=generated.finish,
            model=self.id,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(generated.ids),
            seconds=time.monotonic() - started,
            end_probability=generated.end_probability,
        )


def _tell(loop: asyncio.AbstractEventLoop, news: asyncio.Queue[Any], what: Any) -> None:
    """Put something into an event loop's queue from another thread."""
    with suppress(RuntimeError):  # a loop that was closed meanwhile wants no news
        loop.call_soon_threadsafe(news.put_nowait, what)
