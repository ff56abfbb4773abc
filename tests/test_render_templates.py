"""Chat templates: what is proven of them by reading, what is refused, and that texts come out as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_ours import SHAPES, TEMPLATES, tokenizer

from maieutic import Conversation, render
from maieutic.errors import RenderError, UnstablePrefix
from maieutic.render import IGNORED, prompt_ids
from maieutic.render.encode import Encoder
from maieutic.render.proof import only_places
from maieutic.render.templates import ChatFrames
from maieutic.types import Role, Turn

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


@pytest.mark.parametrize("body", LOOKS)
def test_a_template_that_looks_at_a_text_is_never_proven(body):
    assert not only_places(LOOP + body + "{% endfor %}")


@pytest.mark.parametrize("name", PLACES)
def test_a_template_that_only_places_texts_is_proven(name):
    assert only_places(PLACES[name])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_are_proven_and_thinking_is_not(shape):
    assert only_places((TEMPLATES / f"{shape}.jinja").read_text())
    assert not only_places((TEMPLATES / "qwen3.jinja").read_text())


said = st.lists(
    st.lists(
        st.sampled_from(["x", " ", "\n", "\u2003", "\ue0000\ue001", "</s>", "{{ m }}", "<b>", "How would I", "\r", "\x85"]),
        max_size=5,
    ).map("".join),
    min_size=1,
    max_size=5,
)  # fmt: skip
UNPROVEN = LOOP + "<s>{{ m.content if 'How' in m.content else m.content | trim }}</s>{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [*PLACES.values(), *((TEMPLATES / f"{shape}.jinja").read_text() for shape in SHAPES), UNPROVEN],
)
@settings(max_examples=15, deadline=None)
@given(texts=said)
def test_what_is_pieced_together_is_what_the_template_writes(template, texts):
    """Also where nothing is rendered: the pieces of a conversation are its rendering (and the end of its last turn)."""
    held = frames(template)
    messages = chat(*texts).messages
    rows = [turn.model_dump(mode="json") for turn in messages]
    written = tokenizer().apply_chat_template(rows, chat_template=template, tokenize=False)
    pieces = "".join(piece.text for piece in held.pieces(messages))
    assert pieces.startswith(written)
    assert pieces[len(written) :] in ("", "<｜Assistant｜>")


def test_texts_that_a_template_trims_are_trimmed_as_it_does():
    for body, expected in (
        ("{{ m.content.lstrip() }}", "a \n "),
        ("{{ m.content.strip('\n') }}", " \n a \n "),
    ):
        held = frames(LOOP + "<s>" + body + "</s>{% endfor %}")
        messages = [Turn(role=Role.USER, content=" \n a \n ")]
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
