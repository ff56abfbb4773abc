"""Bad input through the real commands: two lines that say what and how to mend, exit 1, and nothing lost."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from forked import Done, Maieutic
from loopback import Loopback, completion, status
from tiny import tiny_checkpoint

BROKEN = b'{"messages": [\n'
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold]x\r"
"""A window title, a cleared screen, an 8-bit control sequence, reversed writing, markup, an overwritten line."""
ACTING = set("\x1b\x07\x9b\u202e\r\x08")
LONG = "x" * 300


@pytest.fixture(scope="module")
def run() -> Iterator[Maieutic]:
    maieutic = Maieutic()
    yield maieutic
    maieutic.close()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, good and bad, that no command may change."""
    folder = tmp_path_factory.mktemp("shelf")
    sample, seeds = (
        (files("maieutic.recipes.demo") / name).read_bytes().splitlines()
        for name in ("sample.jsonl", "seeds.jsonl")
    )
    contents: dict[str, bytes] = {
        "talk.jsonl": b"\n".join(sample[:12]) + b"\n",
        "seeds.jsonl": b"\n".join(seeds[:4]) + b"\n",
        "broken.jsonl": b"\n".join([sample[0], BROKEN.strip(), sample[1], b"\xff{}", sample[2], b"[1]"])
        + b"\n",
        "empty.jsonl": b"",
        "blank.jsonl": b"\n \n",
        "list.json": b"[]",
        "allbad.jsonl": BROKEN * 2,
        "script.jsonl": b'{"text": "Why?"}\n',
        "pairs.jsonl": b"\n".join([_pair(), BROKEN.strip(), _pair()]) + b"\n",
        "file": b"a file",
        "mine/thesis.tex": b"years of work",
        "noise.bin": bytes(range(256)),
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text)
    tiny_checkpoint(folder / "tiny", context=256)
    shutil.copytree(folder / "tiny", folder / "bare")
    (folder / "bare" / "chat_template.jinja").unlink()
    return folder


RECIPES = {
    "not_yaml": "a: [",
    "a_list": "[1]",
    "typo": "stagess: {a: {do: clean, corpus: x}}",
    "stage_list": "stages: [1, 2]",
    "value_list": "values: [1]\nstages: {a: {do: clean, corpus: x}}",
    "unknown_do": "stages: {a: {do: cleen, corpus: x}}",
    "unknown_setting": "stages: {a: {do: clean, corpux: x}}",
    "lacking": "stages: {a: {do: clean}}",
    "loose": 'stages: {a: {do: clean, corpus: "${nix}"}}',
    "bad_name": "stages: {a b: {do: clean, corpus: x}}",
    "loop": "extends: loop.yaml\nstages: {a: {do: clean, corpus: x}}",
    "orphan": "extends: nothere\nstages: {a: {do: clean, corpus: x}}",
    "tutor": (
        "values: {seeds: null, model: script/script.jsonl}\n"
        "stages:\n"
        '  import: {do: import, sources: ["${seeds}"]}\n'
        '  candidates: {do: candidates, model: "${model}", data: "${import}/corpus.jsonl", k: 2}\n'
        '  judge: {do: judge, data: "${candidates}", judge: "${model}"}\n'
    ),
}


def _pair() -> bytes:
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "Why?"}]
    said = {"prompt": turns[:1], "chosen": turns[1:], "rejected": [{"role": "assistant", "content": "4"}]}
    return json.dumps(said).encode()


