"""Preference tuning of a tiny model, for real: same ids as at inference, a growing margin, a reference that stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_checkpoint

from maieutic.errors import ContextTooShort, EmptyCorpus
from maieutic.render import prompt_ids
from maieutic.store import stage_rows
from maieutic.train.config import DpoConfig
from maieutic.train.data import preference_rows, read_preferences
from maieutic.train.dpo import dpo, make_trainer
from maieutic.train.load import quiet
from maieutic.train.prepare import base, trainable

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("base"), context=256)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "prompt": [
                {"role": "user", "content": f"What is ${number}+{number}$?"},
                {"role": "assistant", "content": "Try it."},
                {"role": "user", "content": "I do not know 🙁"},
            ],
            "chosen": [{"role": "assistant", "content": "How many fingers do you see?"}],
            "rejected": [{"role": "assistant", "content": f"It is {2 * number}." * (number % 3 + 1)}],
            "scores": {"chosen": 1.0, "rejected": 0.2},
            "meta": {"licence": "CC0-1.0"},
        }
        for number in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(start: Path, pairs: Path, out: Path, **more: Any) -> DpoConfig:
    return DpoConfig(model=str(start), data=pairs, out=out, **{"learning_rate": 1e-3, "epochs": 4, **more})


def logp(model: Any, prompt: list[int], reply: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
    return float(torch.log_softmax(logits.double(), -1).gather(-1, torch.tensor(reply)[:, None]).sum())


def test_the_batch_holds_the_ids_of_inference_and_the_loss_is_dpo(
    start: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = config(start, pairs, tmp_path)
    with quiet():
        opened = base(settings)
        read = read_preferences(pairs).pairs
        rows = preference_rows(read, opened.tokenizer, opened.frame, opened.longest)
        trainer = make_trainer(
            settings, tmp_path, trainable(settings, opened.source), opened.tokenizer, rows, None
        )
        assert len(trainer.train_dataset) == len(read)
        for row, pair in zip(trainer.train_dataset, read, strict=True):
            assert row["prompt_ids"] == prompt_ids(pair.prompt, opened.tokenizer, "assistant")
            for side in ("chosen", "rejected"):
                by_hand = logp(trainer.model, row["prompt_ids"], row[f"{side}_ids"])
                assert row[f"ref_{side}_logps"] == pytest.approx(by_hand, abs=1e-3)
        batch = trainer.data_collator([trainer.train_dataset[0]])
        lengths = batch["attention_mask"].sum(-1).tolist()
        first = trainer.train_dataset[0]
        for ids, length, side in zip(batch["input_ids"], lengths, ("chosen", "rejected"), strict=True):
            assert ids[:length].tolist() == first["prompt_ids"] + first[f"{side}_ids"]
        assert batch["completion_mask"].sum(-1).tolist() == [
            len(first["chosen_ids"]),
            len(first["rejected_ids"]),
        ]
        loss = trainer.compute_loss(trainer.model, dict(batch))
        assert float(loss.detach()) == pytest.approx(0.693147, abs=1e-4)


@pytest.mark.parametrize("lora", [None, 8])
def test_the_margin_grows(start: Path, pairs: Path, tmp_path: Path, lora: int | None) -> None:
    from transformers import AutoModelForCausalLM

    rate = {"learning_rate": 1e-2} if lora else {}
    result = dpo(config(start, pairs, tmp_path / "run", lora=lora, validation=pairs, **rate))
    rows = [row for row in stage_rows(tmp_path / "run") if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and rows[0]["margin"] == pytest.approx(
        0, abs=1e-4
    )
    assert rows[-1]["loss"] < 0.5 and result.manifest["margin"] > 0.5 and result.manifest["accuracy"] == 1
    assert {"chosen_logp", "rejected_logp", "chosen_reward", "rejected_reward"} <= rows[-1].keys()
    assert result.manifest["eval_accuracy"] == 1 and result.manifest["eval_margin"] > 0.5
    with quiet():
        before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (start, result.model))
        opened = base(config(start, pairs, tmp_path))
        read = read_preferences(pairs).pairs
        row = preference_rows(read, opened.tokenizer, opened.frame, opened.longest).dataset[0]
    margin = {
        model: logp(model, row["prompt_ids"], row["chosen_ids"])
        - logp(model, row["prompt_ids"], row["rejected_ids"])
        for model in (before, after)
    }
    assert 0.1 * (margin[after] - margin[before]) > 0.3
    record = json.loads((result.model / "maieutic.json").read_text())
    assert (record["role"], record["method"], record["data"]["licences"]) == ("assistant", "dpo", ["CC0-1.0"])


@pytest.mark.parametrize("lora", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_it_goes_on_with_the_same_reference(
    start: Path, pairs: Path, tmp_path: Path, lora: int | None
) -> None:
    whole = dpo(config(start, pairs, tmp_path / "whole", lora=lora, steps=8))
    half = config(start, pairs, tmp_path / "half", lora=lora, steps=8, save_steps=3)

    script = (
        "import os, sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from transformers import TrainerCallback\n"
        "import maieutic.train.loop as loop\n"
        "class Mortal(loop.Recorder):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        if state.global_step == 7: os.kill(os.getpid(), 9)\n"
        "loop.Recorder = Mortal\n"
        "from maieutic.train.config import DpoConfig\n"
        "from maieutic.train.dpo import dpo\n"
        "dpo(DpoConfig.model_validate_json(sys.argv[1]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, half.model_dump_json()], capture_output=True, check=False
    )
    assert run.returncode == -9, run.stderr.decode()
    again = dpo(half)
    assert again.resumed_from == 6
    for name in ("final_loss", "loss", "margin"):
        assert again.manifest[name] == pytest.approx(whole.manifest[name], abs=1e-4)


def test_mistakes_are_said(start: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ContextTooShort, match="10 of 10 pairs"):
        dpo(config(start, pairs, tmp_path / "a", max_length=20, drop_too_long=True))
    with pytest.raises(ContextTooShort, match="of 10 pairs"):
        dpo(config(start, pairs, tmp_path / "b", max_length=75))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(EmptyCorpus):
        dpo(config(start, empty, tmp_path / "c"))
