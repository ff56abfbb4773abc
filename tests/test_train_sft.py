"""Fine-tuning a tiny model, for real: the labels reach the loss, it learns, it ends, and others can load it."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Job, sft_job
from tiny import CHATML, tiny_checkpoint
from transformers import DataCollatorForSeq2Seq

from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import end_id, prompt_ids, turn_end_id
from maieutic.core.errors import ContextTooShort, DiskFull, InputError, ModelError, RunConflict
from maieutic.core.messages import Conversation, Message
from maieutic.core.store import stage_rows, write_json
from maieutic.data.corpus import write_corpus
from maieutic.models.weights import Framing, quiet
from maieutic.train import loop
from maieutic.train.base import add_end_embedding, load_trainable, lora_config, open_base
from maieutic.train.loop import failures
from maieutic.train.rows import conversation_rows
from maieutic.train.sft import make_trainer

torch.set_num_threads(1)

TALKS = [
    Conversation.model_validate(
        {
            "messages": [
                {"role": "user", "content": f"What is {name} in {{LaTeX}}?"},
                {"role": "assistant", "content": "Which sign would you try first?"},
                {"role": "user", "content": sign},
                {"role": "assistant", "content": "Yes."},
            ],
            "ended": True,
            "licence": "CC0-1.0",
        }
    )
    for name, sign in (("a half", "\\frac{1}{2}"), ("a sum", "$a+b$ 🙂"), ("a root", "\\sqrt{x}"))
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("base"), context=512)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "talks.jsonl"
    write_corpus(path, TALKS)
    return path


def config(start: Path, corpus: Path, out: Path, **more: Any) -> Job:
    known = {"role": "user", "batch_size": 3, "epochs": 40, "learning_rate": 1e-2}
    return sft_job(model=f"hf/{start}", data=corpus, out=out, **{**known, **more})


@pytest.fixture(scope="module")
def simulator(start: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "user"
    config(start, corpus, out, validation=corpus).run()
    return out


def opened(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def said(model: Any, tokenizer: Any, ids: list[int]) -> list[int]:
    with torch.no_grad(), quiet():
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=60,
                             do_sample=False)  # fmt: skip
    return out[0, len(ids) :].tolist()


def test_labels_reach_the_loss_unchanged(start: Path, corpus: Path, tmp_path: Path) -> None:
    settings = config(start, corpus, tmp_path)
    with quiet():
        opened_base = open_base(settings.step)
        tokenizer = opened_base.tokenizer
        rows = conversation_rows(TALKS, tokenizer, "user", opened_base.frame, opened_base.longest)
        model = load_trainable(settings.step, opened_base.source)
        fresh = add_end_embedding(model, tokenizer, opened_base.frame)
        trainer = make_trainer(settings.step, tmp_path, model, tokenizer, rows, rows, fresh)
        (batch,) = list(trainer.get_train_dataloader())
        seen = sorted((row["input_ids"].tolist(), row["labels"].tolist()) for row in batch["rows"])
        assert seen == sorted((row["input_ids"], row["labels"]) for row in rows.dataset)
        padded = DataCollatorForSeq2Seq(tokenizer)([dict(row) for row in rows.dataset])
        log_probs = torch.log_softmax(model(input_ids=padded["input_ids"]).logits[:, :-1].double(), -1)
        targets = padded["labels"][:, 1:]
        by_hand = -log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0][targets != -100].mean()
        assert float(trainer.training_step(trainer.model, batch)) == pytest.approx(float(by_hand), abs=1e-4)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(float(by_hand), abs=1e-4)


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("kind", ["joined", "padded", "recomputed"])
def test_a_step_has_the_loss_and_the_gradients_of_one_padded_batch(
    start: Path, corpus: Path, tmp_path: Path, lora: int | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(
        start,
        corpus,
        tmp_path,
        lora_r=lora,
        max_tokens_per_batch=100,
        gradient_checkpointing=kind == "recomputed",
    )
    if kind == "padded":
        monkeypatch.setattr("maieutic.train.packing._ATTENTION_KINDS", set())
    with quiet():
        opened_base = open_base(settings.step)
        tokenizer = opened_base.tokenizer
        rows = conversation_rows(TALKS, tokenizer, "user", opened_base.frame, opened_base.longest)
        model = load_trainable(settings.step, opened_base.source)
        fresh = add_end_embedding(model, tokenizer, opened_base.frame)
        trainer = make_trainer(settings.step, tmp_path, model, tokenizer, rows, None, fresh)
        tuned = trainer.model
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_B" in name:  # zeros at first, through which nothing would be learned
                    weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
        (batch,) = list(trainer.get_train_dataloader())
        assert len(trainer._micro_batches(batch["rows"])) > 1
        loss = trainer.training_step(tuned, batch)
        found = gradients(tuned)
        tuned.zero_grad()
        padded = DataCollatorForSeq2Seq(tokenizer)([dict(row) for row in rows.dataset])
        expected = tuned(**padded).loss
        expected.backward()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    wanted = gradients(tuned)
    assert found.keys() == wanted.keys() and len(wanted) > (10 if lora else 15)
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name
        # Nothing follows END, so what it is read as teaches nothing.
        assert (float(gradient.abs().max()) > 1e-4) != ("embed_tokens.token_adapter" in name), name


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_end_starts_as_the_end_of_a_turn(start: Path, corpus: Path, tmp_path: Path) -> None:
    settings = config(start, corpus, tmp_path)
    with quiet():
        opened_base = open_base(settings.step)
        model = load_trainable(settings.step, opened_base.source)
        before = model.get_input_embeddings().weight.shape[0]
        (end,) = add_end_embedding(model, opened_base.tokenizer, opened_base.frame)
    like = turn_end_id(opened_base.tokenizer)
    for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert matrix.shape[0] == before + 1 and end == before
        assert torch.equal(matrix[end], matrix[like])


def test_it_learns_the_human_side_and_to_end(simulator: Path) -> None:
    rows = [row for row in stage_rows(simulator) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["loss"] > 4 and rows[-1]["loss"] < 0.3
    model, tokenizer = opened(simulator / "model")
    end = end_id(tokenizer)
    assert end is not None
    assert set(model.generation_config.eos_token_id) == {turn_end_id(tokenizer), end}
    talk = TALKS[0].messages
    reply = said(model, tokenizer, prompt_ids(talk[:2], tokenizer, "user"))
    assert tokenizer.decode(reply, skip_special_tokens=True) == talk[2].content
    assert reply[-1] == turn_end_id(tokenizer)
    assert said(model, tokenizer, prompt_ids(talk, tokenizer, "user")) == [end]


def test_any_server_can_speak_it(simulator: Path) -> None:
    model, tokenizer = opened(simulator / "model")
    talk = [turn.model_dump(mode="json") for turn in TALKS[1].messages[:2]]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == prompt_ids([Message.model_validate(turn) for turn in talk], tokenizer, "user")
    assert tokenizer.decode(said(model, tokenizer, ids), skip_special_tokens=True) == "$a+b$ 🙂"


def test_the_checkpoint_says_what_it_is(simulator: Path, start: Path) -> None:
    record = json.loads((simulator / "model" / "maieutic.json").read_text())
    assert (record["role"], record["end"], record["template"], record["method"]) == (
        "user",
        True,
        None,
        "sft",
    )
    assert record["data"]["rows"] == 3 and record["data"]["licences"] == ["CC0-1.0"]
    assert record["metrics"]["eval_loss"] == pytest.approx(record["metrics"]["final_loss"], abs=0.1)
    card = (simulator / "model" / "README.md").read_text()
    assert "user simulator" in card and "CC0-1.0" in card and END in card
    assert str(start) not in card and str(start) not in json.dumps(record)
    data = (simulator / "config.json").read_text()
    assert record["data"]["sha256"] in card and record["data"]["sha256"] in data
    assert record["recipe"] is None and "`maieutic train sft`" in card and "transformers 5" in card
    for name, value in record["metrics"].items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        assert value is None or f"| {name} | {shown} |" in card


def test_a_recipe_s_stage_names_its_recipe(start: Path, corpus: Path, tmp_path: Path) -> None:
    from hashlib import sha256

    file = tmp_path / "recipe.json"
    write_json(file, {"recipe": "platolm", "stages": {}})
    config(start, corpus, tmp_path / "user", max_steps=1).run()
    record = json.loads((tmp_path / "user" / "model" / "maieutic.json").read_text())
    assert record["recipe"] == {"name": "platolm", "sha256": sha256(file.read_bytes()).hexdigest()}
    assert (
        f"recipe `platolm` (SHA-256 `{record['recipe']['sha256']}`)"
        in (tmp_path / "user" / "model" / "README.md").read_text()
    )


def test_a_log_shows_how_far_it_is(
    start: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loop, "track", partial(loop.track, every=0.02))
    result = config(start, corpus, tmp_path / "run", max_steps=40).run()
    lines = re.findall(
        r"train sft: (\d+)/40, .*; loss (\d+\.\d+), (\d+) tokens, (\d+) tokens/s", capsys.readouterr().err
    )
    assert lines and any(int(steps) > 0 for steps, *_ in lines)
    assert max(int(tokens) for _, _, tokens, _ in lines) <= result.metrics["tokens"]
    losses = [row["loss"] for row in stage_rows(tmp_path / "run")]
    assert all(any(abs(float(loss) - one) < 1e-3 for one in losses) for _, loss, _, _ in lines)


def test_done_is_done_and_another_run_is_refused(simulator: Path, start: Path, corpus: Path) -> None:
    before = (simulator / "model" / "model.safetensors").stat().st_mtime_ns
    again = config(start, corpus, simulator, validation=corpus, save_steps=7).run()
    assert again.metrics["steps"] == 40
    assert (simulator / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RunConflict, match=r"learning_rate \(0\.01 → 0\.02\)"):
        config(start, corpus, simulator, validation=corpus, learning_rate=2e-2).run()


def test_a_changed_corpus_is_refused(start: Path, tmp_path: Path) -> None:
    data = tmp_path / "c.jsonl"
    write_corpus(data, TALKS)
    config(start, data, tmp_path / "run", max_steps=1).run()
    data.unlink()
    write_corpus(data, TALKS[:2])
    with pytest.raises(RunConflict, match="data"):
        config(start, data, tmp_path / "run", max_steps=1).run()


def test_a_changed_template_is_refused(start: Path, corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "frame.jinja"
    file.write_text(CHATML)
    settings = config(start, corpus, tmp_path / "run", max_steps=1, template=str(file))
    settings.run()
    file.write_text(CHATML + "{# another #}")
    with pytest.raises(RunConflict, match="template"):
        settings.run()


def test_a_tracker_that_is_none_is_refused_before_the_model_is_looked_for(
    start: Path, corpus: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "no-model"
    with pytest.raises(InputError, match="nobody"):
        config(nowhere, corpus, tmp_path / "run", report_to="nobody").run()


def test_a_finished_run_is_a_model_and_keeps_its_end(simulator: Path, corpus: Path, tmp_path: Path) -> None:
    settings = config(simulator, corpus, tmp_path, max_steps=1)
    with quiet():
        opened_base = open_base(settings.step)
        model = load_trainable(settings.step, opened_base.source)
        held = model.get_input_embeddings().weight.clone()
        assert add_end_embedding(model, opened_base.tokenizer, opened_base.frame) == []
    assert torch.equal(model.get_input_embeddings().weight, held)


def test_what_knows_its_end_keeps_it_where_no_row_teaches_it(
    simulator: Path, corpus: Path, tmp_path: Path
) -> None:
    censored = tmp_path / "censored.jsonl"
    write_corpus(censored, [talk.model_copy(update={"ended": False}) for talk in TALKS])
    result = config(simulator, censored, tmp_path / "run", max_steps=1, validation=corpus).run()
    assert json.loads((result.model / "maieutic.json").read_text())["end"] is True
    model, tokenizer = opened(result.model)
    assert end_id(tokenizer) in model.generation_config.eos_token_id
    assert result.metrics["eval_end_f1"] is not None
    answering = config(simulator, censored, tmp_path / "answering", role="assistant", max_steps=1).run()
    assert json.loads((answering.model / "maieutic.json").read_text())["end"] is False


def test_lora_trains_end_though_the_embeddings_are_frozen(start: Path, corpus: Path, tmp_path: Path) -> None:
    settings = config(start, corpus, tmp_path / "run", lora_r=8, epochs=120, learning_rate=2e-2)
    result = settings.run()
    assert result.metrics["final_loss"] < 1.0
    tuned, tokenizer = opened(result.model)
    first, _ = opened(start)
    end, like = end_id(tokenizer), turn_end_id(tokenizer)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        was, now = getattr(first, name)().weight, getattr(tuned, name)().weight
        assert torch.equal(now[: len(was)], was)
        # Nothing follows END, so only the matrix that predicts it has anything to learn.
        assert torch.equal(now[end], now[like]) == (name == "get_input_embeddings")
    assert said(tuned, tokenizer, prompt_ids(TALKS[0].messages, tokenizer, "user")) == [end]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").stat().st_size < 400_000
    with quiet():
        assert lora_config(settings.but(lora_r=None).step, first, []) is None


@pytest.mark.parametrize("template", ["plain", "dyadic"])
def test_own_frames_and_both_roles(start: Path, corpus: Path, tmp_path: Path, template: str) -> None:
    out = tmp_path / "run"
    result = config(start, corpus, out, role="both", template=template, system="Be brief.", max_steps=2).run()
    assert result.metrics["steps"] == 2
    record = json.loads((result.model / "maieutic.json").read_text())
    assert (record["role"], record["template"], record["system"]) == ("both", template, "Be brief.")
    _, tokenizer = opened(result.model)
    frame = open_base(config(out, corpus, tmp_path / "next").step).frame
    assert frame == Framing(template, "Be brief.")
    assert prompt_ids(TALKS[0].messages[:1], tokenizer, "assistant", *frame)


def test_an_assistant_gets_no_end(start: Path, corpus: Path, tmp_path: Path) -> None:
    result = config(start, corpus, tmp_path / "run", role="assistant", max_steps=1).run()
    model, tokenizer = opened(result.model)
    assert end_id(tokenizer) is None
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)


def test_where_no_row_shows_its_end_the_checkpoint_has_none(
    start: Path, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = config(start, corpus, tmp_path / "run", max_steps=1, max_length=50, validation=corpus).run()
    assert "0 teach the end of a conversation, 3 lost" in capfd.readouterr().err
    model, tokenizer = opened(result.model)
    assert end_id(tokenizer) is None
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert json.loads((result.model / "maieutic.json").read_text())["end"] is False


def test_computing_in_bfloat16(start: Path, corpus: Path, tmp_path: Path) -> None:
    result = config(
        start, corpus, tmp_path / "run", precision="bfloat16", max_steps=2, gradient_checkpointing=True
    ).run()
    assert result.metrics["final_loss"] > 0
    assert opened(result.model)[0].dtype == torch.float32


def test_mistakes_are_said(start: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ContextTooShort, match="context of 512"):
        config(start, corpus, tmp_path / "a", max_length=1000).run()
    with pytest.raises(ModelError, match="the loss is"):
        config(start, corpus, tmp_path / "b", learning_rate=1e9, max_grad_norm=1e9, epochs=20).run()


def test_a_full_disk_in_any_words() -> None:
    for error in (OSError(28, "No space left on device"), RuntimeError("I/O error: ... (os error 28)")):
        with pytest.raises(DiskFull, match="no space is left"), failures(Path("run")):
            raise error
    with pytest.raises(ZeroDivisionError), failures(Path("run")):
        raise ZeroDivisionError
