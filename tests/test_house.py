"""The package as a whole: imports follow the floor plan, start-up is light, commands explain themselves, the wheel runs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_tree import commands, examples, parse

import maieutic
from maieutic import cli
from maieutic.cli.generate import options
from maieutic.core import errors
from maieutic.core.step import Step

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "maieutic"
FILES = sorted(SRC.rglob("*.py"))


def floors() -> dict[str, int]:
    """Each package's floor, from the one floor plan: the table in docs/architecture.md."""
    plan = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return {name: int(floor) for name, floor in re.findall(r"^\| `(\w+)/` \| (\d+) \|", plan, re.M)}


FLOORS = floors()
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "matplotlib",
)
TORCH_FACING = (
    "train",
    "models.engine",
    "models.forward",
)


def module(file: Path) -> str:
    """The dotted name of a file's module below `maieutic`; empty for the package itself."""
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(file): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


class Import(NamedTuple):
    by: str
    of: str
    line: int
    inside: bool
    """In a function, or for the type checker only."""


def imports() -> Iterator[Import]:
    """Every import of every file, those inside functions too."""
    for name, tree in MODULES.items():
        later = {
            id(node)
            for scope in ast.walk(tree)
            if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef, ast.If))
            for node in ast.walk(scope)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}:{node.lineno}: a relative import"
                found = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            yield from (Import(name, of, node.lineno, id(node) in later) for of in found)


IMPORTS = list(imports())


def test_every_package_has_its_floor_and_imports_only_go_down() -> None:
    packages = {file.relative_to(SRC).parts[0] for file in FILES if file.parent != SRC}
    assert packages == FLOORS.keys()
    wrong = [
        f"{one.by}:{one.line} imports {one.of}"
        for one in IMPORTS
        if one.of.startswith("maieutic.") and one.by.split(".")[0] in FLOORS
        if (by := one.by.split(".")[0]) != (of := one.of.split(".")[1])
        if FLOORS[by] <= FLOORS.get(of, 0)
    ]
    assert not wrong, "a package imports one that is not below it"


def test_modules_import_each_other_in_no_circle() -> None:
    """What is imported when a module is: imports inside functions, and for the type checker, do not count."""
    below: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in IMPORTS:
        if not one.inside and one.of.startswith("maieutic."):
            of = one.of.removeprefix("maieutic.")
            below[one.by].add(of if of in MODULES else of.rpartition(".")[0])
    while leaves := {name for name, of in below.items() if not of & below.keys() - {name}}:
        below = {name: of for name, of in below.items() if name not in leaves}
    assert not below


def test_heavy_libraries_are_imported_at_the_top_of_torch_facing_rooms_only() -> None:
    wrong = [
        f"{one.by}:{one.line} imports {one.of}"
        for one in IMPORTS
        if one.of.split(".")[0] in HEAVY and not one.inside and not one.by.startswith(TORCH_FACING)
    ]
    assert not wrong


CLI_FILES = [name for name in MODULES if name.startswith("cli")]
LIGHT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if found := [heavy for heavy in {heavy} if heavy in sys.modules]:
        sys.exit(f"importing {{name}} loads {{found}}")
"""


def test_the_edge_is_light() -> None:
    """`import maieutic` and every command file, together: not one loads a heavy library."""
    names = ["maieutic", *(f"maieutic.{name}" for name in CLI_FILES)]
    heavy = (*HEAVY, "scipy", "sklearn", "pyarrow", "pandas")
    code = LIGHT.format(heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy() -> None:
    """`maieutic --help` has to be fast; what it imports decides that, on any machine."""
    code = "import sys, maieutic.cli as c; sys.argv = ['maieutic', '--help']\ntry: c.main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: maieutic" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {*HEAVY, "numpy", "scipy", "pandas", "pyarrow", "aiohttp", "jinja2"}
    assert len(loaded) < 900, len(loaded)


def test_the_public_names_are_the_steps_and_the_data_types() -> None:
    assert {kind.__name__ for kind in cli.steps()} <= set(maieutic.__all__)
    assert {"Conversation", "Message", "load_model", "read_corpus", "render"} <= set(maieutic.__all__)
    for name in maieutic.__all__:
        value = getattr(maieutic, name)
        assert name == "__version__" or value.__name__ in (name, "load")
    with pytest.raises(AttributeError, match="nothing"):
        _ = maieutic.nothing


@pytest.mark.parametrize("kind", cli.steps(), ids=lambda kind: kind.command)
def test_a_step_has_one_name_and_every_setting_has_words(kind: type[Step]) -> None:
    """`maieutic eval judge score`, `do: eval judge score` and `EvalJudgeScore` are one name."""
    words = re.split(r"[ -]", kind.command)
    assert kind.__name__ == "".join(word.capitalize() for word in words)
    assert kind.__doc__
    assert all(option.help for option in options(kind))


EVERY = list(commands())


def test_the_commands_are_those_that_others_call() -> None:
    names = {" ".join(path) for path, _ in EVERY}
    promised = """
        demo; demo-base; demo-world; import; convert; clean; split; stats; mask; intents; train sft; train dpo;
        simulate; candidates; judge; preferences; rewards; eval simulator; eval tutor score; eval judge score; eval mt-bench score;
        eval mt-bench pairwise; eval vicuna-bench score; eval alpaca-eval score; eval paired; run; chat; export; serve
    """
    assert {" ".join(name.split()) for name in promised.split(";")} <= names


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_every_command_explains_itself(path: tuple[str, ...], command: object) -> None:
    """Its help has an example that parses, and every option but the obvious ones has words."""
    shown = examples(command)
    assert shown, f"{' '.join(path)}: no `Example: maieutic …` in its help"
    for words in shown:
        assert parse(words) == path, words
    assert "--json" in {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]


def test_files_and_functions_are_small() -> None:
    long = [file.name for file in FILES if file.read_text(encoding="utf-8").count("\n") > 600]
    long += [
        f"{name}.{node.name}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 100
    ]
    assert not long


def test_every_error_says_how_to_mend_it() -> None:
    """Where one of our errors is raised it is given both lines; its tree is the one drawn in the docstring."""
    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}
    bare = [
        f"{name}:{node.lineno}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours
        if not _mended(node)
    ]
    assert not bare
    drawn = set(re.findall(r"\w+", errors.__doc__ or ""))
    assert ours <= drawn, ours - drawn


def _mended(call: ast.Call) -> bool:
    """Whether an error is made with a hint that is not empty."""
    given = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg in ("hint", None))]
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return True
    return bool(given) and not (isinstance(given[0], ast.Constant) and not given[0].value)


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


ELSEWHERE = re.compile(
    r"/work/|/root/|/opt/|/home/\w|shared/(?!data)|(?:DESIGN|FACTS|STYLE|HOUSE)\.md|\bissue \d|\bthe lead\b",
    re.I,
)


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of a machine it was written on, no paper that is not in it."""
    here = Path(__file__).name
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked()
        if path.name != here and path.suffix not in (".png", ".parquet", ".gz", ".safetensors")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if (match := ELSEWHERE.search(line))
    ]
    assert not found


