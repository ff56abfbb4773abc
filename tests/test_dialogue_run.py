"""Tutors played with students: controls always, attempts before and after, nothing asked twice, whose fault what was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dialogues import OPENING, PROBLEM, row, stage
from generate import pre_post_test
from loopback import Loopback
from typer.testing import CliRunner

from maieutic.checks.outcomes import solves
from maieutic.cli import app, gather
from maieutic.core.budget import Budget
from maieutic.core.costs import Flow
from maieutic.core.errors import BudgetSpent, InputError, TooManyFailures
from maieutic.core.messages import Message, Role
from maieutic.core.settings import Requests
from maieutic.core.store import stage_rows
from maieutic.evals.dialogue import score_dialogues
from maieutic.evals.dialogue_steps import EvalDialogueRun, parse_named_models
from maieutic.models import load
from maieutic.recipes import runner
from maieutic.report.page import write_report
from maieutic.rollouts.pre_post_test import with_question

gather()


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Four starts."""
    path = tmp_path / "problems.jsonl"
    rows = [
        {
            "id": f"p{bags}",
            "messages": [{"role": "user", "content": OPENING}],
            "problem": {
                **PROBLEM,
                "statement": f"Ana packs {bags} bags of 7 nuts. How many?",
                "answer": str(7 * bags),
            },
        }
        for bags in (3, 4, 5, 6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path, *rows: Any) -> str:
    """A script."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"script/{path}"


@pytest.fixture
def asker(tmp_path: Path) -> str:
    return lines(
        tmp_path / "asker.jsonl", {"text": "How many nuts are in one bag?"}, {"text": "And in all the bags?"}
    )


def test_controls_always_run_and_nothing_is_asked_twice(problems: Path, asker: str, tmp_path: Path) -> None:
    step = EvalDialogueRun(
        tutors={"asker": asker},
        students={"coop": "student/cooperative"},
        problems=problems,
        rounds=3,
        answers=4,
    )
    found = step.run(tmp_path / "run").values
    assert list(found["tutors"]) == ["asker", "control-silent", "control-telling"]
    assert found["controls"] == ["control-silent", "control-telling"]
    telling = found["tutors"]["control-telling"]["coop"]
    assert (telling["told"]["value"], telling["solved"]["value"]) == (1, 0)
    assert telling["single"]["reveals_answer"] == 1
    assert found["tutors"]["asker"]["coop"]["single"]["asks_question"] == 1
    assert telling["who"] == {"student": ["student/cooperative"], "tutor": ["baseline/telling"]}
    assert len(telling["at"]) == 3
    assert telling["delta_solve"]["n"] == 4
    assert [(gap["a"], gap["b"]) for gap in found["differences"]] == [
        ("asker", "control-silent"),
        ("asker", "control-telling"),
    ]
    again = step.run(tmp_path / "run").values
    assert again["replies"] == 0
    assert again["tutors"] == found["tutors"]


def test_what_is_known_before_is_the_start_alone(problems: Path, tmp_path: Path) -> None:
    """A student that knows it only once the tutor has said so: 0 before, 1 after."""
    student = lines(
        tmp_path / "student.jsonl",
        {"trained_role": "user"},
        {"text": "hm", "when": "Go on"},
        {"text": "So it is 21.", "when": "bags is 21"},
        {"text": "I think 10."},
    )
    tutor = lines(tmp_path / "tutor.jsonl", {"text": "Go on. What of 3 bags? 7 in each of the bags is 21"})
    prompt = tmp_path / "ask.md"
    prompt.write_text("And now?")
    step = EvalDialogueRun(
        tutors={"tells": tutor}, students={"s": student}, problems=problems, rounds=1, answers=2,
        answer_prompt=str(prompt), seed_turns=1,
    )  # fmt: skip
    found = step.run(tmp_path / "run").values
    before = list(stage_rows(tmp_path / "run" / "before-s"))
    assert len(before) == 4, "each start once for all tutors"
    assert all(answer["text"] == "I think 10." for row in before for answer in row["answers"])
    after = {row["seed"]: row for row in stage_rows(tmp_path / "run" / "after-tells-with-s")}
    assert set(after) == {"p3", "p4", "p5", "p6"}
    scores = found["tutors"]["tells"]["s"]
    assert scores["solve_before"]["value"] == 0
    assert scores["delta_solve"]["value"] == scores["solve_after"]["value"]


def test_the_question_joins_what_the_assistant_said_last() -> None:
    tutor, student = Message(role=Role.ASSISTANT, content="Well done."), Message(role=Role.USER, content="24")
    assert with_question((student, tutor), "And now?")[-1].content == "Well done.\n\nAnd now?"
    assert [turn.role for turn in with_question((tutor, student), "And now?")] == [
        "assistant",
        "user",
        "assistant",
    ]


def test_a_test_resumes_where_they_stopped(problems: Path, tmp_path: Path) -> None:
    broken = lines(
        tmp_path / "s.jsonl",
        {"trained_role": "user"},
        {"error": "gone", "when": "own"},
    )
    with pytest.raises(TooManyFailures):
        pre_post_test(load(broken), problems, tmp_path / "out", "before", n=2)
    lenient = pre_post_test(load(broken), problems, tmp_path / "out", "before", n=2, max_failure_rate=1)
    assert (lenient.tested, lenient.failed, lenient.correct) == (4, 4, None)
    fine = pre_post_test(load("student/confused"), problems, tmp_path / "other", "before", n=2)
    assert (fine.tested, fine.failed, fine.replies) == (4, 0, 8)
    again = pre_post_test(load("student/confused"), problems, tmp_path / "other", "before", n=2)
    assert again.replies == 0
    assert again.correct == fine.correct


def test_a_student_that_breaks_is_lost_and_a_tutor_that_breaks_has_failed(
    problems: Path, asker: str, tmp_path: Path
) -> None:
    student = lines(
        tmp_path / "s.jsonl", {"trained_role": "user"}, {"error": "gone", "when": "in all"}, {"text": "7"}
    )
    tutor = lines(tmp_path / "t.jsonl", {"text": "Go on."}, {"error": "gone"})
    step = EvalDialogueRun(
        tutors={"asker": asker, "breaks": tutor}, students={"s": student}, problems=problems, rounds=3, answers=0,
        requests=Requests(max_failure_rate=1),
    )  # fmt: skip
    found = step.run(tmp_path / "run").values
    assert found["tutors"]["asker"]["s"]["lost"] == {"user_model": 4}
    assert found["tutors"]["asker"]["s"]["dialogues"] == 0
    assert found["tutors"]["breaks"]["s"]["failed_by_tutor"] == 4
    assert found["tutors"]["breaks"]["s"]["solved"]["value"] == 0
    assert found["differences"][0]["metrics"] == {}, "no start is left in both"
    assert found["tutors"]["asker"]["s"]["delta_solve"]["value"] is None


def test_the_command_its_plan_and_the_report(problems: Path, asker: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["eval", "dialogue", "run", "--tutor", f"asker={asker}", "--student", "student/cooperative",
             "--problems", str(problems), "--out", str(out), "--kinds", "cooperative,confused", "--answers", "2",
             "--rounds", "2"]  # fmt: skip
    plan = json.loads(CliRunner().invoke(app, [*words, "--dry-run", "--json"]).stdout)
    assert plan["calls"] == 3 * 4 * 2 * (2 + 2 + 2 * 2)
    assert not out.exists()
    people = CliRunner().invoke(app, words)
    assert people.exit_code == 0, people.output
    assert "control-silent" in people.stdout
    done = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert done["replies"] == 0
    by_kind = done["tutors"]["asker"]["cooperative"]["by_kind"]
    assert set(by_kind) == {"cooperative", "confused"}
    assert done["tutors"]["asker"]["cooperative"]["solved"]["n"] == 4, (
        "a start is one unit, whatever the kind"
    )
    write_report([out])
    page = (out / "report.html").read_text(encoding="utf-8")
    for tutor in ("asker", "control-silent", "control-telling"):
        assert f"{tutor}-with-cooperative" in page
    words[words.index("--out") + 1] = str(tmp_path / "again")
    rescored = score_dialogues(out / "asker-with-cooperative", before=out / "before-cooperative",
                     after=out / "after-asker-with-cooperative", rounds=2)  # fmt: skip
    assert rescored["delta_solve"] == done["tutors"]["asker"]["cooperative"]["delta_solve"]


def test_names() -> None:
    assert parse_named_models(["a=hf/x", "student/cooperative", "http://h:1/v1#m=2"]) == {
        "a": "hf/x",
        "cooperative": "student/cooperative",
        "m-2": "http://h:1/v1#m=2",
    }
    with pytest.raises(InputError, match="a=hf/y"):
        parse_named_models(["a=hf/x", "a=hf/y"])


def test_a_plan_grows_with_the_attempts(problems: Path, tmp_path: Path) -> None:
    calls = []
    for each in (0, 8):
        step = EvalDialogueRun(
            tutors=["t=script/t"], students=["student/confused"], problems=problems, answers=each
        )
        calls.append(step.expect(tmp_path, Flow()).calls)
    assert calls[1] - calls[0] == 2 * 8 * 3 * 4


def test_a_spent_budget_stops_and_the_same_call_goes_on(problems: Path, asker: str, tmp_path: Path) -> None:
    """What is asked in two calls together is what one call asks."""
    step = EvalDialogueRun(
        tutors={"asker": asker},
        students={"coop": "student/cooperative"},
        problems=problems,
        rounds=2,
        answers=3,
    )
    limited = step.model_copy(update={"requests": Requests(concurrency=1), "budget": Budget(tokens=400)})
    whole = step.run(tmp_path / "whole").values
    out, replies, calls = tmp_path / "run", 0, 0
    while True:
        calls += 1
        try:
            done = limited.run(out).values
        except BudgetSpent:
            assert calls < 50
            continue
        replies = done["replies"]
        break
    assert calls > 2
    assert replies < whole["replies"]
    assert done["tutors"] == whole["tutors"]


def test_the_stages_of_a_recipe(problems: Path, asker: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"""
name: talk
about: Whole dialogues.
stages:
  talk: {{do: simulate, user: student/cooperative, assistant: "{asker}", seeds: {problems}, kinds: [cooperative], rounds: 2}}
  told: {{do: simulate, user: student/cooperative, assistant: baseline/telling, seeds: {problems}, kinds: [cooperative], rounds: 2}}
  before: {{do: pre-post-test, model: student/cooperative, data: "${{talk}}", when: before, n: 2}}
  after: {{do: pre-post-test, model: student/cooperative, data: "${{talk}}", when: after, n: 2}}
  after-told: {{do: pre-post-test, model: student/cooperative, data: "${{told}}", when: after, n: 2}}
  outcomes: {{do: eval dialogue score, data: "${{talk}}", against: "${{told}}", before: "${{before}}", after: "${{after}}", after_against: "${{after-told}}"}}
  played: {{do: eval dialogue run, tutors: {{asker: "{asker}"}}, students: {{coop: student/cooperative}}, problems: {problems}, rounds: 2, answers: 1}}
""")
    plan = runner.resolve(str(path), tmp_path / "run", {})
    stages = runner.run_plan(plan)
    found = stages["outcomes"]
    assert found["difference"]["metrics"]["told"]["difference"] == -1
    assert found["difference"]["metrics"]["delta_solve"]["n"] == 4
    assert found["scores"]["by_kind"]["cooperative"]["solved"] == found["scores"]["solved"]
    assert set(stages["played"]["tutors"]) == {"asker", "control-silent", "control-telling"}
    write_report([tmp_path / "run"])
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "tutor that tells with coop: solved " in page
    again = runner.run_plan(runner.resolve(str(path), tmp_path / "run", {}))
    assert again["played"] == stages["played"]


def test_programs_are_run_only_when_asked(tmp_path: Path) -> None:
    code = "```python\ndef double(x):\n    return 2 * x\n```"
    one = row("a", "T What does it return for 2?")
    one["problem"] = {"statement": "Write double.", "tests": "assert double(2) == 4"}
    one["messages"] += [{"role": "user", "content": code}]
    one["meta"]["turns"]["2"] = {"model": "m/user"}
    folder = stage(tmp_path / "run", one)
    with pytest.raises(InputError, match="no dialogue has a known answer"):
        score_dialogues(folder)
    try:
        found = score_dialogues(folder, states=solves)
    except InputError as error:
        pytest.skip(str(error))
    assert found["solved"]["value"] == 1
    done = CliRunner().invoke(app, ["eval", "dialogue", "score", str(folder), "--run-code", "--json"])
    assert json.loads(done.stdout)["solved"]["value"] == 1


def test_what_was_lost_can_be_mended_and_tutors_added_later(problems: Path, tmp_path: Path) -> None:
    """The same folder goes on: with a dialogue that the network had lost, and with one tutor more."""
    with Loopback(reply="How many nuts are in one bag?") as server:
        server.faults = lambda number, body: 400 if "6 bags" in json.dumps(body) else None
        step = EvalDialogueRun(
            tutors={"served": server.spec}, students={"coop": "student/cooperative"}, problems=problems, rounds=1,
            answers=2, requests=Requests(max_failure_rate=0.5),
        )  # fmt: skip
        first = step.run(tmp_path / "run").values
        assert first["tutors"]["served"]["coop"]["failed_by_tutor"] == 1
        server.faults = []
        more = {"served": server.spec, "more": "baseline/sycophant"}
        second = step.model_copy(update={"tutors": more}).run(tmp_path / "run").values
    assert second["tutors"]["served"]["coop"]["failed_by_tutor"] == 0
    assert second["tutors"]["served"]["coop"]["delta_solve"]["n"] == 4
    assert second["tutors"]["served"]["coop"]["single"]["n"] == 4
    assert second["tutors"]["more"]["coop"]["dialogues"] == 4
