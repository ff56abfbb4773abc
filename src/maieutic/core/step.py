"""A step: one thing that the program can do, declared once.

A step is a pydantic class whose fields are its settings. These are generated from the class:

- the Python call: `Judge(data="runs/candidates", rubric="socratic").run("runs/judge")`,
- the command: `maieutic judge runs/candidates --rubric socratic --out runs/judge`,
- the stage of a recipe: `{do: judge, data: "${candidates}", rubric: socratic}`,
- `--help`, `--config FILE`, `--dry-run` and the entry in `docs/commands.md`.

A step's module imports no heavy library at the top: torch, transformers and similar libraries are imported in `run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import orjson
from pydantic import ValidationError, model_validator

from maieutic.core.console import say
from maieutic.core.costs import Cost, Flow
from maieutic.core.errors import InputError
from maieutic.core.messages import Record
from maieutic.core.store import Stage, stage_rows, write_json


class Result(Record):
    """What a step returns: counts and measurements as fields."""

    run: str | None = None
    """The folder or file that the step wrote; null if it wrote nothing."""

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The JSON object that `--json` prints."""
        return self.model_dump(mode="json")

    def manifest(self) -> dict[str, Any]:
        """The JSON object for the manifest of a recipe's stage."""
        return self.json()

    def remarks(self) -> list[str]:
        """Notes that the command prints on standard error, with `--json` too."""
        return []

    def exit_code(self) -> int:
        """The exit code of the command."""
        return 0

    def show(self) -> None:
        """Print the result for people."""
        for name, value in self.json().items():
            say(f"{name.replace('_', ' ')}: {value}")

    def rows(self) -> Iterator[Any]:
        """The rows that the step wrote.

        Raises:
            MissingInput: the step writes no rows.
        """
        return stage_rows(self.run or "")

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`."""
        import pandas

        return pandas.DataFrame([_plain(row) for row in self.rows()])


def _plain(row: Any) -> Any:
    return row.model_dump(mode="json") if hasattr(row, "model_dump") else row


class Step(Record):
    """The base class of all steps. A subclass declares its settings as fields and defines `run`."""

    command: ClassVar[str]
    """The name of the command, and of `do:` in a recipe: `judge`, `eval simulator`. The class has the same name."""
    arguments: ClassVar[tuple[str, ...]] = ()
    """Fields that are positional arguments of the command."""
    shown: ClassVar[tuple[str, ...]] = ()
    """Optional fields that `--help` shows; `--help-all` shows every field. A group's member is `group.member`."""
    flags: ClassVar[Mapping[str, str]] = {}
    """Options that are not named after their field: `{"tutors": "--tutor"}`."""
    examples: ClassVar[tuple[str, ...]] = ()
    """Example commands that `--help` shows."""
    writes: ClassVar[Literal["folder", "files", "file", "result"]] = "folder"
    """The kind of `out`: a run folder of rows, a folder for the files of `outputs` (`files`), one file, or an optional
    JSON file with the result of `run` (`result`)."""
    out_help: ClassVar[str] = ""
    """The help text of `--out`, if the default text does not fit."""
    outputs: ClassVar[tuple[str, ...]] = ()
    """The files in the stage's folder that a recipe may refer to. A step that writes one file writes the first."""

    @model_validator(mode="before")
    @classmethod
    def _fill_groups(cls, values: Any) -> Any:
        """Use the step's own defaults for the members of a group that are not set."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if field is not None and isinstance(field.default, Record) and isinstance(value, Mapping):
                filled[name] = {**dict(field.default), **value}
        return filled

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Make `run` write the file `out`, if the step writes a `result`."""
        super().__pydantic_init_subclass__(**kwargs)
        run = cls.__dict__.get("run")
        if cls.writes != "result" or run is None:
            return

        @wraps(run)
        def run_and_write(self: Step, out: Path | str = "") -> Any:
            result = run(self, out)
            if str(out) not in ("", ".") and result is not None:
                write_json(Path(out), result.json())
            return result

        cls.run = run_and_write  # type: ignore[method-assign]

    def run(self, out: Path | str) -> Result | None:
        """Do the work; null if there is nothing to print afterwards.

        Args:
            out: the folder or file of the kind that `writes` names. The same call resumes an interrupted run.
        """
        raise NotImplementedError

    def run_stage(self, folder: Path) -> None:
        """Do the work as a stage of a recipe: in its own folder, with the manifest written last."""
        if self.writes == "folder":
            self.run(folder)
            return
        step = self.model_copy(update={"force": True}) if "force" in type(self).model_fields else self
        with Stage(folder, self.settings(folder.parent)) as stage:
            result = step.run(folder if self.writes == "files" else folder / self.file_name())
            assert result is not None, "a stage of a recipe has a result"
            stage.finish(result.manifest())

    def file_name(self) -> str:
        """The file in a recipe's stage folder, for a step that writes one file."""
        return self.outputs[0]

    def needs_out(self) -> bool:
        """Whether the step cannot run without `out`."""
        return self.writes != "result"

    def default_out(self) -> Path | None:
        """The default of `--out`; null: `--out` is required."""
        return None

    def check(self) -> None:
        """Check the settings before any work: refuse unknown names, and settings that do not fit together.

        Raises:
            ValidationError, MaieuticError: a setting is wrong; the message names it.
        """

    def check_among(self, steps: Mapping[str, Step]) -> None:
        """Check that the step fits the other stages of a recipe, which are given by their folders.

        Raises:
            RecipeError: stages do not fit together; the message names them.
        """

    def inputs(self) -> list[Path]:
        """The files and folders that the step reads."""
        values = (
            item
            for value in dict(self).values()
            for item in (value if isinstance(value, (list, tuple)) else [value])
        )
        return [item for item in values if isinstance(item, Path)]

    def models(self) -> list[str]:
        """The MODELs that the step calls."""
        return []

    def describe(self) -> str:
        """A short description for the plan of a recipe."""
        return self.command

    def declare_models(self, out: Path, flow: Flow) -> None:
        """Record in `flow` the sizes of models that the step knows or trains, before any cost is estimated."""

    def expect(self, out: Path, flow: Flow) -> Cost:
        """The estimated cost; also records in `flow` the size of the step's output."""
        return Cost()

    def settings(self, root: Path) -> dict[str, Any]:
        """The settings that differ from their defaults, without the path of the run folder, which may be moved."""
        text = self.model_dump_json(exclude_defaults=True).replace(f"{root}/", "")
        return {"do": self.command, **orjson.loads(text)}


def build(kind: type[Step], values: Mapping[str, Any]) -> Step:
    """Make a step from its settings.

    Args:
        kind: the step's class.
        values: its fields; groups as mappings.

    Raises:
        InputError: a setting is unknown, missing or has a wrong value; the message names the setting.
    """
    from difflib import get_close_matches

    if unknown := sorted(map(str, values.keys() - kind.model_fields.keys())):
        close = get_close_matches(unknown[0], kind.model_fields, 1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(kind.model_fields)}."
        raise InputError(f"{kind.command} has no setting {unknown[0]!r}", hint)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise InputError(f"{name} is missing", f"Give {flag(kind, name)}.") from None
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{name}: {message}" if name else message, "Change that setting.") from None


def flag(kind: type[Step], name: str) -> str:
    """The name of a field's option or argument, for an error message."""
    if name in kind.arguments:
        return name.upper()
    return kind.flags.get(name, "--" + name.replace("_", "-"))


def group(kind: type[Step], name: str) -> type[Record] | None:
    """The class of a field that is a group of settings; null for a single setting."""
    annotation = kind.model_fields[name].annotation
    if get_origin(annotation) in (list, tuple, dict):
        return None
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Record):
            return part
    return None
