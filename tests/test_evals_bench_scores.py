"""Benchmark files at their edges: rows that lack a key, one row, nothing scored; what is null says why."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from maieutic.cli import app, gather
from maieutic.core.errors import EmptyCorpus, InputError, RunConflict
from maieutic.evals import alpaca_eval, mt_bench
from maieutic.evals.benchmark_files import question_name, read_questions, refuse_fewer_rows

DATA = Path(__file__).parent / "data" / "evals"
gather()

ROW = {"question_id": 81, "model": "m", "score": 5, "turn": 1}
PAIR = {"question_id": 81, "model_1": "a", "model_2": "b", "g1_winner": "model_1", "g2_winner": "model_1", "turn": 1}  # fmt: skip


def put(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def single(tmp_path: Path, *changes: dict[str, Any], turns: int = 2) -> tuple[dict[str, Any], list[str]]:
    """The scores of model m on rows that differ from `ROW`, and the notes."""
    result = mt_bench.score_single(
        [put(tmp_path / "s.jsonl", [{**ROW, **change} for change in changes])], turns=turns
    )
    assert list(result["models"]) == ["m"]
    return result["models"]["m"], result["notes"]


def explained(shape: dict[str, Any]) -> bool:
    """Whether what is null has a reason, under its own name."""
    return all(name in shape["reasons"] for name, value in shape.items() if value is None)


def people(*words: object) -> tuple[str, str]:
    """What a person sees at 80 columns: the result, and the notes."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["eval", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_one_row_and_unscored_rows_are_null_with_a_reason(tmp_path: Path) -> None:
    one, _ = single(tmp_path, {})
    assert (one["average"], one["second_turn"], one["se"], one["ci"]) == (5, None, None, None)
    assert explained(one)
    assert one["reasons"]["ci"] == "only one unit: no interval"
    none, _ = single(tmp_path, {"score": -1}, {"score": -1, "question_id": 82})
    assert (none["average"], none["rows"], none["unscored"]) == (None, 0, 2)
    assert explained(none)
    equal, _ = single(tmp_path, *({"question_id": n} for n in range(4)))
    assert (equal["average"], equal["se"], equal["ci"]) == (5, 0, None)
    assert explained(equal)
    assert "equal" in equal["reasons"]["average_ci"]


def test_each_turn_says_on_how_many_questions_it_rests(tmp_path: Path) -> None:
    of, _ = single(tmp_path, {}, {"turn": 2, "score": 7}, {"question_id": 82}, {"question_id": 82})
    assert [of[f"{part}_questions"] for part in ("first_turn", "second_turn", "average")] == [2, 1, 2]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"question_id": None}, "question_id"),
        ({"question_id": True}, "question_id"),
        *(({"turn": turn}, "turn") for turn in ("first", None, 1.7, 0, -1, "1_0", [1])),
    ],
)
def test_a_row_that_lacks_a_key_is_left_out_and_counted(
    change: dict[str, Any], key: str, tmp_path: Path
) -> None:
    of, notes = single(tmp_path, {}, {**change, "score": 9})
    assert (of["average"], of["rows"], of["unscored"]) == (5, 1, 0)
    assert notes == [f"{tmp_path / 's.jsonl'}: 1 judgments left out: 1 without a usable {key}"]
    with pytest.raises((EmptyCorpus, InputError), match=key):
        single(tmp_path, change)


def test_a_file_without_turns_has_first_ones(tmp_path: Path) -> None:
    rows = [{key: value for key, value in ROW.items() if key != "turn"}]
    of = mt_bench.score_single([put(tmp_path / "s.jsonl", rows)])["models"]["m"]
    assert (of["first_turn"], of["second_turn"]) == (5, None)
    assert single(tmp_path, {"turn": "1"}, {"turn": 2.0})[0]["second_turn"] == 5


def test_an_id_is_one_however_it_is_written(tmp_path: Path) -> None:
    of, _ = single(tmp_path, {}, {"question_id": "81"}, {"question_id": 81.0})
    assert (of["questions"], of["duplicates"]) == (1, 2)
    questions = put(tmp_path / "q.jsonl", [{"question_id": 81.0, "category": "math", "turns": ["a"]}])
    assert read_questions(questions)[0].id == 81
    scored = mt_bench.score_single([tmp_path / "s.jsonl"], questions)
    assert scored["models"]["m"]["by_category"]["math"]["n"] == 3


@given(st.integers(-(10**12), 10**12))
def test_whole_numbers_are_named_without_a_point(id: int) -> None:
    assert question_name(id) == question_name(float(id)) == question_name(str(id)) == str(id)


@pytest.mark.parametrize("id", [None, True, "", " ", [1], {}, float("nan"), float("inf")])
def test_what_is_no_id(id: object) -> None:
    assert question_name(id) is None


def test_a_score_with_an_underscore_is_none(tmp_path: Path) -> None:
    of, _ = single(tmp_path, {}, {"score": "1_0"}, {"score": "7", "question_id": 82})
    assert (of["average"], of["unscored"]) == (6, 1)
    assert alpaca_eval.read_annotations([{"preference": "1_0e-1"}])[0].win is None


def test_pairs_with_one_row_or_only_errors_keep_their_models(tmp_path: Path) -> None:
    one = mt_bench.score_pairwise([put(tmp_path / "p.jsonl", [PAIR])])["models"]
    assert (one["a"]["win_rate"], one["a"]["win_rate_ci"]) == (1, None)
    assert all(map(explained, one.values()))
    failed = mt_bench.score_pairwise([put(tmp_path / "p.jsonl", [{**PAIR, "g1_winner": "error"}])])
    assert failed["dropped"] == 1
    assert list(failed["models"]) == ["a", "b"]
    for of in failed["models"].values():
        assert (of["win"], of["loss"], of["tie"], of["n"], of["win_rate"]) == (0, 0, 0, 0, None)
        assert explained(of)
        assert of["reasons"]["win_rate"] == "no row without an error"


