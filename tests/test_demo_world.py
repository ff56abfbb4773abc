"""The closed world: deterministic, small, its parts disjoint, its answers right by code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from generate import candidates
from hypothesis import given
from hypothesis import strategies as st
from judges import judge

from maieutic.checks.turns import asks_question, reveals_answer, states_answer, takes_up
from maieutic.core.messages import Conversation, Problem, Role
from maieutic.data.corpus import read_corpus
from maieutic.evals.paired import compare_files
from maieutic.models import load
from maieutic.models.scripted import MUST_NOT_WIN
from maieutic.models.student import load_kind
from maieutic.recipes.demo import everyday, students
from maieutic.recipes.demo.world import PARTS, Part, Sizes, build, vocabulary, write

SIZES = {"train": Sizes(300, 60, 12), "validation": Sizes(60, 20), "test": Sizes(80, 30)}


@pytest.fixture(scope="module")
def world() -> dict[str, Part]:
    return build(SIZES, 0)


def _all(part: Part) -> list[Conversation]:
    return [*part.dialogues, *part.seeds, *part.starts]


def _problems(part: Part) -> set[tuple[str, ...]]:
    """The pairs of numbers that the part's problems are made of."""
    found = {tuple(re.findall(r"\d+", c.problem.statement)) for c in _all(part) if c.problem}
    assert all(len(pair) == 2 for pair in found)
    return found


def _prices(part: Part) -> set[tuple[str, str]]:
    return {
        fact
        for c in _all(part)
        if c.messages and c.messages[0].content.startswith("Shop")
        for fact in re.findall(r"(\w+) is (\d+)", c.messages[0].content)
    }


def test_the_same_seed_gives_the_same_world(world: dict[str, Part]) -> None:
    assert build(SIZES, 0) == world
    assert build(SIZES, 1)["train"].dialogues != world["train"].dialogues


def test_sizes_and_words(world: dict[str, Part]) -> None:
    for part in PARTS:
        assert (len(world[part].dialogues), len(world[part].seeds), len(world[part].starts)) == SIZES[part]
    assert 120 <= len(vocabulary(world)) <= 250


@pytest.mark.parametrize(
    ("one", "other"), [("train", "validation"), ("train", "test"), ("validation", "test")]
)
def test_parts_share_no_problem_no_price_and_nobody(world: dict[str, Part], one: str, other: str) -> None:
    assert not _problems(world[one]) & _problems(world[other])
    assert not _prices(world[one]) & _prices(world[other])
    people = [{c.user_id for c in _all(world[part])} - {None} for part in (one, other)]
    assert not people[0] & people[1]


def test_roles_alternate_and_rows_are_whole(world: dict[str, Part]) -> None:
    ids: Counter[str] = Counter()
    for part in world.values():
        for talk in _all(part):
            ids[talk.id] += 1
            roles = [turn.role for turn in talk.messages]
            spoken = [role for role in roles if role != Role.SYSTEM]
            assert roles[: len(roles) - len(spoken)] in ([], [Role.SYSTEM])
            assert spoken == [(Role.USER, Role.ASSISTANT)[place % 2] for place in range(len(spoken))]
            assert all(turn.content.strip() == turn.content != "" for turn in talk.messages)
            assert (talk.source, talk.licence) == ("maieutic-world", "Apache-2.0")
            assert talk.intent
    assert max(ids.values()) == 1


def test_each_person_keeps_a_style(world: dict[str, Part]) -> None:
    profiles: dict[str, set[str]] = {}
    for talk in world["train"].dialogues:
        profiles.setdefault(str(talk.user_id), set()).add(str(talk.profile))
    assert all(len(own) == 1 for own in profiles.values())
    assert len(set.union(*profiles.values())) == len(students.STYLES)


@given(st.integers(0, 10**9), st.sampled_from(students.STYLES))
def test_lessons_are_consistent(seed: int, style: str) -> None:
    random = Random(seed)
    task = students.draw_task(random, students.number_pairs())
    lesson = students.lesson(random, task, style)
    problem = task.problem()
    said: list[str] = []
    known = False
    for place, turn in enumerate(lesson.turns):
        if turn.role == Role.USER:
            if not known:
                assert said or not states_answer(turn.content, problem), turn.content
            said.append(turn.content)
            known = known or states_answer(turn.content, problem)
        elif turn.role == Role.ASSISTANT and not known:
            reveals = reveals_answer(turn.content, problem, said)
            assert reveals == ("answer is" in turn.content), turn.content
            assert asks_question(turn.content) == ("?" in turn.content), turn.content
            known = bool(reveals)
        if place + 1 in lesson.openings:
            assert turn.role == Role.USER and not known
    assert known and lesson.openings[0] == 2


@given(st.integers(0, 10**9))
def test_answers_are_right(seed: int) -> None:
    problem: Problem = students.draw_task(Random(seed), students.number_pairs()).problem()
    cues = {
        " gets ": "plus",
        " in all": "plus",
        " away": "minus",
        "How many more": "minus",
        " each bag": "times",
    }
    assert [sign for cue, sign in cues.items() if cue in problem.statement] == [problem.answer]
    assert problem.attempt != problem.answer and problem.attempt in ("plus", "minus", "times")


@given(st.integers(0, 10**9), st.sampled_from(students.STYLES))
def test_a_shop_asks_the_price_on_its_list(seed: int, style: str) -> None:
    facts = [(good, price) for good in everyday.GOODS for price in everyday.PRICES]
    turns = everyday.shop(Random(seed), style, facts)
    listed = dict(re.findall(r"(\w+) is (\d+)", turns[0].content))
    assert len(set(listed.values())) == 4
    for turn in turns[1:]:
        if turn.role == Role.ASSISTANT:
            assert all(
                listed[good] == price for good, price in re.findall(r"[Tt]he (\w+) is (\d+)", turn.content)
            )


