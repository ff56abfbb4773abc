"""The closed loop as a recipe: what it refuses, that rounds share no problem, and what it costs at full size."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from maieutic.core.budget import Price
from maieutic.core.costs import Ask, Cost, Flow, Rates, Speaker, taking_turns, total_cost
from maieutic.core.errors import InputError, RecipeError
from maieutic.core.messages import Conversation
from maieutic.core.store import read_json, stage_rows
from maieutic.data.corpus import write_corpus
from maieutic.recipes import runner
from maieutic.recipes.demo.base import one_thread
from maieutic.report.page import write_report


def start(number: int, problem: int) -> Conversation:
    return Conversation.model_validate(
        {
            "id": str(number),
            "user_id": str(number),
            "messages": [{"role": "user", "content": "I think it is 10." * 8}],
            "problem": {"statement": f"What is {problem} + {problem}?", "answer": str(2 * problem)},
        }
    )


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of a run at full size; with no network at all."""
    monkeypatch.chdir(tmp_path)
    write_corpus(Path("lessons.jsonl"), [start(number, number) for number in range(60)])
    write_corpus(Path("seeds.jsonl"), [start(number, 100 + number) for number in range(40)])
    write_corpus(Path("held.jsonl"), [start(number, 200 + number) for number in range(20)])

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    return {
        "lessons": "lessons.jsonl",
        "people": "lessons.jsonl",
        "seeds": "seeds.jsonl",
        "held": "held.jsonl",
        "student-second": "http://10.0.0.5:8000/v1#student",
        "judge": "openai/judge",
        "final-judge": "openai/other-judge",
    }


def costs(settings: dict[str, Any], name: str = "closed-loop") -> dict[str, Cost]:
    return {
        line.stage: line.cost for line in runner.expected_costs(runner.resolve(name, Path("run"), settings))
    }


def test_full_size_resolves_offline_and_says_calls_tokens_hours_and_dollars(full: dict[str, Any]) -> None:
    prices = {"openai/judge": [2.0, 10.0], "openai/other-judge": [2.0, 10.0], full["student-second"]: [0, 0]}
    plan = runner.resolve("closed-loop", Path("run"), full | {"budget": {"usd": 50, "prices": prices}})
    cost = {line.stage: line.cost for line in runner.expected_costs(plan)}
    starts, k, m, turns = 20, 5, 4, 3
    assert cost["outcome-candidates-1"].calls == starts * k
    play = cost["continuations-1"]
    assert play.calls == starts * k * m * (turns + turns - 1)
    assert play.tokens == starts * k * m * (turns * 128 + (turns - 1) * 256)
    assert play.hours and play.hours > cost["outcome-candidates-1"].hours > 0  # type: ignore[operator]
    judged = cost["outcome-judge-1"]
    assert judged.calls == starts * k and judged.usd and judged.hours
    assert play.usd is None and cost["single-2"].hours and cost["single-2"].tokens
    assert not Path("run").exists()
    total = total_cost(line.cost for line in runner.expected_costs(plan))
    assert total.hours == pytest.approx(sum(one.hours for one in cost.values() if one.hours))
    assert total.calls == sum(one.calls for one in cost.values() if one.calls)
    asks = [step for step in plan.stages if step.step.models() and hasattr(step.step, "budget")]
    assert len(asks) == 17 and all(step.step.budget.usd == 50 for step in asks)  # type: ignore[attr-defined]


def test_more_plays_cost_more_and_a_faster_machine_takes_less(full: dict[str, Any]) -> None:
    once, twice = costs(full), costs(full | {"continuations": 8})
    assert twice["continuations-1"].calls == 2 * (once["continuations-1"].calls or 0)
    loaded = runner.load_recipe("closed-loop").model_copy(update={"rates": {"local": 1e12, "flops": 1e30}})
    fast = {
        line.stage: line.cost for line in runner.expected_costs(runner.resolve(loaded, Path("run"), full))
    }
    assert fast["continuations-1"].hours < 1e-6 < (once["continuations-1"].hours or 0)  # type: ignore[operator]
    wrong = runner.load_recipe("closed-loop").model_copy(update={"rates": {"served": -1}})
    with pytest.raises(RecipeError, match="rates: served"):
        runner.resolve(wrong, Path("run"), full)


