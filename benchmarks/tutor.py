"""Candidates a second of `candidates`, five replies a prompt, beside five separate `generate` calls a prompt.

    make bench-tutor            (or: python benchmarks/tutor.py --out benchmarks/results/tutor.json)

Real tutoring prompts (Socratic LLM's, under MAIEUTIC_DATA) behind the tutor's own instructions, temperature 1.2 and 400
new tokens, as published; a Llama shape of 10 million weights, from nothing, float32, with a byte-level BPE of 32,000 tokens
trained on the prompts' text (`--size 50m`: 50 million, 160 new tokens). The ways:

- published: for each prompt, five calls of transformers' `generate`, one reply each;
- one call: for each prompt, one `generate` call with `num_return_sequences=5`;
- `candidates`: the whole stage, with reading, rendering and storing.

What loads a model is not counted in the first two, and is in ours. A model from nothing hardly ever stops by itself, so
each way writes almost the same number of tokens, which is printed. One interleaved run, every way in turn in a process
of its own, three rounds; medians, ratios within a round. `--device cuda` for a GPU, `--quick` to try it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rounds import interleaved, peak_gb, where
from train_dpo import DATA, SHAPES, SOURCES

PROMPTS = {"quick": 3, "10m": 3, "50m": 3}
"""Of one run; as many from each of the three sets."""
TOKENS = {"quick": 16, "10m": 400, "50m": 160}
"""New tokens of a reply: at 50 million weights fewer than published, so that all of it stays within the hour."""
K, TEMPERATURE, CONTEXT = 5, 1.2, 4096
PUBLISHED, ONE_CALL, OURS = "five calls", "one call of five", "candidates"


class Done(NamedTuple):
    """What one way did."""

    replies: int
    tokens: int
    seconds: float


def prepare(folder: Path, sizes: list[str]) -> None:
    """Prompts and bases for every way, made once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from maieutic.data.corpus import write_corpus
    from maieutic.data.formats.tutoring import seed_conversation
    from maieutic.models.weights import quiet
    from maieutic.recipes.demo.base import train_tokenizer

    lists = [json.loads((DATA / source).read_text(encoding="utf-8")) for source in SOURCES]
    seeds = [[seed_conversation(text) for text in one] for one in lists]
    tokenizer = train_tokenizer([one for each in seeds for one in each], 32_000, CONTEXT)
    for size in sizes:
        each = PROMPTS[size] // len(seeds)
        write_corpus(
            folder / f"{size}.jsonl", [one for of in seeds for one in of[10 : 10 + each]], overwrite=True
        )
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            **SHAPES[size],
        )  # fmt: skip
        with quiet():
            LlamaForCausalLM(config).save_pretrained(folder / size)
            tokenizer.save_pretrained(folder / size)


def generate(together: bool) -> Callable[[Path, str, str], Done]:
    """transformers' `generate` on the same prompts, five calls each or one."""

    def way(folder: Path, size: str, device: str) -> Done:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from maieutic.data.corpus import read_corpus
        from maieutic.rollouts.tutor_prompt import TutorPrompt

        brief = TutorPrompt.load("tutor_socratic", False)
        tokenizer = AutoTokenizer.from_pretrained(folder / size)
        model = AutoModelForCausalLM.from_pretrained(folder / size, dtype=torch.float32).to(device).eval()
        torch.manual_seed(0)
        replies = tokens = 0
        started = time.perf_counter()
        for seed in read_corpus(folder / f"{size}.jsonl"):
            turns = [turn.model_dump(mode="json") for turn in brief.frame(seed.problem, seed.messages)]
            ids = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(device)
            for _ in range(1 if together else K):
                out = model.generate(
                    **ids, do_sample=True, temperature=TEMPERATURE, top_k=0, max_new_tokens=TOKENS[size],
                    num_return_sequences=K if together else 1, pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
                new = out[:, ids["input_ids"].shape[1] :]
                replies += len(new)
                tokens += int((new != tokenizer.pad_token_id).sum())
        return Done(replies, tokens, time.perf_counter() - started)

    return way


def ours(folder: Path, size: str, device: str) -> Done:
    """The stage, all of it."""
    from maieutic.core.messages import Sampling
    from maieutic.core.settings import LocalModel
    from maieutic.rollouts.steps import Candidates

    sampling = Sampling(temperature=TEMPERATURE, max_tokens=TOKENS[size])
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        made = Candidates(
            model=f"hf/{folder / size}",
            data=folder / f"{size}.jsonl",
            k=K,
            sampling=sampling,
            local=LocalModel(device=device, precision="float32"),
        ).run(Path(out) / "c")
        return Done(made.replies, made.tokens, time.perf_counter() - started)


WAYS: dict[str, Callable[[Path, str, str], Done]] = {
    PUBLISHED: generate(together=False),
    ONE_CALL: generate(together=True),
    OURS: ours,
}


def run(folder: str, size: str, way: str, device: str) -> None:
    """One way in this process, which has the libraries loaded before the clock starts."""
    import transformers

    from maieutic.models.weights import quiet

    transformers.set_seed(0)
    with quiet():
        before = time.process_time()
        done = WAYS[way](Path(folder), size, device)
        spent = time.process_time() - before
    print(json.dumps({**done._asdict(), "cpu_seconds": spent, "peak_gb": peak_gb(device)}))


def measure(sizes: list[str], rounds: int, device: str, ways: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, sizes)
        found = interleaved(__file__, folder, sizes, ways, rounds, device, "replies")
    return {
        "rounds": found,
        "settings": {"k": K, "temperature": TEMPERATURE, "prompts": PROMPTS, "new_tokens": TOKENS},
        "table": {size: {way: summed(each, way) for way in each} for size, each in found.items()},
        **where(device),
    }


def summed(each: dict[str, list[dict[str, float]]], way: str) -> dict[str, float]:
    """Medians over the rounds; ratios are taken within a round."""
    own = each[way]
    row = {
        "rate": round(statistics.median(one["rate"] for one in own), 3),
        "tokens": round(statistics.median(one["tokens"] / one["seconds"] for one in own), 1),
        "length": round(statistics.median(one["tokens"] / one["replies"] for one in own), 1),
        "cpu": round(statistics.median(one["cpu_seconds"] / one["replies"] for one in own), 2),
        "peak_gb": round(statistics.median(one["peak_gb"] for one in own), 2),
    }
    for other, theirs in each.items():
        ratios = [mine["rate"] / his["rate"] for mine, his in zip(own, theirs, strict=True)]
        row[f"times {other}"] = round(statistics.median(ratios), 2)
    return row


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| weights | way | candidates/s | times five calls | tokens/s | tokens a reply | CPU s a reply | peak GB |",
             "|---|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for size, ways in result["table"].items():
        for way, row in ways.items():
            cells = (
                row["rate"],
                row.get(f"times {PUBLISHED}", ""),
                row["tokens"],
                row["length"],
                row["cpu"],
                row["peak_gb"],
            )
            lines.append(f"| {size} | {way} | " + " | ".join(map(str, cells)) + " |")
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
    parser.add_argument(
        "--size", action="append", choices=SHAPES, help="default: 10m; 50m too takes the hour"
    )
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--quick", action="store_true", help="one round of a very small model, to see that it works"
    )
    options = parser.parse_args()
    sizes = ["quick"] if options.quick else options.size or ["10m"]
    result = measure(sizes, 1 if options.quick else options.rounds, options.device, options.way or list(WAYS))
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\n{options.out}")


if __name__ == "__main__":
    main()
