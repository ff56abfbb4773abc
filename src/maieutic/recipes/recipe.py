"""A YAML recipe → stages with declared inputs and outputs, run in order; done stages are skipped.

    name: platolm
    values:                       # what --set changes; null must be set where a stage uses it
      corpus: null
    stages:                       # in order; ${name} is a value, ${stage} an earlier stage's folder
      import: {do: import, sources: ["${corpus}"]}
      clean: {do: clean, corpus: "${import}/corpus.jsonl"}

Stages that repeat stand in a group (`maieutic.recipes.expand`). What a stage can do, and with which settings, is in
`maieutic.recipes.stages`. A run folder keeps the resolved recipe; the same command goes on with it, and a changed one
is refused with the changed settings named. Before the first stage, every model that stands in the recipe is checked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import Field, ValidationError, field_validator

from maieutic.core.console import note
from maieutic.core.costs import Cost, Flow, Rates
from maieutic.core.errors import MaieuticError, MissingInput, RecipeError, RunConflict
from maieutic.core.messages import Record
from maieutic.core.store import changed_keys, full_disk, listed, read_json, write_json
from maieutic.recipes.expand import unroll
from maieutic.recipes.stages import ACTIONS, Action
from maieutic.recipes.stages.examiner import refuse_own_examiner
from maieutic.recipes.steps import STEPS

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_KINDS: dict[str, Any] = {**ACTIONS, **{kind.command: kind for kind in STEPS}}


class Recipe(Record):
    """A recipe as it stands in its file."""

    name: str = ""
    about: str = ""
    extends: str | None = None
    """A recipe whose values and stages are taken over; its own win."""
    values: dict[str, Any] = Field(default_factory=dict)
    """What `--set` changes; a value may name stages (`hf/${tiny}/model`), where they stand before those that use it."""
    rates: dict[str, Any] = Field(default_factory=dict)
    """How fast things go, for the hours of a dry run; see `maieutic.core.costs.Rates`."""
    first: dict[str, Any] = Field(default_factory=dict)
    """Stages that come before those taken over."""
    stages: dict[str, Any] = Field(default_factory=dict)

    @field_validator("values", "rates", "first", "stages", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: Any) -> Any:
        return {} if value is None else value


class Step(NamedTuple):
    """A stage, resolved."""

    name: str
    action: Action
    out: Path
    needs: tuple[str, ...]
    """Earlier stages whose outputs it reads."""


class Plan(NamedTuple):
    """A recipe, resolved for one run folder."""

    name: str
    out: Path
    values: dict[str, Any]
    steps: tuple[Step, ...]
    rates: Rates = Rates()


class Expected(NamedTuple):
    """A line of the dry run."""

    stage: str
    does: str
    done: bool
    cost: Cost


def names() -> list[str]:
    """The recipes that ship."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml")
    )


def load(name: str, above: tuple[str, ...] = ()) -> Recipe:
    """A recipe by name or path, with what it extends put in; `above` are those that extend it.

    Raises:
        MissingInput, RecipeError: there is none, or it is no recipe.
    """
    if name in above:
        raise RecipeError(f"{name} extends itself", "Name another recipe under `extends:`.")
    try:
        recipe = Recipe.model_validate(yaml.safe_load(_text(name)))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name}: not YAML: {str(error).splitlines()[0]}", "Mend the file.") from None
    except ValidationError as error:
        raise RecipeError(
            f"{name}: not a recipe: {_first(error)}",
            f"Its keys are {', '.join(sorted(Recipe.model_fields))}.",
        ) from None
    values, rates, stages = recipe.values, recipe.rates, {**recipe.first, **recipe.stages}
    if recipe.extends:
        parent = load(recipe.extends, (*above, name))
        values, rates = {**parent.values, **values}, {**parent.rates, **rates}
        stages = {**recipe.first, **parent.stages, **recipe.stages}
        strange = sorted(recipe.values.keys() - parent.values.keys())
        if unknown := strange and [
            key for key in strange if key not in _used(unroll(stages, values), values)
        ]:
            raise RecipeError(
                f"{name}: {recipe.extends} has no value {unknown[0]!r}",
                _did_you_mean(unknown[0], parent.values),
            )
    if not stages:
        raise RecipeError(f"{name}: no stages", "List them under `stages:`.")
    return Recipe(name=recipe.name or name, about=recipe.about, values=values, rates=rates, stages=stages)


