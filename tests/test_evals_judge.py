"""Agreement statistics against scipy and against tables worked out another way; the baselines and the gate."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.evals import agreement, judge_agreement

DATA = Path(__file__).parent / "data" / "evals"


def ratings(n: int, seed: int = 0) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    x = generator.integers(1, 6, n)
    return x.astype(float).tolist(), np.clip(x + generator.integers(-1, 3, n), 1, 5).astype(float).tolist()


def kappa_by_table(x: list[float], y: list[float], weigh: Any) -> float:
    labels = sorted({*x, *y})
    observed = np.array(
        [[sum(a == p and b == q for p, q in zip(x, y, strict=True)) for b in labels] for a in labels]
    )
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / len(x)
    cost = np.array([[weigh(a, b) for b in labels] for a in labels])
    return float(1 - (cost * observed).sum() / (cost * expected).sum())


@pytest.mark.parametrize("seed", range(3))
def test_values_equal_independent_formulas(seed: int) -> None:
    x, y = ratings(80, seed)
    found = {name: estimate.value for name, estimate in agreement.agreement(x, y).items()}
    assert found["pearson"] == pytest.approx(reference.pearsonr(x, y).statistic, abs=1e-9)
    assert found["spearman"] == pytest.approx(reference.spearmanr(x, y).statistic, abs=1e-9)
    assert found["kendall"] == pytest.approx(reference.kendalltau(x, y).statistic, abs=1e-9)
    assert found["kappa"] == pytest.approx(kappa_by_table(x, y, lambda a, b: float(a != b)), abs=1e-9)
    assert found["weighted_kappa"] == pytest.approx(kappa_by_table(x, y, lambda a, b: (a - b) ** 2), abs=1e-9)
    assert found["accuracy"] == pytest.approx(np.mean(np.array(x) == np.array(y)))
    assert found["bias"] == pytest.approx(np.mean(y) - np.mean(x), abs=1e-9)


def test_krippendorff_on_a_published_table() -> None:
    """Three coders, fifteen units, many gaps: interval alpha .811 (the worked example of the Wikipedia article)."""
    _ = None
    coders = [
        [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
        [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
        [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
    ]
    found = agreement.krippendorff([list(unit) for unit in zip(*coders, strict=True)])
    assert found.value == pytest.approx(0.811, abs=5e-4)
    assert found.ci is not None
    assert found.ci[0] < 0.811 < found.ci[1]


def test_interval_is_the_plain_loop() -> None:
    x, y = ratings(60)
    generator = np.random.default_rng(5)
    draws = [
        reference.spearmanr(*np.array([x, y])[:, generator.integers(0, 60, 60)]).statistic
        for _ in range(1500)
    ]
    found = agreement.agreement(x, y)["spearman"].ci
    assert found == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=0, max_size=12))
def test_no_input_breaks_it(pairs: list[tuple[int, int]]) -> None:
    found = agreement.agreement([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    for name, estimate in found.items():
        assert estimate.value is not None or estimate.reason, name
        assert estimate.ci is not None or estimate.reason, name
        if estimate.value is not None and name not in ("bias", "alpha", "weighted_kappa"):
            assert -1 <= estimate.value <= 1


def rows(judge_of: Any, n: int = 120) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    result = []
    for _ in range(n):
        human = float(generator.integers(1, 6))
        asks = generator.random() < human / 8
        text = "word " * int(generator.integers(1, 9)) + ("?" if asks else ".")
        result.append({"human": human, "judge": judge_of(human, asks, generator), "text": text})
    return result


def score(tmp_path: Path, table: list[dict[str, Any]]) -> dict[str, Any]:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(table))
    return judge_agreement.score_judge(path)


def test_a_good_judge_passes_the_gate(tmp_path: Path) -> None:
    table = rows(lambda human, asks, g: human + float(g.integers(-1, 2)))
    result = score(tmp_path, table)
    mark = reference.pearsonr([r["human"] for r in table], ["?" in r["text"] for r in table]).statistic
    assert result["gate"]["passed"]
    assert result["baselines"]["question_mark"]["pearson"]["value"] == pytest.approx(mark, abs=1e-9)
    assert result["baselines"]["question_mark"]["accuracy"]["value"] is None
    assert result["baselines"]["constant"]["pearson"]["value"] is None
    assert result["baselines"]["constant"]["pearson"]["reason"]
    assert result["baselines"]["constant"]["accuracy"]["value"] > 0


@pytest.mark.parametrize(
    "of",
    [
        lambda human, asks, g: float(g.integers(1, 6)),
        lambda human, asks, g: float(asks),
        lambda human, asks, g: 3.0,
        lambda human, asks, g: 6 - human,
    ],
    ids=["noise", "question mark", "constant", "upside down"],
)
def test_a_bad_judge_does_not(tmp_path: Path, of: Any) -> None:
    assert not score(tmp_path, rows(of))["gate"]["passed"]


def test_without_texts_there_is_no_question_mark(tmp_path: Path) -> None:
    table = [{"human": row["human"], "judge": row["judge"]} for row in rows(lambda human, asks, g: human)]
    result = score(tmp_path, [*table, {"human": 3, "judge": None}, {"human": "unclear", "judge": 2}])
    assert result["baselines"]["question_mark"]["pearson"] == {
        "value": None, "ci": None, "n": 120, "reason": "the rows have no `text`",
    }  # fmt: skip
    assert (result["n"], result["unscored"], result["pearson"]["value"]) == (120, 2, pytest.approx(1))


def test_yes_and_no_are_numbers(tmp_path: Path) -> None:
    pairs = [("yes", True), ("no", "No."), ("yes", 1), ("no", "yes")]
    result = score(tmp_path, [{"human": h, "judge": j, "text": "?" if h == "yes" else ""} for h, j in pairs])
    assert result["accuracy"]["value"] == 0.75
    assert result["kappa"]["value"] == pytest.approx(0.5)
    assert result["baselines"]["question_mark"]["accuracy"]["value"] == 1


def test_several_people(tmp_path: Path) -> None:
    table = [{"human": [1, 2], "judge": 1}, {"human": [4, 4], "judge": 5}, {"human": [3, None], "judge": 3}]
    result = score(tmp_path, table)
    assert result["pearson"]["value"] == pytest.approx(reference.pearsonr([1.5, 4, 3], [1, 5, 3]).statistic)
    assert result["alpha_people"]["value"] == pytest.approx(1 - 0.5 / (2 * np.var([1, 2, 4, 4], ddof=1)))
    assert result["alpha"]["n"] == 3


def test_socratic_llms_two_raters() -> None:
    result = judge_agreement.score_judge(DATA / "tutor_two_raters.json")
    assert (result["n"], result["unscored"]) == (3, 1)
    assert result["pearson"]["value"] == pytest.approx(
        reference.pearsonr([0.95, 0.25, 0.65], [1.0, 0.3, 0.85]).statistic, abs=1e-9
    )
    assert result["criteria"]["asks_question"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert result["criteria"]["reveals_answer"]["kappa"]["value"] == pytest.approx(1)


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"keys of the rows are a\b"):
        score(tmp_path, [{"a": 1}])
    nobody = score(tmp_path, [{"human": None, "judge": 1}])
    assert (nobody["n"], nobody["pearson"]["value"], nobody["gate"]["passed"]) == (0, None, False)


def test_real_human_scores_against_a_question_mark(real_data: Path, tmp_path: Path) -> None:
    source = json.loads((real_data / "socratic-llm" / "mathdial_human_eval_dev.json").read_text())
    result = score(
        tmp_path,
        [{"human": r["score"], "judge": float("?" in r["output"]), "text": r["output"]} for r in source],
    )
    expected = reference.pearsonr(
        [r["score"] for r in source], ["?" in r["output"] for r in source]
    ).statistic
    assert result["pearson"]["value"] == pytest.approx(expected, abs=1e-9)
    assert result["pearson"] == result["baselines"]["question_mark"]["pearson"]
    assert not result["gate"]["passed"]


def test_pearson_difference_is_paired() -> None:
    x, y = ratings(100)
    same = agreement.pearson_difference(x, y, y)
    assert (same.value, same.reason) == (pytest.approx(0, abs=1e-12), stats.NO_SPREAD)


@pytest.mark.parametrize(
    "table",
    [
        [{"human": 0, "judge": 0, "text": "aa"}, {"human": 1, "judge": 1, "text": "b"}],
        [{"human": 0, "judge": 0, "text": "aa"}, {"human": 1, "judge": 1, "text": "b"}] * 2,
        [{"human": 1, "judge": 1, "text": "a"}],
    ],
)
def test_no_interval_is_no_proof(tmp_path: Path, table: list[dict[str, Any]]) -> None:
    assert not score(tmp_path, table)["gate"]["passed"]


def test_a_perfect_judge_passes_though_its_correlation_has_no_spread(tmp_path: Path) -> None:
    result = score(tmp_path, [{"human": n, "judge": n, "text": "a" * (10 - n)} for n in range(10)])
    assert result["pearson"]["reason"] == stats.NO_SPREAD
    assert result["gate"]["passed"]


def test_rows_without_a_text_switch_no_baseline_off(tmp_path: Path) -> None:
    table = rows(lambda human, asks, g: float(asks))
    del table[0]["text"]
    result = score(tmp_path, table)
    assert not result["gate"]["passed"]
    mark = result["baselines"]["question_mark"]["pearson"]
    assert (mark["n"], result["n"]) == (119, 120)
    assert result["gate"]["baselines"]["question_mark"]["difference"]["value"] == pytest.approx(0, abs=1e-9)
    assert "119 of 120" in result["notes"][0]


def test_with_no_text_at_all_the_gate_fails_and_says_why(tmp_path: Path) -> None:
    result = score(tmp_path, [{"human": n % 5, "judge": n % 5} for n in range(50)])
    assert not result["gate"]["passed"]
    assert "cannot be computed" in result["gate"]["reason"]
    assert "add `text`" in result["notes"][0]


def test_several_people_are_met_one_by_one_where_equality_counts(tmp_path: Path) -> None:
    table = [{"human": [4, 5], "judge": 4 + n % 2} for n in range(20)]
    result = score(tmp_path, table)
    assert result["accuracy"]["value"] == pytest.approx(0.5)
    people, judged = ratings(60, 1)
    other, _ = ratings(60, 2)
    found = agreement.against_each(list(zip(people, [None, *other[1:]], strict=True)), judged)
    each = [
        kappa_by_table(people, judged, lambda a, b: float(a != b)),
        kappa_by_table(other[1:], judged[1:], lambda a, b: float(a != b)),
    ]
    assert found["kappa"].value == pytest.approx(np.mean(each))
    assert found["kappa"].ci is not None
    assert agreement.against_each([], [])["accuracy"].value is None


def test_any_criteria_both_sides_have_are_scored(tmp_path: Path) -> None:
    table = [
        {"human": {"helpful": n % 5, "depth": n % 3, "tone": 1}, "judge": {"helpful": n % 5, "depth": n % 4}}
        for n in range(24)
    ]
    result = score(tmp_path, table)
    assert list(result["criteria"]) == ["helpful", "depth"]
    assert result["criteria"]["helpful"]["pearson"]["value"] == pytest.approx(1)
    expected = reference.pearsonr([n % 3 for n in range(24)], [n % 4 for n in range(24)]).statistic
    assert result["criteria"]["depth"]["pearson"]["value"] == pytest.approx(expected, abs=1e-9)
    assert (result["n"], result["unscored"], result["gate"]["passed"]) == (0, 24, False)
    assert "tone" in " ".join(result["notes"])


def test_criteria_beside_the_socratic_four(tmp_path: Path) -> None:
    four = {"questions": "yes", "on_topic": 5, "helpful": 4, "reveal_answer": "no"}
    table = [{"human": {**four, "depth": n}, "judge": {**four, "depth": n + 1}} for n in range(5)]
    criteria = score(tmp_path, table)["criteria"]
    assert list(criteria) == ["asks_question", "on_topic", "helpful", "reveals_answer", "depth"]
    assert (criteria["depth"]["bias"]["value"], criteria["asks_question"]["accuracy"]["value"]) == (1, 1)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 1e9), (1e-7, 0.0), (1e-3, 1e6), (1e12, 0.0)])
def test_agreement_is_free_of_scale_and_offset(scale: float, offset: float) -> None:
    x, y = ratings(80)
    plain = agreement.agreement(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = agreement.agreement([offset + scale * v for v in x], [offset + scale * v for v in y])
        gap = agreement.pearson_difference([offset + scale * v for v in x], y, x[::-1])
    for name in (*agreement.CORRELATIONS, "weighted_kappa", "alpha"):
        assert moved[name].value == pytest.approx(plain[name].value, abs=1e-5), name
        assert moved[name].ci == pytest.approx(plain[name].ci, abs=1e-3), name
    assert gap.value == pytest.approx(agreement.pearson_difference(x, y, x[::-1]).value, abs=1e-6)


def test_absurd_ratings_are_unscored(tmp_path: Path) -> None:
    table = [{"human": 10**400, "judge": 1}, {"human": 1e308, "judge": -1e308}, {"human": 1, "judge": 1}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    result = judge_agreement.score_judge(path)
    assert (result["n"], result["unscored"]) == (1, 2)
