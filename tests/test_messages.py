"""Messages with reasoning, tools and parts: their shape, their ids, and their way through every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from conversations import talk
from pydantic import ValidationError

from maieutic.core.errors import RenderError
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation, Message, Role, fingerprint
from maieutic.data.corpus import identity, read_corpus, write_corpus
from maieutic.data.importing import import_files
from maieutic.data.personal import mask_conversation
from maieutic.data.repair import repair_turns
from maieutic.data.steps import Convert

CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
USED: dict[str, Any] = {
    "id": "sum",
    "tools": TOOLS,
    "messages": [
        {"role": "user", "content": "What is 1 + 2?", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "I add."},
        {"role": "tool", "content": "3", "tool_call_id": "call_1", "name": "add"},
        {"role": "assistant", "content": "3.", "weight": 0.5},
    ],
}


def test_a_plain_message_is_dumped_as_role_and_content_only() -> None:
    plain = {"role": "user", "content": "Hi"}
    message = Message.model_validate(plain)
    for dumped in (
        message.model_dump(),
        message.model_dump(mode="json"),
        orjson.loads(message.model_dump_json()),
    ):
        assert dumped == plain and list(dumped) == ["role", "content"]
    assert fingerprint([message]) == fingerprint([plain])
    conversation = Conversation.model_validate({"messages": [plain]})
    assert conversation.id == fingerprint([["user", "Hi"]])[:16]
    assert conversation.row() == {"id": conversation.id, "messages": [plain]}


def test_the_fields_of_a_message_are_read_and_its_other_keys_go_to_meta() -> None:
    used = Conversation.model_validate(USED)
    asked, called, result, said = used.messages
    assert asked.name == "Ann" and result.name == "add" and result.tool_call_id == "call_1"
    assert called.content == "" and called.tool_calls == (CALL,) and called.reasoning == "I add."
    assert result.role is Role.TOOL and result.role.other is Role.TOOL
    assert used.meta == {"turns": {"3": {"weight": 0.5}}} and used.tools == tuple(TOOLS)
    assert Conversation.model_validate(used.row()) == used
    assert said.model_dump() == {"role": "assistant", "content": "3."}


def test_fields_of_an_older_corpus_are_taken_out_of_meta() -> None:
    row = {
        "messages": [{"role": "assistant", "content": ""}],
        "meta": {"turns": {"0": {"tool_calls": [CALL], "weight": 1}, "9": {"x": 1}}, "tools": TOOLS, "a": 1},
    }
    read = Conversation.model_validate(row)
    assert read.messages[0].tool_calls == (CALL,) and read.tools == tuple(TOOLS)
    assert read.meta == {"a": 1, "turns": {"0": {"weight": 1}, "9": {"x": 1}}}


def test_what_does_not_fit_a_field_stays_in_meta() -> None:
    row = {"messages": [{"role": "user", "content": "x", "name": 3, "tool_calls": "none"}], "tools": "[]"}
    read = Conversation.model_validate(row)
    assert read.meta == {"turns": {"0": {"name": 3, "tool_calls": "none"}}, "tools": "[]"}
    nulls = {"messages": [{"role": "user", "content": "x", "name": None, "tool_calls": None}], "tools": None}
    assert Conversation.model_validate(nulls).meta == {}


def test_parts_are_joined_and_what_is_not_text_is_set_aside_or_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": "x.png"}}
    parts = [{"type": "text", "text": "What is"}, image, {"type": "text", "text": "this?"}]
    read = Conversation.model_validate({"messages": [{"role": "user", "content": parts}]})
    assert read.messages[0].content == "What is\nthis?"
    assert read.meta == {"turns": {"0": {"attachments": [image]}}}
    assert Message.model_validate({"role": "user", "content": [parts[0], "now"]}).content == "What is\nnow"
    with pytest.raises(ValidationError, match=r"1 of 3 .*image_url"):
        Message.model_validate({"role": "user", "content": parts})


def test_other_fields_are_part_of_ids_and_of_the_identity() -> None:
    bare = {"role": "assistant", "content": "x"}
    plain, called = ({"messages": [message]} for message in (bare, {**bare, "tool_calls": [CALL]}))
    one, two = Conversation.model_validate(plain), Conversation.model_validate(called)
    assert one.id != two.id and identity(one) != identity(two)
    assert two.id == Conversation(id="", messages=two.messages).model_copy(update={"id": two.id}).id


@pytest.mark.parametrize(
    ("form", "suffix"), [("messages", "jsonl"), ("sharegpt", "json"), ("parquet", "parquet")]
)
def test_every_field_survives_import_and_every_form(tmp_path: Path, form: str, suffix: str) -> None:
    source = tmp_path / "given.jsonl"
    plain = talk("Hi", "Hello", "Bye", id="plain", meta={"turns": {"1": {"x": 1}}})
    source.write_bytes(orjson.dumps(USED) + b"\n" + orjson.dumps(plain.row()) + b"\n")
    imported, report = import_files([source])
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(corpus, imported)
    assert report.bad.count == 0
    Convert.model_validate({"corpus": corpus, "to": form}).run(tmp_path / f"out.{suffix}")
    again, report = import_files([tmp_path / f"out.{suffix}"])
    assert list(again) == list(read_corpus(corpus, tools=True))
    assert report.bad.count == 0


def test_steps_that_cannot_use_tool_messages_refuse_them(tmp_path: Path) -> None:
    used, plain = Conversation.model_validate(USED), talk("Hi", "Hello", id="plain")
    write_corpus(tmp_path / "corpus.jsonl", [used, plain])
    bad = BadRows()
    assert [one.id for one in read_corpus(tmp_path / "corpus.jsonl", on_bad=bad)] == ["plain"]
    assert bad.count == 1 and bad.rows[0]["where"].endswith(":1")


def test_rendering_refuses_tool_messages() -> None:
    from tokenizers_of_ours import tokenizer

    from maieutic import render

    with pytest.raises(RenderError):
        render(Conversation.model_validate(USED), tokenizer(), "assistant")


def test_masking_reaches_every_text_of_a_message_and_keeps_ids() -> None:
    call = {
        "id": "call_1234567890",
        "function": {"name": "mail", "arguments": '{"to": "ann.lee@uni-graz.at"}'},
    }
    row = {
        "messages": [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call],
                "reasoning": "ask ann.lee@uni-graz.at",
            },
            {"role": "tool", "content": "ok", "tool_call_id": "call_1234567890"},
        ]
    }
    masked = mask_conversation(Conversation.model_validate(row)).conversation
    assert "ann.lee" not in str(masked.row())
    assert masked.messages[0].tool_calls[0]["id"] == masked.messages[1].tool_call_id == "call_1234567890"


def test_merged_neighbours_keep_their_thoughts_and_calls() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "reasoning": "r", "tool_calls": [CALL]},
            {"role": "assistant", "content": "c", "reasoning": "s"},
        ]
    }
    merged = repair_turns(Conversation.model_validate(row)).conversation.messages[1]
    assert (merged.content, merged.reasoning, merged.tool_calls) == ("b\n\nc", "r\n\ns", (CALL,))
