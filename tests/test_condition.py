"""What a simulator is told: the ids of training are those of use, the rates are kept, and what is lacking is counted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import sft_job
from tiny import tiny_checkpoint, tiny_tokenizer

from maieutic.chat_templates.conditioning import (
    Conditioning,
    check_kind,
    conditioned,
    read_conditioning,
    wording,
)
from maieutic.chat_templates.rendering import IGNORED, prompt_ids
from maieutic.chat_templates.templates import serving_template
from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, Message, Reply, Role, Sampling
from maieutic.core.step import build
from maieutic.data.corpus import write_corpus
from maieutic.evals.likelihood import add_intent, score_likelihood
from maieutic.models import load
from maieutic.models.weights import Framing, quiet
from maieutic.rollouts.users import next_user_message
from maieutic.train.config import read_rates, whole_rates
from maieutic.train.rows import Mixture, conversation_rows, without_first_turn
from maieutic.train.steps import TrainSft

torch.set_num_threads(1)
FRAMES = [
    ("chat", None),
    ("chat", "Be {brief}."),
    ("dyadic", None),
    ("plain", None),
    ("plain", "A <|im_end|> b"),
]


def talk(number: int = 0, **more: Any) -> Conversation:
    messages = [
        {"role": "user", "content": f"What is {number} + 1?"},
        {"role": "assistant", "content": "Count on."},
        {"role": "user", "content": f"It is {number + 1}."},
        {"role": "assistant", "content": "Yes."},
    ]
    known = {"intent": f"To add {{{number}}} <|im_start|>", "profile": "A pupil, {8}.", "ended": True}
    return Conversation.model_validate({"messages": messages, **known, **more})


def rates(**given: float) -> dict[str, float]:
    return whole_rates({name.replace("_", "+"): rate for name, rate in given.items()})


class Spy:
    """Keeps what it is asked, as a checkpoint that learned to be told."""

    id, trained_role, fingerprint = "spy", Role.USER, None

    def __init__(self, conditioning: Conditioning | None, system: str | None) -> None:
        self.conditioning, self.system = conditioning, system
        self.asked: Sequence[Message] = ()

    async def reply(self, messages: Sequence[Message], sampling: Sampling, **_: Any) -> Reply:
        self.asked = messages
        return Reply(text="so")


@pytest.mark.parametrize(("template", "system"), FRAMES)
@pytest.mark.parametrize("kind", ["intent", "profile", "intent+profile", "problem"])
def test_training_simulation_and_serving_have_the_same_ids(
    template: str, system: str | None, kind: str
) -> None:
    tokenizer = tiny_tokenizer()
    problem = {"statement": "Add {1}.", "attempt": "2 {3}", "answer": "never told"}
    row = talk(problem=problem)
    rows = conversation_rows(
        [row], tokenizer, "user", Framing(template, system), 2048, mixture=Mixture({kind: 1.0}, 0, system)
    )
    assert rows.report.conditions == {kind: 1} and not rows.report.lacking
    trained = rows.dataset[0]["input_ids"]
    spy = Spy(Conditioning((kind,), wording()), system)
    for so_far in (0, 2, 4):
        asyncio.run(next_user_message(spy, "trained", row, row.messages[:so_far], Sampling(), True))
        ids = prompt_ids(spy.asked, tokenizer, "user", template, system)
        assert trained[: len(ids)] == ids and rows.dataset[0]["labels"][len(ids)] != IGNORED
        assert "never told" not in tokenizer.decode(ids)
        served = tiny_tokenizer()
        served.chat_template = serving_template(tokenizer, "user", template, system)
        messages = [turn.model_dump(mode="json") for turn in spy.asked]
        if not any("<|im_" in turn["content"] for turn in messages):
            # A server reads a marker in a text as the marker, whatever is sent to it.
            assert served.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ids
    if kind == "intent":
        assert add_intent(row, system, spy.conditioning).messages[0] == spy.asked[0]


def test_served_ids_where_nothing_looks_like_a_marker() -> None:
    """One system message is enough, by whatever server."""
    for template, system in FRAMES[:4]:
        tokenizer = tiny_tokenizer()
        row = talk(intent="To add.")
        rows = conversation_rows(
            [row],
            tokenizer,
            "user",
            Framing(template, system),
            2048,
            mixture=Mixture({"intent": 1.0}, 0, system),
        )
        text = "What the person wants: To add."
        message = {"role": "system", "content": f"{system}\n\n{text}" if system else text}
        served = tiny_tokenizer()
        served.chat_template = serving_template(tokenizer, "user", template, system)
        ids = served.apply_chat_template([message], add_generation_prompt=True)["input_ids"]
        assert rows.dataset[0]["input_ids"][: len(ids)] == ids and len(ids) > 5


def test_a_given_round_is_not_in_the_loss() -> None:
    tokenizer = tiny_tokenizer()
    frame = Framing("chat", None)
    free = conversation_rows([talk()], tokenizer, "user", frame, 2048).dataset[0]
    rows = conversation_rows(
        [talk()], tokenizer, "user", frame, 2048, mixture=Mixture(rates(round=1), 0, None)
    )
    given_one = rows.dataset[0]
    assert given_one["input_ids"] == free["input_ids"]
    second = len(prompt_ids(talk().messages[:2], tokenizer, "user", "chat"))
    assert set(given_one["labels"][:second]) == {IGNORED}
    assert given_one["labels"][second:] == free["labels"][second:]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_without_the_first_turn(numbers: list[int]) -> None:
    from maieutic.chat_templates.rendering import Rendered

    labels = [number or IGNORED for number in numbers]
    rest = without_first_turn(Rendered(numbers, labels))
    runs = "".join("x" if label != IGNORED else " " for label in labels).split()
    if len(runs) < 2:
        assert rest is None
    else:
        assert rest is not None and rest.input_ids == numbers
        assert rest.supervised == sum(map(len, runs[1:])) and all(
            one in (label, IGNORED) for one, label in zip(rest.labels, labels, strict=True)
        )


def test_the_rates_are_kept_by_seed_and_place() -> None:
    mixed = rates(none=0.4, round=0.2, intent=0.3, profile=0.1)
    draws = [Mixture(mixed, 7, None).drawn(place) for place in range(4000)]
    assert draws == [Mixture(mixed, 7, None).drawn(place) for place in range(4000)]
    assert draws != [Mixture(mixed, 8, None).drawn(place) for place in range(4000)]
    counts = Counter(draws)
    for kind, rate in mixed.items():
        assert counts[kind] / 4000 == pytest.approx(rate, abs=0.03)


def test_what_is_lacking_is_counted() -> None:
    bare = Conversation.model_validate({"messages": [{"role": "user", "content": "Hi"}], "intent": " "})
    rows = conversation_rows(
        [bare, talk(1), bare, talk(2, intent=None)],
        tiny_tokenizer(),
        "user",
        Framing("chat", None),
        2048,
        mixture=Mixture(rates(intent=1), 0, None),
    )
    assert (rows.report.conditions, rows.report.lacking) == ({"none": 3, "intent": 1}, {"intent": 3})
    assert (
        "conditioned by intent: 1, none: 3 (unconditioned, since the row lacks it: intent: 3)"
        in rows.report.sentence("train")
    )
    lonely = conversation_rows(
        [bare],
        tiny_tokenizer(),
        "user",
        Framing("chat", None),
        2048,
        mixture=Mixture(rates(round=1), 0, None),
    )
    assert lonely.report.lacking == {"round": 1} and lonely.report.supervised > 0


def test_the_most_that_was_learned_is_told() -> None:
    words = wording()
    everything = talk(problem={"statement": "Add."})
    best = Conditioning(("profile", "intent", "intent+profile"), words).best
    assert best(everything) == "intent+profile"
    assert best(everything.model_copy(update={"intent": None})) == "profile"
    assert Conditioning(("profile", "intent"), words).best(everything) == "intent"
    assert Conditioning(("profile",), words).best(everything, "intent") is None
    assert Conditioning(("profile",), words).best(Conversation(id="a", messages=())) is None
    own = everything.model_copy(
        update={"messages": (Message(role=Role.SYSTEM, content="Own."), *talk().messages)}
    )
    found = conditioned(own, "profile", "not this", words)
    assert found and found.messages[0].content == "Own.\n\nWho the person is: A pupil, {8}."
    assert found.messages[1:] == talk().messages


@given(
    st.one_of(
        st.none(),
        st.text(),
        st.fixed_dictionaries(
            {
                "rates": st.one_of(
                    st.none(),
                    st.dictionaries(
                        st.sampled_from(
                            ["none", "round", "intent", "problem", "profile+intent", "mood", "intent+mood"]
                        ),
                        st.floats(0, 1),
                    ),
                ),
                "wording": st.one_of(
                    st.text(),
                    st.dictionaries(
                        st.sampled_from(["intent", "problem", "attempt", "mood"]),
                        st.one_of(st.integers(), st.just("x")),
                    ),
                ),
            }
        ),
    )
)
def test_a_strange_record_tells_nothing_or_what_it_can(said: Any) -> None:
    found = read_conditioning(said)
    if found is not None:
        assert set(found.kinds) <= {"intent", "problem"} and set(found.kinds) <= found.wording.keys()


def test_rates_are_read_and_refused() -> None:
    assert read_rates("none=.4, round=0.2,profile+intent=0.4") == {
        "none": 0.4,
        "round": 0.2,
        "profile+intent": 0.4,
    }
    assert whole_rates({"profile+intent": 0.25}) == {"none": 0.75, "intent+profile": 0.25}
    assert whole_rates({"intent": 0.0, "none": 1}) == {"none": 1.0}
    for wrong in (
        {"mood": 0.5},
        {"intent+intent": 0.5},
        {"intent": 1.5},
        {"intent": -0.1},
        {"none": 0.5},
        {"none+intent": 1},
    ):
        with pytest.raises(ValueError, match="condition|rates"):
            whole_rates(wrong)
    with pytest.raises(ValueError, match="not a rate"):
        read_rates("intent")
    with pytest.raises(ValueError, match="known"):
        check_kind("")


def test_settings_from_flag_and_file(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("{}\n")
    known = {"model": "m", "data": tmp_path / "c.jsonl", "role": "user"}
    file = build(TrainSft, {**known, "condition": {"intent": 0.3, "round": 0.2}})
    flag = build(TrainSft, {**known, "condition": "round=0.2,intent=0.3"})
    assert isinstance(file, TrainSft) and isinstance(flag, TrainSft)
    assert file.identity() == flag.identity()
    assert file.condition == {"none": 0.5, "intent": 0.3, "round": 0.2} and "wording" in file.identity()
    with pytest.raises(InputError, match="condition .*role user"):
        build(TrainSft, {**known, "role": "both", "condition": "intent=1"})
    with pytest.raises(InputError, match="condition: .*not a rate"):
        build(TrainSft, {**known, "condition": "intent"})


@pytest.mark.slow
def test_a_trained_simulator_is_told_its_intent(tmp_path: Path) -> None:
    """It learns to say what its intent says, and is told so only because its checkpoint says so."""
    start = tiny_checkpoint(tmp_path / "base", context=256, hidden=48)
    wants = ("apples", "pears", "plums")
    talks = [
        Conversation.model_validate(
            {
                "messages": [
                    {"role": "user", "content": f"I want {want}."},
                    {"role": "assistant", "content": "Here."},
                ],
                "intent": f"To get {want}",
                "ended": True,
            }
        )
        for want in wants
    ]
    write_corpus(tmp_path / "talks.jsonl", talks)
    with quiet():
        result = sft_job(
            model=str(start),
            data=tmp_path / "talks.jsonl",
            out=tmp_path / "run",
            role="user",
            batch_size=3,
            epochs=120,
            learning_rate=1e-2,
            condition={"intent": 1.0},
        ).run()
    assert result.metrics["data"]["conditions"] == {"intent": 3}
    record = json.loads((result.model / "maieutic.json").read_text())
    assert record["condition"] == {"rates": {"none": 0.0, "intent": 1.0}, "wording": wording()}
    assert "- `What the person wants: {{intent}}`" in (result.model / "README.md").read_text()
    model: Any = load(f"hf/{result.model}")
    assert model.conditioning.kinds == ("intent",)

    scores = score_likelihood(model, talks).scores
    knowing, guessing = (scores[f"perplexity_{how}_intent"].value for how in ("with", "without"))
    assert knowing and guessing and knowing < 1.1 < guessing

    async def say() -> list[str]:
        greedy = Sampling(temperature=0, max_tokens=20)
        try:
            return [(await next_user_message(model, "trained", one, (), greedy, False)).text for one in talks]
        finally:
            await model.close()

    assert asyncio.run(say()) == [f"I want {want}." for want in wants]
