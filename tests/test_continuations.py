"""Replies played on and mixed with the rubric: what counts, what is lost, and what a kill costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from generate import candidates, continuations
from hypothesis import given
from hypothesis import strategies as st
from judges import preferences, rewards
from loopback import Loopback, status

from maieutic.checks.continuations import Start, solved_by_start, starts
from maieutic.core.budget import Budget
from maieutic.core.errors import BudgetSpent, EmptyCorpus, InputError
from maieutic.core.messages import Conversation, Problem, Sampling
from maieutic.core.rows import CandidateRow, Episode, JudgedRow, parse, read_step
from maieutic.core.store import Stage, stage_rows
from maieutic.judging.rewards import noise, reward
from maieutic.models import load

PROBLEM = {"statement": "Ana packs 4 bags of 6 nuts. How many nuts is that?", "answer": "24", "attempt": "10"}
GOOD, IDLE, TELLS = "What do 4 bags of 6 nuts look like?", "Do you like nuts?", "The answer is 24."
EXACT = {"guards": "none", "concurrency": 4, "user_mode": "prompted"}


def judged(*graded: tuple[str, float | None], **extra: Any) -> dict[str, Any]:
    """A judge stage's row."""
    return {
        "key": extra.pop("key", "k"),
        "id": "p",
        "messages": [{"role": "user", "content": "I think it is 10."}],
        "problem": PROBLEM,
        "candidates": [{"text": text, "finish": "stop"} for text, _ in graded],
        "verdicts": [
            {"judge": "code", "values": {"reveals_answer": float("24" in text)}, "raw": "", "error": None}
            for text, _ in graded
        ],
        "scores": [score for _, score in graded],
        **extra,
    }


def plays(folder: Path) -> dict[str, list[bool | None]]:
    return solved_by_start(read_step(Episode, folder, "play"))


def replies(row: dict[str, Any]) -> list[Start]:
    return starts(parse(CandidateRow, row, "here"))


def stage(folder: Path, *rows: dict[str, Any]) -> Path:
    with Stage(folder, {"stage": "judge"}) as opened:
        for row in rows:
            opened.rows.append(row["key"], {key: value for key, value in row.items() if key != "key"})
        opened.finish({})
    return folder


def speak(body: dict[str, Any]) -> str:
    """Student and tutor in one: the student, who sees the sides swapped, finds it after a good question only."""
    last = body["messages"][-1]["content"]
    if body["messages"][0]["role"] != "system":
        return "And now?"
    return "So it is 24." if last == GOOD else "No idea."


def test_a_reply_counts_by_what_becomes_of_the_student(tmp_path: Path) -> None:
    source = stage(tmp_path / "judge", judged((GOOD, 0.5), (IDLE, 1.0), (TELLS, 0.0), (GOOD, 0.5)))
    with Loopback(reply=speak) as server:
        done = continuations(
            source, load(server.spec), load(server.spec), tmp_path / "play", m=3, turns=2, config=EXACT
        )
        asked = len(server.chats)
    assert (done.replies, done.revealing, done.continuations, done.failed, done.prompts) == (2, 1, 6, 0, 1)
    # A solved play is over with the student's word; one that goes on has two student's turns and a reply between.
    assert asked == done.calls == 3 * 1 + 3 * 3
    assert all(row["messages"][-1]["role"] == "user" for row in stage_rows(tmp_path / "play"))
    assert {row["meta"]["end"] for row in stage_rows(tmp_path / "play")} == {"stopped", "rounds"}
    assert not any(row.get("ended") for row in stage_rows(tmp_path / "play"))  # cut by us: teaches no END
    mixed = rewards(source, tmp_path / "play", tmp_path / "mix", weight=0.5)
    [row] = stage_rows(tmp_path / "mix")
    assert row["outcomes"] == [1, 0, 0, 1] and row["plays"] == [3, 3, 0, 3]
    assert row["rubric_scores"] == [0.5, 1.0, 0.0, 0.5] and row["scores"] == [0.75, 0.5, 0, 0.75]
    assert (mixed.plays, mixed.told, mixed.scored, mixed.unscored) == (6, 1, 4, 0)
    assert mixed.margin == pytest.approx(0.5 * (0.5 / 3) ** 0.5)
    [pair] = map(orjson.loads, _pairs(tmp_path / "mix", tmp_path / "pairs.jsonl"))
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (GOOD, TELLS)
    alone = rewards(source, tmp_path / "play", tmp_path / "rubric", weight=0)
    assert next(stage_rows(tmp_path / "rubric"))["scores"] == [0.5, 1.0, 0.0, 0.5] and alone.margin == 0


