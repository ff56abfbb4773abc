"""Chatting: both sides, streams, faults that pass, and text that must not act on the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import loopback
import orjson
import pytest
import typer
from loopback import Loopback
from typer.testing import CliRunner

from maieutic.chat_templates.encode import END
from maieutic.cli import generate
from maieutic.core import errors
from maieutic.core.messages import Role, Sampling
from maieutic.core.settings import Requests
from maieutic.models import ChatModel, load, transport
from maieutic.rollouts.chat import Chat, ChatResult, Terminal, chat


class Person:
    """Somebody who says the given lines and remembers what was shown."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.shown: list[str] = []
        self.notes: list[str] = []

    def meets(self, model: ChatModel, role: Role | None = None) -> ChatResult:
        terminal = Terminal(
            lambda: self.lines.pop(0) if self.lines else None, self.shown.append, self.notes.append
        )
        return chat(model, terminal, role, Sampling(seed=100))


def texts(held: ChatResult) -> list[tuple[str, str]]:
    return [(turn.role.value, turn.content) for turn in held.messages]


def scripted(folder: Path, *lines: dict) -> ChatModel:
    (folder / "s.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return load(f"script/{folder / 's.jsonl'}")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("MAIEUTIC_API_KEY", raising=False)


def test_a_server_answers_piece_by_piece() -> None:
    with Loopback(["What have you tried?", "And then?"]) as server:
        person = Person("How?", "", "Nothing.", "/exit", "never said")
        held = person.meets(load(server.spec))
    assert texts(held) == [
        ("user", "How?"),
        ("assistant", "What have you tried?"),
        ("user", "Nothing."),
        ("assistant", "And then?"),
    ]
    assert "".join(person.shown) == "What have you tried?And then?" and len(person.shown) > 6
    assert [seen.body["seed"] for seen in server.chats] == [100, 102]
    assert not held.ended and held.failure is None


def test_a_model_that_speaks_the_user_opens_and_may_end(tmp_path: Path) -> None:
    model = scripted(
        tmp_path,
        {"trained_role": "user"},
        {"text": "I am stuck."},
        {"text": "Thanks.", "finish": "end", "when": "Try"},
    )
    person = Person("Try 3.")
    held = person.meets(model)
    assert texts(held) == [("user", "I am stuck."), ("assistant", "Try 3."), ("user", "Thanks.")]
    assert held.ended and "ended" in person.notes[-1]
    assert person.shown == ["I am stuck.", "", "Thanks.", ""]


def test_a_served_simulator_ends_by_its_token() -> None:
    with Loopback(["Hello", END]) as server:
        person = Person("Hi")
        held = person.meets(load(server.spec), Role.USER)
        assert [turn["role"] for turn in server.chats[0].body["messages"]] == ["system"]
    assert texts(held) == [("user", "Hello"), ("assistant", "Hi")] and held.ended
    assert "<|" not in "".join(person.shown)


def test_a_passing_fault_leaves_the_turn_pending() -> None:
    with Loopback("fine", faults=[500, 500, None, 500, 500, 500, 500]) as server:
        person = Person("one", "", "two", "three")
        held = person.meets(load(server.spec, requests=Requests(attempts=2)))
        assert [seen.body["messages"][-1]["content"] for seen in server.chats][-2:] == ["three", "three"]
    assert texts(held) == [("user", "one"), ("assistant", "fine")]
    assert held.failure is not None and server.url in held.failure
    assert len(person.notes) == 3 and len(person.notes[0].splitlines()) == 3


def test_a_final_fault_ends_it() -> None:
    full = loopback.status(400, "maximum context length")
    with Loopback(faults=[full]) as server, pytest.raises(errors.ContextFull):
        Person("one").meets(load(server.spec))
    with Loopback(key="k") as server, pytest.raises(errors.WrongKey):
        Person("one").meets(load(server.spec))


# the command


def command(*arguments: str, said: str) -> object:
    app = typer.Typer()
    app.callback()(lambda: None)
    generate.add({"": app}, (Chat,), {})
    return CliRunner().invoke(app, ["chat", *arguments], input=said)


def test_piped_lines_and_neutral_text() -> None:
    with Loopback("red \x1b[31m text\x07") as server:
        result = command(server.spec, said="hi\nagain\n")
    assert (result.exit_code, result.stdout) == (0, "red ␛[31m text␇\n" * 2)


def test_json_is_one_document() -> None:
    with Loopback("So?") as server:
        result = command(server.spec, "--json", "--max-tokens", "9", "--system", "Ask.", said="hi\n")
        body = server.chats[0].body
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "So?"}]
    assert orjson.loads(result.stdout) == {"messages": turns, "ended": False, "model": server.spec}
    assert body["max_tokens"] == 9 and body["messages"][0] == {"role": "system", "content": "Ask."}


def test_an_unanswered_turn_is_exit_1() -> None:
    with Loopback(faults=lambda n, body: loopback.raw("<html>", 200)) as server:
        result = command(server.spec, said="hi\n")
    assert result.exit_code == 1 and result.stdout.strip() == ""


@pytest.mark.parametrize("wrong", [["--as", "tutor"], ["--template", "plain"], ["--temperature", "-1"]])
def test_a_wrong_call_is_exit_2(wrong: list[str]) -> None:
    assert command("http://127.0.0.1:1/v1#m", *wrong, said="").exit_code == 2


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A real process: standard input in no encoding, standard output in ASCII."""
    (tmp_path / "s.txt").write_text("naïve 🙂\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "maieutic", "chat", f"script/{tmp_path / 's.txt'}"],
        input=b"\xff\xfe\n",
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"na?ve ?\n", b"")