def test_pairs_that_lack_a_key_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "model_2": None}, {**PAIR, "question_id": None}, {**PAIR, "turn": 1.5}]
    result = mt_bench.score_pairwise([put(tmp_path / "p.jsonl", rows)])
    assert {name: of["n"] for name, of in result["models"].items()} == {"a": 1, "b": 1}
    assert result["dropped"] == 0
    (said,) = result["notes"]
    assert said.endswith(
        "3 judgments left out: 1 without a usable model_2, 1 without a usable question_id, "
        "1 without a usable turn"
    )


def test_vicuna_pairs_are_first_turns(tmp_path: Path) -> None:
    result = mt_bench.score_pairwise([DATA / "mt_pair.jsonl"], turns=1)
    assert result["notes"] == ["4 judgments of a later turn left out"]
    assert {name: of["n"] for name, of in result["models"].items()} == {"left": 4, "right": 5, "third": 1}
    words = [
        "eval",
        "mt-bench",
        "pairwise",
        "--turns",
        "1",
        "--judgments",
        str(DATA / "mt_pair.jsonl"),
        "--json",
    ]
    assert json.loads(CliRunner().invoke(app, words).stdout) == json.loads(json.dumps(result))
    with pytest.raises(EmptyCorpus, match="first turn"):
        mt_bench.score_pairwise([put(tmp_path / "p.jsonl", [{**PAIR, "turn": 2}])], turns=1)


@pytest.mark.parametrize(
    "rows",
    [
        [{"instruction": "a", "preference": 1, "output_2": "b"}],
        [{"instruction": "a", "preference": None}],
        [{"instruction": str(n), "preference": 2, "output_2": "b"} for n in range(3)],
    ],
    ids=["one", "no preference", "equal"],
)
def test_alpaca_null_has_a_reason(rows: list[dict[str, Any]]) -> None:
    result = alpaca_eval.score_annotations(alpaca_eval.read_annotations(rows))
    assert explained(result)
    assert "win_rate" in result["reasons"]
    assert None in result.values()


def test_alpaca_rows_without_an_instruction_are_units_of_their_own(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", [{"preference": 1}, {"preference": 2}, {"preference": 2}])
    result = alpaca_eval.score_file(path)
    assert result["n"] == 3
    assert result["win_rate_ci"] is not None
    assert "3 rows without an instruction" in result["notes"][0]


@pytest.mark.parametrize("temperature", [-1, "hot", True])
def test_a_temperature_that_is_none_names_its_question(temperature: object, tmp_path: Path) -> None:
    row = {"question_id": 7, "turns": ["a"], "required_temperature": temperature}
    with pytest.raises(InputError, match="question 7 has required_temperature"):
        read_questions(put(tmp_path / "q.jsonl", [row]))


def test_a_file_never_gets_fewer_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", [ROW] * 3)
    for rows in (3, 4):
        refuse_fewer_rows(path, rows)
    with pytest.raises(RunConflict, match="holds 3 rows"):
        refuse_fewer_rows(path, 2)
    refuse_fewer_rows(tmp_path / "none", 0)


@pytest.mark.parametrize("name", ["left", "a-very-long-model-name-of-some-organisation-72b-instruct"])
def test_printed_means_have_an_interval_and_n_on_one_line(name: str, tmp_path: Path) -> None:
    for file in ("mt_single.jsonl", "mt_pair.jsonl"):
        (tmp_path / file).write_text((DATA / file).read_text().replace('"left"', f'"{name}"'))
    asked = ("--questions", DATA / "mt_questions.jsonl")
    out, notes = people("mt-bench", "score", "--judgments", tmp_path / "mt_single.jsonl", *asked)
    assert re.search(r"first turn +6\.600 +\d\.\d+ to \d\.\d+ +4\n", out)
    assert re.search(r"second turn +5\.000 +\d\.\d+ to \d\.\d+ +3\n", out)
    assert re.search(r"math +4\.900 +\d\.\d+ to \d\.\d+ +2\n", out)
    assert "(no score of a second turn)" in notes
    out, _ = people("mt-bench", "pairwise", "--judgments", tmp_path / "mt_pair.jsonl")
    assert re.search(r" 7 +win rate +0\.143 +0\.\d+ to 0\.\d+\n +adjusted +0\.429 +0\.\d+ to 0\.\d+\n", out)
    out, _ = people("vicuna-bench", "score", "--judgments", tmp_path / "mt_single.jsonl")
    assert "second turn" not in out


def test_printed_win_rates_have_n_and_nothing_is_said_of_an_interval_that_is_not_there(
    tmp_path: Path,
) -> None:
    out, _ = people("alpaca-eval", "score", "--annotations", DATA / "alpaca.json")
    assert re.search(r"discrete_win_rate +57\.143 +– +\d+\.\d+ to \d+\.\d+ +7\n", out)
    assert re.search(r"avg_length +5 +– +\d\.\d+ to \d\.\d+ +10\n", out)
    path = put(tmp_path / "a.json", [{"instruction": "a", "preference": None}])
    out, notes = people("alpaca-eval", "score", "--annotations", path)
    assert "confidence" not in out
    assert "no preference in [1, 2]" in notes
