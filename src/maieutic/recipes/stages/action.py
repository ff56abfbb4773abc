"""What every kind of stage has, and how one that appends no rows of its own becomes a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BeforeValidator, Field

from maieutic.core.costs import Cost, Flow
from maieutic.core.messages import Record
from maieutic.core.settings import Precision
from maieutic.core.store import Stage


class Action(Record):
    """One thing a stage can do."""

    command: ClassVar[str] = ""
    arguments: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[dict[str, str]] = {}
    outputs: ClassVar[tuple[str, ...]] = ()
    """The files it makes in its folder."""

    def run(self, out: Path) -> None:
        """Do it; the manifest is the last thing written."""
        raise NotImplementedError

    def run_stage(self, folder: Path) -> None:
        """As a step does."""
        self.run(folder)

    def check(self) -> None:
        """Refuse now what its work would refuse later: an unknown name, settings that do not go together.

        Raises:
            ValidationError, MaieuticError: says which setting.
        """

    def check_among(self, stages: Mapping[str, Action]) -> None:
        """Refuse what does not go together with the recipe's other stages, given by their folders.

        Raises:
            RecipeError: says what.
        """

    def inputs(self) -> list[Path]:
        """The files and folders it reads."""
        values = (
            item for value in dict(self).values() for item in (value if isinstance(value, list) else [value])
        )
        return [item for item in values if isinstance(item, Path)]

    def models(self) -> list[str]:
        """The models it asks."""
        return []

    def describe(self) -> str:
        """A few words for the plan."""
        return type(self).__name__.lower()

    def declare_models(self, out: Path, flow: Flow) -> None:
        """Tell `flow` the sizes of models that it knows or makes, before any stage is expected."""

    def expect(self, out: Path, flow: Flow) -> Cost:
        """What it will cost, telling `flow` what it will make."""
        return Cost()

    def settings(self, root: Path) -> dict[str, Any]:
        """Its settings, with the run folder's own path left out: a moved run is the same run."""
        text = self.model_dump_json(exclude_defaults=True).replace(f"{root}/", "")
        return {"do": type(self).__name__.lower(), **orjson.loads(text)}


PromptName = Annotated[str | None, BeforeValidator(lambda value: None if value == "none" else value)]
"""A prompt's name, or a `.md` file; null or `none`: no prompt, the dialogue as it is."""


class Options(Record):
    """How a stage reaches or loads its models, for all of them alike; see `maieutic.models.ModelOptions`."""

    template: str | None = None
    system: str | None = None
    batch: int = Field(16, ge=1)
    device: str | None = None
    precision: Precision = "auto"
    remote_code: bool = False
    attempts: int = Field(8, ge=1)
    timeout: float = Field(600.0, gt=0)

    def whole(self, concurrency: int = 64) -> Any:
        """As the models take them."""
        from maieutic.models import ModelOptions

        return ModelOptions(**self.model_dump(), concurrency=concurrency)


def wrapped(out: Path, action: Action, work: Callable[[], dict[str, Any]]) -> None:
    """Run `work` in a run folder of its own; what it returns is the manifest, written last."""
    with Stage(out, action.settings(out.parent)) as stage:
        stage.finish(work())
