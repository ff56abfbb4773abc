"""llama.cpp on what we export: the same ids of a text, the same logits, the same greedy text as transformers."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exporting import export
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import LLAMA3, MIXED, SHAPES, pieces, shaped, splitting
from tiny import tiny_checkpoint, tiny_tokenizer
from trained import PUPILS, talk

from maieutic.chat_templates.rendering import IGNORED, render
from maieutic.core.messages import Conversation
from maieutic.models.weights import quiet

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0,
    "short_factor": [1.0 + index / 10 for index in range(8)], "long_factor": [2.0 + index for index in range(8)],
}  # fmt: skip
PLAIN = (
    "Hello, can you help me?  Two  spaces\n\nand 123 4567 lines; don't I'LL we'Re 🙂 谢谢 été",
    "\tdef f(a, b):\n\t    return a - b  # why?\n\n\n", "  lead", "trail  ", "x" * 40, "{{ }} <| |> \\frac{1}{2}",
)  # fmt: skip


@pytest.fixture(scope="session")
def llama() -> Any:
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@contextmanager
def opened(llama: Any, file: Path, context: int = 256) -> Iterator[Any]:
    held = llama.Llama(
        str(file), n_ctx=context, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False,
        type_k=llama.GGML_TYPE_F32, type_v=llama.GGML_TYPE_F32,
    )  # fmt: skip
    try:
        yield held
    finally:
        held.close()


def logits(held: Any, ids: list[int]) -> torch.Tensor:
    held.reset()
    held.eval(ids)
    return torch.tensor(np.array(held.scores[: len(ids)]))


def transformer(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


CASES = {
    **{kind: (kind, tiny_tokenizer, {}) for kind in SHAPES},
    "tied": ("llama", tiny_tokenizer, {"tie_word_embeddings": True}),
    "Llama 3": ("llama", lambda: splitting("llama3"), {"rope_parameters": LLAMA3}),
    "linear": ("qwen2", lambda: splitting("qwen"), {"rope_parameters": LINEAR}),
    "Llama 2": ("llama", lambda: pieces("prepend"), {}),
    "Phi 3": ("phi3", lambda: pieces("prepend", "phi3"), {"sliding_window": 200}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(llama: Any, tmp_path: Path, case: str) -> None:
    kind, tokenizer, more = CASES[case]
    folder = shaped(kind, tmp_path / "model", tokenizer(), **more)
    done = export(str(folder), "gguf", tmp_path / "out")
    ids = torch.randint(3, len(tokenizer()), (150,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = transformer(folder)(torch.tensor([ids])).logits[0]
    with opened(llama, Path(done.run)) as held:
        found = logits(held, ids)
    assert expected.std() > 0.5
    assert (found - expected).abs().max() < 0.05, case


@pytest.mark.parametrize("length", [100, 300])
def test_phi_3_s_two_lists_of_factors(llama: Any, tmp_path: Path, length: int) -> None:
    """llama.cpp takes the list by the context it is opened with, transformers by the text's length."""
    with quiet():
        folder = shaped(
            "phi3", tmp_path / "model", max_position_embeddings=1024, original_max_position_embeddings=256,
            rope_parameters=LONG,
        )  # fmt: skip
    done = export(str(folder), "gguf", tmp_path / "out")
    ids = torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = transformer(folder)(torch.tensor([ids])).logits[0]
    with opened(llama, Path(done.run), 256 if length < 256 else 512) as held:
        assert (logits(held, ids) - expected).abs().max() < 0.05


TOKENIZERS = {
    "gpt2": lambda: splitting("gpt2"),
    "llama3": lambda: splitting("llama3"),
    "smaug": lambda: splitting("smaug"),
    "qwen": lambda: splitting("qwen"),
    "smollm": lambda: splitting("smollm"),
    "tekken": lambda: splitting("tekken"),
    "prepend": pieces,
    "always": lambda: pieces("always"),
    "never": lambda: pieces("never"),
    "first": lambda: pieces("first"),
    "phi3": lambda: pieces("prepend", "phi3"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_are_those_of_the_tokenizer(
    llama: Any, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    tokenizer = TOKENIZERS[kind]()
    folder = tmp_path_factory.mktemp("ids")
    done = export(str(shaped("llama", folder / "model", tokenizer)), "gguf", folder / "out")
    held = llama.Llama(str(Path(done.run)), vocab_only=True, verbose=False)

    def check(text: str) -> None:
        rows = [{"role": "user", "content": text}, {"role": "assistant", "content": "So " + text}]
        for asked in (rows[:1], [*rows, rows[0]]):
            chat = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
            assert held.tokenize(chat.encode(), add_bos=False, special=True) == ids, repr(text)

    letters = st.sampled_from("abcXYZ 019 \n\t.,;'!?-/é🙂谢")

    @settings(max_examples=150)
    @given(st.text(letters, max_size=30))
    def holds(text: str) -> None:
        check(text)

    for text in PLAIN + MIXED:
        check(text)
    holds()
    held.close()


def test_eight_bits_cost_less_than_a_hundredth(llama: Any, simulator: Path, tmp_path: Path) -> None:
    """Perplexity of the side it speaks, END included, also in talks it has not seen; sixteen bits cost nothing."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(simulator / "model")
    rows = [{"messages": talk(pupil), "ended": True} for pupil in PUPILS]
    for row in rows.copy():
        changed = [{**turn, "content": turn["content"].replace("first", "last")} for turn in row["messages"]]
        rows.append({"messages": changed, "ended": True})
    texts = [render(Conversation.model_validate(row), tokenizer, "user") for row in rows]
    model = transformer(simulator / "model")

    def perplexity(score: Any) -> float:
        losses = [
            torch.nn.functional.cross_entropy(score(ids)[:-1], torch.tensor(labels[1:]), reduction="none")
            for ids, labels in texts
        ]
        kept = [
            one[torch.tensor(labels[1:]) != IGNORED] for one, (_, labels) in zip(losses, texts, strict=True)
        ]
        return math.exp(float(torch.cat(kept).mean()))

    with torch.no_grad():
        plain = perplexity(lambda ids: model(torch.tensor([ids])).logits[0])
    found = {}
    for precision in ("f16", "q8_0"):
        done = export(str(simulator), "gguf", tmp_path / precision, quantize=precision)
        with opened(llama, Path(done.run), 512) as held:
            found[precision] = perplexity(lambda ids, held=held: logits(held, ids))
    assert plain > 1.005
    assert found["f16"] == pytest.approx(plain, rel=0.001)
    assert found["q8_0"] == pytest.approx(plain, rel=0.01)


def test_a_killed_export_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """SIGKILL at moments all over an export: there is no file, or a whole one."""
    folder = tiny_checkpoint(tmp_path / "model", hidden=256, layers=16)
    size = Path(export(str(folder), "gguf", tmp_path / "whole").run).stat().st_size
    code = "import sys; from maieutic.serving.export import Export; print('go', flush=True)\n"
    code += "Export(model=sys.argv[1], to='gguf').run(sys.argv[2])"
    seen = set()
    for number in range(4):
        out = tmp_path / f"out{number}"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None and process.stdout.readline() == b"go\n"
        part = out / ".model.gguf.part"
        while process.poll() is None and not (
            part.exists() and part.stat().st_size > number / 3 * 0.95 * size
        ):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        file = out / "model.gguf"
        seen.add(file.exists())
        if file.exists():
            assert len(gguf.GGUFReader(file).tensors) == 16 * 9 + 3
        assert Path(export(str(folder), "gguf", out).run).stat().st_size == size
        assert [path.name for path in out.iterdir()] == ["model.gguf"]
    assert False in seen
