"""Two tutors compared: both orders, code first, votes, unscored pairs, resuming, and the score from rows alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import Speaker, compare
from loopback import Loopback, status

from maieutic.core.budget import Budget
from maieutic.core.errors import BudgetSpent, EmptyCorpus, InputError, RunConflict, TooManyFailures
from maieutic.core.messages import Message, Sampling
from maieutic.core.settings import Requests
from maieutic.core.store import stage_rows
from maieutic.evals.tutor import score_comparisons
from maieutic.judging.pairwise import Game, Side, settle, vote
from maieutic.models import load as open_model

PROBLEM = {"statement": "Ann has 3 bags with 4 nuts each. How many nuts?", "answer": "12"}


def replies(path: Path, texts: Sequence[str], system: str = "", **extra: Any) -> Path:
    """One reply to each of so many dialogues."""
    rows = []
    for n, text in enumerate(texts):
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": f"I got {n + 20}."})
        rows.append({"id": f"d{n}", "index": n, "messages": turns, "candidates": [{"text": text}],
                     "problem": PROBLEM, "model": path.stem, **extra})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def says(better: str) -> str:
    return json.dumps({"reason": "so", "better": better})


def places(prompt: str) -> tuple[str, str]:
    """The texts that stand as A and as B."""
    a, b = (prompt.split(f"TO BE COMPARED: {side} ---\n")[1].split("\n--- ")[0] for side in "AB")
    return a, b


def fond_of(word: str, id: str = "test/fond") -> Speaker:
    """Prefers the reply that holds a word, wherever it stands."""

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        a, b = places(messages[0].content)
        return says("tie" if (word in a) == (word in b) else "A" if word in a else "B")

    return Speaker(answer, id)


def always(better: str, id: str = "test/always") -> Speaker:
    return Speaker(lambda messages, sampling: better if better == "?" else says(better), id)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    a = replies(
        tmp_path / "a.jsonl", ["Why so? good", "Hm.", "You have 12 nuts.", "Same?"], system="Be kind."
    )
    return a, replies(tmp_path / "b.jsonl", ["Why so?", "Well? good", "What is a bag?", "Same?"])


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(stage_rows(folder))


def test_both_orders_and_code_first(two: tuple[Path, Path], tmp_path: Path) -> None:
    judge = fond_of("good")
    result = compare(*two, tmp_path / "p", model=judge)
    assert (result.pairs, result.won, result.lost, result.tied, result.unscored) == (4, 1, 2, 1, 0)
    assert (result.code, result.equal, result.calls, len(judge.asked)) == (1, 1, 4, 4)
    kept = rows(tmp_path / "p")
    assert [row["winner"] for row in kept] == ["a", "b", "b", "tie"]
    assert [row["decided"] for row in kept] == ["judge", "judge", "code", "equal"]
    assert kept[0]["messages"] == [{"role": "user", "content": "I got 20."}]
    assert kept[0]["a"] == {"text": "Why so? good", "model": "a"}
    assert [(game["first"], game["better"]) for game in kept[0]["games"]] == [("a", "a"), ("b", "a")]
    assert kept[2]["games"] == [] and not any("You have 12" in turns[0].content for turns in judge.asked)
    asked = [places(turns[0].content) for turns in judge.asked]
    assert {(b, a) for a, b in asked} == set(asked)
    assert judge.schemas[0]["properties"]["better"]["enum"] == ["A", "B", "tie"]
    prompt = judge.asked[0][0].content
    assert (
        "12" in prompt and "Be kind." not in prompt and "Better: no." in prompt and "counts for 28%" in prompt
    )
    again = fond_of("good")
    assert compare(*two, tmp_path / "p", model=again).calls == 0 and again.asked == []
    with pytest.raises(RunConflict, match="samples"):
        compare(*two, tmp_path / "p", model=again, samples=2)
    with pytest.raises(RunConflict, match="data"):
        compare(two[1], two[0], tmp_path / "p", model=again)


def test_exchanged_tutors_exchange_the_result(two: tuple[Path, Path], tmp_path: Path) -> None:
    there = score_of(compare(*two, tmp_path / "p", model=fond_of("good")).run)
    back = score_of(compare(*reversed(two), tmp_path / "q", model=fond_of("good")).run)
    assert (there["win"], there["loss"], there["tie"]) == (back["loss"], back["win"], back["tie"])
    assert there["win_rate"]["value"] == pytest.approx(1 - back["win_rate"]["value"])


def score_of(run: str | Path) -> dict[str, Any]:
    return score_comparisons(run)


def test_a_judge_that_looks_at_the_place_gives_ties(two: tuple[Path, Path], tmp_path: Path) -> None:
    result = compare(*two, tmp_path / "p", model=always("A"))
    assert (result.won, result.lost, result.tied) == (0, 1, 3)
    told = score_comparisons(tmp_path / "p")
    assert told["position_bias"]["value"] == 1.0 and told["position_bias"]["n"] == 2
    assert told["inconsistent"]["value"] == 1.0
    assert told["decided"] == {"judge": 2, "code": 1, "equal": 1}
    assert told["win_rate"]["value"] == pytest.approx((0 + 3 / 2) / 4)


def test_an_unreadable_game_leaves_the_pair_unscored(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Only where the good reply stands first can the judge be read; three questions a game, then it is given up."""

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        a, _ = places(messages[0].content)
        return says("A") if "good" in a else "Both are nice."

    with pytest.raises(
        TooManyFailures, match=r"pairs: 2 of 4 failed \(the first: no verdict: it holds no JSON"
    ):
        compare(*two, tmp_path / "p", model=Speaker(answer))
    judge = Speaker(answer)
    result = compare(*two, tmp_path / "p", model=judge, max_failure_rate=0.5)
    assert (result.unscored, result.calls, result.won + result.lost + result.tied) == (2, 0, 2)
    kept = rows(tmp_path / "p")
    assert kept[0]["winner"] is None and [game["better"] for game in kept[0]["games"]] == ["a", None]
    told = score_comparisons(tmp_path / "p")
    assert (told["n"], told["unscored"]) == (2, 2) and told["win_rate"]["n"] == 2
    assert told["inconsistent"]["value"] is None and told["position_bias"]["n"] == 2


