"""SIGKILL in the middle, the same command again: it goes on and ends where the run nobody killed ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from jobs import Job, sft_job
from safetensors.torch import load_file
from tiny import tiny_checkpoint

from maieutic.core.errors import RunLocked
from maieutic.core.messages import Conversation
from maieutic.core.store import stage_rows
from maieutic.data.corpus import write_corpus
from maieutic.train.checkpoint import delete_incomplete, last_complete, mark_complete

torch.set_num_threads(1)

STEPS = 60
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from maieutic.train.steps import TrainSft
TrainSft.model_validate_json(sys.argv[1]).run(sys.argv[2])
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("resume")
    talks = [
        Conversation.model_validate(
            {
                "messages": [
                    {"role": "user", "content": f"What is {number} and {number}?"},
                    {"role": "assistant", "content": "Count them. " * (number % 5 + 1)},
                    {"role": "user", "content": f"It is {2 * number}."},
                ],
                "ended": number % 2 == 0,
            }
        )
        for number in range(21)
    ]
    write_corpus(folder / "talks.jsonl", talks)
    return sft_job(
        model=str(tiny_checkpoint(folder / "base", context=256)),
        data=folder / "talks.jsonl",
        out=folder / "whole",
        role="user",
        batch_size=6,
        max_tokens_per_batch=100,
        max_steps=STEPS,
        learning_rate=5e-3,
        save_steps=7,
        validation=folder / "talks.jsonl",
    )


@pytest.fixture(scope="module")
def whole(settings: Job) -> Path:
    settings.run()
    return settings.out


def killed(settings: Job, after: int) -> None:
    """Run in a process of its own and kill it once it has a checkpoint past step `after`."""
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *settings.words()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    folder = settings.out / "checkpoints"
    limit = time.monotonic() + 120
    while not any(int(path.parent.name[11:]) > after for path in folder.glob("checkpoint-*/complete.json")):
        assert run.poll() is None, run.communicate()[1].decode()
        assert time.monotonic() < limit
        time.sleep(0.002)
    with pytest.raises(RunLocked):
        settings.run()
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not (settings.out / "manifest.json").exists()


@pytest.mark.slow
def test_a_killed_run_ends_like_a_whole_one(settings: Job, whole: Path, tmp_path: Path) -> None:
    again = settings.but(out=tmp_path / "killed")
    killed(again, after=0)
    start = last_complete(again.out / "checkpoints")
    assert start is not None
    torn = again.out / "checkpoints" / f"checkpoint-{STEPS + 10}"
    shutil.copytree(start, torn)
    (torn / "optimizer.pt").write_bytes(b"half")
    result = again.run()
    assert result.resumed_from == int(start.name[11:]) and not torn.exists()
    expected = settings.run().metrics
    assert result.metrics["steps"] == expected["steps"] == STEPS
    for name in ("final_loss", "loss", "eval_loss", "tokens"):
        assert result.metrics[name] == pytest.approx(expected[name], abs=1e-3), name
    ours, theirs = (list(stage_rows(folder)) for folder in (again.out, whole))
    assert [row["key"] for row in ours] == [row["key"] for row in theirs]
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (again.out, whole))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_a_kill_after_the_last_step_costs_no_training(settings: Job, whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "model")
    result = settings.but(out=copy).run()
    assert result.resumed_from == STEPS
    assert result.metrics["final_loss"] == settings.run().metrics["final_loss"]
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (copy, whole))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    assert last_complete(tmp_path / "none") is None
    for step in (5, 40, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * step)
        mark_complete(folder)
    (tmp_path / "checkpoint-100" / "model.safetensors").write_bytes(b"x" * 99)
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "notes").mkdir()
    assert last_complete(tmp_path) == tmp_path / "checkpoint-40"
    delete_incomplete(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-5", "checkpoint-40", "notes"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_killed_again_and_again(settings: Job, whole: Path, tmp_path: Path, kind: str) -> None:
    lora = 4 if kind == "lora" else None
    again = settings.but(out=tmp_path / "killed", lora_r=lora)
    for after in (0, 10, 30):
        killed(again, after)
    result = again.run()
    expected = settings.but(out=tmp_path / "whole", lora_r=lora).run()
    assert result.resumed_from and result.resumed_from > 30
    assert result.metrics["final_loss"] == pytest.approx(expected.metrics["final_loss"], abs=1e-3)
