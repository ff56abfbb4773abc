"""Write docs/commands.md, the command reference, from the commands themselves: `python tools/commands.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from maieutic import cli

TARGET = Path(__file__).parent.parent / "docs" / "commands.md"
HEAD = """# The commands

Made by `python tools/commands.py` from the commands themselves; a test holds it true. Every command prints for people,
and with `--json` one JSON document on standard output and nothing else; notes and progress go to standard error.
Exit 0: done, 1: failed, 2: the call was wrong. A MODEL is `hf/PATH_OR_ID` (in this process), `openai/NAME`
(`OPENAI_BASE_URL`, `OPENAI_API_KEY`), `http://HOST:PORT/v1#NAME` (`MAIEUTIC_API_KEY`), `ollama/NAME`, `script/FILE`,
`probe/NAME` (tutors of fixed words, for comparison) or `student/NAME` (scripted students).
"""


def reference() -> str:
    """The whole page."""
    cli.gather()
    return HEAD + "".join(_sections(typer.main.get_command(cli.app), "maieutic"))


def _sections(command: Any, name: str) -> list[str]:
    children = getattr(command, "commands", None)
    own = [] if children and not command.invoke_without_command else [_section(command, name)]
    return own + [
        part for key, child in (children or {}).items() for part in _sections(child, f"{name} {key}")
    ]


def _section(command: Any, name: str) -> str:
    words = " ".join(f"{command.help or ''} {command.epilog or ''}".split())
    what, *shown = re.split(r"Examples?: (?=maieutic )", words, maxsplit=1)
    lines = [f"\n## {name}\n", f"{what.strip()}\n"]
    if shown:
        calls = "\n".join(re.split(r"; (?=maieutic )", shown[0].strip()))
        lines.append(f"```sh\n{calls}\n```\n")
    if rows := [_row(parameter) for parameter in command.params if parameter.name != "help"]:
        lines += ["| option | what | default |\n|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    flags = f"`{parameter.name.upper()}`" if is_argument else ", ".join(f"`{opt}`" for opt in parameter.opts)
    if parameter.secondary_opts:
        flags += ", " + ", ".join(f"`{opt}`" for opt in parameter.secondary_opts)
    default = "required" if parameter.required else _default(parameter.default)
    return f"| {flags} | {_cell(getattr(parameter, 'help', '') or '')} | {default} |"


def _default(value: Any) -> str:
    if value is None or value is False or value == () or value == []:
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
