"""A step is declared once: the Python call, the command, the recipe's stage and the reference come from its class."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from maieutic.cli import generate
from maieutic.core.budget import Budget
from maieutic.core.errors import InputError
from maieutic.core.messages import Sampling
from maieutic.core.settings import LocalModel, ModelSpec, Requests, Source
from maieutic.core.step import Result, Step, build


class Count(Result):
    settings: dict[str, object]


class Toy(Step):
    """Write the settings that were given.

    For tests.
    """

    command: ClassVar = "group toy"
    arguments: ClassVar = ("data",)
    shown: ClassVar = ("k", "sampling.temperature")
    flags: ClassVar = {"k": "-k", "tutors": "--tutor"}
    examples: ClassVar = ("maieutic group toy corpus.jsonl --model hf/x --out o",)
    writes: ClassVar = "file"
    outputs: ClassVar = ("toy.json",)

    data: Source = Field(description="A corpus.")
    model: ModelSpec = Field(description="MODEL that answers.")
    k: int = Field(5, ge=1, description="Replies.")
    mode: Literal["a", "b"] | None = Field(None, description="A mode.")
    tutors: dict[str, str] = Field(default_factory=dict, description="MODELs by name.")
    judge: list[str] = Field(default_factory=list, description="Judges.")
    exact: bool = Field(True, description="Exact.")
    force: bool = Field(False, description="Replace the file.")
    sampling: Sampling = Sampling(temperature=1.2, max_tokens=400)
    user_sampling: Sampling = Sampling()
    requests: Requests = Requests(concurrency=7)
    budget: Budget = Budget()
    local: LocalModel = LocalModel()

    def run(self, out: Path | str) -> Count:
        Path(out).write_text(self.model_dump_json())
        return Count(run=str(out), settings=json.loads(self.model_dump_json()))


@pytest.fixture
def app() -> Iterator[typer.Typer]:
    program = typer.Typer()
    program.command("other")(lambda: None)
    generate.add({"": program}, (Toy,), {"group": "A group."})
    yield program


def call(app: typer.Typer, *words: object) -> dict[str, object]:
    done = CliRunner().invoke(app, ["group", "toy", *map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    settings = json.loads(done.stdout)["settings"]
    assert isinstance(settings, dict)
    return settings


def test_options_set_fields_and_members_of_groups(app: typer.Typer, tmp_path: Path) -> None:
    words = "c.jsonl --model hf/x -k 3 --mode b --tutor a=hf/1 --tutor b=hf/2 --judge j --judge k --no-exact"
    more = "--temperature 0.5 --user-temperature 0.9 --concurrency 2 --price m=1,2 --budget-tokens 9 --template dyadic"
    got = call(app, *words.split(), *more.split(), "--out", tmp_path / "o")
    expected = Toy(
        data="c.jsonl", model="hf/x", k=3, mode="b", tutors={"a": "hf/1", "b": "hf/2"}, judge=["j", "k"], exact=False,
        sampling=Sampling(temperature=0.5, max_tokens=400), user_sampling=Sampling(temperature=0.9),
        requests=Requests(concurrency=2), budget=Budget(tokens=9, prices={"m": (1, 2)}),
        local=LocalModel(template="dyadic"),
    )  # fmt: skip
    assert got == json.loads(expected.model_dump_json())


def test_a_config_file_gives_settings_and_options_win(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: hf/y\nk: 4\nsampling: {temperature: 0, seed: 3}\n")
    got = call(app, "c.jsonl", "--config", tmp_path / "c.yaml", "--temperature", 0.1, "--out", tmp_path / "o")
    assert (got["model"], got["k"]) == ("hf/y", 4)
    assert got["sampling"] == Sampling(temperature=0.1, max_tokens=400, seed=3).model_dump()


def test_a_steps_own_defaults_hold_for_members_that_are_not_given() -> None:
    step = Toy.model_validate(
        {"data": "c", "model": "hf/x", "sampling": {"temperature": 0}, "requests": {"attempts": 2}}
    )
    assert step.sampling == Sampling(temperature=0, max_tokens=400)
    assert step.requests == Requests(concurrency=7, attempts=2)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"data": "c"}, "--model"),
        ({"data": "c", "model": "hf/x", "kk": 1}, "'k'"),
        ({"data": "c", "model": "hf/x", "k": 0}, "k:"),
        ({"data": "c", "model": "hf/x", "requests": {"concurrency": 0}}, "requests.concurrency"),
        ({"data": "c", "model": 3}, "model"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], names: str) -> None:
    with pytest.raises(InputError) as error:
        build(Toy, values)
    assert names in str(error.value)


def test_a_wrong_call_exits_with_two(app: typer.Typer, tmp_path: Path) -> None:
    for words in (
        ["c"],
        ["c", "--model", "hf/x"],
        ["c", "--model", "hf/x", "-k", "0", "--out", str(tmp_path / "o")],
    ):
        assert CliRunner().invoke(app, ["group", "toy", *words]).exit_code == 2


def test_help_shows_few_options_and_help_all_the_others(app: typer.Typer) -> None:
    short = CliRunner().invoke(app, ["group", "toy", "--help"]).output
    every = CliRunner().invoke(app, ["group", "toy", "--help-all"]).output
    assert "--temperature" in short and "--help-all" in short and "--concurrency" not in short
    for option in generate.options(Toy):
        if not option.is_argument:
            assert option.flag.split()[0] in every


def test_a_stage_of_a_recipe_writes_the_file_that_the_step_declares(tmp_path: Path) -> None:
    step = build(Toy, {"data": "c", "model": "hf/x"})
    step.run_stage(tmp_path / "toy")
    assert json.loads((tmp_path / "toy" / "toy.json").read_text())["force"] is True
    config = json.loads((tmp_path / "toy" / "config.json").read_text())
    assert config["do"] == "group toy" and config["model"] == "hf/x" and "k" not in config


class Measure(Step):
    """Measure nothing."""

    command: ClassVar = "measure"
    writes: ClassVar = "result"
    outputs: ClassVar = ("measure.json",)

    value: int = Field(1, description="A value.")

    def run(self, out: Path | str = "") -> Count:
        return Count(settings={"value": self.value})


def test_a_result_is_written_where_out_names_a_file(tmp_path: Path) -> None:
    assert Measure().run().settings == {"value": 1}
    Measure(value=2).run(tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["settings"] == {"value": 2}
    Measure(value=3).run_stage(tmp_path / "stage")
    assert json.loads((tmp_path / "stage" / "measure.json").read_text())["settings"] == {"value": 3}
    assert json.loads((tmp_path / "stage" / "manifest.json").read_text())["settings"] == {"value": 3}