def _pairs(source: Path, out: Path) -> list[str]:
    preferences(source, out, min_chosen=0.2)
    return out.read_text().splitlines()


def test_a_play_lost_to_the_student_does_not_count_and_one_lost_to_the_tutor_is_not_solved(
    tmp_path: Path,
) -> None:
    source = stage(tmp_path / "judge", judged((GOOD, 0.5), (IDLE, 0.5)))
    config = EXACT | {"concurrency": 1, "max_failure_rate": 1.0}

    def faults(_: int, body: dict[str, Any]) -> Any:
        student = body["messages"][0]["role"] == "system"
        good = any(message["content"] == GOOD for message in body["messages"])
        return status(400, "no") if student == good else None  # GOOD's student breaks, and IDLE's tutor

    with Loopback(reply="No idea.", faults=faults) as server:
        done = continuations(
            source, load(server.spec), load(server.spec), tmp_path / "play", m=2, turns=2, config=config
        )
    assert (done.continuations, done.failed) == (0, 4)
    found = sorted(plays(tmp_path / "play").values(), key=str)
    assert found == [[False, False], [None, None]]
    mixed = rewards(source, tmp_path / "play", tmp_path / "mix")
    [row] = stage_rows(tmp_path / "mix")
    assert row["outcomes"] == [None, 0] and row["scores"] == [None, 0.25]
    assert row["lost"] == [2, 0] and (mixed.unscored, mixed.lost, mixed.plays) == (1, 2, 2)
    server.start()
    server.faults = ()
    again = continuations(
        source, load(server.spec), load(server.spec), tmp_path / "play", m=2, turns=2, config=config
    )
    server.stop()
    assert (again.continuations, again.failed) == (4, 0)  # the same command mends them
    assert sorted(plays(tmp_path / "play").values(), key=str) == [[False, False], [False, False]]


def test_what_cannot_be_played_or_mixed_is_refused(tmp_path: Path) -> None:
    student = load("baseline/silent")
    told = stage(tmp_path / "told", judged((TELLS, 1.0), (TELLS, 1.0)))
    with pytest.raises(EmptyCorpus, match="2 state the answer"):
        continuations(told, student, student, tmp_path / "play")
    unknown = stage(tmp_path / "unknown", judged((GOOD, 1.0), problem={"statement": "What is it?"}))
    with pytest.raises(EmptyCorpus, match="1 prompts have no known answer"):
        continuations(unknown, student, student, tmp_path / "play")
    with pytest.raises(InputError, match="CandidateRow"):
        replies({"id": "x", "messages": []})
    source = stage(tmp_path / "judge", judged((GOOD, 1.0)))
    with pytest.raises(InputError, match="weight"):
        rewards(source, source, tmp_path / "mix", weight=1.5)
    with Loopback(reply="No idea.") as server:
        continuations(
            source, load(server.spec), load(server.spec), tmp_path / "play", m=1, turns=1, config=EXACT
        )
    other = stage(tmp_path / "other", judged((IDLE, 1.0)))
    with pytest.raises(InputError, match="continues no reply"):
        rewards(other, tmp_path / "play", tmp_path / "mix")


