"""A prompt computed once for both replies gives what TRL's two padded branches give: log-probabilities, loss, gradients."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_llama, tiny_tokenizer

from maieutic.models.weights import quiet
from maieutic.train.attention import segmented
from maieutic.train.packing import (
    pair_batch,
    pair_tokens,
    plan_pairs,
    reply_sums,
    supports_packing,
    token_logps,
)

torch.set_num_threads(1)

LOSSES = ("sigmoid", "ipo", "sigmoid_norm")


def shape(kind: str) -> Any:
    """A tiny model of a published shape."""
    import transformers

    if kind == "llama tied":
        return tiny_llama(tied=True)
    sizes: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    of = {
        "llama": ("Llama", {"num_key_value_heads": 4}),
        "llama grouped": ("Llama", {"num_key_value_heads": 2}),
        "qwen2 tied": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        "qwen3": ("Qwen3", {"num_key_value_heads": 1, "head_dim": 16}),
        "mistral, narrow window": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 7}),
        "phi3": ("Phi3", {"num_key_value_heads": 4}),
        "phi3 grouped, narrow window": ("Phi3", {"num_key_value_heads": 2, "sliding_window": 9}),
    }
    name, more = of[kind]
    config = getattr(transformers, f"{name}Config")(**sizes, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{name}ForCausalLM")(config).eval()


KINDS = (
    *("llama", "llama grouped", "llama tied", "qwen2 tied", "qwen3", "phi3"),
    *("mistral, narrow window", "phi3 grouped, narrow window"),
)


def some_pairs(seed: int = 0, lengths: tuple[tuple[int, int, int], ...] = ()) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 290, (length,), generator=draw).tolist()

    return [
        {
            "prompt_ids": ids(prompt),
            "chosen_ids": ids(chosen),
            "rejected_ids": ids(rejected),
            "ref_chosen_logps": -5.0 * chosen - number,
            "ref_rejected_logps": -6.0 * rejected + number,
        }
        for number, (prompt, chosen, rejected) in enumerate(lengths or ((20, 7, 3), (4, 1, 12), (31, 9, 1)))
    ]


def by_hand(model: Any, pair: dict[str, Any], side: str) -> torch.Tensor:
    whole = torch.tensor([pair["prompt_ids"] + pair[f"{side}_ids"]])
    first = len(pair["prompt_ids"])
    said = model(input_ids=whole, use_cache=False).logits[0, first - 1 : -1].log_softmax(-1)
    return said.gather(1, whole[0, first:, None])[:, 0].sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_logps_and_gradients_are_those_of_two_branches(kind: str, lora: bool) -> None:
    model = shape(kind)
    assert supports_packing(model, 64)
    if lora:
        model = with_adapters(model)
    model.train()
    pairs = some_pairs()
    weights = torch.tensor([[1.0, -0.7], [0.3, -1.1], [-0.2, 0.9]])
    model.activation_checkpointing_enable()
    if lora:
        model.enable_input_require_grads()
    with segmented(model):
        replies = pair_batch(pairs, [2, 0, 1])
        said = torch.stack(reply_sums(token_logps(model, replies.batch).logps, replies.lengths), 1)
        (said * weights[[2, 0, 1]]).sum().backward()
    ours = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.activation_checkpointing_disable()
    model.zero_grad()
    plain = torch.stack(
        [torch.stack([by_hand(model, pair, side) for side in ("chosen", "rejected")]) for pair in pairs]
    )
    (plain * weights).sum().backward()
    torch.testing.assert_close(said[[1, 2, 0]], plain, atol=2e-4, rtol=1e-5)
    theirs = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert ours.keys() == theirs.keys() and len(ours) > 8
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            ours[name], gradient, atol=1e-3, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert sum(float(one.abs().sum()) for one in ours.values()) > 1


def with_adapters(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    awaken(model)
    return model


def awaken(model: Any) -> None:
    """Adapters start as nothing, and what they multiply would have no gradient."""
    draw = torch.Generator().manual_seed(2)
    for name, one in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(one, std=0.1, generator=draw)


def trainers(tmp_path: Path, model: Any, loss: str, lora: bool, joined: bool) -> tuple[Any, Any]:
    """Ours, and TRL's own on a copy of the model."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from maieutic.train.dpo import Limits, PairsDPOTrainer

    class Plain(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    def args(name: str) -> Any:
        return DPOConfig(
            str(tmp_path / name), loss_type=[loss], beta=0.3, precompute_ref_log_probs=True, bf16=False,
            report_to="none", use_cpu=True, max_length=None, per_device_train_batch_size=8,
        )  # fmt: skip

    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    data = Dataset.from_list([{name: pair[name] for name in names} for pair in some_pairs()])
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    same = {"train_dataset": data, "processing_class": tiny_tokenizer(), "peft_config": adapters}
    with quiet():
        theirs = Plain(model=copy.deepcopy(model), args=args("theirs"), **copy.deepcopy(same))
        ours = PairsDPOTrainer(
            model=model, args=args("ours"), **same,
            limits=Limits(60 if joined else 120, packed=joined), reference=tmp_path / f"{loss}.jsonl",
        )  # fmt: skip
    for trainer in (ours, theirs):
        awaken(trainer.model)
    theirs.current_gradient_accumulation_steps = 1
    return ours, theirs


@pytest.mark.parametrize(
    ("loss", "lora", "joined"),
    [*((loss, lora, True) for loss in LOSSES for lora in (False, True)), ("sigmoid", False, False)],
)
def test_a_step_is_trls_step(tmp_path: Path, loss: str, lora: bool, joined: bool) -> None:
    ours, theirs = trainers(tmp_path, shape("llama grouped"), loss, lora, joined)
    for one, other in zip(ours.train_dataset, theirs.train_dataset, strict=True):
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            assert one[name] == pytest.approx(other[name], abs=1e-3)
    pairs = some_pairs()
    # In parts of unlike sizes, each of which must weigh as many pairs as it has.
    assert sorted(map(len, ours._plan(pairs))) == [1, 2]
    with quiet():
        said = ours.training_step(ours.model, ours.data_collator(pairs))
        expected = theirs.training_step(theirs.model, theirs.data_collator(pairs))
    assert float(said) == pytest.approx(float(expected), rel=1e-4)
    gradients = {name: one.grad for name, one in theirs.model.named_parameters() if one.grad is not None}
    assert gradients
    for name, one in ours.model.named_parameters():
        assert (one.grad is None) == (name not in gradients)
        if one.grad is not None:
            scale = float(gradients[name].abs().max())
            torch.testing.assert_close(one.grad, gradients[name], atol=1e-4 * scale + 1e-7, rtol=1e-3)
    for name in ("rewards/accuracies", "rewards/margins", "rewards/chosen", "logps/chosen", "logps/rejected"):
        (mine,), (other,) = ours._metrics["train"][name], theirs._metrics["train"][name]
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-3), name
    lengths = [sum(len(pair[f"{side}_ids"]) for pair in pairs) / 3 for side in ("chosen", "rejected")]
    assert [ours._metrics["train"][f"lengths/{side}"][0] for side in ("chosen", "rejected")] == pytest.approx(
        lengths
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_trls_loss(tmp_path: Path, loss: str) -> None:
    """Values and gradients, on random log-probabilities that TRL's trainer reads as a model's output."""
    from torch.nn.functional import pad
    from trl.trainer.utils import FusedCausalLMOutput

    from maieutic.train.dpo import pair_losses

    trainer = trainers(tmp_path, shape("llama"), loss, lora=False, joined=True)[1]
    draw = torch.Generator().manual_seed(7)
    for beta in (0.01, 0.1, 0.5, 2.0) * 3:
        trainer.beta = beta
        number = int(torch.randint(1, 6, (), generator=draw))
        lengths = torch.randint(1, 12, (2 * number,), generator=draw)
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).float()
        values = -4 * torch.rand(mask.shape, generator=draw)
        reference = -4 * lengths * torch.rand(lengths.shape, generator=draw)

        theirs = (values * mask).requires_grad_()
        zeros = torch.zeros_like(mask)
        output = FusedCausalLMOutput(log_probs=theirs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
        column = pad(mask, (1, 0)).long()
        names = ("input_ids", "attention_mask", "completion_mask")
        inputs = {
            **dict.fromkeys(names, column),
            "ref_chosen_logps": reference[:number],
            "ref_rejected_logps": reference[number:],
        }
        expected = trainer._compute_loss(lambda output=output, **_: output, inputs, return_outputs=False)
        expected.backward()

        ours = (values * mask).requires_grad_()
        gains = (ours.sum(1) - reference).chunk(2)
        said = pair_losses(loss, beta, *gains, *lengths.chunk(2))
        assert said.shape == (number,)
        said.mean().backward()
        torch.testing.assert_close(said.mean(), expected)
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("joined", [True, False])
@given(
    lengths=st.lists(st.tuples(*[st.integers(1, 30)] * 3), min_size=1, max_size=9),
    room=st.integers(1, 90),
    most=st.none() | st.integers(1, 3),
    at_least=st.integers(1, 9),
)
def test_a_plan_holds_each_pair_once(
    joined: bool, lengths: list[tuple[int, int, int]], room: int, most: int | None, at_least: int
) -> None:
    pairs = some_pairs(lengths=tuple(lengths))
    found = plan_pairs(pairs, room, most, joined, at_least)
    assert sorted(number for part in found for number in part) == list(range(len(pairs)))
    assert all(found) and len(found) >= min(at_least, len(pairs))
    for part in found:
        assert len(part) == 1 or sum(pair_tokens(pairs[number], joined) for number in part) <= room
        assert most is None or len(part) <= most


PROCESS = """
import os, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from accelerate import PartialState
PartialState(cpu=True)
from test_train_pairs import several
several(Path(sys.argv[1]))
"""


def several(folder: Path) -> None:
    """Train, as one of so many processes; the first writes what it came to."""
    from datasets import Dataset
    from trl import DPOConfig

    from maieutic.train.dpo import Limits, PairsDPOTrainer

    # Long and short pairs by turns, so that the processes would make unlike numbers of passes.
    lengths = tuple((60, 20, 30) if number % 2 else (3, 2, 1) for number in range(16))
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    data = Dataset.from_list([{name: pair[name] for name in names} for pair in some_pairs(lengths=lengths)])
    every = int(os.environ.get("WORLD_SIZE", "1"))
    args = DPOConfig(
        str(folder / "checkpoints"), bf16=False, use_cpu=True, report_to="none", max_length=None, beta=0.5,
        precompute_ref_log_probs=True, per_device_train_batch_size=8, num_train_epochs=3, logging_steps=1,
        learning_rate=1e-3, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, eval_strategy="epoch",
        gradient_checkpointing=False,
    )  # fmt: skip
    with quiet():
        trainer = PairsDPOTrainer(
            model=tiny_llama(), args=args, train_dataset=data, eval_dataset=data.select(range(5)),
            processing_class=tiny_tokenizer(), limits=Limits(120), reference=folder / "reference.jsonl",
        )  # fmt: skip
        trainer.train()
        nll = trainer.likelihood(
            [{"input_ids": torch.arange(n), "labels": torch.arange(n)} for n in (9, 30, 50)]
        )
    assert trainer.accelerator.num_processes == every
    if trainer.accelerator.is_main_process:
        weights = [one.double().sum().item() for one in trainer.model.parameters()]
        told = {"history": trainer.state.log_history, "weights": weights, "nll": nll}
        (folder / "told.json").write_text(json.dumps(told))


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    told = []
    for every in (1, 2):
        folder = tmp_path / str(every)
        folder.mkdir()
        with socket.socket() as port:
            port.bind(("127.0.0.1", 0))
            free = str(port.getsockname()[1])
        here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
        group = (
            {"WORLD_SIZE": str(every), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free} if every > 1 else {}
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, str(folder)], stderr=subprocess.PIPE,
                env={**os.environ, **here, **group, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if group else {})},
            )
            for rank in range(every)
        ]  # fmt: skip
        for process in running:
            error = process.communicate(timeout=240)[1]
            assert process.returncode == 0, error.decode()
        told.append(json.loads((folder / "told.json").read_text()))
    one, two = told
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-3)
    assert two["nll"] == pytest.approx(one["nll"], rel=1e-3)
    rows = [[row for row in each["history"] if "loss" in row or "eval_loss" in row] for each in told]
    assert len(rows[0]) == len(rows[1]) == 9
    for mine, theirs in zip(*rows, strict=True):
        for name in mine.keys() - {"epoch", "eval_runtime"}:
            assert theirs[name] == pytest.approx(mine[name], rel=2e-3, abs=2e-4), name
