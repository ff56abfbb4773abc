"""Short calls of the steps that generate, for tests that make many of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.core.settings import Requests
from maieutic.rollouts.steps import (
    Candidates,
    CandidatesResult,
    Continuations,
    ContinuationsResult,
    Intents,
    IntentsResult,
    PrePostTest,
    PrePostTestResult,
    Simulate,
    SimulateResult,
)


def grouped(settings: dict[str, Any], concurrency: int = 64) -> dict[str, Any]:
    """Settings with `concurrency` and `max_failure_rate` in their group."""
    names = ("concurrency", "max_failure_rate")
    requests = {name: settings[name] for name in names if name in settings}
    rest = {name: value for name, value in settings.items() if name not in names}
    return {**rest, "requests": Requests(**{"concurrency": concurrency, **requests})}


def simulation(
    user: Any, assistant: Any, n: int | None = None, config: dict[str, Any] | None = None, **more: Any
) -> Simulate:
    return Simulate(user=user, assistant=assistant, n=n, **grouped({**(config or {}), **more}))


def simulate(
    user: Any, assistant: Any, out: Path | str, n: int | None = None, config: dict[str, Any] | None = None,
    controller: Any = None,
) -> SimulateResult:  # fmt: skip
    return simulation(user, assistant, n, config, controller=controller).run(out)


def candidates(model: Any, data: Any, out: Path | str, **settings: Any) -> CandidatesResult:
    return Candidates(model=model, data=data, **grouped(settings, 32)).run(out)


def intents(model: Any, data: Any, out: Path | str, **settings: Any) -> IntentsResult:
    return Intents(model=model, data=data, **grouped(settings, 32)).run(out)


def continuations(
    data: Any, student: Any, tutor: Any, out: Path | str, *, m: int = 4, turns: int = 3,
    config: dict[str, Any] | None = None,
) -> ContinuationsResult:  # fmt: skip
    step = Continuations(data=data, student=student, tutor=tutor, m=m, turns=turns, **grouped(config or {}))
    return step.run(out)


def pre_post_test(model: Any, data: Any, out: Path | str, when: Any, **settings: Any) -> PrePostTestResult:
    return PrePostTest(model=model, data=data, when=when, **grouped(settings)).run(out)
