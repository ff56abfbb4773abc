"""`--processes` and `--accelerate-config`: real processes on gloo, which match one, and none of which is ever left."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils.other import get_free_port
from hypothesis import given
from hypothesis import strategies as st
from jobs import Job, dpo_job, sft_job
from safetensors.torch import load_file
from tiny import tiny_checkpoint
from trl import SFTConfig as TrainerConfig

from maieutic.core.errors import InputError, MissingExtra, MissingInput
from maieutic.core.messages import Conversation
from maieutic.core.store import stage_rows
from maieutic.data.corpus import write_corpus
from maieutic.models.weights import quiet
from maieutic.train import launch
from maieutic.train.launch import plan, read_cluster
from maieutic.train.loop import arguments
from maieutic.train.packing import shares

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(900)  # several commands, one after the other, each of several processes

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "src" / "maieutic" / "train" / "accelerate"
STEPS = 40
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("launch")
    talks = [
        Conversation.model_validate(
            {
                "messages": [
                    {"role": "user", "content": f"What is {number} and {number}?"},
                    {"role": "assistant", "content": "Count them. " * (number % 5 + 1)},
                    {"role": "user", "content": f"It is {2 * number}. " * (number % 3 + 1)},
                ],
                "ended": number % 2 == 0,
            }
        )
        for number in range(22)
    ]
    write_corpus(folder / "talks.jsonl", talks)
    write_corpus(folder / "held.jsonl", talks[:5])
    return sft_job(
        model=str(tiny_checkpoint(folder / "base", context=256)),
        data=folder / "talks.jsonl",
        validation=folder / "held.jsonl",
        out=folder / "whole",
        role="user",
        batch_size=6,
        max_steps=STEPS,
        learning_rate=5e-3,
        save_steps=7,
    )


@pytest.fixture(scope="module")
def whole(settings: Job) -> Path:
    """The run of one process that nobody killed."""
    settings.run()
    return settings.out


def same(one: Path, two: Path) -> None:
    """Row by row the same losses, weight by weight the same model."""
    ours, theirs = list(stage_rows(one)), list(stage_rows(two))
    assert ours and [row["key"] for row in ours] == [row["key"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("loss", "eval_loss", "grad_norm", "margin", "eval_margin", "eval_accuracy"):
            assert mine.get(name) == pytest.approx(other.get(name), abs=1e-4), (mine["key"], name)
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def command(job: Job, *more: object) -> list[str]:
    """`maieutic train sft` with these settings."""
    given = job.step.model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {"out": job.out}
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "maieutic", "train", "sft", *flags, *map(str, more)]


def start(config: Job, *more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(config, *more), env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def workers_past(run: subprocess.Popen[str], out: Path, step: int) -> list[psutil.Process]:
    """The processes of a run, once it has a whole checkpoint past `step`, by their numbers."""
    limit = time.monotonic() + 150
    while not any(
        int(path.parent.name[11:]) > step for path in (out / "checkpoints").glob("checkpoint-*/complete.json")
    ):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.005)
    found = psutil.Process(run.pid).children()
    return sorted(found, key=lambda one: int(one.environ()["RANK"]))


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end soon."""
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, 4])
def test_two_processes_match_one(settings: Job, tmp_path: Path, lora: int | None) -> None:
    one = settings.but(out=tmp_path / "one", lora_r=lora, max_steps=12)
    one.run()
    done = subprocess.run(
        command(one.but(out=tmp_path / "two"), "--processes", 2, "--json"),
        env=ENV,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["processes"], printed["steps"], printed["resumed_from"]) == (2, 12, None)
    notes = done.stderr.splitlines()
    assert notes[0] == "2 processes on the CPU" and notes[1].startswith("train: 22 rows")
    assert notes[2].startswith("validation: 5 rows") and len(notes) <= 4
    same(tmp_path / "one", tmp_path / "two")
    if lora:
        files = [tmp_path / run / "adapter" / "adapter_model.safetensors" for run in ("one", "two")]
        assert load_file(files[0]).keys() == load_file(files[1]).keys()
    again = one.but(out=tmp_path / "two", processes=2).run()
    assert again.metrics["processes"] == 2 and again.resumed_from is None


