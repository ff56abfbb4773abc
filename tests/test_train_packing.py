"""Joined rows say, and teach, what each says and teaches alone; and only the asked-for positions reach the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_llama

from maieutic.chat_templates.rendering import IGNORED
from maieutic.train.attention import NAME, Segment, attend, positions, segmented
from maieutic.train.packing import bins, micro_batches, pack_rows, supports_packing, token_logps

torch.set_num_threads(1)

VOCABULARY = 300
LENGTHS = (5, 23, 9, 30, 2, 16)


def model_of(kind: str, **more: Any) -> Any:
    """A tiny model of a kind, wide enough in its weights that attention decides what it says."""
    import transformers

    prefix = {"gemma3_text": "Gemma3"}.get(kind, kind.title().replace("Gpt2", "GPT2"))
    config_name = {"gemma3_text": "Gemma3TextConfig"}.get(kind, f"{prefix}Config")
    suffix = "LMHeadModel" if kind == "gpt2" else "ForCausalLM"
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "attention_dropout": 0.0,
    }
    if kind == "gpt2":
        sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3,
                 "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1,
                 "eos_token_id": 2}  # fmt: skip
    if kind == "phi3":
        sizes.pop("head_dim")
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**{**sizes, **more})
    return getattr(transformers, prefix + suffix)(config).eval()


def rows_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, VOCABULARY, (length,), generator=draw)
        labels = torch.where(torch.rand(length, generator=draw) < 0.6, ids, IGNORED)
        rows.append({"input_ids": ids.numpy(), "labels": labels.numpy()})
    return rows


def alone(model: Any, row: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities of a row's asked-for tokens, from the model's own forward pass over that row."""
    ids, labels = (torch.as_tensor(row[name]) for name in ("input_ids", "labels"))
    said = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    kept = labels[1:] != IGNORED
    return said[kept].gather(1, ids[1:][kept][:, None])[:, 0]


