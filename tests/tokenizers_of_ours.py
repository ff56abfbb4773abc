"""Small fast tokenizers of two families, with the control tokens that eight template shapes use."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
SHAPES = ("chatml", "llama2", "llama3", "mistral", "gemma", "phi3", "deepseek")
"""The shapes that can be trained on; `qwen3` must be refused."""

CONTROL = [
    "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|end|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>",
]  # fmt: skip

TEXT = [
    "How would I make a cake? The answer is 12, since 3 times 4 is 12.",
    "user assistant system Human: Assistant: User: hello there, thank you! ok \\frac{1}{2} {'a': 1}",
    "Wie geht es dir? Très bien, merci. What do you think the next step could be?",
] * 20


@cache
def tokenizer(family: str = "bytes", shape: str = "chatml") -> PreTrainedTokenizerFast:
    """`bytes`: byte-level BPE, as GPT-2, Llama 3 and Qwen; `pieces`: Llama 2's BPE, with byte fallback."""
    inner = _bytes() if family == "bytes" else _pieces()
    plain = {"[INST]", "[/INST]"} if shape == "llama2" else set()
    strip = {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"} if shape == "phi3" else set()
    inner.add_special_tokens(
        [
            AddedToken(name, special=True, normalized=False, rstrip=name in strip)
            for name in CONTROL
            if name not in plain
        ]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = (TEMPLATES / f"{shape}.jinja").read_text()
    return made


def _bytes() -> Tokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    return inner


def _pieces() -> Tokenizer:
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=fallback, show_progress=False)
    inner.train_from_iterator(TEXT, trainer)
    shape = json.loads(inner.to_str())
    shape["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(shape))
