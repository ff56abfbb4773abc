"""A YAML recipe → stages with declared inputs and outputs, run in order; done stages are skipped.

    name: platolm
    values:                       # what --set changes; null must be set
      corpus: null
    stages:                       # in order; ${name} is a value, ${stage} an earlier stage's folder
      import: {do: import, sources: ["${corpus}"]}
      clean: {do: clean, corpus: "${import}/corpus.jsonl"}

What a stage can do, and with which settings, is in `maieutic.stages`. A run folder keeps the resolved recipe; the same
command goes on with it, and a changed one is refused with the changed settings named. Before the first stage, every
model that stands in the recipe is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from maieutic.console import note
from maieutic.errors import MaieuticError, MissingInput, RecipeError, RunConflict
from maieutic.stages import ACTIONS, Action, Cost, Flow
from maieutic.store import changed_keys, full_disk, read_json, write_json

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_KEYS = {"name", "about", "extends", "values", "stages"}


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


def load(name: str) -> dict[str, Any]:
    """A recipe by name or path, with what it extends put in.

    Raises:
        MissingInput, RecipeError: there is none, or it is no recipe.
    """
    text = _text(name)
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not YAML: {str(error).splitlines()[0]}", "Mend the file.") from None
    if not isinstance(recipe, dict) or not recipe.keys() <= _KEYS:
        wrong = ", ".join(map(str, sorted(set(recipe) - _KEYS))) if isinstance(recipe, dict) else "no mapping"
        raise RecipeError(f"{name}: not a recipe ({wrong})", f"Its keys are {', '.join(sorted(_KEYS))}.")
    values, stages = recipe.get("values") or {}, recipe.get("stages") or {}
    if base := recipe.get("extends"):
        parent = load(str(base))
        unknown = sorted(values.keys() - parent["values"].keys())
        if unknown:
            raise RecipeError(
                f"{name}: {base} has no value {unknown[0]!r}", _did_you_mean(unknown[0], parent["values"])
            )
        values, stages = {**parent["values"], **values}, {**parent["stages"], **stages}
    if not stages:
        raise RecipeError(f"{name}: no stages", "List them under `stages:`.")
    return {**recipe, "name": recipe.get("name", name), "values": values, "stages": stages}


def resolve(name: str, out: Path, settings: Mapping[str, Any] | None = None) -> Plan:
    """The plan that a recipe means in a run folder, with `settings` in place of its values.

    Raises:
        RecipeError: a value is missing or unknown, a reference leads nowhere, a stage has a setting it does not know.
    """
    recipe = load(name)
    values = dict(recipe["values"])
    for key, value in (settings or {}).items():
        if key not in values:
            raise RecipeError(f"recipe {recipe['name']} has no value {key!r}", _did_you_mean(key, values))
        values[key] = value
    if missing := [key for key, value in values.items() if value is None]:
        raise RecipeError(
            f"recipe {recipe['name']} needs a value for {', '.join(missing)}", f"Pass --set {missing[0]}=…"
        )
    steps: list[Step] = []
    for stage, spec in recipe["stages"].items():
        steps.append(_step(stage, spec, values, {step.name: step for step in steps}, out))
    return Plan(recipe["name"], out, values, tuple(steps))


def expect(plan: Plan) -> list[Expected]:
    """What each stage will cost: calls, tokens, memory. Runs nothing and asks no model."""
    flow = Flow()
    lines = []
    for step in plan.steps:
        cost = step.action.expect(step.out, flow)
        lines.append(Expected(step.name, step.action.describe(), _done(step), cost))
    return lines


def run(plan: Plan, *, check: bool = True) -> dict[str, Any]:
    """Run what is owed; returns each stage's manifest by name.

    Raises:
        RunConflict: the folder holds another run.
        ModelError: a model is not reachable, not there, or its key is refused; before anything has run.
    """
    _keep(plan)
    owed = [step for step in plan.steps if not _done(step)]
    if check:
        _check_models(owed)
    for number, step in enumerate(plan.steps, 1):
        if step not in owed:
            note(f"[{number}/{len(plan.steps)}] {step.name}: done already")
            continue
        note(f"[{number}/{len(plan.steps)}] {step.name}: {step.action.describe()}")
        step.action.run(step.out)
    return {step.name: read_json(step.out / "manifest.json") for step in plan.steps}


def _step(name: str, spec: Any, values: Mapping[str, Any], earlier: Mapping[str, Step], out: Path) -> Step:
    if not isinstance(spec, dict) or spec.get("do") not in ACTIONS:
        raise RecipeError(f"stage {name}: `do` is none of {', '.join(ACTIONS)}", "Say what the stage does.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", str(name)) or name in values:
        raise RecipeError(
            f"stage {name!r}: not a good name", "Use small letters, digits and -, and no value's name."
        )
    kind = ACTIONS[spec["do"]]
    needs: dict[str, None] = {}
    given = {
        key: _filled(value, f"stage {name}, {key}", values, earlier, needs)
        for key, value in spec.items()
        if key != "do"
    }
    if unknown := sorted(given.keys() - kind.model_fields.keys()):
        raise RecipeError(
            f"stage {name}: {spec['do']} has no setting {unknown[0]!r}",
            _did_you_mean(unknown[0], kind.model_fields),
        )
    try:
        return Step(name, kind.model_validate(given), out / name, tuple(needs))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"stage {name}: {place}: {first['msg']}", "Mend that setting in the recipe."
        ) from None


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
            return values[name]
        hint = _did_you_mean(name, [*values, *earlier])
        raise RecipeError(f"{where}: ${{{name}}} is no value and no earlier stage", hint)

    if whole := _REFERENCE.fullmatch(value):
        return lookup(whole[1])
    text = _REFERENCE.sub(lambda match: str(lookup(match[1])), value)
    for stage in needs:
        _check_output(where, text, earlier[stage])
    return text


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


def _keep(plan: Plan) -> None:
    """Write the resolved recipe into the run folder, or refuse where another stands there."""
    resolved = {
        "recipe": plan.name,
        "stages": {step.name: step.action.settings(plan.out) for step in plan.steps},
        "files": _hashes(plan),
    }
    path = plan.out / "recipe.json"
    if path.exists():
        if changed := changed_keys(read_json(path), resolved):
            raise RunConflict(
                f"{plan.out} holds a run with other settings: {', '.join(changed)}",
                "Give the same settings to go on with it, or another --out for a new run.",
            )
        return
    with full_disk(plan.out):
        if plan.out.is_dir() and any(plan.out.iterdir()):
            raise RunConflict(
                f"{plan.out} is not empty and holds no run of a recipe",
                "Choose a new or empty folder; nothing in this one was touched.",
            )
        plan.out.mkdir(parents=True, exist_ok=True)
    write_json(path, resolved)


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
