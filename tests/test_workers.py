"""The pool: each item once, failures as rows, a budget that stops it, rows in the items' order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from maieutic.core.budget import Budget, Spending
from maieutic.core.errors import BudgetSpent, MalformedReply, TooManyFailures, WrongKey
from maieutic.core.messages import Reply
from maieutic.core.rows import CandidateRow, read_step
from maieutic.core.store import Stage, stage_rows
from maieutic.core.workers import Worked, open_stage, run_pending

ITEMS = [(str(number), number) for number in range(6)]


class Speaker:
    """A model that counts checks and closings."""

    checked = closed = 0

    async def check(self) -> None:
        self.checked += 1

    async def close(self) -> None:
        self.closed += 1


async def double(number: int) -> dict[str, Any]:
    await asyncio.sleep(0.001 * (6 - number))
    return {"twice": 2 * number}


def run(folder: Path, work: Any = double, **more: Any) -> Worked:
    async def all_of_it() -> Worked:
        speaker = Speaker()
        async with open_stage(folder, {"stage": "x"}, [speaker]) as stage:
            settings = {"concurrency": 3, "max_failure_rate": 0.5, "label": "x", **more}
            worked = await run_pending(
                stage, ITEMS + ITEMS[:2], work, lambda number, error: {"error": error.what}, **settings
            )
            assert speaker.checked == 1 and not speaker.closed
        assert speaker.closed == 1
        return worked

    return asyncio.run(all_of_it())


def test_each_item_has_one_row_in_the_items_order_and_a_second_call_asks_nothing(tmp_path: Path) -> None:
    assert run(tmp_path) == Worked(6, 6, 0)
    assert [row["twice"] for row in stage_rows(tmp_path)] == [0, 2, 4, 6, 8, 10]
    assert run(tmp_path, work=None) == Worked(6, 0, 0)


def test_failures_are_rows_where_they_are_accepted_and_pending_where_not(tmp_path: Path) -> None:
    async def odd_fails(number: int) -> dict[str, Any]:
        if number % 2:
            raise MalformedReply(f"no {number}", "")
        return await double(number)

    with pytest.raises(TooManyFailures, match="3 of 6"):
        run(tmp_path, odd_fails, max_failure_rate=0.4)
    assert len(list(stage_rows(tmp_path))) == 3
    assert run(tmp_path, odd_fails) == Worked(6, 0, 3)
    assert [row.get("error") for row in stage_rows(tmp_path)][1::2] == ["no 1", "no 3", "no 5"]


def test_an_error_that_every_item_would_meet_stops_at_once(tmp_path: Path) -> None:
    async def refused(number: int) -> dict[str, Any]:
        raise WrongKey("wrong key", "")

    with pytest.raises(WrongKey):
        run(tmp_path, refused)
    assert not list(stage_rows(tmp_path))


def test_a_spent_budget_keeps_what_was_answered(tmp_path: Path) -> None:
    spending = Spending(Budget(tokens=2))

    async def paid(number: int) -> dict[str, Any]:
        spending.charge(Reply(text="x", completion_tokens=1))
        return {"n": number}

    with pytest.raises(BudgetSpent):
        run(tmp_path, paid, spending=spending, concurrency=1)
    assert [row["n"] for row in stage_rows(tmp_path)] == [0, 1]
    assert run(tmp_path) == Worked(6, 4, 0)


def test_a_typed_row_is_written_as_its_fields(tmp_path: Path) -> None:
    async def typed(number: int) -> CandidateRow:
        return CandidateRow.model_validate({"id": str(number), "messages": [], "candidates": [{"text": "x"}]})

    run(tmp_path, typed)
    assert [row.id for row in read_step(CandidateRow, tmp_path, "x")] == ["0", "1", "2", "3", "4", "5"]
    with Stage(tmp_path, {"stage": "x"}) as stage:
        assert set(next(stage.rows.rows())) == {"key", "id", "messages", "candidates"}
