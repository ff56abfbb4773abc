"""The `eval` commands: JSON and nothing else on standard output, people's tables, two-line errors, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maieutic.cli import app, gather
from maieutic.core.errors import MaieuticError

DATA = Path(__file__).parent / "data" / "evals"
gather()

CALLS = {
    "tutor": ["tutor", "score", f"{DATA / 'tutor_base.json'}"],
    "judge": ["judge", "score", "--pairs", f"{DATA / 'tutor_two_raters.json'}"],
    "mt-bench": ["mt-bench", "score", "--judgments", f"{DATA / 'mt_single.jsonl'}"],
    "vicuna-bench": ["vicuna-bench", "score", "--judgments", f"{DATA / 'mt_single.jsonl'}"],
    "pairwise": ["mt-bench", "pairwise", "--judgments", f"{DATA / 'mt_pair.jsonl'}"],
    "alpaca-eval": ["alpaca-eval", "score", "--annotations", f"{DATA / 'alpaca.json'}"],
    "paired": ["paired", f"{DATA / 'tutor_base.json'}", f"{DATA / 'tutor_tuned.json'}"],
    "plan": ["paired", "--difference", "0.1"],
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_json_is_one_document_and_people_get_a_table(call: list[str]) -> None:
    result = CliRunner().invoke(app, ["eval", *call, "--json"])
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), dict)
    people = CliRunner().invoke(app, ["eval", *call])
    assert people.exit_code == 0
    assert people.stdout.strip()


@pytest.mark.parametrize(
    ("call", "keys"),
    [
        ("tutor", "summary_score asks_question on_topic helpful reveals_answer n unscored"),
        ("alpaca-eval", "win_rate standard_error discrete_win_rate wins losses draws n dropped avg_length"),
        ("pairwise", "models dropped strict_ties inconsistent"),
        ("judge", "pearson spearman kendall kappa weighted_kappa alpha accuracy bias baselines"),
        ("paired", "difference ci n"),
    ],
)
def test_keys_that_stay(call: str, keys: str) -> None:
    result = json.loads(CliRunner().invoke(app, ["eval", *CALLS[call], "--json"]).stdout)
    assert set(keys.split()) <= result.keys()


def test_the_gate_exits_one(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps([{"human": i % 3, "judge": 1, "text": "?"} for i in range(9)]))
    arguments = ["eval", "judge", "score", "--pairs", str(pairs)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert CliRunner().invoke(app, [*arguments, "--gate", "--json"]).exit_code == 1


@pytest.mark.parametrize("name", ["tutor", "judge", "mt-bench", "pairwise", "alpaca-eval", "paired"])
@pytest.mark.parametrize("content", [None, "", "[]", "{", '["a"]', '[{"a": 1}]'])
def test_bad_files_are_two_lines(name: str, content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    call = [str(path) if argument.startswith(str(DATA)) else argument for argument in CALLS[name]]
    result = CliRunner().invoke(app, ["eval", *call])
    assert isinstance(result.exception, MaieuticError), result.output
    assert len(str(result.exception).splitlines()) == 2
    assert result.stdout == ""


def test_help_has_an_example_everywhere() -> None:
    for call in CALLS.values():
        words = [argument for argument in call[:2] if not argument.startswith(("-", "/"))]
        help_text = CliRunner().invoke(app, ["eval", *words, "--help"]).stdout
        assert "Example" in help_text and "maieutic eval" in help_text, words
