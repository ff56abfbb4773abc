"""Held-out people after each epoch: what is measured, what is kept, when it stops, and all of it after SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import Job, sft_job
from safetensors.torch import load_file
from tiny import tiny_checkpoint
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from maieutic.chat_templates.turns import Decisions
from maieutic.core.errors import InputError, MissingExtra, ModelError
from maieutic.core.messages import Conversation
from maieutic.core.store import Stage, stage_rows
from maieutic.core.words import pairwise_diversity
from maieutic.data.corpus import write_corpus
from maieutic.evals.likelihood import end_scores, score_likelihood
from maieutic.models import load
from maieutic.train.loop import draw_loss_curve, trackers
from maieutic.train.validation import best_of, end_f1, stale

torch.set_num_threads(1)
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from maieutic.train.steps import TrainSft
TrainSft.model_validate_json(sys.argv[1]).run(sys.argv[2])
"""


def talk(number: int, ended: bool) -> Conversation:
    messages = [
        {"role": "user", "content": f"What is {number} and {number}?"},
        {"role": "assistant", "content": "Count them. " * (number % 3 + 1)},
        {"role": "user", "content": f"It is {2 * number}."},
        {"role": "assistant", "content": "Yes."},
    ]
    more = {"intent": f"add {number}"} if number % 2 else {}
    return Conversation.model_validate({"messages": messages, "ended": ended, **more})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that gets worse on held-out people: few rows, a high rate, and other numbers held out."""
    folder = tmp_path_factory.mktemp("held-out")
    write_corpus(folder / "train.jsonl", [talk(number, number != 3) for number in range(7)])
    write_corpus(folder / "people.jsonl", [talk(number, number % 2 == 0) for number in range(40, 46)])
    return sft_job(
        model=str(tiny_checkpoint(folder / "base", context=256)),
        data=folder / "train.jsonl",
        validation=folder / "people.jsonl",
        out=folder / "whole",
        role="user",
        batch_size=2,
        epochs=30,
        learning_rate=1e-2,
        save_steps=3,
        early_stopping=3,
        condition={"none": 0.5, "intent": 0.25, "round": 0.25},
    )


@pytest.fixture(scope="module")
def whole(settings: Job) -> dict[str, Any]:
    return settings.run().metrics


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [row for row in stage_rows(folder) if "eval_loss" in row]


def test_it_stops_and_keeps_the_best(settings: Job, whole: dict[str, Any]) -> None:
    rows = evaluations(settings.out)
    best = min(rows, key=lambda row: row["eval_loss"])
    assert [row["step"] for row in rows] == [4 * epoch for epoch in range(1, len(rows) + 1)]
    assert len(rows) < 30 and rows[-4] == best, "three evaluations after the best, and no more"
    assert (whole["best_step"], whole["best_epoch"]) == (best["step"], best["epoch"])
    assert whole["steps"] == rows[-1]["step"] and whole["eval_loss"] == best["eval_loss"]
    assert whole["eval_loss"] < rows[-1]["eval_loss"] - 0.01
    kept = load_file(settings.out / "checkpoints" / f"checkpoint-{best['step']}" / "model.safetensors")
    written = load_file(settings.out / "model" / "model.safetensors")
    assert all(torch.equal(written[name], kept[name]) for name in written)


def test_what_is_measured_is_what_eval_simulator_measures(settings: Job, whole: dict[str, Any]) -> None:
    """On rows that are told nothing; the model in training and the one written are the same."""
    plain = settings.but(
        out=settings.out.parent / "plain",
        condition=None,
        epochs=12.0,
        early_stopping=None,
    )
    manifest = plain.run().metrics
    from maieutic.data.corpus import read_corpus

    people = list(read_corpus(settings.step.validation))  # type: ignore[arg-type]
    scores = score_likelihood(load(f"hf/{plain.out}"), people).scores
    assert manifest["eval_end_f1"] == pytest.approx(scores["end_f1"].value, abs=1e-6)
    assert manifest["eval_end_f1"] > 0.3
    assert manifest["people_first_turn_diversity"] == pytest.approx(
        pairwise_diversity([one.messages[0].content for one in people]).value
    )
    row = next(row for row in stage_rows(plain.out) if row.get("eval_end_f1") == manifest["eval_end_f1"])
    assert 0 <= row["eval_first_turn_diversity"] <= 100
    assert manifest["eval_perplexity"] == pytest.approx(torch.tensor(manifest["eval_loss"]).exp().item())


@pytest.mark.slow
def test_adapters_are_measured_and_the_best_of_them_kept(settings: Job, tmp_path: Path) -> None:
    small = settings.but(
        out=tmp_path,
        lora_r=4,
        learning_rate=3e-2,
        early_stopping=2,
        precision="bfloat16",
    )
    manifest = small.run().metrics
    rows = evaluations(tmp_path)
    assert manifest["best_step"] == best_of(rows)["step"] < manifest["steps"]
    assert "eval_end_f1" in manifest
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    kept = load_file(
        tmp_path / "checkpoints" / f"checkpoint-{manifest['best_step']}" / "adapter_model.safetensors"
    )
    assert all(torch.equal(adapter[name], kept[name]) for name in adapter)


def killed(settings: Job, ready: Any) -> None:
    """Run in a process of its own and kill it once `ready` says so."""
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *settings.words()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    limit = time.monotonic() + 200
    while not ready():
        assert run.poll() is None, run.communicate()[1].decode()
        assert time.monotonic() < limit
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not (settings.out / "manifest.json").exists()


def same(settings: Job, out: Path, expected: dict[str, Any]) -> None:
    result = settings.but(out=out).run()
    for name in ("final_loss", "loss", "eval_loss", "eval_end_f1", "eval_first_turn_diversity"):
        assert result.metrics[name] == pytest.approx(expected[name], abs=1e-3), name
    assert (result.metrics["steps"], result.metrics["best_step"]) == (
        expected["steps"],
        expected["best_step"],
    )
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (out, settings.out))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


@pytest.mark.parametrize(
    "moment",
    [
        "after an evaluation",
        pytest.param("after the best", marks=pytest.mark.slow),
        pytest.param("at the end", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_keeps_the_same_best(
    settings: Job, whole: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    again = settings.but(out=tmp_path / "killed")
    rows, checkpoints = again.out / "rows.jsonl", again.out / "checkpoints"
    best, last = whole["best_step"], whole["steps"]
    ready = {
        "after an evaluation": lambda: rows.is_file() and b'"key":"eval-8"' in rows.read_bytes(),
        "after the best": lambda: (checkpoints / f"checkpoint-{best}").is_dir(),
        "at the end": lambda: rows.is_file() and f'"key":"eval-{last}"'.encode() in rows.read_bytes(),
    }
    killed(again, ready[moment])
    same(settings, again.out, whole)


@pytest.mark.slow
def test_killed_at_any_moment(settings: Job, whole: dict[str, Any], tmp_path: Path) -> None:
    again = settings.but(out=tmp_path / "killed")
    for wait in (2.0, 3.1, 3.7, 4.3, 5.0):
        started: list[float] = []

        def ready(wait: float = wait, started: list[float] = started) -> bool:
            if not started and (again.out / "checkpoints").is_dir():
                started.append(time.monotonic())
            return bool(started) and time.monotonic() - started[0] > wait / 10

        killed(again, ready)
    same(settings, again.out, whole)


def test_steps_that_end_inside_an_epoch(settings: Job, tmp_path: Path) -> None:
    """The last checkpoint is written after the last evaluation, and a run that goes on from it trains no further."""
    short = settings.but(out=tmp_path / "run", max_steps=6, early_stopping=None)
    first = short.run().metrics
    assert [row["step"] for row in evaluations(short.out)] == [4, 6]
    (short.out / "manifest.json").unlink()
    result = short.run()
    assert result.resumed_from == 6 and result.metrics["steps"] == 6
    assert {**result.metrics, "seconds": 0} == {**first, "seconds": 0}


def test_the_best_checkpoint_gone_is_said(settings: Job, tmp_path: Path, whole: dict[str, Any]) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(settings.out, copy)
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "checkpoints" / f"checkpoint-{whole['best_step']}")
    with pytest.raises(ModelError, match="checkpoint-24"):
        settings.but(out=copy).run()


@given(st.lists(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=4), max_size=6))
def test_end_f1_is_the_one_of_the_evaluation(made: list[list[tuple[float, bool]]]) -> None:
    decided = [Decisions([p for p, _ in one], [ended for _, ended in one]) for one in made]
    ours, theirs = end_f1(decided), end_scores(decided)["end_f1"].value
    if any(ended for one in decided for ended in one.ended):
        assert ours == pytest.approx(theirs)
    else:
        assert ours is None


@given(st.lists(st.integers(0, 3), min_size=1))
def test_stale(losses: list[int]) -> None:
    rows = [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses)]
    best = losses.index(min(losses))
    assert best_of(rows)["step"] == best and stale(rows) == len(losses) - 1 - best


def test_the_curve(settings: Job, whole: dict[str, Any], tmp_path: Path,
                   capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    figure = (settings.out / "learning.svg").read_bytes()
    assert figure.startswith(b"<?xml") and len(figure) > 10_000
    with Stage(tmp_path / "run", {}) as stage:
        stage.rows.append("train-1", {"step": 1, "loss": 2.0})
        first = draw_loss_curve(stage, None)
        assert first is not None
        before = first.read_bytes()
        draw_loss_curve(stage, None)
        assert first.read_bytes() == before
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert draw_loss_curve(stage, None) is None
    assert "matplotlib is not installed" in capfd.readouterr().err


class Tracker(TrainerCallback):
    """Stands for a tracker's own callback."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.seen.append(dict(logs))


