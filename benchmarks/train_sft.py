"""Real tokens a second of `train sft`, beside a plain padded Trainer loop and TRL's defaults, on the same conversations.

    make bench-train            (or: python benchmarks/train_sft.py --out benchmarks/results/train_sft.json)

Conversations of people under MAIEUTIC_DATA (OASST1's, document writing, mathematics), a byte-level BPE of 32,000 tokens
trained on their text, and Llama shapes of 10 and 50 million weights, from nothing. Every way gets the same ids and
labels, with the loss on the human turns, the same rows an optimizer step and bf16 autocast; rows have 2,048 tokens at
most. One interleaved run, every way in turn in a process of its own, three rounds; medians of the real (non-padding)
tokens a second of the training loop, of the ratios within a round, and of the peak memory. `--device cuda` for a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rounds import interleaved, peak_gb, where

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("MAIEUTIC_DATA", ROOT.parent / "shared" / "data"))
SOURCES = ("real-chats/oasst1.jsonl", "real-chats/document.jsonl", "real-chats/math-tutoring.jsonl")
SHAPES = {
    "10m": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 10, "num_attention_heads": 6},
    "50m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 11, "num_attention_heads": 8},
}
ROWS = {"10m": 48, "50m": 16}
"""Conversations of one run."""
STEP = 16
LONGEST = 2048
LOOP, TRL, OURS = "padded loop", "TRL's defaults", "train sft"


def prepare(folder: Path) -> None:
    """Corpora and bases for every way, made once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from maieutic.data.corpus import write_corpus
    from maieutic.data.importing import import_files
    from maieutic.models.weights import quiet
    from maieutic.recipes.demo.base import train_tokenizer

    talks = list(import_files([DATA / source for source in SOURCES], ended=True)[0])
    tokenizer = train_tokenizer(talks, 32_000, LONGEST)
    write_corpus(folder / "warm.jsonl", talks[:2])
    for name, shape in SHAPES.items():
        rows = talks[2 :: len(talks) // ROWS[name]][: ROWS[name]]
        write_corpus(folder / f"{name}.jsonl", rows)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=LONGEST, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **shape,
        )  # fmt: skip
        with quiet():
            LlamaForCausalLM(config).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)


def columns(folder: Path, size: str, data: str) -> tuple[Any, Any, Any]:
    """The model, the tokenizer and the rows, as `train sft` makes them."""
    from maieutic.data.corpus import read_corpus
    from maieutic.train.base import add_end_embedding, load_trainable, open_base
    from maieutic.train.rows import conversation_rows
    from maieutic.train.steps import TrainSft

    step = TrainSft(model=str(folder / size), data=folder / data, role="user")
    start = open_base(step)
    rows = conversation_rows(read_corpus(step.data), start.tokenizer, "user", start.frame, LONGEST)
    model = load_trainable(step, start.source)
    add_end_embedding(model, start.tokenizer, start.frame)
    return model, start.tokenizer, rows


def common(folder: Path, device: str) -> dict[str, Any]:
    """The training arguments that all ways share."""
    return {
        "output_dir": str(folder), "num_train_epochs": 1, "learning_rate": 2e-5, "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03, "bf16": True, "use_cpu": device == "cpu", "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "logging_steps": 1, "seed": 0, "dataloader_pin_memory": device != "cpu",
    }  # fmt: skip


def loop(folder: Path, size: str, data: str, device: str, out: Path) -> tuple[int, float]:
    """A plain Trainer, four rows at once, padded to the longest of them."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model, tokenizer, rows = columns(folder, size, data)
    args = TrainingArguments(
        **common(out, device), per_device_train_batch_size=4, gradient_accumulation_steps=STEP // 4
    )
    trainer = Trainer(
        model=model, args=args, train_dataset=rows.dataset, data_collator=DataCollatorForSeq2Seq(tokenizer)
    )
    return rows.report.tokens, timed(trainer.train)


def trl(folder: Path, size: str, data: str, device: str, out: Path) -> tuple[int, float]:
    """TRL's trainer as it comes: eight rows at once, activations recomputed."""
    from trl import SFTConfig, SFTTrainer

    class Silent(SFTTrainer):
        def _send_telemetry(self) -> None:
            pass

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            pass

    model, tokenizer, rows = columns(folder, size, data)
    args = SFTConfig(
        **common(out, device), per_device_train_batch_size=8, gradient_accumulation_steps=STEP // 8,
        max_length=LONGEST, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = Silent(model=model, args=args, train_dataset=rows.dataset, processing_class=tokenizer)
    return rows.report.tokens, timed(trainer.train)


def ours(folder: Path, size: str, data: str, device: str, out: Path) -> tuple[int, float]:
    """`train sft`; the seconds are those of its steps."""
    from maieutic.train.steps import TrainSft

    step = TrainSft(
        model=str(folder / size), data=folder / data, role="user", epochs=1, batch_size=STEP,
        max_length=LONGEST, precision="bfloat16", save_steps=1000,
    )  # fmt: skip
    result = step.run(out)
    return result.metrics["data"]["tokens"], result.metrics["seconds"]


WAYS: dict[str, Callable[[Path, str, str, str, Path], tuple[int, float]]] = {LOOP: loop, TRL: trl, OURS: ours}


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run(folder: str, size: str, way: str, device: str) -> None:
    """One way in this process; a first small run loads what is loaded once."""
    from maieutic.models.weights import quiet

    with tempfile.TemporaryDirectory() as out, quiet():
        WAYS[way](Path(folder), size, "warm.jsonl", device, Path(out) / "warm")
        tokens, seconds = WAYS[way](Path(folder), size, f"{size}.jsonl", device, Path(out) / "run")
    print(json.dumps({"tokens": tokens, "seconds": seconds, "peak_gb": peak_gb(device)}))


def measure(sizes: list[str], rounds: int, device: str, ways: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        found = interleaved(__file__, folder, sizes, ways, rounds, device, "tokens")
    return {
        "rounds": found,
        "table": {size: {way: summed(each, way) for way in each} for size, each in found.items()},
        **where(device),
    }


def summed(each: dict[str, list[dict[str, float]]], way: str) -> dict[str, float]:
    """Medians over the rounds; ratios are taken within a round."""
    row = {
        "rate": round(statistics.median(one["rate"] for one in each[way])),
        "peak_gb": round(statistics.median(one["peak_gb"] for one in each[way]), 2),
    }
    for other in each:
        ratios = [mine["rate"] / theirs["rate"] for mine, theirs in zip(each[way], each[other], strict=True)]
        row[f"times {other}"] = round(statistics.median(ratios), 2)
    return row


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| weights | way | real tokens/s | times the padded loop | times TRL | peak GB |",
             "|---|---|---:|---:|---:|---:|"]  # fmt: skip
    for size, ways in result["table"].items():
        for way, row in ways.items():
            against = " | ".join(str(row.get(f"times {other}", "")) for other in (LOOP, TRL))
            lines.append(f"| {size} | {way} | {row['rate']:,} | {against} | {row['peak_gb']} |")
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "run":
        run(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", action="append", choices=SHAPES, help="default: both")
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    result = measure(options.size or list(SHAPES), options.rounds, options.device, options.way or list(WAYS))
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\n{options.out}")


if __name__ == "__main__":
    main()
