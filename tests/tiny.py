"""A tiny tokenizer and a tiny Llama, made from nothing in well under a second, for everybody's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LINES = (
    "Hello, can you help me with a sum? I do not see why a half and a third make five sixths.",
    "Of course. What would both fractions look like with the same number below the line?",
    "def add(a, b):\n    return a - b  # my program gives 1 for add(3, 2), why?",
    "Which sign stands between a and b in the last line, and which one did you mean?",
    "So \\frac{1}{2} = \\frac{3}{6}, and {3, 2} together are 5. Thank you, that was all! 🙂",
    "user assistant system\n",
)


def tiny_tokenizer(*, vocab: int = 400) -> Any:
    """A byte-level BPE with ChatML's control tokens; any text survives encoding and decoding.

    `vocab` is a target: 256 bytes and 3 control tokens at least, merges as far as our few lines give them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab, 259),
        special_tokens=list(SPECIALS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(LINES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_llama(
    *,
    vocab: int = 400,
    hidden: int = 32,
    layers: int = 2,
    context: int = 2048,
    seed: int = 0,
    tied: bool = False,
) -> Any:
    """A Llama with random weights and grouped query heads, in float32; `tied`: its head is its embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,  # wide enough that greedy text is no single loop
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_checkpoint(
    folder: Path,
    *,
    vocab: int = 400,
    hidden: int = 32,
    layers: int = 2,
    context: int = 2048,
    seed: int = 0,
    tied: bool = False,
) -> Path:
    """Both, saved as any checkpoint is (safetensors, tokenizer, chat template); the folder."""
    tokenizer = tiny_tokenizer(vocab=vocab)
    tokenizer.model_max_length = context
    model = tiny_llama(
        vocab=len(tokenizer), hidden=hidden, layers=layers, context=context, seed=seed, tied=tied
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
