"""The `hf/` model: batching over asyncio, endings, scoring, and what it says of a checkpoint it cannot load."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from generate import candidates, simulate
from tiny import tiny_checkpoint, tiny_tokenizer

from maieutic import write_corpus
from maieutic.chat_templates.rendering import add_end, prompt_ids, render, turn_lead
from maieutic.core.errors import (
    ContextFull,
    MaieuticError,
    MissingExtra,
    MissingInput,
    ModelError,
    Unreachable,
)
from maieutic.core.messages import Conversation, Finish, Message, Reply, Role, Sampling
from maieutic.core.settings import LocalModel
from maieutic.core.store import stage_rows
from maieutic.models import load
from maieutic.models.checkpoint import find, load_tokenizer, parameters
from maieutic.models.local import TransformersModel

torch.set_num_threads(1)

TEXTS = ("Hello!", "What is {1, 2} ∪ {3}? 🙂", "\\frac{1}{2}", "def f(x):\n    return x", "", "why" * 30)
WARM = Sampling(temperature=0.9, top_p=0.95, max_tokens=24, seed=3)


def turns(*texts: str) -> list[Message]:
    return [Message(role=(Role.USER, Role.ASSISTANT)[i % 2], content=text) for i, text in enumerate(texts)]


def simulator_checkpoint(folder: Path, **says: Any) -> Path:
    """A checkpoint whose tokenizer has END, as a trained simulator's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_checkpoint(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    add_end(tokenizer)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / "maieutic.json").write_text(json.dumps({"role": "user", **says}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    return TransformersModel(str(simulator_checkpoint(tmp_path_factory.mktemp("model") / "simulator")))


def test_a_frame_s_space_is_no_part_of_a_reply(folder: Path) -> None:
    """What was said goes back into the frame as it stood there: the ids drawn are those that would be trained on."""
    for template, role in (("plain", Role.USER), ("plain", Role.ASSISTANT)):
        model = TransformersModel(str(folder), LocalModel(template=template))
        said = turns("Hi.") if role == Role.ASSISTANT else turns("Hi.", "Hello.")
        assert turn_lead(model.tokenizer, template, role) == " "
        whole = render(Conversation(messages=(*said, Message(role=role, content="why not")), ended=False),
                       model.tokenizer, role, template, end=False)  # fmt: skip
        start = len(prompt_ids(said, model.tokenizer, role, template))
        end = len(whole.input_ids) - 1
        while whole.labels[end] == -100 or whole.input_ids[end] == model.tokenizer.eos_token_id:
            end -= 1
        assert model._decode(list(whole.input_ids[start : end + 1]), role) == "why not"
    assert turn_lead(TransformersModel(str(folder)).tokenizer, None, Role.USER) == ""


