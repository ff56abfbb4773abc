"""`chat`: talk with a model in the terminal; the model speaks one side, the person the other.

The model's text is streamed, with control characters made visible. After a temporary error the conversation is
unchanged and the turn can be requested again. Any other error ends the chat.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field

from maieutic.core import console
from maieutic.core.errors import InputError, MaieuticError, MalformedReply, Unreachable
from maieutic.core.messages import Finish, Message, Reply, Role, Sampling, utf8
from maieutic.core.settings import LocalModel, ModelSpec
from maieutic.core.step import Result, Step

if TYPE_CHECKING:
    from maieutic.models import ChatModel

EXIT = "/exit"


class ChatResult(Result):
    """A finished chat."""

    messages: tuple[Message, ...]
    ended: bool
    """The model ended the conversation."""
    model: str
    failure: str | None = None
    """The error of the model's last turn, if the person left without that turn."""

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The conversation."""
        return self.model_dump(mode="json", exclude={"run", "failure"})

    def show(self) -> None:
        """Print nothing: the chat was already shown."""

    def exit_code(self) -> int:
        """1 if the last turn has no answer."""
        return int(self.failure is not None)


class Terminal(NamedTuple):
    """How a chat reads and shows. `ask` returns the person's line, null at the end of the input."""

    ask: Callable[[], str | None]
    show: Callable[[str], None]
    """Shows a piece of the model's text; an empty piece ends the turn."""
    note: Callable[[str], None]


@runtime_checkable
class Streaming(Protocol):
    """A model that can write its turn piece by piece."""

    def stream(
        self, messages: list[Message], sampling: Sampling, *, role: Role, done: Callable[[Reply], None]
    ) -> AsyncIterator[str]:
        """The next turn of `role` in pieces; at the end `done` is called with the whole reply."""
        ...


class Chat(Step):
    """Talk with a model in the terminal; replies appear as they are written.

    `/exit`, the end of the input and Ctrl-C end the chat. A model that speaks the user opens the conversation.
    """

    command: ClassVar = "chat"
    arguments: ClassVar = ("model",)
    shown: ClassVar = (
        "role",
        "sampling.temperature",
        "sampling.max_tokens",
        "local.system",
        "local.template",
    )
    flags: ClassVar = {"role": "--as"}
    examples: ClassVar = ("maieutic chat ollama/llama3.2 --system 'Answer with a question.'",)
    writes: ClassVar = "result"
    out_help: ClassVar = "JSON file to write the conversation to."

    model: ModelSpec = Field(description="MODEL to talk with.")
    role: Literal["user", "assistant"] | None = Field(
        None, description="Side that the model speaks; you speak the other; default: its trained side."
    )
    sampling: Sampling = Sampling()
    local: LocalModel = LocalModel()

    def check(self) -> None:
        """Refuse a template for a served model, which has its own."""
        if self.local.template and isinstance(self.model, str) and not self.model.startswith("hf/"):
            raise InputError("--template is for hf/ models only", "Drop it: a server has its own template.")

    def run(self, out: Path | str = "") -> ChatResult | None:
        """Run the chat in this process's terminal; null after Ctrl-C."""
        from maieutic.models import load

        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        model = load(self.model, self.local) if isinstance(self.model, str) else self.model
        role = Role(self.role) if self.role else model.trained_role or Role.ASSISTANT
        interactive = sys.stdin.isatty() and not console.prints_json()
        if interactive:
            console.note(f"{model.id} speaks as the {role}; you are the {role.other}. {EXIT} leaves.")
        terminal = Terminal(
            lambda: _read_line(role.other, interactive), _printer(role, interactive), console.note
        )
        try:
            return chat(model, terminal, role, self.sampling)
        except KeyboardInterrupt:
            sys.stderr.write("\n")
            return None


def chat(
    model: ChatModel, terminal: Terminal, role: Role | None = None, sampling: Sampling | None = None
) -> ChatResult:
    """Run a conversation until the person leaves or the model ends it.

    Args:
        model: the other side.
        terminal: reads the person's lines and shows the model's text.
        role: the side that the model speaks; null: its trained side, else the assistant.
        sampling: turn k is drawn with `seed + k`.

    Raises:
        ModelError: the model failed permanently (a wrong key, a full context).
    """
    role = role or model.trained_role or Role.ASSISTANT
    with asyncio.Runner() as runner:
        runner.run(model.check())
        try:
            return _converse(runner, model, terminal, role, sampling or Sampling())
        finally:
            runner.run(model.close())


def _converse(
    runner: asyncio.Runner, model: ChatModel, terminal: Terminal, role: Role, sampling: Sampling
) -> ChatResult:
    history: list[Message] = []
    pending: list[Message] | None = [] if role == Role.USER else None
    failure: MaieuticError | None = None
    while True:
        if pending is None or failure:
            line = terminal.ask()
            if line is None or line.strip() == EXIT:
                what = failure.what if failure else None
                return ChatResult(messages=tuple(history), ended=False, model=model.id, failure=what)
            if line.strip():
                pending = (
                    [Message(role=role.other, content=line)] if history or role == Role.ASSISTANT else []
                )
            elif pending is None:
                continue
        assert pending is not None
        drawn = sampling.model_copy(update={"seed": sampling.seed + len(history)})
        try:
            text, ended = runner.run(_speak(model, [*history, *pending], drawn, role, terminal.show))
        except (Unreachable, MalformedReply) as error:
            failure = error
            terminal.note(f"error: {error}\n  Press Enter to ask again, or write another message.")
            continue
        history += pending
        pending = failure = None
        if text or not ended:
            history.append(Message(role=role, content=text))
        if not text and not ended:
            terminal.note("The model's reply is empty.")
        if ended:
            terminal.note("The model has ended the conversation.")
            return ChatResult(messages=tuple(history), ended=True, model=model.id)


async def _speak(
    model: ChatModel, messages: list[Message], sampling: Sampling, role: Role, show: Callable[[str], None]
) -> tuple[str, bool]:
    """Show one turn; returns its text, and whether it ended the conversation."""
    replies: list[Reply] = []
    try:
        if isinstance(model, Streaming):
            async for piece in model.stream(messages, sampling, role=role, done=replies.append):
                if piece:
                    show(piece)
        else:
            replies.append(await model.reply(messages, sampling, role=role))
            if replies[0].text:
                show(replies[0].text)
    finally:
        show("")
    return replies[0].text, replies[0].finish == Finish.END


def _read_line(role: Role, interactive: bool) -> str | None:
    """The person's next line, null at the end of the input."""
    try:
        return utf8(input(f"{role}> " if interactive else ""))
    except EOFError:
        return None


def _printer(role: Role, interactive: bool) -> Callable[[str], None]:
    """Prints a model's text as it arrives, control characters made visible; on a terminal after the side's name."""
    begun = False

    def show(piece: str) -> None:
        nonlocal begun
        if console.prints_json() or not (piece or begun):
            return
        label = f"{role}> " if interactive and not begun else ""
        encoding = sys.stdout.encoding or "utf-8"
        text = label + console.shown(piece) + ("" if piece else "\n")
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
        begun = bool(piece)

    return show
