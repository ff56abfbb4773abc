"""What was run: the stages of run folders, their settings, hashes, sizes and manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from maieutic.core.errors import MissingInput
from maieutic.core.messages import fingerprint
from maieutic.core.store import first_per_key, read_json, read_rows

_KINDS = {
    "simulator": "eval-simulator",
    "tutor": "eval-tutor",
    "dialogues": "eval-dialogue",
    "playon": "play-on",
}
"""Names that a kept recipe gives to what the recipe itself calls otherwise."""
_BY_FILE = (
    ("metrics.json", "eval-simulator"),
    ("scores.json", "eval-tutor"),
    ("pairs.jsonl", "prefer"),
    ("split.json", "split"),
    ("rejected.jsonl", "clean"),
    ("corpus.jsonl", "import"),
    ("model", "base"),
)


class StageRun(NamedTuple):
    """One stage of a run."""

    name: str
    label: str
    """The name; where several runs are shown, with the run's before it."""
    kind: str
    """What it does, as a recipe says it (`sft`, `simulate`, …), else `other`."""
    folder: Path
    config: dict[str, Any]
    recipe: dict[str, Any]
    """Its settings as the run's recipe holds them, paths relative to the run."""
    manifest: dict[str, Any] | None
    """Null where the stage is not finished."""
    config_hash: str
    rows_hash: str
    """First 12 hex digits of the SHA-256 of `rows.jsonl`; empty where it holds nothing."""
    seconds: float | None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Its rows, each key once."""
        return first_per_key(read_rows(self.folder / "rows.jsonl"))


class Run(NamedTuple):
    """A run folder, a single stage, or a file of ratings."""

    name: str
    folder: Path
    recipe: str | None
    files: dict[str, str]
    """SHA-256 of each input file, by path."""
    stages: tuple[StageRun, ...]
    summary: dict[str, Any]
    """`summary.json` of the run where there is one."""
    ratings: tuple[Path, ...]
    """Files of people's and a judge's ratings of the same texts."""

    def plain(self, text: str) -> str:
        """The text with the run folder's own path taken out (a moved run reads the same), and that of one's home."""
        for root in sorted({str(self.folder), str(self.folder.resolve())}, key=len, reverse=True):
            text = text.replace(f"{root}/", "") if len(root) > 1 else text
        return text.replace(f"{Path.home()}/", "~/")

    def locate(self, stage: StageRun, setting: str) -> Path | None:
        """The file that a stage's setting names, if it is still there; a moved run finds its own files."""
        for value, base in ((stage.recipe.get(setting), self.folder), (stage.config.get(setting), Path())):
            if isinstance(value, str) and (base / value).exists():
                return base / value
        return None

    def named(self, path: Any) -> StageRun | None:
        """The stage of this run that a path leads into."""
        parts = Path(path).parts if isinstance(path, str) else ()
        return next((stage for part in reversed(parts) for stage in self.stages if stage.name == part), None)


def collect(paths: Sequence[Path]) -> tuple[Run, ...]:
    """The runs at these paths, in their order.

    Raises:
        MissingInput: a path does not exist, or nothing has run there.
    """
    if not paths:
        raise MissingInput("no run is named", "Name a run's folder: maieutic report RUN")
    return tuple(_run(path, several=len(paths) > 1) for path in dict.fromkeys(paths))


def _run(path: Path, several: bool) -> Run:
    if not path.exists():
        raise MissingInput(f"{path}: no such file or folder", "Name a run's folder: maieutic report RUN")
    name = path.resolve().name
    if path.is_file():
        if not _is_ratings(path):
            raise MissingInput(f"{path}: no run, and no file of ratings", "Name a run's folder.")
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
    ratings = tuple(file for folder in dict.fromkeys([path, *folders]) for file in _ratings(folder))
    if not folders and not ratings:
        raise MissingInput(
            f"{path}: nothing has run there", "Name the folder of a run, or of a stage (it holds rows.jsonl)."
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
    spent = seconds.get(name)
    if spent is None:
        spent = (manifest or {}).get("seconds")
    return StageRun(
        name,
        prefix + name,
        _kind(folder, config, settings),
        folder,
        config,
        settings,
        manifest,
        fingerprint(settings or config)[:12],
        _sha(folder / "rows.jsonl"),
        float(spent) if isinstance(spent, (int, float)) else None,
    )


def _kind(folder: Path, config: dict[str, Any], settings: dict[str, Any]) -> str:
    said = settings.get("do") or config.get("stage") or config.get("method")
    if isinstance(said, str):
        return _KINDS.get(said, said)
    return next((kind for file, kind in _BY_FILE if (folder / file).exists()), "other")


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _sha(path: Path) -> str:
    if not path.stat().st_size:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


_LARGEST = 32 * 2**20
"""Bytes of a file that is looked into for ratings."""


def _ratings(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".jsonl") and file.is_file())
    return [file for file in files if _is_ratings(file)]


def _is_ratings(path: Path) -> bool:
    """Whether a file's first row holds a person's rating and a judge's."""
    if path.stat().st_size > _LARGEST:
        return False
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                first = orjson.loads(file.readline() or b"null")
        else:
            whole = orjson.loads(path.read_bytes())
            first = whole[0] if isinstance(whole, list) and whole else None
    except ValueError:  # whatever it is, it is none of ours
        return False
    return isinstance(first, dict) and "human" in first and ("judge" in first or "gpt4o" in first)