REFUSING = """{% for m in messages %}{% if 'forbidden' in m['content'] %}{{ raise_exception('not this') }}{% endif %}
{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def test_a_conversation_that_the_template_refuses_is_a_row_and_stops_nobody(
    folder: Path, simulator: TransformersModel, tmp_path: Path
) -> None:
    template = tmp_path / "refusing.jinja"
    template.write_text(REFUSING)
    seeds = [Conversation(messages=tuple(turns(text))) for text in ("a", "forbidden", "b")]
    options = LocalModel(template=str(template))
    short = Sampling(max_tokens=4)
    done = candidates(
        load(f"hf/{folder}", options), seeds, tmp_path / "c", k=1, sampling=short, max_failure_rate=0.4
    )
    rows = list(stage_rows(tmp_path / "c"))
    assert done.failed == 1 and [row.get("fault") for row in rows] == [None, "us", None]
    assert "not this" in rows[1]["error"]
    write_corpus(tmp_path / "seeds.jsonl", seeds)
    config = {
        "seeds": tmp_path / "seeds.jsonl",
        "rounds": 1,
        "user_sampling": short,
        "sampling": short,
        "guards": "none",
        "max_failure_rate": 0.4,
    }
    summary = simulate(simulator, load(f"hf/{folder}", options), tmp_path / "talk", config=config)
    assert (summary.dialogues, summary.failed, summary.faults) == (2, 1, {"us": 1})


def ask(model: TransformersModel, sampling: Sampling = WARM, **more: Any) -> list[Reply]:
    async def all_of_them() -> list[Reply]:
        return await asyncio.gather(*(model.reply(turns(text), sampling, **more) for text in TEXTS))

    return asyncio.run(all_of_them())


def passes(model: TransformersModel) -> int:
    return model._worker.call(lambda engine: engine.network.passes).result()


def test_two_models_with_tied_weights_may_be_loaded_at_once(tmp_path: Path) -> None:
    folders = [tiny_checkpoint(tmp_path / name, tied=True) for name in ("user", "assistant")]

    async def both() -> None:
        models = [TransformersModel(str(folder)) for folder in folders]
        await asyncio.gather(*(model.check() for model in models))

    for _ in range(4):
        asyncio.run(both())


def test_what_waits_together_is_decoded_together(folder: Path) -> None:
    model = TransformersModel(str(folder))
    replies = ask(model)
    longest = max(reply.completion_tokens for reply in replies)
    assert passes(model) <= longest + len(TEXTS)  # one at a time would need the sum
    assert sum(reply.completion_tokens for reply in replies) > 2 * passes(model)
    assert {reply.model for reply in replies} == {f"hf/{folder}"}
    assert all(reply.prompt_tokens > 5 and reply.seconds > 0 for reply in replies)


def test_text_does_not_depend_on_the_batch(folder: Path) -> None:
    many, one = TransformersModel(str(folder)), TransformersModel(str(folder), LocalModel(batch_size=1))
    assert [reply.text for reply in ask(many)] == [reply.text for reply in ask(one)]


def test_candidates_of_one_prompt_share_its_prefill(folder: Path) -> None:
    model = TransformersModel(str(folder))

    async def candidates() -> list[Reply]:
        one_token = [Sampling(temperature=1.2, max_tokens=1, seed=seed) for seed in range(5)]
        return await asyncio.gather(*(model.reply(turns("Hello!"), sampling) for sampling in one_token))

    asyncio.run(model.check())
    before = passes(model)
    texts = [reply.text for reply in asyncio.run(candidates())]
    # One, or one more where the machine is so busy that the first is under way before the others have asked.
    assert 1 <= passes(model) - before <= 2
    assert len(set(texts)) > 1


def test_several_event_loops_and_closing(folder: Path) -> None:
    model = load(f"hf/{folder}")
    assert isinstance(model, TransformersModel)
    first = [reply.text for reply in ask(model)]
    assert [reply.text for reply in ask(model)] == first
    asyncio.run(model.close())
    assert [reply.text for reply in ask(model)] == first, "a closed model loads again"
    asyncio.run(model.close())


def test_a_forgotten_model_is_freed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maieutic.models.local.IDLE_SECONDS", 0.05)
    model = TransformersModel(str(folder))
    ask(model)
    thread, gone = model._worker._thread, weakref.ref(model)
    del model
    if thread is not None:
        thread.join(5)
    gc.collect()
    assert gone() is None


def test_greedy_text_is_what_transformers_generates(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = TransformersModel(str(folder))
    plain = AutoModelForCausalLM.from_pretrained(folder)
    for text, reply in zip(TEXTS, ask(model, Sampling(temperature=0, max_tokens=20)), strict=True):
        ids = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        output = plain.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=20, do_sample=False
        )
        assert reply.text == model.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)


def test_a_conversation_that_is_too_long_fails_alone(folder: Path) -> None:
    model = TransformersModel(str(folder))

    async def both() -> list[Any]:
        asked = (model.reply(turns(text), WARM) for text in ("word " * 3000, "Hello!"))
        return await asyncio.gather(*asked, return_exceptions=True)

    long, short = asyncio.run(both())
    assert isinstance(long, ContextFull)
    assert isinstance(short, Reply)


def test_a_reply_nobody_waits_for_is_dropped(folder: Path) -> None:
    model = TransformersModel(str(folder))

    async def impatient() -> None:
        endless = Sampling(temperature=0.9, max_tokens=1900)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.reply(turns("Hello!"), endless), 0.05)

    asyncio.run(model.check())
    asyncio.run(impatient())
    started = time.monotonic()
    ask(model)
    assert model._worker.call(lambda engine: engine.live).result() == 0
    assert time.monotonic() - started < 5


def test_the_simulator_says_its_role_and_speaks_as_the_human(simulator: TransformersModel) -> None:
    assert simulator.trained_role == Role.USER
    opening = asyncio.run(simulator.reply([], WARM, role=Role.USER))
    going_on = asyncio.run(simulator.reply(turns("Hi", "Hello"), WARM, role=Role.USER))
    assert opening.end_probability is not None
    assert going_on.end_probability is not None
    assert 0 < opening.end_probability < 1
    assert opening.prompt_tokens < going_on.prompt_tokens
    assert asyncio.run(simulator.reply(turns("Hi"), WARM)).end_probability is None


def make_certain(model: TransformersModel, token: int) -> None:
    """Make a token all but certain everywhere."""

    def change(engine: Any) -> None:
        head = engine.network.model.lm_head
        bias = torch.zeros(len(head.weight))
        bias[token] = 1000.0
        head.bias = torch.nn.Parameter(bias)

    model._worker.call(change).result()


def test_end_is_drawn_suppressed_and_no_word_of_an_assistant(tmp_path: Path) -> None:
    model = TransformersModel(str(simulator_checkpoint(tmp_path / "ends")))
    make_certain(model, add_end(model.tokenizer))
    short = Sampling(temperature=1, max_tokens=5)
    ended = asyncio.run(model.reply(turns("Hi", "Hello"), short, role=Role.USER))
    assert (ended.text, ended.finish, ended.completion_tokens) == ("", Finish.END, 0)
    assert ended.end_probability == pytest.approx(1, abs=1e-4)
    kept = asyncio.run(model.reply(turns("Hi", "Hello"), short, role=Role.USER, suppress_end=True))
    assert kept.finish != Finish.END
    assert kept.end_probability == pytest.approx(1, abs=1e-4)
    assert asyncio.run(model.reply(turns("Hi"), short)).finish == Finish.STOP


def test_the_checkpoint_names_template_and_system_and_options_win(tmp_path: Path) -> None:
    place = str(simulator_checkpoint(tmp_path / "says", role="both", template="plain", system="Be brief."))
    model = TransformersModel(place)
    assert model.roles == {Role.USER, Role.ASSISTANT}
    assert (model.trained_role, model.template, model.system) == (Role.USER, "plain", "Be brief.")
    other = TransformersModel(place, LocalModel(template="chat", system=""))
    assert (other.template, other.system) == ("chat", "")
    reply = asyncio.run(model.reply(turns("Hi"), WARM))
    assert reply.prompt_tokens == len(
        prompt_ids(turns("Hi"), model.tokenizer, "assistant", "plain", "Be brief.")
    )


def test_streamed_pieces_make_up_the_reply(folder: Path) -> None:
    model = TransformersModel(str(folder))

    async def streamed(text: str) -> tuple[list[str], list[Reply]]:
        whole: list[Reply] = []
        pieces = [piece async for piece in model.stream(turns(text), WARM, done=whole.append)]
        return pieces, whole

    async def abandoned() -> None:
        stream = model.stream(turns("Hello!"), WARM)
        async for _ in stream:
            break
        await stream.aclose()

    for text in TEXTS:
        pieces, (reply,) = asyncio.run(streamed(text))
        assert "".join(pieces) == reply.text == asyncio.run(model.reply(turns(text), WARM)).text
        assert len(pieces) > 1
    asyncio.run(abandoned())


def chat(*texts: str, ended: bool = False) -> Conversation:
    rows = [turn.model_dump() for turn in turns(*texts)]
    return Conversation.model_validate({"messages": rows, "ended": ended})


def test_logprobs_of_one_side(simulator: TransformersModel) -> None:
    rows = [chat("Hi", "Hello", ended=True), chat("a b c", "d e f", "g"), chat("long " * 3000, "yes")]
    for role in (Role.USER, Role.ASSISTANT):
        first, second, third = simulator.logprobs(rows, role)
        assert third is None
        assert first is not None
        assert second is not None
        assert len(first) == render(rows[0], simulator.tokenizer, role).supervised
        assert max(first + second) < 0
    with_end, without = (simulator.logprobs(rows[:1], Role.USER, end=end)[0] for end in (True, False))
    assert with_end is not None
    assert without is not None
    assert len(with_end) == len(without) + 1
    assert with_end[:-1] == pytest.approx(without, abs=1e-5)


@pytest.mark.parametrize("template", ["chat", "plain", "dyadic"])
def test_end_probabilities_are_those_of_generation(simulator: TransformersModel, template: str) -> None:
    simulator = TransformersModel(simulator.id.removeprefix("hf/"), LocalModel(template=template))
    rows = [chat("Hi", "Hello", "Why?", "Because."), chat("one", "", "three"), chat("one"), chat()]
    found = simulator.end_probabilities(rows)
    assert [len(values) for values in found] == [3, 2, 1, 1]
    for row, values in zip(rows, found, strict=True):
        for place, value in enumerate(values):
            prefix = row.messages[: 2 * place]
            reply = asyncio.run(simulator.reply(prefix, Sampling(max_tokens=1), role=Role.USER))
            assert value == pytest.approx(reply.end_probability, abs=1e-6)
    longer = simulator.end_probabilities([chat("Hi", "Hello", "long " * 3000, "yes")])
    assert [value is None for value in longer[0]] == [False, False, True]
    assert simulator.end_probabilities([]) == []


def test_a_model_without_end_says_so(folder: Path) -> None:
    model = TransformersModel(str(folder))
    assert model.end_probabilities([chat("Hi", "Hello")]) == [[None, None]]
    assert asyncio.run(model.reply([], WARM, role=Role.USER)).end_probability is None


def says(error: pytest.ExceptionInfo[MaieuticError], *words: str) -> None:
    lines = str(error.value).splitlines()
    assert len(lines) == 2, lines
    for word in words:
        assert word in str(error.value), (word, lines)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./no-such", "runs/sft/checkpoint", "no/", "~/no-such-folder"]
)
def test_a_missing_folder_is_said_at_once(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(MissingInput) as error:
        load(f"hf/{name}")
    says(error, "no such folder", name)
    assert time.monotonic() - started < 1


def test_a_hub_that_cannot_be_asked_is_said_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(Unreachable) as error:
        TransformersModel("nobody/nothing")
    says(error, "no such folder", "hub")
    assert parameters("nobody/nothing") is None
    assert time.monotonic() - started < 5


def test_a_light_install_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra) as error:
        TransformersModel(str(folder))
    says(error, "transformers", "pip install 'maieutic[train]'")


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"")
    with pytest.raises(MissingInput) as error:
        TransformersModel(str(tmp_path / "x.gguf"))
    says(error, "is a file")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    place = tiny_checkpoint(tmp_path / "old")
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(ModelError) as error:
        TransformersModel(str(place))
    says(error, "pickled", "save_pretrained")
    (place / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError) as error:
        TransformersModel(str(place))
    says(error, "no weights")


def test_a_folder_with_a_tokenizer_only_is_enough_for_it(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(find(str(tmp_path))).chat_template


def test_an_absent_device_is_named(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError) as error:
        asyncio.run(TransformersModel(str(folder), LocalModel(device="cuda")).check())
    says(error, "no cuda")


def test_damaged_and_incomplete_weights(tmp_path: Path) -> None:
    from safetensors.torch import load as load_bytes
    from safetensors.torch import save_file

    place = tiny_checkpoint(tmp_path / "damaged")
    weights = place / "model.safetensors"
    tensors = load_bytes(weights.read_bytes())
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError) as error:
        asyncio.run(TransformersModel(str(place)).check())
    says(error, str(place), "model cannot be loaded")
    tensors.pop("model.norm.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError) as error:
        asyncio.run(TransformersModel(str(place)).reply(turns("Hi"), WARM))
    says(error, "model.norm.weight", "incomplete")


def test_remote_code_is_named_and_not_run(tmp_path: Path) -> None:
    place = tiny_checkpoint(tmp_path / "strange")
    config = json.loads((place / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
    }
    (place / "config.json").write_text(json.dumps(config))
    (place / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    with pytest.raises(ModelError) as error:
        asyncio.run(TransformersModel(str(place)).check())
    says(error, "--remote-code")
    assert not (tmp_path / "ran").exists()


def test_parameters_are_counted_without_weights(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    exact = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert parameters(str(tmp_path)) == exact
