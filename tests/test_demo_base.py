"""A base model from a corpus alone: loads as any checkpoint, encodes anything, learns, repeats under its seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from maieutic.chat_templates.rendering import prompt_ids, render, turn_end_id
from maieutic.core.errors import EmptyCorpus, InputError, RunConflict
from maieutic.core.messages import Conversation, Message
from maieutic.recipes.demo.base import train_tokenizer
from maieutic.recipes.demo.steps import DemoBase, DemoBaseResult

torch.set_num_threads(1)

SMALL = {"vocab_size": 300, "hidden": 32, "layers": 2, "heads": 2, "context": 4096}
TALKS = [
    Conversation.model_validate(
        {
            "messages": [
                {"role": "user", "content": f"Why is {number} + {number} = {2 * number}?"},
                {"role": "assistant", "content": "What happens when you count on your fingers?"},
            ]
        }
    )
    for number in range(8)
]
TOKENIZER = train_tokenizer(TALKS, 300, 4096)


def build(corpus: list[Conversation], out: Path, **settings: int) -> DemoBaseResult:
    return DemoBase(corpus=corpus, **settings).run(out)


def test_it_loads_as_any_checkpoint(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    built = build(TALKS, tmp_path / "base", **SMALL, steps=0)
    assert built.loss is None and built.vocabulary == 300
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert model.num_parameters() == built.parameters
    assert model.config.max_position_embeddings == 4096
    assert turn_end_id(tokenizer) == tokenizer.eos_token_id == model.generation_config.eos_token_id
    talk = TALKS[0]
    text = tokenizer.apply_chat_template(
        [turn.model_dump(mode="json") for turn in talk.messages[:1]],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == prompt_ids(talk.messages[:1], tokenizer, "assistant")
    assert render(talk, tokenizer, "user").supervised > 0


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    whole = prompt_ids([Message(role="user", content=text)], TOKENIZER, "assistant")
    assert TOKENIZER.decode(whole) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_it_learns_and_repeats(tmp_path: Path) -> None:
    one = build(TALKS, tmp_path / "one", **SMALL, steps=25, seed=3)
    two = build(TALKS, tmp_path / "two", **SMALL, steps=25, seed=3)
    other = build(TALKS, tmp_path / "other", **SMALL, steps=25, seed=4)
    assert one.loss is not None and one.loss < 4.5 and one.loss == two.loss != other.loss
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_made_is_made_and_nothing_is_overwritten(tmp_path: Path) -> None:
    first = build(TALKS, tmp_path / "base", **SMALL, steps=0)
    stamp = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    assert build(TALKS, tmp_path / "base", **SMALL, steps=0) == first
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(RunConflict, match="something else"):
        build(TALKS, tmp_path / "base", **SMALL, steps=0, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RunConflict):
        build(TALKS, tmp_path / "mine", **SMALL, steps=0)


def test_mistakes_are_said(tmp_path: Path) -> None:
    with pytest.raises(EmptyCorpus):
        build([], tmp_path / "base", **SMALL)
    for wrong in ({"vocab_size": 100}, {"hidden": 33}, {"heads": 5}):
        with pytest.raises(InputError, match="no Llama"):
            build(TALKS, tmp_path / "base", **{**SMALL, **wrong})
