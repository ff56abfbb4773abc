"""What both kinds of training do before and after: open the checkpoint, make it trainable, write it out again."""

from __future__ import annotations

from typing import Any, NamedTuple

from maieutic import render
from maieutic.console import note
from maieutic.errors import ContextTooShort
from maieutic.store import Stage
from maieutic.train import checkpoint
from maieutic.train.config import TrainConfig, file_sha256
from maieutic.train.data import Rows
from maieutic.train.load import (
    Framing,
    computes_in_bfloat16,
    context_length,
    framing,
    held_dtype,
    load_model,
    load_tokenizer,
    locate,
)


class Base(NamedTuple):
    """What training starts from, without the weights."""

    name: str
    """Folder or Hub id."""
    tokenizer: Any
    frame: Framing
    longest: int
    """Tokens a row may have."""


def base(config: TrainConfig) -> Base:
    """Find the checkpoint, its tokenizer and its framing.

    Raises:
        UnknownModel, MissingInput: it is not there.
        ContextTooShort: longer rows were asked for than it holds.
    """
    name = locate(config.model)
    frame = framing(name, config.template, config.system)
    tokenizer = load_tokenizer(name, config.remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(render.turn_end_id(tokenizer, frame.template))
    return Base(name, tokenizer, frame, _row_length(config, name))


def _row_length(config: TrainConfig, name: str) -> int:
    context = context_length(name, config.remote_code)
    if config.max_length and context and config.max_length > context:
        raise ContextTooShort(
            f"max_length {config.max_length} is more than the model's context of {context} tokens",
            "Lower --max-length, or take a model with a longer context.",
        )
    return config.max_length or min(2048, context or 2048)


def trainable(config: TrainConfig, name: str) -> Any:
    """The model to train: weights that are trained lie in float32, a frozen base in what it computes in."""
    halved = config.lora is not None and computes_in_bfloat16(config.precision)
    model = load_model(name, "bfloat16" if halved else "float32", config.remote_code)
    model.config.use_cache = False
    return model


def teach_end(model: Any, tokenizer: Any, frame: Framing) -> list[int]:
    """Give END embeddings, like those of the end of a turn, unless the model has learned it before.

    Returns:
        The ids whose rows are new.
    """
    import torch

    end = render.add_end(tokenizer)
    if end in _eos_ids(model):
        return []
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    like = render.turn_end_id(tokenizer, frame.template, "user")
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                layer.weight[end] = layer.weight[like]
                if getattr(layer, "bias", None) is not None:
                    layer.bias[end] = layer.bias[like]
    return [end]


def _eos_ids(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def adapters(config: TrainConfig, model: Any, fresh: list[int]) -> Any:
    """LoRA settings, or null for all weights; new tokens are trained although their matrices are frozen."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    layers = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        layers.append(model.get_output_embeddings())
    names = [
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if any(module is one for one in layers)
    ]
    return LoraConfig(
        r=config.lora,
        lora_alpha=2 * config.lora,
        target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(names, fresh) if fresh else None,
        task_type="CAUSAL_LM",
    )


def one_device(args: Any) -> None:
    """Use the first GPU where one process sees several: TRL refuses to spread one process over them."""
    if args.n_gpu > 1:
        note(f"{args.n_gpu} GPUs are visible; this process trains on the first")
        args._n_gpu = 1


def finish(
    config: TrainConfig, stage: Stage, trainer: Any, tokenizer: Any, frame: Framing, rows: Rows,
    more: dict[str, Any], numbers: dict[str, Any],
) -> None:  # fmt: skip
    """Write the adapter, where there is one, and the whole model."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is not None:
        model.save_pretrained(stage.folder / "adapter", save_embedding_layers=False)
        model = model.merge_and_unload()
    model.config.use_cache = True
    data = {
        "name": config.data.name,
        "sha256": file_sha256(config.data),
        "rows": rows.report.rows,
        "licences": rows.licences,
    }
    settings = {key: value for key, value in stage.config.items() if key not in ("method", "model", "data")}
    record = {
        **more,
        "base": config.model,
        "data": data,
        "metrics": {key: numbers[key] for key in numbers.keys() - {"data", "versions"}},
        "settings": settings,
        "versions": numbers["versions"],
        "method": stage.config["method"],
    }
    checkpoint.save_model(
        model, tokenizer, stage.folder / "model", role=getattr(config, "role", "assistant"), frame=frame,
        dtype=held_dtype(locate(config.model), config.remote_code), record=record,
    )  # fmt: skip
