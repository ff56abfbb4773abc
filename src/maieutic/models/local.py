"""`hf/PATH_OR_ID`: a model in this process, decoded in batches, in a thread separate from the event loop.

The thread owns the engine: requests come from any event loop and join the running batch when they arrive.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from maieutic.chat_templates.rendering import end_id, prompt_ids, render, stop_ids, turn_lead
from maieutic.chat_templates.turns import openings
from maieutic.core.errors import ModelError
from maieutic.core.messages import Conversation, Message, Reply, Role, Sampling
from maieutic.core.settings import LocalModel
from maieutic.models import checkpoint

if TYPE_CHECKING:
    from maieutic.models.engine import Engine, Generated, Request

GATHER_SECONDS = 0.004
"""How long an idle worker waits for further requests: requests that arrive together are prefilled together."""
IDLE_SECONDS = 2.0
"""After this long without work the thread ends, so that a forgotten model can be freed."""
BROKEN = "\ufffd"


class TransformersModel:
    """A checkpoint on this machine or on the hub. The tokenizer is loaded at once, the weights at first use.

    Args:
        name: a checkpoint folder, or a name on the hub.
        settings: its template and system text override those in the checkpoint's `maieutic.json`.

    Raises:
        MissingInput: there is no such folder.
        ModelError: the hub does not have it, it has no safetensors weights, or it needs its own code.
        MissingExtra: torch or transformers is not installed.
    """

    def __init__(self, name: str, settings: LocalModel | None = None) -> None:
        settings = settings or LocalModel()
        self.id = f"hf/{name}"
        self._settings = settings
        self._source = checkpoint.find(name)
        checkpoint.check_weights(self._source)
        record = checkpoint.settings(self._source)
        self.roles = record.roles
        """The sides it was trained to speak; empty where the checkpoint does not say."""
        self.trained_role: Role | None = (
            Role.USER if Role.USER in record.roles else next(iter(record.roles), None)
        )
        """`user` also if it was trained on both sides, since it can then be used as a simulator."""
        self.template = settings.template if settings.template is not None else record.template
        self.system = settings.system if settings.system is not None else record.system
        self.conditioning = record.conditioning
        """The conditions that it was trained with; null where the checkpoint does not say."""
        framing = [self.template, self.system, *({settings.precision} - {"auto"})]
        self.fingerprint: str | None = checkpoint.state(self._source, *framing)
        self.tokenizer: Any = checkpoint.load_tokenizer(self._source, settings.remote_code)
        self._stops: frozenset[int] | None = None
        self._lead: dict[Role, str] = {}
        self._worker = Worker(self._load, settings.batch_size)

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
        """Stream the next turn in pieces; `done` gets the whole reply."""
        started = time.monotonic()
        request = self._request(messages, sampling, role, False)
        loop, updates = asyncio.get_running_loop(), asyncio.Queue[list[int] | None]()
        future = self._worker.submit(request, lambda ids: _put(loop, updates, ids))
        future.add_done_callback(lambda _: _put(loop, updates, None))
        shown = ""
        try:
            while (ids := await updates.get()) is not None:
                text = self._decode(ids, role).rstrip(BROKEN)  # the last character may be incomplete
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
        """Load the weights."""
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
        """Natural-log probabilities of the tokens of each conversation's `role` turns, ends of turns included.

        With `end`, also of END where the conversation is `ended`. Null for a conversation that does not fit.

        Raises:
            RenderError: a conversation has no turn of `role`, or the template cannot write it.
        """
        rows = [render(row, self.tokenizer, role, self.template, self.system, end) for row in conversations]

        def score(engine: Engine) -> list[list[float] | None]:
            from maieutic.models.forward import token_logprobs

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
        """Probability of END at each opening of a user turn, with one forward pass per conversation.

        There is an opening before each user turn, and one more where the conversation does not end on the user.
        Null where an opening does not fit the context, or the model has no END.
        """
        token = end_id(self.tokenizer)
        rows = [openings(row, self.tokenizer, self.template, self.system) for row in conversations]
        if token is None:
            return [[None] * len(places) for _, places in rows]

        def score(engine: Engine) -> list[list[float | None]]:
            from maieutic.models.forward import probabilities

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

    def _load(self) -> Engine:
        settings = self._settings
        weights = checkpoint.load_weights(
            self._source, settings.device, settings.remote_code, settings.precision
        )
        from maieutic.models.engine import Engine

        return Engine(weights, self.tokenizer.pad_token_id or 0)

    def _request(
        self, messages: Sequence[Message], sampling: Sampling, role: Role, suppress_end: bool
    ) -> Request:
        from maieutic.models.engine import Request

        end = end_id(self.tokenizer)
        return Request(
            prompt_ids(messages, self.tokenizer, role, self.template, self.system),
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.seed,
            # Only a person ends a conversation; for an assistant END ends just the turn.
            self._stop_ids() | (frozenset() if end is None or role == Role.USER else {end}),
            end if role == Role.USER else None,
            suppress_end,
        )

    def _stop_ids(self) -> frozenset[int]:
        if self._stops is None:
            own = checkpoint.end_of_text_ids(self._source)
            self._stops = frozenset(stop_ids(self.tokenizer, self.template)) | own
        return self._stops

    def _decode(self, ids: list[int], role: Role) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix(self._leads(role))

    def _leads(self, role: Role) -> str:
        """See `turn_lead`."""
        if role not in self._lead:
            self._lead[role] = turn_lead(self.tokenizer, self.template, role)
        return self._lead[role]

    def _reply(self, generated: Generated, role: Role, prompt_tokens: int, started: float) -> Reply:
        return Reply(
            text=self._decode(generated.ids, role),
            finish=generated.finish,
            model=self.id,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(generated.ids),
            seconds=time.monotonic() - started,
            end_probability=generated.end_probability,
        )


def _put(loop: asyncio.AbstractEventLoop, updates: asyncio.Queue[Any], item: Any) -> None:
    """Put something into an event loop's queue from another thread."""
    with suppress(RuntimeError):  # the loop may have been closed meanwhile
        loop.call_soon_threadsafe(updates.put_nowait, item)