def test_hours_by_hand() -> None:
    flow = Flow(Rates(served=1000, local=100, flops=1e12))
    flow.weigh("seven", 7e9)
    flow.weigh("half", 3.5e9)
    assert flow.asked([Ask("http://h/v1#x", 1, 10**9, 3_600_000)]).hours == pytest.approx(1)
    assert flow.asked([Ask("hf/seven", 1, 0, 360_000)]).hours == pytest.approx(1)
    assert flow.asked([Ask("hf/half", 1, 0, 360_000)]).hours == pytest.approx(0.5)
    assert flow.asked([Ask("hf/seven", 1, 257_143, 0)]).hours == pytest.approx(
        1, rel=1e-4
    )  # 2 · 7e9 · n / 1e12 s
    assert flow.asked([Ask("hf/unknown", 1, 5, 5)]).hours is None
    assert flow.trained("seven", 85_714, 6) == pytest.approx(1, rel=1e-4)
    paid = flow.asked([Ask("openai/j", 1, 10**6, 10**6)], {"openai/j": Price(2, 10)})
    assert paid.usd == pytest.approx(12)
    student, tutor = taking_turns(10, 100, Speaker("hf/s", 3, 20), Speaker("hf/t", 2, 30))
    assert (student.calls, student.written) == (30, 600) and (tutor.calls, tutor.written) == (20, 600)
    assert student.read == 10 * (100 + 150 + 200) and tutor.read == 10 * (120 + 170)


@pytest.mark.parametrize("who", ["student-other", "student-second"])
def test_the_student_that_made_the_pairs_does_not_evaluate(full: dict[str, Any], who: str) -> None:
    with pytest.raises(RecipeError, match=r"student hf/.*student made the preference pairs .*would evaluate"):
        runner.resolve("closed-loop", Path("run"), full | {who: "hf/${student}"})
    assert not Path("run").exists()


@pytest.mark.parametrize("arm", ["single", "outcome"])
def test_the_judge_of_the_candidates_does_not_grade_the_tutor(full: dict[str, Any], arm: str) -> None:
    """Also where its verdicts reach the pairs mixed with what came of the replies."""
    own = runner.load_recipe("closed-loop")
    other = "single" if arm == "outcome" else "outcome"
    rounds = own.stages["rounds"]["stages"]  # the other arm has a judge of its own
    rounds[f"{other}-judge-${{round}}"] = {**rounds[f"{other}-judge-${{round}}"], "judge": "openai/third"}
    with pytest.raises(RecipeError, match=rf"openai/judge would grade .*{arm}-judge-1"):
        runner.resolve(own, Path("run"), full | {"final-judge": "openai/judge"})
    runner.resolve(own, Path("run"), full)


def test_rounds_have_problems_of_their_own_and_start_from_the_tutor_before(full: dict[str, Any]) -> None:
    plan = runner.resolve("closed-loop", Path("run"), full | {"rounds": 3})
    stages = {step.name: step.step.model_dump() for step in plan.stages}
    for arm in ("single", "outcome"):
        data = [str(stages[f"{arm}-candidates-{number}"]["data"]) for number in (1, 2, 3)]
        assert len(set(data)) == 3
        assert stages[f"{arm}-1"]["model"] == "Qwen/Qwen2.5-7B-Instruct"
        assert stages[f"{arm}-3"]["model"] == str(Path("run", f"{arm}-2"))
        assert stages["evaluation"]["tutors"][arm] == f"hf/run/{arm}-3"
    assert stages["student"]["data"] != stages["other"]["data"]
    assert stages["student"]["seed"] != stages["other"]["seed"]


def test_a_problem_of_the_test_set_is_refused_when_folds_are_made(full: dict[str, Any]) -> None:
    write_corpus(Path("held.jsonl"), [start(1, 101)], overwrite=True)
    plan = runner.resolve("closed-loop", Path("run"), full)
    [step] = [step for step in plan.stages if step.name == "problems"]
    action = step.step.model_copy(update={"corpus": Path("seeds.jsonl")})
    with pytest.raises(InputError, match="held"):
        action.run(Path("run"))


def test_the_small_one_is_the_same_recipe_behind_its_own_first_stages(full: dict[str, Any]) -> None:
    big = runner.resolve("closed-loop", Path("run"), full | {"rounds": 1})
    small = runner.resolve("closed-loop-small", Path("run"))
    assert [step.name for step in small.stages] == ["world", "tiny", *(step.name for step in big.stages)]
    stages = {step.name: step.step.model_dump() for step in small.stages}
    assert stages["single-1"]["model"] == str(Path("run", "tiny", "model"))
    assert stages["evaluation"]["students"]["second"] == "student/run/world/students.yaml"
    assert stages["evaluation"]["answer_prompt"] == "run/world/answer_prompt.md"
    assert stages["continuations-1"]["tutor_prompt"] is None


