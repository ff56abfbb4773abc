"""Tiny models of the five shapes that are exported, every weight random, and the tokenizers they come with."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tiny import CHATML, LINES, tiny_tokenizer

SHAPES = ("llama", "mistral", "qwen2", "qwen3", "phi3")
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip
PHI3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}"
)


def shaped(kind: str, folder: Path, tokenizer: Any = None, **more: Any) -> Path:
    """A checkpoint of one of SHAPES, with three rows more than its tokenizer has tokens, as published ones have."""
    import torch
    import transformers

    tokenizer = tokenizer or tiny_tokenizer()
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3"}[kind]
    known = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **({"head_dim": 32} if kind == "qwen3" else {}),
        **({"sliding_window": None} if kind in ("mistral", "phi3") else {}),
    }
    config = getattr(transformers, f"{name}Config")(**{**known, **more})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
        for weight in model.parameters():  # biases and norms too, which start as zeros and ones
            weight.normal_(std=0.15).add_(float(weight.ndim == 1))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@cache
def pieces(scheme: str = "prepend", control: str = "llama") -> Any:
    """A SentencePiece-like BPE in which every way to a piece is a merge, as those of Llama 2 and Phi-3 are.

    Args:
        scheme: `prepend` (a normalizer), or Metaspace's `always`, `never` or `first`.
        control: the control tokens of `llama` or of `phi3`, which swallow the white space after them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    first = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    first.pre_tokenizer = metaspace
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    first.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=420, special_tokens=names, show_progress=False)
    )
    vocab = json.loads(first.to_str())["model"]["vocab"]
    order = sorted(vocab, key=vocab.__getitem__)
    merges = [
        (piece[:cut], piece[cut:])
        for piece in order
        if not piece.startswith("<")
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    inner = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if scheme == "prepend":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    phi = control == "phi3"
    plain = ("<unk>", "<s>", "</s>") + (("<|endoftext|>",) if phi else ())
    turns = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>") if phi else ()
    inner.add_special_tokens(
        [AddedToken(name, special=True, normalized=False, rstrip=phi and name == "</s>") for name in plain]
        + [AddedToken(name, special=True, normalized=False, rstrip=True) for name in turns]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<|endoftext|>" if phi else "</s>", unk_token="<unk>",
        pad_token="<|endoftext|>" if phi else "</s>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = PHI3 if phi else LLAMA2
    return made


CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+"
)
"""How Tekken splits a text: also where a small letter is followed by a capital."""


MIXED = (
    "I'll don't WE'RE you'Ve 1 12 123 1234567 3.14 a1b2 camelCase HTTPServer été Übermut 谢谢谢谢 🙂🙂 ?!?! ...",
    "  two   three    four\n\n\nlines \n  \t\ttabs\r\n a/b/c //// x = (y+1)*2; // done\n/\n  end  ",
)


@cache
def splitting(kind: str) -> Any:
    """A byte-level BPE that splits texts as `gpt2`, `llama3`, `smaug`, `qwen`, `smollm` or `tekken` does, with ChatML.

    Its merges were learned on texts that were not split at all: a split in another place gives other ids.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers_of_kinds import SPLIT
    from transformers import PreTrainedTokenizerFast

    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner = Tokenizer(models.BPE(ignore_merges=kind in ("llama3", "tekken")))
    inner.pre_tokenizer, inner.decoder = bare, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator([*LINES, *MIXED, *(text.replace(" ", "") for text in MIXED)] * 2, trainer)
    patterns = {
        "llama3": SPLIT.replace("DIGITS", "{1,3}"),
        "smaug": SPLIT.replace("DIGITS", "{1,3}"),
        "qwen": SPLIT.replace("DIGITS", ""),
        "tekken": CASED,
    }
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind in patterns:
        split = pre_tokenizers.Split(Regex(patterns[kind]), "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, bare])
    elif kind == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        inner.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    else:
        inner.pre_tokenizer = gpt2
    if kind == "qwen":
        inner.normalizer = normalizers.NFC()
    inner.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = CHATML
    return made
