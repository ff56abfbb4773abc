"""Conversations → ids and masks per second: ours, the per-prefix algorithm, and TRL's `assistant_only_loss`.

    make bench-corpora            (or: python benchmarks/corpora.py --out benchmarks/results/corpora.json)

2,000 conversations of 20 turns and about 2,000 tokens, cut at random from the text under MAIEUTIC_DATA, and a
byte-level BPE tokenizer of 32,000 tokens trained on that text, with a ChatML template. One interleaved run: every way
in turn, three rounds; medians of tokens per second, and of the ratios within a round. The slow ways get fewer conversations; what counts is tokens per second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a process is one thread, ours and theirs
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("MAIEUTIC_DATA", ROOT.parent / "shared" / "data"))
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Chat = list[dict[str, str]]
PREFIX, TRL = "per prefix (a)", "TRL (b)"


def texts() -> list[str]:
    """Every string of some length in the JSON files of the data folder, each once, in a fixed order."""
    found: dict[str, None] = {}

    def gather(value: Any) -> None:
        if isinstance(value, str) and len(value) >= 40:
            found[value] = None
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            gather(item)

    for file in sorted([*DATA.rglob("*.json"), *DATA.rglob("*.jsonl")]):
        text = file.read_text(encoding="utf-8")
        gather(
            json.loads(text)
            if file.suffix == ".json"
            else [json.loads(line) for line in text.splitlines() if line]
        )
    return list(found)


def conversations(pool: str, count: int, turns: int, characters: int, seed: int = 0) -> list[Chat]:
    """Turns cut at random places; the assistant says three times as much as the user, and lengths vary."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        weights = [draw.lognormvariate(0, 0.6) * (3 if index % 2 else 1) for index in range(turns)]
        chat: Chat = []
        for index, weight in enumerate(weights):
            length = max(20, round(characters * weight / sum(weights)))
            start = draw.randrange(len(pool) - length)
            content = pool[start : start + length].strip() or "ok"
            chat.append({"role": "assistant" if index % 2 else "user", "content": content})
        made.append(chat)
    return made


