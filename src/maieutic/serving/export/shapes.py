"""The five model shapes that become GGUF: their hyperparameters, their tensors, and what is refused of them.

Llama and Mistral are one architecture there. What llama.cpp computes otherwise than transformers is refused, or where
it agrees up to some context, that context is written: it knows no sliding window in these shapes, for example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from maieutic.core.errors import ModelError

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3"}
"""By `model_type`, the name that GGUF has for it."""
PLAIN = "Export it with --to merged, which serves in vLLM and transformers."

_SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_FUSED = ("self_attn.qkv_proj", "mlp.gate_up_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")

Value = int | float | str


class Shape(NamedTuple):
    """A model as GGUF describes it."""

    architecture: str
    layers: int
    context: int
    """Tokens up to which llama.cpp computes what transformers does."""
    values: dict[str, Value]
    """Hyperparameters, their keys without the architecture in front."""
    tensors: frozenset[str]
    """The tensors that a checkpoint must hold, by their names there."""
    permuted: dict[str, int]
    """Projections whose rows stand in another order in GGUF, by the end of their names: with how many heads."""
    made: dict[str, list[float]]
    """Tensors that GGUF has and checkpoints have not: factors of the rotary frequencies."""


def shape(config: Any) -> Shape:
    """What a transformers config means in GGUF.

    Raises:
        ModelError: an architecture, or a setting of it, that would come out wrong.
    """
    kind = str(config.model_type)
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"no GGUF for models of type {kind!r}", f"It knows {', '.join(ARCHITECTURES)}. {PLAIN}"
        )
    _refuse(config, kind)
    heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
    few = int(config.num_key_value_heads or heads)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    rope = dict(config.rope_parameters)
    rotary = int(size * rope.get("partial_rotary_factor", 1.0))
    context = _context(config)
    values: dict[str, Value] = {
        "block_count": int(config.num_hidden_layers),
        "context_length": context,
        "embedding_length": hidden,
        "feed_forward_length": int(config.intermediate_size),
        "attention.head_count": heads,
        "attention.head_count_kv": few,
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": rotary,
        "vocab_size": int(config.vocab_size),
    }
    if kind == "phi3":
        values["attention.sliding_window"] = int(config.sliding_window or 0)
    more, made = _rope(config, rope, rotary)
    architecture = ARCHITECTURES[kind]
    turned = {"self_attn.q_proj.weight": heads, "self_attn.k_proj.weight": few}
    return Shape(
        architecture,
        int(config.num_hidden_layers),
        context,
        values | more,
        _tensors(config, kind),
        turned if architecture == "llama" else {},
        made,
    )


def _refuse(config: Any, kind: str) -> None:
    odd = [
        name
        for name in ("attention_bias", "mlp_bias", "quantization_config")
        if getattr(config, name, None) and not (kind == "qwen2" and name == "attention_bias")
    ]
    if odd:
        raise ModelError(f"no GGUF for a {kind} model with {odd[0]}", PLAIN)
    if config.hidden_act != "silu":
        raise ModelError(f"no GGUF for a {kind} model with {config.hidden_act} activations", PLAIN)
    partial = float(config.rope_parameters.get("partial_rotary_factor", 1.0))
    if kind != "phi3" and partial != 1.0:
        raise ModelError(f"no GGUF for a {kind} model that rotates {partial} of each head", PLAIN)
    heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    if kind == "phi3" and size * heads != hidden:
        raise ModelError("no GGUF for a phi3 model whose heads are not as wide as it is", PLAIN)


def _context(config: Any) -> int:
    """The context, cut to the window where attention slides."""
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    longest = int(config.max_position_embeddings)
    return min(longest, int(window)) if window else longest


def _rope(
    config: Any, rope: Mapping[str, Any], rotary: int
) -> tuple[dict[str, Value], dict[str, list[float]]]:
    """Scaling of the rotary embedding: further values, and tensors of factors."""
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}, {}
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}, {}
    if kind == "llama3" and config.model_type in ("llama", "mistral"):
        return {}, {"rope_freqs.weight": _llama3_factors(rope, rotary)}
    if kind == "longrope" and config.model_type == "phi3":
        return _longrope(config, rope, rotary)
    raise ModelError(f"no GGUF for a {config.model_type} model with rotary scaling {kind!r}", PLAIN)


def _llama3_factors(rope: Mapping[str, Any], rotary: int) -> list[float]:
    """What each frequency is divided by (Llama 3.1): long waves by the factor, short ones by 1, between, smoothly."""
    factor, old = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    found = []
    for index in range(0, rotary, 2):
        wave = 2 * math.pi * float(rope["rope_theta"]) ** (index / rotary)
        share = min(1.0, max(0.0, (old / wave - low) / (high - low)))
        found.append(1 / ((1 - share) / factor + share))
    return found


def _longrope(
    config: Any, rope: Mapping[str, Any], rotary: int
) -> tuple[dict[str, Value], dict[str, list[float]]]:
    """Phi-3's two lists of factors; which one is used is decided by the context that llama.cpp is opened with."""
    old = int(rope.get("original_max_position_embeddings") or config.original_max_position_embeddings)
    stretch = float(rope.get("factor") or config.max_position_embeddings / old)
    scale = rope.get("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(stretch) / math.log(old)) if stretch > 1 else 1.0
    made = {
        f"rope_factors_{name}.weight": [float(one) for one in rope[f"{name}_factor"]]
        for name in ("long", "short")
    }
    if any(len(factors) != rotary // 2 for factors in made.values()):
        raise ModelError(f"its rotary factors are not {rotary // 2} long", "Mend its config.json.")
    return {
        "rope.scaling.type": "longrope",
        "rope.scaling.attn_factor": float(scale),
        "rope.scaling.original_context_length": old,
    }, made


def _tensors(config: Any, kind: str) -> frozenset[str]:
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    if not config.tie_word_embeddings:
        names.append("lm_head.weight")
    inner = [f"{name}.weight" for name in _NORMS]
    inner += [f"{name}.weight" for name in (_FUSED if kind == "phi3" else _SPLIT)]
    inner += ["self_attn.o_proj.weight", "mlp.down_proj.weight"]
    if kind == "qwen2":
        inner += [f"self_attn.{name}_proj.bias" for name in "qkv"]
    if kind == "qwen3":
        inner += ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    names += [f"model.layers.{layer}.{name}" for layer in range(config.num_hidden_layers) for name in inner]
    return frozenset(names)