def held(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(run: Maieutic, shelf: Path) -> Iterator[Any]:
    """Runs a command in the shelf that must fail in two lines and change no file; what it adds is removed."""
    before, there = held(shelf), set(shelf.rglob("*"))

    def refuse(command: str, *said: str, codes: tuple[int, ...] = (1,), **how: Any) -> Done:
        done = run(*shlex.split(command), cwd=shelf, **how)
        assert done.code in codes and "Traceback" not in done.err, done.err
        if done.code == 1 or "Usage: maieutic" not in done.err:
            assert len(done.error) == 2 and done.error[1].startswith("  ") and done.error[1].strip(), done.err
        assert done.out == "", "standard output is for results"
        assert all(word in done.err for word in said), done.err
        return done

    yield refuse
    after = held(shelf)
    for path in sorted(set(shelf.rglob("*")) - there, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert {path: after.get(path) for path in before} == before, "a file that was there has changed"


READERS = {
    "import": "import {} --out new.jsonl",
    "stats": "stats {}",
    "clean": "clean {} --out new.jsonl",
    "split": "split {} --out new",
    "check": "split --check talk.jsonl {}",
    "convert": "convert {} --to sharegpt --out new.json",
    "mask": "mask {} --model tiny --role user",
    "base": "demo-base --corpus {} --out new --steps 0",
    "sft": "train sft --model tiny --data {} --role user --out new --max-steps 1 --batch-size 2",
    "dpo": "train dpo --model tiny --data {} --out new --max-steps 1",
    "simulate": "simulate --user script/script.jsonl --assistant script/script.jsonl --seeds {} --out new",
    "candidates": "candidates --model script/script.jsonl --data {} --out new",
    "judge": "judge {} --rubric socratic_checks --out new",
    "preferences": "preferences {} --out new.jsonl",
    "tutor": "eval tutor score {}",
    "agreement": "eval judge score --pairs {}",
    "mt-bench": "eval mt-bench score --judgments {}",
    "pairwise": "eval mt-bench pairwise --judgments {}",
    "vicuna": "eval vicuna-bench score --judgments {}",
    "alpaca": "eval alpaca-eval score --annotations {}",
    "paired": "eval paired {0} {0}",
    "simulator": "eval simulator --people {} --simulated talk.jsonl",
}
"""Every command that reads a file."""


@pytest.mark.parametrize("command", READERS.values(), ids=READERS)
def test_nothing_to_read(refused: Any, command: str) -> None:
    refused(command.format("nofile.jsonl") + " --json", "nofile.jsonl: no such file")
    refused(command.format("empty.jsonl") + " --json")


@pytest.mark.parametrize("name", ["blank.jsonl", "list.json", "allbad.jsonl", "noise.bin", "tiny", LONG])
@pytest.mark.parametrize("command", [READERS[name] for name in ("import", "mask", "judge", "tutor")])
def test_other_things_that_hold_no_conversation(refused: Any, command: str, name: str) -> None:
    refused(command.format(name))


BROKEN_READERS = {
    name: READERS[name]
    for name in (
        "import",
        "stats",
        "clean",
        "split",
        "convert",
        "mask",
        "base",
        "simulate",
        "candidates",
        "simulator",
    )
}


@pytest.mark.parametrize("name", BROKEN_READERS)
def test_a_broken_line_is_named_and_counted_and_the_rest_is_kept(
    run: Maieutic, shelf: Path, tmp_path: Path, name: str
) -> None:
    command = BROKEN_READERS[name].format(shelf / "broken.jsonl").replace("script/", f"script/{shelf}/")
    for words, place in (("tiny", shelf / "tiny"), ("talk.jsonl", shelf / "talk.jsonl")):
        command = command.replace(f" {words}", f" {place}")
    done = run(*shlex.split(command), cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.count("3 broken rows skipped") == 1, done.err
    assert all(f"broken.jsonl:{line}: " in done.err for line in (2, 4, 6)), done.err
    written = tmp_path / "new.jsonl"
    assert not written.exists() or written.read_bytes().count(b"\n") == 3


def test_broken_lines_of_results_are_named_too(run: Maieutic, shelf: Path, tmp_path: Path) -> None:
    script = f"script/{shelf}/script.jsonl"
    assert (
        run("candidates", "--model", script, "--data", shelf / "seeds.jsonl", "--out", tmp_path / "c").code
        == 0
    )
    break_a_line(tmp_path / "c" / "rows.jsonl", tmp_path / "candidates.jsonl")
    judged = run("judge", "candidates.jsonl", "--rubric", "socratic_checks", "--out", "j", cwd=tmp_path)
    assert judged.code == 0 and judged.err.count("candidates.jsonl:2: broken JSON") == 1, judged.err
    break_a_line(tmp_path / "j" / "rows.jsonl", tmp_path / "judged.jsonl")
    scored = run("eval", "tutor", "score", "judged.jsonl", "--json", cwd=tmp_path)
    assert scored.code == 0 and "1 broken row" in scored.err and "judged.jsonl:2" in scored.err, scored.err
    json.loads(scored.out)
    refused = run("preferences", "judged.jsonl", "--out", "p.jsonl", "--min-chosen", 0, cwd=tmp_path)
    assert "judged.jsonl:2: broken JSON" in refused.err, refused.err


def break_a_line(source: Path, target: Path) -> None:
    first, *rest = source.read_bytes().splitlines()
    target.write_bytes(b"\n".join([first, b'{"key": ', *rest]) + b"\n")


def test_broken_rows_are_left_out_of_training(run: Maieutic, shelf: Path, tmp_path: Path) -> None:
    few = ("--model", shelf / "tiny", "--max-steps", 1, "--batch-size", 2, "--max-length", 256, "--json")
    done = run(
        "train", "sft", "--data", shelf / "broken.jsonl", "--role", "user", "--out", tmp_path / "s", *few
    )
    assert done.code == 0 and "broken.jsonl:2: broken JSON" in done.err, done.err
    assert json.loads(done.out)["steps"] == 1
    done = run("train", "dpo", "--data", shelf / "pairs.jsonl", "--out", tmp_path / "d", *few)
    assert done.code == 0 and "pairs.jsonl:2: no preference pair (not JSON)" in done.err, done.err


def test_strict_stops_at_the_first_broken_line(refused: Any) -> None:
    for name in ("import", "stats", "clean", "split", "convert"):
        refused(READERS[name].format("broken.jsonl") + " --strict --json", "broken.jsonl:2: broken JSON")


@pytest.mark.parametrize(
    "command",
    [
        "mask talk.jsonl --model bare --role user",
        "simulate --user hf/bare --assistant hf/bare --user-mode prompted -n 1 --out new",
        "candidates --model hf/bare --data seeds.jsonl --out new",
        "eval simulator --people talk.jsonl --model hf/bare",
        "chat hf/bare",
    ],
)
def test_a_model_without_a_template(refused: Any, command: str) -> None:
    refused(command + " --json", "no chat template", "--template", typed="hi\n")


@pytest.mark.parametrize(
    "command",
    [
        "train sft --model tiny --data talk.jsonl --role user --out new --max-length 512",
        "train sft --model tiny --data talk.jsonl --role user --out new --max-length 8 --batch-size 2",
        "train dpo --model tiny --data pairs.jsonl --out new --max-length 16",
        "simulate --user hf/tiny --assistant hf/tiny --user-mode trained -n 1 --seeds talk.jsonl --out new",
        "candidates --model hf/tiny --data seeds.jsonl --out new",
        "chat hf/tiny --system '" + "a long frame " * 60 + "'",
    ],
)
def test_a_context_too_short_for_the_conversation(refused: Any, command: str) -> None:
    done = refused(command + " --json", typed="hi\n")
    assert "context" in done.err or "fit" in done.err, done.err


OUTPUTS = {
    "import": "import talk.jsonl --out {}",
    "clean": "clean talk.jsonl --out {}",
    "sharegpt": "convert talk.jsonl --to sharegpt --out {}",
    "base": "demo-base --corpus talk.jsonl --out {} --steps 0",
    "demo": "demo --out {}",
    "sft": "train sft --model tiny --data talk.jsonl --role user --out {} --batch-size 2",
    "dpo": "train dpo --model tiny --data pairs.jsonl --out {}",
    "simulate": "simulate --user script/script.jsonl --assistant script/script.jsonl -n 1 --out {}",
    "candidates": "candidates --model script/script.jsonl --data seeds.jsonl --out {}",
    "run": "run tutor.yaml --set seeds=seeds.jsonl --out {}",
}


@pytest.mark.parametrize("command", OUTPUTS.values(), ids=OUTPUTS)
def test_an_output_that_is_a_person_s(refused: Any, command: str) -> None:
    for place in ("mine", "mine/thesis.tex", "/proc/x/y", LONG):
        refused(command.format(place) + " --json")


def test_a_corpus_is_not_replaced_unless_told(refused: Any, run: Maieutic, shelf: Path) -> None:
    for name in ("import", "clean"):
        refused(f"{name} talk.jsonl --out talk.jsonl", "is an input of this command")
        refused(f"{name} talk.jsonl --out seeds.jsonl", "exists", "--force")
    refused("split talk.jsonl --out file")


def test_an_output_that_holds_another_run(run: Maieutic, shelf: Path, tmp_path: Path) -> None:
    speak = f"--user script/{shelf}/script.jsonl --assistant script/{shelf}/script.jsonl --guards none"
    for first, other, changed in (
        (f"simulate {speak} -n 2 --rounds 1 --out s", "--rounds 2", "rounds (1 → 2)"),
        (
            f"candidates --model script/{shelf}/script.jsonl --data {shelf}/seeds.jsonl --out c",
            "-k 3",
            "k (5 → 3)",
        ),
        ("judge c --rubric socratic_checks --out j", "--samples 2", "samples (1 → 2)"),
        (
            f"train sft --model {shelf}/tiny --data {shelf}/talk.jsonl --role user --max-length 256 --batch-size 2 "
            "--max-steps 1 --out t",
            "--learning-rate 0.1",
            "learning_rate (0.00002 → 0.1)",
        ),
    ):
        done = run(*shlex.split(first), cwd=tmp_path)
        assert done.code == 0, done.err
        before = held(tmp_path)
        done = run(*shlex.split(first), *shlex.split(other), "--json", cwd=tmp_path)
        assert (done.code, done.out) == (1, ""), done.err
        assert len(done.error) == 2 and changed in done.err, done.err
        assert held(tmp_path) == before


FULL = {
    "import": "import talk.jsonl --out new.jsonl",
    "clean": "clean talk.jsonl --out new.jsonl",
    "split": "split talk.jsonl --out new",
    "sharegpt": "convert talk.jsonl --to sharegpt --out new.json",
    "parquet": "convert talk.jsonl --to parquet --out new.parquet",
    "base": "demo-base --corpus talk.jsonl --out new --steps 0 --vocab-size 300",
    "sft": "train sft --model tiny --data talk.jsonl --role user --max-length 256 --batch-size 2 --max-steps 1 --out new",
    "candidates": "candidates --model script/script.jsonl --data seeds.jsonl -k 9 --out new",
    "run": "run tutor.yaml --set seeds=seeds.jsonl --out new",
}


@pytest.mark.parametrize("command", FULL.values(), ids=FULL)
def test_a_full_disk(refused: Any, command: str) -> None:
    """A limit on file size stands for the disk: it fails in the same place, with EFBIG in place of ENOSPC."""
    refused(command + " --json", "no space is left on the disk", "Free some", largest_file=1500)


def test_after_a_full_disk_the_same_command_goes_on(run: Maieutic, shelf: Path, tmp_path: Path) -> None:
    speak = f"--user script/{shelf}/script.jsonl --assistant script/{shelf}/script.jsonl --guards none"
    command = shlex.split(f"simulate {speak} -n 30 --rounds 2 --out s --json")
    full = run(*command, cwd=tmp_path, largest_file=8000)
    assert full.code == 1 and full.out == "" and "no space is left on the disk" in full.error[0], full.err
    kept = sum(
        1 for line in (tmp_path / "s" / "rows.jsonl").read_bytes().split(b"\n")[:-1] if json.loads(line)
    )
    again = run(*command, cwd=tmp_path)
    assert again.code == 0, again.err
    done = json.loads(again.out)
    assert kept and (done["dialogues"], done["failed"]) == (30, 0)
    assert done["replies"] <= 4 * (30 - kept)


def test_a_wrong_key_then_the_right_one(run: Maieutic, shelf: Path, tmp_path: Path) -> None:
    with Loopback(key="sk-right") as server:
        commands = [
            f"simulate --user {server.spec} --assistant {server.spec} -n 1 --rounds 1 --out s",
            f"candidates --model {server.spec} --data {shelf}/seeds.jsonl -k 1 --out c",
            f"judge {shelf}/talk.jsonl --rubric socratic --judge {server.spec} --out j",
            f"run {shelf}/tutor.yaml --set seeds={shelf}/seeds.jsonl --set model={server.spec} --out r",
            f"chat {server.spec}",
        ]
        for command in commands:
            for key in ({}, {"MAIEUTIC_API_KEY": "sk-wrong"}):
                done = run(*shlex.split(command), "--json", cwd=tmp_path, env=key, typed="hi\n")
                assert (done.code, done.out, len(done.error)) == (1, "", 2), done.err
                assert "MAIEUTIC_API_KEY" in done.error[1] and "sk-wrong" not in done.err, done.err
        assert not server.chats, "a refused key is found before the first call"
        for command in commands[:2]:
            done = run(*shlex.split(command), cwd=tmp_path, env={"MAIEUTIC_API_KEY": "sk-right"})
            assert done.code == 0, done.err


def test_an_unknown_model_then_the_right_one(run: Maieutic, shelf: Path, tmp_path: Path) -> None:
    """The same output folder: a run that never began is no other run."""
    with Loopback() as server:
        for command in (
            "simulate --user {0} --assistant {0} -n 1 --rounds 1 --out s",
            f"candidates --model {{0}} --data {shelf}/seeds.jsonl -k 1 --out c",
        ):
            wrong = run(*shlex.split(command.format(f"{server.url}#nobody")), "--json", cwd=tmp_path)
            assert (wrong.code, wrong.out, len(wrong.error)) == (1, "", 2), wrong.err
            assert "no model 'nobody'" in wrong.error[0] and "tiny" in wrong.error[1], wrong.err
            right = run(*shlex.split(command.format(server.spec)), cwd=tmp_path)
            assert right.code == 0, right.err
        recipe = shlex.split(f"run tutor.yaml --set seeds={shelf}/seeds.jsonl --out {tmp_path}/r")
        wrong = run(*recipe, "--set", f"model={server.url}#nobody", cwd=shelf)
        assert wrong.code == 1 and "no model 'nobody'" in wrong.error[0], wrong.err
        assert not (tmp_path / "r").exists(), "nothing is begun before every model is known to be there"


def test_a_server_that_does_not_answer(refused: Any) -> None:
    with Loopback() as server:
        gone = server.spec
    for command in (
        f"simulate --user {gone} --assistant {gone} -n 1 --out new/s",
        f"candidates --model {gone} --data seeds.jsonl --out new/c",
        f"chat {gone}",
        f"run tutor.yaml --set seeds=seeds.jsonl --set model={gone} --out new/r",
    ):
        refused(command + " --json", "Connection refused", "Check that the server runs", typed="hi\n")


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "''",
        "hf/",
        "nothing/x",
        "hf/./nodir",
        "hf/nobody/nothing",
        "hf/file",
        "hf/mine",
        "script/nofile",
        "script/empty.jsonl",
        "script/seeds.jsonl",
        "script/broken.jsonl",
        "http://",
        "'http://[::1#x'",
        "'hf/two\nlines'",
    ],
)
def test_what_is_no_model(refused: Any, model: str) -> None:
    refused(f"simulate --user {model} --assistant {model} -n 1 --out new --json")


SETTINGS = {
    "import talk.jsonl --format klingon --out new.jsonl": "no format 'klingon'",
    "convert talk.jsonl --to klingon --out new.jsonl": "klingon",
    "split talk.jsonl --by klingon --out new": "klingon",
    "split talk.jsonl --parts 1,2,3 --out new": "sum 1",
    "split talk.jsonl --parts a,b --out new": "three shares",
    "mask talk.jsonl --model tiny --role klingon": "klingon",
    "mask talk.jsonl --model tiny --role user --template klingon": "klingon",
    "mask talk.jsonl --model openai/x --role user": "openai/x",
    "simulate --user script/script.jsonl --assistant script/script.jsonl -n 1 --guards polite --out new": "polite",
    "candidates --model script/script.jsonl --data seeds.jsonl --prompt nix --out new": "no prompt 'nix'",
    "judge seeds.jsonl --rubric nix --out new": "no rubric 'nix'",
    "judge seeds.jsonl --rubric not_yaml.yaml --out new": "not YAML",
    "judge seeds.jsonl --rubric socratic --out new": "needs a model",
    "preferences seeds.jsonl --out new.jsonl": "not a JudgedRow",
    "preferences --out new.jsonl": "data is missing",
    "eval simulator --people talk.jsonl --model tiny": "hf/PATH_OR_ID",
    "eval paired --difference 0": "cannot plan",
    "train sft --model tiny --data talk.jsonl --role user": "out is missing",
    "train sft --model tiny --data talk.jsonl --role user --out new --epochs -1": "epochs",
    "train sft --model tiny --data talk.jsonl --role user --out new --max-tokens-per-batch 0": "max_tokens_per_batch",
    "train dpo --model tiny --data talk.jsonl --out new --batch-size 3 --micro-batch-size 2": "micro_batch_size",
    "train sft --model tiny --data talk.jsonl --role user --out new --seed -1": "seed",
    "train sft --model tiny --data talk.jsonl --role user --out new --config typo.yaml": "stagess",
    "train sft --model tiny --data talk.jsonl --role user --out new --config a_list.yaml": "no settings",
    "run nothing --out new": "no recipe 'nothing'",
    "run nothing.yaml --out new": "no recipe",
    "run platolm --out new": "needs a value for corpus",
    "run platolm --set corpu=x --out new": "Did you mean 'corpus'?",
    "run platolm --set corpus --out new": "NAME=VALUE",
    "run platolm --set corpus=nofile.jsonl --out new": "nofile.jsonl: no such file",
    "run platolm --set corpus=talk.jsonl --set epochs=three --out new": "epochs",
    "run platolm --set corpus=talk.jsonl --set epochs=-1 --out new": "epochs",
    "run platolm --set corpus=talk.jsonl --set batch_size=0 --dry-run --out new": "batch_size",
    "run platolm --set corpus=talk.jsonl --set rounds=0 --dry-run --out new": "rounds",
    "run platolm --set corpus=talk.jsonl --set format=klingon --dry-run --out new": "no format 'klingon'",
    "run socratic-tutor --set sets=[debugging] --set people=[] --set debugging_train=seeds.jsonl --set rubric=nix --dry-run --out new": "no rubric 'nix'",
    "run socratic-tutor --set sets=[debugging] --set people=[] --set debugging_train=seeds.jsonl --set training_judge=code --dry-run --out new": "needs a model",
    "run socratic-tutor --set sets=[debugging] --set people=[] --set debugging_train=seeds.jsonl --set k=0 --dry-run --out new": "stage candidates-debugging: k",
    "run socratic-tutor --set sets=[debugging] --set people=[] --set debugging_train=seeds.jsonl --set temperature=-1 --dry-run --out new": "temperature",
    "run socratic-tutor --set sets=[debugging] --set people=[] --set debugging_train=seeds.jsonl --set temperature=-1 --json --out new": "temperature",
    "run not_yaml.yaml --out new": "not YAML",
    "run a_list.yaml --out new": "not a recipe",
    "run typo.yaml --out new": "stagess",
    "run stage_list.yaml --out new": "stages",
    "run value_list.yaml --out new": "values",
    "run unknown_do.yaml --out new": "`do` is none of",
    "run unknown_setting.yaml --out new": "Did you mean 'corpus'?",
    "run lacking.yaml --out new": "corpus is missing",
    "run loose.yaml --out new": "${nix}",
    "run bad_name.yaml --out new": "not a good name",
    "run loop.yaml --out new": "extends itself",
    "run orphan.yaml --out new": "no recipe 'nothere'",
}


@pytest.mark.parametrize("command", SETTINGS)
def test_a_wrong_setting(refused: Any, command: str) -> None:
    """A step refuses a wrong setting with 2, what only the work can find with 1."""
    refused(command, SETTINGS[command], codes=(1, 2))


def test_bytes_that_are_no_text(refused: Any, shelf: Path) -> None:
    for name in ("noise.yaml", "noise.md", "noise.jinja"):
        shutil.copy(shelf / "noise.bin", shelf / name)
    refused("run noise.yaml --out new", "not YAML", codes=(1, 2))
    refused("judge seeds.jsonl --rubric noise.yaml --out new", "not YAML", codes=(1, 2))
    refused("train sft --config noise.yaml", "not YAML", codes=(1, 2))
    refused(
        "candidates --model script/script.jsonl --data seeds.jsonl --prompt noise.md --out new",
        "not UTF-8",
        codes=(1, 2),
    )


@pytest.mark.parametrize(
    "command",
    [
        "nothing",
        "",
        "import",
        "eval nothing",
        "stats --nothing talk.jsonl",
        "simulate -n many",
        "simulate --user a --assistant b -n 0 --out new",
        "train sft --role klingon",
        "split talk.jsonl",
        "chat script/script.jsonl --as klingon",
    ],
)
def test_a_malformed_call_exits_2(run: Maieutic, shelf: Path, command: str) -> None:
    done = run(*shlex.split(command), cwd=shelf)
    said = done.out + done.err
    assert done.code == 2 and "Traceback" not in said
    assert "Usage: maieutic" in said or done.err.startswith("error: "), said


def test_what_people_and_models_wrote_never_acts_on_the_terminal(run: Maieutic, tmp_path: Path) -> None:
    row = {
        "id": f"a{EVIL}",
        "messages": [{"role": "user", "content": f"hi{EVIL}"}, {"role": "assistant", "content": f"yo{EVIL}"}],
        "problem": {"statement": f"p{EVIL}", "answer": f"4{EVIL}"},
        **{key: key + EVIL for key in ("source", "licence", "user_id", "intent", f"own{EVIL}")},
    }
    rogue = [{"id": f"c{EVIL}", "messages": [{"role": f"rogue{EVIL}", "content": "x"}]}, {f"nope{EVIL}": 3}]
    name = f"e{EVIL}.jsonl"
    (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in (row, *rogue)) + "{\n")
    (tmp_path / "s.jsonl").write_text(json.dumps({"text": f"Why?{EVIL}"}) + "\n")
    tiny_checkpoint(tmp_path / "tiny", context=512)
    speak = ("--user", "script/s.jsonl", "--assistant", "script/s.jsonl")
    for words in (
        ("import", name, "--out", "i.jsonl"),
        ("stats", name),
        ("stats", name, "--json"),
        ("clean", name, "--out", "c.jsonl"),
        ("split", name, "--out", "sp"),
        ("convert", name, "--to", "sharegpt", "--out", "c.json"),
        ("mask", name, "--model", "tiny", "--role", "user"),
        ("mask", name, "--model", "tiny", "--role", "user", "--json"),
        ("simulate", *speak, "--seeds", name, "--rounds", 2, "--guards", "none", "--out", "sim"),
        ("candidates", "--model", "script/s.jsonl", "--data", "i.jsonl", "--out", "ca"),
        ("judge", "ca", "--rubric", "socratic_checks", "--out", "j"),
        ("eval", "tutor", "score", "j"),
        ("chat", "script/s.jsonl"),
        ("chat", "script/s.jsonl", "--json"),
    ):
        done = run(*words, cwd=tmp_path, typed=f"hi{EVIL}\n")
        assert done.code == 0, done.err
        assert not ACTING & set(done.out + done.err), (words, ascii(done.out + done.err))
    assert json.loads(done.out)["messages"][1]["content"] == f"Why?{EVIL}", "JSON escapes, and loses nothing"
    for words in (
        ("stats", f"no{EVIL}"),
        ("split", name, "--out", "sp2", "--strict"),
        ("chat", f"script/no{EVIL}"),
    ):
        done = run(*words, cwd=tmp_path)
        assert done.code == 1 and len(done.error) == 2, done.err
        assert not ACTING & set(done.out + done.err), ascii(done.err)