def test_trackers_get_what_the_trainer_logs(
    settings: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trackers("none") == trackers("") == []
    with pytest.raises(InputError, match="nobody"):
        trackers("nobody")
    absent = [
        name
        for name in integration_utils.INTEGRATION_TO_CALLBACK
        if name not in integration_utils.get_available_reporting_integrations()
    ]
    with pytest.raises(MissingExtra, match="is not installed"):
        trackers(absent[0])
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    settings.but(out=tmp_path / "run", max_steps=4, report_to="tensorboard").run()
    names = {name for logs in Tracker.seen for name in logs}
    assert {"loss", "eval_loss", "eval_perplexity", "eval_end_f1", "eval_first_turn_diversity"} <= names


def test_early_stopping_needs_people(settings: Job) -> None:
    with pytest.raises(ValueError, match="validation"):
        settings.but(validation=None)


@pytest.mark.slow
def test_two_processes_measure_and_keep_what_one_does(
    settings: Job, whole: dict[str, Any], tmp_path: Path
) -> None:
    shared = settings.but(out=tmp_path / "run", processes=2)
    manifest = shared.run().metrics
    assert manifest["processes"] == 2
    for name in ("steps", "best_step"):
        assert manifest[name] == whole[name]
    for name in ("final_loss", "eval_loss", "eval_end_f1", "eval_first_turn_diversity"):
        assert manifest[name] == pytest.approx(whole[name], abs=1e-3), name