def resolve(name: str | Recipe, out: Path, settings: Mapping[str, Any] | None = None) -> Plan:
    """The plan that a recipe, by name, path or itself, means in a run folder, with `settings` in place of its values.

    Raises:
        RecipeError: a value is missing or unknown, a reference leads nowhere, a stage has a setting it does not know.
    """
    recipe = load(name) if isinstance(name, str) else name
    values = {**recipe.values, **(settings or {})}
    stages = unroll(recipe.stages, values)
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
    steps: list[Step] = []
    for stage, spec in stages.items():
        steps.append(_step(stage, spec, values, {step.name: step for step in steps}, out))
    refuse_own_examiner({step.name: step.action for step in steps}, {step.name: step.needs for step in steps})
    for step in steps:
        step.action.check_among({str(other.out): other.action for other in steps})
    return Plan(recipe.name, out, values, tuple(steps), rates)


def _references(stages: Any) -> set[str]:
    """Every name that stands in `${…}` somewhere in these stages."""
    if isinstance(stages, dict):
        return {name for item in (*stages, *stages.values()) for name in _references(item)}
    if isinstance(stages, list):
        return {name for item in stages for name in _references(item)}
    return set(_REFERENCE.findall(stages)) if isinstance(stages, str) else set()


def _used(stages: Any, values: Mapping[str, Any]) -> set[str]:
    """Every name that these stages use, by themselves or through a value that names another."""
    used: set[str] = set()
    new = _references(stages)
    while new:
        used |= new
        new = {name for key in new if key in values for name in _references(values[key])} - used
    return used


def expect(plan: Plan) -> list[Expected]:
    """What each stage will cost: calls, tokens, memory, hours. Runs nothing and asks no model."""
    flow = Flow(plan.rates)
    for step in plan.steps:
        step.action.declare_models(step.out, flow)
    lines = []
    for step in plan.steps:
        cost = step.action.expect(step.out, flow)
        lines.append(Expected(step.name, step.action.describe(), _done(step), cost))
    return lines


def total(lines: Sequence[Expected]) -> Cost:
    """Of all stages together what can be told; memory is that of the largest."""
    costs = [line.cost for line in lines]
    return Cost(
        _sum(cost.calls for cost in costs),
        _sum(cost.tokens for cost in costs),
        max((cost.gpu_bytes for cost in costs if cost.gpu_bytes), default=None),
        _sum(cost.hours for cost in costs),
        _sum(cost.usd for cost in costs),
    )


def _sum(values: Iterable[Any]) -> Any:
    """Of what is known; null where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def run(plan: Plan, *, check: bool = True) -> dict[str, Any]:
    """Run what is owed; returns each stage's manifest by name.

    Raises:
        RunConflict: the folder holds another run.
        MissingInput: a file is not there; before anything has run.
        ModelError: a model is not reachable, not there, or its key is refused; before anything has run.
    """
    resolved = _resolved(plan)
    _refuse(plan, resolved)
    owed = [step for step in plan.steps if not _done(step)]
    if check:
        if absent := missing(plan):
            raise MissingInput(f"{absent[0]}: no such file or folder", "Check the path; nothing has run yet.")
        _check_models(owed)
    with full_disk(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
    if not (plan.out / "recipe.json").exists():
        write_json(plan.out / "recipe.json", resolved)
    for number, step in enumerate(plan.steps, 1):
        if step not in owed:
            note(f"[{number}/{len(plan.steps)}] {step.name}: done already")
            continue
        note(f"[{number}/{len(plan.steps)}] {step.name}: {step.action.describe()}")
        started = time.monotonic()
        step.action.run_stage(step.out)
        _keep_time(plan.out / "timings.json", step.name, time.monotonic() - started)
    return {step.name: read_json(step.out / "manifest.json") for step in plan.steps}


def _keep_time(path: Path, stage: str, seconds: float) -> None:
    """Seconds by stage, beside the stages: no part of their content, which a repeated run must give again."""
    held = read_json(path) if path.is_file() else {}
    write_json(path, {**held, stage: round(seconds, 3)})


def _step(name: str, spec: Any, values: Mapping[str, Any], earlier: Mapping[str, Step], out: Path) -> Step:
    if not isinstance(spec, dict) or str(spec.get("do")) not in _KINDS:
        raise RecipeError(f"stage {name}: `do` is none of {', '.join(_KINDS)}", "Say what the stage does.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in values:
        raise RecipeError(
            f"stage {name!r}: not a good name", "Use small letters, digits and -, and no value's name."
        )
    kind = _KINDS[spec["do"]]
    needs: dict[str, None] = {}
    given = {
        key: _filled(value, f"stage {name}, {key}", values, earlier, needs)
        for key, value in spec.items()
        if key != "do"
    }
    if unknown := sorted(map(str, given.keys() - kind.model_fields.keys())):
        raise RecipeError(
            f"stage {name}: {spec['do']} has no setting {unknown[0]!r}",
            _did_you_mean(unknown[0], kind.model_fields),
        )
    try:
        action = kind.model_validate(given)
        action.check()
    except ValidationError as error:
        raise RecipeError(f"stage {name}: {_first(error)}", "Mend that setting in the recipe.") from None
    except MaieuticError as error:
        raise type(error)(f"stage {name}: {error.what}", error.hint) from None
    return Step(name, action, out / name, tuple(needs))


def _first(error: ValidationError) -> str:
    """What is wrong first, and where."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")


