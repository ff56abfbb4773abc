"""A faster encoder: used where its ids are the tokenizer's, and only there."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_kinds import BYTES, KINDS, of_kind

from maieutic import Conversation
from maieutic.chat_templates.encode import Encoder
from maieutic.chat_templates.fast import CHECK_EVERY, Batches, Gigatoken
from maieutic.chat_templates.rendering import Renderer

STARTS = ("first", "after", "inside")
TAKEN = ("gpt2", "llama3", "qwen", "nfkc", "think")
"""Kinds that it must read; of the others it may."""


def many(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = [
        "How",
        " would",
        " I'd",
        " make",
        "\n\n",
        " cake",
        "  ",
        " 3.14",
        "!?",
        " très",
        " 谢谢",
        "🍰",
        "\t",
        "x_y",
        "<think>",
    ]
    return ["".join(draw.choices(words, k=draw.randrange(1, 12))) for _ in range(count)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_the_tokenizer_s_ids_whatever_encodes(kind):
    encoder = Encoder(of_kind(kind))
    batches = Batches(encoder)
    texts = many(2500)
    starts = [STARTS[index % 3] for index in range(len(texts))]
    for size in (
        2000,
        100,
        400,
    ):  # before and after the faster one is built; in small calls and in large ones
        some, at = texts[-size:], starts[-size:]
        expected = [encoder.text_ids(text, start) for text, start in zip(some, at, strict=True)]
        assert [ids.tolist() for ids in batches.ids(some, at)] == expected
    assert not batches.disproved


@pytest.mark.parametrize("kind", TAKEN)
def test_it_is_used_where_it_is_installed(kind):
    pytest.importorskip("gigatoken")
    batches = Batches(Encoder(of_kind(kind)))
    batches.build()
    assert batches.name.startswith("gigatoken ")
    batches.ids(many(2 * CHECK_EVERY), ["after"] * 2 * CHECK_EVERY)
    assert batches.checked >= 2
    assert Batches(Encoder(of_kind(kind)), faster=False).name == "tokenizers"


@pytest.mark.parametrize("kind", BYTES)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=30), max_size=4))
def test_any_text_has_the_tokenizer_s_ids(kind, texts):
    tok = of_kind(kind)
    encoder = Encoder(tok)
    made = _built(kind)
    if made is None:
        pytest.skip("no faster encoder for it")
    plain = [text for text in texts if text and made.takes(text) and not encoder.spells_added(text)]
    assert [ids.tolist() for ids in made.ids(plain)] == [encoder.text_ids(text, "inside") for text in plain]


_made: dict[str, Gigatoken | None] = {}


def _built(kind: str) -> Gigatoken | None:
    if kind not in _made:
        _made[kind] = Gigatoken.build(Encoder(of_kind(kind)), "inside")
    return _made[kind]


def test_one_that_differs_is_found_out_and_used_no_more(capsys):
    pytest.importorskip("gigatoken")
    encoder = Encoder(of_kind("gpt2"))
    batches = Batches(encoder)
    batches.build()
    wrong = Gigatoken.build(Encoder(of_kind("llama3")), "first")  # the same interface, another vocabulary
    assert wrong is not None
    batches._made = dict.fromkeys(batches._made, wrong)
    texts = many(50)
    expected = [encoder.text_ids(text, "inside") for text in texts]
    assert [ids.tolist() for ids in batches.ids(texts, ["inside"] * 50)] == expected
    assert batches.disproved
    assert batches.name == "tokenizers"
    assert "no longer used" in capsys.readouterr().err


def test_one_that_fails_its_probe_is_never_used():
    pytest.importorskip("gigatoken")
    tok = of_kind.__wrapped__("gpt2")
    shape = json.loads(tok.backend_tokenizer.to_str())
    digits = {"type": "Digits", "individual_digits": True}
    shape["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, shape["pre_tokenizer"]]}
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    odd = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(shape)), eos_token="</s>")
    encoder = Encoder(odd)
    batches = Batches(encoder)
    texts = many(1500)
    expected = [encoder.text_ids(text, "inside") for text in texts]
    assert [ids.tolist() for ids in batches.ids(texts, ["inside"] * len(texts))] == expected
    assert not batches.disproved


def test_every_text_can_be_checked():
    tok = of_kind("qwen")
    texts = many(300)
    rows = [
        {"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)
    ]
    chats = [
        Conversation.model_validate({"messages": rows[start : start + 10]}) for start in range(0, 300, 10)
    ]
    checked = Renderer(tok, None, None, check_all=True)
    checked.batches.build()
    plain = Renderer(tok, None, None, faster=False)
    assert checked.render_many(chats, "user") == plain.render_many(chats, "user")
    if checked.batches.name != "tokenizers":
        assert checked.batches.checked >= 250
    assert plain.batches.checked == 0
