"""`chat`, `export`, `serve`: talk with a model in the terminal, write it for a server, serve it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from maieutic.core.console import Json, note, print_json, say, shown
from maieutic.core.messages import Role, Sampling, utf8


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("chat", epilog="Example: maieutic chat ollama/llama3.2 --system 'Answer with a question.'")(
        chat
    )
    app.command("export", epilog="Example: maieutic export runs/user --to gguf --quantize q8_0 --out gguf")(
        export
    )
    app.command("serve", epilog="Example: maieutic serve runs/user --port 8001")(serve)


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="hf/PATH_OR_ID, openai/NAME, http://HOST:PORT/v1#NAME, ollama/NAME, script/FILE."
        ),
    ],
    speaks: Annotated[
        str | None,
        typer.Option(
            "--as", help="The side the model speaks, user or assistant; you are the other. [its trained side]"
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="hf/ models: chat, dyadic, plain or a Jinja file. [the model's own]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text before the conversation.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.001, max=1)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens a turn at most.")] = 512,
    seed: Annotated[
        int, typer.Option(help="The same seed and words give the same replies, where the model can.")
    ] = 0,
    json: Json = False,
) -> None:
    """Talk with a model; it answers as it writes. /exit or the end of the input leaves, Ctrl-C too."""
    from maieutic.models import ModelOptions, load
    from maieutic.rollouts.chat import Terminal
    from maieutic.rollouts.chat import chat as talk

    if speaks not in (None, "user", "assistant"):
        raise typer.BadParameter("give user or assistant", param_hint="--as")
    if template and not model.startswith("hf/"):
        raise typer.BadParameter("only hf/ models take one: a server has its own", param_hint="--template")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    speaker = load(model, ModelOptions(template=template, system=system))
    role = Role(speaks) if speaks else speaker.trained_role or Role.ASSISTANT
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    watched = sys.stdin.isatty() and not json
    if watched:
        note(f"{model} speaks as the {role}; you are the {role.other}. /exit leaves.")
    terminal = Terminal(lambda: _ask(role.other, watched), _shower(role, watched, silent=json), note)
    try:
        held = talk(speaker, terminal, role, sampling)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return
    if json:
        turns = [turn.model_dump(mode="json") for turn in held.messages]
        print_json({"messages": turns, "ended": held.ended, "model": model})
    if held.owed:
        raise typer.Exit(1)


def export(
    model: Annotated[
        str, typer.Argument(help="A finished run, a checkpoint's folder, a LoRA adapter, or a Hub id.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder; for merged a new one.")],
    to: Annotated[
        Literal["merged", "gguf", "ollama"],
        typer.Option(help="merged: safetensors; gguf: one file for llama.cpp; ollama: that and a Modelfile."),
    ] = "merged",
    quantize: Annotated[
        Literal["f16", "q8_0", "q4_0"] | None, typer.Option(help="Precision of GGUF weights. [f16]")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="chat, dyadic, plain or a Jinja file. [the checkpoint's own]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text for conversations that have none.")] = None,
    speaks: Annotated[
        Literal["user", "assistant"] | None,
        typer.Option("--as", help="The side to serve. [its trained side, else assistant]"),
    ] = None,
    json: Json = False,
) -> None:
    """Write a model in the form that a server wants; what would come out wrong is refused."""
    from maieutic.serving.export import export as work

    if quantize and to == "merged":
        raise typer.BadParameter("merged weights stay as they are", param_hint="--quantize")
    done = work(model, to, out, precision=quantize or "f16", template=template, system=system, role=speaks)
    if json:
        print_json(done.json())
        return
    more = f", {done.context} tokens of context" if done.context else ""
    say(f"{done.out}: speaks the {done.role}, stops at {' '.join(done.stops)}{more}")


def serve(
    model: Annotated[str, typer.Argument(help="A finished run, a checkpoint's folder, or a Hub id.")],
    engine: Annotated[
        Literal["vllm", "transformers"] | None,
        typer.Option(help="What serves it. [vllm where it is installed, else transformers]"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; the default is this machine's alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    json: Json = False,
) -> None:
    """Serve a model as an ordinary chat model (OpenAI's API) until Ctrl-C; prints a curl line once it answers."""
    from maieutic.serving.server import Serving
    from maieutic.serving.server import serve as work

    def ready(serving: Serving) -> None:
        if json:
            print_json(serving.json())
            return
        say(serving.curl)
        sys.stdout.flush()
        note(f"{serving.engine} serves {serving.model} at {serving.url}; Ctrl-C stops it.")

    try:
        work(model, engine, host, port, ready)
    except KeyboardInterrupt:
        note("stopped")


def _ask(role: Role, watched: bool) -> str | None:
    """The person's next line, null at the end of the input."""
    try:
        return utf8(input(f"{role}> " if watched else ""))
    except EOFError:
        return None


def _shower(role: Role, watched: bool, silent: bool) -> Callable[[str], None]:
    """Writes a model's text as it comes, neutralised, with its side before it where somebody watches."""
    begun = False

    def show(piece: str) -> None:
        nonlocal begun
        if silent or not (piece or begun):
            return
        label = f"{role}> " if watched and not begun else ""
        encoding = sys.stdout.encoding or "utf-8"
        text = label + shown(piece) + ("" if piece else "\n")
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
        begun = bool(piece)

    return show
