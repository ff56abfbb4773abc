"""`train sft`, `train dpo`: fine-tune either side of a conversation, or a tutor on preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from maieutic.core.console import Json, print_json, say

train = typer.Typer(help="Fine-tune a model: `train sft` on conversations, `train dpo` on preferences.")

Model = Annotated[str | None, typer.Option(help="What to start from: a folder, a finished run, or a Hub id.")]
Data = Annotated[
    Path | None, typer.Option(help="The corpus, or for dpo the pairs: a JSONL file or a stage's folder.")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; the model comes to OUT/model.")]
Validation = Annotated[Path | None, typer.Option(help="Held-out rows, measured after every epoch.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps, in place of epochs.")]
MicroBatchSize = Annotated[
    int | None, typer.Option(help="Pairs in memory at once at most; divides --batch-size.")
]
WeightDecay = Annotated[float | None, typer.Option(help="Weight decay of AdamW.")]
MaxGradNorm = Annotated[float | None, typer.Option(help="Gradients are clipped to this norm.")]
LearningRate = Annotated[float | None, typer.Option(help="Highest learning rate; falls along a cosine.")]
Batch = Annotated[int | None, typer.Option(help="Rows an optimizer step sees.")]
AtOnce = Annotated[int | None, typer.Option(help="Tokens in memory at once: lower it where memory is short.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens a row may have.")]
Lora = Annotated[int | None, typer.Option(help="Train LoRA adapters of this rank in place of all weights.")]
Precision = Annotated[Literal["auto", "float32", "bfloat16"] | None, typer.Option(help="What to compute in.")]
Activations = Annotated[
    bool | None, typer.Option("--gradient-checkpointing", help="Less memory, a fifth slower.")
]
Seed = Annotated[int | None, typer.Option(help="Decides the order of the rows and fresh weights.")]
SaveSteps = Annotated[int | None, typer.Option(help="Steps between checkpoints.")]
Template = Annotated[str | None, typer.Option(help="chat, dyadic, plain or a Jinja file.")]
System = Annotated[str | None, typer.Option(help="System text for conversations that have none.")]
RemoteCode = Annotated[
    bool | None, typer.Option("--remote-code", help="Run code the checkpoint brings along.")
]
ReportTo = Annotated[
    str | None, typer.Option(help="Trackers that get every metric as well, such as wandb,tensorboard.")
]
Processes = Annotated[
    int | None, typer.Option(help="Processes that share each batch: one a GPU, or on the CPU.")
]
AccelerateConfig = Annotated[
    str | None,
    typer.Option(
        help="A config file of accelerate (FSDP2, DeepSpeed, several machines), or a shipped one's name."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML file with these settings; flags win.")
]


@train.command()
def sft(
    model: Model = None,
    data: Data = None,
    role: Annotated[
        Literal["user", "assistant", "both"] | None, typer.Option(help="Whose turns are in the loss.")
    ] = None,
    out: Out = None,
    validation: Validation = None,
    epochs: Epochs = None,
    max_steps: Steps = None,
    learning_rate: LearningRate = None,
    weight_decay: WeightDecay = None,
    max_grad_norm: MaxGradNorm = None,
    batch_size: Batch = None,
    max_tokens_per_batch: AtOnce = None,
    max_length: MaxLength = None,
    keep: Annotated[
        Literal["start", "end"] | None,
        typer.Option(help="Which whole turns of a conversation that is too long are kept."),
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(
            help="What a simulator is told, by share of rows: none=0.4,round=0.2,intent=0.3,profile=0.1."
        ),
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a lower held-out loss.")
    ] = None,
    lora_r: Lora = None,
    precision: Precision = None,
    gradient_checkpointing: Activations = None,
    seed: Seed = None,
    save_steps: SaveSteps = None,
    report_to: ReportTo = None,
    template: Template = None,
    system: System = None,
    remote_code: RemoteCode = None,
    processes: Processes = None,
    accelerate_config: AccelerateConfig = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Fine-tune on the turns of one role; `--role user` makes a user simulator.

    With --validation every epoch is measured on held-out people, and the best one becomes the model.
    Run the same command again after an interruption and it goes on from the last checkpoint.

    Example: maieutic train sft --model base --data corpus.jsonl --role user --out runs/user --batch-size 8
    """
    given = {key: value for key, value in locals().items() if key not in ("config", "json")}
    from maieutic.train.config import SftConfig, read_config

    settings = read_config(SftConfig, config, given)
    from maieutic.train.sft import sft as work

    _print(work(settings), json)


@train.command()
def dpo(
    model: Model = None,
    data: Data = None,
    out: Out = None,
    loss: Annotated[
        Literal["sigmoid", "ipo", "sigmoid_norm"] | None,
        typer.Option(help="DPO's own, IPO's, or DPO's of means over a reply's tokens."),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="How strongly the model is held to its start.")] = None,
    keep: Annotated[
        Literal["end"] | None,
        typer.Option(help="Let the oldest whole turns of a prompt go until its pair fits."),
    ] = None,
    drop_too_long: Annotated[
        bool | None, typer.Option("--drop-too-long", help="Leave out pairs that do not fit, and count them.")
    ] = None,
    forgetting: Annotated[
        Path | None,
        typer.Option(help="Conversations not trained on, to measure before and after what is forgotten."),
    ] = None,
    validation: Validation = None,
    epochs: Epochs = None,
    max_steps: Steps = None,
    learning_rate: LearningRate = None,
    weight_decay: WeightDecay = None,
    max_grad_norm: MaxGradNorm = None,
    batch_size: Batch = None,
    micro_batch_size: MicroBatchSize = None,
    max_tokens_per_batch: AtOnce = None,
    max_length: MaxLength = None,
    lora_r: Lora = None,
    precision: Precision = None,
    gradient_checkpointing: Activations = None,
    seed: Seed = None,
    save_steps: SaveSteps = None,
    template: Template = None,
    system: System = None,
    remote_code: RemoteCode = None,
    processes: Processes = None,
    accelerate_config: AccelerateConfig = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Tune an assistant on preference pairs; the reference is the model's own start.

    Run the same command again after an interruption and it goes on from the last checkpoint.

    Example: maieutic train dpo --model base --data pairs.jsonl --out runs/dpo
    """
    given = {key: value for key, value in locals().items() if key not in ("config", "json")}
    from maieutic.train.config import DpoConfig, read_config

    settings = read_config(DpoConfig, config, given)
    from maieutic.train.dpo import dpo as work

    _print(work(settings), json)


def _print(result: Any, json: bool) -> None:
    if json:
        print_json(result.json())
        return
    held = result.manifest
    say(f"model: {result.model}")
    measured = {
        "eval_loss": "held-out loss",
        "eval_perplexity": "perplexity",
        "eval_end_f1": "F1 of the ending",
        "accuracy": "accuracy",
        "margin": "margin",
        "eval_accuracy": "held-out accuracy",
        "forgetting_before": "perplexity on ordinary turns before",
        "forgetting_after": "after",
    }
    more = "".join(f", {name} {held[key]:.3f}" for key, name in measured.items() if held.get(key) is not None)
    say(f"{held['steps']} steps, loss {held['loss']:.3f}{more}")
    if held.get("best_step") is not None:
        say(f"the model is that of step {held['best_step']}, the best on held-out rows")
    say(f"{held['tokens']} tokens in {held['seconds']:.1f} s")


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.add_typer(train, name="train")
