"""A tiny base model from a corpus alone: its own tokenizer, and a Llama that is pretrained on the text.

With it the whole pipeline runs without a model hub. The tokenizer's alphabet is bytes, so that it encodes any text. The
model's language is poor.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maieutic.core.errors import EmptyCorpus, InputError, RunConflict
from maieutic.core.messages import Conversation
from maieutic.core.progress import track
from maieutic.core.store import full_disk, read_json, write_json

if TYPE_CHECKING:
    from maieutic.recipes.demo.steps import DemoBase

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endofconversation|>")
"""The last is END (see `render`): the base model has the token but is not trained on it."""
WINDOW = 256
"""Tokens of a training row at most: a conversation, or a part of a longer one."""
STEP_TOKENS = 2048
"""Tokens of a training step, with padding."""
LEARNING_RATE = 5e-3


def build_base(step: DemoBase, out: Path) -> dict[str, Any]:
    """Make a tokenizer and a tiny Llama with a ChatML template; returns `parameters`, `vocabulary` and `loss`.

    Raises:
        EmptyCorpus: there is no conversation.
        InputError: the sizes do not fit together.
        RunConflict: `out` holds something else.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from maieutic.models.weights import quiet

    if step.vocab_size < 256 + len(SPECIAL) + 1 or step.hidden % (2 * step.heads):
        raise InputError(
            f"no Llama has vocab_size {step.vocab_size}, hidden {step.hidden}, heads {step.heads}",
            "Give a vocabulary of 260 or more, and a width that is a multiple of twice the heads.",
        )
    conversations = _conversations(step.corpus)
    recipe = {**step.sizes(), "corpus": _digest(conversations)}
    if (made := _made(out, recipe)) is not None:
        return made
    with quiet():
        tokenizer = train_tokenizer(conversations, step.vocab_size, step.context)
        torch.manual_seed(step.seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=step.hidden,
            intermediate_size=8 * step.hidden // 3 // 8 * 8,
            num_hidden_layers=step.layers,
            num_attention_heads=step.heads,
            num_key_value_heads=step.heads,
            max_position_embeddings=step.context,
            tie_word_embeddings=True,
            initializer_range=step.hidden**-0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = LlamaForCausalLM(config)
        with one_thread():
            loss = _pretrain(model, tokenizer, conversations, step.steps, step.seed) if step.steps else None
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        built = {"parameters": model.num_parameters(), "vocabulary": len(tokenizer), "loss": loss}
        _save(model, tokenizer, out, {"recipe": recipe, "built": built})
    return built


def train_tokenizer(conversations: Sequence[Conversation], vocab_size: int, context: int) -> Any:
    """A byte-level BPE with ChatML's special tokens and template, as a fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(conversations), trainer)
    end_of_text, start, end, over = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=end,
        pad_token=end_of_text,
        additional_special_tokens=[start, over],
        chat_template=(files("maieutic.recipes.demo") / "chatml.jinja").read_text(encoding="utf-8"),
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _texts(conversations: Sequence[Conversation]) -> Iterator[str]:
    # Role names are learned as tokens too; otherwise every turn would begin with its role in bytes.
    for conversation in conversations:
        for turn in conversation.messages:
            yield f"{turn.role.value}\n{turn.content}"


def _conversations(corpus: Path | Sequence[Conversation]) -> list[Conversation]:
    if isinstance(corpus, (str, Path)):
        from maieutic.data.corpus import read_corpus

        conversations = list(read_corpus(Path(corpus)))
    else:
        conversations = list(corpus)
    if not any(turn.content for conversation in conversations for turn in conversation.messages):
        raise EmptyCorpus("the corpus has no text", "Give a corpus with at least one conversation.")
    return [conversation for conversation in conversations if conversation.messages]


def _digest(conversations: Sequence[Conversation]) -> str:
    from maieutic.core.messages import fingerprint

    return fingerprint([[turn.role.value, turn.content] for talk in conversations for turn in talk.messages])


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread.

    A tiny model gains little from a second core, and with one thread its weights do not depend on the number of cores.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pretrain(
    model: Any, tokenizer: Any, conversations: Sequence[Conversation], steps: int, seed: int
) -> float:
    """Next-token training on the rendered conversations; returns the mean loss of the last tenth of the steps."""
    import torch

    batches = _batches(_pieces(tokenizer, conversations), tokenizer.pad_token_id, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.55 + 0.45 * math.cos(math.pi * step / steps)),
    )
    losses = []
    model.train()
    with track(steps, "demo-base") as bar:
        for _ in range(steps):
            rows, labels = next(batches)
            loss = model(input_ids=rows, labels=labels).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            bar.advance(note=f"loss {losses[-1]:.2f}")
    model.eval()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _pieces(tokenizer: Any, conversations: Sequence[Conversation]) -> list[list[int]]:
    """Each conversation's ids with an end of text, cut at the length of a row.

    A row holds one conversation only: with several, a tiny model does not learn to use its context.
    """
    from maieutic.chat_templates.rendering import render

    pieces: list[list[int]] = []
    for conversation in conversations:
        role = next((turn.role for turn in conversation.messages if turn.role != "system"), None)
        if role is not None:
            ids = [*render(conversation, tokenizer, role, end=False).input_ids, tokenizer.pad_token_id]
            pieces += [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    return [piece for piece in pieces if len(piece) > 1]


def _batches(pieces: Sequence[list[int]], pad: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Ids and labels of endless steps; every piece is used once before any is repeated."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    batch: list[list[int]] = []
    while True:
        for index in torch.randperm(len(pieces), generator=generator).tolist():
            longest = max(map(len, [*batch, pieces[index]]))
            if batch and longest * (len(batch) + 1) > STEP_TOKENS:
                yield _padded(batch, pad)
                batch = []
            batch.append(pieces[index])


def _padded(batch: Sequence[list[int]], pad: int) -> tuple[Any, Any]:
    import torch

    rows = torch.full((len(batch), max(map(len, batch))), pad)
    labels = torch.full_like(rows, -100)
    for place, piece in enumerate(batch):
        rows[place, : len(piece)] = labels[place, : len(piece)] = torch.tensor(piece)
    return rows, labels


def _made(out: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """The result of an earlier equal call, or null where the folder is free."""
    record = out / "maieutic.json"
    if record.is_file():
        held = read_json(record)
        if held.get("recipe") == recipe:
            return dict(held["built"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunConflict(f"{out} holds something else", "Choose a new or empty output folder.")
    return None


def _save(model: Any, tokenizer: Any, out: Path, record: dict[str, Any]) -> None:
    part = out.with_name(f".{out.name}.part")
    with full_disk(part):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(part / "maieutic.json", record)
        part.replace(out)
