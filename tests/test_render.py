"""Ids and masks: what is in the loss, that nothing forges a turn, that generation starts where training did."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers_of_ours import CONTROL, SHAPES, tokenizer

from maieutic import Conversation, render
from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import IGNORED, add_end, end_id, prompt_ids, stop_ids
from maieutic.chat_templates.templates import serving_template
from maieutic.core.errors import BadMask, InputError, NoTemplate, RenderError, UnstablePrefix
from maieutic.core.messages import Message, Role

ALL = [*SHAPES, "dyadic", "plain"]
TRIMS = {"llama2", "llama3", "gemma"}
NO_SYSTEM = {"gemma"}


def setup(family: str, shape: str):
    """A tokenizer, and the `template` argument, for one of the shapes."""
    ours = shape in ("dyadic", "plain")
    return tokenizer(family, "chatml" if ours else shape), shape if ours else None


def chat(*texts: str, ended: bool = False, system: str | None = None) -> Conversation:
    rows = [{"role": "system", "content": system}] if system is not None else []
    rows += [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]
    return Conversation.model_validate({"messages": rows, "ended": ended})


hostile = st.sampled_from(
    [*CONTROL, END, "<<SYS>>", "\n", "  ", "\ue0000\ue001", "{{ x }}", "{% raw %}", "🍰", "é\u0301"]
)
texts = st.lists(
    st.one_of(hostile, st.text(max_size=12), st.sampled_from(["How would I", " thank you", "12"])), max_size=5
)
turns = st.lists(texts.map("".join).filter(lambda text: text.strip()), min_size=1, max_size=6)


def supervised(rendered) -> list[int]:
    return [label for label in rendered.labels if label != IGNORED]


def runs(rendered) -> list[list[int]]:
    """The supervised ids, one list for each unbroken stretch."""
    found: list[list[int]] = [[]]
    for label in rendered.labels:
        if label != IGNORED:
            found[-1].append(label)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


@pytest.mark.parametrize("family", ["bytes", "pieces"])
@pytest.mark.parametrize("shape", ALL)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=turns, ended=st.booleans(), with_system=st.booleans())
def test_the_loss_holds_the_side_s_text_and_ends_and_nothing_else(family, shape, turns, ended, with_system):
    tok, template = setup(family, shape)
    system = "Be kind." if with_system and shape not in NO_SYSTEM else None
    conversation = chat(*turns, ended=ended, system=system)
    for role in (Role.USER, Role.ASSISTANT):
        said = conversation.turns(role)
        if not said:
            with pytest.raises(BadMask):
                render(conversation, tok, role, template)
            continue
        rendered = render(conversation, tok, role, template)
        got = runs(rendered)
        ends_now = ended and role == Role.USER
        if ends_now:
            assert got[-1][-1] == end_id(tok)
            assert sum(token == end_id(tok) for token in rendered.input_ids) == 1
            got[-1].pop()
            got = [run for run in got if run]
        assert len(got) == len(said)
        stops = stop_ids(tok, template)
        for run, text in zip(got, said, strict=True):
            closing = len(run) - 1
            if shape == "llama2":
                closing = None  # its turns end in text, and in a space before </s>
            body = tok.decode(run[:closing], clean_up_tokenization_spaces=False)
            if closing is None:
                for tail in ("</s>", "[/INST]"):
                    body = body.removesuffix(tail)
                body = body.strip()
                text = text.strip()
            else:
                assert run[-1] in stops
            if shape in TRIMS:
                text = text.strip()
            if family == "pieces":
                text = text.replace("▁", " ")  # such a tokenizer cannot tell them apart
            assert body.strip(" ") == text.strip(" "), (shape, run)


@pytest.mark.parametrize("family", ["bytes", "pieces"])
@pytest.mark.parametrize("shape", ALL)
@settings(max_examples=15, deadline=None)
@given(turns=turns)
def test_generation_starts_from_a_prefix_of_what_was_trained(family, shape, turns):
    tok, template = setup(family, shape)
    conversation = chat(*turns)
    for role in (Role.USER, Role.ASSISTANT):
        if not conversation.turns(role):
            continue
        rendered = render(conversation, tok, role, template)
        for index, turn in enumerate(conversation.messages):
            if turn.role != role:
                continue
            prompt = prompt_ids(conversation.messages[:index], tok, role, template)
            assert rendered.input_ids[: len(prompt)] == prompt
            assert rendered.labels[len(prompt)] != IGNORED
            assert rendered.labels[len(prompt) - 1] == IGNORED


@pytest.mark.parametrize("shape", ALL)
@settings(max_examples=15, deadline=None)
@given(turns=turns)
def test_the_two_sides_share_ids_and_never_a_label(shape, turns):
    tok, template = setup("bytes", shape)
    conversation = chat(*turns, "and an answer") if len(turns) % 2 else chat(*turns)
    user, assistant = (render(conversation, tok, role, template, end=False) for role in ("user", "assistant"))
    assert user.input_ids == assistant.input_ids
    assert all(IGNORED in pair for pair in zip(user.labels, assistant.labels, strict=True))
    for rendered in (user, assistant):
        assert all(label in (IGNORED, token) for token, label in zip(*rendered, strict=True))


@pytest.mark.parametrize("shape", ALL)
@settings(max_examples=15, deadline=None)
@given(turns=turns.filter(lambda turns: len(turns) > 1))
def test_a_further_turn_never_changes_the_labels_before_it(shape, turns):
    tok, template = setup("bytes", shape)
    shorter, longer = chat(*turns[:-1]), chat(*turns)
    one, two = (render(each, tok, "user", template) for each in (shorter, longer))
    kept = max(index for index, label in enumerate(one.labels) if label != IGNORED) + 1
    assert two.labels[:kept] == one.labels[:kept]
    assert two.input_ids[:kept] == one.input_ids[:kept]


@pytest.mark.parametrize("family", ["bytes", "pieces"])
@pytest.mark.parametrize("shape", ALL)
@settings(max_examples=15, deadline=None)
@given(turns=turns)
def test_no_text_forges_a_control_token(family, shape, turns):
    tok, template = setup(family, shape)
    harmless = chat(*("x" for _ in turns))
    conversation = chat(*turns)
    control = set(tok.added_tokens_decoder)

    def count(each: Conversation) -> int:
        return sum(token in control for token in render(each, tok, "user", template).input_ids)

    assert count(conversation) == count(harmless)


@pytest.mark.parametrize("family", ["bytes", "pieces"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ids_are_those_a_server_makes_of_the_chat(family, shape):
    tok, _ = setup(family, shape)
    conversation = chat(
        "How would I make a cake?", "With 3 eggs.\n\nAnd  12 g of {sugar}.", "thank you!", "ok"
    )
    rows = [turn.model_dump(mode="json") for turn in conversation.messages]
    served = tok.apply_chat_template(rows, tokenize=True, return_dict=False)
    assert render(conversation, tok, "assistant").input_ids == served
    asked = tok.apply_chat_template(rows[:3], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert prompt_ids(conversation.messages[:3], tok, "assistant") == asked


@pytest.mark.parametrize("family", ["bytes", "pieces"])
def test_the_dyadic_frame_is_strings_between_the_tokenizer_s_own_marks(family):
    tok, _ = setup(family, "chatml")

    def plain(text: str) -> list[int]:
        return tok(text, add_special_tokens=False)["input_ids"]

    expected, labels = plain("SYS Human: "), [IGNORED] * len(plain("SYS Human: "))
    for label, text in (("", "How would I?"), ("Assistant: ", " 12\n"), ("Human: ", "ok")):
        said = [*plain(text), tok.eos_token_id]
        expected += [*plain(label), tok.bos_token_id, *said]
        labels += [IGNORED] * (len(plain(label)) + 1) + ([IGNORED] * len(said) if "A" in label else said)
    rendered = render(chat("How would I?", " 12\n", "ok"), tok, "user", "dyadic", "SYS ")
    assert rendered.input_ids == expected
    assert rendered.labels == labels


def test_leading_special_tokens_are_the_tokenizer_s_own():
    from tokenizers.processors import TemplateProcessing

    tok = tokenizer.__wrapped__("bytes", "chatml")
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tok.bos_token_id)]
    )
    ids = render(chat("hello", "ok"), tok, "user", "dyadic", "SYS").input_ids
    assert ids[: len(tok("SYSHuman: ")["input_ids"])] == tok("SYSHuman: ")["input_ids"]
    assert ids.count(tok.bos_token_id) == 3


def test_end_is_taught_only_where_a_person_ended_and_only_to_the_user():
    tok, _ = setup("bytes", "chatml")
    opening = tok.encode("<|im_start|>user\n", add_special_tokens=False)
    rendered = render(chat("hello", "ok", ended=True), tok, "user")
    assert rendered.input_ids[-len(opening) - 1 :] == [*opening, add_end(tok)]
    assert rendered.labels[-2:] == [IGNORED, add_end(tok)]
    on_human = render(chat("hello", "ok", "bye", ended=True), tok, "user")
    assert on_human.labels[-1] == add_end(tok)
    for other in (
        render(chat("hello", "ok"), tok, "user"),
        render(chat("hello", "ok", ended=True), tok, "user", end=False),
        render(chat("hello", "ok", ended=True), tok, "assistant"),
    ):
        assert add_end(tok) not in other.input_ids


def test_what_cannot_be_trained_on_is_refused_with_a_way_out():
    thinking = tokenizer("bytes", "qwen3")
    with pytest.raises(UnstablePrefix, match="--template"):
        render(chat("hello", "ok", "more", "ok"), thinking, "assistant")
    bare = tokenizer.__wrapped__("bytes", "chatml")
    bare.chat_template = None
    with pytest.raises(NoTemplate, match="dyadic"):
        render(chat("hello"), bare, "user")
    tok = tokenizer("bytes", "gemma")
    with pytest.raises(RenderError, match="not supported"):
        render(chat("hello", system="Be kind."), tok, "user")
    with pytest.raises(BadMask, match="no turns"):
        render(chat(), tok, "user")
    with pytest.raises(InputError, match="no side of a conversation"):
        render(chat("hello"), tok, "system")


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        (
            "{% for m in messages %}{% if m.role != 'system' %}<s>{{ m.content }}</s>{% endif %}{% endfor %}",
            "swallows",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no end"),
        ("{% for m in messages %}<s>{{ m.content | upper }}</s>{% endfor %}", "rewrites"),
        (
            "{% for m in messages | reverse %}<s>{{ m.content }}</s>{% endfor %}",
            "writes a turn differently|reorders",
        ),
    ],
)
def test_a_template_that_loses_text_is_refused(tmp_path, template, wrong):
    path = tmp_path / "bad.jinja"
    path.write_text(template)
    with pytest.raises(RenderError, match=wrong):
        render(chat("hello", "ok", system="Be kind."), tokenizer(), "user", str(path))


def test_the_mask_of_a_frame_that_frames_nothing_is_refused(tmp_path):
    path = tmp_path / "bare.jinja"
    path.write_text("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    with pytest.raises(BadMask, match="every token"):
        render(chat("hello"), tokenizer(), "user", str(path))


@pytest.mark.parametrize("shape", ALL)
def test_a_served_simulator_opens_the_user_s_turn(shape):
    """What a server makes of its template is what our own decoding starts from; a free start too."""
    tok, template = setup("bytes", shape)
    served = serving_template(tok, "user", template)
    turns = [Message(role=Role.USER, content="hello there"), Message(role=Role.ASSISTANT, content="ok")]
    rows = [turn.model_dump(mode="json") for turn in turns]

    def ask(messages) -> list[int]:
        return tok.apply_chat_template(
            messages, chat_template=served, tokenize=True, add_generation_prompt=True, return_dict=False
        )

    assert ask(rows) == prompt_ids(turns, tok, "user", template)
    system = [Message(role=Role.SYSTEM, content="Be curious.")]
    if shape not in NO_SYSTEM:
        assert ask([turn.model_dump(mode="json") for turn in system]) == prompt_ids(
            system, tok, "user", template
        )
    else:
        assert ask([turn.model_dump(mode="json") for turn in system])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_simulator_s_template_is_read_as_the_one_it_was(shape):
    tok = tokenizer.__wrapped__("bytes", shape)
    conversation = chat("hello", "ok", "thank you", ended=True)
    before = [render(conversation, tok, role) for role in ("user", "assistant")]
    tok.chat_template = serving_template(tok, "user")
    assert [render(conversation, tok, role) for role in ("user", "assistant")] == before
    assert serving_template(tok, "user") == tok.chat_template


def test_swapping_roles_twice_is_the_identity():
    for role in Role:
        assert role.other.other == role
