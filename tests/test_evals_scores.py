"""Recorded verdicts, scored: every expected number is worked out by hand from the fixture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from maieutic.core.errors import EmptyCorpus, InputError, MissingInput
from maieutic.evals import alpaca_eval, files, mt_bench, paired, tutor

DATA = Path(__file__).parent / "data" / "evals"
close = lambda value: pytest.approx(value, abs=1e-9)  # noqa: E731


def test_tutor_file() -> None:
    result = tutor.score_tutor(DATA / "tutor_base.json")
    assert {name: result[name] for name in ("summary_score", *tutor.CRITERIA)} == close(
        {"summary_score": 0.6, "asks_question": 0.5, "on_topic": 0.9, "helpful": 0.5, "reveals_answer": 0.5}
    )
    assert (result["n"], result["unscored"], result["notes"]) == (4, 3, [])
    low, high = result["summary_score_ci"]
    assert low < 0.6 < high


def test_tutor_reads_every_candidate_of_a_dpo_file() -> None:
    result = tutor.score_tutor(DATA / "tutor_dpo.json")
    assert result["summary_score"] == close((1 + 0.3) / 2)
    assert (result["n"], result["unscored"]) == (2, 1)
    assert result["summary_score_ci"] is None, "one prompt is one unit"
    assert "summary_score" in result["reasons"]


def test_tutor_asks_which_of_two_raters() -> None:
    with pytest.raises(InputError, match="gpt4o, human"):
        tutor.score_tutor(DATA / "tutor_two_raters.json")
    assert tutor.score_tutor(DATA / "tutor_two_raters.json", "human")["summary_score"] == close(
        (0.95 + 0.25 + 0.65 + 0.65) / 4
    )
    assert tutor.score_tutor(DATA / "tutor_two_raters.json", "gpt4o")["unscored"] == 1
    with pytest.raises(InputError, match="nobody"):
        tutor.score_tutor(DATA / "tutor_two_raters.json", "nobody")


def test_tutor_warns_of_a_recorded_score_that_is_another() -> None:
    rows = json.loads((DATA / "tutor_base.json").read_text())
    rows[0]["score"] = 0.5
    result = tutor.score_replies(tutor.judged_replies(rows))
    assert result["summary_score"] == close(0.6)
    assert "1 rows" in result["notes"][0]


def test_tutor_scores_a_judge_stage(tmp_path: Path) -> None:
    values = {"questions": 1.0, "on_topic": 5, "helpful": 4, "reveal_answer": 0.0}
    rows = [
        {
            "key": "1", "id": "a", "candidates": [{"text": "Why?"}, {"text": "4"}, {"text": "…"}],
            "verdicts": [{"judge": "m", "values": values, "raw": "", "error": None},
                         {"judge": "m", "values": {**values, "questions": 0.0}, "raw": "", "error": None},
                         {"judge": "m", "values": {}, "raw": "?", "error": "no verdict"}],
            "scores": [0.95, 0.7, None],
        }
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = tutor.score_tutor(tmp_path)
    assert result["summary_score"] == close(0.825)
    assert (result["n"], result["unscored"], result["asks_question"]) == (2, 1, 0.5)


def test_averaged_verdicts_are_scored() -> None:
    values = {"asks_question": 0.5, "on_topic": 4.5, "helpful": 3.0, "reveals_answer": 0.25}
    rows = [
        {"key": str(i), "verdicts": [{"values": values, "error": None}], "scores": [None]} for i in range(2)
    ]
    result = tutor.score_replies(tutor.judged_replies(rows))
    assert (result["n"], result["asks_question"], result["reveals_answer"]) == (2, 0.5, 0.25)
    assert result["summary_score"] == close(0.25 * (0.5 + 0.75 + 0.9 + 0.6))


def test_tutor_of_another_rubric_uses_its_own_scores() -> None:
    rows = [
        {"key": str(i), "verdicts": [{"values": {"depth": depth}, "error": None}], "scores": [depth / 10]}
        for i, depth in enumerate((2.0, 6.0))
    ]
    result = tutor.score_replies(tutor.judged_replies(rows))
    assert result["summary_score"] == close(0.4)
    assert result["asks_question"] is None
    assert result["criteria"]["depth"]["value"] == close(4)


def test_tutor_on_people() -> None:
    nobody = tutor.score_replies(tutor.judged_replies([{"prompt": "a", "evaluation": None}]))
    assert (nobody["summary_score"], nobody["n"], nobody["unscored"]) == (None, 0, 1)


def test_tutor_on_real_human_scores(real_data: Path) -> None:
    path = real_data / "socratic-llm" / "mathdial_human_eval_dev.json"
    rows = json.loads(path.read_text())
    result = tutor.score_tutor(path)
    assert result["summary_score"] == close(math.fsum(row["score"] for row in rows) / len(rows))
    assert result["asks_question"] == sum(row["evaluation"]["questions"] == "yes" for row in rows) / len(rows)
    assert (result["n"], result["unscored"], result["notes"]) == (len(rows), 0, [])


def test_mt_bench_single() -> None:
    result = mt_bench.score_single([DATA / "mt_single.jsonl"], DATA / "mt_questions.jsonl")
    left, right = result["models"]["left"], result["models"]["right"]
    assert [left[name] for name in ("first_turn", "second_turn", "average")] == close([6.6, 5.0, 6.0])
    assert [left[name] for name in ("rows", "unscored", "duplicates")] == [8, 2, 1]
    assert left["se"] == close(math.sqrt((0.625**2 + 2.375**2 + 2.625**2 + 0.375**2) / 3 / 4))
    assert left["ci"][0] < 6 < left["ci"][1]
    math_only = {name: left["by_category"]["math"][name] for name in ("first_turn", "second_turn", "average")}
    assert math_only == close({"first_turn": 16 / 3, "second_turn": 4.25, "average": 4.9})
    assert left["by_category"]["writing"]["average"] == close(23.5 / 3)
    assert (right["first_turn"], right["second_turn"], right["average"]) == (10, None, 10)
    assert (right["rows"], right["unscored"], right["se"], right["ci"]) == (1, 2, None, None)
    assert "1 judged questions" in result["notes"][0]


def test_mt_bench_without_questions_has_no_categories() -> None:
    result = mt_bench.score_single([DATA / "mt_single.jsonl"])
    assert result["models"]["left"]["by_category"] == {}


def test_vicuna_bench_is_the_first_turn() -> None:
    left = mt_bench.score_single([DATA / "mt_single.jsonl"], turns=1)["models"]["left"]
    assert (left["first_turn"], left["second_turn"], left["average"]) == (close(6.6), None, close(6.6))
    assert (left["rows"], left["unscored"], left["duplicates"]) == (5, 1, 1)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("[[7]]", 7),
        ("[3] then [[8.5]]", 8.5),
        ("[4.]", 4),
        ("[[10]] or [[2]]", 10),
        ("seven", None),
        (None, None),
    ],
)
def test_verdict(text: str | None, score: float | None) -> None:
    row = {"question_id": 1, "model": "m", "turn": 1, "judgment": text}
    assert mt_bench.read_grades([row])[0].score == score


def test_mt_bench_pairs() -> None:
    result = mt_bench.score_pairwise([DATA / "mt_pair.jsonl"])
    counts = {name: (m["win"], m["loss"], m["tie"]) for name, m in result["models"].items()}
    assert counts == {"left": (1, 2, 4), "right": (2, 2, 4), "third": (1, 0, 0)}
    assert (result["dropped"], result["strict_ties"], result["inconsistent"]) == (2, 1, 3)
    left = result["models"]["left"]
    assert (left["win_rate"], left["adjusted_win_rate"]) == close((1 / 7, 3 / 7))
    assert set(mt_bench.score_pairwise([DATA / "mt_pair.jsonl"], "third")["models"]) == {"right"}
    with pytest.raises(InputError, match="nobody"):
        mt_bench.score_pairwise([DATA / "mt_pair.jsonl"], "nobody")


def test_pairs_without_recorded_winners_are_read_from_the_judgments() -> None:
    row = {
        "question_id": 1,
        "model_1": "a",
        "model_2": "b",
        "g1_judgment": "so [[A]]",
        "g2_judgment": "so [[B]]",
    }
    assert mt_bench.read_matches([row])[0].winner == "model_1"
    assert mt_bench.read_matches([{**row, "g2_judgment": "none"}])[0].second is None


def test_each_kind_of_judgment_refuses_the_other() -> None:
    with pytest.raises(InputError, match="no single-answer"):
        mt_bench.score_single([DATA / "mt_pair.jsonl"])
    with pytest.raises(InputError, match="no pairwise"):
        mt_bench.score_pairwise([DATA / "mt_single.jsonl"])


def test_alpaca_eval() -> None:
    result = alpaca_eval.score_file(DATA / "alpaca.json")
    wins = [1, 0, 0.5, 0.5, 0.9, 0.2, 0.5000001]
    mean = sum(wins) / 7
    error = math.sqrt(sum((win - mean) ** 2 for win in wins) / 6 / 7)
    assert result["win_rate"] == close(100 * mean)
    assert result["standard_error"] == close(100 * error)
    assert result["discrete_win_rate"] == close(400 / 7)
    assert [result[name] for name in ("wins", "losses", "draws", "n", "dropped", "avg_length")] == [
        3,
        2,
        2,
        7,
        3,
        5,
    ]


def test_alpaca_eval_with_nothing_left() -> None:
    result = alpaca_eval.score_annotations(alpaca_eval.read_annotations([{"preference": None}]))
    assert (result["win_rate"], result["standard_error"], result["n"], result["avg_length"]) == (
        None,
        None,
        0,
        None,
    )


def test_paired_tutors() -> None:
    result = paired.compare_files(DATA / "tutor_tuned.json", DATA / "tutor_base.json")
    assert result["difference"] == close(((1 - 0.95) + (0.95 - 0.35) + 0 + (0.95 - 0.25)) / 4)
    assert (result["n"], result["only_a"], result["only_b"], result["unscored_b"]) == (4, 1, 0, 3)
    assert result["ci"][0] <= result["difference"] <= result["ci"][1]
    assert result["metrics"]["reveals_answer"]["difference"] == close(-0.5)
    assert all(metric["p_holm"] >= metric["p"] for metric in result["metrics"].values())


def test_paired_annotations_and_judgments(tmp_path: Path) -> None:
    result = paired.compare_files(DATA / "alpaca.json", DATA / "alpaca_other.json")
    assert (result["difference"], result["n"]) == (close(20), 5)
    both = DATA / "mt_single.jsonl"
    with pytest.raises(InputError, match="2 models"):
        paired.compare_files(both, both)
    one = paired.compare_files(both, both, "left", "right")
    assert (one["difference"], one["n"], one["ci"]) == (-2, 1, None)
    with pytest.raises(InputError, match="AlpacaEval"):
        paired.compare_files(both, DATA / "alpaca.json", "left")


def test_swapping_the_files_swaps_the_sign() -> None:
    there = paired.compare_files(DATA / "tutor_tuned.json", DATA / "tutor_base.json")
    back = paired.compare_files(DATA / "tutor_base.json", DATA / "tutor_tuned.json")
    assert there["difference"] == close(-back["difference"])


def test_files_of_any_form(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with pytest.raises(MissingInput):
        files.read_table(path)
    for empty in ("", "  \n", "[]"):
        path.write_text(empty)
        with pytest.raises(EmptyCorpus):
            files.read_table(path)
    for wrong in ("[1, 2]", "[{", "no json", '["a prompt"]'):
        path.write_text(wrong)
        with pytest.raises(InputError):
            files.read_table(path)
    path.write_text('{"a": 1}\n{broken\n\n{"a": NaN}\n')
    table = files.read_table(path)
    assert len(table.rows) == 2
    assert "f:2" in table.notes[0]
    path.write_bytes(b'\xef\xbb\xbf[{"a": "\\ud800"}]')
    assert len(files.read_table(path).rows) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Yes.", 1), (" no ", 0), (True, 1), (0, 0), (1.0, 1), ("**Yes**", 1), ("maybe", None), (None, None), (2, None),
     ("", None), ([1], None)],
)  # fmt: skip
def test_yes_no(value: object, expected: float | None) -> None:
    assert files.parse_yes_no(value) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"all_evaluations": ["x"]},
        {"all_evaluations": {"a": 1}},
        {"all_evaluations": 5},
        {"verdicts": 5},
        {"verdicts": ["x"]},
        {"verdicts": [{"values": [1]}]},
        {"verdicts": [{"values": {"a": 1}}], "scores": 3},
        {"verdicts": [], "candidates": 2},
    ],
)
def test_tutor_refuses_rows_of_another_shape(row: dict[str, object]) -> None:
    with pytest.raises(InputError, match="row 2"):
        tutor.judged_replies([{"prompt": "p", "evaluation": None}, row])


FOUR = {"questions": "Yes", "on_topic": 5, "helpful": 4, "reveal_answer": "No"}


def test_the_shape_is_told_by_any_row() -> None:
    judged = tutor.judged_replies([{"prompt": "a"}, {"prompt": "b", "evaluation": FOUR}])
    assert [reply.values is None for reply in judged] == [True, False]
    with pytest.raises(InputError, match="raters .alice, bob"):
        tutor.judged_replies([{"prompt": "a"}, {"prompt": "b", "alice": FOUR, "bob": FOUR}])


def test_rows_that_name_no_prompt_are_units_of_their_own() -> None:
    low = {**FOUR, "helpful": 1}
    judged = tutor.judged_replies(
        [{"evaluation": FOUR}, {"evaluation": low}, {"all_evaluations": [{"evaluation": low}] * 2}]
    )
    assert [reply.group for reply in judged] == ["row 1", "row 2", "row 3", "row 3"]
    result = tutor.score_replies(judged)
    assert result["summary_score_ci"] is not None
    assert "3 rows have no `prompt`" in result["notes"][0]


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_paired_refuses_rows_without_their_key(tmp_path: Path) -> None:
    for row, key in (({"evaluation": FOUR}, "prompt"), ({"preference": 1}, "instruction")):
        path = write(tmp_path / "rows.jsonl", row, row)
        with pytest.raises(InputError, match=f"2 rows have no `{key}`"):
            paired.compare_files(path, path)


def test_paired_takes_the_criteria_both_sides_have(tmp_path: Path) -> None:
    def row(id: str, values: dict[str, float]) -> dict[str, object]:
        return {"id": id, "verdicts": [{"values": values}], "scores": [0.5]}

    a = write(tmp_path / "a", row("1", {"x": 1, "y": 2}), row("1", {"x": 3}), row("2", {"x": 4, "y": 2}))
    b = write(tmp_path / "b", row("1", {"x": 1, "z": 1}), row("2", {"x": 1, "y": 1}))
    result = paired.compare_files(a, b)
    assert {name: m["n"] for name, m in result["metrics"].items()} == {"summary_score": 2, "x": 2, "y": 1}
    assert result["metrics"]["x"]["difference"] == close((1 + 3) / 2)
    said = " ".join(result["notes"])
    assert "'y' is left out of 1 items" in said
    assert "'y' is compared on 1 of 2" in said
    assert "'z' is compared on 0 of 2" in said


def test_hostile_json(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for deep in ("[" * 200_000 + "]" * 200_000, '{"a":' * 200_000 + "1" + "}" * 200_000):
        path.write_text(deep)
        with pytest.raises(InputError):
            files.read_table(path)
    path.write_text('{"model \\ud800": ["\\udfff", {"a": NaN}]}')
    (row,) = files.read_table(path).rows
    assert list(row) == ["model \ufffd"]
    assert row["model \ufffd"][0] == "\ufffd"


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e308, "1e400", 1e16, float("nan"), True, None, [1]])
def test_no_number(value: object) -> None:
    assert files.parse_number(value) is None