def test_the_student_never_sees_what_the_tutor_alone_is_told(tmp_path: Path) -> None:
    talk = Conversation.model_validate(
        {"messages": [{"role": "user", "content": "It is 10."}], "problem": PROBLEM, "profile": "In a hurry."}
    )
    with Loopback(reply=GOOD) as server:
        candidates(
            load(server.spec), [talk], tmp_path / "candidates", k=1, sampling=Sampling(temperature=1.0)
        )
        [row] = stage_rows(tmp_path / "candidates")
    assert row["messages"][0]["role"] == "system"
    [reply] = replies(row)
    assert reply.start is not None and reply.start.profile == "In a hurry."
    assert [turn.content for turn in reply.start.messages] == ["It is 10.", GOOD]
    config = EXACT | {"tutor_prompt": "tutor_socratic"}
    with Loopback(reply="Hm.") as server:
        continuations(
            tmp_path / "candidates",
            load(server.spec),
            load(server.spec),
            tmp_path / "play",
            m=1,
            turns=2,
            config=config,
        )
        systems = [seen.body["messages"][0]["content"] for seen in server.chats]
    brief = row["messages"][0]["content"]
    assert [system == brief for system in systems] == [False, True, False]
    assert "In a hurry." in systems[0]


def test_a_budget_stops_it_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    source = stage(tmp_path / "judge", judged((GOOD, 0.5), (IDLE, 1.0)))

    def run(tokens: int | None) -> Any:
        config = EXACT | {"budget": Budget(tokens=tokens), "concurrency": 1}
        return continuations(
            source, load(server.spec), load(server.spec), tmp_path / "play", m=3, turns=2, config=config
        )

    with Loopback(reply=speak) as server:
        with pytest.raises(BudgetSpent):
            run(40)
        some = len(server.chats)
        assert 0 < some < 12
        assert run(None).continuations == 6
        assert len(server.chats) == 12  # nothing that was paid for is asked again
        assert run(None).calls == 0


RUNNER = """
import sys
from maieutic.rollouts.steps import Continuations
source, spec, out = sys.argv[1:]
settings = dict(guards="none", requests={"concurrency": 4}, user_mode="prompted")
Continuations(data=source, student=spec, tutor=spec, m=4, turns=3, **settings).run(out)
"""


def test_killed_at_any_moment_it_asks_nothing_twice_but_what_was_in_flight(tmp_path: Path) -> None:
    source = stage(
        tmp_path / "judge",
        judged((IDLE, 1.0), ("Why 10?", 1.0), (IDLE, 1.0), key="a"),
        judged(("What is a bag?", 1.0), (TELLS, 0.0), key="b"),
    )
    with Loopback(reply="No idea.", latency=0.02) as server:
        command = [sys.executable, "-c", RUNNER, str(source), server.spec, str(tmp_path / "play")]
        for target in (5, 19, 37):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while len(server.chats) < target and time.monotonic() < deadline:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
        asked = len(server.chats)
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
        assert len(server.chats) == asked  # a finished stage asks nothing
    needed = 3 * 4 * 5  # different replies, plays, and three turns of the student's with two replies between
    assert needed <= asked <= needed + 3 * 4
    assert sorted(len(found) for found in plays(tmp_path / "play").values()) == [4, 4, 4]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4), st.integers(1, 4))
def test_a_mixed_score_lies_between_its_parts(weight: float, rubric: float, solved: int, m: int) -> None:
    row = parse(JudgedRow, judged((GOOD, rubric)), "row")
    [reply] = starts(row)
    assert reply.start is not None
    ends = [place < solved for place in range(m)] + [None]  # one lost play changes nothing
    made = reward(row, {reply.start.id: ends}, weight).row
    share = min(solved, m) / m
    assert made.outcomes == (share,) and made.lost == (1,)
    assert min(rubric, share) - 1e-9 <= (made.scores[0] or 0) <= max(rubric, share) + 1e-9
    assert made.scores[0] == pytest.approx((1 - weight) * rubric + weight * share, abs=1e-8)
    assert noise(4 * m, weight) == pytest.approx(noise(m, weight) / 2)


def test_an_earlier_telling_of_the_tutors_leaves_nothing_to_play() -> None:
    turns = [
        {"role": "user", "content": "It is 10."},
        {"role": "assistant", "content": TELLS},
        {"role": "user", "content": "ok"},
    ]
    [reply] = replies(judged((GOOD, 1.0), messages=turns))
    assert reply.told and reply.start is None
    assert Problem.model_validate(PROBLEM).answer == "24"
