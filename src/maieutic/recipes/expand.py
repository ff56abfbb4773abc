"""Groups of a recipe's stages that repeat: once for each set, round or seed.

    rounds:
      for: {round: "${rounds}"}      # a number counts 1, 2, …; a list gives its items
      stages:
        "judge-${round}": {do: judge, data: "${candidates-${round}}"}
        "tutor-${round}": {do: train dpo, model: "${tutor-${round.before}}", …}

All stages of one round come before those of the next round; several variables give every combination. A counted
variable also has `.before`, the previous number. Inside a setting, `{for: {set: […]}, item: "${judge-${set}}"}` is the
list of its items. An empty list gives no stages. Only the group's variables are replaced here; `runner` replaces the
rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from maieutic.core.errors import RecipeError

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def expand(stages: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The stages with every group expanded, in order.

    Raises:
        RecipeError: a group is malformed, or two stages get the same name.
    """
    found: dict[str, Any] = {}
    for name, spec in _expanded(stages, values, {}):
        if name in found:
            raise RecipeError(f"two stages are called {name}", "Put the group's variable into the name.")
        found[name] = spec
    return found


def _expanded(
    stages: Mapping[str, Any], values: Mapping[str, Any], bound: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    for name, spec in stages.items():
        if not isinstance(spec, dict) or "for" not in spec:
            yield str(_filled(str(name), values, bound)), _filled(spec, values, bound)
            continue
        if spec.keys() != {"for", "stages"} or not isinstance(spec["stages"], dict):
            raise RecipeError(
                f"group {name}: not a group", "It holds `for:` and `stages:`, and nothing else."
            )
        for inner in _rounds(spec["for"], f"group {name}", values, bound):
            yield from _expanded(spec["stages"], values, inner)


def _rounds(
    spec: Any, where: str, values: Mapping[str, Any], bound: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The variables' values in each round, including the variables of enclosing groups."""
    if not isinstance(spec, dict) or not spec:
        raise RecipeError(f"{where}: `for` names no variable", "Write for: {set: [a, b]}.")
    if taken := [name for name in spec if name in values or name in bound]:
        raise RecipeError(
            f"{where}: {taken[0]!r} is already the name of a value", "Give the variable another name."
        )
    choices = [_items(name, raw, where, values, bound) for name, raw in spec.items()]
    for combination in product(*choices):
        yield {**bound, **{key: value for each in combination for key, value in each.items()}}


def _items(
    name: str, raw: Any, where: str, values: Mapping[str, Any], bound: Mapping[str, Any]
) -> list[dict[str, Any]]:
    given = _filled(raw, values, bound)
    whole = _REFERENCE.fullmatch(given) if isinstance(given, str) else None
    given = values.get(whole[1]) if whole else given
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return [{name: number, f"{name}.before": number - 1} for number in range(1, given + 1)]
    if isinstance(given, list):
        return [{name: item} for item in given]
    raise RecipeError(
        f"{where}: {name} is {given!r}, neither a number from 1 on nor a list", "Give a number or a list."
    )


def _filled(value: Any, values: Mapping[str, Any], bound: Mapping[str, Any]) -> Any:
    """The value with the variables replaced; a value that is only a variable keeps its type."""
    if isinstance(value, dict):
        if value.keys() == {"for", "item"}:
            rounds = _rounds(value["for"], "a list", values, bound)
            return [_filled(value["item"], values, inner) for inner in rounds]
        return {_filled(key, values, bound): _filled(item, values, bound) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values, bound) for item in value]
    if not isinstance(value, str):
        return value
    if (whole := _REFERENCE.fullmatch(value)) and whole[1] in bound:
        return bound[whole[1]]
    return _REFERENCE.sub(lambda found: str(bound.get(found[1], found[0])), value)
