"""Rows → columns: what is counted, what is cut, and that the ids are those of inference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import prompt_ids, render
from maieutic.core.errors import ContextTooShort, EmptyCorpus, InputError, MissingInput
from maieutic.core.messages import Conversation, Role
from maieutic.core.rows import PreferenceRow
from maieutic.core.step import build
from maieutic.models.weights import Framing
from maieutic.train.rows import conversation_rows, preference_rows, read_preferences
from maieutic.train.steps import TrainDpo, TrainSft

PLAIN = Framing(None, None)


def talk(*texts: str, ended: bool = True, first: str = "user", **more: object) -> Conversation:
    roles = [first, "assistant" if first == "user" else "user"]
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return Conversation.model_validate({"messages": messages, "ended": ended, **more})


def columns(rows) -> list[tuple[list[int], list[int]]]:
    return [(row["input_ids"], row["labels"]) for row in rows.dataset]


def test_columns_are_what_render_says() -> None:
    tokenizer = tiny_tokenizer()
    talks = [
        talk("Why is $\\frac{a}{b}$ 🙂?", "What do you think?", licence="MIT"),
        talk("Hi {x}", ended=False),
    ]
    rows = conversation_rows(talks, tokenizer, "user", PLAIN, 500)
    assert columns(rows) == [tuple(map(list, render(one, tokenizer, "user"))) for one in talks]
    assert rows.report.rows == 2 and rows.report.ends == 1 and rows.licences == ["MIT"]
    assert rows.report.supervised == sum(label != -100 for _, labels in columns(rows) for label in labels)


def test_both_sides_are_the_union() -> None:
    tokenizer = tiny_tokenizer()
    for one in (
        talk("a question", "an answer"),
        talk("one", "two", "three"),
        talk("an opening", first="assistant"),
    ):
        ((ids, labels),) = columns(conversation_rows([one], tokenizer, "both", PLAIN, 500))
        views = [render(one, tokenizer, role) for role in ("user", "assistant") if one.turns(Role(role))]
        assert ids == max((view.input_ids for view in views), key=len)
        for position, label in enumerate(labels):
            wanted = {view.labels[position] for view in views if position < len(view.labels)} - {-100}
            assert {label} - {-100} == wanted


def test_what_is_left_out_is_counted() -> None:
    tokenizer = tiny_tokenizer()
    talks = [
        talk("only an assistant", first="assistant"),
        talk("x" * 400, "y"),
        talk("short", "y" * 400, "a second question"),
        talk("short", "reply"),
    ]
    rows = conversation_rows(talks, tokenizer, "user", PLAIN, 60)
    assert rows.report[:4] == (2, 1, 1, 1)
    assert "1 shortened" in rows.report.sentence("train") and "1 too long" in rows.report.sentence("train")
    cut, whole = columns(rows)
    assert cut == tuple(map(list, render(talk("short", ended=False), tokenizer, "user")))
    end = tokenizer.convert_tokens_to_ids(END)
    assert end not in cut[0] and end == whole[1][-1] and rows.report.ends == 1


def test_the_start_or_the_end_is_kept() -> None:
    tokenizer = tiny_tokenizer()
    one = talk("a question", "x" * 60, "another question", "y" * 10, "a last one")
    for keep, end in (("start", False), ("end", True)):
        rows = conversation_rows([one], tokenizer, "user", PLAIN, 70, keep=keep)
        ((ids, _),) = columns(rows)
        text = tokenizer.decode(ids)
        assert ("a question" in text, "a last one" in text) == (not end, end)
        assert (rows.report.shortened, rows.report.ends, rows.report.ends_cut) == (1, end, not end)
        assert (ids[-1] == tokenizer.convert_tokens_to_ids(END)) == end


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=7),
    st.sampled_from(["user", "assistant", "both"]),
    st.integers(8, 120),
)
def test_a_cut_row_is_a_prefix_in_whole_turns(texts: list[str], role: str, longest: int) -> None:
    tokenizer = tiny_tokenizer()
    one = talk(*texts)
    try:
        rows = conversation_rows([one], tokenizer, role, PLAIN, longest)
    except (ContextTooShort, EmptyCorpus):
        return
    ((ids, labels),) = columns(rows)
    assert len(ids) == len(labels) <= longest
    assert any(label != -100 for label in labels)
    if rows.report.shortened:
        whole = render(one, tokenizer, "user" if role == "both" else role)
        assert ids == whole.input_ids[: len(ids)]
        assert labels[-1] != -100 or ids[-1] not in tokenizer.all_special_ids


def test_nothing_left_says_why() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(ContextTooShort, match="1 conversations"):
        conversation_rows([talk("x" * 400)], tokenizer, "user", PLAIN, 20)
    with pytest.raises(EmptyCorpus, match="turn of the assistant"):
        conversation_rows([talk("hi")], tokenizer, "assistant", PLAIN, 20)


def pair(prompt: list[str], chosen: str, rejected: str) -> PreferenceRow:
    return PreferenceRow(
        prompt=talk(*prompt).messages,
        chosen=talk(chosen, first="assistant").messages,
        rejected=talk(rejected, first="assistant").messages,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(max_size=20), min_size=1, max_size=5).filter(lambda texts: len(texts) % 2),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_preference_ids_are_those_of_inference_and_of_sft(
    prompt: list[str], chosen: str, rejected: str
) -> None:
    tokenizer = tiny_tokenizer()
    one = pair(prompt, chosen, rejected)
    (row,) = preference_rows([one], tokenizer, PLAIN, 1000).dataset
    assert row["prompt_ids"] == prompt_ids(one.prompt, tokenizer, "assistant")
    for name, reply in (("chosen_ids", one.chosen), ("rejected_ids", one.rejected)):
        whole = render(Conversation(id="x", messages=(*one.prompt, *reply)), tokenizer, "assistant")
        start = len(row["prompt_ids"])
        assert whole.input_ids[start : start + len(row[name])] == row[name]
        assert whole.labels[start:] == row[name] + [-100] * (len(whole.labels) - start - len(row[name]))
        assert row[name][-1] == tokenizer.eos_token_id


def test_a_pair_that_does_not_fit_stops_or_is_counted() -> None:
    tokenizer = tiny_tokenizer()
    pairs = [pair(["short"], "yes", "no"), pair(["x" * 300], "yes", "no")]
    with pytest.raises(ContextTooShort, match="1 of 2 pairs"):
        preference_rows(pairs, tokenizer, PLAIN, 60)
    rows = preference_rows(pairs, tokenizer, PLAIN, 60, drop_too_long=True)
    assert (rows.report.rows, rows.report.too_long) == (1, 1)
    with pytest.raises(InputError, match="not one assistant"):
        preference_rows([pairs[0].model_copy(update={"chosen": ()})], tokenizer, PLAIN, 60)


def test_broken_pairs_are_named_and_the_rest_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    good = {**pair(["q"], "a", "b").model_dump(mode="json"), "key": "k", "judge": "x"}
    file.write_text(
        f"{json.dumps(good)}\n{{broken\n[1]\n\n{json.dumps({'prompt': []})}\n{json.dumps(good)}\n"
    )
    read = read_preferences(file)
    assert (len(read.pairs), read.broken) == (2, 3)
    said = capsys.readouterr().err
    assert "pairs.jsonl:2" in said and "pairs.jsonl:3" in said and "pairs.jsonl:5" in said
    with pytest.raises(MissingInput):
        read_preferences(tmp_path / "none.jsonl")


def test_settings_are_read_and_mistakes_named() -> None:
    sft = {"model": "m", "data": "d", "role": "user"}
    for wrong, fact in (
        ({"model": "m", "data": "d"}, "role is missing"),
        ({**sft, "learning_rte": 1}, "learning_rate"),
        ({**sft, "max_tokens_per_batch": 0}, "max_tokens_per_batch"),
        ({**sft, "early_stopping": 2}, "validation"),
    ):
        with pytest.raises(InputError, match=fact):
            build(TrainSft, wrong)
    with pytest.raises(InputError, match="batch_size .*multiple of micro_batch_size"):
        build(TrainDpo, {"model": "m", "data": "d", "batch_size": 4, "micro_batch_size": 3})
    assert TrainSft(**sft, lora_r=0).lora_r is None
    platolm, paper = TrainSft(**sft), TrainDpo(model="m", data=Path("d"))
    assert (platolm.epochs, platolm.learning_rate, platolm.batch_size, platolm.warmup_ratio) == (
        3,
        2e-5,
        128,
        0.03,
    )
    assert (paper.beta, paper.learning_rate, paper.epochs, paper.batch_size) == (0.1, 5e-5, 2.0, 4)
    assert (paper.warmup_ratio, paper.max_grad_norm, paper.loss) == (0.05, 0.3, "sigmoid")
