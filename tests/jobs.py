"""A training step with the folder that it writes, for tests that run it, change it, and run it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from maieutic.train.config import TrainResult
from maieutic.train.steps import TrainDpo, TrainSft


class Job(NamedTuple):
    step: TrainSft | TrainDpo
    out: Path

    def but(self, out: Path | None = None, **changes: Any) -> Job:
        """The same with other settings, which are validated."""
        kind = type(self.step)
        return Job(kind.model_validate({**dict(self.step), **changes}), out or self.out)

    def run(self) -> TrainResult:
        return self.step.run(self.out)

    def words(self) -> list[str]:
        """The arguments of a script that runs it: see `RUN`."""
        return [self.step.model_dump_json(), str(self.out)]


def sft_job(out: Path, **settings: Any) -> Job:
    return Job(TrainSft(**settings), out)


def dpo_job(out: Path, **settings: Any) -> Job:
    return Job(TrainDpo(**settings), out)


RUN = "from maieutic.train.steps import {kind}\n{kind}.model_validate_json(sys.argv[1]).run(sys.argv[2])\n"
