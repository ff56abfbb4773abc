"""Chat templates: what is refused of them, what it says to do, and that texts come out as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_ours import SHAPES, TEMPLATES, tokenizer

from maieutic import Conversation, render
from maieutic.chat_templates.encode import Encoder
from maieutic.chat_templates.rendering import IGNORED, add_end, prompt_ids, renderer, stop_ids
from maieutic.chat_templates.templates import ChatFrames, serving_template
from maieutic.core.errors import BadMask, MaieuticError, RenderError, UnstablePrefix
from maieutic.core.messages import Message, Role

LOOP = "{% for m in messages %}"
PLACES = {
    "dots": LOOP + "<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}",
    "trim": LOOP + "<s>{{ m['content'] | trim }}</s>{% endfor %}",
    "method": LOOP + "<s>{{ (m['content'].strip() + '</s>') }}{% endfor %}",
    "left only": LOOP + "<s>{{ m.content.lstrip() }}</s>{% endfor %}",
    "newlines only": LOOP + "<s>{{ m.content.strip('\n') }}</s>{% endfor %}",
    "generation": LOOP + "<s>{% generation %}{{ m.content }}</s>{% endgeneration %}{% endfor %}",
    "typed": LOOP
    + "<s>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text | upper }}"
    + "{% endfor %}{% endif %}</s>{% endfor %}",
    "optional": LOOP + "<s>{% if m.content %}{{ m.content }}{% endif %}{{ m.name or '' }}</s>{% endfor %}",
    "tools": "{% if tools %}{{ tools | tojson }}{% endif %}"
    + LOOP
    + "<s>{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}</s>{% endfor %}",
    "keys": LOOP + "{% if 'content' in m and m.get('content') is not none %}<s>{{ m.get('content') }}</s>{% endif %}{% endfor %}",
    "system apart": "{% if messages and messages[0].role == 'system' %}{% set sys = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}<s>{% if loop.first and sys is defined %}{{ sys ~ '|' }}"
    "{% endif %}{{ m.content }}</s>{% endfor %}",
    "namespace": "{% set ns = namespace(text='', n=0) %}" + LOOP + "{% set ns.text = m.content %}{% set ns.n = ns.n + 1 %}"
    "<s>{{ ns.n }}:{{ ns.text }}</s>{% endfor %}",
    "macro": "{% macro head(role) %}<s>{{ role }}: {% endmacro %}" + LOOP + "{{ head(m.role) }}{{ m.content }}</s>{% endfor %}",
    "date": "{{ strftime_now('%Y') }}" + LOOP + "<s>{{ m.content }}</s>{% endfor %}",
    "block": LOOP + "{% set said %}<s>{{ m.content }}{% endset %}{{ said }}</s>{% endfor %}",
}  # fmt: skip
LOOKS = [
    "<s>{% if 'x' in m.content %}!{% endif %}{{ m.content }}</s>",
    "<s>{% if m.content == 'x' %}!{% endif %}{{ m.content }}</s>",
    "<s>{% if m.content | length > 3 %}!{% endif %}{{ m.content }}</s>",
    "<s>{{ m.content | upper }}</s>",
    "<s>{{ m.content | replace('x', 'y') }}</s>",
    "<s>{{ m.content.split('x')[-1] }}</s>",
    "<s>{{ m.content[:3] }}</s>",
    "<s>{{ m.content | tojson }}</s>",
    "<s>{{ m.content.strip('x') }}</s>",
    "<s>{{ m | tojson }}</s>",
    "<s>{{ m }}</s>",
    "{% set t = 'a' ~ m.content %}{% if t[0] == 'a' %}{{ t }}</s>{% endif %}",
    "{% set t = m.content or '' %}{% if 'x' in t %}!{% endif %}{{ t }}</s>",
    "{% set ns = namespace(t='') %}{% set ns.t = m.content %}{% set other = ns %}{% if 'x' in other.t %}!{% endif %}{{ ns.t }}</s>",
    "{% if loop.previtem is defined and 'x' in loop.previtem.content %}!{% endif %}{{ m.content }}</s>",
    "{% if loop.changed(m.content) %}{{ m.content }}</s>{% endif %}",
    "{% if m == messages[0] %}!{% endif %}{{ m.content }}</s>",
    "{% if m in messages[1:] %}!{% endif %}{{ m.content }}</s>",
    "{% for c in m.content %}{{ c }}{% endfor %}</s>",
    "{% set l = [m.content] %}{{ l[0] | lower }}</s>",
    "{% set d = {'a': m.content} %}{{ d.a | lower }}</s>",
    "{% macro f() %}{{ messages[0].content }}{% endmacro %}{% if 'x' in f() %}!{% endif %}{{ m.content }}</s>",
    "{% macro f(t) %}{% if 'x' in t %}!{% endif %}{{ t }}{% endmacro %}{{ f(m.content) }}</s>",
    "{% set c = messages.copy() %}{% if 'x' in c[0].content %}!{% endif %}{{ m.content }}</s>",
    "{% filter upper %}{{ m.content }}{% endfilter %}</s>",
    "{% set t %}{{ m.content }}{% endset %}{% if t | length > 5 %}!{% endif %}{{ t }}</s>",
    "{{ '%s</s>' | format(m.content) }}",
    "{{ (m.content | safe) + '<b>' }}</s>",
    "{{ m.content * 2 }}</s>",
    "{% if messages | selectattr('content', 'equalto', 'x') | list %}!{% endif %}{{ m.content }}</s>",
    "{% if m.content < 'b' %}!{% endif %}{{ m.content }}</s>",
    "{% if m.content is lower %}!{% endif %}{{ m.content }}</s>",
    "{% with t = m.content %}{{ t | lower }}{% endwith %}</s>",
]


def chat(*texts: str, system: str | None = None, first: str = "user") -> Conversation:
    rows = [{"role": "system", "content": system}] if system is not None else []
    sides = ("user", "assistant") if first == "user" else ("assistant", "user")
    rows += [{"role": sides[index % 2], "content": text} for index, text in enumerate(texts)]
    return Conversation.model_validate({"messages": rows})


def frames(template: str) -> ChatFrames:
    tok = tokenizer()
    return ChatFrames(tok, Encoder(tok), template)


said = st.lists(
    st.lists(
        st.sampled_from(["x", " ", "\n", "\u2003", "\ue0000\ue001", "</s>", "{{ m }}", "<b>", "How would I", "\r", "\x85"]),
        max_size=5,
    ).map("".join),
    min_size=1,
    max_size=5,
)  # fmt: skip
SHAPED = [(TEMPLATES / f"{shape}.jinja").read_text() for shape in SHAPES]


def pieced(template: str, texts: list[str]) -> tuple[str, str]:
    """A conversation's pieces as one string, and what the template writes."""
    messages = chat(*texts).messages
    rows = [turn.model_dump(mode="json") for turn in messages]
    written = tokenizer().apply_chat_template(rows, chat_template=template, tokenize=False)
    return "".join(piece.text for piece in frames(template).pieces(messages)), written


