"""Scripted models: the file's form, and that replies depend on nothing but the conversation and the seed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maieutic.core import errors
from maieutic.core.messages import Finish, Message, Reply, Role, Sampling
from maieutic.models import load
from maieutic.models.scripted import ScriptModel


def script(folder: Path, *lines: dict, name: str = "s.jsonl") -> ScriptModel:
    path = folder / name
    path.write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    return ScriptModel(str(path))


def talk(*texts: str) -> list[Message]:
    roles = (Role.USER, Role.ASSISTANT)
    return [Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)]


def ask(model: ScriptModel, messages: list[Message], seed: int = 0, **more: object) -> Reply:
    return asyncio.run(model.reply(messages, Sampling(seed=seed), **more))


def test_lines_come_in_turn_and_start_again(tmp_path: Path) -> None:
    model = script(tmp_path, {"text": "one two"}, {"text": "b"})
    dialogue: list[Message] = talk("hello you")
    said = []
    for _ in range(3):
        reply = ask(model, dialogue)
        said.append(reply.text)
        dialogue += [
            Message(role=Role.ASSISTANT, content=reply.text),
            Message(role=Role.USER, content="more"),
        ]
    assert said == ["one two", "b", "one two"]
    first = ask(model, talk("hello you"))
    assert (first.prompt_tokens, first.completion_tokens, first.finish) == (2, 2, Finish.STOP)
    assert first.model == model.id == f"script/{tmp_path / 's.jsonl'}"
    asyncio.run(model.check())
    asyncio.run(model.close())


def test_roles_conditions_and_ends(tmp_path: Path) -> None:
    model = script(
        tmp_path,
        {"trained_role": "user"},
        {"text": "I am stuck.", "role": "user"},
        {"text": "Still.", "role": "user", "end_probability": 0.25},
        {"text": "Thanks!", "role": "user", "finish": "end", "when": "(correct"},
        {"text": "Why?", "role": "assistant", "finish": "length"},
    )
    assert model.trained_role == Role.USER
    assert ask(model, [], role=Role.USER).text == "I am stuck."
    second = ask(model, talk("I am stuck.", "Why?"), role=Role.USER)
    assert (second.text, second.end_probability) == ("Still.", 0.25)
    last = ask(model, talk("I am stuck.", "That is (correct!"), role=Role.USER)
    assert (last.text, last.finish) == ("Thanks!", Finish.END)
    assert ask(model, talk("x"), role=Role.ASSISTANT).finish == Finish.LENGTH


def test_suppressed_ends(tmp_path: Path) -> None:
    model = script(tmp_path, {"text": "", "finish": "end"}, {"text": "bye", "finish": "end"})
    assert ask(model, []).finish == Finish.END
    reply = ask(model, [], suppress_end=True)
    assert (reply.text, reply.finish) == ("bye", Finish.STOP)


def test_a_line_may_fail(tmp_path: Path) -> None:
    model = script(tmp_path, {"text": "ok"}, {"error": "out of words"}, {"text": "x", "when": "never"})
    assert ask(model, talk("a")).text == "ok"
    with pytest.raises(errors.ModelError, match="out of words"):
        ask(model, talk("a", "b", "c"))
    only = script(tmp_path, {"text": "x", "role": "user"}, name="t.jsonl")
    with pytest.raises(errors.ModelError, match="no line for this turn of the assistant"):
        ask(only, [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_replies_do_not_depend_on_order(tmp_path: Path, seeds: list[int]) -> None:
    model = script(tmp_path, {"texts": ["a", "b", "c"]}, {"text": "d"})

    async def all_of(order: list[int]) -> dict[int, str]:
        replies = await asyncio.gather(*(model.reply(talk("x"), Sampling(seed=seed)) for seed in order))
        return dict(zip(order, (reply.text for reply in replies), strict=True))

    shuffled = random.Random(0).sample(seeds, len(seeds))
    assert asyncio.run(all_of(seeds)) == asyncio.run(all_of(shuffled)) == {s: "abc"[s % 3] for s in seeds}


def test_plain_text_files(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text('Why?\n\n{"text": "as it is"}\n', encoding="utf-8")
    model = load(f"script/{tmp_path / 's.txt'}")
    assert ask(model, talk("a")).text == "Why?"
    assert ask(model, talk("a", "b", "c")).text == '{"text": "as it is"}'


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one, two = (
        script(tmp_path, {"text": "a"}, name="1.jsonl"),
        script(tmp_path, {"text": "a"}, name="2.jsonl"),
    )
    assert one.fingerprint == two.fingerprint != script(tmp_path, {"text": "b"}, name="1.jsonl").fingerprint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no replies"),
        (b'\n{"trained_role": "user"}\n', "holds no replies"),
        (b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        (b'{"text": "a"}\n\n{"txet": "b"}', "line 3: txet: "),
        (b'{"text": "a", "texts": ["b"]}', "line 1: must hold one of"),
        (b"{}", "line 1: must hold one of"),
        (b'["a"]', "line 1: "),
        (b'{"text": "a", "finish": "soon"}', "line 1: finish: "),
        (b'{"trained_role": "tutor"}\n{"text": "a"}', "line 1: not a header"),
        (b"\xff\xfe", "line 1: not JSON"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "s.jsonl").write_bytes(content)
    with pytest.raises(errors.InputError) as caught:
        load(f"script/{tmp_path / 's.jsonl'}")
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 2


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingInput, match="No such file"):
        load(f"script/{tmp_path / 'none.jsonl'}")
    with pytest.raises(errors.MissingInput):
        load(f"script/{tmp_path}")
