"""Commands from steps: each setting of a step becomes an option, with its name, default and description.

A group of settings (`Sampling`, `Requests`, `LocalModel`, `Budget`) becomes one option a member. A group's field named
`user_sampling` gives its options the prefix `user-`. `--help` shows the common options, `--help-all` all options.

This module builds a signature, from which typer makes the options. Typer was chosen over tyro and pydantic-settings
because it starts much faster, supports shell completion, and can hide options from `--help`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer

from maieutic.core.console import note, print_json, set_json
from maieutic.core.errors import InputError, MissingInput
from maieutic.core.step import Step, build, group

_WITHOUT_PREFIX = ("sampling", "requests", "local", "budget")
SETTINGS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}


class Option(NamedTuple):
    """One option of a command, and the setting that it sets."""

    path: tuple[str, ...]
    """The field, and for a group its member."""
    flag: str
    """`--name`, several separated by a space; an argument's name in capitals."""
    type: Any
    """What typer reads: a plain type, or a list of it."""
    pairs: bool
    """Whether the values are NAME=VALUE."""
    help: str
    default: Any
    required: bool
    shown: bool

    @property
    def name(self) -> str:
        """The parameter's name."""
        return "_".join(self.path)

    @property
    def is_argument(self) -> bool:
        """Whether the command takes the setting by position."""
        return not self.flag.startswith("-")


def options(kind: type[Step]) -> list[Option]:
    """The options of a step's command, in the order of its fields."""
    found = list(_options(kind))
    seen = {option.flag for option in found if len(option.path) == 1}
    found = [option for option in found if len(option.path) == 1 or option.flag not in seen]
    if kind.shown:
        return found
    return [option._replace(shown=len(option.path) == 1) for option in found]


def _options(kind: type[Step]) -> Iterator[Option]:
    for name, field in kind.model_fields.items():
        record = group(kind, name)
        if record is None:
            shown = field.is_required() or name in kind.shown
            flag = name.upper() if name in kind.arguments else kind.flags.get(name, _flag(name))
            yield _option((name,), flag, field, field.default, shown)
            continue
        flags = getattr(record, "flags", {})
        prefix = "" if name in _WITHOUT_PREFIX else name.removesuffix("_sampling") + "_"
        has_seed = "seed" in kind.model_fields
        for member, inner in record.model_fields.items():
            if member == "seed" and has_seed:
                continue  # the step's own seed decides every draw
            default = getattr(field.default, member, inner.default)
            flag = flags.get(member, _flag(prefix + member))
            yield _option((name, member), flag, inner, default, f"{name}.{member}" in kind.shown)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _option(path: tuple[str, ...], flag: str, field: Any, default: Any, shown: bool) -> Option:
    kind, pairs = _plain_type(field.annotation)
    required = field.is_required()
    return Option(
        path,
        flag,
        kind,
        pairs,
        field.description or "",
        None
        if required
        else field.get_default(call_default_factory=True)
        if field.default_factory
        else default,
        required,
        shown or required,
    )