class _Job:
    """A request to decode, or a function to run on the engine; a job without both frees the engine."""

    def __init__(
        self,
        request: Request | None = None,
        function: Callable[[Engine], Any] | None = None,
        listen: Callable[[list[int]], None] | None = None,
    ) -> None:
        self.request = request
        self.function = function
        self.listen = listen
        self.future: Future[Any] = Future()

    def answer(self, result: Any) -> None:
        """Deliver a result or an error, unless the request was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Worker:
    """Runs an engine in a separate thread.

    Args:
        load: creates the engine, in the thread, at the first job.
        batch_size: rows decoded together at most.
    """

    def __init__(self, load: Callable[[], Engine], batch_size: int) -> None:
        self._load = load
        self._batch_size = batch_size
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None

    def submit(self, request: Request, listen: Callable[[list[int]], None] | None = None) -> Future[Any]:
        """Decode a request. `listen` is called in the worker's thread with the ids so far, at each step."""
        return self._put(_Job(request=request, listen=listen))

    def call(self, function: Callable[[Engine], Any]) -> Future[Any]:
        """Run a function of the engine between two steps."""
        return self._put(_Job(function=function))

    def close(self) -> Future[Any]:
        """Drop running requests and free the engine; a later job loads it again."""
        return self._put(_Job())

    def _put(self, job: _Job) -> Future[Any]:
        with self._lock:
            self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="maieutic-model", daemon=True)
                self._thread.start()
        return job.future

    def _run(self) -> None:
        waiting: list[_Job] = []
        running: dict[int, _Job] = {}
        while self._gather(waiting, idle=not running):
            try:
                self._advance(waiting, running)
            except Exception as error:  # of any kind; the callers get it
                for job in [*running.values(), *waiting]:
                    job.answer(_plain(error))
                waiting.clear()
                running.clear()

    def _gather(self, waiting: list[_Job], idle: bool) -> bool:
        """Take the jobs that arrived; wait for a job where the worker is idle. False: the thread ends."""
        if idle and not waiting:
            try:
                waiting.append(self._jobs.get(timeout=IDLE_SECONDS))
            except queue.Empty:
                with self._lock:
                    if not self._jobs.empty():
                        return True
                    self._thread = None
                    return False
            time.sleep(GATHER_SECONDS)
        while not self._jobs.empty():
            waiting.append(self._jobs.get())
        return True

    def _advance(self, waiting: list[_Job], running: dict[int, _Job]) -> None:
        """Run functions, admit requests, draw one token for every row, deliver finished replies."""
        for job in [job for job in waiting if job.request is None]:
            waiting.remove(job)
            self._run_function(job, running)
        waiting[:] = [job for job in waiting if not job.future.cancelled()]
        if not waiting and not running:
            return
        engine = self._ready()
        if gone := {ticket for ticket, job in running.items() if job.future.cancelled()}:
            engine.cancel(gone)
            for ticket in gone:
                del running[ticket]
        room = self._batch_size - len(running)
        if waiting and room > 0 and (engine.joinable or not running):
            now = waiting[:room]
            tickets = engine.admit([job.request for job in now if job.request is not None])
            del waiting[:room]
            running.update(zip(tickets, now, strict=True))
        engine.step()
        for ticket, job in running.items():
            if job.listen is not None and not job.future.cancelled():
                job.listen(engine.drawn(ticket))
        for ticket, result in engine.collect():
            if ticket in running:
                running.pop(ticket).answer(result)

    def _run_function(self, job: _Job, running: dict[int, _Job]) -> None:
        if job.function is None:
            for other in running.values():
                other.answer(
                    ModelError(
                        "the model was closed while it generated",
                        "Repeat the request: the model is loaded again.",
                    )
                )
            running.clear()
            self._engine = None
            job.answer(None)
            return
        try:
            job.answer(job.function(self._ready()))
        except Exception as error:  # the caller gets it
            job.answer(_plain(error))

    def _ready(self) -> Engine:
        if self._engine is None:
            self._engine = self._load()
        return self._engine


def _plain(error: Exception) -> Exception:
    """The error, converted into an error with a message and a hint."""
    if type(error).__name__ == "OutOfMemoryError":
        return ModelError("the device's memory is full", "Lower --batch-size, or use a smaller model.")
    return error
