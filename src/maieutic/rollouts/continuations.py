"""Continue each candidate reply with a student several times, to see whether the student then solves the problem.

Each reply of a candidates or judge step starts several dialogues: a student model answers the reply, the tutor answers
the student, and so on for a few turns. A continuation is *solved* if the student states the known answer and the tutor
has not stated it (`checks.continuations`). The dialogue stops as soon as this is decided. The step runs `simulate`, so
it resumes, obeys a budget, and every message records the model that wrote it. The step `rewards` reads the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from maieutic.checks.continuations import settled, starts
from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation
from maieutic.core.rows import CandidateRow, parse, read_step
from maieutic.rollouts.simulate import run_simulation
from maieutic.rollouts.steps import Continuations, ContinuationsResult, Simulate

_UNLIMITED = 10**6


def continue_candidates(step: Continuations, out: Path) -> ContinuationsResult:
    """Continue the candidates of a step into the run folder `out`; the same call resumes it.

    Raises:
        EmptyCorpus: no reply can be continued.
        BudgetSpent, TooManyFailures, ModelError, RunConflict, RunLocked, DiskFull.
    """
    dialogues: dict[str, Conversation] = {}
    prompts = revealing = without_answer = 0
    for row in _candidate_rows(step.data):
        found = starts(row)
        prompts += any(reply.start is not None for reply in found)
        revealing += sum(reply.told for reply in found)
        without_answer += not (row.problem and row.problem.answer)
        dialogues |= {reply.start.id: reply.start for reply in found if reply.start is not None}
    if not dialogues:
        raise EmptyCorpus(
            f"no reply to continue: {revealing} state the answer, {without_answer} prompts have no known answer",
            "Give candidates to dialogues whose problem has an `answer`.",
        )
    simulation = Simulate(
        user=step.student,
        assistant=step.tutor,
        seeds=list(dialogues.values()),
        repeat=step.m,
        user_turns=step.turns,
        rounds=_UNLIMITED,
        user_mode=step.user_mode,
        user_sampling=step.student_sampling,
        sampling=step.sampling,
        assistant_prompt=step.tutor_prompt,
        show_solution=step.show_solution,
        guards=step.guards,
        redraws=step.redraws,
        seed=step.seed,
        requests=step.requests,
        budget=step.budget,
        local=step.local,
    )
    done = run_simulation(simulation, out, stop_when=settled)
    return ContinuationsResult(
        prompts=prompts,
        replies=len(dialogues),
        revealing=revealing,
        without_answer=without_answer,
        continuations=done.dialogues,
        failed=done.failed,
        calls=done.replies,
        tokens=done.tokens,
        usd=done.usd,
        seconds=done.seconds,
        run=done.run,
    )


def _candidate_rows(data: Path | Sequence[Any]) -> Iterable[CandidateRow]:
    if isinstance(data, Path):
        return read_step(CandidateRow, data, "judge")
    return (parse(CandidateRow, row, f"row {number}") for number, row in enumerate(data, 1))
