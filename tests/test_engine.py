"""Decoding and scoring over ids, against transformers' own generate and a plain forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_llama

from maieutic.core.errors import ContextFull, ModelError
from maieutic.core.messages import Finish
from maieutic.models.engine import Engine, Generated, Request
from maieutic.models.forward import probabilities, sample, token_logprobs

torch.set_num_threads(1)
VOCAB = 120


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama(vocab=VOCAB, context=256)


def prompts(count: int, longest: int = 40) -> list[list[int]]:
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, longest, (count,), generator=draw).tolist()
    return [torch.randint(3, VOCAB, (length,), generator=draw).tolist() for length in lengths]


def requests(count: int, **changes: Any) -> list[Request]:
    base = Request((), 20, temperature=0.9, top_p=0.9, stop_ids=frozenset({2, 7, 11}))
    return [base._replace(ids=ids, seed=i, **changes) for i, ids in enumerate(prompts(count))]


def greedy(model: Any, ids: list[int], length: int) -> list[int]:
    output = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=length, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return output[0, len(ids) :].tolist()


def test_greedy_is_what_transformers_generates(model: Any) -> None:
    asked = prompts(6)
    results = Engine(model).generate([Request(ids, 170) for ids in asked])
    assert [result.ids for result in results] == [greedy(model, ids, 170) for ids in asked]
    assert {result.finish for result in results} == {Finish.LENGTH}


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "phi3", "qwen3", "gpt2", "qwen3_next"])
def test_other_shapes_agree_with_transformers(kind: str) -> None:
    """Sliding windows shorter than the prompts, learned positions, and caches that cannot be joined."""
    from transformers import AutoConfig, AutoModelForCausalLM

    common: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
        "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    if kind == "qwen3_next":
        common |= {
            "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
            "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 0,
        }  # fmt: skip
    elif kind in ("mistral", "phi3", "gemma3_text"):
        common["sliding_window"] = 8
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common)).eval()
    asked = prompts(5)
    engine = Engine(model)
    assert engine.joinable == (kind != "qwen3_next")
    results = engine.generate([Request(ids, 16) for ids in asked], batch=2)
    assert [result.ids for result in results] == [greedy(model, ids, 16) for ids in asked]


def test_a_row_does_not_depend_on_its_company(model: Any) -> None:
    asked = requests(8)
    together = Engine(model).generate(asked)
    alone = [Engine(model).generate([request])[0] for request in asked]
    in_threes = Engine(model).generate(asked, batch=3)
    assert [result.ids for result in together] == [result.ids for result in alone]
    assert [result.ids for result in together] == [result.ids for result in in_threes]
    assert len({len(result.ids) for result in together}) > 2, "rows should end at different times"


def test_seeds_repeat_and_differ(model: Any) -> None:
    base = Request(prompts(1)[0], 20, temperature=1.0)
    results = Engine(model).generate([base._replace(seed=seed) for seed in (1, 2, 3, 1)])
    texts = [tuple(result.ids) for result in results]
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3


def test_shared_prefill_equals_separate(model: Any) -> None:
    one, other = prompts(2)
    asked = [Request(ids, 12, temperature=1.2, seed=seed) for seed in range(5) for ids in (one, other)]
    engine = Engine(model)
    engine.admit(asked)
    assert engine.network.passes == 1
    together = Engine(model).generate(asked)
    assert [r.ids for r in together] == [Engine(model).generate([request])[0].ids for request in asked]


def test_a_request_that_comes_late_shares_the_prefill_of_one_under_way(model: Any) -> None:
    one, other = prompts(2)
    asked = [
        Request(ids, 6 + 2 * seed, temperature=1.2, seed=seed) for seed in range(6) for ids in (one, other)
    ]
    alone = [Engine(model).generate([request])[0].ids for request in asked]
    engine = Engine(model)
    read = count_prefilled(engine)
    owed = list(enumerate(asked))
    found: dict[int, list[int]] = {}
    owners: dict[int, int] = {}
    while owed or engine.live:
        if owed and engine.live < 5:
            (index, request), *owed = owed
            owners[engine.admit([request])[0]] = index
        engine.step()
        found.update((owners[ticket], result.ids) for ticket, result in engine.collect())
    assert read == [len(one), len(other)]
    assert [found[index] for index in range(len(asked))] == alone


def count_prefilled(engine: Engine) -> list[int]:
    """The lengths of the prompts that an engine reads from now on."""
    read: list[int] = []
    logits = engine.network.logits

    def counted(ids: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        if ids.shape[1] > 1:
            read.extend(mask.sum(-1).tolist())
        return logits(ids, mask, *rest, **more)

    engine.network.logits = counted  # type: ignore[method-assign]
    return read


def test_stop_end_and_length(model: Any) -> None:
    ids = prompts(1)[0]
    said = greedy(model, ids, 6)
    cut = said.index(said[3])
    stop, end, length, hushed = Engine(model).generate(
        [
            Request(ids, 6, stop_ids=frozenset({said[3]})),
            Request(ids, 6, stop_ids=frozenset({said[3]}), end_id=said[3]),
            Request(ids, 3),
            Request(ids, 6, stop_ids=frozenset({1}), end_id=said[0], suppress_end=True),
        ]
    )
    assert stop == Generated(said[:cut], Finish.STOP, said[3], None)
    assert (end.ids, end.finish, end.stopped_at) == (said[:cut], Finish.END, said[3])
    assert length == Generated(said[:3], Finish.LENGTH)
    assert said[0] not in hushed.ids
    assert hushed.finish != Finish.END
    with torch.no_grad():
        plain = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    assert hushed.end_probability == pytest.approx(float(plain[said[0]]), abs=1e-6)
    assert end.end_probability == pytest.approx(float(plain[said[3]]), abs=1e-6)


def test_context(model: Any) -> None:
    """A prompt that fills the context fails alone; a reply that reaches it ends by length."""
    fits, full = [5] * 250, [5] * 256
    first, second, third = Engine(model).generate(
        [Request(fits, 50), Request(full, 50), Request(prompts(1)[0], 4)]
    )
    assert len(first.ids) == 6
    assert first.finish == Finish.LENGTH
    assert isinstance(second, ContextFull)
    assert "256" in str(second)
    assert len(third.ids) == 4


def test_prompts_that_cannot_be_read(model: Any) -> None:
    empty, foreign, good = Engine(model).generate([Request([], 4), Request([VOCAB], 4), Request([5], 4)])
    assert isinstance(empty, ModelError)
    assert isinstance(foreign, ModelError)
    assert isinstance(good, Generated)


def test_rows_leave_and_join(model: Any) -> None:
    """What is admitted late says what it says alone, and what is cancelled is gone."""
    early, late, gone = requests(3, stop_ids=frozenset())
    early, late = early._replace(max_tokens=30), late._replace(ids=prompts(9)[7] * 3)
    engine = Engine(model)
    tickets = engine.admit([early, gone])
    for _ in range(5):
        engine.step()
    assert len(engine.drawn(tickets[0])) == 6
    engine.cancel({tickets[1]})
    tickets += engine.admit([late])
    results: dict[int, Any] = {}
    while engine.live:
        engine.step()
        results.update(engine.collect())
    alone = Engine(model).generate([early, late])
    assert [results[tickets[0]].ids, results[tickets[2]].ids] == [result.ids for result in alone]
    assert set(results) == {tickets[0], tickets[2]}


def test_a_failed_step_leaves_a_usable_engine(model: Any) -> None:
    engine = Engine(model)
    weight = model.lm_head.weight
    saved = weight.detach().clone()
    engine.admit([Request([5, 6], 9)])
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a number"):
        engine.step()
    with torch.no_grad():
        weight.copy_(saved)
    assert engine.live == 0
    assert engine.generate([Request([5, 6], 9)])[0].ids == greedy(model, [5, 6], 9)


def test_sampling_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    grid = [(i + 0.5) / 1000 for i in range(1000)]

    def share(temperature: float, top_p: float) -> list[float]:
        many = sample(logits.expand(1000, -1), [temperature] * 1000, [top_p] * 1000, grid)
        return [many.count(token) / 1000 for token in range(4)]

    assert share(1.0, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.002)
    assert share(1.0, 0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.002)
    assert share(1.0, 0.01) == [1, 0, 0, 0]
    assert share(0.0, 1.0) == [1, 0, 0, 0]
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert share(0.5, 1.0) == pytest.approx((squared / squared.sum()).tolist(), abs=0.002)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 3), st.floats(0.01, 1), st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_what_is_impossible_is_never_drawn(
    uniform: float, temperature: float, top_p: float, only: int
) -> None:
    logits = torch.full((1, 8), -torch.inf)
    logits[0, only] = 3.0
    assert sample(logits, [temperature], [top_p], [uniform]) == [only]


def test_logprobs_equal_a_plain_forward(model: Any) -> None:
    texts = prompts(7)
    labels = [[token if i % 3 else -100 for i, token in enumerate(text)] for text in texts]
    labels[0] = [-100] * len(texts[0])
    engine = Engine(model)
    for batch_tokens in (1, 90, 4096):
        scored = token_logprobs(engine.network, list(zip(texts, labels, strict=True)), batch_tokens)
        for text, marks, found in zip(texts, labels, scored, strict=True):
            with torch.no_grad():
                plain = model(torch.tensor([text])).logits[0].log_softmax(-1)
            wanted = [float(plain[i - 1, mark]) for i, mark in enumerate(marks) if i and mark != -100]
            assert found == pytest.approx(wanted, abs=1e-5)


def test_probabilities_equal_a_plain_forward(model: Any) -> None:
    texts = prompts(4)
    places = [[0, len(text) - 1] for text in texts]
    places[2] = []
    found = probabilities(Engine(model).network, texts, places, token=9)
    for text, wanted, values in zip(texts, places, found, strict=True):
        with torch.no_grad():
            plain = model(torch.tensor([text])).logits[0].softmax(-1)
        assert values == pytest.approx([float(plain[place, 9]) for place in wanted], abs=1e-6)


def test_scoring_a_text_beyond_the_context_is_refused(model: Any) -> None:
    with pytest.raises(ContextFull):
        token_logprobs(Engine(model).network, [([5] * 257, [5] * 257)])