@pytest.mark.parametrize("template", [*PLACES.values(), *SHAPED])
@settings(max_examples=10, deadline=None)
@given(texts=said)
def test_what_is_pieced_together_is_what_the_template_writes(template, texts):
    """The pieces of a conversation are its rendering (and the end of its last turn)."""
    pieces, written = pieced(template, texts)
    assert pieces.startswith(written)
    assert pieces[len(written) :] in ("", "<｜Assistant｜>")


@pytest.mark.parametrize("body", LOOKS)
@settings(max_examples=10, deadline=None)
@given(texts=said)
def test_a_template_that_looks_at_a_text_is_refused_or_written_as_it_is(body, texts):
    try:
        pieces, written = pieced(LOOP + body + "{% endfor %}", texts)
    except RenderError as error:
        assert error.hint
    else:
        assert pieces == written


def test_texts_that_a_template_trims_are_trimmed_as_it_does():
    for body, expected in (
        ("{{ m.content.lstrip() }}", "a \n "),
        ("{{ m.content.strip('\n') }}", " \n a \n "),
    ):
        held = frames(LOOP + "<s>" + body + "</s>{% endfor %}")
        messages = [Message(role=Role.USER, content=" \n a \n ")]
        assert held.texts(messages, held.layout([Role.USER])) == [expected]