def test_no_probe_is_as_good_as_a_good_tutor(tmp_path: Path) -> None:
    """Under the rubric that code decides; the good tutor asks what the world's own asking tutors ask."""
    random, seeds, rows = Random(5), [], []
    for number in range(60):
        task = students.draw_task(random, students.number_pairs())
        lesson = students.lesson(random, task, random.choice(students.STYLES))
        opening = lesson.turns[: random.choice(lesson.openings)]
        seeds.append(Conversation(id=f"s{number}", messages=opening, problem=task.problem()))
        asked = [{"text": task.fill(question)} for question in task.story.questions]
        rows.append({**seeds[-1].row(), "candidates": asked})
    judge(rows, tmp_path / "good", rubric="socratic_checks")
    for name in MUST_NOT_WIN:
        candidates(load(f"baseline/{name}"), seeds, tmp_path / name, prompt=None, k=3)
        judge(tmp_path / name, tmp_path / f"{name}-judged", rubric="socratic_checks")
        found = compare_files(tmp_path / "good", tmp_path / f"{name}-judged")
        assert found["n"] > 30  # equal openings are one prompt
        assert found["a"] == 1
        assert found["difference"] > 0.2
        assert found["ci"] is None or found["ci"][0] > 0.2  # null: the same difference everywhere


def test_endings_can_be_guessed_but_not_known(world: dict[str, Part]) -> None:
    ended = [talk for talk in world["train"].dialogues if talk.ended]
    silent = [talk for talk in ended if talk.messages[-1].role == Role.ASSISTANT]
    assert 0.9 < len(ended) / len(world["train"].dialogues) < 1
    assert 0.1 < len(silent) / len(ended) < 0.9


def test_seeds_end_on_a_pupil_who_is_wrong(world: dict[str, Part]) -> None:
    for seed in world["test"].seeds:
        assert seed.messages[-1].role == Role.USER and seed.problem
        assert not states_answer(seed.messages[-1].content, seed.problem)


def test_written_files_are_corpora(tmp_path, world: dict[str, Part]) -> None:
    counts = write(tmp_path, SIZES, 0)
    assert counts["conversations"]["train.jsonl"] == 300
    assert list(read_corpus(tmp_path / "test.jsonl")) == world["test"].dialogues
    assert list(read_corpus(tmp_path / "starts.jsonl")) == world["train"].starts


OPTIONS = students.LessonOptions(0.6, 0.3)


def test_idle_questions_lead_nowhere_and_the_rubric_cannot_see_all_of_them() -> None:
    lessons = [talk for talk in build(SIZES, 0, OPTIONS)["train"].dialogues if talk.problem]
    solved: dict[str, list[bool]] = {"idle": [], "good": []}
    seen = 0
    for talk in lessons:
        assert talk.problem
        idle = {students._PREFIX[0] + text for text in students._IDLE} | set(students._IDLE)
        for place, turn in enumerate(talk.messages[:-1]):
            if (
                turn.role != Role.ASSISTANT
                or "?" not in turn.content
                or students.ANSWER_PROMPT in turn.content
            ):
                continue
            if reveals_answer(turn.content, talk.problem) or talk.messages[place + 1].role != Role.USER:
                continue
            bare = turn.content.removeprefix("Not quite. ").removeprefix("Good try. ")
            kind = "idle" if any(bare == _named(text, bare) for text in idle) else "good"
            solved[kind].append(states_answer(talk.messages[place + 1].content, talk.problem))
            seen += kind == "idle" and bool(takes_up(turn.content, talk.problem, [talk.messages[1].content]))
    assert min(map(len, solved.values())) > 20
    rates = {kind: sum(found) / len(found) for kind, found in solved.items()}
    assert rates["idle"] < 0.3 < 0.5 < rates["good"]
    assert seen > 10  # they speak of this very problem: no rubric by code tells them from good ones


def _named(text: str, said: str) -> str:
    """An idle question with whatever name or thing the text has."""
    pattern = re.escape(text).replace(r"\{things\}", r"\w+").replace(r"\{name\}", r"\w+")
    return said if re.fullmatch(pattern, said) else text


def test_an_exam_is_answered_by_what_the_pupil_knows() -> None:
    asked = 0
    for talk in build(SIZES, 0, OPTIONS)["train"].dialogues:
        known = False
        for place, turn in enumerate(talk.messages):
            if talk.problem is None or turn.role == Role.SYSTEM:
                continue
            if (
                turn.role == Role.ASSISTANT
                and turn.content.endswith(students.ANSWER_PROMPT)
                and place + 1 < len(talk.messages)
            ):
                said = talk.messages[place + 1].content
                asked += 1
                if known:  # found alone before: it is kept
                    assert states_answer(said, talk.problem)
            if turn.role == Role.ASSISTANT and reveals_answer(turn.content, talk.problem, []):
                break  # told: kept by half of them
            known = known or (turn.role == Role.USER and states_answer(turn.content, talk.problem))
    assert asked > 30


def test_the_students_by_rule_are_a_student_file(tmp_path: Path) -> None:
    write(tmp_path, SIZES, 0, OPTIONS)
    student = load_kind(str(tmp_path / "students.yaml")).student
    assert set(student.styles) == set(students.STYLES)
    assert student.styles["terse"].solves == ("{{answer}}.", "so {{answer}}.")
    assert (tmp_path / "answer_prompt.md").read_text().strip() == students.ANSWER_PROMPT
    assert (
        student.chances["takes_up"].solves > student.chances["hints"].solves > student.chances["asks"].solves
    )
