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

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError, MissingInput, RenderError
from maieutic.core.messages import Conversation, Role
from maieutic.evals import likelihood, simulator


def chat(*turns: str, ended: bool = False) -> Conversation:
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=False)]
    return Conversation.model_validate({"messages": messages, "ended": ended})


def test_one_decision_at_each_human_opening() -> None:
    four = ("a", "b", "c", "d")
    assert likelihood.decisions(chat(*four, ended=True), [0.1, 0.2, 0.9]) == (
        [0.1, 0.2, 0.9],
        [False, False, True],
    )
    assert likelihood.decisions(chat(*four), [0.1, 0.2, 0.9]) == ([0.1, 0.2], [False, False]), "cut: censored"
    assert likelihood.decisions(chat("a", ended=True), [0.3]) == ([0.3], [False]), (
        "ends on the human: no opening"
    )
    assert likelihood.decisions(chat(*four, ended=True), [0.1, None, 0.9]) == ([0.1, 0.9], [False, True])


def test_end_scores_by_hand() -> None:
    made = [
        likelihood.Decisions([0.05, 0.6, 0.95], [False, False, True]),
        likelihood.Decisions([0.15, 0.4], [False, True]),
        likelihood.Decisions([0.05, 0.9], [False, True]),
    ]
    found = {name: estimate.value for name, estimate in likelihood.end_scores(made).items()}
    assert found["end_precision"] == pytest.approx(2 / 3)
    assert found["end_recall"] == pytest.approx(2 / 3)
    assert found["end_f1"] == pytest.approx(2 / 3)
    squares = [0.05**2, 0.6**2, 0.05**2, 0.15**2, 0.6**2, 0.05**2, 0.1**2]
    assert found["end_brier"] == pytest.approx(sum(squares) / 7)
    # bins: [.05 .05], [.15], [.4 → ended], [.6], [.95 .9 → both ended]
    assert found["end_calibration_error"] == pytest.approx((0.1 + 0.15 + 0.6 + 0.6 + 0.15) / 7)


def test_end_without_ends_or_without_predictions() -> None:
    never = likelihood.end_scores(
        [likelihood.Decisions([0.1], [False]), likelihood.Decisions([0.2], [False])]
    )
    assert never["end_f1"].value is None
    assert never["end_f1"].reason == "no conversation was ended by its person"
    silent = likelihood.end_scores([likelihood.Decisions([0.1], [True]), likelihood.Decisions([0.2], [True])])
    assert (silent["end_f1"].value, silent["end_recall"].value, silent["end_precision"].value) == (0, 0, None)
    assert likelihood.end_scores([])["end_f1"].value is None


def test_perplexity_by_hand() -> None:
    found = likelihood.perplexity([[math.log(0.5), math.log(0.125)], [math.log(0.25)], []])
    assert found.value == pytest.approx(4)
    assert found.n == 2
    assert found.ci == pytest.approx((4, 4)) or found.ci is None
    assert likelihood.perplexity([]).value is None


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
    found = simulator.evaluate_simulator(
        people, model=Uniform(), baselines={"base": simulator.Baseline(Uniform())}
    )
    assert found["perplexity_on_human_turns"]["value"] == pytest.approx(4)
    assert found["perplexity_on_human_turns"]["baseline"] == pytest.approx(4)
    assert found["perplexity_on_human_turns"]["human"] is None
    assert found["end_recall"]["value"] == 0
    assert found["first_turn_diversity"]["value"] is None
    assert found["first_turn_diversity"]["human"] is not None
    assert "1 of 3 conversations" in found["notes"][0]


def test_differences_are_paired() -> None:
    # losses 1·ln 2 and 2·ln 4 against 1·ln 4 and 2·ln 8: exp(5/3·ln 2) - exp(8/3·ln 2)
    own = [[math.log(1 / 2)], [math.log(1 / 4)] * 2, None]
    base = [[math.log(1 / 4)], [math.log(1 / 8)] * 2, [-1.0]]
    found = likelihood.perplexity_difference(own, base)
    assert found.value == pytest.approx(2 ** (5 / 3) - 2 ** (8 / 3))
    assert found.n == 2
    assert found.ci == pytest.approx((4 - 8, 2 - 4)), "both conversations the first, or both the second"
    assert likelihood.perplexity_difference(own, own).value == 0
    other = likelihood.perplexity_difference(own, [[-1.0], [-1.0], None])
    assert other.value is None
    assert other.reason == likelihood.OTHER_TOKENS
    assert likelihood.perplexity_difference([None], [None]).value is None


def test_end_f1_difference_by_hand() -> None:
    knows = [likelihood.Decisions([0.1, 0.9], [False, True])] * 3
    guesses = [likelihood.Decisions([0.9, 0.9], [False, True])] * 3
    found = likelihood.end_f1_difference(knows, guesses)
    assert found.value == pytest.approx(1 - 2 / 3)
    assert found.n == 3
    assert likelihood.end_f1_difference(knows, [likelihood.Decisions([], [])] * 3).value is None
    assert likelihood.end_f1_difference([], []).value is None


