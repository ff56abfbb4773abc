"""Run a recipe: a YAML file of stages with their inputs and outputs, run in order; finished stages are skipped.

    name: platolm
    values:                       # what --set changes; null must be set where a stage uses it
      corpus: null
    stages:                       # in order; ${name} is a value, ${stage} an earlier stage's folder
      import: {do: import, sources: ["${corpus}"]}
      clean: {do: clean, corpus: "${import}/corpus.jsonl"}

A stage is a step (`maieutic.recipes.steps`): `do:` is its command, the other keys are its settings. Repeated stages
are in a group (`maieutic.recipes.expand`). The run folder keeps the resolved recipe. The same command resumes the
run; a recipe with other settings is refused, and the error names them. Before the first stage, every model is checked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from difflib import get_close_matches
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml
from pydantic import Field, ValidationError, field_validator

from maieutic.core.console import note, say
from maieutic.core.costs import Cost, Flow, Rates
from maieutic.core.errors import InputError, MaieuticError, MissingInput, RecipeError, RunConflict
from maieutic.core.messages import Record
from maieutic.core.step import Result, Step, build
from maieutic.core.store import changed_keys, full_disk, listed, read_json, write_json
from maieutic.core.workers import run_async
from maieutic.recipes.expand import expand
from maieutic.recipes.independence import refuse_training_judges
from maieutic.recipes.steps import STEPS

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_KINDS = {kind.command: kind for kind in STEPS}


class Recipe(Record):
    """The content of a recipe file."""

    name: str = ""
    about: str = ""
    extends: str | None = None
    """A recipe whose values and stages this recipe starts from; its own values and stages replace them."""
    values: dict[str, Any] = Field(default_factory=dict)
    """Values that `--set` changes. A value may refer to a stage (`hf/${tiny}/model`) that runs earlier."""
    rates: dict[str, Any] = Field(default_factory=dict)
    """Speeds for the estimated hours of `--dry-run`; see `maieutic.core.costs.Rates`."""
    first: dict[str, Any] = Field(default_factory=dict)
    """Stages that come before the stages of the extended recipe."""
    stages: dict[str, Any] = Field(default_factory=dict)

    @field_validator("values", "rates", "first", "stages", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: Any) -> Any:
        return {} if value is None else value


class PlannedStage(NamedTuple):
    """A stage, resolved."""

    name: str
    step: Any
    out: Path
    needs: tuple[str, ...]
    """Earlier stages whose outputs the stage reads."""


class Plan(NamedTuple):
    """A recipe, resolved for one run folder."""

    name: str
    out: Path
    values: dict[str, Any]
    stages: tuple[PlannedStage, ...]
    rates: Rates = Rates()


class Expected(NamedTuple):
    """A line of the dry run."""

    stage: str
    does: str
    done: bool
    cost: Cost


def recipe_names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml")
    )


def load_recipe(name: str, above: tuple[str, ...] = ()) -> Recipe:
    """A recipe by name or path, merged with the recipe that it extends; `above` are the recipes that extend it.

    Raises:
        MissingInput, RecipeError: there is no such recipe, or the file is not a recipe.
    """
    if name in above:
        raise RecipeError(f"{name} extends itself", "Name another recipe under `extends:`.")
    try:
        recipe = Recipe.model_validate(yaml.safe_load(_text(name)))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name}: not YAML: {str(error).splitlines()[0]}", "Correct the file.") from None
    except ValidationError as error:
        raise RecipeError(
            f"{name}: not a recipe: {_first(error)}",
            f"Its keys are {', '.join(sorted(Recipe.model_fields))}.",
        ) from None
    values, rates, stages = recipe.values, recipe.rates, {**recipe.first, **recipe.stages}
    if recipe.extends:
        parent = load_recipe(recipe.extends, (*above, name))
        values, rates = {**parent.values, **values}, {**parent.rates, **rates}
        stages = {**recipe.first, **parent.stages, **recipe.stages}
        strange = sorted(recipe.values.keys() - parent.values.keys())
        if unknown := strange and [
            key for key in strange if key not in _used(expand(stages, values), values)
        ]:
            raise RecipeError(
                f"{name}: {recipe.extends} has no value {unknown[0]!r}",
                _did_you_mean(unknown[0], parent.values),
            )
    if not stages:
        raise RecipeError(f"{name}: no stages", "List them under `stages:`.")
    return Recipe(name=recipe.name or name, about=recipe.about, values=values, rates=rates, stages=stages)


def resolve(name: str | Recipe, out: Path, settings: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a recipe for a run folder; `settings` replace the recipe's values.

    Raises:
        RecipeError: a value is missing or unknown, a reference has no target, or a stage has an unknown setting.
    """
    recipe = load_recipe(name) if isinstance(name, str) else name
    values = {**recipe.values, **(settings or {})}
    stages = expand(recipe.stages, values)
    used = _used(stages, values) - stages.keys()
    if unknown := [key for key in settings or {} if key not in recipe.values and key not in used]:
        raise RecipeError(
            f"recipe {recipe.name} has no value {unknown[0]!r}", _did_you_mean(unknown[0], recipe.values)
        )
    if missing := [key for key, value in values.items() if value is None and key in used]:
        raise RecipeError(
            f"recipe {recipe.name} needs a value for {', '.join(missing)}", f"Pass --set {missing[0]}=…"
        )
    try:
        rates = Rates.model_validate(recipe.rates)
    except ValidationError as error:
        raise RecipeError(
            f"recipe {recipe.name}: rates: {_first(error)}", f"Its keys are {', '.join(Rates.model_fields)}."
        ) from None
    planned: dict[str, PlannedStage] = {}
    for key, spec in stages.items():
        planned[key] = _planned(key, spec, values, planned, out)
    every = tuple(planned.values())
    refuse_training_judges(
        {stage.name: stage.step for stage in every}, {stage.name: stage.needs for stage in every}
    )
    for stage in every:
        stage.step.check_among({str(other.out): other.step for other in every})
    return Plan(recipe.name, out, values, every, rates)


