"""Models for the tests of judging, at the edge: functions in place of a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maieutic.core.budget import Budget
from maieutic.core.messages import Finish, Message, Reply, Role, Sampling
from maieutic.core.settings import Requests
from maieutic.core.step import build
from maieutic.judging.steps import (
    EvalTutorPairwise,
    EvalTutorPairwiseResult,
    Judge,
    JudgeResult,
    Preferences,
    PreferencesResult,
    Rewards,
    RewardsResult,
)

GOOD = {"reason": "ok", "asks_question": "yes", "on_topic": 4, "helpful": 3, "reveals_answer": "no"}


def verdict(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


class Speaker:
    """Answers by a function of the messages and the sampling; counts calls and how many ran at once."""

    trained_role: Role | None = None
    fingerprint: str | None = None

    def __init__(
        self, answer: Callable[[Sequence[Message], Sampling], str], id: str = "test/speaker"
    ) -> None:
        self.id = id
        self._answer = answer
        self.asked: list[list[Message]] = []
        self.schemas: list[Any] = []
        self.seeds: list[int] = []
        self.most = self._now = 0
        self.closed = False

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        self.asked.append(list(messages))
        self.schemas.append(schema)
        self.seeds.append(sampling.seed)
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        text = self._answer(messages, sampling)
        finish = Finish.LENGTH if len(text.split()) >= sampling.max_tokens else Finish.STOP
        return Reply(text=text, finish=finish, model=self.id, completion_tokens=len(text.split()))

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        self.closed = True


def _asking(
    model: Any = (), concurrency: int = 32, max_failure_rate: float = 0.05, budget: Budget | None = None
) -> dict[str, Any]:
    return {
        "judge": model,
        "requests": Requests(concurrency=concurrency, max_failure_rate=max_failure_rate),
        "budget": budget or Budget(),
    }


def judge(source: Any, out: Path, *, model: Any = (), **settings: Any) -> JudgeResult:
    """`Judge`, with the settings of requests beside the others."""
    asking = {
        name: settings.pop(name) for name in ("concurrency", "max_failure_rate", "budget") if name in settings
    }
    return Judge(data=source, **_asking(model, **asking), **settings).run(out)


def compare(a: Path, b: Path, out: Path, *, model: Any, **settings: Any) -> EvalTutorPairwiseResult:
    """`EvalTutorPairwise`, in the same way."""
    asking = {
        name: settings.pop(name) for name in ("concurrency", "max_failure_rate", "budget") if name in settings
    }
    return EvalTutorPairwise(a=a, b=b, **_asking(model, **asking), **settings).run(out)


def preferences(source: Any, out: Path, **rules: Any) -> PreferencesResult:
    step = build(Preferences, {"data": source, **rules})
    assert isinstance(step, Preferences)
    return step.run(out)


def rewards(judged: Path, continuations: Path, out: Path, **settings: Any) -> RewardsResult:
    step = build(Rewards, {"data": judged, "continuations": continuations, **settings})
    assert isinstance(step, Rewards)
    return step.run(out)
