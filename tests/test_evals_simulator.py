"""Perplexity and END: against hand-computed tables, and with a real tiny model from the command line."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from maieutic.evals import simulator
from maieutic.types import Conversation, Role


def chat(*turns: str, ended: bool = False) -> Conversation:
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=False)]
    return Conversation.model_validate({"messages": messages, "ended": ended})


def test_one_decision_at_each_human_opening() -> None:
    four = ("a", "b", "c", "d")
    assert simulator.decisions(chat(*four, ended=True), [0.1, 0.2, 0.9]) == (
        [0.1, 0.2, 0.9],
        [False, False, True],
    )
    assert simulator.decisions(chat(*four), [0.1, 0.2, 0.9]) == ([0.1, 0.2], [False, False]), "cut: censored"
    assert simulator.decisions(chat("a", ended=True), [0.3]) == ([0.3], [False]), (
        "ends on the human: no opening"
    )
    assert simulator.decisions(chat(*four, ended=True), [0.1, None, 0.9]) == ([0.1, 0.9], [False, True])


def test_end_scores_by_hand() -> None:
    made = [
        simulator.Decisions([0.05, 0.6, 0.95], [False, False, True]),
        simulator.Decisions([0.15, 0.4], [False, True]),
        simulator.Decisions([0.05, 0.9], [False, True]),
    ]
    found = {name: estimate.value for name, estimate in simulator.end_scores(made).items()}
    assert found["end_precision"] == pytest.approx(2 / 3)
    assert found["end_recall"] == pytest.approx(2 / 3)
    assert found["end_f1"] == pytest.approx(2 / 3)
    squares = [0.05**2, 0.6**2, 0.05**2, 0.15**2, 0.6**2, 0.05**2, 0.1**2]
    assert found["end_brier"] == pytest.approx(sum(squares) / 7)
    # bins: [.05 .05], [.15], [.4 → ended], [.6], [.95 .9 → both ended]
    assert found["end_calibration_error"] == pytest.approx((0.1 + 0.15 + 0.6 + 0.6 + 0.15) / 7)


def test_end_without_ends_or_without_predictions() -> None:
    never = simulator.end_scores([simulator.Decisions([0.1], [False]), simulator.Decisions([0.2], [False])])
    assert never["end_f1"].value is None
    assert never["end_f1"].reason == "no conversation was ended by its person"
    silent = simulator.end_scores([simulator.Decisions([0.1], [True]), simulator.Decisions([0.2], [True])])
    assert (silent["end_f1"].value, silent["end_recall"].value, silent["end_precision"].value) == (0, 0, None)
    assert simulator.end_scores([])["end_f1"].value is None


def test_perplexity_by_hand() -> None:
    found = simulator.perplexity([[math.log(0.5), math.log(0.125)], [math.log(0.25)], []])
    assert found.value == pytest.approx(4)
    assert found.n == 2
    assert found.ci == pytest.approx((4, 4)) or found.ci is None
    assert simulator.perplexity([]).value is None


class Uniform:
    """A model for which every token is one of four, and END one of ten; long conversations do not fit."""

    def logprobs(
        self, conversations: Sequence[Conversation], role: Role, *, end: bool = True
    ) -> list[list[float] | None]:
        texts = [" ".join(conversation.turns(role)).split() for conversation in conversations]
        return [None if len(words) > 9 else [math.log(0.25)] * len(words) for words in texts]

    def end_probabilities(self, conversations: Sequence[Conversation]) -> list[list[float | None]]:
        return [[0.1] * (len(conversation.messages) // 2 + 1) for conversation in conversations]

    async def close(self) -> None: ...


def test_evaluate_with_a_model() -> None:
    people = [chat("a b", "c", "d", "e", ended=True), chat("f", "g"), chat("long " * 20, "h")]
    found = simulator.evaluate(people, model=Uniform(), baseline_model=Uniform())
    assert found["perplexity_on_human_turns"]["value"] == pytest.approx(4)
    assert found["perplexity_on_human_turns"]["baseline"] == pytest.approx(4)
    assert found["perplexity_on_human_turns"]["human"] is None
    assert found["end_recall"]["value"] == 0
    assert found["first_turn_diversity"]["value"] is None
    assert found["first_turn_diversity"]["human"] is not None
    assert "1 of 3 conversations" in found["notes"][0]


def test_from_the_command_line_with_a_tiny_model(tmp_path: Path) -> None:
    from tiny import tiny_checkpoint

    checkpoint = tiny_checkpoint(tmp_path / "model")
    people = [chat(f"Why is {i} odd?", "Is it?", "I see.", "Good.", ended=i % 2 == 0) for i in range(6)]
    for name, some in (("people", people), ("written", people[:3])):
        lines = [json.dumps(conversation.row()) for conversation in some]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    arguments = [
        "simulator",
        "--people",
        "people.jsonl",
        "--simulated",
        "written.jsonl",
        "--model",
        f"hf/{checkpoint}",
    ]
    code = "import typer; from maieutic.cli import evals; app = typer.Typer(); evals.register(app); app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "eval", *arguments, "--baseline", "written.jsonl", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["perplexity_on_human_turns"]["value"] > 1
    assert found["perplexity_on_human_turns"]["n"] == 6
    assert found["end_f1"]["value"] is None, "a model without END says so"
    assert found["distinct_2"]["baseline"] == found["distinct_2"]["value"]
