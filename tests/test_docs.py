"""The documents name what is there: commands that parse, options that exist, files that lie where they say."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tree import commands, parse

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "maieutic"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.S | re.M)
_CALL = re.compile(r"(?:\S+=\S+ )*(?:\S*/)?maieutic\s")


def calls(text: str) -> Iterator[str]:
    """Each `maieutic …` of the shell blocks: continued lines joined, prompts, comments and what follows a pipe cut."""
    for block in _FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            for part in re.split(r"\s(?:\||&&|;|>{1,2}|2>)\s", line):
                if _CALL.match(part):
                    yield _CALL.sub("", part, count=1)


SHOWN = [(page, call) for page in PAGES for call in calls(page.read_text(encoding="utf-8"))]


def test_the_documents_show_commands() -> None:
    assert {page.name for page, _ in SHOWN} >= {"README.md"}


@pytest.mark.parametrize(("page", "call"), SHOWN, ids=[f"{page.name}: {call}" for page, call in SHOWN])
def test_a_shown_command_parses(page: Path, call: str) -> None:
    words = shlex.split(call, comments=True)
    if words in (["--help"], ["--version"]):
        return
    parse(words)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_options_named_in_prose_exist(page: Path) -> None:
    """An option in `code` stands on some command; those of other programs are in fences, or named here."""
    known = {
        option
        for _, command in commands()
        for one in command.params
        for option in one.opts + one.secondary_opts
    }
    theirs = {"--index-url", "--help", "--extra-index-url", "--system-site-packages", "--config_file"}
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    named = {
        option
        for code in re.findall(r"`([^`\n]+)`", prose)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }
    assert not named - known - theirs


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = {
        target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target
    }
    assert not [target for target in targets if target and not (page.parent / target).exists()]


@pytest.mark.parametrize("name", ["tour.md", "architecture.md"])
def test_every_path_of_the_tour_exists(name: str) -> None:
    """A path in `code` with a slash lies in the package or beside it."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    named = {code for code in re.findall(r"`([\w./-]+)`", text) if "/" in code}
    assert len(named) > 20
    assert not [path for path in named if not (SRC / path).exists() and not (ROOT / path).exists()]


def test_readme_and_tour_follow_the_floor_plan() -> None:
    """The README's tree lists the packages of the floor plan in its order; the tour passes through all of them."""
    plan, readme, tour = (
        path.read_text(encoding="utf-8")
        for path in (ROOT / "docs" / "architecture.md", ROOT / "README.md", ROOT / "docs" / "tour.md")
    )
    floors = re.findall(r"^\| `(\w+/)` \| (\d+) \|", plan, re.M)
    assert len(floors) > 10
    assert re.findall(r"^  (\w+/) .* (\d+)$", readme, re.M) == floors
    assert not [name for name, _ in floors if f"**`{name}`**" not in tour]


def test_the_command_reference_is_the_steps_own() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    held = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert held == tool.reference(), "write it again: python tools/reference.py"
