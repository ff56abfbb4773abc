"""PreferenceRow tuning of a tiny model, for real: same ids as at inference, a growing margin, a reference that stands."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Job, dpo_job
from tiny import tiny_checkpoint

from maieutic.chat_templates.rendering import prompt_ids, render
from maieutic.core.errors import ContextTooShort, EmptyCorpus
from maieutic.core.messages import Conversation
from maieutic.core.rows import PreferenceRow
from maieutic.core.store import stage_rows
from maieutic.models.weights import quiet
from maieutic.train.base import load_trainable, open_base
from maieutic.train.dpo import chosen_falls, make_trainer
from maieutic.train.rows import preference_rows, read_preferences

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


def config(start: Path, pairs: Path, out: Path, **more: Any) -> Job:
    return dpo_job(model=str(start), data=pairs, out=out, **{"learning_rate": 1e-3, "epochs": 4, **more})


def logp(model: Any, prompt: list[int], reply: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
    return float(torch.log_softmax(logits.double(), -1).gather(-1, torch.tensor(reply)[:, None]).sum())


def test_the_batch_holds_the_ids_of_inference_and_the_loss_is_dpo(
    start: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = config(start, pairs, tmp_path)
    with quiet():
        opened = open_base(settings.step)
        read = read_preferences(pairs).pairs
        rows = preference_rows(read, opened.tokenizer, opened.frame, opened.longest)
        trainer = make_trainer(
            settings.step, tmp_path, load_trainable(settings.step, opened.source), opened, rows, None
        )
        assert len(trainer.train_dataset) == len(read)
        for row, pair in zip(trainer.train_dataset, read, strict=True):
            assert list(row["prompt_ids"]) == prompt_ids(pair.prompt, opened.tokenizer, "assistant")
            for side in ("chosen", "rejected"):
                by_hand = logp(trainer.model, list(row["prompt_ids"]), list(row[f"{side}_ids"]))
                assert row[f"ref_{side}_logps"] == pytest.approx(by_hand, abs=1e-3)
        parts = trainer._plan(trainer.train_dataset)
        assert sorted(number for part in parts for number in part) == list(range(len(read)))
        for part in parts:
            replies = trainer._batch(trainer.train_dataset, part)
            rest, places = replies.batch.input_ids[0].tolist(), replies.batch.position_ids[0].tolist()
            for number, prompt, other in zip(part, *[iter(replies.batch.segments)] * 2, strict=True):
                row = trainer.train_dataset[number]
                assert rest[: prompt.length] == [*row["prompt_ids"], *row["chosen_ids"]]
                assert other.prefix == len(row["prompt_ids"]) and prompt.parent is None
                assert rest[prompt.length : prompt.length + other.length] == list(row["rejected_ids"])
                taken = prompt.length + other.length
                assert places[:taken] == [
                    *range(prompt.length),
                    *range(other.prefix, other.prefix + other.length),
                ]
                rest, places = rest[taken:], places[taken:]
            assert not rest
        batch = trainer.data_collator([trainer.train_dataset[0]])
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, batch)
        assert float(loss.detach()) == pytest.approx(0.693147, abs=1e-4)


@pytest.mark.parametrize("lora", [None, 8])
def test_the_margin_grows(start: Path, pairs: Path, tmp_path: Path, lora: int | None) -> None:
    from transformers import AutoModelForCausalLM

    rate = {"learning_rate": 1e-2} if lora else {}
    result = config(start, pairs, tmp_path / "run", lora_r=lora, validation=pairs, **rate).run()
    rows = [row for row in stage_rows(tmp_path / "run") if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and rows[0]["margin"] == pytest.approx(
        0, abs=1e-4
    )
    assert rows[-1]["loss"] < 0.5 and result.metrics["margin"] > 0.5 and result.metrics["accuracy"] == 1
    assert {"chosen_logp", "rejected_logp", "chosen_reward", "rejected_reward"} <= rows[-1].keys()
    assert result.metrics["eval_accuracy"] == 1 and result.metrics["eval_margin"] > 0.5
    with quiet():
        before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (start, result.model))
        opened = open_base(config(start, pairs, tmp_path).step)
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
    whole = config(start, pairs, tmp_path / "whole", lora_r=lora, max_steps=8).run()
    half = config(start, pairs, tmp_path / "half", lora_r=lora, max_steps=8, save_steps=3)

    script = (
        "import os, sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from transformers import TrainerCallback\n"
        "import maieutic.train.loop as loop\n"
        "class Mortal(loop.Recorder):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        if state.global_step == 7: os.kill(os.getpid(), 9)\n"
        "loop.Recorder = Mortal\n"
        "from maieutic.train.steps import TrainDpo\n"
        "TrainDpo.model_validate_json(sys.argv[1]).run(sys.argv[2])\n"
    )
    run = subprocess.run([sys.executable, "-c", script, *half.words()], capture_output=True, check=False)
    assert run.returncode == -9, run.stderr.decode()
    again = half.run()
    assert again.resumed_from == 6
    for name in ("final_loss", "loss", "margin"):
        assert again.metrics[name] == pytest.approx(whole.metrics[name], abs=1e-4)


SLAIN = """
import os, sys, torch
torch.set_num_threads(1)
from maieutic.train.steps import TrainDpo
from maieutic.train.dpo import Reference
add = Reference.add
def mortal(self, pair, logps):
    add(self, pair, logps)
    if len(self._known) == 4: os.kill(os.getpid(), 9)