def test_what_a_server_says_never_acts_on_the_terminal(run: Maieutic, tmp_path: Path) -> None:
    with Loopback(faults=lambda *_: status(400, f"no {EVIL}\nat all"), models=[f"tiny{EVIL}"]) as server:
        for spec in (server.spec, f"{server.url}#nobody"):
            for words in (
                ("chat", spec),
                ("simulate", "--user", spec, "--assistant", spec, "-n", 1, "--out", "s"),
            ):
                done = run(*words, cwd=tmp_path, typed="hi\n")
                assert done.code == 1 and len(done.error) == 2, done.err
                assert not ACTING & set(done.out + done.err), ascii(done.err)


KEY = "sk-canary-0123456789abcdef"
VERDICT = json.dumps(
    {"reason": "ok", "asks_question": "yes", "on_topic": 4, "helpful": 3, "reveals_answer": "no"}
)


def verdict_or_question(body: dict[str, Any]) -> dict[str, Any]:
    return completion(VERDICT if "reveals_answer" in json.dumps(body) else "What do you see?", body)


@pytest.mark.parametrize("by", ["address", "environment"])
def test_a_key_stands_in_no_file_and_on_no_stream(
    run: Maieutic, shelf: Path, tmp_path: Path, by: str
) -> None:
    with Loopback(verdict_or_question, key=KEY, faults=[status(500, f"your key {KEY} is fine")]) as server:
        model = server.spec if by == "address" else "openai/tiny"
        env = {"MAIEUTIC_API_KEY": KEY, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
        for command in (
            f"simulate --user {model} --assistant {model} -n 2 --rounds 2 --guards none --out s --json",
            f"candidates --model {model} --data {shelf}/seeds.jsonl -k 2 --out c",
            f"judge c --rubric socratic --judge {model} --out j --json",
            f"run {shelf}/tutor.yaml --set seeds={shelf}/seeds.jsonl --set model={model} --out r",
            f"run {shelf}/tutor.yaml --set seeds={shelf}/seeds.jsonl --set model={model} --out r2 --dry-run --json",
        ):
            done = run(*shlex.split(command), cwd=tmp_path, env=env)
            assert done.code == 0, done.err
            assert KEY not in done.out + done.err
        assert len(server.chats) > 10
    assert not [path for path, data in held(tmp_path).items() if KEY.encode() in data]
