"""Write the command reference (docs/commands.md) and the line counts in docs/architecture.md."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from maieutic import cli
from maieutic.cli.generate import Option, options, shown_default
from maieutic.core.budget import Budget
from maieutic.core.messages import Record, Sampling
from maieutic.core.settings import LocalModel, Requests
from maieutic.core.step import Step, group

ROOT = Path(__file__).parent.parent
COMMANDS = ROOT / "docs" / "commands.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
HEAD = """# The commands

Written by `python tools/reference.py` from the steps; a test compares. A step is one class: `maieutic judge`,
`do: judge` in a recipe and `maieutic.Judge` in Python have the same settings.

Every command takes `--out` (`-o`), `--config FILE` (a YAML file of settings; options win), `--dry-run` (print the
estimated cost, run nothing), `--json` (print one JSON document on standard output), `--help` and, where there are more
options, `--help-all`. Notes and progress go to standard error. Exit status: 0 done, 1 failed, 2 wrong call.

A MODEL is `hf/PATH_OR_ID` (loaded in this process), `openai/NAME` (`OPENAI_BASE_URL`, `OPENAI_API_KEY`),
`http://HOST:PORT/v1#NAME` (`MAIEUTIC_API_KEY`), `ollama/NAME`, `script/FILE`, `baseline/NAME` (tutors of fixed words,
for comparison) or `student/NAME` (scripted students).

## Shared settings

A command that has a group takes all of its options. In recipes, `--config` files and Python the group is one setting,
such as `sampling: {temperature: 0}`. `user_sampling` has the options of `sampling` with the prefix `user-`.
"""
GROUPS: dict[str, type[Record]] = {
    "sampling": Sampling,
    "requests": Requests,
    "budget": Budget,
    "local": LocalModel,
}


def reference() -> str:
    """The whole page."""
    return HEAD + "".join(map(_group, GROUPS)) + "".join(map(_section, cli.steps()))


def _group(name: str) -> str:
    """The options of a shared group, as a step with that group alone has them."""
    step = type(
        "Shared", (Step,), {"__annotations__": {name: GROUPS[name]}, name: GROUPS[name](), "command": name}
    )
    return f"\n### {name}\n\n" + _table(options(step))


def _section(kind: type[Step]) -> str:
    text = inspect.getdoc(kind) or ""
    lines = [f"\n## maieutic {kind.command}\n", f"`maieutic.{kind.__name__}`. {text}\n"]
    if kind.examples:
        lines += ["```sh", *kind.examples, "```\n"]
    own = [option for option in options(kind) if len(option.path) == 1]
    if own:
        lines.append(_table(own))
    if shared := [_shared(kind, name) for name in kind.model_fields if group(kind, name)]:
        lines.append(f"Groups: {', '.join(shared)}.\n")
    return "\n".join(lines)


def _shared(kind: type[Step], name: str) -> str:
    """A group of a step, with the defaults that are the step's own."""
    record = group(kind, name)
    held = kind.model_fields[name].default
    assert record is not None
    fresh = record()
    own = {key: value for key, value in dict(held).items() if value != getattr(fresh, key)} if held else {}
    return f"`{name}`" + (f" ({', '.join(f'{key} {value}' for key, value in own.items())})" if own else "")


def _table(found: list[Option]) -> str:
    return "\n".join(["| option | what | default |\n|---|---|---|", *map(_row, found), ""])


def _row(option: Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in option.flag.split())
    default = "required" if option.required else shown_default(option)
    cell = "" if default is None else default if option.required else f"`{default}`"
    return f"| {flags} | {_cell(option.help)} | {cell} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def architecture() -> str:
    """docs/architecture.md with each package's lines, in hundreds."""

    def counted(row: re.Match[str]) -> str:
        files = (ROOT / "src" / "maieutic" / row[1]).rglob("*.py")
        lines = sum(file.read_text(encoding="utf-8").count("\n") for file in files)
        return f"| `{row[1]}/` | {row[2]} | {round(lines, -2):,} |"

    text = ARCHITECTURE.read_text(encoding="utf-8")
    return re.sub(r"^\| `(\w+)/` \| (\d+) \| [\d,]+ \|", counted, text, flags=re.M)


if __name__ == "__main__":
    COMMANDS.write_text(reference(), encoding="utf-8")
    ARCHITECTURE.write_text(architecture(), encoding="utf-8")
