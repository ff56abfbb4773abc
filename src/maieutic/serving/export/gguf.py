"""One GGUF file: weights in the asked precision, tokenizer and chat template inside.

Tensors are read, turned and written one at a time, so that a model larger than memory can be exported.
"""

from __future__ import annotations

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
from maieutic.serving.export.opened import Opened
from maieutic.serving.export.shapes import Shape, shape
from maieutic.serving.export.vocabulary import Vocabulary, vocabulary

PRECISIONS = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
BLOCK = 32
"""Values that share a scale in the quantized precisions."""
_ENDS = ("token_embd.weight", "output.weight")
"""Kept in eight bits where the rest has four: they decide most of the loss of quantizing."""


class Written(NamedTuple):
    """What was written."""

    file: Path
    architecture: str
    context: int
    """Tokens a conversation may have."""
    vocabulary: Vocabulary


class _Tensor(NamedTuple):
    """A tensor to be written."""

    source: str
    """Its name in the checkpoint."""
    name: str
    kind: str
    """F32, F16, Q8_0 or Q4_0."""
    size: tuple[int, ...]
    heads: int
    """Of a projection whose rows are turned; else 0."""


def write_gguf(model: Opened, file: Path, precision: str) -> Written:
    """Write the file; it appears whole or not at all.

    Args:
        model: with weights that need no merging.
        file: where to.
        precision: one of PRECISIONS; norms and biases stay in 32 bits, matrices whose rows make no blocks in 16.

    Raises:
        ModelError: an architecture, a tokenizer or weights that would come out wrong.
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
    """Each tensor of a checkpoint, and the file that holds it."""
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
        found.discard("lm_head.weight")  # tied: the embeddings are read in its place
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
            f"{whole} of {len(matrices)} matrices stay in 16 bits: their rows make no blocks of {BLOCK} values"
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
    """Each tensor as it is written."""
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
                f"{one.source} has values beyond what 16 bits hold ({limit:.0f})",
                "Export it with --to merged.",
            )
        yield np.ascontiguousarray(packed)


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """A projection's rows in the order that llama.cpp rotates them.

    Transformers pairs row i of a head with row i + half; llama.cpp, in Llama's architecture, pairs neighbours.
    """
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