@pytest.mark.slow
def test_two_processes_match_one_on_preferences(settings: Job, tmp_path: Path) -> None:
    pairs = [
        {
            "prompt": [{"role": "user", "content": f"What is {number}?"}],
            "chosen": [{"role": "assistant", "content": "Which sign is it? " * (number % 3 + 1)}],
            "rejected": [{"role": "assistant", "content": f"It is {number}."}],
        }
        for number in range(10)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    one = dpo_job(
        model=settings.step.model,
        data=data,
        validation=data,
        out=tmp_path / "one",
        epochs=2,
        learning_rate=1e-3,
        batch_size=4,
    )
    one.run()
    one.but(out=tmp_path / "two", processes=2).run()
    same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_process_killed_a_command_stopped_or_killed_and_the_same_command_goes_on(
    settings: Job, whole: Path, tmp_path: Path
) -> None:
    shared = settings.but(out=tmp_path / "killed", processes=2, save_steps=3)

    run = start(shared)
    workers = workers_past(run, shared.out, 0)
    assert len(workers) == 2
    workers[1].kill()
    said = run.communicate(timeout=60)[1].splitlines()
    assert run.returncode == 1 and gone(workers)
    what, hint = said[-2:]
    assert what.startswith("error: process 1 of 2 was killed by SIGKILL") and "same command again" in hint
    assert not [line for line in said if "Traceback" in line], said

    run = start(shared)
    workers = workers_past(run, shared.out, 8)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1].splitlines()
    assert run.returncode == 130 and gone(workers)

    run = start(shared)
    workers = workers_past(run, shared.out, 16)
    run.kill()
    run.communicate(timeout=60)
    assert gone(workers)

    run = start(shared)
    workers = workers_past(run, shared.out, 24)
    run.terminate()
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGTERM and gone(workers)

    alone = shared.but(processes=None).run()  # on fewer processes it goes on as well
    assert alone.resumed_from and alone.resumed_from > 24 and alone.metrics["steps"] == STEPS
    expected = settings.run().metrics
    for name in ("final_loss", "loss", "eval_loss", "tokens"):
        assert alone.metrics[name] == pytest.approx(expected[name], abs=1e-3), name


@pytest.mark.slow
def test_what_one_process_raises_the_command_says(settings: Job, tmp_path: Path) -> None:
    wild = settings.but(out=tmp_path / "wild", learning_rate=1e12)
    done = subprocess.run(command(wild, "--processes", 2), env=ENV, capture_output=True, text=True)
    what, hint = done.stderr.splitlines()[-2:]
    assert done.returncode == 1 and what.startswith("error: the loss is") and "--learning-rate" in hint
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_machines_by_two_commands(settings: Job, tmp_path: Path) -> None:
    port = get_free_port()
    config = settings.but(out=tmp_path / "run", max_steps=4)
    runs = []
    for rank in (0, 1):
        file = tmp_path / f"machine-{rank}.yaml"
        file.write_text(
            f"distributed_type: MULTI_CPU\nuse_cpu: true\nnum_machines: 2\nnum_processes: 2\nmachine_rank: {rank}\n"
            f"main_process_ip: 127.0.0.1\nmain_process_port: {port}\n"
        )
        runs.append(start(config, "--accelerate-config", file, "--json"))
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    first, second = (json.loads(out) for out, _ in said)
    assert first == second and first["processes"] == 2
    later = config.but(accelerate_config=str(tmp_path / "machine-1.yaml"))
    assert later.run().metrics == config.run().metrics  # what is done waits for nobody


@pytest.mark.slow
def test_weights_spread_over_processes_come_together(settings: Job, tmp_path: Path) -> None:
    """FSDP2, with the shipped config's settings: the same losses and weights, whole, also after going on."""
    one = settings.but(out=tmp_path / "one", max_steps=6, save_steps=3)
    one.run()
    config = one.but(out=tmp_path / "two")
    cluster = read_cluster("8-gpus-fsdp2")
    cluster.num_processes, cluster.mixed_precision = 2, "no"
    cluster.to_yaml_file(tmp_path / "two.yaml")
    script = [str(ROOT / "tests" / "sharded.py"), *config.words()]
    for killed in (False, True):
        if killed:
            done_before = config.out / "checkpoints" / "checkpoint-6"
            for path in (done_before / "complete.json", config.out / "manifest.json"):
                path.unlink()
        words = ["--config_file", str(tmp_path / "two.yaml"), "--main_process_port", str(get_free_port())]
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", *words, *script],
            env=ENV,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        shares = re.findall(r"process (\d) holds (\d+) of (\d+)", done.stderr)
        assert sorted(rank for rank, _, _ in shares) == ["0", "1"]
        assert all(0.4 < int(held) / int(count) < 0.6 for _, held, count in shares)
        assert ("resuming from step 4" in done.stderr) == killed
        same(tmp_path / "one", tmp_path / "two")
    assert (config.out / "checkpoints" / "checkpoint-6" / "pytorch_model_fsdp_0" / ".metadata").is_file()
    architecture = json.loads((config.out / "model" / "config.json").read_text())["architectures"]
    assert architecture == ["LlamaForCausalLM"]


