"""What the benchmarks of training share: ways in turn, each in a process of its own; peaks; the machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

Found = dict[str, dict[str, list[dict[str, float]]]]
"""By size and way, what each round took."""


def interleaved(
    script: str, folder: Path, sizes: list[str], ways: list[str], rounds: int, device: str, counted: str
) -> Found:
    """Every way in turn, round after round; `counted` is what `SCRIPT run FOLDER SIZE WAY DEVICE` prints it did so many of."""
    found: Found = {size: {way: [] for way in ways} for size in sizes}
    for size in sizes:
        for number in range(rounds):
            for way in ways:
                took = _asked(script, "run", folder, size, way, device)
                took["rate"] = took[counted] / took["seconds"]
                found[size][way].append(took)
                print(f"{size}, round {number + 1}: {way} {took['rate']:.2f} {counted}/s, {took['peak_gb']:.2f} GB",
                      file=sys.stderr, flush=True)  # fmt: skip
    return found


def _asked(script: str, *arguments: object) -> dict[str, Any]:
    """A script run with arguments; what it prints last."""
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_gb(device: str) -> float:
    """The most memory this process has held, on the device it trained on."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def where(device: str) -> dict[str, Any]:
    """The machine, and what ran on it."""
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load": [round(one, 1) for one in os.getloadavg()],
            "python": platform.python_version(),
            "device": device,
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "maieutic")},
    }
