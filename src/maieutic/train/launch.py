"""Training on several devices: the same command starts a process for each, and ends when the first of them dies.

The processes are started by accelerate's launcher, which is torch's elastic agent in this process: it watches them,
and when one is gone it ends the others. What to do then is always the same: run the same command again, and it goes on
from the last whole checkpoint. A process looks out for this one in turn (see `worker`), so that none outlives it.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from maieutic.core import errors
from maieutic.core.console import err, note, shown
from maieutic.core.errors import InputError, MissingExtra, MissingInput, ProcessLost
from maieutic.core.store import Stage, read_json
from maieutic.models.weights import has_gpu, quiet
from maieutic.train.checkpoint import last_complete
from maieutic.train.config import TrainConfig, read_yaml
from maieutic.train.loop import TrainResult

_AGAIN = "Run the same command again: it goes on from the last checkpoint."
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those for which the agent puts handlers of its own, and leaves them there."""


def several(config: TrainConfig) -> bool:
    """Whether a run is asked to be shared, or to be set up by accelerate."""
    return bool(config.accelerate_config) or (config.processes or 1) > 1


def launch(method: str, config: TrainConfig) -> TrainResult:
    """Train in processes of their own, and wait for the end.

    Args:
        method: `sft` or `dpo`.
        config: with `processes` or `accelerate_config`.

    Raises:
        InputError, MissingInput: the processes, the batch and the machine do not fit together.
        ProcessLost: one of them died.
        MaieuticError: whatever training raises, as in a single process.
    """
    cluster = plan(config)
    start = None
    if cluster.machine_rank > 0:
        # The first machine holds the run, and does not wait for others where there is nothing to do.
        if (config.out / "manifest.json").is_file():
            return TrainResult(config.out / "model", read_json(config.out / "manifest.json"))
    else:
        with Stage(config.out, {"method": method, **config.settings()}) as stage:
            if stage.done:
                return TrainResult(stage.folder / "model", stage.manifest)
            start = last_complete(stage.folder / "checkpoints")
    note(f"{_processes(cluster.num_processes)} on {'GPUs' if has_gpu() else 'the CPU'}")
    alone = config.model_copy(update={"processes": None, "accelerate_config": None})
    _run(cluster, [method, alone.model_dump_json(), str(os.getpid())])
    resumed = int(start.name.rpartition("-")[2]) if start else None
    return TrainResult(config.out / "model", read_json(config.out / "manifest.json"), resumed)


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def plan(config: TrainConfig) -> Any:
    """The launch as accelerate's own `ClusterConfig`, from its file or for this machine, and checked against it.

    Raises:
        InputError, MissingInput: as said.
    """
    cluster = read_cluster(config.accelerate_config) if config.accelerate_config else _ours()
    if config.processes is not None:
        cluster.num_processes = config.processes
    if cluster.num_processes < 1:
        raise InputError(
            f"{config.accelerate_config}: no num_processes", "Write it there, or give --processes."
        )
    _check_machines(cluster)
    if config.batch_size < cluster.num_processes:
        raise InputError(
            f"a batch of {config.batch_size} leaves some of {_processes(cluster.num_processes)} without a row",
            f"Give a --batch-size of {cluster.num_processes} or more, or fewer --processes.",
        )
    cluster.use_cpu = not has_gpu()
    cluster.mixed_precision = None  # each process tells its trainer, from `precision`
    cluster.debug = False  # with it, accelerate prints a failure and goes on as if there were none
    if cluster.num_machines == 1 and not cluster.main_process_port:
        from accelerate.utils.other import get_free_port

        cluster.main_process_port = get_free_port()
    return cluster


def _ours() -> Any:
    from accelerate.commands.config.config_args import ClusterConfig

    kind = "MULTI_GPU" if has_gpu() else "MULTI_CPU"
    return ClusterConfig(
        compute_environment="LOCAL_MACHINE",
        distributed_type=kind,
        mixed_precision="no",
        use_cpu=False,
        debug=False,
    )


def read_cluster(name: str) -> Any:
    """An accelerate config from a file, or one of those that ship, by its name.

    Raises:
        InputError, MissingInput: there is none, it is none, or it asks for what is not done here.
        MissingExtra: it asks for DeepSpeed, which is not there.
    """
    from accelerate.commands.config.config_args import ClusterConfig

    path = Path(name)
    if not name.endswith((".yaml", ".yml", ".json")):
        path = Path(str(_shipped() / f"{name}.yaml"))
        if not path.is_file():
            names = sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir())
            raise MissingInput(
                f"no accelerate config {name!r}",
                f"Known: {', '.join(names)}; or give the path of a .yaml file.",
            )
    values = read_yaml(path)
    try:
        known = {*ClusterConfig.__dataclass_fields__, "dynamo_backend", "fp16"}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"unknown setting {unknown[0]!r}")
        cluster = ClusterConfig(**ClusterConfig.process_config(values))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name}: no config of accelerate ({error})", "Make one with `accelerate config`."
        ) from None
    _check_kind(name, cluster)
    return cluster


