"""Preference pairs a second and peak memory of `train dpo`, beside TRL's trainer, on the same pairs.

    make bench-train            (or: python benchmarks/train_dpo.py --out benchmarks/results/train_dpo.json)

Real tutoring prompts (Socratic LLM's, under MAIEUTIC_DATA), to each of which two replies of up to 250 tokens are made
from what the assistants of its dialogues said; a byte-level BPE of 32,000 tokens trained on their text, and Llama shapes
of 10 and 50 million weights, from nothing. Every way gets the same ids and bf16 autocast:

- TRL's default: `DPOTrainer` with `DPOConfig` as it comes (eight pairs at once, activations recomputed, a second model);
- TRL's, reference first: the same with `precompute_ref_log_probs`;
- the published script's: one pair at once, four a step, nothing recomputed;
- `train dpo`: eight pairs a step.

What is counted is everything after the model is loaded and pairs are ids: the reference's log-probabilities too. Of
`train dpo` it is the whole call, with reading, tokenizing and writing the model. One interleaved run, every way in turn
in a process of its own, three rounds; medians, ratios within a round, of the clock and of processor time, which tells
more where others are at work. `--device cuda` for a GPU, `--quick` to try it.
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
DATA = Path(os.environ.get("MAIEUTIC_DATA", ROOT.parent / "shared" / "data")) / "socratic-llm"
SOURCES = ("mathdial_train.json", "tutorchat_train.json", "debugging_train.json")
SHAPES = {
    "quick": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "10m": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 10, "num_attention_heads": 6},
    "50m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 11, "num_attention_heads": 8},
}
PAIRS = {"quick": 8, "10m": 16, "50m": 8}
"""Pairs of one run."""
WARM = 2
STEP = 8
LONGEST, REPLY = 2048, 250
DEFAULT, FIRST, SCRIPT, OURS = "TRL's default", "TRL's, reference first", "published script's", "train dpo"


def prepare(folder: Path, sizes: list[str]) -> None:
    """Pairs and bases for every way, made once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from maieutic.core.messages import Conversation
    from maieutic.models.weights import quiet
    from maieutic.recipes.demo.base import train_tokenizer

    texts = [text for source in SOURCES for text in json.loads((DATA / source).read_text(encoding="utf-8"))]
    talks = [Conversation.model_validate({"messages": [{"role": "user", "content": text}]}) for text in texts]
    tokenizer = train_tokenizer(talks, 32_000, LONGEST)
    spoken = [part for text in texts for part in said(text)]
    rows = [pair(text, number, spoken, tokenizer) for number, text in enumerate(texts)]
    write(folder / "warm.jsonl", rows[:WARM])
    for size in sizes:
        write(folder / f"{size}.jsonl", rows[WARM :: len(rows) // PAIRS[size]][: PAIRS[size]])
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=LONGEST, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            **SHAPES[size],
        )  # fmt: skip
        with quiet():
            LlamaForCausalLM(config).save_pretrained(folder / size)
            tokenizer.save_pretrained(folder / size)


def said(text: str) -> list[str]:
    """What the assistants of a dialogue said, where it is written so."""
    parts = text.replace("Assistant:", "assistant:").split("assistant:")[1:]
    return [
        part for one in parts if len(part := one.partition("user:")[0].partition("User:")[0].strip()) > 40
    ]


def pair(text: str, number: int, spoken: list[str], tokenizer: Any) -> dict[str, Any]:
    """A prompt cut to what leaves room, and two replies: others' words, of 20 to 250 tokens."""

    def cut(words: str, tokens: int) -> str:
        return tokenizer.decode(tokenizer(words, add_special_tokens=False)["input_ids"][:tokens])

    replies = [
        cut(
            " ".join(spoken[(7919 * number + 31 * side + 1) % (len(spoken) - 4) :][:4]),
            REPLY - 130 * (number % 2) * side,
        )
        for side in (0, 1)
    ]
    return {
        "prompt": [{"role": "user", "content": cut(text, LONGEST - REPLY - 50)}],
        "chosen": [{"role": "assistant", "content": replies[0]}],
        "rejected": [{"role": "assistant", "content": replies[1]}],
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def trl(**settings: Any) -> Callable[[Path, str, str, str, Path], tuple[int, float]]:
    """TRL's trainer, with these settings beside those that all ways share."""

    def way(folder: Path, size: str, data: str, device: str, out: Path) -> tuple[int, float]:
        from trl import DPOConfig, DPOTrainer

        from maieutic.train.base import load_trainable, open_base
        from maieutic.train.rows import preference_rows, read_preferences
        from maieutic.train.steps import TrainDpo

        class Silent(DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                return dataset

            def _send_telemetry(self) -> None:
                pass

            def create_model_card(self, *args: Any, **kwargs: Any) -> None:
                pass

        step = TrainDpo(model=str(folder / size), data=folder / data)
        start = open_base(step)
        read = read_preferences(folder / data)
        rows = preference_rows(read.pairs, start.tokenizer, start.frame, LONGEST)
        model = load_trainable(step, start.source)
        args = DPOConfig(
            output_dir=str(out), num_train_epochs=1, bf16=True, use_cpu=device == "cpu", save_strategy="no",
            report_to="none", disable_tqdm=True, logging_steps=1, max_length=LONGEST,
            dataloader_pin_memory=device != "cpu", **settings,
        )  # fmt: skip
        started = time.perf_counter()
        trainer = Silent(model=model, args=args, train_dataset=rows.dataset, processing_class=start.tokenizer)
        trainer.train()
        return len(rows.dataset), time.perf_counter() - started

    return way


def ours(folder: Path, size: str, data: str, device: str, out: Path) -> tuple[int, float]:
    """`train dpo`, all of it."""
    from maieutic.train.steps import TrainDpo

    step = TrainDpo(
        model=str(folder / size), data=folder / data, epochs=1, batch_size=STEP, precision="bfloat16"
    )
    started = time.perf_counter()
    result = step.run(out)
    return result.metrics["data"]["rows"], time.perf_counter() - started


WAYS: dict[str, Callable[[Path, str, str, str, Path], tuple[int, float]]] = {
    DEFAULT: trl(),
    FIRST: trl(precompute_ref_log_probs=True),
    SCRIPT: trl(per_device_train_batch_size=1, gradient_accumulation_steps=4, gradient_checkpointing=False),
    OURS: ours,
}


def run(folder: str, size: str, way: str, device: str) -> None:
    """One way in this process; a first small run loads what is loaded once."""
    from maieutic.models.weights import quiet

    with tempfile.TemporaryDirectory() as out, quiet():
        WAYS[way](Path(folder), size, "warm.jsonl", device, Path(out) / "warm")
        before = time.process_time()
        pairs, seconds = WAYS[way](Path(folder), size, f"{size}.jsonl", device, Path(out) / "run")
        spent = time.process_time() - before
    print(json.dumps({"pairs": pairs, "seconds": seconds, "cpu_seconds": spent, "peak_gb": peak_gb(device)}))


def measure(sizes: list[str], rounds: int, device: str, ways: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, sizes)
        found = interleaved(__file__, folder, sizes, ways, rounds, device, "pairs")
    return {
        "rounds": found,
        "table": {size: {way: summed(each, way) for way in each} for size, each in found.items()},
        **where(device),
    }


def summed(each: dict[str, list[dict[str, float]]], way: str) -> dict[str, float]:
    """Medians over the rounds; ratios are taken within a round."""
    row = {
        "rate": round(statistics.median(one["rate"] for one in each[way]), 2),
        "cpu": round(statistics.median(one["cpu_seconds"] / one["pairs"] for one in each[way]), 2),
        "peak_gb": round(statistics.median(one["peak_gb"] for one in each[way]), 2),
    }
    for other in each:
        ratios = [mine["rate"] / theirs["rate"] for mine, theirs in zip(each[way], each[other], strict=True)]
        row[f"times {other}"] = round(statistics.median(ratios), 2)
        spent = [
            theirs["cpu_seconds"] / mine["cpu_seconds"]
            for mine, theirs in zip(each[way], each[other], strict=True)
        ]
        row[f"cpu times {other}"] = round(statistics.median(spent), 2)
    return row


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| weights | way | pairs/s | times TRL's default | CPU s a pair | TRL's over it | peak GB |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for size, ways in result["table"].items():
        for way, row in ways.items():
            faster, leaner = (row.get(f"{kind}times {DEFAULT}", "") for kind in ("", "cpu "))
            lines.append(
                f"| {size} | {way} | {row['rate']} | {faster} | {row['cpu']} | {leaner} | {row['peak_gb']} |"
            )
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
    parser.add_argument("--size", action="append", choices=SHAPES, help="default: 10m and 50m")
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--quick", action="store_true", help="one round of a very small model, to see that it works"
    )
    options = parser.parse_args()
    sizes = ["quick"] if options.quick else options.size or ["10m", "50m"]
    result = measure(sizes, 1 if options.quick else options.rounds, options.device, options.way or list(WAYS))
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\n{options.out}")


if __name__ == "__main__":
    main()
