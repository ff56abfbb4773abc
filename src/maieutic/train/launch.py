"""`accelerate launch` for `train sft` and `train dpo`: starts the processes and returns one result.

accelerate reads the config, starts a process per GPU (or on the CPU) under torch's elastic agent, and ends all of them
when one dies. This module adds three things:

- the error of the process that failed first is raised again in this process (`ProcessLost`, or the error itself);
- the processes end when this one is killed, even by SIGKILL: each process watches its parent;
- signal handlers, which the agent replaces, are restored at the end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from maieutic.core import errors
from maieutic.core.console import err, note, shown
from maieutic.core.errors import InputError, MaieuticError, MissingExtra, MissingInput, ProcessLost
from maieutic.core.store import Stage, read_json
from maieutic.models.weights import has_gpu, quiet
from maieutic.train.checkpoint import last_complete
from maieutic.train.config import DpoConfig, SftConfig, TrainConfig, TrainResult
from maieutic.train.distributed import join_group

_RETRY = "Run the same command again: it continues from the last checkpoint."
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""The signals whose handlers torch's agent replaces."""
_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED")
PARENT_SECONDS = 0.2
"""How often a process checks that the process that started it is still there."""


def train(config: TrainConfig, out: Path) -> TrainResult:
    """Train in this process, or in several if the config says so. See `steps.TrainSft.run` for the errors."""
    if config.accelerate_config or (config.processes or 1) > 1:
        return _launch(config, out)
    join_group()
    if isinstance(config, SftConfig):
        from maieutic.train.sft import sft

        return sft(config, out)
    from maieutic.train.dpo import dpo

    assert isinstance(config, DpoConfig)
    return dpo(config, out)


def _launch(config: TrainConfig, out: Path) -> TrainResult:
    cluster = plan(config)
    start = None
    if cluster.machine_rank > 0:
        # The first machine opens the run folder. A finished run needs no other machine.
        if (out / "manifest.json").is_file():
            return _result(out)
    else:
        with Stage(out, config.identity()) as stage:
            if stage.done:
                return _result(out)
            start = last_complete(stage.folder / "checkpoints")
    note(f"{_processes(cluster.num_processes)} on {'GPUs' if has_gpu() else 'the CPU'}")
    single = config.model_copy(update={"processes": None, "accelerate_config": None})
    _start(cluster, [config.method, single.model_dump_json(), str(out), str(os.getpid())])
    return _result(out, int(start.name.rpartition("-")[2]) if start else None)


def _result(out: Path, resumed_from: int | None = None) -> TrainResult:
    manifest = read_json(out / "manifest.json")
    return TrainResult(run=str(out), model=out / "model", metrics=manifest, resumed_from=resumed_from)


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def plan(config: TrainConfig) -> Any:
    """The `ClusterConfig` of accelerate for the launch: from a config file or for this machine, and checked.

    Raises:
        InputError, MissingInput: processes, batch and machine do not fit together, or the config is not usable.
    """
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.utils.other import get_free_port

    if config.accelerate_config:
        cluster = read_cluster(config.accelerate_config)
    else:
        cluster = ClusterConfig(
            compute_environment="LOCAL_MACHINE",
            distributed_type="MULTI_GPU" if has_gpu() else "MULTI_CPU",
            mixed_precision="no",
            use_cpu=False,
            debug=False,
        )
    if config.processes is not None:
        cluster.num_processes = config.processes
    if cluster.num_processes < 1:
        raise InputError(
            f"{config.accelerate_config}: no num_processes", "Set it in the file, or give --processes."
        )
    _check_machines(cluster)
    if config.batch_size < cluster.num_processes:
        raise InputError(
            f"a batch of {config.batch_size} leaves some of {_processes(cluster.num_processes)} without a row",
            f"Give a --batch-size of {cluster.num_processes} or more, or fewer --processes.",
        )
    cluster.use_cpu = not has_gpu()
    cluster.mixed_precision = None  # `precision` decides, in each process's trainer
    cluster.debug = False  # in debug mode accelerate prints a failure and returns as if there were none
    if cluster.num_machines == 1 and not cluster.main_process_port:
        cluster.main_process_port = get_free_port()
    return cluster


