"""One GGUF file: weights in the chosen precision, tokenizer and chat template inside.

Tensors are read, converted and written one at a time, so that a model larger than memory can be exported. Five model
types become GGUF. What llama.cpp computes differently than transformers is refused; where both agree up to some
context length, that length is written (llama.cpp knows no sliding window in these architectures).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maieutic.core.console import note
from maieutic.core.errors import MissingExtra, ModelError
from maieutic.core.progress import track
from maieutic.core.store import full_disk, read_json
from maieutic.models.weights import load_config, locate
from maieutic.serving.checkpoint import Opened
from maieutic.serving.gguf_tokenizer import Vocabulary, vocabulary

PRECISIONS = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
BLOCK = 32
"""Values that share a scale in the quantized precisions."""
_ENDS = ("token_embd.weight", "output.weight")
"""Stored in eight bits if the other matrices have four: most of the quantization error comes from these two."""
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3"}
"""GGUF's name by `model_type`."""
PLAIN = "Export it with --to merged, which serves in vLLM and transformers."

_SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_FUSED = ("self_attn.qkv_proj", "mlp.gate_up_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")

Value = int | float | str


class Written(NamedTuple):
    """The written file."""

    file: Path
    architecture: str
    context: int
    """Tokens that a conversation may have."""
    vocabulary: Vocabulary


class _Tensor(NamedTuple):
    """A tensor to write."""

    source: str
    """Its name in the checkpoint."""
    name: str
    kind: str
    """F32, F16, Q8_0 or Q4_0."""
    size: tuple[int, ...]
    heads: int
    """Heads of a projection whose rows are reordered; else 0."""


def write_gguf(model: Opened, file: Path, precision: str) -> Written:
    """Write the file; it appears whole or not at all.

    Args:
        model: with weights that need no merging.
        file: the file to write.
        precision: one of PRECISIONS; norms and biases have 32 bits, matrices whose rows cannot be split into blocks 16.

    Raises:
        ModelError: llama.cpp would compute this architecture, tokenizer or these weights differently.
        MissingExtra: the gguf library is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtra(
            "GGUF needs a library that is not installed", "pip install 'maieutic[export]'"
        ) from None
    config = load_config(locate(str(model.folder)))
    described = shape(config)
    files = _weights(model.folder)
    tensors = _plan(described, files, precision)
    words = vocabulary(
        model.tokenizer, next(one.size[0] for one in tensors if one.name == _ENDS[0]), model.ends
    )
    part = file.with_name(f".{file.name}.part")
    with full_disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer = gguf.GGUFWriter(part, described.architecture)
            _describe(writer, model, described, words, precision)
            _write(writer, described, tensors, files)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    return Written(file, described.architecture, described.context, words)


def _weights(folder: Path) -> dict[str, Path]:
    """The file of each tensor of a checkpoint."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return {name: folder / file for name, file in read_json(index)["weight_map"].items()}
    whole = folder / "model.safetensors"
    if not whole.is_file():
        raise ModelError(f"{folder} has no model.safetensors", "Save it as safetensors first.")
    with safe_open(whole, framework="pt") as held:
        return dict.fromkeys(held.keys(), whole)


def _plan(described: Shape, files: Mapping[str, Path], precision: str) -> list[_Tensor]:
    import gguf
    from safetensors import safe_open

    found = {name for name in files if not name.endswith("rotary_emb.inv_freq")}
    if "lm_head.weight" not in described.tensors:
        found.discard("lm_head.weight")  # tied: the embeddings are used
    if odd := sorted(found ^ described.tensors):
        what = "lacks" if odd[0] in described.tensors else "has"
        raise ModelError(
            f"the checkpoint {what} {odd[0]} (and {len(odd) - 1} more), unlike its architecture",
            "Its files are incomplete, or of another model: download or save it again.",
        )
    names = gguf.get_tensor_name_map(
        getattr(gguf.MODEL_ARCH, described.architecture.upper()), described.layers
    )
    tensors = []
    for source in sorted(described.tensors):
        with safe_open(files[source], framework="pt") as held:
            size = tuple(held.get_slice(source).get_shape())
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"GGUF has no name for {source}", "Export it with --to merged.")
        heads = next((count for end, count in described.permuted.items() if source.endswith(end)), 0)
        tensors.append(_Tensor(source, name, _kind(name, size, precision), size, heads))
    matrices = [one for one in tensors if len(one.size) > 1]
    whole = sum(one.kind == "F16" for one in matrices)
    if whole and precision != "f16":
        note(
            f"{whole} of {len(matrices)} matrices keep 16 bits: their rows do not divide into blocks of {BLOCK}"
        )
    return tensors


