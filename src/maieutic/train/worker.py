"""One of the processes that `launch` starts: `python -m maieutic.train.worker METHOD SETTINGS PARENT`.

It trains as a lone process does, in a group. What it raises is left for the command that started it, which says it
once; and when that command is gone, however it ended, so is this process a moment later.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from maieutic.core.errors import MaieuticError

LOOK_SECONDS = 0.2
"""How often a process looks whether the command that started it is still there."""


def main() -> None:
    """Train; leave with code 1 where that fails, at once: peers may wait for this process in vain."""
    method, settings, parent = sys.argv[1:]
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    try:
        _train(method, settings)
    except BaseException as error:
        _tell(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _end_with(parent: int) -> None:
    """End this process once its parent is another, as when the first one was killed."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _train(method: str, settings: str) -> None:
    import torch.distributed as group
    from accelerate import PartialState

    from maieutic.core.console import err, out
    from maieutic.models.weights import has_gpu, quiet
    from maieutic.train import distributed as ranks
    from maieutic.train.config import DpoConfig, SftConfig
    from maieutic.train.dpo import dpo
    from maieutic.train.sft import sft

    with quiet():
        PartialState(cpu=not has_gpu())
    err.quiet = out.quiet = not ranks.is_first()
    if method == "sft":
        sft(SftConfig.model_validate_json(settings))
    else:
        dpo(DpoConfig.model_validate_json(settings))
    if group.is_initialized():
        group.destroy_process_group()


def _tell(error: BaseException) -> None:
    """Leave what happened in the file that torch's agent names and reads."""
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    told = {"message": said, "said": said, "timestamp": int(time.time())}
    if isinstance(error, MaieuticError):
        told |= {"kind": type(error).__name__, "what": error.what, "hint": error.hint}
    else:
        told["traceback"] = "".join(traceback.format_exception(error))
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
