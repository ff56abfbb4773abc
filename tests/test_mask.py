"""`mask`: the tokens in the loss, shown or written; and whole turns left out of a conversation that is too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import Maieutic
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_kinds import of_kind
from tokenizers_of_ours import tokenizer

from maieutic import Conversation, render
from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import end_id
from maieutic.chat_templates.turns import fit
from maieutic.core.errors import (
    BadMask,
    EmptyCorpus,
    MissingInput,
    RunConflict,
    UnstablePrefix,
)
from maieutic.core.messages import Role
from maieutic.core.store import read_json
from maieutic.models.weights import Framing
from maieutic.train.mask import Mask, tokenizer_hash, write_masks


def chat(number: int, turns: int = 4, **more) -> dict:
    texts = [f"turn {number}.{turn} " + "word " * (number % 7) for turn in range(turns)]
    rows = [{"role": "assistant" if turn % 2 else "user", "content": text} for turn, text in enumerate(texts)]
    return {"id": f"c{number}", "messages": rows, **more}


def corpus(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def loaded(folder: Path):
    from datasets import load_from_disk

    return load_from_disk(str(folder))


@pytest.fixture(scope="module")
def forked():
    maieutic = Maieutic()
    yield maieutic
    maieutic.close()


def write(path: Path, tok, role: str, out: Path, template: str | None = None, **more):
    step = Mask(data=path, model="", role=role, template=template, **more)
    return write_masks(step, tok, Framing(template, None), out)


def fresh():
    return of_kind.__wrapped__("gpt2")


def test_the_rows_are_those_of_render(tmp_path):
    rows = [chat(number, ended=number % 3 == 0) for number in range(40)]
    out = tmp_path / "out"
    made = write(corpus(tmp_path / "c.jsonl", rows), fresh(), "user", out)
    data = loaded(out)
    tok = fresh()
    expected = [render(Conversation.model_validate(row), tok, "user") for row in rows]
    assert data["input_ids"][:] == [one.input_ids for one in expected]
    assert data["labels"][:] == [one.labels for one in expected]
    assert str(data.features["labels"]) == str(data.features["input_ids"])
    assert "int32" in str(data.features)
    held = made.counts
    assert held["rows"] == 40
    assert held["tokens"] == sum(map(len, data["input_ids"]))
    assert held["supervised"] == sum(one.supervised for one in expected)
    assert held["ends"] == 14
    assert read_json(out / "manifest.json") == held


def test_it_is_made_once_and_another_call_is_refused_with_what_differs(tmp_path):
    path, out = corpus(tmp_path / "c.jsonl", [chat(1), chat(2)]), tmp_path / "out"
    tok = fresh()
    assert write(path, tok, "user", out).new
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    again = write(path, tok, "user", out)
    assert not again.new
    assert again.counts["rows"] == 2
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before
    with pytest.raises(RunConflict, match=r"role \("):
        write(path, tok, "assistant", out)
    with pytest.raises(RunConflict, match="max_length"):
        write(path, tok, "user", out, max_length=50)
    with pytest.raises(RunConflict, match="tokenizer"):
        write(path, of_kind("llama3"), "user", out)
    other = fresh()
    other.chat_template += "\n{# new #}"
    with pytest.raises(RunConflict, match="template"):
        write(path, other, "user", out)
    corpus(path, [chat(1), chat(3)])
    with pytest.raises(RunConflict, match="corpus"):
        write(path, tok, "user", out)


def test_end_in_the_tokenizer_is_no_other_tokenizer(tmp_path):
    tok = fresh()
    before = tokenizer_hash(tok)
    path = corpus(tmp_path / "c.jsonl", [chat(1, ended=True)])
    assert write(path, tok, "user", tmp_path / "out").counts["ends"] == 1
    assert end_id(tok) is not None
    assert tokenizer_hash(tok) == before
    assert not write(path, tok, "user", tmp_path / "out").new


def test_what_cannot_be_trained_on_is_left_out_and_counted(tmp_path):
    rows = [
        chat(1),
        "{broken",
        {"id": "no-user", "messages": [{"role": "assistant", "content": "x"}]},
        chat(6, turns=1),
    ]
    made = write(corpus(tmp_path / "c.jsonl", rows), fresh(), "user", tmp_path / "out", max_length=40)
    counts = {name: made.counts[name] for name in ("rows", "without_turn", "too_long")}
    assert counts == {"rows": 1, "without_turn": 1, "too_long": 1}


def test_a_template_that_cannot_be_used_stops_everything(tmp_path):
    path, out = corpus(tmp_path / "c.jsonl", [chat(1), chat(2)]), tmp_path / "out"
    with pytest.raises(UnstablePrefix, match="conversation c1: ") as caught:
        write(path, tokenizer("bytes", "qwen3"), "assistant", out)
    assert "--template" in caught.value.hint
    assert not (out / "manifest.json").exists()


def test_a_run_that_was_cut_off_is_made_anew(tmp_path):
    path, out = corpus(tmp_path / "c.jsonl", [chat(1), chat(2)]), tmp_path / "out"
    write(path, fresh(), "user", out)
    (out / "manifest.json").unlink()
    next(out.glob("*.arrow")).write_bytes(b"half")
    assert write(path, fresh(), "user", out).new
    assert len(loaded(out)) == 2


def test_another_tokenizer_or_template_never_gets_what_was_made_with_this_one(tmp_path):
    path, out = corpus(tmp_path / "c.jsonl", [chat(1), chat(2)]), tmp_path / "out"
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    write(path, fresh(), "user", out, template=str(template))
    template.write_text("{% for m in messages %}<s>{{ m.content }}</s>\n{% endfor %}")
    with pytest.raises(RunConflict, match="template"):
        write(path, fresh(), "user", out, template=str(template))
    write(path, fresh(), "user", tmp_path / "own")
    for change in (_rename, _add, _normalize, _no_eos):
        tok = fresh()
        change(tok)
        with pytest.raises(RunConflict, match="tokenizer"):
            write(path, tok, "user", tmp_path / "own")


def _rename(tok) -> None:
    tok.unk_token = "</s>"


def _add(tok) -> None:
    tok.add_tokens(["turn"])


def _normalize(tok) -> None:
    from tokenizers import normalizers

    tok.backend_tokenizer.normalizer = normalizers.Lowercase()


def _no_eos(tok) -> None:
    tok.eos_token = "<s>"


def test_what_is_no_corpus(tmp_path):
    with pytest.raises(MissingInput):
        write(tmp_path / "none.jsonl", fresh(), "user", tmp_path / "out")
    with pytest.raises(ValueError, match="role"):
        write(corpus(tmp_path / "c.jsonl", [chat(1)]), fresh(), "system", tmp_path / "out")
    with pytest.raises(EmptyCorpus):
        write(corpus(tmp_path / "e.jsonl", ["{broken"]), fresh(), "user", tmp_path / "out2")


lengths = st.lists(st.integers(0, 12), min_size=1, max_size=9)


@settings(max_examples=40, deadline=None)
@given(
    lengths=lengths, limit=st.integers(1, 150), ended=st.booleans(), system=st.booleans(), opens=st.booleans()
)
def test_whole_turns_are_left_out_and_no_more_than_needed(lengths, limit, ended, system, opens):
    tok = of_kind("qwen")
    sides = ("assistant", "user") if opens else ("user", "assistant")
    rows = [{"role": "system", "content": "Be kind."}] if system else []
    rows += [
        {"role": sides[index % 2], "content": "word " * size + "x"} for index, size in enumerate(lengths)
    ]
    conversation = Conversation.model_validate({"messages": rows, "ended": ended})
    for role in (Role.USER, Role.ASSISTANT):
        if not conversation.turns(role):
            continue
        for keep in ("start", "end"):

            def made(one: Conversation, role: Role = role):
                return render(one, tok, role)

            left = fit(conversation, made, {role}, limit, keep)
            whole = made(conversation)
            if len(whole.input_ids) <= limit:
                assert left == (conversation, whole)
                continue
            kept = _all_parts(conversation, role, keep)
            fitting = [part for part in kept if len(made(part).input_ids) <= limit]
            if not fitting:
                assert left.rendered is None
                continue
            assert left.conversation.messages == max(fitting, key=lambda part: len(part.messages)).messages
            assert left.rendered == made(left.conversation)
            assert len(left.rendered.input_ids) <= limit
            assert left.rendered.supervised
            if keep == "start":
                assert not left.conversation.ended
                assert conversation.messages[: len(left.conversation.messages)] == left.conversation.messages
            else:
                assert left.conversation.ended == ended
                assert left.conversation.messages[-1] == conversation.messages[-1]
                assert system == (left.conversation.messages[0].role == Role.SYSTEM)


def _all_parts(conversation: Conversation, role: Role, keep: str) -> list[Conversation]:
    messages = conversation.messages
    head = 1 if messages[0].role == Role.SYSTEM else 0
    cuts = range(head + 1, len(messages))
    if keep == "start":
        return [
            conversation.model_copy(update={"messages": messages[:cut], "ended": False})
            for cut in [*cuts, len(messages)]
            if messages[cut - 1].role == role
        ]
    return [
        conversation.model_copy(update={"messages": messages[:head] + messages[cut:]})
        for cut in cuts
        if messages[cut].role == messages[head].role and any(turn.role == role for turn in messages[cut:])
    ]


def test_the_start_or_the_end_is_kept(tmp_path):
    row = chat(3, turns=8, ended=True)
    path = corpus(tmp_path / "c.jsonl", [row])
    whole = len(render(Conversation.model_validate(row), fresh(), "user").input_ids)
    for keep, ends in (("start", 0), ("end", 1)):
        made = write(path, fresh(), "user", tmp_path / keep, max_length=whole // 2, keep=keep)
        assert (made.counts["shortened"], made.counts["ends"]) == (1, ends)
        text = fresh().decode(loaded(tmp_path / keep)[0]["input_ids"])
        assert ("turn 3.0" in text, "turn 3.7" in text) == (keep == "start", keep == "end")
        ids = loaded(tmp_path / keep)[0]["input_ids"]
        assert (ids[-1] == len(fresh())) == (keep == "end")  # END has the next free id


def test_a_mask_that_cannot_be_is_an_error_in_render_and_a_count_here():
    with pytest.raises(BadMask, match="drop it"):
        render(Conversation.model_validate(chat(1, turns=1)), fresh(), "assistant")


def test_the_command(tmp_path, forked):
    model = tmp_path / "model"
    tok = fresh()
    tok.save_pretrained(model)
    path = corpus(tmp_path / "c.jsonl", [chat(1, ended=True), chat(2), chat(3, turns=1)])
    call = [
        "mask",
        str(path),
        "--model",
        str(model),
        "--role",
        "assistant",
        "--out",
        str(tmp_path / "out"),
    ]
    done = forked(*call, "--json")
    assert done.code == 0, done.err
    held = json.loads(done.out)
    assert (held["rows"], held["new"], held["without_turn"]) == (2, True, 1)
    again = forked(*call)
    assert again.code == 0
    assert "2 rows" in again.out
    refused = forked(*call, "--max-length", "20")
    assert refused.code == 1
    assert "max_length" in refused.err
    assert "Traceback" not in refused.err
    assert END not in done.out
    (tmp_path / "open.jinja").write_text("{% for m in messages %}")
    failed = forked("mask", *call[1:6], "--template", str(tmp_path / "open.jinja"))
    assert failed.code == 1
    assert "is not Jinja" in failed.err
    assert len(failed.err.strip().splitlines()) == 2


def test_a_notebook_shows_conversation_and_mask_with_their_text_escaped():
    conversation = Conversation.model_validate(
        {"messages": [{"role": "user", "content": "<b>1 & 2"}, {"role": "assistant", "content": "So?"}]}
    )
    for shown in (conversation, render(conversation, fresh(), "assistant")):
        html = shown._repr_html_()
        assert "&lt;b&gt;1 &amp; 2" in html and "<b>" not in html and "So?" in html
