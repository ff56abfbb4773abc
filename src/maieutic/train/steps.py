"""The steps `train sft` and `train dpo`; their settings are in `config`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from maieutic.train.config import DpoConfig, SftConfig, TrainResult


class TrainSft(SftConfig):
    """Fine-tune on the turns of one role; `--role user` makes a user simulator.

    With --validation, held-out conversations are evaluated after every epoch, and the checkpoint with the lowest
    validation loss becomes the model. After an interruption the same command continues from the last checkpoint.
    """

    command: ClassVar = "train sft"
    shown: ClassVar = (
        *(
            "validation",
            "epochs",
            "learning_rate",
            "batch_size",
            "max_tokens_per_batch",
            "max_length",
            "lora_r",
        ),
        *("condition", "processes"),
    )
    examples: ClassVar = (
        "maieutic train sft --model base --data corpus.jsonl --role user --out runs/user --batch-size 8",
    )

    def run(self, out: Path | str) -> TrainResult:
        """Train, or continue the run in the folder `out`; the model is written to `out/model`.

        Raises:
            RunConflict: `out` holds another run.
            EmptyCorpus, ContextTooShort, RenderError: no row can be trained on, or a row cannot be rendered.
            UnknownModel, MissingInput: the model or the data is missing.
            InputError: the processes do not fit the batch or the machine.
            ProcessLost: a process died; the others were ended too.
            DiskFull, ModelError: writing or computing failed; the same call continues from the last checkpoint.
        """
        from maieutic.train.launch import train

        return train(self, Path(out))


class TrainDpo(DpoConfig):
    """Train an assistant with DPO on preference pairs; the reference is the model before training.

    After an interruption the same command continues from the last checkpoint.
    """

    command: ClassVar = "train dpo"
    shown: ClassVar = (
        *(
            "validation",
            "epochs",
            "learning_rate",
            "batch_size",
            "max_tokens_per_batch",
            "max_length",
            "lora_r",
        ),
        *("loss", "beta", "forgetting"),
    )
    examples: ClassVar = ("maieutic train dpo --model base --data pairs.jsonl --out runs/dpo",)

    def run(self, out: Path | str) -> TrainResult:
        """Train, or continue the run in the folder `out`; the model is written to `out/model`.

        Raises: see `TrainSft.run`; InputError also where a pair is not one assistant turn against another.
        """
        from maieutic.train.launch import train

        return train(self, Path(out))