def _check_kind(name: str, cluster: Any) -> None:
    kind = cluster.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED"):
        raise InputError(
            f"{name}: distributed_type {kind} is not supported",
            "Use MULTI_GPU, MULTI_CPU, FSDP or DEEPSPEED on machines of your own.",
        )
    if kind == "FSDP" and int(cluster.fsdp_config.get("fsdp_version", 1)) != 2:
        raise InputError(f"{name}: not FSDP2", "Write `fsdp_version: 2` under `fsdp_config`.")
    if kind != "DEEPSPEED":
        return
    starter = cluster.deepspeed_config.get("deepspeed_multinode_launcher", "standard")
    if starter != "standard":
        raise InputError(
            f"{name}: deepspeed_multinode_launcher {starter} starts processes that nobody here watches",
            "Write `deepspeed_multinode_launcher: standard`, and run the command on every machine.",
        )
    if find_spec("deepspeed") is None:
        raise MissingExtra(
            f"{name} asks for DeepSpeed, which is not installed", "Run: python -m pip install deepspeed"
        )


def _shipped() -> Any:
    return files("maieutic.train") / "accelerate"


def _check_machines(cluster: Any) -> None:
    """Whether the processes fit the machines, as far as this one can tell."""
    here, over = divmod(cluster.num_processes, cluster.num_machines)
    if over:
        raise InputError(
            f"{_processes(cluster.num_processes)} do not spread over {cluster.num_machines} machines",
            f"Give a number of processes that is a multiple of {cluster.num_machines}.",
        )
    kind = cluster.distributed_type.value
    if not has_gpu():
        if kind in ("FSDP", "DEEPSPEED") or (kind == "MULTI_GPU" and not cluster.use_cpu):
            raise InputError(
                f"{kind} needs GPUs, and this machine has none that torch can use",
                "Use --processes alone, which shares the batch over processes on the CPU.",
            )
        return
    import torch

    named = cluster.gpu_ids
    gpus = torch.cuda.device_count() if named in (None, "all") else len(str(named).split(","))
    if here > gpus:
        raise InputError(
            f"{_processes(here)} for {gpus} GPU{'s' if gpus > 1 else ''}: each needs one of its own",
            f"Give --processes {gpus * cluster.num_machines}, or make more GPUs visible.",
        )


def _run(cluster: Any, call: list[str]) -> None:
    """Start the workers through accelerate and wait for them; raises what ended the first that failed."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    kind = cluster.distributed_type.value
    stopped: signal.Signals | None = None
    gpus = {} if cluster.gpu_ids in (None, "all") else {"CUDA_VISIBLE_DEVICES": cluster.gpu_ids}
    cluster.gpu_ids = "all"  # of those visible; accelerate itself refuses to watch over a single one
    with tempfile.TemporaryDirectory(prefix="maieutic-launch-") as folder, quiet(), _silent_agent():
        file = Path(folder) / "accelerate.yaml"
        cluster.to_yaml_file(file)
        words = ["--config_file", str(file), "--log_dir", folder, "--module"]
        if kind not in ("FSDP", "DEEPSPEED"):
            # The one word that has accelerate start and watch several processes, on a CPU as on GPUs.
            words.append("--multi_gpu")
        try:
            with _handlers_kept(), patch_environment(**gpus):
                launch_command(launch_command_parser().parse_args([*words, "maieutic.train.worker", *call]))
        except ChildFailedError as error:
            _raise(_root(error.failures), cluster.num_processes)
        except (ValueError, ConnectionError) as error:
            what = " ".join(str(error).split())
            raise InputError(f"accelerate refuses to start: {what}", "Mend its config file.") from None
        except SignalException as error:
            stopped = error.sigval
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped is not None:
        signal.signal(stopped, signal.SIG_DFL)
        os.kill(os.getpid(), stopped)


def _root(failures: dict[int, Any]) -> tuple[int, Any]:
    """The failure that came first: who is killed leaves peers that fail for want of it, or that the agent ends."""

    def order(item: tuple[int, Any]) -> tuple[int, int]:
        failure = item[1]
        if failure.exitcode == -signal.SIGTERM:
            return 3, failure.timestamp
        return 0 if failure.exitcode < 0 else 1 if "kind" in failure.error_file_data else 2, failure.timestamp

    return min(failures.items(), key=order)


def _raise(root: tuple[int, Any], processes: int) -> NoReturn:
    rank, failure = root
    told = failure.error_file_data
    if "kind" in told:
        raise getattr(errors, told["kind"])(told["what"], told["hint"])
    which = f"process {rank} of {processes}"
    if failure.exitcode < 0:
        memory = " (as the system does when memory runs out)" if failure.exitcode == -signal.SIGKILL else ""
        raise ProcessLost(
            f"{which} was killed by {failure.signal_name()}{memory}; the others were ended", _AGAIN
        )
    if text := told.get("traceback"):
        err.print(shown(text), markup=False)
    said = told.get("said") or f"it left with code {failure.exitcode}"
    raise ProcessLost(f"{which} failed ({said}); the others were ended", _AGAIN)


@contextmanager
def _silent_agent() -> Iterator[None]:
    """Keep the agent's own account of a failure off the terminal: ours takes two lines."""
    logger = logging.getLogger("torch.distributed.elastic")
    before, handler = logger.propagate, logging.NullHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put the signals' handlers back that the agent replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