class Installed(NamedTuple):
    """An environment that holds the wheel and its light dependencies, and nothing else."""

    bin: Path
    files: set[str]

    def run(self, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        call = [str(self.bin / "maieutic"), *map(str, words)]
        return subprocess.run(call, cwd=cwd, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("maieutic-*.whl")
    venv.create(folder / "env", with_pip=True)
    pip = [str(folder / "env" / "bin" / "python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return Installed(folder / "env" / "bin", set(zipfile.ZipFile(wheel).namelist()))


@pytest.mark.slow
def test_the_wheel_holds_prompts_rubrics_recipes_and_samples(installed: Installed) -> None:
    ours = {str(path.relative_to(ROOT / "src")) for path in tracked() if path.is_relative_to(SRC)}
    assert ours <= installed.files, ours - installed.files
    assert {Path(name).suffix for name in ours} >= {".py", ".md", ".yaml", ".jsonl", ".jinja"}
    assert not [name for name in installed.files if "test" in name.split("/")[0]]


@pytest.mark.slow
def test_the_wheel_runs_without_extras(installed: Installed, tmp_path: Path) -> None:
    where = (
        "import importlib.util as u, maieutic.recipes.demo as d; print(u.find_spec('torch'), d.__path__[0])"
    )
    found = subprocess.run(
        [installed.bin / "python", "-c", where], capture_output=True, text=True, cwd=tmp_path
    )
    torch, demo = found.stdout.split()
    assert torch == "None"
    sample = f"{demo}/sample.jsonl"
    assert "Usage: maieutic" in installed.run("--help", cwd=tmp_path).stdout
    stats = installed.run("stats", sample, "--json", cwd=tmp_path)
    assert json.loads(stats.stdout)["conversations"] > 50, stats.stderr
    plan = installed.run(
        "run", "platolm", "--set", f"corpus={sample}", "--dry-run", "--out", "r", "--json", cwd=tmp_path
    )
    assert [stage["name"] for stage in json.loads(plan.stdout)["stages"]][:3] == ["import", "clean", "split"]
    score = installed.run(
        "eval", "tutor", "score", ROOT / "tests/data/evals/tutor_base.json", "--json", cwd=tmp_path
    )
    assert json.loads(score.stdout)["n"] > 0, score.stderr
    for words in (
        ("import", sample, "--out", "c.jsonl"),
        ("clean", "c.jsonl", "--out", "d.jsonl"),
        ("split", "d.jsonl", "--out", "parts"),
        ("convert", "d.jsonl", "--to", "sharegpt", "--out", "s.json"),
    ):
        done = installed.run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_without_an_extra_two_lines_say_which(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").touch()
    for words in (
        ("mask", "c.jsonl", "--model", "base", "--role", "user"),
        ("train", "sft", "--model", "base", "--data", "c.jsonl", "--role", "user", "--out", "t"),
        ("train", "dpo", "--model", "base", "--data", "c.jsonl", "--out", "t"),
        ("chat", "hf/base"),
        ("simulate", "--user", "hf/base", "--assistant", "hf/base", "-n", 1, "--out", "s"),
        ("eval", "simulator", "--people", "c.jsonl", "--model", "hf/base"),
        ("demo-base", "--corpus", "c.jsonl", "--out", "b"),
        ("demo", "--out", "d"),
        ("convert", "c.jsonl", "--to", "parquet", "--out", "c.parquet"),
        ("export", "base", "--out", "e"),
    ):
        done = installed.run(*words, cwd=tmp_path)
        error = [line for line in done.stderr.splitlines() if not line.startswith("[")]
        assert (done.returncode, len(error)) == (1, 2), (words, done.stderr)
        assert error[0].startswith("error: ") and "maieutic[train]" in error[1], (words, done.stderr)
