"""What training starts from: a base without a template, tied and untied heads, and the shapes of published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Job, sft_job
from tiny import tiny_checkpoint, tiny_llama
from tokenizers_of_kinds import of_kind

from maieutic.chat_templates.rendering import end_id, prompt_ids, turn_end_id
from maieutic.core.errors import NoTemplate
from maieutic.core.messages import Conversation
from maieutic.data.corpus import write_corpus
from maieutic.models.checkpoint import load_tokenizer
from maieutic.models.weights import load_model, locate, quiet
from maieutic.train.base import add_end_embedding, load_trainable, open_base

torch.set_num_threads(1)

TALKS = [
    Conversation.model_validate(
        {
            "messages": [
                {"role": "user", "content": f"What is {number} + 1?"},
                {"role": "assistant", "content": "Count on."},
                {"role": "user", "content": f"It is {number + 1}."},
                {"role": "assistant", "content": "Yes."},
            ],
            "ended": True,
        }
    )
    for number in range(3)
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "talks.jsonl"
    write_corpus(path, TALKS)
    return path


def config(start: Path, corpus: Path, out: Path, **more: Any) -> Job:
    known = {"role": "user", "batch_size": 3, "max_steps": 2, "learning_rate": 1e-2}
    return sft_job(model=str(start), data=corpus, out=out, **{**known, **more})


def bare(folder: Path, **tokenizer: Any) -> Path:
    """A base model as those are published: no chat template."""
    tiny_checkpoint(folder, context=256)
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | tokenizer))
    return folder


def test_a_base_without_a_template_gets_one(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = bare(tmp_path / "base")
    settings = config(start, corpus, tmp_path / "run")
    with quiet():
        opened = open_base(settings.step)
        assert opened.frame.template == "plain"
        model = load_trainable(settings.step, opened.source)
        (end,) = add_end_embedding(model, opened.tokenizer, opened.frame)
    assert turn_end_id(opened.tokenizer, "plain") == opened.tokenizer.eos_token_id
    for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert torch.equal(matrix[end], matrix[opened.tokenizer.eos_token_id])
    result = settings.run()
    assert "uses --template plain" in capfd.readouterr().err
    assert json.loads((result.model / "maieutic.json").read_text())["template"] == "plain"
    tokenizer = load_tokenizer(locate(str(result.model)))
    served = tokenizer.apply_chat_template(
        [turn.model_dump(mode="json") for turn in TALKS[0].messages], add_generation_prompt=True
    )["input_ids"]
    assert served == prompt_ids(TALKS[0].messages, tokenizer, "user", "plain")
    with quiet():
        assert open_base(config(result.model, corpus, tmp_path / "next").step).frame.template == "plain"


def test_a_template_that_was_asked_for_and_is_not_there_is_an_error(corpus: Path, tmp_path: Path) -> None:
    start = bare(tmp_path / "base")
    with pytest.raises(NoTemplate, match="no chat template"):
        config(start, corpus, tmp_path / "run", template="chat").run()
    nameless = bare(tmp_path / "nameless", eos_token=None)
    with pytest.raises(NoTemplate, match="no chat template"):
        config(nameless, corpus, tmp_path / "other").run()


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_learn_end_in_frozen_embeddings(corpus: Path, tmp_path: Path, tied: bool) -> None:
    start = tiny_checkpoint(tmp_path / "base", context=256, tied=tied)
    settings = config(start, corpus, tmp_path / "run", lora_r=8, max_steps=60, learning_rate=2e-2)
    result = settings.run()
    with quiet():
        first = load_model(locate(str(start)), "float32")
        tuned = load_model(locate(str(result.model)), "float32")
    tokenizer = load_tokenizer(locate(str(result.model)))
    end, like = end_id(tokenizer), turn_end_id(tokenizer)
    was, now = first.get_output_embeddings().weight, tuned.get_output_embeddings().weight
    assert torch.equal(now[: len(was)], was) and not torch.equal(now[end], now[like])
    assert (now.data_ptr() == tuned.get_input_embeddings().weight.data_ptr()) == tied
    ids = prompt_ids(TALKS[0].messages, tokenizer, "user")
    with torch.no_grad():
        assert int(tuned(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == end


def llama(folder: Path) -> Path:
    """As PlatoLM-7b is: a Llama whose tokenizer is of pieces, with BOS and EOS and no template."""
    tokenizer = of_kind("prepend")
    model = tiny_llama(vocab=len(tokenizer), context=512)
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    model.save_pretrained(folder)
    return folder


def phi3(folder: Path) -> Path:
    """As Phi-3 is: joined projections, its own template, a sliding window, BOS before everything."""
    from transformers import Phi3Config, Phi3ForCausalLM

    tokenizer = of_kind("metaspace first", "phi3")
    tokenizer.eos_token, before = (
        "<|end|>" if "<|end|>" in tokenizer.get_vocab() else "</s>",
        tokenizer.eos_token,
    )
    settings = Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=512,
        sliding_window=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Phi3ForCausalLM(settings)
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    tokenizer.eos_token = before
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize(
    ("make", "template", "system"),
    [
        (llama, "dyadic", None),
        (llama, "plain", "Be curious."),
        (phi3, None, None),
        (phi3, "plain", "A pupil."),
    ],
)
def test_published_shapes_start(
    corpus: Path, tmp_path: Path, make: Any, template: str | None, system: str | None, lora: int | None
) -> None:
    start = make(tmp_path / "base")
    result = config(start, corpus, tmp_path / "run", template=template, system=system, lora_r=lora).run()
    record = json.loads((result.model / "maieutic.json").read_text())
    assert (record["template"], record["system"], record["end"]) == (template, system, True)
    source = locate(str(result.model))
    tokenizer = load_tokenizer(source)
    with quiet():
        load_model(source, "float32")
    talk = TALKS[1]
    ids = prompt_ids(talk.messages[:2], tokenizer, "user", template, system)
    again = config(result.model, corpus, tmp_path / "next", max_steps=1, lora_r=lora)
    with quiet():
        assert open_base(again.step).frame == (template, system)
    assert again.run().metrics["data"]["ends"] == 3
    served = [turn.model_dump(mode="json") for turn in talk.messages[:2]]
    if (
        template != "plain"
    ):  # these toy vocabularies join the frame's colon with its space, which a template cannot undo
        assert tokenizer.apply_chat_template(served, add_generation_prompt=True)["input_ids"] == ids