def read_cluster(name: str) -> Any:
    """An accelerate config: the path of a file, or the name of a shipped one.

    Raises:
        InputError, MissingInput: there is no such config, or it asks for something that is not supported.
        MissingExtra: it asks for DeepSpeed, which is not installed.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from yaml import YAMLError

    shipped = files("maieutic.train") / "accelerate"
    path = Path(name)
    if not name.endswith((".yaml", ".yml", ".json")):
        path = Path(str(shipped / f"{name}.yaml"))
    if not path.is_file():
        names = sorted(entry.name.removesuffix(".yaml") for entry in shipped.iterdir())
        raise MissingInput(
            f"no accelerate config {name!r}", f"Give the path of a .yaml file, or one of: {', '.join(names)}."
        )
    try:
        cluster = load_config_from_file(str(path))
    except (ValueError, TypeError, AttributeError, KeyError, UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: not an accelerate config ({reason})", "Make one with `accelerate config`."
        ) from None
    _check_kind(name, cluster)
    return cluster


def _check_kind(name: str, cluster: Any) -> None:
    kind = getattr(getattr(cluster, "distributed_type", None), "value", None)
    if kind not in _KINDS:
        raise InputError(
            f"{name}: distributed_type {kind} is not supported",
            "Use MULTI_GPU, MULTI_CPU, FSDP or DEEPSPEED on machines of your own.",
        )
    if kind == "FSDP" and int(cluster.fsdp_config.get("fsdp_version", 1)) != 2:
        raise InputError(f"{name}: not FSDP2", "Write `fsdp_version: 2` under `fsdp_config`.")
    if kind != "DEEPSPEED":
        return
    launcher = cluster.deepspeed_config.get("deepspeed_multinode_launcher", "standard")
    if launcher != "standard":
        raise InputError(
            f"{name}: deepspeed_multinode_launcher {launcher} starts processes that this command cannot watch",
            "Write `deepspeed_multinode_launcher: standard`, and run the command on every machine.",
        )
    if find_spec("deepspeed") is None:
        raise MissingExtra(
            f"{name} asks for DeepSpeed, which is not installed", "Run: python -m pip install deepspeed"
        )


def _check_machines(cluster: Any) -> None:
    """Refuse processes that do not fit the machines, as far as this machine can tell."""
    here, rest = divmod(cluster.num_processes, cluster.num_machines)
    if rest:
        raise InputError(
            f"{_processes(cluster.num_processes)} do not divide among {cluster.num_machines} machines",
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

    ids = cluster.gpu_ids
    gpus = torch.cuda.device_count() if ids in (None, "all") else len(str(ids).split(","))
    if here > gpus:
        raise InputError(
            f"{_processes(here)} for {gpus} GPU{'s' if gpus > 1 else ''}: each process needs its own",
            f"Give --processes {gpus * cluster.num_machines}, or make more GPUs visible.",
        )


def _start(cluster: Any, call: list[str]) -> None:
    """Run `accelerate launch` in this process until all processes end; raises the error of the first that failed."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    kind = cluster.distributed_type.value  # writing the file makes it a string
    stopped: signal.Signals | None = None
    gpus = {} if cluster.gpu_ids in (None, "all") else {"CUDA_VISIBLE_DEVICES": cluster.gpu_ids}
    cluster.gpu_ids = (
        "all"  # all visible GPUs; with another value accelerate starts one process without the agent
    )
    with tempfile.TemporaryDirectory(prefix="maieutic-launch-") as folder, quiet(), _restored():
        file = Path(folder) / "accelerate.yaml"
        cluster.to_yaml_file(file)
        words = ["--config_file", str(file), "--log_dir", folder, "--module"]
        if kind not in ("FSDP", "DEEPSPEED"):
            words.append("--multi_gpu")  # this starts the agent, on a CPU too
        try:
            with patch_environment(**gpus):
                launch_command(launch_command_parser().parse_args([*words, "maieutic.train.launch", *call]))
        except ChildFailedError as error:
            _raise(*_first_failure(error.failures), cluster.num_processes)
        except (ValueError, ConnectionError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"accelerate refuses to start: {reason}", "Correct its config file.") from None
        except SignalException as error:
            stopped = error.sigval
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped is not None:
        signal.signal(stopped, signal.SIG_DFL)
        os.kill(os.getpid(), stopped)


@contextmanager
def _restored() -> Iterator[None]:
    """Restore signal handlers afterwards; meanwhile drop the log lines of torch's agent, since the error is raised."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _first_failure(failures: dict[int, Any]) -> tuple[int, Any]:
    """Rank and failure of the process that failed first. Its peers fail as a consequence, or are ended by the agent."""

    def order(item: tuple[int, Any]) -> tuple[int, int]:
        failure = item[1]
        if failure.exitcode == -signal.SIGTERM:
            return 3, failure.timestamp
        return 0 if failure.exitcode < 0 else 1 if "kind" in failure.error_file_data else 2, failure.timestamp

    return min(failures.items(), key=order)


def _raise(rank: int, failure: Any, processes: int) -> NoReturn:
    data = failure.error_file_data
    if "kind" in data:
        raise getattr(errors, data["kind"])(data["what"], data["hint"])
    which = f"process {rank} of {processes}"
    if failure.exitcode < 0:
        memory = " (the system does this when memory runs out)" if failure.exitcode == -signal.SIGKILL else ""
        raise ProcessLost(
            f"{which} was killed by {failure.signal_name()}{memory}; the others were ended", _RETRY
        )
    if text := data.get("traceback"):
        err.print(shown(text), markup=False)
    reason = data.get("message") or f"exit code {failure.exitcode}"
    raise ProcessLost(f"{which} failed ({reason}); the others were ended", _RETRY)


def main() -> None:
    """Entry point of a training process: `python -m maieutic.train.launch METHOD SETTINGS OUT PARENT`."""
    method, settings, out, parent = sys.argv[1:]
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    try:
        kind: type[TrainConfig] = SftConfig if method == "sft" else DpoConfig
        train(kind.model_validate_json(settings), Path(out))
        import torch.distributed as group

        if group.is_initialized():
            group.destroy_process_group()
    except BaseException as error:
        _write_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # exit now: a normal exit would wait for peers that wait for this process


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def _write_error(error: BaseException) -> None:
    """Write the error into the file that torch's agent reads, with what is needed to raise it again."""
    first_line = f"{type(error).__name__}: {error}".splitlines()[0]
    data: dict[str, Any] = {"message": first_line, "timestamp": int(time.time())}
    if isinstance(error, MaieuticError):
        data |= {"kind": type(error).__name__, "what": error.what, "hint": error.hint}
    else:
        data["traceback"] = "".join(traceback.format_exception(error))
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(data), encoding="utf-8")


if __name__ == "__main__":
    main()