def _plain_type(annotation: Any) -> tuple[Any, bool]:
    """What typer reads for a field's type, and whether the values are NAME=VALUE."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain_type(args[0])
    if origin in (Union, UnionType):
        return _plain_type(next(part for part in args if part is not NoneType))
    if origin is tuple and Ellipsis not in args:
        return tuple[tuple(_plain_type(part)[0] for part in args)], False  # type: ignore[misc]
    if origin in (list, tuple):
        return list[_plain_type(args[0])[0]], False  # type: ignore[misc]
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return list[str], True
    if origin is Literal or annotation in (int, float, bool, Path):
        return annotation, False
    return str, False


def command(kind: type[Step]) -> Callable[..., None]:
    """The function that typer makes a command of."""
    known = options(kind)

    def call(**given: Any) -> None:
        out, as_json, config, dry_run = (given.pop(name) for name in ("out", "json", "config", "dry_run"))
        try:
            step = build(kind, _merged(read_yaml(config), _nested(known, given)))
            step.check()
            target = out or step.default_out()
            if target is None and step.needs_out() and not dry_run:
                raise InputError("out is missing", "Give --out.")
        except InputError as error:
            if isinstance(error, MissingInput):
                raise
            note(f"error: {error.what}\n  {error.hint}")
            raise typer.Exit(2) from None
        if dry_run:
            from maieutic.cli.plan import show_step

            show_step(step, target or Path(), as_json)
            return
        set_json(as_json)
        result = step.run(target) if target is not None else step.run("")
        if result is None:
            return
        for line in result.remarks():
            note(line)
        if as_json:
            print_json(result.json())
        else:
            result.show()
        if code := result.exit_code():
            raise typer.Exit(code)

    parameters = [_parameter(option) for option in known]
    parameters += _common(kind, sum(not option.shown for option in known))
    parameters.sort(
        key=lambda parameter: parameter.annotation.__metadata__[0].__class__.__name__ != "ArgumentInfo"
    )
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__doc__ = help_text(kind)
    call.__name__ = kind.__name__
    return call


def help_text(kind: type[Step]) -> str:
    """The command's help: the class's docstring and its examples."""
    text = inspect.getdoc(kind) or ""
    if kind.examples:
        label = "Example" if len(kind.examples) == 1 else "Examples"
        text += f"\n\n{label}: " + "; ".join(kind.examples)
    return text


def _parameter(option: Option) -> inspect.Parameter:
    text = option.help
    if option.required:
        text += " [required]"
    elif (shown := shown_default(option)) is not None:
        text += f" [default: {shown}]"
    flags = option.flag.split()
    if option.type is bool and option.default is True:
        flags = [f"{flags[0]}/--no-{flags[0].removeprefix('--')}"]
    metavar = "NAME=VALUE" if option.pairs else None
    info: Any
    if option.is_argument:
        info = typer.Argument(help=text, metavar=option.flag, show_default=False)
    else:
        info = typer.Option(*flags, help=text, metavar=metavar, hidden=not option.shown, show_default=False)
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[option.type | None, info],
    )


def shown_default(option: Option) -> str | None:
    """The default as text; null where there is nothing to show."""
    value = option.default
    if value is None or value is False or value in ((), [], {}):
        return None
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(getattr(value, "value", value))


_OUT = {
    "folder": "Run folder; the same command resumes from it.",
    "files": "Folder to write the files to.",
    "file": "File to write.",
    "result": "JSON file to write the result to.",
}


def _common(kind: type[Step], hidden: int) -> Iterator[inspect.Parameter]:
    def parameter(name: str, kind_: Any, info: Any, default: Any = None) -> inspect.Parameter:
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind_, info]
        )

    def show_all(context: typer.Context, value: bool) -> None:
        if value:
            for inner in context.command.params:
                inner.hidden = False  # type: ignore[attr-defined]
            typer.echo(context.get_help())
            raise typer.Exit

    yield parameter(
        "out",
        Path | None,
        typer.Option("--out", "-o", help=kind.out_help or _OUT[kind.writes], show_default=False),
    )
    yield parameter(
        "config",
        Path | None,
        typer.Option(
            help="YAML file of settings; command-line options override the file.", show_default=False
        ),
    )
    yield parameter(
        "dry_run",
        bool,
        typer.Option("--dry-run", help="Check the settings, print the estimated cost, run nothing."),
        False,
    )
    yield parameter(
        "json", bool, typer.Option("--json", help="Print one JSON document and nothing else."), False
    )
    if hidden:
        info = typer.Option(
            "--help-all",
            help=f"Show {hidden} more options.",
            is_eager=True,
            callback=show_all,
            expose_value=False,
        )
        yield parameter("help_all", bool, info, False)


def _nested(known: list[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as a step's settings."""
    values: dict[str, Any] = {}
    for option in known:
        value = given.get(option.name)
        if value is None or value == []:
            continue
        if option.pairs:
            pairs = [_pair(option, text) for text in value]
            value = dict(pairs)
            if len(value) < len(pairs):
                raise InputError(f"{option.flag} gives a name twice", "Give each NAME once.")
        place = values
        for part in option.path[:-1]:
            place = place.setdefault(part, {})
        place[option.path[-1]] = value
    return values


def _pair(option: Option, text: str) -> tuple[str, str]:
    """The name and the value of NAME=VALUE. Of a price MODEL=IN,OUT, only the MODEL may contain more `=`."""
    name, found, value = text.rpartition("=") if option.path[-1] == "prices" else text.partition("=")
    if not found or not name:
        raise InputError(f"{option.flag} {text!r} is not NAME=VALUE", f"Write {option.flag} NAME=VALUE.")
    return name, value


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of both, with groups merged member by member; on conflict the second wins."""
    merged = dict(first)
    for name, value in second.items():
        held = merged.get(name)
        both = isinstance(held, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(held, value) if both else value  # type: ignore[arg-type]
    return merged


def read_yaml(file: Path | None) -> dict[str, Any]:
    """The settings in a YAML file; none without a file.

    Raises:
        MissingInput: there is no such file.
        InputError: the file holds no settings.
    """
    if file is None:
        return {}
    if not file.is_file():
        raise MissingInput(f"{file}: no such file", "Name a YAML file of settings.")
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML ({str(error).splitlines()[0]})", "Correct the file.") from None
    if not isinstance(values, dict):
        raise InputError(f"{file}: no settings in the file", "Write one `name: value` a line.")
    return {str(key): value for key, value in values.items()}


def add(apps: dict[str, typer.Typer], kinds: Sequence[type[Step]], groups: Mapping[str, str]) -> None:
    """Add the steps' commands to the program.

    Args:
        apps: the groups of commands that there are, by their words; `""` is the program itself. New ones are added.
        kinds: the steps, in the order of `--help`.
        groups: the help of each group, by its words, such as `eval mt-bench`.
    """
    for kind in kinds:
        *above, last = kind.command.split()
        for depth in range(1, len(above) + 1):
            words = " ".join(above[:depth])
            if words not in apps:
                apps[words] = typer.Typer(help=groups[words], **SETTINGS)
                apps[" ".join(above[: depth - 1])].add_typer(apps[words], name=above[depth - 1])
        apps[" ".join(above)].command(last)(command(kind))
