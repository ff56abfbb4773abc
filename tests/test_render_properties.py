"""Any conversation, any shape of template, any kind of tokenizer: what is in the loss, and what can never be."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers_of_kinds import KINDS, of_kind
from tokenizers_of_ours import SHAPES

from maieutic import Conversation
from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import IGNORED, Renderer, add_end, prompt_ids, render
from maieutic.core.errors import BadMask, RenderError
from maieutic.core.messages import Role

FRAMES = (*SHAPES, "dyadic", "plain")
EXACT = {
    "gpt2": None,
    "llama3": None,
    "qwen": "NFC",
    "nfkc": "NFKC",
    "folded": "NFKC",
    "think": None,
    "spaces": None,
}
"""Kinds whose ids decode to the text itself, in this normal form."""
TRIMMED = {"llama2", "llama3", "gemma"}
CLOSINGS = {
    "chatml": ("<|im_end|>",) * 2,
    "llama2": (" [/INST]", " </s>"),
    "llama3": ("<|eot_id|>",) * 2,
    "mistral": ("[/INST]", "</s>"),
    "gemma": ("<end_of_turn>",) * 2,
    "phi3": ("<|end|>",) * 2,
    "deepseek": ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "dyadic": ("</s>",) * 2,
    "plain": ("</s>",) * 2,
}
"""How a user's and an assistant's turn end."""
SURE = [kind for kind in KINDS if kind != "single word"]
"""Kinds in which a control token is one wherever it stands; in others, texts that spell one are refused."""

FORGERIES = [
    "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n", "</s>", "<s>", "[INST]", "[/INST]", "<<SYS>>", "<|eot_id|>", "<|end|>",
    "<|start_header_id|>user<|end_header_id|>", "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>", "Human: ", "\nAssistant:",
    "＜|im_end|＞", "＜/s＞", "<|im_", "end|>", END, "{{ m }}", "{% endfor %}", "\ue0000\ue001",
]  # fmt: skip
ODD = [
    " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u2003", "\u200b", "\u200d", "e\u0301", "\u0301", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "ﬁ", "½",
    "中文", "مرحبا", "▁", "\x00", "\x85",
]  # fmt: skip
WORDS = ["How would I", " make a cake?", "12 + 3", " thank you", "don't", "ok", "word " * 60]
text = st.lists(st.sampled_from([*FORGERIES, *ODD, *WORDS]) | st.text(max_size=6), max_size=5).map("".join)
turn = st.tuples(st.sampled_from(["user", "assistant"]), text)
rules = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def talks(draw: st.DrawFn) -> Conversation:
    """Mostly two who take turns; also who speaks twice, an assistant who opens, a system text, an end."""
    rows = draw(st.lists(turn, min_size=1, max_size=5))
    if draw(st.integers(0, 2)):
        rows = [(("user", "assistant")[index % 2], said) for index, (_, said) in enumerate(rows)]
    system = [("system", draw(text))] if draw(st.booleans()) else []
    messages = [{"role": role, "content": said} for role, said in system + rows]
    return Conversation.model_validate({"messages": messages, "ended": draw(st.booleans())})


def opened(kind: str, frame: str):
    """A tokenizer of a kind, and the `template` that means the frame."""
    assume(
        (kind, frame) != ("rstrip", "llama2")
    )  # such a token takes the space that a text begins with there
    ours = frame in ("dyadic", "plain")
    return of_kind(kind, "phi3" if ours else frame), frame if ours else None


def refused(frame: str, roles: list[str]) -> bool:
    """Whether a frame has no way of writing this order of roles."""
    turns = [role for role in roles if role != "system"]
    twice = [one for one, two in pairwise(turns) if one == two]
    system = roles[0] == "system"
    return {
        "llama2": bool(twice) or turns[0] == "assistant",
        "mistral": system and turns[0] == "assistant",
        "gemma": system,
        "deepseek": "user" in twice,
    }.get(frame, False)


def in_loss(rendered) -> list[int]:
    return [label for label in rendered.labels if label != IGNORED]


def swapped(conversation: Conversation) -> Conversation:
    turns = tuple(one.model_copy(update={"role": one.role.other}) for one in conversation.messages)
    return conversation.model_copy(update={"messages": turns})


@pytest.mark.parametrize("frame", FRAMES)
@rules
@given(conversation=talks(), kind=st.sampled_from(SURE))
def test_masks(frame, conversation, kind):
    tok, template = opened(kind, frame)
    roles = [one.role.value for one in conversation.messages]
    if refused(frame, roles):
        with pytest.raises(RenderError) as caught:
            render(conversation, tok, roles[-1], template)
        assert caught.value.hint
        return
    sides = {
        side: render(conversation, tok, side, template, end=False) for side in sorted({*roles} - {"system"})
    }
    forbidden = {tok.convert_tokens_to_ids(name) for name in tok.get_added_vocab()} - {tok.unk_token_id}
    forbidden -= {tok.convert_tokens_to_ids(name) for name in ("<think>", "</think>", "<tool_call>")}
    if kind == "spaces":
        forbidden -= {index for name, index in tok.get_added_vocab().items() if name.isspace()}
    harmless = conversation.model_copy(
        update={"messages": tuple(one.model_copy(update={"content": "x"}) for one in conversation.messages)}
    )
    plain = render(harmless, tok, roles[-1], template, end=False)
    if kind == "frame not special":  # then another frame's tokens are none
        forbidden &= set(plain.input_ids)
    for rendered in sides.values():
        assert rendered.input_ids == sides[roles[-1]].input_ids
        assert all(label in (IGNORED, index) for index, label in zip(*rendered, strict=True))
        found = [index for index in rendered.input_ids if index in forbidden]
        assert found == [index for index in plain.input_ids if index in forbidden]
    if len(sides) == 2:
        assert all(
            IGNORED in pair for pair in zip(sides["user"].labels, sides["assistant"].labels, strict=True)
        )
    for index, one in enumerate(conversation.messages):
        if one.role == Role.SYSTEM:
            continue
        prompt = prompt_ids(conversation.messages[:index], tok, one.role, template)
        labels = sides[one.role.value].labels
        assert sides[one.role.value].input_ids[: len(prompt)] == prompt
        assert labels[len(prompt)] != IGNORED
        start = conversation.model_copy(update={"messages": conversation.messages[: index + 1]})
        shorter = render(start, tok, one.role, template, end=False)
        taught = max(place for place, label in enumerate(shorter.labels) if label != IGNORED) + 1
        assert labels[:taught] == shorter.labels[:taught]


@pytest.mark.parametrize("frame", FRAMES)
@rules
@given(conversation=talks(), kind=st.sampled_from(sorted(EXACT)))
def test_what_is_in_the_loss_decodes_to_the_role_s_text_its_ends_and_end(frame, conversation, kind):
    tok, template = opened(kind, frame)
    roles = [one.role.value for one in conversation.messages]
    if refused(frame, roles):
        return
    for side, closing in zip((Role.USER, Role.ASSISTANT), CLOSINGS[frame], strict=True):
        ends = conversation.ended and side == Role.USER
        if not conversation.turns(side) and not ends:
            with pytest.raises(BadMask):
                render(conversation, tok, side, template)
            continue
        if ends and refused(frame, [*roles, "user"] if roles[-1] == "assistant" else roles):
            continue
        got = in_loss(render(conversation, tok, side, template))
        if ends:
            assert got.pop() == add_end(tok)
        before = " " if frame in ("plain", "llama2") else ""
        said = [one.strip() if frame in TRIMMED else one for one in conversation.turns(side)]
        if form := EXACT[kind]:
            said = [unicodedata.normalize(form, one) for one in said]
        if kind == "folded":
            closing = unicodedata.normalize("NFKC", closing)
        expected = "".join(f"{before}{one}{closing}" for one in said)
        if frame == "llama2" and roles[0] == "system" and side == Role.USER:
            expected = expected.removeprefix(" ")  # the system text stands between
        assert tok.decode(got) == expected


@rules
@given(conversation=talks(), kind=st.sampled_from(SURE), frame=st.sampled_from(["chatml", "llama3", "phi3"]))
def test_swapped_roles_are_the_other_side_s_and_twice_nothing(conversation, kind, frame):
    tok, template = opened(kind, frame)
    assert swapped(swapped(conversation)) == conversation
    for side in {one.role for one in conversation.messages} - {Role.SYSTEM}:
        mine = render(conversation, tok, side, template, end=False)
        assert in_loss(render(swapped(conversation), tok, side.other, template, end=False)) == in_loss(mine)


@pytest.mark.parametrize("frame", FRAMES)
@settings(rules, max_examples=8)
@given(
    several=st.lists(talks(), min_size=1, max_size=4),
    kind=st.sampled_from(SURE),
    role=st.sampled_from(["user", "assistant"]),
)
def test_many_at_once_and_the_faster_encoder_give_the_same(frame, several, kind, role):
    tok, template = opened(kind, frame)
    several = [
        one
        for one in several
        if one.turns(Role(role)) and not refused(frame, [*(turn.role.value for turn in one.messages), "user"])
    ]
    alone = [render(one, tok, role, template) for one in several]
    assert _view(kind, frame, True).render_many(several, role) == alone
    assert _view(kind, frame, False).render_many(several, role) == alone


_views: dict[tuple[str, str, bool], Renderer] = {}


def _view(kind: str, frame: str, faster: bool) -> Renderer:
    key = (kind, frame, faster)
    if key not in _views:
        tok, template = opened(kind, frame)
        _views[key] = Renderer(tok, template, None, faster=faster)
        if faster and kind in EXACT:
            _views[key].batches.build()
    return _views[key]


@pytest.mark.parametrize("frame", SHAPES)
@settings(rules, max_examples=15)
@given(
    said=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(lambda words: " ".join(words).strip()),
        min_size=1,
        max_size=5,
    ),
    kind=st.sampled_from([kind for kind in KINDS if kind != "prefix space"]),
)
def test_harmless_ids_are_those_a_server_makes(frame, said, kind):
    tok, _ = opened(kind, frame)
    if frame == "deepseek" and len(said) % 2:
        said = [*said, "ok"]  # its human turns end with what follows them
    rows = [{"role": ("user", "assistant")[index % 2], "content": one} for index, one in enumerate(said)]
    served = tok.apply_chat_template(rows, tokenize=True, return_dict=False)
    conversation = Conversation.model_validate({"messages": rows})
    assert render(conversation, tok, "user").input_ids == served
    asked = [*rows, {"role": "user", "content": "ok"}] if len(rows) % 2 == 0 else rows
    prompt = tok.apply_chat_template(asked, tokenize=True, add_generation_prompt=True, return_dict=False)
    asked_of = Conversation.model_validate({"messages": asked}).messages
    assert prompt_ids(asked_of, tok, "assistant") == prompt


def test_text_that_spells_a_token_is_refused_where_the_tokenizer_cannot_keep_it_from_being_one():
    tok = of_kind("single word")
    for said in ("a <|im_end|> b", "a</s>"):
        with pytest.raises(RenderError, match="spells a control token") as caught:
            render(
                Conversation.model_validate({"messages": [{"role": "user", "content": said}]}), tok, "user"
            )
        assert "text" in caught.value.hint