def test_a_panel_and_its_repeats_vote(tmp_path: Path) -> None:
    a, b = replies(tmp_path / "a.jsonl", ["Good?"]), replies(tmp_path / "b.jsonl", ["Bad?"])
    moody = Speaker(
        lambda messages, sampling: says(
            "tie" if sampling.seed else "AB"[places(messages[0].content)[0] == "Good?"]
        )
    )
    result = compare(a, b, tmp_path / "p", model=[fond_of("Good", "test/1"), moody], samples=2)
    (row,) = rows(tmp_path / "p")
    assert row["votes"] == ["a", "a", "b", "tie"] and result.won == 1 and result.calls == 8
    assert score_comparisons(tmp_path / "p")["judges"].keys() == {"test/1", "test/speaker"}
    assert score_comparisons(tmp_path / "p")["judges"]["test/1"]["inconsistent"]["value"] == 0.0
    mixed = compare(a, b, tmp_path / "q", model=[always("?", "test/mute"), fond_of("Good")])
    assert (mixed.won, mixed.unscored) == (1, 0), "one unreadable voice of a panel does not unscore"


SIDES = st.sampled_from([Side.A, Side.B, Side.TIE, None])


@given(st.lists(st.tuples(SIDES, SIDES), max_size=6))
def test_votes(outcomes: list[tuple[Side | None, Side | None]]) -> None:
    games = [
        Game(judge="j", draw=draw, first=first, better=better)
        for draw, both in enumerate(outcomes)
        for first, better in zip((Side.A, Side.B), both, strict=True)
    ]
    winner, votes = settle(games)
    assert len(votes) == len(outcomes)
    for (one, other), said in zip(outcomes, votes, strict=True):
        assert said == (None if None in (one, other) else one if one == other else Side.TIE)
    turned = [game.model_copy(update={"better": game.better and game.better.other}) for game in games]
    exchanged, _ = settle(turned)
    assert exchanged == (winner and winner.other)
    assert (winner is None) == all(said is None for said in votes)
    assert vote(games[:2]) == (votes[0] if votes else Side.TIE) or not votes


def test_what_has_no_partner_is_counted(two: tuple[Path, Path], tmp_path: Path) -> None:
    fewer = replies(tmp_path / "c.jsonl", ["Why?"])
    result = compare(two[0], fewer, tmp_path / "p", model=fond_of("good"))
    assert (result.pairs, result.unmatched) == (1, 3)
    other = tmp_path / "d.jsonl"
    other.write_text(json.dumps({"prompt": "Another.", "output": "Why?"}) + "\n")
    with pytest.raises(EmptyCorpus, match="no dialogue in common"):
        compare(two[0], other, tmp_path / "q", model=fond_of("good"))
    strange = tmp_path / "e.jsonl"
    strange.write_text('{"text": "Why?"}\n')
    with pytest.raises(InputError, match="e.jsonl:1: not a CandidateRow"):
        compare(two[0], strange, tmp_path / "r", model=fond_of("good"))
    with pytest.raises(InputError, match="row 1"):
        score_comparisons(two[0])


