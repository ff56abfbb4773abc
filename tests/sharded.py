"""One of the processes of an FSDP2 run on the CPU: `sharded.py SETTINGS OUT`, started by `accelerate launch`.

accelerate gives the weights to torch's `fully_shard` on accelerators only. Here it is told that two gloo processes are
such a thing; everything after that is its own code, the trainer's and ours. The weights are looked at, not believed.
"""

from __future__ import annotations

import sys
from typing import Any

import transformers.trainer
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from maieutic.train.steps import TrainSft

started = PartialState.__init__


def lifted(self: Any, *args: Any, **kwargs: Any) -> None:
    started(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


class Looks(transformers.TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        weights = list(model.parameters())
        assert len(weights) > 10 and all(isinstance(weight, DTensor) for weight in weights)
        held = sum(weight.to_local().numel() for weight in weights)
        whole = sum(weight.numel() for weight in weights)
        print(f"process {args.process_index} holds {held} of {whole}", file=sys.stderr)


if __name__ == "__main__":
    PartialState.__init__ = lifted
    transformers.trainer.DEFAULT_CALLBACKS.append(Looks)
    TrainSft.model_validate_json(sys.argv[1]).run(sys.argv[2])
