"""A step: one thing that the program can do, declared once.

A step is a pydantic class whose fields are its settings. From the class come

- the Python call: `Judge(data="runs/candidates", rubric="socratic").run("runs/judge")`,
- the command: `maieutic judge runs/candidates --rubric socratic --out runs/judge`,
- the stage of a recipe: `{do: judge, data: "${candidates}", rubric: socratic}`,
- `--help`, `--config FILE`, `--dry-run` and the entry in `docs/commands.md`.

A step's module imports nothing heavy at its top: torch, transformers and the like are imported inside `run`.
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
    """The folder or file that the step wrote; null where it wrote nothing."""

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """What `--json` prints."""
        return self.model_dump(mode="json")

    def manifest(self) -> dict[str, Any]:
        """What the manifest of a recipe's stage holds."""
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
    """One thing that the program can do. Subclasses declare their settings as fields and define `run`."""

    command: ClassVar[str]
    """The words of the command, and of `do:` in a recipe: `judge`, `eval simulator`. The class is named the same."""
    arguments: ClassVar[tuple[str, ...]] = ()
    """Fields that the command takes by position."""
    shown: ClassVar[tuple[str, ...]] = ()
    """Optional fields that `--help` shows; `--help-all` shows every field. A group's member is `group.member`."""
    flags: ClassVar[Mapping[str, str]] = {}
    """The option of a field, where it is not the field's name: `{"tutors": "--tutor"}`."""
    examples: ClassVar[tuple[str, ...]] = ()
    """Commands that `--help` shows."""
    writes: ClassVar[Literal["folder", "files", "file", "result"]] = "folder"
    """What `out` is: a run folder of rows, a folder for the files of `outputs` (`files`), one file, or an optional
    JSON file of what `run` returns (`result`)."""
    out_help: ClassVar[str] = ""
    """The help of `--out`, where the usual words do not fit."""
    outputs: ClassVar[tuple[str, ...]] = ()
    """The files in the stage's folder that a recipe may refer to; a step that writes a file writes the first."""

    @model_validator(mode="before")
    @classmethod
    def _fill_groups(cls, values: Any) -> Any:
        """Let a step's own defaults hold for the members of a group that are not given."""
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
        """Let `run` of a step that writes a `result` write the file that `out` names."""
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
        """Do the work; null where there is nothing to print afterwards.

        Args:
            out: what `writes` says. The same call goes on in a folder that an interrupted call left.
        """
        raise NotImplementedError

    def run_stage(self, folder: Path) -> None:
        """Do the work as a stage of a recipe: in a folder of its own, with the manifest written last."""
        if self.writes == "folder":
            self.run(folder)
            return
        step = self.model_copy(update={"force": True}) if "force" in type(self).model_fields else self
        with Stage(folder, self.settings(folder.parent)) as stage:
            result = step.run(folder if self.writes == "files" else folder / self.file_name())
            assert result is not None, "a stage of a recipe has a result"
            stage.finish(result.manifest())

    def file_name(self) -> str:
        """The file that a step which writes one file writes in a recipe's stage."""
        return self.outputs[0]

    def needs_out(self) -> bool:
        """Whether the step cannot run without `out`."""
        return self.writes != "result"

    def default_out(self) -> Path | None:
        """Where the command writes without `--out`; null: `--out` is required."""
        return None

    def check(self) -> None:
        """Refuse before any work what the work would refuse later: an unknown name, settings that do not fit.

        Raises:
            ValidationError, MaieuticError: names the setting.
        """

    def check_among(self, steps: Mapping[str, Step]) -> None:
        """Refuse what does not fit the other stages of a recipe, which are given by their folders.

        Raises:
            RecipeError: says which stages do not fit.
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
        """The MODELs that the step asks."""
        return []

    def describe(self) -> str:
        """A few words for the plan of a recipe."""
        return self.command

    def declare_models(self, out: Path, flow: Flow) -> None:
        """Tell `flow` the sizes of models that the step knows or makes, before any stage's cost is estimated."""

    def expect(self, out: Path, flow: Flow) -> Cost:
        """The estimated cost; also tells `flow` the size of what the step will write."""
        return Cost()

    def settings(self, root: Path) -> dict[str, Any]:
        """The settings that differ from their defaults. The run folder's own path is left out: it may be moved."""
        text = self.model_dump_json(exclude_defaults=True).replace(f"{root}/", "")
        return {"do": self.command, **orjson.loads(text)}


def build(kind: type[Step], values: Mapping[str, Any]) -> Step:
    """A step from its settings.

    Args:
        kind: the step's class.
        values: its fields; groups as mappings.

    Raises:
        InputError: a setting is unknown, missing, or has a value that does not fit; names the setting.
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
    """The option or argument of a field, for a message."""
    if name in kind.arguments:
        return name.upper()
    return kind.flags.get(name, "--" + name.replace("_", "-"))


def group(kind: type[Step], name: str) -> type[Record] | None:
    """The class of a field that is a group of settings; null for a plain setting."""
    annotation = kind.model_fields[name].annotation
    if get_origin(annotation) in (list, tuple, dict):
        return None
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Record):
            return part
    return None