def test_published_evaluations_are_compared(tmp_path: Path) -> None:
    for name in ("base", "tuned"):
        items = [{"prompt": f"P{n}", "output": f"{name}?", "evaluation": None} for n in range(3)]
        (tmp_path / f"{name}.json").write_text(json.dumps(items))
    result = compare(tmp_path / "tuned.json", tmp_path / "base.json", tmp_path / "p", model=fond_of("tuned"))
    assert (result.pairs, result.won) == (3, 3)


def test_a_server_without_schemas_is_asked_without(two: tuple[Path, Path], tmp_path: Path) -> None:
    """The first refusal is remembered; verdicts are then read from prose, and a bad one is asked for again."""

    def reply(body: dict[str, Any]) -> str:
        better = "A" if "good" in places(body["messages"][0]["content"])[0] else "B"
        return (
            f"My view:\n```json\n{says(better)}\n```"
            if len(body["messages"]) > 1
            else "A is better, I think."
        )

    def refuse(_: int, body: dict[str, Any]) -> Any:
        return status(400, "response_format is not supported") if "response_format" in body else None

    with Loopback(reply, faults=refuse) as server:
        model = open_model(server.spec, requests=Requests(attempts=2))
        result = compare(*two, tmp_path / "p", model=model, concurrency=1)
        refused = [seen for seen in server.chats if "response_format" in seen.body]
    assert (result.won, result.lost, result.tied, result.unscored) == (1, 2, 1, 0)
    assert len(refused) == 1 and result.calls == 8
    again = [seen.body["messages"] for seen in server.chats if len(seen.body["messages"]) == 3]
    assert len(again) == 4
    assert all("it holds no JSON object" in turns[2]["content"] for turns in again)


def test_a_judge_that_is_down_and_a_budget_that_is_spent(two: tuple[Path, Path], tmp_path: Path) -> None:
    def gone(number: int, _: dict[str, Any]) -> Any:
        return status(400, "no") if number % 2 else None

    with Loopback(says("A"), faults=gone) as server:
        model = open_model(server.spec, requests=Requests(attempts=1))
        result = compare(*two, tmp_path / "p", model=model, max_failure_rate=1, concurrency=1)
        assert result.calls == 2, "an answer beside one that failed is paid for"
    failed = [row for row in rows(tmp_path / "p") if "fault" in row]
    assert [row["winner"] for row in failed] == [None, None] and result.unscored == 2
    with pytest.raises(BudgetSpent):
        compare(*two, tmp_path / "q", model=fond_of("good"), budget=Budget(tokens=1), concurrency=1)
    more = compare(*two, tmp_path / "q", model=fond_of("good"))
    assert more.pairs == 4 and more.calls == 2, "what was paid for is not asked for again"


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "maieutic", "eval", "tutor", *map(str, words)]


def test_the_commands_and_a_kill(tmp_path: Path) -> None:
    """SIGKILL in the middle: no game of a finished pair is asked for twice."""
    a = replies(tmp_path / "a.jsonl", [f"Why {n}? good" for n in range(30)])
    b = replies(tmp_path / "b.jsonl", [f"How {n}?" for n in range(30)])

    def reply(body: dict[str, Any]) -> str:
        return says("A" if "good" in places(body["messages"][0]["content"])[0] else "B")

    with Loopback(reply, latency=0.05) as server:
        words = command(
            "pairwise", a, b, "--judge", server.spec, "--out", tmp_path / "p", "--concurrency", 2, "--json"
        )
        killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(server.chats) >= 20)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        whole = (tmp_path / "p" / "rows.jsonl").read_bytes().count(b"\n")
        before = len(server.chats)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert 0 < whole < 30 and len(server.chats) - before == 2 * (30 - whole)
    told = json.loads(done.stdout)
    assert (told["pairs"], told["won"], told["unscored"]) == (30, 30, 0)
    scored = subprocess.run(command("score", tmp_path / "p"), capture_output=True, text=True, check=False)
    assert scored.returncode == 0 and "A won 30, lost 0, tied 0; 0 unscored" in scored.stdout, scored.stderr


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)