def test_an_intent_stands_in_the_system_turn() -> None:
    wanting = chat("a", "b").model_copy(update={"intent": "Learn {it}."})
    told = likelihood.add_intent(wanting)
    assert next((turn.role, turn.content) for turn in told.messages) == (Role.SYSTEM, "Learn {it}.")
    assert told.messages[1:] == wanting.messages
    assert likelihood.add_intent(wanting, "Be human.").messages[0].content == "Be human.\n\nLearn {it}."
    again = likelihood.add_intent(told, "ignored, for it has its own")
    assert again.messages[0].content == "Learn {it}.\n\nLearn {it}."
    assert len(again.messages) == 3


class Told(Uniform):
    """Foresees twice as well what somebody says whose intent it knows."""

    def logprobs(
        self, conversations: Sequence[Conversation], role: Role, *, end: bool = True
    ) -> list[list[float] | None]:
        rows = super().logprobs(conversations, role, end=end)
        knows = [conversation.messages[0].role == Role.SYSTEM for conversation in conversations]
        return [
            row and [one + math.log(2) * known for one in row] for row, known in zip(rows, knows, strict=True)
        ]


def test_perplexity_with_and_without_intent() -> None:
    wanting = [chat("a b", "c").model_copy(update={"intent": text}) for text in ("One.", "Two.")]
    found = simulator.evaluate_simulator(
        [*wanting, chat("d", "e")], model=Told(), baselines={"base": simulator.Baseline(Uniform())}
    )
    assert found["perplexity_on_human_turns"]["n"] == 3
    assert found["perplexity_with_intent"]["value"] == pytest.approx(2)
    assert found["perplexity_without_intent"]["value"] == pytest.approx(4)
    assert found["perplexity_with_intent"]["n"] == found["perplexity_without_intent"]["n"] == 2
    assert found["perplexity_with_intent"]["difference"]["difference"] == pytest.approx(-2)
    assert found["perplexity_on_human_turns"]["difference"] == {
        "difference": 0,
        "ci": None,
        "n": 3,
        "reason": stats.NO_SPREAD,
    }
    without = simulator.evaluate_simulator([chat("d", "e")], model=Told())
    assert without["perplexity_with_intent"]["value"] is None
    assert without["perplexity_with_intent"]["reason"] == likelihood.NO_INTENT
    assert "difference" not in without["perplexity_on_human_turns"]


def test_a_template_without_a_system_turn_cannot_be_told_an_intent() -> None:
    class Deaf(Uniform):
        def logprobs(
            self, conversations: Sequence[Conversation], role: Role, *, end: bool = True
        ) -> list[list[float] | None]:
            if any(turn.role == Role.SYSTEM for one in conversations for turn in one.messages):
                raise RenderError("no system turn here", "Use another template.")
            return super().logprobs(conversations, role, end=end)

    wanting = [chat("a b", "c").model_copy(update={"intent": "Learn."})] * 2
    found = simulator.evaluate_simulator(wanting, model=Deaf())
    assert found["perplexity_on_human_turns"]["value"] == pytest.approx(4)
    assert found["perplexity_with_intent"]["value"] is None
    assert "no system turn here" in found["perplexity_with_intent"]["reason"]


def test_baselines_have_names(tmp_path: Path) -> None:
    for name in ("talk", "a=b"):
        (tmp_path / name).write_text(json.dumps(chat("x", "y").row()))
    talk, odd = str(tmp_path / "talk"), str(tmp_path / "a=b")
    assert simulator.parse_baselines(["hf/base", talk]) == {"baseline": ("hf/base", talk)}
    found = simulator.parse_baselines([f"prompted={talk}", "base=hf/base", "prompted=http://host/v1#m=n"])
    assert found == {"prompted": ("http://host/v1#m=n", talk), "base": ("hf/base", None)}
    assert simulator.parse_baselines([odd]) == {"baseline": (None, odd)}, "a path with = in it"
    assert simulator.parse_baselines(["http://host/v1#m=n"]) == {"baseline": ("http://host/v1#m=n", None)}
    with pytest.raises(InputError, match="two corpora"):
        simulator.parse_baselines([talk, odd])
    with pytest.raises(MissingInput, match="nowhere"):
        simulator.parse_baselines(["base=nowhere"])


@pytest.mark.slow
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
    code = "from maieutic.cli import app, gather; gather(); app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "eval", *arguments, "--baseline", "written.jsonl", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["perplexity_on_human_turns"]["value"] > 1
    assert found["perplexity_on_human_turns"]["n"] == 6
    assert found["end_f1"]["value"] is None, "a model without END says so"
    assert found["distinct_2"]["baseline"] == found["distinct_2"]["value"]
