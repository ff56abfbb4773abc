"""`maieutic train`: settings from flags and file, one JSON document, two lines for a mistake, silence of libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tree import parse
from tiny import tiny_checkpoint
from typer.testing import CliRunner

from maieutic import cli
from maieutic.core.errors import MaieuticError
from maieutic.core.messages import Conversation
from maieutic.data.corpus import write_corpus

MAIN = "from maieutic.cli import main; main()"


def maieutic(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    tiny_checkpoint(folder / "base", context=256)
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
    write_corpus(folder / "c.jsonl", [Conversation.model_validate({**talk, "ended": True})])
    pair = {
        "prompt": talk["messages"][:1],
        "chosen": talk["messages"][1:],
        "rejected": [{"role": "assistant", "content": "No"}],
    }
    (folder / "p.jsonl").write_text(json.dumps(pair) + "\n")
    return folder


@pytest.mark.slow
def test_sft_then_dpo_on_its_model(folder: Path) -> None:
    (folder / "sft.yaml").write_text(
        f"model: hf/{folder}/base\ndata: {folder}/c.jsonl\nrole: user\nbatch_size: 2\nmax_steps: 9\n"
    )
    words = (
        "train",
        "sft",
        "--config",
        folder / "sft.yaml",
        "--out",
        folder / "sft",
        "--max-steps",
        2,
        "--role",
    )
    done = maieutic(*words, "assistant", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["steps"] == 2 and printed["model"] == f"{folder}/sft/model"
    assert [line for line in done.stderr.splitlines() if not line.startswith("train")] == []
    again = maieutic(
        "train", "dpo", "--model", folder / "sft", "--data", folder / "p.jsonl", "--out", folder / "dpo"
    )
    assert again.returncode == 0, again.stderr
    assert f"model: {folder}/dpo/model" in again.stdout and "accuracy" in again.stdout
    assert [line for line in again.stderr.splitlines() if not line.startswith("train")] == []


def test_mistakes_are_said(folder: Path) -> None:
    """A wrong setting exits with 2, a failure with an error of ours; either way in two lines."""
    cli.gather()
    here = ("--model", folder / "base", "--data", folder / "c.jsonl", "--role", "user")
    for words, fact in (
        (("sft", *here), "out"),
        (("dpo", *here[:4], "--out", folder / "x", "--batch-size", 4, "--micro-batch-size", 3), "multiple"),
        (("sft", *here, "--out", folder / "x", "--max-tokens-per-batch", 0), "max_tokens_per_batch"),
    ):
        done = CliRunner().invoke(cli.app, ["train", *map(str, words)])
        assert done.exit_code == 2 and fact in done.stderr and len(done.stderr.splitlines()) == 2, done.stderr
    for words, fact in (
        (("sft", "--config", folder / "none.yaml"), "none.yaml"),
        (("sft", *here, "--data", folder / "none.jsonl", "--out", folder / "x"), "no such file"),
        (("sft", *here, "--model", folder / "none", "--out", folder / "y"), "no such folder"),
        (("sft", *here, "--out", folder), "holds no run"),
    ):
        error = CliRunner().invoke(cli.app, ["train", *map(str, words)]).exception
        assert isinstance(error, MaieuticError), error
        assert fact in error.what and error.hint and len(str(error).splitlines()) == 2


def test_the_options_of_version_1_still_set_their_settings() -> None:
    words = "--model m --data d --role user --out o --batch 2 --steps 3 --lora 4 --tokens-at-once 64"
    assert parse(["train", "sft", *words.split(), "--checkpoint-activations"]) == ("train", "sft")
