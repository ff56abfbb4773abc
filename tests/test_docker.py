"""The image's files stay true: they lint, their targets and extras exist, and nothing but the package goes in.

No engine builds them here; what can be held without one is held.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from cli_tree import parse
from pydantic import ValidationError

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, those of the stage it starts from first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in LINES:
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            origin, _, name = rest.partition(" AS ")
            found[name] = list(found.get(origin, [])) + ([("FROM", origin)] if origin not in found else [])
            continue
        found[name].append((word, " ".join(rest.split())))
    return found


STAGES = stages()


def last(stage: str, word: str) -> str:
    return [rest for one, rest in STAGES[stage] if one == word][-1]


def test_the_dockerfile_lints() -> None:
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_targets_run_the_command_as_nobody_special() -> None:
    assert list(STAGES) == ["base", "cuda", "cpu"], "the last one is what is built unasked"
    for stage in ("cuda", "cpu"):
        assert last(stage, "ENTRYPOINT") == '["maieutic"]'
        assert f"useradd --create-home --uid {last(stage, 'USER')} " in last("base", "RUN")
        assert last(stage, "VOLUME") == "/cache/huggingface"
        assert any("HF_HOME=/cache/huggingface" in rest for word, rest in STAGES[stage] if word == "ENV")
        order = [word for word, _ in STAGES[stage]]
        assert order.index("USER") > max(index for index, word in enumerate(order) if word == "RUN")
    assert PROJECT["scripts"]["maieutic"]


def test_what_is_installed_exists() -> None:
    python = re.search(r"python:(3\.\d+)", last("base", "FROM"))
    assert python and f"Programming Language :: Python :: {python[1]}" in PROJECT["classifiers"]
    for stage in ("cuda", "cpu"):
        installs = last(stage, "RUN")
        (extras,) = re.findall(r"'\.\[([\w,]+)\]'", installs)
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
        assert {"train", "export", "serve"} <= set(extras.split(","))
    assert "whl/cpu" in last("cpu", "RUN") and "whl/cpu" not in last("cuda", "RUN")
    copied = [name for word, rest in STAGES["base"] if word == "COPY" for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[ignored.index("*") :][:1] == ["*"]
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert kept == set(copied), "what is copied is let through, and nothing else is"
    assert PROJECT["readme"] in copied and all(name in copied for name in PROJECT["license-files"])


def test_compose_is_valid() -> None:
    compose_spec.ComposeSpecification.model_validate(COMPOSE, extra="forbid")
    broken = {
        **COMPOSE,
        "services": {**COMPOSE["services"], "serve": {**COMPOSE["services"]["serve"], "port": 1}},
    }
    with pytest.raises(ValidationError):
        compose_spec.ComposeSpecification.model_validate(broken, extra="forbid")


def test_compose_names_what_is_there() -> None:
    services: dict[str, Any] = COMPOSE["services"]
    for service in services.values():
        target = service["build"]["target"]
        assert target in STAGES and service["image"] == f"maieutic:{target}"
        assert service["build"]["context"] == "."
        named = {volume.split(":")[0]: volume.split(":")[1] for volume in service["volumes"]}
        assert named["models"] == last(target, "VOLUME") and named["."] == last(target, "WORKDIR")
        assert "models" in COMPOSE["volumes"] and not service.get("privileged")
        for port in service.get("ports", ()):
            assert fnmatch(port, "127.0.0.1:*:*"), "published on this machine alone"
    assert {service["build"]["target"] for service in services.values()} == {"cpu", "cuda"}
    assert parse(services["serve"]["command"]) == ("serve",)
    example = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "docker run" in line]
    assert parse(example[0].split("maieutic:cpu ")[1].split())