def _filled(
    value: Any, where: str, values: Mapping[str, Any], earlier: Mapping[str, Step], needs: dict[str, None]
) -> Any:
    """The value with its references resolved; one that is nothing but a reference keeps its type."""
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
        raise RecipeError(f"{where}: ${{{name}}} is no value and no earlier stage", hint)

    if whole := _REFERENCE.fullmatch(value):
        return lookup(whole[1])
    text = value
    while _REFERENCE.search(text):  # the inner ones first: ${tutor-${rounds}}
        text = _REFERENCE.sub(lambda match: str(lookup(match[1])), text)
    for stage in needs:
        _check_output(where, text, earlier[stage])
    return text


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values a value may name: not itself."""
    return {key: value for key, value in values.items() if key != name}


def _check_output(where: str, text: str, step: Step) -> None:
    """A file named inside a stage's folder must be one that the stage declares."""
    _, found, rest = text.partition(f"{step.out}/")
    if found and rest not in step.action.outputs:
        raise RecipeError(
            f"{where}: stage {step.name} does not make {rest!r}",
            f"It makes {', '.join(step.action.outputs) or 'nothing'}.",
        )


def _done(step: Step) -> bool:
    return (step.out / "manifest.json").is_file()


def _resolved(plan: Plan) -> dict[str, Any]:
    """What the run folder keeps of the recipe."""
    return {
        "recipe": plan.name,
        "stages": {step.name: step.action.settings(plan.out) for step in plan.steps},
        "files": _hashes(plan),
    }


def _refuse(plan: Plan, resolved: dict[str, Any]) -> None:
    """Raise where the run folder holds another run, or something else."""
    path = plan.out / "recipe.json"
    with full_disk(plan.out):
        if path.exists():
            if changed := changed_keys(read_json(path), resolved):
                raise RunConflict(
                    f"{plan.out} holds a run with other settings: {listed(changed)}",
                    "Give the same settings to go on with it, or another --out for a new run.",
                )
        elif plan.out.exists() and any(plan.out.iterdir()):
            raise RunConflict(
                f"{plan.out} is not empty and holds no run of a recipe",
                "Choose a new or empty folder; nothing in this one was touched.",
            )


def missing(plan: Plan) -> list[Path]:
    """The files that owed stages read, that no stage makes, and that are not there."""
    made = [step.out for step in plan.steps]
    read = dict.fromkeys(path for step in plan.steps if not _done(step) for path in step.action.inputs())
    return [path for path in read if not any(path.is_relative_to(out) for out in made) and not path.exists()]


def _hashes(plan: Plan) -> dict[str, str]:
    """SHA-256 of each input file that stands in the values: a run belongs to its inputs."""
    paths = [
        item for value in plan.values.values() for item in (value if isinstance(value, list) else [value])
    ]
    return {str(path): sha256(Path(path).read_bytes()).hexdigest() for path in paths if _is_file(path)}


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 4096 and "\0" not in value and Path(value).is_file()


def _check_models(steps: list[Step]) -> None:
    """Every model that no stage has yet to make: reachable, the right name, the key accepted."""
    import asyncio

    from maieutic.models import check

    made = [str(step.out) for step in steps]
    specs = dict.fromkeys(spec for step in steps for spec in step.action.models())
    for spec in specs:
        if not any(path in spec for path in made):
            try:
                asyncio.run(check(spec))
            except MaieuticError as error:
                raise type(error)(
                    f"{spec}: {error.what}" if spec not in error.what else error.what, error.hint
                ) from None


def _did_you_mean(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else f"It knows {', '.join(sorted(known)) or 'none'}."


def _shipped() -> Traversable:
    return files("maieutic") / "recipes"


def _text(name: str) -> str:
    path: Traversable = Path(name)
    if not name.endswith((".yaml", ".yml")):
        path = _shipped() / f"{name}.yaml"
    if not path.is_file():
        raise MissingInput(
            f"no recipe {name!r}", f"Known: {', '.join(names())}; or give the path of a .yaml file."
        )
    return path.read_text(encoding="utf-8")