def test_a_conversation_that_the_assistant_opens():
    for shape in ("chatml", "llama3", "phi3", "deepseek", "gemma"):
        tok = tokenizer("bytes", shape)
        rendered = render(chat("Hello, I am here.", "hi", "ok", first="assistant"), tok, "assistant")
        assert rendered.supervised > 0
    with pytest.raises(RenderError, match=r"the assistant opens.*roles must alternate") as caught:
        render(chat("Hello", "hi", first="assistant"), tokenizer("bytes", "llama2"), "user")
    assert "Drop its first turn" in caught.value.hint
    with pytest.raises(RenderError, match="roles must alternate") as caught:
        render(
            Conversation.model_validate({"messages": [{"role": "user", "content": "a"}] * 2}),
            tokenizer("bytes", "llama2"),
            "user",
        )
    assert "--template" in caught.value.hint


def test_a_template_that_only_swallows_the_system_turn_says_so(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text("{% for m in messages if m.role != 'system' %}<s>{{ m.content }}</s>{% endfor %}")
    assert render(chat("a", "b"), tokenizer(), "user", str(path)).supervised
    with pytest.raises(RenderError, match="swallows a system turn") as caught:
        render(chat("a", "b", system="Be kind."), tokenizer(), "user", str(path))
    assert "Drop the system turn" in caught.value.hint


@pytest.mark.parametrize(
    "template",
    [
        LOOP + "{% if loop.last %}LAST {% endif %}<s>{{ m.content }}</s>{% endfor %}",
        LOOP + "<s>{{ m.content }}</s>{% endfor %}{% if messages | length == 9 %}nine{% endif %}",
        LOOP
        + "{% if not loop.last and messages | length > 7 %}(old){% endif %}<s>{{ m.content }}</s>{% endfor %}",
        LOOP + "<s>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>You: {% endif %}",
    ],
)
def test_a_template_that_writes_turns_otherwise_later_is_refused(template, tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(template)
    longer = chat(*("x" for _ in range(10)))
    with pytest.raises(UnstablePrefix):
        render(longer, tokenizer(), "user", str(path))


def test_a_text_that_changes_the_frame_is_refused(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(LOOP + "{% if 'secret' in m.content %}(!){% endif %}<s>{{ m.content }}</s>{% endfor %}")
    assert render(chat("a", "b"), tokenizer(), "user", str(path)).supervised
    with pytest.raises(UnstablePrefix, match=r"opening depends|rewrites"):
        render(chat("a secret", "b"), tokenizer(), "user", str(path))


def test_thinking_in_the_frame_is_outside_the_loss(tmp_path):
    """A template that always writes an empty thought before an answer is stable: the thought opens the turn."""
    path = tmp_path / "t.jinja"
    path.write_text(
        LOOP + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
    )
    tok = tokenizer()
    rendered = render(chat("a", "b"), tok, "assistant", str(path))
    assert tok.decode([label for label in rendered.labels if label != IGNORED]) == "b<|im_end|>"
    prompt = prompt_ids(chat("a").messages, tok, "assistant", str(path))
    assert tok.decode(prompt).endswith("</think>\n\n")


def test_blank_texts_keep_their_place():
    for shape in ("chatml", "phi3", "llama3"):
        tok = tokenizer("bytes", shape)
        for texts in (["", "ok"], ["hello", ""], [" \n", "ok"], ["", ""]):
            conversation = chat(*texts)
            user = render(conversation, tok, "user")
            assert user.input_ids == render(conversation, tok, "assistant").input_ids
            assert user.supervised >= 1


PHI3 = (
    LOOP
    + "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""As Phi-3's own: the end of text stands after everything, unless an answer is asked for."""


def test_what_a_template_writes_after_everything_is_frame(tmp_path):
    tok = tokenizer.__wrapped__("bytes", "phi3")
    tok.chat_template = PHI3
    conversation = chat("a", "b", "c", system="Be kind.")
    rows = [turn.model_dump(mode="json") for turn in conversation.messages]
    rendered = render(conversation, tok, "user")
    assert rendered.input_ids == tok.apply_chat_template(rows, return_dict=False)
    assert rendered.input_ids[-1] == tok.eos_token_id
    assert tok.decode([label for label in rendered.labels if label != IGNORED]) == "a<|end|>c<|end|>"
    for index in (1, 3):
        prompt = prompt_ids(conversation.messages[:index], tok, "user")
        assert rendered.input_ids[: len(prompt)] == prompt
    ended = render(conversation.model_copy(update={"ended": True}), tok, "user").input_ids
    assert tok.eos_token_id not in ended
    assert ended[-1] == add_end(tok)
    served = serving_template(tok, "user")
    asked = tok.apply_chat_template(
        rows[:3], chat_template=served, add_generation_prompt=True, return_dict=False
    )
    assert asked == prompt_ids(conversation.messages[:3], tok, "user")
    assert tok.apply_chat_template(rows, chat_template=served, return_dict=False) == rendered.input_ids
    tok.chat_template = served
    assert render(conversation, tok, "user") == rendered


def test_an_end_token_outside_the_loss_is_refused(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|></s>\n{% endfor %}")
    with pytest.raises(BadMask, match="end token </s> would be outside the loss") as caught:
        render(chat("a", "b"), tokenizer(), "assistant", str(path))
    assert "--template" in caught.value.hint


def test_turns_that_end_by_what_follows_are_refused_where_that_is_another(tmp_path):
    tok = tokenizer("bytes", "deepseek")
    rows = [{"role": role, "content": "x"} for role in ("user", "user", "assistant")]
    with pytest.raises(UnstablePrefix, match="ends the user's turn") as caught:
        render(Conversation.model_validate({"messages": rows}), tok, "user")
    assert "maieutic clean" in caught.value.hint


def test_a_template_that_takes_no_system_turn_says_so():
    with pytest.raises(RenderError, match="takes no system turn: a system turn is not supported") as caught:
        render(chat("a", "b", system="Be kind."), tokenizer("bytes", "gemma"), "user")
    assert "--system" in caught.value.hint


def test_a_system_text_that_moves_with_the_last_turn_is_refused(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(
        LOOP + "{% if m.role != 'system' %}<s>{% if loop.last and messages[0].role == 'system' %}"
        "{{ messages[0].content }}{% endif %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    assert render(chat("a", "b"), tokenizer(), "user", str(path)).supervised
    with pytest.raises(UnstablePrefix, match="writes a turn"):
        render(chat("a", "b", system="Be kind."), tokenizer(), "user", str(path))


def test_template_files_that_cannot_be_read(tmp_path):
    def refuse(template: str, wrong: str) -> None:
        with pytest.raises(MaieuticError, match=wrong) as caught:
            render(chat("a", "b"), tokenizer(), "user", template)
        assert caught.value.hint
        assert "\n" not in caught.value.what

    (tmp_path / "latin.jinja").write_bytes("{{ 'é' }}".encode("latin-1"))
    (tmp_path / "open.jinja").write_text(LOOP + "{{ m.content")
    (tmp_path / "tag.jinja").write_text("{% nonsense %}")
    (tmp_path / "unsafe.jinja").write_text("{{ messages.__class__.__mro__ }}")
    refuse(str(tmp_path / "latin.jinja"), "not UTF-8")
    refuse(str(tmp_path), "a folder")
    refuse(str(tmp_path / "none.jinja"), "no such file")
    refuse("x" * 5000, "cannot be read")
    refuse(str(tmp_path / "open.jinja"), "^the chat template is not Jinja: line 1: unexpected end")
    refuse(str(tmp_path / "tag.jinja"), "^the chat template is not Jinja: line 1: .*unknown tag")
    refuse(str(tmp_path / "unsafe.jinja"), "unsafe")


def test_a_file_that_has_changed_is_read_anew(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(LOOP + "<s>{{ m.content }}</s>{% endfor %}")
    before = render(chat("a", "b"), tokenizer(), "user", str(path))
    path.write_text(LOOP + "<|im_start|>{{ m.content }}</s>{% endfor %}")
    assert render(chat("a", "b"), tokenizer(), "user", str(path)) != before


def test_what_a_template_writes_may_change_with_the_day():
    tok = tokenizer.__wrapped__()
    tok.chat_template = "{{ unk_token }}" + LOOP + "<s>{{ m.content }}</s>{% endfor %}"
    one = renderer(tok).render(chat("a", "b"), "user")
    tok.unk_token = "<|end|>"
    assert renderer(tok).render(chat("a", "b"), "user").input_ids[0] == tok.unk_token_id
    assert one.input_ids[1:] == renderer(tok).render(chat("a", "b"), "user").input_ids[1:]


def test_stop_ids_are_tokens_that_end_a_turn_and_no_text():
    llama2 = tokenizer("bytes", "llama2")  # its human turn ends in the text " [/INST]"
    assert stop_ids(llama2) == {llama2.eos_token_id}
    chatml = tokenizer()
    assert stop_ids(chatml) == {chatml.eos_token_id, chatml.convert_tokens_to_ids("<|im_end|>")}
