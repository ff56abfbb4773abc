"""Each filter on labelled cases, the hard ones among them; all together nothing is lost and nothing is done twice."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from conversations import conversations, talk
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.core.errors import InputError, MissingExtra, MissingInput
from maieutic.core.messages import Conversation, Role
from maieutic.data import language as language_room
from maieutic.data import near_duplicates, repair
from maieutic.data.clean import CleanReport, clean
from maieutic.data.filters import CleanOptions, Filter, Reason, Rejected, branding, mention, phrases, refusal
from maieutic.data.language import asks_to_translate, language, other_language
from maieutic.data.lengths import FRAME, cut, estimate, token_counter
from maieutic.data.repair import Repair, is_html, to_markdown

PAGE = (
    '<div class="markdown prose"><p>Use <code>x_1</code> &amp; <strong>a * b</strong>:</p><pre><div><div><span>python'
    '</span><button><svg><path d="M"></path></svg>Copy code</button></div><code class="hljs language-python">'
    '<span class="k">def</span> f(a):\n    return a &lt; 1\n\n\nf(2)</code></div></pre><p>So <span class="katex">'
    '<span class="katex-mathml"><math><semantics><mi>x</mi><annotation encoding="application/x-tex">x_1^2 &lt; 3'
    '</annotation></semantics></math></span><span class="katex-html">x2</span></span>.</p></div>'
)
MARKDOWN = (
    "Use `x_1` & **a * b**:\n\n```python\ndef f(a):\n    return a < 1\n\n\nf(2)\n```\n\nSo $x_1^2 < 3$."
)


def test_a_page_becomes_markdown() -> None:
    assert to_markdown(PAGE) == MARKDOWN
    assert (
        to_markdown("<h2>T</h2>\n<ul><li>one</li><li>two</li></ul><ol><li>x</li></ol>")
        == "## T\n\n- one\n- two\n\n1. x"
    )
    assert to_markdown("<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>") == (
        "| A | B |\n| --- | --- |\n| 1 | 2 |"
    )
    assert to_markdown("<p>&lt;p&gt;code&lt;/p&gt;</p>") == "```html\n<p>code</p>\n```"


def test_a_page_nested_too_deep_stays() -> None:
    text = "<div>" * 5000 + "x" + "</div>" * 5000
    assert to_markdown(text) in (text, "x")


@pytest.mark.parametrize(
    "text",
    [
        "How do I centre a <div>?",
        "<div> is what I mean",
        "<p>Hi</p> what does this do?",
        "```html\n<p>Hi</p>\n```",
        "<!DOCTYPE html><html><body><p>Hi</p></body></html>",
        '<form action="/"><p>x</p></form>',
        "<div><script>go()</script></div>",
        "List<String> a = new ArrayList<>();",
        "a < b and c > d",
        "<bug_code>\nx\n</bug_code>",
        "<p>unclosed",
        "",
    ],
)
def test_text_about_html_stays(text: str) -> None:
    assert not is_html(text) and to_markdown(text) == text


TAGS = st.sampled_from(
    [
        "<p>",
        "</p>",
        "<div>",
        "</div>",
        "<pre>",
        "</pre>",
        "<code>",
        "</code>",
        "<br>",
        "&lt;p&gt;",
        "&lt;/p&gt;",
        "a",
        "*b*",
        "_c_",
        "```",
        "\n",
        " ",
        "<b>",
        "</b>",
        "&amp;",
        "<",
        "1. ",
        "- ",
        "# ",
        "<span class='katex'>",
    ]
)


@given(
    st.lists(TAGS, max_size=12).map("".join)
    | st.lists(TAGS, max_size=8).map(lambda p: f"<p>{''.join(p)}</p>")
)
@settings(deadline=None)
def test_markdown_is_not_converted_again(text: str) -> None:
    once = to_markdown(text)
    assert to_markdown(once) == once and not is_html(once)


@pytest.mark.parametrize(
    ("find", "said", "phrase"),
    [
        (refusal, "I'm sorry, but I can't write that.", "i'm sorry, but i can't"),
        (refusal, "I’m  sorry, but\nI cannot.", "i'm sorry, but i cannot"),
        (refusal, "Well. I cannot help you with that request.", "i cannot help you with that"),
        (refusal, "I cannot help but notice how well you did.", None),
        (refusal, "I'm sorry you lost! Let us look at line 3.", None),
        (refusal, "Of course. " * 40 + "A clerk may say: I cannot help with that.", None),
        (branding, "As an AI language model, I have no feelings.", "as an ai language model"),
        (branding, "I was trained by OpenAI.", "trained by openai"),
        (branding, "I'm Claude, an AI.", "i'm claude, an ai"),
        (branding, "I am Claude, the painter's son. BERT serves as an AI model in search.", None),
        (branding, "A language model assigns probabilities to words.", None),
        (mention, "ask ChatGPT about it", "chatgpt"),
        (mention, "import openai", "openai"),
        (mention, "Chat  GPT's answer", "chat gpt"),
        (mention, "Truly open AI, the openair festival, a GPT partition and the GPT-4 paper.", None),
    ],
)
def test_phrases(find: object, said: str, phrase: str | None) -> None:
    assert find(talk("Tell me.", said)) == phrase  # type: ignore[operator]
    if find is not mention:
        assert find(talk(said, "Fine.")) is None, "what users say is not the assistant's"  # type: ignore[operator]


@pytest.mark.parametrize("name", ["mentions", "branding", "refusals"])
def test_every_phrase_is_found_and_there_once(name: str) -> None:
    find = {"mentions": mention, "branding": branding, "refusals": refusal}[name]
    listed = phrases(name)
    assert len({phrase.lower() for phrase in listed}) == len(listed)
    for phrase in listed:
        assert find(talk("Q", f"Well, {phrase.upper()}…")), phrase
        assert not find(talk("Q", f"Well,x{phrase}x")), phrase


@pytest.mark.parametrize(
    ("turns", "code"),
    [
        (("Bonjour, pouvez-vous m'aider avec mes devoirs ?", "Bien sûr, avec plaisir."), "fr"),
        (("Wie geht es dir heute?", "Gut, danke der Nachfrage!"), "de"),
        (("请帮我写一首关于秋天的诗", "好的。"), "zh"),
        (("Hola, necesito ayuda con mi tarea", "¿Qué tarea es?"), "es"),
        (("hi", "Hola, ¿en qué puedo ayudarte hoy con tu tarea de historia?"), "es"),
        (("hi", "Hello! How can I help?"), None),
        (("ok", "ok"), None),
        (("x = [1, 2, 3]\nfor i in x: print(i)", "1 2 3"), None),
        ((r"$\int_0^1 \frac{a}{b} dx$", r"\[ \sqrt{c} \]"), None),
        (("2,3,5,7,11,13", "17"), None),
        (("What Kampuchea was?", "Kampuchea (Khmer: កម្ពុជាប្រជាធិបតេយ្យ) was a state in Asia."), None),
        (
            ("Please write a short fan letter in Spanish.", "¡Hola Gyan! Quiero decirte cuánto te admiro."),
            None,
        ),
        (("Explain `Schleife über alle Elemente` in my code", "It loops over all elements."), None),
    ],
)
def test_language(turns: tuple[str, ...], code: str | None) -> None:
    assert other_language(talk(*turns), ("en",)) == code
    if code:
        assert other_language(talk(*turns), ("en", code)) is None and language(talk(*turns)) == code


@pytest.mark.parametrize(
    ("said", "asks"),
    [
        ("Translate this: Guten Morgen, wie geht es Ihnen?", True),
        ("Übersetze das bitte ins Englische", True),
        ("traduce esto al inglés, por favor", True),
        ("把这句话翻译成英文", True),
        ("How do you say 'good morning' in German?", True),
        ("What is 'Fernweh' in English?", True),
        ("Put this into French please", True),
        ("Как будет по-английски «яблоко»?", True),
        ("Wie sagt man „hello“ auf Deutsch?", True),
        ("Bonjour, pouvez-vous m'aider ?", False),
        ("I live in Germany", False),
    ],
)
def test_translation_tasks(said: str, asks: bool) -> None:
    assert asks_to_translate(talk(said, "…")) is asks


def test_translation_tasks_are_kept_and_counted() -> None:
    corpus = [
        talk("Traduce al inglés: el perro duerme en la casa de mi abuela", "The dog sleeps."),
        talk("El perro duerme en la casa de mi abuela todos los días", "¡Qué bonito! ¿Y el gato?"),
    ]
    report = CleanReport()
    assert list(clean(corpus, CleanOptions(filters=(Filter.LANGUAGE,)), report)) == corpus[:1]
    assert report.repaired == {Repair.TRANSLATION: 1} and report.rejected == {Reason.LANGUAGE: 1}
    with pytest.raises(InputError, match="'xx'"):
        clean(corpus, CleanOptions(filters=(Filter.LANGUAGE,), languages=("xx",)))


@pytest.mark.parametrize(
    ("name", "library"),
    [(Filter.HTML, "markdownify"), (Filter.LANGUAGE, "py3langid.langid"), (Filter.NEAR, "rensa")],
)
def test_a_missing_library_is_named(name: Filter, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for cached in (repair._library, language_room._identifier):
        cached.cache_clear()
    with pytest.raises(MissingExtra, match=r"markdownify|py3langid|rensa") as caught:
        list(clean([talk("<p>a</p>", "b")], CleanOptions(filters=(name,))))
    assert "maieutic[data]" in str(caught.value)


ROUNDS = st.lists(st.integers(0, 12), min_size=1, max_size=12)


@given(ROUNDS, st.integers(1, 40), st.booleans(), st.sampled_from(["user", "assistant"]))
def test_parts_fit_begin_with_the_person_and_lose_no_turn(
    sizes: list[int], most: int, has_system: bool, first: str
) -> None:
    whole = talk(*("w " * size for size in sizes), first=first, id="c", ended=True)
    if has_system:
        system = Conversation.model_validate({"messages": [{"role": "system", "content": "s"}]}).messages
        whole = whole.model_copy(update={"messages": (*system, *whole.messages)})
    fitting, too_long = cut(whole, most, estimate)
    parts = sorted((*fitting, *too_long), key=lambda part: part.meta.get("part", 0))
    spoken = [turn for part in parts for turn in part.messages if turn.role != Role.SYSTEM]
    assert spoken == [turn for turn in whole.messages if turn.role != Role.SYSTEM]
    for part in fitting:
        assert sum(estimate([turn.content for turn in part.messages])) + FRAME * len(part.messages) <= most
        assert cut(part, most, estimate) == ((part,), ())
    if len(parts) == 1:
        assert parts == [whole]
        return
    for place, part in enumerate(parts):
        roles = [turn.role for turn in part.messages]
        assert roles[0] == Role.SYSTEM or not has_system
        assert not part.ended and part.meta == {"part_of": "c", "part": place + 1, "parts": len(parts)}
        assert next(role for role in roles if role != Role.SYSTEM) == (first if place == 0 else Role.USER)
        assert part.id == f"c#{place + 1}"


def test_cuts_lie_at_rounds_and_a_long_round_stands_alone() -> None:
    whole = talk("a", "b", "x " * 50, "y", "c", "d", "e", "f", id="c", meta={"turns": {"4": {"n": 1}}})
    fitting, too_long = cut(whole, 24, estimate)
    assert [[turn.content for turn in part.messages] for part in fitting] == [
        ["a", "b"],
        ["c", "d", "e", "f"],
    ]
    assert [part.id for part in too_long] == ["c#2"] and fitting[1].meta["turns"] == {"0": {"n": 1}}
    seed = talk("x " * 50, "y", "z", meta={"prompt": "…"})
    assert cut(seed, 20, estimate) == ((), (seed,))


def test_tokens_are_counted_by_a_tokenizer_or_estimated(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        assert token_counter(place)(["a b, c", "", "a"]) == [4, 0, 1]
    assert token_counter()(["one two three", "", "東京東京"]) == [4, 0, 3]
    (tmp_path / "broken.json").write_text("{")
    for wrong in (tmp_path / "broken.json", tmp_path / "none", "./none"):
        with pytest.raises(MissingInput):
            token_counter(wrong)


def test_a_template_in_more_than_a_hundred_first_turns_is_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "As a prompt generator for pictures write one of {}"
    flood = [talk(template.format(f"thing{n}"), f"answer {n}", id=f"f{n}") for n in range(101)]
    copies = [
        talk("The very same question that everyone at school asked", "Yes.", id=f"s{n}") for n in range(150)
    ]
    others = [
        *(talk(f"Hello number {n}", "hi", id=f"h{n}") for n in range(150)),
        talk("Please look at this first", "Ok.", template.format("later"), "no", id="later"),
    ]
    options = CleanOptions(filters=(Filter.FLOODS,))
    for at_once in (1 << 22, 64):  # as it is, and spilled to disk in many shares
        monkeypatch.setattr(near_duplicates, "_AT_ONCE", at_once)
        rejected: list[Rejected] = []
        kept = list(clean([*flood, *copies, *others], options, None, rejected.append))
        assert [found.conversation.id for found in rejected if found.reason == Reason.FLOOD] == [
            f"f{n}" for n in range(101)
        ]
        assert rejected[0].detail == "as a prompt generator for pictures write"
        assert [conversation.id for conversation in kept] == ["s0", *(c.id for c in others)]
        assert len(list(clean([*flood[1:], *others], options))) == 100 + len(others)
    with pytest.raises(InputError, match="floods"):
        clean(iter(flood), options)


def test_near_duplicates_name_what_they_are_near_to() -> None:
    def words(seed: int) -> str:
        return " ".join(f"w{(n * seed) % 997}" for n in range(120))

    corpus = [
        talk(words(3), words(5), id="first"),
        talk(words(3), words(5) + " and so on", id="again"),
        talk(words(3), words(7), id="half"),
        talk(words(3), words(5) + " you know", id="other problem", problem="p"),
        talk("Hi there!", "ho", id="short"),
        talk("hi there", "HO", id="shorter"),
    ]
    rejected: list[Rejected] = []
    kept = list(clean(corpus, CleanOptions(filters=(Filter.NEAR,)), None, rejected.append))
    assert [(found.conversation.id, found.reason, found.detail) for found in rejected] == [
        ("again", Reason.NEAR, "first"),
        ("shorter", Reason.NEAR, "short"),
    ]
    assert [conversation.id for conversation in kept] == ["first", "half", "other problem", "short"]


def test_parts_of_one_conversation_are_no_copies_of_each_other() -> None:
    text = " ".join(f"word{n}" for n in range(150))
    whole = talk("Mend it", text, "And again", f"{text} too", "Once more", f"{text} three", id="a")
    copy = talk("Mend it", text, "And again please", f"{text} too", "Once more", f"{text} three", id="b")
    options = CleanOptions(filters=(Filter.NEAR, Filter.LENGTH), max_tokens=400)
    kept = list(clean([whole, copy], options))
    assert [conversation.id for conversation in kept] == ["a#1", "a#2", "a#3"]


SAID = st.lists(
    st.sampled_from(
        [
            "<p>",
            "</p>",
            "jo@mit.edu ",
            "call me 0171 1234567 ",
            "hello there ",
            "Wie geht es dir heute? ",
            "ChatGPT ",
            "I'm sorry, but I cannot ",
            "translate this ",
            "one two three four five six seven ",
            "\n",
            "a",
            " ",
        ]
    ),
    max_size=6,
).map("".join)
ANY = st.builds(
    CleanOptions,
    filters=st.lists(st.sampled_from(list(Filter))).map(tuple),
    keep_opening=st.booleans(),
    min_turns=st.integers(1, 4),
    keep_duplicates=st.booleans(),
    max_tokens=st.integers(5, 60),
    languages=st.sampled_from([("en",), ("de", "en")]),
)


@given(st.lists(conversations(SAID), max_size=6), ANY)
@settings(deadline=None, max_examples=150)
def test_nothing_is_lost_and_a_clean_corpus_stays(corpus: list[Conversation], options: CleanOptions) -> None:
    report, rejected = CleanReport(), list[Rejected]()
    once = list(clean(corpus, options, report, rejected.append))
    assert report.read == len(corpus) and report.kept == len(once)
    assert report.read - report.cut + report.parts == report.kept + len(rejected)
    assert Counter(found.reason for found in rejected) == report.rejected
    assert sum(count.rejected for count in report.steps.values()) == len(rejected)
    if report.steps:
        last = list(report.steps.values())[-1]
        assert last.segments == report.kept and last.conversations <= report.read
    assert list(report.steps) == [name for name in Filter if name in report.steps]
    assert list(clean(corpus, options)) == once
    again = CleanReport()
    assert list(clean(once, options, again)) == once
    assert not again.rejected and not again.cut and set(again.repaired) <= {Repair.TRANSLATION}
