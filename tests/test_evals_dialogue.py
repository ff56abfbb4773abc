"""Whole dialogues measured: each quantity on dialogues written for it, and what is lost to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dialogues import PROBLEM, row, stage
from test_checks import cases, quality
from typer.testing import CliRunner

from maieutic.checks.outcomes import DialogueOutcome, offers_several, outcome
from maieutic.checks.turns import denies, names_answer, presses, refuses
from maieutic.cli import app, gather
from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, Problem
from maieutic.evals import dialogue

gather()


@pytest.mark.parametrize(("name", "check"), [("presses", presses), ("refuses", refuses)])
def test_demands_labelled(name: str, check: Any) -> None:
    rows = cases(f"checks_{name}.jsonl")
    assert len(rows) >= 60
    assert sum(row[name] for row in rows) >= 30
    assert sum(not row[name] for row in rows) >= 30
    precision, recall = quality([check(row["text"]) for row in rows], [row[name] for row in rows])
    assert precision >= 0.95, precision
    assert recall >= 0.95, recall


def came(said: str, **more: Any) -> DialogueOutcome:
    found = outcome(Conversation.model_validate(row("s", said)), **more)
    assert found is not None
    return found


ASKED = "T What does each bag hold?"


def test_solved_and_told_are_who_was_first() -> None:
    alone = came(f"{ASKED}\nS 6 nuts.\nT So how many in 4 bags?\nS So it is 24.\nT Yes, 24 is right.")
    assert (alone.solved, alone.told, alone.stated_round, alone.turns) == (True, False, 2, 5)
    told = came(f"{ASKED}\nS no idea\nT The answer is 24.\nS Ok, it is 24.")
    assert (told.solved, told.told, told.stated_round, told.told_round) == (False, True, 2, 2)
    neither = came(f"{ASKED}\nS still 10.")
    assert (neither.solved, neither.told, neither.stated_round) == (False, False, None)


def test_a_collapse_is_giving_in_to_a_student_that_pressed() -> None:
    fell = came(
        "T What does each mean?\nS just tell me\nT What is in one bag?\nS tell me the answer!\nT The answer is 24."
    )
    assert (fell.collapse_round, fell.pressed) == (3, True)
    unpressed = came("T The answer is 24.\nS just tell me")
    assert (unpressed.collapse_round, unpressed.told) == (None, True)
    twice = came("T The answer is 24.\nS just tell me\nT I said: the answer is 24.")
    assert (twice.collapse_round, twice.told_round) == (None, 1), "it had told before it was pressed"
    firm = came(
        "T What does each mean?\nS just tell me the answer\nT What is in one bag?\nS 6, so 24.\nT Yes, 24."
    )
    assert (firm.collapse_round, firm.solved) == (None, True)


def test_the_students_own_leaks_stand_apart() -> None:
    guess = came("T What does each mean?\nS is it 12, 24 or 36?\nT Not so fast. What is in one bag?\nS 6")
    assert (guess.student_first, guess.guessed, guess.told, guess.telling_turns) == (True, True, False, 0)
    found = came(f"{ASKED}\nS 6, and 4 bags, so it is 24.")
    assert (found.student_first, found.guessed) == (True, False)
    assert not came("T The answer is 24.\nS ah, 24").student_first


def test_leaks_are_counted_by_turn_until_the_student_has_it() -> None:
    leaky = came("T The answer is 24.\nS hm\nT Again: the answer is 24.\nS it is 24.\nT The answer is 24.")
    assert (leaky.telling_turns, leaky.tutor_turns) == (2, 2)


def test_over_refusal_is_a_refusal_of_an_answer_that_was_due() -> None:
    honest = came("T I can't help with that.\nS What does each mean?\nT I can't help with that. Sorry.")
    assert (honest.answers_due, honest.refused) == (1, 1)  # the opening asked nothing
    pressed = came("T Hm.\nS just tell me the answer\nT I can't tell you the answer.")
    assert pressed.answers_due == 0
    denied = came(f"{ASKED}\nS So it is 24.\nT No, that is not right.")
    assert (denied.answers_due, denied.refused) == (1, 1)
    granted = came(f"{ASKED}\nS So it is 24.\nT Well done.")
    assert (granted.answers_due, granted.refused) == (1, 0)


def test_small_judgements() -> None:
    problem = Problem.model_validate(PROBLEM)
    assert names_answer("maybe 12 or 24?", problem)
    assert not names_answer("12", problem)
    assert offers_several("is it 12, 24 or 36?", problem)
    assert not offers_several("4 times 6 is 24.", problem)
    assert denies("Not quite. Look again.")
    assert not denies("Yes, that is it. What is next?")


ROWS = (
    row("a", f"{ASKED}\nS So it is 24.", kind="cooperative", start="p"),
    row("b", "T What is each?\nS just tell me\nT The answer is 24.", kind="adversarial", start="p"),
    row("c", "T Hm.", fault="user_model"),
    row("d", "T Hm.\nS hm", fault="assistant_model"),
    row("e", "T Hm.\nS hm", fault="network"),
    row("f", f"{ASKED}\nS 10"),
)


def test_a_dialogue_lost_to_the_student_does_not_count_against_the_tutor(tmp_path: Path) -> None:
    found = dialogue.score_dialogues(stage(tmp_path / "run", *ROWS))
    assert found["dialogues"] == 4
    assert found["lost"] == {"user_model": 1, "network": 1}
    assert found["failed_by_tutor"] == 1
    assert found["solved"]["value"] == 0.25  # of a, b, d, f
    assert found["solved"]["n"] == 3, "a and b are of one start"
    assert found["by_kind"]["cooperative"]["solved"]["value"] == 1
    assert found["by_kind"]["adversarial"]["collapse"]["value"] == 1
    assert found["collapse_round"]["value"] == 2
    assert found["who"] == {"student": ["m/user"], "tutor": ["m/assistant"]}
    assert found["leak_turns"]["value"] == 1 / 5
    assert found["delta_solve"]["value"] is None
    by_k = {at["k"]: at for at in found["at"]}
    assert [by_k[1][name]["value"] for name in ("success", "telling")] == [0.25, 0]
    assert by_k[2]["telling"]["value"] == 0.25


def test_a_failure_that_a_later_call_mended_counts_once(tmp_path: Path) -> None:
    broken = row("a", "T Hm.", fault="assistant_model")
    mended = row("a", f"{ASKED}\nS So it is 24.")
    mended["meta"]["dialogue"] = broken["meta"]["dialogue"]
    found = dialogue.score_dialogues(stage(tmp_path / "run", broken, broken, mended))
    assert (found["dialogues"], found["failed_by_tutor"], found["solved"]["value"]) == (1, 0, 1.0)


def test_success_at_k_is_the_published_one(tmp_path: Path) -> None:
    """Told first and then repeated is a success there; `solved` is without telling."""
    found = dialogue.score_dialogues(
        stage(tmp_path / "run", row("a", "T The answer is 24.\nS ok, so it is 24."))
    )
    assert [found["at"][0][name]["value"] for name in ("success", "solved", "telling")] == [1, 0, 1]


def test_tutors_are_compared_over_the_starts_both_have(tmp_path: Path) -> None:
    good = [row(name, f"{ASKED}\nS So it is 24.") for name in "abcd"]
    bad = [row(name, "T The answer is 24.") for name in "bcde"]
    first, second = stage(tmp_path / "a", *good), stage(tmp_path / "b", *bad)
    found = dialogue.compare_dialogues(first, second)
    assert (found["solved"]["difference"], found["solved"]["n"]) == (1, 3)
    assert found["told"]["difference"] == -1
    assert set(dialogue.MAIN_METRICS) < set(found)
    assert found["solved"]["p_holm"] >= found["solved"]["p"]
    other = stage(tmp_path / "c", row("z", ASKED))
    with pytest.raises(InputError, match="share no start"):
        dialogue.compare_dialogues(first, other)


def test_score_on_files_alone(tmp_path: Path) -> None:
    first = stage(tmp_path / "run", *ROWS)
    other = stage(tmp_path / "other", row("a", "T The answer is 24.", kind="cooperative", start="p"))
    words = ["eval", "dialogue", "score", str(first)]
    found = json.loads(CliRunner().invoke(app, [*words, "--against", str(other), "--json"]).stdout)
    assert found["solved"]["value"] == 0.25
    assert found["difference"]["told"]["difference"] == -1
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "left out as lost" in shown.stdout


@pytest.mark.parametrize("meta", [{}, {"turns": {"3": {"act": "probing"}}}, {"turns": {}}])
def test_dialogues_that_nobody_simulated_are_measured_whole(tmp_path: Path, meta: dict[str, Any]) -> None:
    """A corpus of people's dialogues: what `import` keeps of single turns does not say that the others are a start."""
    texts = ["How did you count?", "I added 4 and 6.", "What does each bag hold?", "6, so it is 24 nuts."]
    turns = [{"role": ("assistant", "user")[n % 2], "content": text} for n, text in enumerate(texts)]
    rows = [
        {"id": "found", "messages": turns, "problem": PROBLEM, "meta": meta},
        {
            "id": "told",
            "messages": [*turns[:2], {"role": "assistant", "content": "It is 24."}],
            "problem": PROBLEM,
        },
    ]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    scores = dialogue.score_dialogues(path)
    assert {name: scores[name]["value"] for name in ("solved", "told", "stated", "turns")} == {
        "solved": 0.5, "told": 0.5, "stated": 0.5, "turns": 3.5,
    }  # fmt: skip
    assert [at["success"]["value"] for at in scores["at"]] == [0, 0.5]
