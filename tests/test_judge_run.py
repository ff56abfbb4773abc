"""Candidates and verdicts as stages: resumed, failing, decided by code or by a panel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from generate import candidates
from judges import Speaker, judge, verdict
from loopback import Loopback, status

from maieutic.core.errors import EmptyCorpus, InputError, RunConflict, TooManyFailures, Unreachable, WrongKey
from maieutic.core.messages import Conversation, Message, Sampling, Verdict
from maieutic.core.settings import Requests
from maieutic.core.store import stage_rows
from maieutic.judging.judge import merge
from maieutic.judging.rubrics import load_rubric
from maieutic.models import load as open_model

MATH = {
    "statement": "Ann has 3 bags with 4 nuts each. How many nuts?",
    "answer": "12",
    "misconception": "adds",
    "solution": "3 * 4",
}
REPLIES = [
    "What do 3 bags hold?",
    "You have 12 nuts.",
    "Is it 12 in total?",
    "Think again.",
    "What do 3 bags hold?",
]


def seeds(count: int = 4) -> list[Conversation]:
    return [
        Conversation.model_validate(
            {"id": f"s{n}", "messages": [{"role": "user", "content": f"I got {n + 20}."}], "problem": MATH}
        )
        for n in range(count)
    ]


def tutor() -> Speaker:
    return Speaker(lambda messages, sampling: REPLIES[sampling.seed % 5], "test/tutor")


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(stage_rows(folder))


def test_candidates_are_drawn_apart_and_resumed(tmp_path: Path) -> None:
    model = tutor()
    result = candidates(model, seeds(), tmp_path / "c", k=5, concurrency=2)
    assert (result.prompts, result.failed, result.replies) == (4, 0, 20)
    assert sorted(model.seeds[:5]) == [0, 1, 2, 3, 4]
    assert model.closed
    row = min(rows(tmp_path / "c"), key=lambda row: row["index"])
    assert [one["text"] for one in row["candidates"]] == REPLIES
    assert row["sampling"]["temperature"] == 1.2
    assert row["messages"][0]["role"] == "system"
    assert row["messages"][1:] == [{"role": "user", "content": "I got 20."}]
    again = tutor()
    assert candidates(again, seeds(), tmp_path / "c", k=5, concurrency=2).replies == 0
    assert again.asked == []
    with pytest.raises(RunConflict, match="k"):
        candidates(tutor(), seeds(), tmp_path / "c", k=4)
    with pytest.raises(RunConflict, match="data"):
        candidates(tutor(), seeds(3), tmp_path / "c", k=5)


def test_a_torn_run_asks_only_for_what_is_owed(tmp_path: Path) -> None:
    candidates(tutor(), seeds(), tmp_path / "c")
    file = tmp_path / "c/rows.jsonl"
    (tmp_path / "c/manifest.json").unlink()
    file.write_bytes(file.read_bytes()[:-40])
    model = tutor()
    assert candidates(model, seeds(), tmp_path / "c").replies == 5
    assert len(rows(tmp_path / "c")) == 4


def test_what_the_tutor_sees(tmp_path: Path) -> None:
    hidden, shown, bare = tutor(), tutor(), tutor()
    candidates(hidden, seeds(1), tmp_path / "hidden", k=1)
    candidates(shown, seeds(1), tmp_path / "shown", k=1, show_solution=True)
    candidates(bare, seeds(1), tmp_path / "bare", k=1, prompt=None)
    text = hidden.asked[0][0].content
    assert MATH["statement"] in text
    assert "adds" not in text
    assert "12" not in text
    assert all(part in shown.asked[0][0].content for part in ("adds", "3 * 4", "12"))
    assert bare.asked[0] == [Message(role="user", content="I got 20.")]


def test_seeds_that_end_on_the_tutor_or_hold_no_student(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    given = [
        Conversation.model_validate({"messages": turns}),
        Conversation.model_validate({"messages": turns[:1]}),
        Conversation.model_validate({"messages": turns[1:]}),
    ]
    result = candidates(tutor(), given, tmp_path / "c", k=1)
    assert (result.prompts, result.truncated, result.skipped) == (1, 1, 2)
    with pytest.raises(EmptyCorpus):
        candidates(tutor(), given[2:], tmp_path / "none", k=1)


def failing(times: int, error: Exception) -> Speaker:
    """Fails for the first `times` calls about seed s1."""
    left = [times]

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        if "21" in messages[-1].content and left[0] > 0:
            left[0] -= 1
            raise error
        return REPLIES[sampling.seed % 5]

    return Speaker(answer, "test/tutor")


def test_a_failed_row_is_owed_again(tmp_path: Path) -> None:
    with pytest.raises(TooManyFailures, match=r"1 of 4 failed \(the first: no answer\)"):
        candidates(failing(99, Unreachable("no answer")), seeds(), tmp_path / "c")
    assert len(rows(tmp_path / "c")) == 3
    assert not (tmp_path / "c/manifest.json").exists()
    model = tutor()
    assert candidates(model, seeds(), tmp_path / "c").replies == 5
    assert len(rows(tmp_path / "c")) == 4


def test_an_accepted_failure_is_a_row_with_its_cause(tmp_path: Path) -> None:
    result = candidates(failing(99, Unreachable("no answer")), seeds(), tmp_path / "c", max_failure_rate=0.5)
    assert result.failed == 1
    (row,) = [row for row in rows(tmp_path / "c") if "fault" in row]
    assert (row["fault"], row["error"], row["candidates"]) == ("network", "no answer", [])
    judged = judge(tmp_path / "c", tmp_path / "j", rubric="socratic_checks")
    assert (judged.prompts, judged.judged) == (4, 15)


def test_a_wrong_key_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(WrongKey):
        candidates(failing(99, WrongKey("refused")), seeds(), tmp_path / "c", max_failure_rate=1)


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    candidates(tutor(), seeds(), tmp_path / "run/candidates")
    return tmp_path / "run"


def test_code_alone(replies: Path, tmp_path: Path) -> None:
    result = judge(replies, tmp_path / "j", rubric="socratic_checks")
    assert (result.judged, result.unscored, result.undecided, result.calls) == (20, 0, 0, 0)
    row = rows(tmp_path / "j")[0]
    assert row["scores"] == [1.0, 0.5, 0.5, 0.5, 1.0]
    told = {"asks_question": 0.0, "reveals_answer": 1.0, "takes_up": 1.0, "misjudges": 0.0}
    assert row["verdicts"][1] == {"judge": "code", "values": told, "raw": "", "error": None}
    assert row["decided_by"][0] == dict.fromkeys(told, "code")
    with pytest.raises(InputError, match="on_topic, helpful"):
        judge(replies, tmp_path / "k", rubric="socratic")


def test_without_an_answer_code_leaves_it_undecided(tmp_path: Path) -> None:
    row = {"id": "a", "messages": [{"role": "user", "content": "Hi"}], "candidates": [{"text": "Why?"}]}
    result = judge([row], tmp_path / "j", rubric="socratic_checks")
    assert (result.judged, result.undecided) == (0, 1)
    said = dict.fromkeys(("asks_question", "reveals_answer", "takes_up", "misjudges"), "no")
    model = Speaker(lambda messages, sampling: json.dumps(said))
    assert judge([row], tmp_path / "k", rubric="socratic_checks", model=model).judged == 1


def test_code_wins_over_the_model_and_both_are_kept(replies: Path, tmp_path: Path) -> None:
    model = Speaker(
        lambda messages, sampling: verdict(asks_question="yes", reveals_answer="no"), "test/judge"
    )
    result = judge(replies, tmp_path / "j", model=model, concurrency=3)
    assert result.judged == 20
    assert result.calls == 16
    """Four texts a prompt: the repeated one is judged once."""
    assert model.most <= 3
    row = rows(tmp_path / "j")[0]
    assert row["verdicts"][1]["values"] == {
        "asks_question": 0.0,
        "on_topic": 4.0,
        "helpful": 3.0,
        "reveals_answer": 1.0,
    }
    assert row["model_verdicts"][1][0]["values"]["reveals_answer"] == 0.0
    assert row["decided_by"][1] == {
        "asks_question": "code", "on_topic": "test/judge", "helpful": "test/judge", "reveals_answer": "code",
    }  # fmt: skip
    assert row["scores"][0] == pytest.approx(0.85)


def test_judging_resumes_and_refuses_other_settings(replies: Path, tmp_path: Path) -> None:
    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        if "I got 22." in messages[0].content:
            raise Unreachable("gone")
        return verdict()

    with pytest.raises(TooManyFailures, match="judge: 1 of 4"):
        judge(replies, tmp_path / "j", model=Speaker(answer, "test/judge"))
    model = Speaker(lambda messages, sampling: verdict(), "test/judge")
    assert judge(replies, tmp_path / "j", model=model).calls == 4
    assert judge(replies, tmp_path / "j", model=model).calls == 0
    with pytest.raises(RunConflict, match="samples"):
        judge(replies, tmp_path / "j", model=model, samples=2)


def test_a_judge_that_does_not_answer_leaves_unscored_rows(replies: Path, tmp_path: Path) -> None:
    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        if "I got 22." in messages[0].content:
            raise Unreachable("gone")
        return verdict()

    result = judge(replies, tmp_path / "j", model=Speaker(answer), max_failure_rate=0.3)
    assert (result.judged, result.unscored) == (15, 5)
    (row,) = [row for row in rows(tmp_path / "j") if "fault" in row]
    assert row["fault"] == "network"
    assert row["scores"] == [None] * 5
    assert row["verdicts"][0]["error"] == "gone"


def test_verdicts_nobody_can_read_are_counted_never_zero(replies: Path, tmp_path: Path) -> None:
    model = Speaker(
        lambda messages, sampling: "Lovely." if "Think again." in messages[0].content else verdict()
    )
    with pytest.raises(
        TooManyFailures, match=r"verdicts: 4 of 20 failed \(the first: no verdict: it holds no JSON"
    ):
        judge(replies, tmp_path / "j", model=model)
    result = judge(replies, tmp_path / "j", model=model, max_failure_rate=0.2)
    assert (result.judged, result.unscored, result.calls) == (16, 4, 0)
    assert all(row["scores"][3] is None for row in rows(tmp_path / "j"))


def test_a_panel_and_its_samples_are_averaged(replies: Path, tmp_path: Path) -> None:
    first = Speaker(lambda messages, sampling: verdict(helpful=2 + sampling.seed), "test/a")
    second = Speaker(lambda messages, sampling: verdict(helpful=5), "test/b")
    judge(replies, tmp_path / "j", model=[first, second], samples=2)
    row = rows(tmp_path / "j")[0]
    assert row["verdicts"][0]["values"]["helpful"] == pytest.approx((2 + 3 + 5 + 5) / 4)
    assert row["verdicts"][0]["judge"] == "test/a+test/b"
    assert len(row["model_verdicts"][0]) == 4


def test_one_unreadable_voice_of_a_panel_does_not_unscore() -> None:
    good = Verdict(judge="a", values={"asks_question": 1, "on_topic": 4, "helpful": 3, "reveals_answer": 0})
    whole = merge(load_rubric("socratic"), {}, [good, Verdict(judge="b", error="no verdict")])
    assert whole.values == good.values
    none = merge(load_rubric("socratic"), {"asks_question": 1.0}, [Verdict(judge="b", error="no verdict")])
    assert not none.scored


def test_a_dialogue_is_judged_by_its_last_reply_where_that_is_asked_for(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "What is next?"}]
    model = Speaker(lambda messages, sampling: verdict())
    judge([{"id": "d", "messages": turns}], tmp_path / "j", model=model, replies="last")
    (row,) = rows(tmp_path / "j")
    assert row["candidates"] == [{"text": "What is next?"}]
    assert row["messages"] == turns[:1]
    with pytest.raises(InputError, match="row 1: .* last message"):
        judge([{"id": "d", "messages": turns[:1]}], tmp_path / "k", model=model, replies="last")
    with pytest.raises(EmptyCorpus):
        judge([{"id": "d", "messages": turns[:1]}], tmp_path / "m", model=model)
    with pytest.raises(InputError, match=r"row 1: .*messages"):
        judge([{"id": "d", "messages": 3}], tmp_path / "l", model=model)


def test_what_a_failed_row_cost_is_paid_for_all_the_same(tmp_path: Path) -> None:
    """One of four draws fails: the other three count; so does a judge's answer whose re-ask fails."""

    seed = Conversation.model_validate({"messages": [{"role": "user", "content": "Why?"}]})
    requests = Requests(attempts=1)
    draws = lambda _, body: status(400, "no") if body["seed"] == 1 else None  # noqa: E731
    with Loopback("Because?", faults=draws) as server:
        done = candidates(
            open_model(server.spec, requests=requests), [seed], tmp_path / "c", k=4, max_failure_rate=1
        )
    assert (done.failed, done.replies) == (1, 3)
    row = {"messages": [{"role": "user", "content": "Why?"}], "candidates": [{"text": "Because?"}]}
    again = lambda number, _: status(400, "no") if number else None  # noqa: E731
    with Loopback("no verdict", faults=again) as server:
        judged = judge(
            [{"key": "k", **row}],
            tmp_path / "j",
            model=open_model(server.spec, requests=requests),
            max_failure_rate=1,
        )
    assert (judged.unscored, judged.calls) == (1, 1)