def _references(stages: Any) -> set[str]:
    """Every name inside `${…}` in these stages."""
    if isinstance(stages, dict):
        return {name for item in (*stages, *stages.values()) for name in _references(item)}
    if isinstance(stages, list):
        return {name for item in stages for name in _references(item)}
    return set(_REFERENCE.findall(stages)) if isinstance(stages, str) else set()


def _used(stages: Any, values: Mapping[str, Any]) -> set[str]:
    """Every name that these stages use, directly or through a value that refers to another name."""
    used: set[str] = set()
    new = _references(stages)
    while new:
        used |= new
        new = {name for key in new if key in values for name in _references(values[key])} - used
    return used


def expected_costs(plan: Plan) -> list[Expected]:
    """The estimated cost of each stage: calls, tokens, memory, hours. Runs nothing and asks no model."""
    from maieutic.models.checkpoint import parameters

    flow = Flow(plan.rates, parameters)
    for stage in plan.stages:
        stage.step.declare_models(stage.out, flow)
    lines = []
    for stage in plan.stages:
        cost = stage.step.expect(stage.out, flow)
        lines.append(Expected(stage.name, stage.step.describe(), _done(stage), cost))
    return lines


def run_plan(plan: Plan, *, check: bool = True) -> dict[str, Any]:
    """Run the stages that are not finished; returns each stage's manifest by name.

    Raises:
        RunConflict: the folder holds another run.
        MissingInput: a file does not exist. Raised before any stage runs.
        ModelError: a model is unreachable or unknown, or its key is refused. Raised before any stage runs.
    """
    resolved = _resolved(plan)
    _refuse(plan, resolved)
    pending = [stage for stage in plan.stages if not _done(stage)]
    if check:
        if absent := missing_files(plan):
            raise MissingInput(f"{absent[0]}: no such file or folder", "Check the path; nothing has run yet.")
        _check_models(pending)
    with full_disk(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
    if not (plan.out / "recipe.json").exists():
        write_json(plan.out / "recipe.json", resolved)
    for number, stage in enumerate(plan.stages, 1):
        if stage not in pending:
            note(f"[{number}/{len(plan.stages)}] {stage.name}: finished before")
            continue
        note(f"[{number}/{len(plan.stages)}] {stage.name}: {stage.step.describe()}")
        started = time.monotonic()
        stage.step.run_stage(stage.out)
        _keep_time(plan.out / "timings.json", stage.name, time.monotonic() - started)
    return {stage.name: read_json(stage.out / "manifest.json") for stage in plan.stages}


def _keep_time(path: Path, name: str, seconds: float) -> None:
    """Keep the seconds of a stage outside its folder: the content of the folder must be reproducible."""
    held = read_json(path) if path.is_file() else {}
    write_json(path, {**held, name: round(seconds, 3)})


def _planned(
    name: str, spec: Any, values: Mapping[str, Any], earlier: Mapping[str, PlannedStage], out: Path
) -> PlannedStage:
    if not isinstance(spec, dict) or str(spec.get("do")) not in _KINDS:
        raise RecipeError(f"stage {name}: `do` is none of {', '.join(_KINDS)}", "Name a step under `do:`.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in values:
        raise RecipeError(
            f"stage {name!r}: not a good name",
            "Use lower-case letters, digits and -; a value's name is not allowed.",
        )
    kind = _KINDS[spec["do"]]
    needs: dict[str, None] = {}
    given = {
        key: _filled(value, f"stage {name}, {key}", values, earlier, needs)
        for key, value in spec.items()
        if key != "do"
    }
    try:
        step = build(kind, given)
    except InputError as error:
        raise RecipeError(f"stage {name}: {error.what}", error.hint) from None
    try:
        step.check()
    except ValidationError as error:
        raise RecipeError(f"stage {name}: {_first(error)}", "Change that setting in the recipe.") from None
    except MaieuticError as error:
        raise type(error)(f"stage {name}: {error.what}", error.hint) from None
    return PlannedStage(name, step, out / name, tuple(needs))


def _first(error: ValidationError) -> str:
    """The first error, and its place."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")


def _filled(
    value: Any,
    where: str,
    values: Mapping[str, Any],
    earlier: Mapping[str, PlannedStage],
    needs: dict[str, None],
) -> Any:
    """The value with its references resolved; a value that is a single reference keeps its type."""
    if isinstance(value, list):
        filled = [_filled(item, where, values, earlier, needs) for item in value]
        return [part for item in filled for part in (item if isinstance(item, list) else [item])]
    if isinstance(value, dict):
        return {key: _filled(item, where, values, earlier, needs) for key, item in value.items()}
    if not isinstance(value, str):
        return value

    def lookup(name: str) -> Any:
        if name in earlier:
            needs[name] = None
            return str(earlier[name].out)
        if name in values:
            return _filled(values[name], f"value {name}", _without(values, name), earlier, needs)
        hint = _did_you_mean(name, [*values, *earlier])
        raise RecipeError(f"{where}: ${{{name}}} is neither a value nor an earlier stage", hint)

    if whole := _REFERENCE.fullmatch(value):
        return lookup(whole[1])
    text = value
    while _REFERENCE.search(text):  # the inner ones first: ${tutor-${rounds}}
        text = _REFERENCE.sub(lambda match: str(lookup(match[1])), text)
    for name in needs:
        _check_output(where, text, earlier[name])
    return text


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values that a value may refer to: all other values."""
    return {key: value for key, value in values.items() if key != name}


def _check_output(where: str, text: str, stage: PlannedStage) -> None:
    """Refuse a reference to a file in a stage's folder that the stage does not declare."""
    _, found, rest = text.partition(f"{stage.out}/")
    if found and rest not in stage.step.outputs:
        raise RecipeError(
            f"{where}: stage {stage.name} does not write {rest!r}",
            f"It writes {', '.join(stage.step.outputs) or 'nothing'}.",
        )


def _done(stage: PlannedStage) -> bool:
    return (stage.out / "manifest.json").is_file()


def _resolved(plan: Plan) -> dict[str, Any]:
    """The resolved recipe, as the run folder keeps it."""
    return {
        "recipe": plan.name,
        "stages": {stage.name: stage.step.settings(plan.out) for stage in plan.stages},
        "files": _hashes(plan),
    }


def _refuse(plan: Plan, resolved: dict[str, Any]) -> None:
    """Raise where the run folder holds another run, or other files."""
    path = plan.out / "recipe.json"
    with full_disk(plan.out):
        if path.exists():
            if changed := changed_keys(read_json(path), resolved):
                raise RunConflict(
                    f"{plan.out} holds a run with other settings: {listed(changed)}",
                    "Give the same settings to resume that run, or another --out for a new run.",
                )
        elif plan.out.exists() and any(plan.out.iterdir()):
            raise RunConflict(
                f"{plan.out} is not empty and holds no run of a recipe",
                "Choose a new or empty folder; nothing in this one was touched.",
            )


def missing_files(plan: Plan) -> list[Path]:
    """The files that pending stages read, that no stage writes, and that do not exist."""
    made = [stage.out for stage in plan.stages]
    read = dict.fromkeys(path for stage in plan.stages if not _done(stage) for path in stage.step.inputs())
    return [path for path in read if not any(path.is_relative_to(out) for out in made) and not path.exists()]


def _hashes(plan: Plan) -> dict[str, str]:
    """SHA-256 of each input file that a value names: a run with changed inputs is refused."""
    paths = [
        item for value in plan.values.values() for item in (value if isinstance(value, list) else [value])
    ]
    return {str(path): sha256(Path(path).read_bytes()).hexdigest() for path in paths if _is_file(path)}


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 4096 and "\0" not in value and Path(value).is_file()


def _check_models(stages: list[PlannedStage]) -> None:
    """Check every model that no pending stage trains: reachable, known by its name, key accepted."""
    from maieutic.models import check

    made = [str(stage.out) for stage in stages]
    specs = dict.fromkeys(spec for stage in stages for spec in stage.step.models())
    for spec in specs:
        if not any(path in spec for path in made):
            try:
                run_async(check(spec))
            except MaieuticError as error:
                raise type(error)(
                    f"{spec}: {error.what}" if spec not in error.what else error.what, error.hint
                ) from None


def _did_you_mean(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known)) or 'none'}."


