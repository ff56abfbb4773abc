"""`maieutic demo` end to end, much smaller: each stage runs, the summary has its shape, a second call finds it done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from maieutic.cli.demo import Demo, DemoResult

SMALL = {
    "dialogues": [60, 6, 8],
    "lessons": [12, 4, 6],
    "starts": 3,
    "free-talks": 2,
    "hidden": 32,
    "base_steps": 60,
    "epochs": 1,
    "tutor_epochs": 1,
    "min_chosen": 0.4,
    "tokens": 16,
    "failures": 0.9,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    import torch

    torch.set_num_threads(1)
    return Demo(seed=3, set=SMALL).run(tmp_path_factory.mktemp("demo") / "run")


def _estimates(part: dict[str, dict[str, Any]], keys: set[str]) -> None:
    for row in part.values():
        assert row.keys() == keys
        assert row["n"] is None or row["n"] >= 0
        assert row["ci"] is None or row["ci"][0] <= row["ci"][1]


def test_the_summary_has_its_shape(run: DemoResult) -> None:
    found = orjson.loads(run.summary.read_bytes())
    assert found == orjson.loads(orjson.dumps(run.json()))
    assert {stage["name"] for stage in found["stages"]} == set(run.stages)
    assert all(stage["seconds"] >= 0 for stage in found["stages"]) and found["seconds"] > 0
    assert list(found["simulator"]) == [
        *("perplexity_on_human_turns", "end_f1", "first_turn_diversity", "distinct_2", "repeats_rate")
    ]
    criteria = ["asks_question", "reveals_answer", "takes_up", "misjudges", "summary_score"]
    assert list(found["tutor"]) == criteria
    assert list(found["probes"]) == ["question-only", "sycophant", "never-ending", "repeater"]
    for row in found["probes"].values():
        assert list(row) == [*criteria, "difference", "ci", "n"]
        gap = found["tutor"]["summary_score"]["tuned"] - row["summary_score"]
        assert row["difference"] == pytest.approx(gap)
    assert list(found["dialogue"]) == ["solved", "told", "turns"]
    _estimates(found["simulator"], {"value", "ci", "n", "human", "baseline"})
    for part in ("tutor", "dialogue"):
        _estimates(found[part], {"base", "tuned", "difference", "ci", "n"})
        for row in found[part].values():
            assert row["difference"] == pytest.approx(row["tuned"] - row["base"])
            assert 0 < row["n"] <= 6  # an untrained student may fail to say anything


def test_the_last_line_printed_is_the_summary(run: DemoResult, capsys: pytest.CaptureFixture[str]) -> None:
    run.show()
    assert capsys.readouterr().out.splitlines()[-1] == str(run.summary)


def test_a_second_call_finds_it_done(run: DemoResult) -> None:
    before = run.summary.read_bytes()
    again = Demo(seed=3, set=SMALL).run(run.folder)
    assert again.stages == run.stages
    assert orjson.loads(again.summary.read_bytes())["tutor"] == orjson.loads(before)["tutor"]


def test_the_report_lies_beside_it(run: DemoResult) -> None:
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Findings" in page and "Told against solved" in page
    assert "Baselines: tutors that must not win (socratic_checks, code)" in page
    assert "sycophant" in page and "tuned-judged minus baseline" in page
    assert {path.suffix for path in (run.folder / "figures").iterdir()} == {".png", ".svg"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_in_another_folder(run: DemoResult, tmp_path: Path) -> None:
    again = Demo(seed=3, set=SMALL).run(tmp_path / "elsewhere").json()
    assert {part: again[part] for part in ("simulator", "tutor", "probes", "dialogue")} == {
        part: run.json()[part] for part in ("simulator", "tutor", "probes", "dialogue")
    }
