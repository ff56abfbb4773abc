"""Load the model that training starts from: checkpoint, chat template, precision, END token and LoRA adapters."""

from __future__ import annotations

from typing import Any, NamedTuple

from maieutic.chat_templates.rendering import add_end, end_id, turn_end_id
from maieutic.core.console import note
from maieutic.core.errors import ContextTooShort
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
from maieutic.train.config import TrainConfig
from maieutic.train.rows import Rows


class Base(NamedTuple):
    """The starting point of training, without the weights."""

    source: Source
    tokenizer: Any
    frame: Framing
    longest: int
    """Maximum number of tokens of a row."""
    dtype: str | None
    """The dtype of the stored weights; the trained weights are stored in the same dtype."""


def open_base(config: TrainConfig) -> Base:
    """Find the checkpoint, its tokenizer and its chat template.

    A base model without a chat template gets the template `plain`, which needs no special token except the end of
    text: the model would first have to learn the special tokens of a chat format. END is then initialised with the
    embedding of the end of text.

    Raises:
        UnknownModel, MissingInput: there is no such checkpoint.
        ContextTooShort: `max_length` is more than the model's context.
    """
    source = locate(config.model)
    check_weights(source)
    frame = framing(source, config.template, config.system)
    tokenizer = load_tokenizer(source, config.remote_code)
    if frame.template is None and not tokenizer.chat_template and tokenizer.eos_token:
        note(f"{config.model} has no chat template: training uses --template plain")
        frame = frame._replace(template="plain")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer, frame.template))
    held = load_config(source, config.remote_code)
    context = context_length(held)
    if config.max_length and context and config.max_length > context:
        raise ContextTooShort(
            f"max_length {config.max_length} is more than the model's context of {context} tokens",
            "Lower --max-length, or use a model with a longer context.",
        )
    longest = config.max_length or min(2048, context or 2048)
    return Base(source, tokenizer, frame, longest, held_dtype(held))


def writes_end(config: TrainConfig, start: Base, rows: Rows) -> bool:
    """Whether the trained model writes END: the rows teach END, or the base writes END and the user is trained."""
    if rows.report.ends:
        return True
    return getattr(config, "role", "assistant") != "assistant" and (
        end_id(start.tokenizer) in end_of_text_ids(start.source)
    )


def load_trainable(config: TrainConfig, source: Source) -> Any:
    """The model to train: trained weights in float32, a frozen base in the compute precision."""
    halved = config.lora_r is not None and computes_in_bfloat16(config.precision)
    model = load_model(source, "bfloat16" if halved else "float32", config.remote_code)
    model.config.use_cache = False
    return model


def add_end_embedding(model: Any, tokenizer: Any, frame: Framing) -> list[int]:
    """Initialise the embeddings of END with those of the end-of-turn token, unless the model already knows END.

    Returns:
        The ids whose embeddings are new.
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


def lora_config(config: TrainConfig, model: Any, new_ids: list[int]) -> Any:
    """PEFT's settings, or null to train all weights; new tokens are trained although their matrices are frozen."""
    if config.lora_r is None:
        return None
    from peft import LoraConfig

    layers = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        layers.append(model.get_output_embeddings())
    names = [
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if any(module is layer for layer in layers)
    ]
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=2 * config.lora_r,
        target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(names, new_ids) if new_ids else None,
        task_type="CAUSAL_LM",
    )


def use_one_gpu(args: Any) -> None:
    """Use the first GPU where one process sees several: TRL refuses several GPUs in one process."""
    if args.n_gpu > 1:
        note(
            f"{args.n_gpu} GPUs are visible; this process trains on the first (--processes {args.n_gpu} uses all)"
        )
        args._n_gpu = 1