def train_tokenizer(pool: list[str]) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        pool, trainers.BpeTrainer(vocab_size=32_000, initial_alphabet=alphabet, show_progress=False)
    )
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def per_prefix(chats: list[Chat], tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """The usual algorithm: tokenize the conversation up to each turn; what is new belongs to that turn."""
    for chat in chats:
        ids: list[int] = []
        labels: list[int] = []
        for count, turn in enumerate(chat, 1):
            longer = tokenizer.apply_chat_template(chat[:count], tokenize=True, return_dict=False)
            new = longer[len(ids) :]
            labels += new if turn["role"] == "assistant" else [-100] * len(new)
            ids = longer
        yield ids, labels


def trl_prepared(dataset: Any, tokenizer: Any) -> Any:
    """TRL's own preparation of a dataset (through `datasets.map`), without a model to train."""
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(
        output_dir=tempfile.gettempdir(),
        assistant_only_loss=True,
        max_length=None,
        report_to=[],
        use_cpu=True,
    )
    trainer = SimpleNamespace(
        _tokenizer=tokenizer,
        chat_template=None,
        completion_only_loss=False,
        padding_free=False,
        aux_loss_enabled=False,
    )
    return SFTTrainer._prepare_dataset(trainer, dataset, tokenizer, args, False, None, "train")


def tokens_per_second(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - started)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import datasets

    from maieutic import Conversation
    from maieutic.chat_templates.rendering import Renderer
    from maieutic.models.weights import Framing
    from maieutic.train.mask import write_masks

    warnings.simplefilter("ignore", FutureWarning)
    datasets.disable_caching()
    datasets.disable_progress_bars()
    held = texts()
    pool = "\n\n".join(held)
    tokenizer = train_tokenizer(held)
    per_token = len(pool) / sum(len(one.ids) for one in tokenizer.backend_tokenizer.encode_batch_fast(held))
    chats = conversations(pool, options.conversations, 20, round(1900 * per_token))
    corpus = [Conversation.model_validate({"messages": chat}) for chat in chats]
    lengths = {
        turns: [
            Conversation.model_validate({"messages": chat})
            for chat in conversations(pool, 20_000 // turns, turns, round(95 * turns * per_token), seed=turns)
        ]
        for turns in (5, 40)
    }
    folder = Path(tempfile.mkdtemp())
    file = folder / "corpus.jsonl"
    file.write_bytes(b"".join(json.dumps({"messages": chat}).encode() + b"\n" for chat in chats))
    renderer = Renderer(tokenizer, None, None)
    without = Renderer(tokenizer, None, None, faster=False)
    slow, slower = chats[: options.conversations // 10], chats[: options.conversations // 50]
    dataset = datasets.Dataset.from_list([{"messages": chat} for chat in slow])

    def rendered(by: Renderer, some: list[Conversation]) -> int:
        return sum(len(one.input_ids) for one in by.render_many(some, "assistant"))

    def prepared() -> int:
        out = Path(tempfile.mkdtemp(dir=folder))
        made = write_masks(file, tokenizer, "assistant", out / "run", Framing(None, None))
        shutil.rmtree(out)
        return int(made.manifest["tokens"])

    ways: dict[str, Callable[[], int]] = {
        PREFIX: lambda: sum(len(ids) for ids, _ in per_prefix(slower, tokenizer)),
        TRL: lambda: sum(map(len, trl_prepared(dataset, tokenizer)["input_ids"])),
        "ours, 1 process": lambda: rendered(renderer, corpus),
        "ours, 1 process, tokenizers only": lambda: rendered(without, corpus[: len(slow)]),
        "ours, JSONL to Arrow": prepared,
        "5 turns": lambda: rendered(renderer, lengths[5]),
        "40 turns": lambda: rendered(renderer, lengths[40]),
    }
    rendered(renderer, corpus[:100])  # what is loaded and built once is no round's
    trl_prepared(dataset.select(range(2)), tokenizer)
    prepared()
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, work in ways.items():
            rounds[name].append(tokens_per_second(work))
            print(
                f"round {number + 1}: {name}: {rounds[name][-1]:,.0f} tokens/s", file=sys.stderr, flush=True
            )
    same = checks(renderer, corpus, chats, tokenizer, trl_prepared(dataset, tokenizer))
    shutil.rmtree(folder)
    return report(rounds, same, renderer, corpus)


def checks(renderer: Any, corpus: Any, chats: list[Chat], tokenizer: Any, theirs: Any) -> dict[str, bool]:
    """Whether ids and labels are those of the tokenizer, of the per-prefix algorithm and of TRL."""
    mine = renderer.render_many(corpus, "assistant")
    served = (tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in chats)
    return {
        "ids are the tokenizer's, whole corpus": all(
            a.input_ids == b for a, b in zip(mine, served, strict=True)
        ),
        "ids and labels are TRL's": all(
            one.input_ids == row["input_ids"] and one.labels == row["labels"]
            for one, row in zip(mine, theirs, strict=False)
        ),
    }


def report(
    rounds: dict[str, list[float]], same: dict[str, bool], renderer: Any, corpus: Any
) -> dict[str, Any]:
    median = {name: statistics.median(values) for name, values in rounds.items()}
    by_round = {
        base: {
            name: [round(one / other, 2) for one, other in zip(values, rounds[base], strict=True)]
            for name, values in rounds.items()
        }
        for base in (PREFIX, TRL)
    }
    cost = [short / long for short, long in zip(rounds["5 turns"], rounds["40 turns"], strict=True)]
    mine = renderer.render_many(corpus, "assistant")
    return {
        "tokens_per_second": {name: round(value) for name, value in median.items()},
        "times_a": {name: round(statistics.median(values), 1) for name, values in by_round[PREFIX].items()},
        "times_b": {name: round(statistics.median(values), 1) for name, values in by_round[TRL].items()},
        "ratios_by_round": by_round,
        "cost_per_token_40_over_5": round(statistics.median(cost), 3),
        "same": same,
        "conversations": len(corpus),
        "tokens_a_conversation": round(sum(len(one.input_ids) for one in mine) / len(corpus)),
        "encoder": renderer.batches.name,
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "load": [round(one, 1) for one in os.getloadavg()],
            "python": platform.python_version(),
        },
        "versions": {
            name: installed(name)
            for name in ("tokenizers", "transformers", "trl", "datasets", "gigatoken", "numpy")
        },
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| way | tokens/s | times (a) | times (b) |", "|---|---:|---:|---:|"]
    for name, value in result["tokens_per_second"].items():
        times = f"{result['times_a'][name]} | {result['times_b'][name]}" if "turns" not in name else "– | –"
        lines.append(f"| {name} | {value:,} | {times} |")
    lines += ["", f"Cost per token, 40 turns over 5: {result['cost_per_token_40_over_5']}"]
    lines += [f"{what}: {'yes' if true else 'NO'}" for what, true in result["same"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: no data at {DATA}; set MAIEUTIC_DATA")
        return
    result = measure(options)
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\n{options.out}")
    if not all(result["same"].values()):
        sys.exit("ids or labels differ")


if __name__ == "__main__":
    main()