def _kind(name: str, size: tuple[int, ...], precision: str) -> str:
    if len(size) == 1:
        return "F32"
    if size[-1] % BLOCK:
        return "F16"
    return "Q8_0" if precision == "q4_0" and name in _ENDS else PRECISIONS[precision]


def _describe(writer: Any, model: Opened, described: Shape, words: Vocabulary, precision: str) -> None:
    import gguf

    kinds = gguf.LlamaFileType
    types = {"f16": kinds.MOSTLY_F16, "q8_0": kinds.MOSTLY_Q8_0, "q4_0": kinds.MOSTLY_Q4_0}
    writer.add_name(words.name(model.name))
    writer.add_description(f"Speaks the {model.role}'s turns; base: {model.record.get('base', 'not stated')}")
    writer.add_file_type(types[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in described.values.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{described.architecture}.{key}", value)
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.model == "llama":
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(words.space_prefix)
    else:
        writer.add_token_merges(words.merges)
    for key, index in words.special.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", index)
    writer.add_add_bos_token(words.add_bos)
    writer.add_add_eos_token(False)
    writer.add_chat_template(model.tokenizer.chat_template)


def _write(writer: Any, described: Shape, tensors: list[_Tensor], files: Mapping[str, Path]) -> None:
    import gguf

    made = {name: np.array(values, dtype=np.float32) for name, values in described.made.items()}
    for name, values in made.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for one in tensors:
        kind = gguf.GGMLQuantizationType[one.kind]
        if one.kind.startswith("F"):
            held = np.dtype(np.float32 if one.kind == "F32" else np.float16)
            writer.add_tensor_info(one.name, one.size, held, prod(one.size) * held.itemsize)
        else:
            packed = gguf.quant_shape_to_byte_shape(one.size, kind)
            writer.add_tensor_info(one.name, packed, np.dtype(np.uint8), prod(packed), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in made.values():
            writer.write_tensor_data(values)
        with track(len(tensors), "gguf") as bar:
            for values in _converted(tensors, files):
                writer.write_tensor_data(values)
                bar.advance()
    finally:
        writer.close()


def _converted(tensors: list[_Tensor], files: Mapping[str, Path]) -> Iterator[NDArray[Any]]:
    """Each tensor, converted."""
    import gguf
    from safetensors import safe_open

    for one in tensors:
        with safe_open(files[one.source], framework="pt") as held:
            values = held.get_tensor(one.source).float().numpy()
        if one.heads:
            values = interleaved(values, one.heads)
        with np.errstate(over="ignore"):
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType[one.kind])
        limit = float(np.finfo(np.float16).max)
        if one.kind != "F32" and not float(np.abs(values).max()) <= limit:
            raise ModelError(
                f"{one.source} has values beyond the range of 16 bits ({limit:.0f})",
                "Export it with --to merged.",
            )
        yield np.ascontiguousarray(packed)


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """A projection's rows in the order in which llama.cpp rotates them.

    Transformers pairs row i of a head with row i + half; llama.cpp, in Llama's architecture, pairs neighbours.
    """
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


class Shape(NamedTuple):
    """The GGUF description of a model."""

    architecture: str
    layers: int
    context: int
    """Tokens up to which llama.cpp computes the same as transformers."""
    values: dict[str, Value]
    """Hyperparameters; keys without the architecture's prefix."""
    tensors: frozenset[str]
    """The names of the tensors that a checkpoint must have."""
    permuted: dict[str, int]
    """Number of heads of the projections whose rows have another order in GGUF, by the end of their names."""
    made: dict[str, list[float]]
    """Tensors that only GGUF has: factors of the rotary frequencies."""


def shape(config: Any) -> Shape:
    """Convert a transformers config to GGUF.

    Raises:
        ModelError: llama.cpp does not know the architecture, or computes a setting differently.
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
    permuted = {"self_attn.q_proj.weight": heads, "self_attn.k_proj.weight": few}
    return Shape(
        architecture,
        int(config.num_hidden_layers),
        context,
        values | more,
        _tensors(config, kind),
        permuted if architecture == "llama" else {},
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
        raise ModelError(
            "no GGUF for a phi3 model whose heads together are not as wide as its hidden size", PLAIN
        )


def _context(config: Any) -> int:
    """The context length; with sliding-window attention, at most the window."""
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
    """The divisor of each frequency (Llama 3.1): the factor for long waves, 1 for short waves, smooth in between."""
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
    """Phi-3's two lists of factors; llama.cpp chooses by the context that it is opened with."""
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
        raise ModelError(f"its rotary factors are not {rotary // 2} long", "Correct its config.json.")
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