def _shipped() -> Traversable:
    return files("maieutic") / "recipes"


def _text(name: str) -> str:
    path: Traversable = Path(name)
    if not name.endswith((".yaml", ".yml")):
        path = _shipped() / f"{name}.yaml"
    if not path.is_file():
        raise MissingInput(
            f"no recipe {name!r}", f"Known: {', '.join(recipe_names())}; or give the path of a .yaml file."
        )
    return path.read_text(encoding="utf-8")


class RunResult(Result):
    """The manifests of a recipe's stages."""

    stages: dict[str, Any]

    def show(self) -> None:
        """See `Result`."""
        say(f"{len(self.stages)} stages done in {self.run}")


class Run(Step):
    """Run a recipe's stages in order. Finished stages are skipped; the same command resumes a stopped run."""

    command: ClassVar = "run"
    arguments: ClassVar = ("recipe",)
    flags: ClassVar = {"rates": "--rate"}
    examples: ClassVar = ("maieutic run platolm-small --set corpus=chats.jsonl --out runs/platolm",)

    recipe: str = Field(description="A shipped recipe, or a .yaml file.")
    set: dict[str, Any] = Field(default_factory=dict, description="A value of the recipe, read as YAML.")
    rates: dict[str, Any] = Field(
        default_factory=dict,
        description="Speeds for the estimated hours of --dry-run: served, local (tokens per second), flops.",
    )

    @field_validator("set", "rates")
    @classmethod
    def _read_yaml(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {key: _yaml(value) if isinstance(value, str) else value for key, value in values.items()}

    def plan(self, out: Path) -> Plan:
        """The resolved recipe."""
        recipe = load_recipe(self.recipe)
        return resolve(recipe.model_copy(update={"rates": {**recipe.rates, **self.rates}}), out, self.set)

    def run(self, out: Path | str) -> RunResult:
        """See `Step`."""
        return RunResult(run=str(out), stages=run_plan(self.plan(Path(out))))


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
