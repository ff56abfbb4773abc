"""A thread that owns an engine: requests come from any event loop and join the running batch as they come."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from maieutic.core.errors import ModelError

GATHER_SECONDS = 0.004
"""How long an idle worker waits for company: what is sent together is then prefilled together."""
IDLE_SECONDS = 2.0
"""After this long without work the thread ends, so that a forgotten model can be freed."""


class _Job:
    """A request to decode, or a function to run on the engine."""

    def __init__(self, work: Any, listen: Callable[[list[int]], None] | None = None) -> None:
        self.work = work
        self.listen = listen
        self.future: Future[Any] = Future()

    def answer(self, result: Any) -> None:
        """Deliver a result or an error, unless nobody waits any more."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Worker:
    """Runs an engine in a thread of its own.

    Args:
        load: makes the engine, at the first job, in the thread.
        batch: rows decoded together at most.
    """

    def __init__(self, load: Callable[[], Any], batch: int) -> None:
        self._load = load
        self._batch = max(1, batch)
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._engine: Any = None

    def submit(self, request: Any, listen: Callable[[list[int]], None] | None = None) -> Future[Any]:
        """Decode a request. `listen` is called in the worker's thread with the ids so far, at each step."""
        return self._put(_Job(request, listen))

    def call(self, function: Callable[[Any], Any]) -> Future[Any]:
        """Run a function of the engine between two steps."""
        return self._put(_Job(function))

    def close(self) -> Future[Any]:
        """Give up what is under way and free the engine; a later job loads it anew."""
        return self._put(_Job(None))

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
            except Exception as error:  # whatever the model raised is for those who wait for it
                for job in [*running.values(), *waiting]:
                    job.answer(_plain(error))
                waiting.clear()
                running.clear()

    def _gather(self, waiting: list[_Job], idle: bool) -> bool:
        """Take what has come; wait for it where there is nothing to do. False where the thread shall end."""
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
        """Run the functions, admit what fits, draw one token for every row, deliver what is done."""
        for job in [job for job in waiting if job.work is None or callable(job.work)]:
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
        room = self._batch - len(running)
        if waiting and room > 0 and (engine.joinable or not running):
            now = waiting[:room]
            tickets = engine.admit([job.work for job in now])
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
        if job.work is None:
            for other in running.values():
                other.answer(
                    ModelError("the model was closed while it answered", "Ask again: it is loaded anew.")
                )
            running.clear()
            self._engine = None
            job.answer(None)
            return
        try:
            job.answer(job.work(self._ready()))
        except Exception as error:  # it belongs to whoever asked
            job.answer(_plain(error))

    def _ready(self) -> Any:
        if self._engine is None:
            self._engine = self._load()
        return self._engine


def _plain(error: Exception) -> Exception:
    """The error as a person should read it."""
    if type(error).__name__ == "OutOfMemoryError":
        return ModelError(
            "the device's memory is full", "Decode fewer rows together, or take a smaller model."
        )
    return error
