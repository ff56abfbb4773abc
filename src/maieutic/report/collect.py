"""Read run folders: their stages with settings, manifests and hashes, and files of human ratings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import MissingInput
from maieutic.core.messages import fingerprint
from maieutic.core.store import first_per_key, read_json, read_rows

_KINDS = {"sft": "train sft", "dpo": "train dpo", "eval-dialogue": "eval dialogue score"}
"""Commands of the stages whose own config names them differently."""
_BY_FILE = (
    ("metrics.json", "eval simulator"),
    ("scores.json", "eval tutor score"),
    ("pairs.jsonl", "preferences"),
)
"""Commands of the stages whose config has no name, by a file that they write."""


class StageRun(NamedTuple):
    """One stage of a run."""

    name: str
    label: str
    """The name; with the run's name in front where several runs are shown."""
    kind: str
    """The stage's command (`simulate`, `eval simulator`, …), or `other`."""
    folder: Path
    config: dict[str, Any]
    recipe: dict[str, Any]
    """The settings in the run's recipe, with paths relative to the run."""
    manifest: dict[str, Any] | None
    """Null where the stage has not finished."""
    config_hash: str
    rows_hash: str
    """First 12 hex digits of the SHA-256 of `rows.jsonl`; empty where the file is empty."""
    seconds: float | None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The stage's rows, each key once."""
        return first_per_key(read_rows(self.folder / "rows.jsonl"))

    @property
    def result(self) -> dict[str, Any]:
        """The manifest; empty where the stage has not finished."""
        return self.manifest or {}

    def setting(self, name: str) -> Any:
        """A setting, as the recipe has it, else as the stage's own config has it."""
        return self.recipe.get(name) or self.config.get(name)


class Run(NamedTuple):
    """A run folder, a single stage folder, or a file of ratings."""

    name: str
    folder: Path
    recipe: str | None
    files: dict[str, str]
    """SHA-256 of each input file, by path."""
    stages: tuple[StageRun, ...]
    summary: dict[str, Any]
    """`summary.json` of the run where there is one."""
    ratings: tuple[Path, ...]
    """Files with ratings of the same texts by people and by a judge."""

    def relative(self, text: str) -> str:
        """The text without the run folder's path, so that a moved run has the same report; home becomes `~`."""
        for root in sorted({str(self.folder), str(self.folder.resolve())}, key=len, reverse=True):
            text = text.replace(f"{root}/", "") if len(root) > 1 else text
        return text.replace(f"{Path.home()}/", "~/")

    def locate(self, stage: StageRun, setting: str) -> Path | None:
        """The file that a setting names, or null if it is gone; files inside a moved run are found."""
        for value, base in ((stage.recipe.get(setting), self.folder), (stage.config.get(setting), Path())):
            if isinstance(value, str) and (base / value).exists():
                return base / value
        return None

    def stage_at(self, path: Any) -> StageRun | None:
        """The stage of this run in whose folder a path lies."""
        parts = Path(path).parts if isinstance(path, str) else ()
        return next((stage for part in reversed(parts) for stage in self.stages if stage.name == part), None)


def collect(paths: Sequence[Path]) -> tuple[Run, ...]:
    """The runs at these paths, in order.

    Raises:
        MissingInput: a path does not exist, or nothing has run there.
    """
    if not paths:
        raise MissingInput("no run was given", "Give a run folder: maieutic report RUN")
    return tuple(_run(path, several=len(paths) > 1) for path in dict.fromkeys(paths))


def _run(path: Path, several: bool) -> Run:
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder", "Give a run folder: maieutic report RUN")
    name = path.resolve().name
    if path.is_file():
        if not _is_ratings(path):
            raise MissingInput(f"{path}: not a run and not a file of ratings", "Give a run folder.")
        return Run(name, path.parent, None, {}, (), {}, (path,))
    kept = _json(path / "recipe.json")
    settings = {key: value for key, value in (kept.get("stages") or {}).items() if isinstance(value, dict)}
    summary = _json(path / "summary.json")
    seconds = {
        str(stage.get("name")): stage.get("seconds")
        for stage in summary.get("stages") or ()
        if isinstance(stage, dict)
    } | _json(path / "timings.json")
    if _is_stage(path):
        folders = [path]
    else:
        found = {inner.name: inner for inner in sorted(path.iterdir()) if _is_stage(inner)}
        folders = [found.pop(stage) for stage in settings if stage in found] + list(found.values())
    ratings = tuple(file for folder in dict.fromkeys([path, *folders]) for file in _rating_files(folder))
    if not folders and not ratings:
        raise MissingInput(
            f"{path}: holds no stage", "Give the folder of a run or of a stage (a stage holds rows.jsonl)."
        )
    stages = tuple(
        _stage(inner, f"{name}/" if several and inner != path else "", settings.get(inner.name, {}), seconds)
        for inner in folders
    )
    return Run(name, path, kept.get("recipe"), kept.get("files") or {}, stages, summary, ratings)


def _is_stage(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "rows.jsonl").is_file()


def _stage(folder: Path, prefix: str, settings: dict[str, Any], seconds: dict[str, Any]) -> StageRun:
    config = _json(folder / "config.json")
    manifest = _json(folder / "manifest.json") if (folder / "manifest.json").is_file() else None
    name = folder.resolve().name
    duration = seconds.get(name)
    if duration is None:
        duration = (manifest or {}).get("seconds")
    return StageRun(
        name,
        prefix + name,
        _kind(folder, config, settings),
        folder,
        config,
        settings,
        manifest,
        fingerprint(settings or config)[:12],
        _digest(folder / "rows.jsonl"),
        float(duration) if isinstance(duration, (int, float)) else None,
    )


def _kind(folder: Path, config: dict[str, Any], settings: dict[str, Any]) -> str:
    kind = settings.get("do") or config.get("do") or config.get("stage") or config.get("method")
    if isinstance(kind, str):
        return _KINDS.get(kind, kind)
    return next((kind for file, kind in _BY_FILE if (folder / file).exists()), "other")


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _digest(path: Path) -> str:
    if not path.stat().st_size:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


_LARGEST = 32 * 2**20
"""Bytes; larger files are not searched for ratings."""


def _rating_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".jsonl") and file.is_file())
    return [file for file in files if _is_ratings(file)]


def _is_ratings(path: Path) -> bool:
    """Whether a file's first row has a human rating and a judge's rating."""
    if path.stat().st_size > _LARGEST:
        return False
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                first = orjson.loads(file.readline() or b"null")
        else:
            whole = orjson.loads(path.read_bytes())
            first = whole[0] if isinstance(whole, list) and whole else None
    except ValueError:  # not JSON, so not a file of ratings
        return False
    return isinstance(first, dict) and "human" in first and ("judge" in first or "gpt4o" in first)
