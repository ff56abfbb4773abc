"""What both kinds of training do before and after: open the checkpoint, make it trainable, write it out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from maieutic.chat_templates import add_end, end_id, turn_end_id
from maieutic.chat_templates.conditioning import wording
from maieutic.core.console import note
from maieutic.core.errors import ContextTooShort, ModelError
from maieutic.core.store import Stage
from maieutic.models.checkpoint import Source, check_weights, end_of_text_ids, load_tokenizer
from maieutic.models.weights import (
    Framing,
    computes_in_bfloat16,
    context_length,
    framing,
    held_dtype,
    load_config,
    load_model,
    locate,
)
from maieutic.train import checkpoint
from maieutic.train.config import TrainConfig, file_sha256
from maieutic.train.data import Rows
from maieutic.train.distributed import is_first


class Base(NamedTuple):
    """What training starts from, without the weights."""

    source: Source
    tokenizer: Any
    frame: Framing
    longest: int
    """Tokens a row may have."""
    dtype: str | None
    """The precision its weights lie in, and the tuned ones will."""


def base(config: TrainConfig) -> Base:
    """Find the checkpoint, its tokenizer and its framing.

    A base model that carries no chat template is framed as `plain`, which needs no token but its end of text: tokens
    of its own would have to be learned first. END then starts as that token.

    Raises:
        UnknownModel, MissingInput: it is not there.
        ContextTooShort: longer rows were asked for than it holds.
    """
    source = locate(config.model)
    check_weights(source)
    frame = framing(source, config.template, config.system)
    tokenizer = load_tokenizer(source, config.remote_code)
    if frame.template is None and not tokenizer.chat_template and tokenizer.eos_token:
        note(f"{config.model} carries no chat template: its conversations are framed as --template plain")
        frame = frame._replace(template="plain")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer, frame.template))
    held = load_config(source, config.remote_code)
    context = context_length(held)
    if config.max_length and context and config.max_length > context:
        raise ContextTooShort(
            f"max_length {config.max_length} is more than the model's context of {context} tokens",
            "Lower --max-length, or take a model with a longer context.",
        )
    longest = config.max_length or min(2048, context or 2048)
    return Base(source, tokenizer, frame, longest, held_dtype(held))


def ends(config: TrainConfig, start: Base, rows: Rows) -> bool:
    """Whether the model that comes out says END: the rows teach it, or its start, still a person's side, knew it."""
    if rows.report.ends:
        return True
    return getattr(config, "role", "assistant") != "assistant" and (
        end_id(start.tokenizer) in end_of_text_ids(start.source)
    )


def trainable(config: TrainConfig, source: Source) -> Any:
    """The model to train: trained weights lie in float32, a frozen base in what it computes in."""
    halved = config.lora_r is not None and computes_in_bfloat16(config.precision)
    model = load_model(source, "bfloat16" if halved else "float32", config.remote_code)
    model.config.use_cache = False
    return model


def teach_end(model: Any, tokenizer: Any, frame: Framing) -> list[int]:
    """Give END embeddings, like those of the end of a turn, unless the model has learned it before.

    Returns:
        The ids whose rows are new.
    """
    import torch

    end = add_end(tokenizer)
    if end in _eos_ids(model):
        return []
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    like = turn_end_id(tokenizer, frame.template, "user")
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
    if config.lora_r is None:
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
        r=config.lora_r,
        lora_alpha=2 * config.lora_r,
        target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(names, fresh) if fresh else None,
        task_type="CAUSAL_LM",
    )


def one_device(args: Any) -> None:
    """Use the first GPU where one process sees several: TRL refuses to spread one process over them."""
    if args.n_gpu > 1:
        note(
            f"{args.n_gpu} GPUs are visible; this process trains on the first (--processes {args.n_gpu} uses all)"
        )
        args._n_gpu = 1


def one_piece(trainer: Any) -> Any:
    """The trained model with all its weights in this process, ready to be merged and written.

    Of a model whose weights are spread over processes (FSDP2's DTensors, DeepSpeed's stage 3) every process hands over
    its parts; the first gets a new model on the CPU that holds them all, the others null.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = _gathered(trainer, model)
    if weights is None:
        return model
    return _rebuilt(model, weights) if is_first() else None


def _gathered(trainer: Any, model: Any) -> dict[str, Any] | None:
    """All weights of a model that is spread over processes (in the first of them), or null: it is in one piece."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    plugin = trainer.accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return None


def _rebuilt(model: Any, weights: dict[str, Any]) -> Any:
    """A model of the same shape and adapters that holds the given weights and is nobody's shard."""
    import torch
    from peft import PeftModel, get_peft_model

    adapted = isinstance(model, PeftModel)
    inside = model.get_base_model() if adapted else model
    with torch.device("meta"):
        new = type(inside)(inside.config)
        if adapted:
            new = get_peft_model(new, model.peft_config["default"])
    lacking = set(new.load_state_dict(weights, strict=False, assign=True).missing_keys)
    (new.get_base_model() if adapted else new).tie_weights()
    empty = [name for name, weight in new.named_parameters() if weight.is_meta]
    if empty:
        raise ModelError(
            f"{len(empty)} weights were not gathered ({empty[0]}, ...; {len(lacking)} names not given)",
            "The last checkpoint is whole: run the same command again, on one device if it can hold the model.",
        )
    return new


def finish(
    config: TrainConfig,
    stage: Stage,
    model: Any,
    start: Base,
    rows: Rows,
    numbers: dict[str, Any],
) -> None:
    """Write the adapter, where there is one, and the whole model."""
    if config.lora_r is not None:
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
    condition = getattr(config, "condition", None)
    record = {
        "method": stage.config["method"],
        **({"condition": {"rates": condition, "wording": wording()}} if condition else {}),
        "end": ends(config, start, rows),
        "base": _lineage(config.model),
        "data": data,
        "metrics": {key: numbers[key] for key in numbers.keys() - {"data", "versions"}},
        "settings": settings,
        "versions": numbers["versions"],
    }
    checkpoint.save_model(
        model,
        start.tokenizer,
        stage.folder / "model",
        role=getattr(config, "role", "assistant"),
        frame=start.frame,
        dtype=start.dtype,
        record=record,
    )


def _lineage(model: str) -> str:
    """A model's name as a stranger may read it: of a folder on this machine, only the last two parts."""
    path = Path(model.removeprefix("hf/")).expanduser()
    return "/".join(path.parts[-2:]) if path.is_absolute() else model.removeprefix("hf/")