JOINED = {
    "gpt2": {},
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "phi3": {"sliding_window": 7},
    "gemma3_text": {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", JOINED)
def test_joined_rows_say_what_each_says_alone(kind: str) -> None:
    model = model_of(kind, **JOINED[kind])
    assert supports_packing(model, 128)
    rows = rows_of()
    with torch.no_grad(), segmented(model):
        said = token_logps(model, pack_rows(rows)).logps
    with torch.no_grad():
        expected = torch.cat([alone(model, row) for row in rows])
    assert len(said) > 30 and float(expected.std()) > 0.5
    assert torch.allclose(said, expected, atol=1e-4)


@pytest.mark.parametrize("kind", JOINED)
def test_joined_logits_are_those_of_each_row(kind: str) -> None:
    model = model_of(kind, **JOINED[kind])
    rows = rows_of()
    batch = pack_rows(rows)
    with torch.no_grad(), segmented(model):
        whole = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            segments=batch.segments,
            use_cache=False,
        ).logits[0]
    with torch.no_grad():
        each = [model(input_ids=torch.as_tensor(row["input_ids"])[None]).logits[0] for row in rows]
    assert torch.allclose(whole, torch.cat(each), atol=1e-4)


def test_a_reply_that_goes_on_from_anothers_prompt_says_what_it_says_alone() -> None:
    for kind, more in JOINED.items():
        model = model_of(kind, **more)
        prompt, chosen, rejected = (torch.as_tensor(row["input_ids"]) for row in rows_of((19, 8, 11)))
        segments = (Segment(4), Segment(19 + 8), Segment(11, parent=1, prefix=19))
        ids = torch.cat((prompt[:4], prompt, chosen, rejected))
        with torch.no_grad(), segmented(model):
            said = model(
                input_ids=ids[None], position_ids=positions(segments), segments=segments, use_cache=False
            ).logits[0]
        with torch.no_grad():
            first = model(input_ids=torch.cat((prompt, chosen))[None]).logits[0]
            second = model(input_ids=torch.cat((prompt, rejected))[None]).logits[0]
        assert torch.allclose(said[4:31], first, atol=1e-4), kind
        assert torch.allclose(said[31:], second[19:], atol=1e-4), kind


def test_a_varlen_attention_gets_the_same_rows() -> None:
    """FlashAttention's arguments, read by a plain function in its place."""
    from transformers import AttentionInterface

    def varlen(module: Any, query: Any, key: Any, value: Any, mask: Any, *, cu_seq_lens_q: Any, cu_seq_lens_k: Any,
               max_length_q: int, max_length_k: int, **more: Any) -> Any:  # fmt: skip
        lengths = cu_seq_lens_q.diff().tolist()
        assert cu_seq_lens_q.dtype == torch.int32 and torch.equal(cu_seq_lens_q, cu_seq_lens_k)
        assert max_length_q == max_length_k == max(lengths) and "segments" not in more
        return attend(
            module, query, key, value, mask, segments=[Segment(length) for length in lengths], **more
        )

    model = model_of("llama")
    rows = rows_of()
    with torch.no_grad(), segmented(model):
        expected = token_logps(model, pack_rows(rows)).logps
    AttentionInterface.register("varlen", varlen)
    try:
        model.config._attn_implementation = "varlen"
        with torch.no_grad():
            said = token_logps(model, pack_rows(rows), flash=True).logps
    finally:
        AttentionInterface._global_mapping.pop("varlen")
    assert torch.equal(said, expected)


def test_no_row_sees_another() -> None:
    model = tiny_llama(vocab=VOCABULARY)
    rows = rows_of()
    before, after = [dict(row) for row in rows], [dict(row) for row in rows]
    after[2] = rows_of(seed=9)[2]
    with torch.no_grad(), segmented(model):
        one, two = (model(input_ids=batch.input_ids, position_ids=batch.position_ids, segments=batch.segments).logits[0]
                    for batch in (pack_rows(before), pack_rows(after)))  # fmt: skip
    start = LENGTHS[0] + LENGTHS[1]
    end = start + LENGTHS[2]
    assert torch.equal(one[:start], two[:start]) and torch.equal(one[end:], two[end:])
    assert not torch.allclose(one[start:end], two[start:end], atol=0.1)


def test_a_model_whose_rows_cannot_be_joined_is_told_and_padded() -> None:
    model = model_of("gemma2", attn_logit_softcapping=5.0, sliding_window=64)
    assert not supports_packing(model, 128)
    rows = rows_of()
    batches = micro_batches(rows, 70, packed=False)
    assert len(batches) > 1 and all(batch.segments is None for batch in batches)
    assert all(batch.input_ids.numel() <= 70 for batch in batches)
    with torch.no_grad():
        said = torch.cat([token_logps(model, batch).logps for batch in batches])
        ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
        expected = torch.cat([alone(model, row) for row in ordered])
    assert torch.allclose(said, expected, atol=1e-4)


def test_rows_longer_than_a_window_are_joined_only_where_the_window_is_known_to_arrive() -> None:
    model = model_of("mistral", sliding_window=7)
    model.config.model_type = "of another maker"
    assert supports_packing(model, 7) and not supports_packing(model, 8)


def test_the_models_own_attention_comes_back() -> None:
    model = tiny_llama(vocab=VOCABULARY)
    own = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), segmented(model):
        assert model.config._attn_implementation == NAME
        raise ZeroDivisionError
    assert model.config._attn_implementation == own != NAME


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_every_row_stands_in_one_bin_that_holds_no_more_than_allbatches(
    lengths: list[int], most: int
) -> None:
    found = bins(lengths, most)
    assert sorted(number for each in found for number in each) == list(range(len(lengths)))
    for each in found:
        assert len(each) == 1 or sum(lengths[number] for number in each) <= most
    open_bins = [each for each in found if sum(lengths[number] for number in each) * 2 <= most]
    assert len(open_bins) <= 1, "two half-empty bins would have been one"


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 30), st.booleans())
def test_every_asked_for_token_stands_in_one_part(lengths: list[int], most: int, joined: bool) -> None:
    rows = rows_of(tuple(lengths))
    batches = micro_batches(rows, most, joined)
    for batch in batches:
        flat = batch.input_ids.flatten()
        assert torch.equal(flat[batch.positions + 1], batch.targets)
        if batch.segments is not None:
            assert sum(segment.length for segment in batch.segments) == len(flat)
    found = sorted(int(target) for batch in batches for target in batch.targets)
    assert found == sorted(int(one) for row in rows for one in row["labels"][1:] if one != IGNORED)