Reference.add = mortal
TrainDpo.model_validate_json(sys.argv[1]).run(sys.argv[2])
"""


@pytest.mark.slow
def test_what_the_reference_said_before_a_kill_is_not_asked_again(
    start: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = config(start, pairs, tmp_path / "run", max_steps=2, max_tokens_per_batch=100)
    run = subprocess.run([sys.executable, "-c", SLAIN, *settings.words()], capture_output=True, check=False)
    assert run.returncode == -9, run.stderr.decode()
    file = tmp_path / "run" / "reference.jsonl"
    before = file.read_bytes()
    assert before.count(b"\n") == 4
    # Another number in the place of one that was computed would be used: so it is not computed again.
    first = json.loads(before.splitlines()[0])
    changed = before.replace(str(first["logps"][0]).encode(), b"-1.0", 1)
    file.write_bytes(changed)
    settings.run()
    after = file.read_bytes()
    assert after.startswith(changed) and after.count(b"\n") == 10
    assert len({json.loads(line)["key"] for line in after.splitlines()}) == 10


@pytest.mark.slow
def test_a_kill_at_an_epoch_s_checkpoint_does_not_lose_its_evaluation(
    start: Path, pairs: Path, tmp_path: Path
) -> None:
    script = (
        "import os, signal, sys\n"
        "from maieutic.train import loop\n"
        "from maieutic.train.steps import TrainDpo\n"
        "mark = loop.mark_complete\n"
        "def mark_and_die(folder):\n"
        "    mark(folder)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "loop.mark_complete = mark_and_die\n"
        "TrainDpo.model_validate_json(sys.argv[1]).run(sys.argv[2])\n"
    )
    settings = config(start, pairs, tmp_path / "run", epochs=1, validation=pairs)
    died = subprocess.run([sys.executable, "-c", script, *settings.words()], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    result = settings.run()
    assert result.resumed_from == result.metrics["steps"] == 3
    assert result.metrics["eval_loss"] > 0 and "eval-3" in [row["key"] for row in stage_rows(settings.out)]


def test_another_model_asks_the_reference_anew(start: Path, pairs: Path, tmp_path: Path) -> None:
    settings = config(start, pairs, tmp_path / "run", max_steps=1)
    settings.run()
    file = tmp_path / "run" / "reference.jsonl"
    keys = {json.loads(line)["key"] for line in file.read_bytes().splitlines()}
    other = tiny_checkpoint(tmp_path / "other", context=256, seed=5)
    again = config(other, pairs, tmp_path / "second", max_steps=1)
    (tmp_path / "second").mkdir()
    with quiet():
        opened = open_base(again.step)
        rows = preference_rows(read_preferences(pairs).pairs, opened.tokenizer, opened.frame, opened.longest)
        (tmp_path / "second" / "reference.jsonl").write_bytes(file.read_bytes())
        make_trainer(
            again.step, tmp_path / "second", load_trainable(again.step, opened.source), opened, rows, None
        )
    found = {
        json.loads(line)["key"]
        for line in (tmp_path / "second" / "reference.jsonl").read_bytes().splitlines()
    }
    assert len(found) == 20 and keys < found


def test_what_is_forgotten_is_measured(start: Path, pairs: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    talks = tmp_path / "talks.jsonl"
    turns = ["Hi", "Hello! What is it?", "A sum.", "Which one? 🙂"]
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, turns, strict=True)]},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Try it."}]},
    ]  # fmt: skip
    talks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = config(start, pairs, tmp_path / "run", forgetting=talks, learning_rate=1e-2).run()

    def perplexity(path: Path) -> float:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(path)
            opened = open_base(config(start, pairs, tmp_path).step)
        said, tokens = 0.0, 0
        for row in rows:
            rendered = render(Conversation.model_validate(row), opened.tokenizer, "assistant", end=False)
            with torch.no_grad():
                logits = model(torch.tensor([rendered.input_ids])).logits[0].log_softmax(-1)
            for place, label in enumerate(rendered.labels[1:]):
                if label != -100:
                    said, tokens = said + float(logits[place, label]), tokens + 1
        assert tokens == result.metrics["forgetting_tokens"]
        return math.exp(-said / tokens)

    assert result.metrics["forgetting_before"] == pytest.approx(perplexity(start), rel=1e-3)
    assert result.metrics["forgetting_after"] == pytest.approx(perplexity(result.model), rel=1e-3)
    assert result.metrics["forgetting_after"] != pytest.approx(result.metrics["forgetting_before"], rel=1e-2)
    card = (result.model / "README.md").read_text()
    assert f"| forgetting_before | {result.metrics['forgetting_before']:.6g} |" in card
    assert f"| forgetting_after | {result.metrics['forgetting_after']:.6g} |" in card


def test_a_chosen_reply_that_falls_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    both = {"margin": 0.5, "chosen_reward": -0.1}
    assert chosen_falls(both) and "chosen replies became less likely" in capsys.readouterr().err
    assert not chosen_falls({"margin": 0.5, "chosen_reward": 0.1})
    assert not chosen_falls({"margin": -0.5, "chosen_reward": -0.1})
    assert not capsys.readouterr().err
    held_out = {"eval_margin": 0.5, "eval_chosen_reward": 0.1}
    assert not chosen_falls({**both, **held_out})
    assert chosen_falls({**both, **held_out, "eval_chosen_reward": -2.0})
    assert "validation" in capsys.readouterr().err


def test_a_real_fall_stands_in_the_manifest(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two replies that are nearly the same: what makes the one less likely drags the other down."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {number} and {number}?"}],
            "chosen": [{"role": "assistant", "content": "No no no no no no no no no no no no maybe"}],
            "rejected": [{"role": "assistant", "content": "No no no no no no no no no no no no no no no no"}],
        }
        for number in range(6)
    ]
    path = tmp_path / "near.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = config(start, path, tmp_path / "run", validation=path, learning_rate=3e-3, epochs=6).run()
    measured = result.metrics
    assert measured["eval_margin"] > 1 and measured["eval_chosen_reward"] < -1
    assert measured["chosen_falls"] is True
    assert "validation pairs became less likely" in capsys.readouterr().err
    assert (measured["eval_chosen_tokens"], measured["eval_rejected_tokens"]) == pytest.approx(
        tuple(
            sum(map(len, preference_ids(start, path)[f"{side}_ids"])) / len(rows)
            for side in ("chosen", "rejected")
        )
    )
    evals = [row for row in stage_rows(tmp_path / "run") if "eval_loss" in row]
    assert len(evals) == 6
    assert {"eval_accuracy", "eval_margin", "eval_chosen_logp", "eval_chosen_tokens"} <= evals[0].keys()


def preference_ids(start: Path, path: Path) -> Any:
    with quiet():
        opened = open_base(config(start, path, path.parent).step)
        read = read_preferences(path).pairs
        return preference_rows(read, opened.tokenizer, opened.frame, opened.longest).dataset.to_dict()


def test_the_oldest_turns_go_by_flag(start: Path, pairs: Path, tmp_path: Path) -> None:
    talk = [
        *([{"role": "system", "content": "Be kind."}]),
        *(
            {"role": role, "content": f"{role} says {number}"}
            for number in range(6)
            for role in ("user", "assistant")
        ),
        {"role": "user", "content": "And now?"},
    ]
    row = {
        "prompt": talk,
        "chosen": [{"role": "assistant", "content": "Which do you think?"}],
        "rejected": [{"role": "assistant", "content": "It is four, as anyone can see who looks."}],
    }
    with quiet():
        opened = open_base(config(start, pairs, tmp_path).step)
    pair = PreferenceRow.model_validate(row)
    limit = 130

    def columns(pairs: list[PreferenceRow], limit: int, **more: Any) -> Any:
        return preference_rows(pairs, opened.tokenizer, opened.frame, limit, **more)

    with pytest.raises(ContextTooShort, match="1 of 1 pairs.*\n.*--keep end"):
        columns([pair], limit)
    kept = columns([pair], limit, keep="end")
    assert (kept.report.rows, kept.report.shortened, kept.report.too_long) == (1, 1, 0)
    found = kept.dataset[0]
    fitting = []
    for gone in range(1, 8):
        prompt = (pair.prompt[0], *pair.prompt[1 + 2 * gone - 2 :])
        ids = prompt_ids(prompt, opened.tokenizer, "assistant")
        if len(ids) + max(len(found["chosen_ids"]), len(found["rejected_ids"])) <= limit:
            fitting.append((gone, ids))
    assert fitting[0][0] > 1, "nothing had to go"
    assert found["prompt_ids"] == fitting[0][1], "as few turns as possible go, and the system's stays"
    whole = columns([pair], 4000).dataset[0]
    assert (found["chosen_ids"], found["rejected_ids"]) == (whole["chosen_ids"], whole["rejected_ids"])
    assert columns([pair], 4000, keep="end").report.shortened == 0
    with pytest.raises(ContextTooShort):
        columns([pair], 20, keep="end")
    short = PreferenceRow.model_validate({**row, "prompt": talk[-1:]})
    dropped = columns([pair, short], 60, keep="end", drop_too_long=True)
    assert dropped.report.rows + dropped.report.too_long == 2


def test_mistakes_are_said(start: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ContextTooShort, match="10 of 10 pairs"):
        config(start, pairs, tmp_path / "a", max_length=20, drop_too_long=True).run()
    with pytest.raises(ContextTooShort, match="of 10 pairs"):
        config(start, pairs, tmp_path / "b", max_length=75).run()
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(EmptyCorpus):
        config(start, empty, tmp_path / "c").run()
