"""Small tokenizers of every family that fast tokenizers come in, all with the control tokens of the asked shape."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers_of_ours import CONTROL as OF_ALL_SHAPES
from tokenizers_of_ours import TEMPLATES, TEXT
from transformers import PreTrainedTokenizerFast

CONTROL = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 (three digits together) and Qwen 2 (each alone) split a text."""
BYTES = (
    "gpt2", "llama3", "qwen", "nfkc", "prefix space", "trimmed offsets", "think", "spaces", "lstrip", "rstrip",
    "normalized", "folded", "frame not special",
)  # fmt: skip
"""Byte-level ones: any text survives (but for what a normalizer changes)."""
PIECES = (
    "metaspace first", "metaspace always", "metaspace never", "prepend", "fallback nfkc", "unigram", "unigram nfkc",
    "single word",
)  # fmt: skip
KINDS = (*BYTES, *PIECES)
LOSSY = ("wordpiece",)


@cache
def of_kind(kind: str, shape: str = "chatml") -> Any:
    """A tokenizer of one of KINDS or LOSSY, with a template of tests/templates."""
    inner = _byte_level(kind) if kind in BYTES else _unigram() if "unigram" in kind else _pieces(kind)
    if kind in ("fallback nfkc", "unigram nfkc"):
        inner.normalizer = normalizers.NFKC()
    if kind == "wordpiece":
        inner = _wordpiece()
    flags = {
        "lstrip": kind == "lstrip",
        "rstrip": kind == "rstrip",
        "single_word": kind == "single word",
        "normalized": kind in ("normalized", "folded"),
    }
    special = kind != "frame not special"
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL[:3]])
    names = CONTROL[3:] if shape == "chatml" else OF_ALL_SHAPES[3:]
    inner.add_tokens([AddedToken(name, special=special, **flags) for name in names])
    if special:
        inner.add_special_tokens([AddedToken(name, special=True, **flags) for name in names])
    if kind == "think":
        inner.add_tokens(
            [AddedToken(name, normalized=False) for name in ("<think>", "</think>", "<tool_call>")]
        )
    if kind == "spaces":
        inner.add_tokens([AddedToken(" " * size, normalized=False) for size in (2, 3, 4, 8)] + ["\n\n"])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = (TEMPLATES / f"{shape}.jinja").read_text()
    return made


def _byte_level(kind: str) -> Tokenizer:
    inner = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind in ("llama3", "qwen"):
        pattern = SPLIT.replace("DIGITS", "{1,3}" if kind == "llama3" else "")
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=kind == "prefix space", trim_offsets=kind == "trimmed offsets"
        )
    if kind in ("qwen", "nfkc", "folded"):
        inner.normalizer = normalizers.NFC() if kind == "qwen" else normalizers.NFKC()
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(TEXT, trainer)
    return inner


def _pieces(kind: str) -> Tokenizer:
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if kind == "prepend":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        scheme = kind.rpartition(" ")[2] if kind.startswith("metaspace") else "first"
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    inner.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=600, special_tokens=fallback, show_progress=False)
    )
    return _plain(inner)


def _unigram() -> Tokenizer:
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    characters = [chr(code) for code in range(33, 127)] + ["\n", "é"]
    inner.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=300, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=characters,
            show_progress=False,
        ),
    )  # fmt: skip
    return _plain(inner)


def _wordpiece() -> Tokenizer:
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    )
    return inner


def _plain(inner: Tokenizer) -> Tokenizer:
    """Without the trainer's special tokens as added ones: they stay pieces of the vocabulary."""
    import json

    return Tokenizer.from_str(json.dumps({**json.loads(inner.to_str()), "added_tokens": []}))