def test_a_value_may_name_a_stage_but_not_itself() -> None:
    own = runner.Recipe(
        name="x",
        values={"a": "${b}/part-${n}.jsonl", "b": "${b}", "n": 1, "who": "${tutor-${n}}", "tutor-1": "me"},
        stages={"one": {"do": "stats", "corpus": "${who}"}},
    )
    plan = runner.resolve(own, Path("run"))
    assert plan.stages[0].step.model_dump()["corpus"] == "me"
    again = own.model_copy(update={"stages": {"one": {"do": "stats", "corpus": "${a}"}}})
    with pytest.raises(RecipeError, match=r"value b: \$\{b\} is neither a value nor an earlier stage"):
        runner.resolve(again, Path("run"))


WORDS = """
name: words
values: {starts: null}
stages:
  candidates: {do: candidates, model: baseline/question-only, data: "${starts}", k: 3, prompt: none, sampling: {seed: 0}}
  judge: {do: judge, data: "${candidates}", rubric: socratic_checks}
  continuations: {do: continuations, data: "${judge}", student: student/cooperative, tutor: baseline/question-only, m: 3, turns: 2}
  rewards: {do: rewards, data: "${judge}", continuations: "${continuations}", weight: 1}
  evaluation:
    do: eval dialogue run
    tutors: {base: baseline/question-only, tuned: baseline/never-ending, third: baseline/sycophant}
    students: {scripted: student/confused, other: student/answer-seeking}
    problems: "${starts}"
    tutor_prompt: none
    answers: 2
    rounds: 3
"""


def test_the_loop_runs_with_speakers_of_fixed_words_and_the_page_shows_all_five(tmp_path: Path) -> None:
    write_corpus(tmp_path / "starts.jsonl", [start(number, 20 + number) for number in range(12)])
    (tmp_path / "words.yaml").write_text(WORDS)
    run = tmp_path / "run"
    plan = runner.resolve(str(tmp_path / "words.yaml"), run, {"starts": str(tmp_path / "starts.jsonl")})
    manifests = runner.run_plan(plan)
    assert manifests["continuations"]["dialogues"] == manifests["rewards"]["plays"] > 60
    assert manifests["rewards"]["agreement"]["n"] == 12
    page = write_report([run]).read_text(encoding="utf-8")
    assert "Told against solved" in page and "Rubric score and outcome" in page
    for student in ("scripted", "other"):
        assert page.count(f"Whole dialogues with the student “{student}”") >= 1
        for name in ("no tutor", "tutor that tells", "base", "tuned", "third"):
            assert (
                f"{name} with {student}: solved " in page
            )  # each a point of the figure, in its alt text too
    assert "base against tuned, with the student “scripted”: solved" in page
    assert "Outcomes of replies that were continued" in page
    again = runner.run_plan(
        runner.resolve(str(tmp_path / "words.yaml"), run, {"starts": str(tmp_path / "starts.jsonl")})
    )
    assert again == manifests


SMALL = {
    "rounds": 2,
    "lora-r": 4,
    "dialogues": [400, 40, 40],
    "lessons-to-start": [32, 8, 8],
    "base-steps": 150,
    "continuations": 2,
    "attempts": 1,
    "min-chosen": 0.1,
    "single-min-chosen": 0.1,
    "min-margin": 0,
    "failures": 0.5,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_rounds_are_trained_the_second_from_the_first_ones_adapters(tmp_path: Path) -> None:
    """The whole recipe in the closed world; both arms go on from their own tutor of the round before."""
    plan = runner.resolve("closed-loop-small", tmp_path / "run", SMALL)
    with one_thread():
        done = runner.run_plan(plan)
    for arm in ("single", "outcome"):
        assert done[f"{arm}-1"]["steps"] > 0 and done[f"{arm}-2"]["steps"] > 0
        started = read_json(tmp_path / "run" / f"{arm}-2" / "config.json")
        assert f"{arm}-1" in str(started["model"])
        answered = {row["model"] for row in stage_rows(tmp_path / "run" / f"{arm}-candidates-2")}
        assert answered == {f"hf/{tmp_path / 'run' / f'{arm}-1'}"}
    first, second = (
        {row["id"] for row in stage_rows(tmp_path / "run" / f"outcome-candidates-{number}")}
        for number in (1, 2)
    )
    assert first and second and not first & second
    tutors = done["evaluation"]["tutors"]
    assert set(tutors) == {"control-silent", "control-telling", "base", "single", "outcome"}
    assert tutors["control-telling"]["second"]["told"]["value"] == 1
    for by in tutors.values():
        assert by["other"]["dialogues"] + sum(by["other"]["lost"].values()) == 8