@pytest.mark.parametrize(
    ("name", "machines", "processes", "kind"),
    [("1-gpu-lora", 1, 1, "NO"), ("8-gpus-fsdp2", 1, 8, "FSDP"), ("2x8-gpus-fsdp2", 2, 16, "FSDP")],
)
def test_the_shipped_configs_are_accelerates(name: str, machines: int, processes: int, kind: str) -> None:
    cluster = load_config_from_file(str(SHIPPED / f"{name}.yaml"))
    assert isinstance(cluster, ClusterConfig) and cluster == read_cluster(name)
    assert (cluster.num_machines, cluster.num_processes) == (machines, processes)
    assert cluster.distributed_type.value == kind
    assert (cluster.fsdp_config.get("fsdp_version") == 2) == (kind == "FSDP")
    if machines > 1:
        assert cluster.machine_rank == 0 and cluster.main_process_ip and cluster.main_process_port


def test_the_shipped_sharding_reaches_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through accelerate's own launcher into the environment its plugin reads."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    port = get_free_port()
    words = ["--config_file", str(SHIPPED / "2x8-gpus-fsdp2.yaml"), "--main_process_port", str(port), "x"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    for key, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(key, value)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", 0)
    assert args.rdzv_endpoint == f"10.0.0.1:{port}"
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (
        2,
        True,
        True,
    )
    assert "SHARDED" in str(plugin.state_dict_type) and "transformer" in str(plugin.auto_wrap_policy)


def test_the_other_processes_are_as_quiet_as_the_first(
    settings: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainerConfig, "local_process_index", 1)
    with quiet():
        args = TrainerConfig(**arguments(settings.step, tmp_path))
        assert not args.should_log and args.get_process_log_level() == logging.ERROR


def test_processes_decide_nothing_about_the_weights(settings: Job) -> None:
    shared = settings.but(processes=2, accelerate_config="8-gpus-fsdp2")
    assert shared.step.identity() == settings.step.identity()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 9))
def test_every_row_is_one_processs_and_none_has_much_more(lengths: list[int], among: int) -> None:
    found = shares(lengths, among)
    assert len(found) == among
    assert sorted(number for share in found for number in share) == list(range(len(lengths)))
    tokens = [sum(lengths[number] for number in share) for share in found]
    assert max(tokens) - min(tokens) <= max(lengths)
    assert all(found) or len(lengths) < among


def refused(job: Job, **more: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        plan(job.but(**more).step)
    assert caught.value.hint and len(str(caught.value).splitlines()) == 2
    return caught.value


def test_what_does_not_fit_is_said_before_anything_starts(
    settings: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(settings, processes=7)
    assert "batch of 6 leaves some of 7 processes without a row" in error.what and "7 or more" in error.hint
    assert "needs GPUs" in refused(settings, accelerate_config="8-gpus-fsdp2").what
    assert isinstance(refused(settings, accelerate_config="none.yaml"), MissingInput)
    assert "8-gpus-fsdp2" in refused(settings, accelerate_config="9-gpus").hint
    for number, (text, said) in enumerate(
        (
            ("a: [", "not an accelerate config"),
            ("- a\n", "not an accelerate config"),
            ("num_processes: 2\n", "distributed_type"),
            ("distributed_type: MANY\n", "MANY"),
            ("distributed_type: MULTI_CPU\nuse_cpu: true\nshards: 2\n", "shards"),
            ("distributed_type: MULTI_CPU\nuse_cpu: true\n", "no num_processes"),
            ("distributed_type: XLA\nnum_processes: 2\n", "XLA is not supported"),
            ("distributed_type: FSDP\nnum_processes: 2\n", "not FSDP2"),
            (
                "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {deepspeed_multinode_launcher: pdsh}\n",
                "pdsh",
            ),
            (
                "distributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 3\nnum_machines: 2\n",
                "3 processes do not divide among 2 machines",
            ),
        )
    ):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert said in refused(settings, accelerate_config=str(file)).what, text
    if find_spec("deepspeed") is None:
        file.write_text("distributed_type: DEEPSPEED\nnum_processes: 2\n")
        with pytest.raises(MissingExtra, match="not installed"):
            read_cluster(str(file))
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    error = refused(settings, processes=3)
    assert "3 processes for 2 GPUs" in error.what and "--processes 2" in error.hint
    assert "8 processes for 2 GPUs" in refused(settings, accelerate_config="8-gpus-fsdp2", batch_size=8).what
