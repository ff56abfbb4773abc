"""GGUF files, read back: every tensor, every hyperparameter, the tokenizer; and what is refused rather than wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exporting import export
from shapes import LLAMA3, SHAPES, pieces, shaped, splitting
from tiny import CHATML, tiny_checkpoint, tiny_tokenizer
from tokenizers_of_kinds import of_kind

from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import add_end
from maieutic.core.errors import MaieuticError, ModelError

INNER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    stem, _, end = name.rpartition(".")
    if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem):
        return f"blk.{match[1]}.{INNER[match[2]]}.{end}"
    return f"{OUTER[stem]}.{end}"


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row by row: what transformers pairs across the halves of a head stands side by side."""
    size = len(weight) // heads
    out = np.empty_like(weight)
    for head in range(heads):
        for pair in range(size // 2):
            out[head * size + 2 * pair] = weight[head * size + pair]
            out[head * size + 2 * pair + 1] = weight[head * size + pair + size // 2]
    return out


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    return {name: value.float().numpy() for name, value in load_file(folder / "model.safetensors").items()}


def written(folder: Path, out: Path, **more: Any) -> Any:
    done = export(str(folder), "gguf", out, **more)
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []
    return gguf.GGUFReader(Path(done.run))


def value(reader: Any, key: str) -> Any:
    return reader.fields[key].contents() if key in reader.fields else None


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, shaped(request.param, tmp_path_factory.mktemp("shape") / request.param)


@pytest.mark.parametrize("precision", ["f16", "q8_0", "q4_0"])
def test_every_tensor_is_there_in_its_place(shape: tuple[str, Path], tmp_path: Path, precision: str) -> None:
    kind, folder = shape
    reader = written(folder, tmp_path / "out", quantize=precision)
    expected = {}
    for name, weight in weights(folder).items():
        if kind in ("llama", "mistral") and name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = turned(weight, 4 if "q_proj" in name else 2)
        expected[gguf_name(name)] = weight
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() == expected.keys()
    ends = ("token_embd.weight", "output.weight")
    for name, weight in expected.items():
        tensor = found[name]
        kind_of = tensor.tensor_type.name
        read = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
        if weight.ndim == 1:
            assert kind_of == "F32"
            np.testing.assert_array_equal(read, weight)
            continue
        assert kind_of == ("Q8_0" if precision == "q4_0" and name in ends else precision.upper())
        if kind_of == "F16":
            np.testing.assert_array_equal(read, weight.astype(np.float16).astype(np.float32))
        else:  # within one step of the block's scale
            steps = {"Q8_0": 127, "Q4_0": 8}[kind_of]
            largest = np.abs(weight.reshape(-1, 32)).max(axis=1, keepdims=True)
            assert (np.abs(read - weight).reshape(-1, 32) <= largest / steps * 1.01 + 1e-6).all()


def test_hyperparameters(shape: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = shape
    reader = written(folder, tmp_path / "out")
    name = {"mistral": "llama"}.get(kind, kind)
    assert value(reader, "general.architecture") == name
    size = 32 if kind == "qwen3" else 16
    expected = {
        "block_count": 2, "context_length": 256, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": size,
        "attention.value_length": size, "rope.dimension_count": size, "rope.freq_base": 10000.0,
        "vocab_size": len(tiny_tokenizer()) + 3, "rope.scaling.type": None,
        "attention.sliding_window": 0 if kind == "phi3" else None,
    }  # fmt: skip
    assert {key: value(reader, f"{name}.{key}") for key in expected} == expected
    epsilon = 1e-5 if kind == "phi3" else 1e-6
    assert value(reader, f"{name}.attention.layer_norm_rms_epsilon") == pytest.approx(epsilon)


def test_tied_embeddings_stand_once(tmp_path: Path) -> None:
    reader = written(shaped("qwen2", tmp_path / "model", tie_word_embeddings=True), tmp_path / "out")
    names = {tensor.name for tensor in reader.tensors}
    assert "token_embd.weight" in names and "output.weight" not in names


def test_rotary_factors(tmp_path: Path) -> None:
    """Llama 3.1's, which divide what transformers' frequencies are without them."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    reader = written(
        shaped("llama", tmp_path / "model", splitting("llama3"), rope_parameters=LLAMA3), tmp_path / "out"
    )
    (factors,) = [tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    scaled = LlamaRotaryEmbedding(LlamaConfig(head_dim=16, rope_parameters=LLAMA3)).inv_freq
    plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-5)
    assert len(set(factors.tolist())) > 2

    short, long = [1.0 + index / 10 for index in range(8)], [2.0 + index for index in range(8)]
    rope = {"rope_type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 10000.0}
    with _quiet():
        folder = shaped("phi3", tmp_path / "phi", original_max_position_embeddings=64, rope_parameters=rope)
    reader = written(folder, tmp_path / "phi-out")
    found = {tensor.name: tensor.data.tolist() for tensor in reader.tensors}
    assert found["rope_factors_short.weight"] == pytest.approx(short)
    assert found["rope_factors_long.weight"] == pytest.approx(long)
    assert value(reader, "phi3.rope.scaling.attn_factor") == pytest.approx(
        (1 + np.log(4) / np.log(64)) ** 0.5
    )
    assert value(reader, "phi3.rope.scaling.original_context_length") == 64


def _quiet() -> Any:
    from maieutic.models.weights import quiet

    return quiet()


def test_attention_that_slides_bounds_the_context(tmp_path: Path) -> None:
    """llama.cpp attends to everything, so a conversation may be as long as the window."""
    folder = shaped("mistral", tmp_path / "model", sliding_window=64)
    done = export(str(folder), "gguf", tmp_path / "out")
    assert done.context == 64
    assert value(gguf.GGUFReader(Path(done.run)), "llama.context_length") == 64
    folder = shaped("qwen2", tmp_path / "other", sliding_window=64, use_sliding_window=False)
    assert export(str(folder), "gguf", tmp_path / "more").context == 256


def test_the_tokenizer_and_the_template_are_inside(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    end = add_end(tokenizer)
    folder = shaped("llama", tmp_path / "model", tokenizer)
    said = {"role": "user", "template": None, "system": None, "end": True}
    (folder / "maieutic.json").write_text(json.dumps(said))
    reader = written(folder, tmp_path / "out")
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokens[len(tokenizer) :] == [f"[PAD{len(tokenizer) + index}]" for index in range(3)]
    assert [types[index] for index in (0, 1, 2, end, 5, len(tokenizer))] == [3, 3, 3, 3, 1, 5]
    held = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert value(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in held]
    ids = {
        key: value(reader, f"tokenizer.ggml.{key}_token_id")
        for key in ("bos", "eos", "eot", "eom", "padding")
    }
    assert ids == {"bos": 0, "eos": 2, "eot": None, "eom": end, "padding": 0}
    assert value(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    template = value(reader, "tokenizer.chat_template")
    rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(
        rows, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\n")


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (lambda: splitting("llama3"), ("gpt2", "llama-bpe", None, False)),
        (lambda: splitting("smaug"), ("gpt2", "smaug-bpe", None, False)),
        (lambda: splitting("qwen"), ("gpt2", "qwen2", None, False)),
        (lambda: splitting("smollm"), ("gpt2", "smollm", None, False)),
        (lambda: splitting("tekken"), ("gpt2", "tekken", None, False)),
        (lambda: pieces("prepend"), ("llama", "default", True, True)),
        (lambda: pieces("always"), ("llama", "default", True, True)),
        (lambda: pieces("never"), ("llama", "default", False, True)),
        (lambda: pieces("first"), ("llama", "default", False, True)),
        (lambda: pieces("prepend", "phi3"), ("llama", "default", True, True)),
    ],
    ids=["llama3", "smaug", "qwen", "smollm", "tekken", "prepend", "always", "never", "first", "phi3"],
)
def test_kinds_of_tokenizers(tmp_path: Path, tokenizer: Any, expected: tuple[Any, ...]) -> None:
    reader = written(shaped("llama", tmp_path / "model", tokenizer()), tmp_path / "out")
    keys = ("model", "pre", "add_space_prefix", "add_bos_token")
    assert tuple(value(reader, f"tokenizer.ggml.{key}") for key in keys) == expected
    if expected[0] == "llama":
        types, tokens = value(reader, "tokenizer.ggml.token_type"), value(reader, "tokenizer.ggml.tokens")
        assert {types[index] for index, token in enumerate(tokens) if re.fullmatch(r"<0x..>", token)} == {6}
        assert types[tokens.index("<unk>")] == 2
        scores = value(reader, "tokenizer.ggml.scores")
        made = [score for score in scores if score > -1e8]
        assert len(made) == len(set(made)) > 20
    name = value(reader, "general.name")
    assert name.startswith("phi-3 ") == (tokenizer().eos_token == "<|endoftext|>")


def refused(folder: Path, out: Path, wrong: str, kind: type[MaieuticError] = ModelError, **more: Any) -> None:
    with pytest.raises(kind, match=wrong) as caught:
        export(str(folder), "gguf", out, **more)
    assert caught.value.hint
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("kind", "more", "wrong"),
    [
        ("llama", {"hidden_act": "gelu"}, "gelu activations"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"rope_parameters": LLAMA3}, "rotary scaling 'llama3'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "rotary scaling 'dynamic'",
        ),
        ("phi3", {"num_attention_heads": 3, "num_key_value_heads": 3}, "heads together"),
    ],
)
def test_settings_that_would_come_out_wrong(
    tmp_path: Path, kind: str, more: dict[str, Any], wrong: str
) -> None:
    refused(shaped(kind, tmp_path / "model", **more), tmp_path / "out", wrong)


def test_another_architecture(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "model"
    )
    refused(tmp_path / "model", tmp_path / "out", "models of type 'gpt2'")


@pytest.mark.parametrize("change", ["lacks", "has"])
def test_weights_of_another_model(tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_checkpoint(tmp_path / "model")
    held = load_file(folder / "model.safetensors")
    if change == "lacks":
        del held["model.layers.1.mlp.up_proj.weight"]
    else:
        held["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, tmp_path / "out", f"the checkpoint {change} model.layers")


def test_values_beyond_sixteen_bits_leave_nothing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_checkpoint(tmp_path / "model")
    done = export(str(folder), "gguf", tmp_path / "out")
    before = Path(done.run).read_bytes()
    held = load_file(folder / "model.safetensors")
    held["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e6
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="beyond the range of 16 bits"):
        export(str(folder), "gguf", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]
    assert Path(done.run).read_bytes() == before


def test_rows_that_make_no_blocks_stay_in_sixteen_bits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", hidden=48)
    held = {gguf_name(name): weight for name, weight in weights(folder).items()}
    reader = written(folder, tmp_path / "out", quantize="q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    rows = {name: weight.shape[-1] for name, weight in held.items() if weight.ndim == 2}
    assert {kinds[name] for name, row in rows.items() if row % 32} == {"F16"}
    assert {kinds[name] for name, row in rows.items() if row % 32 == 0} == {"Q8_0"}
    few = sum(row % 32 > 0 for row in rows.values())
    assert f"{few} of {len(rows)} matrices keep 16 bits" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("unigram", "of type Unigram"),
        ("wordpiece", "of type WordPiece"),
        ("prefix space", "no name for"),
        ("nfkc", "normalizes by NFKC"),
        ("lstrip", "depends on the text around"),
        ("rstrip", "others do not"),
        ("single word", "depends on the text around"),
        ("fallback nfkc", "normalizes text"),
    ],
)
def test_tokenizers_that_llama_cpp_has_not(tmp_path: Path, kind: str, wrong: str) -> None:
    tokenizer = of_kind.__wrapped__(kind)
    tokenizer.pad_token, tokenizer.chat_template = "</s>", CHATML
    refused(shaped("llama", tmp_path / "model", tokenizer), tmp_path / "out", wrong)


@pytest.mark.parametrize("change", ["dropped", "late"])
def test_merges_that_scores_cannot_say(tmp_path: Path, change: str) -> None:
    """A way to a piece that is no merge; two ways to one piece with another's between them."""
    folder = shaped("llama", tmp_path / "model", pieces())
    held = json.loads((folder / "tokenizer.json").read_text())
    merges = held["model"]["merges"]
    texts = ["".join(pair) for pair in merges]
    twice = next(index for index, text in enumerate(texts) if texts.count(text) > 1)
    moved = merges.pop(twice)
    if change == "late":
        merges.append(moved)
    (folder / "tokenizer.json").write_text(json.dumps(held))
    refused(folder, tmp_path / "out", "never merges" if change == "dropped" else "not together")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (("<0x7F>", "<0x7f>"), "without all bytes"),
        (('"ignore_merges": false', '"ignore_merges": true'), "without all bytes and merges"),
        (('"end_of_word_suffix": null', '"end_of_word_suffix": "@"'), "with end_of_word_suffix"),
        (('"String": " "', '"String": "x"'), "normalizes text"),
    ],
)
def test_tokenizers_changed_in_one_place(tmp_path: Path, change: tuple[str, str], wrong: str) -> None:
    folder = shaped("llama", tmp_path / "model", pieces())
    file = folder / "tokenizer.json"
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    refused(folder, tmp_path / "out", wrong)


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_space_before_a_text_that_cannot_be_said(tmp_path: Path, scheme: str) -> None:
    """At the beginning alone, where the template begins with text; or where a space follows a control token."""
    tokenizer = pieces.__wrapped__(scheme)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '</s> ' }}{% endfor %}"
    )
    refused(shaped("llama", tmp_path / "model", tokenizer), tmp_path / "out", "puts a space before a text")


def test_a_reply_that_never_stops(tmp_path: Path) -> None:
    """llama.cpp would take some token of the vocabulary for the end."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    folder = shaped("llama", tmp_path / "model", tokenizer)
    (folder / "generation_config.json").unlink()
    refused(folder, tmp_path / "out", "stops at no token")


def test_more_ends_than_can_be_named(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<b>", "<c>", END]})
    folder = shaped("llama", tmp_path / "model", tokenizer)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<a>", "<b>"])
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({"eos_token_id": ends}))
    reader = written(folder, tmp_path / "out")
    assert [value(reader, f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")] == ends
    settings.write_text(json.dumps({"eos_token_id": [*ends, tokenizer.convert_tokens_to_ids("<c>")]}))
    refused(folder, tmp_path / "none", "more than GGUF can name")
