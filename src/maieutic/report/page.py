"""Write the report: one HTML page with its figures, without scripts and without network access.

The template escapes every value that it shows, so text written by people, models or recipes is never markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from maieutic.core.console import shown
from maieutic.core.errors import InputError, MissingExtra
from maieutic.core.messages import utf8
from maieutic.core.store import full_disk
from maieutic.report import artefacts as artefact_files
from maieutic.report import baselines, dialogue_tables, tables, tutor_grid
from maieutic.report.collect import Run, collect
from maieutic.report.estimates import plural
from maieutic.report.extract import ReportData, extract
from maieutic.report.figures import Figure, figures
from maieutic.report.sample_dialogues import RULE, SampleDialogue, sample_dialogues

if TYPE_CHECKING:
    from jinja2 import Environment

_LONG, _TEASER = 700, 180
"""A text of at least this many characters is folded; the characters of a folded text that are shown."""
_DIRECTION = re.compile("[\u061c\u200e\u200f\ufeff]")
"""Text-direction marks that `shown` keeps."""


class Section(NamedTuple):
    """A section of the page."""

    anchor: str
    heading: str
    blocks: Sequence[tuple[str, Any]] = ()
    """Kind (table, figure, dialogue, settings) and value."""
    findings: Sequence[str] = ()
    note: str = ""


class RunSettings(NamedTuple):
    """The settings of a run's stages, as JSON."""

    name: str
    settings: list[tuple[str, str]]


def write_report(runs: Sequence[Path | str], out: Path | str | None = None, artefacts: bool = False) -> Path:
    """Write `report.html` and `figures/*.{svg,png}` for one or more runs; returns the page's path.

    The page is made only from what the run folders hold, so the same runs give the same bytes.

    Args:
        runs: run folders of recipes, folders of single stages, or files of human and judge ratings (rows
            `{"human", "judge", "text"?}`).
        out: the folder to write into; by default the first run.
        artefacts: also write `dpo/` and `evaluation/` in socratic-llm's form.

    Raises:
        MissingInput: a run does not exist or holds no stage.
        InputError: artefacts were requested and no judged reply has the four published criteria.
        MissingExtra: jinja2 or matplotlib is not installed.
        StoreError, DiskFull: the folder cannot be written.
    """
    found = collect([Path(run) for run in runs])
    first = Path(runs[0])
    folder = Path(out) if out is not None else first if first.is_dir() else first.parent
    if (folder / "figures" / "rows.jsonl").exists():
        raise InputError(f"{folder / 'figures'} is a stage of the run", "Choose another folder with --out.")
    data = extract(found)
    drawn = [*(figure for grid in data.grids[:1] for figure in tutor_grid.figures(grid)), *figures(data)]
    text = _page(found, data, drawn, sample_dialogues(found))
    with full_disk(folder):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for figure in drawn:
            (folder / "figures" / f"{figure.name}.svg").write_bytes(figure.svg)
            (folder / "figures" / f"{figure.name}.png").write_bytes(figure.png)
        part = folder / ".report.html.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / "report.html")
    if artefacts:
        artefact_files.write(found, folder)
    return folder / "report.html"


def environment() -> Environment:
    """The template engine: it escapes every value and makes control and direction characters visible.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingExtra(
            "the report needs jinja2, which is not installed", 'Run: pip install "maieutic[report]"'
        ) from None

    def visible(value: Any) -> Any:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return _DIRECTION.sub(lambda match: f"\\u{ord(match[0]):04x}", shown(utf8(value)))

    return Environment(
        loader=PackageLoader("maieutic.report", ""),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(
    runs: Sequence[Run], data: ReportData, drawn: Sequence[Figure], dialogues: Sequence[SampleDialogue]
) -> str:
    sections = _sections(runs, data, drawn, dialogues)
    return (
        environment()
        .get_template("page.html")
        .render(
            title="Report: " + ", ".join(run.name for run in runs),
            summary=" ".join(map(_summary, runs)),
            sections=[section for section in sections if section.blocks or section.findings],
            long=_LONG,
            teaser=_TEASER,
            cut=lambda text, longest: text if len(text) <= longest else f"{text[: longest - 1]}…",
        )
    )


def _summary(run: Run) -> str:
    what = f"recipe {run.recipe}" if run.recipe else "no recipe" if run.stages else "ratings"
    unfinished = sum(stage.manifest is None for stage in run.stages)
    rest = f", {unfinished} of them not finished" if unfinished else ""
    return f"{run.name} ({what}): {plural(len(run.stages), 'stage')}{rest}."


def _sections(
    runs: Sequence[Run], data: ReportData, drawn: Sequence[Figure], dialogues: Sequence[SampleDialogue]
) -> Iterator[Section]:
    """Every section in order, empty ones too."""

    def show(*found: tables.Table | Figure | None) -> list[tuple[str, Any]]:
        return [("figure" if isinstance(one, Figure) else "table", one) for one in found if one is not None]

    def of_section(name: str) -> list[Figure]:
        return [figure for figure in drawn if figure.section == name]

    simulators, tutors, dialogue_stages = (
        [stage for run in runs for stage in run.stages if stage.kind == kind]
        for kind in ("eval simulator", "eval tutor score", "eval dialogue score")
    )
    compared = baselines.comparisons(runs, data.scores)
    lines = [*dialogue_tables.findings(runs), *tables.findings(runs)]
    lines += [line for grid in data.grids for line in tutor_grid.findings(grid)]
    yield Section("findings", "Findings", findings=[*lines, *baselines.warnings(compared)])
    simulated = map(tables.simulator, simulators)
    yield Section("simulator", "User simulator", show(*simulated, *of_section("simulator")))
    grids = (table for grid in data.grids for table in tutor_grid.tables(grid))
    scores = (*map(tables.tutor, tutors), tables.by_model(data.scores), *map(baselines.table, compared))
    yield Section("tutor", "Tutor replies", show(*grids, *of_section("tutor"), *scores))
    pairs = (*of_section("pairs"), dialogue_tables.continuations(runs), *tables.preferences(runs))
    yield Section("pairs", "Preference pairs", show(*pairs))
    single = [outcome for outcome in data.outcomes if not outcome.student]
    outcomes = [tables.outcomes(single)] if single else []
    differences = map(tables.differences, dialogue_stages)
    whole = (*of_section("dialogue"), *outcomes, *dialogue_tables.tables(runs), *differences)
    yield Section("dialogue", "Whole dialogues", show(*whole))
    yield Section("judge", "Judge", show(*of_section("judge"), *map(tables.agreement, data.agreements)))
    yield Section("training", "Training", show(*of_section("training")))
    samples = [("dialogue", dialogue) for dialogue in dialogues]
    yield Section("dialogues", "Sample dialogues", samples, note=RULE)
    stages: list[tuple[str, Any]] = []
    for run in runs:
        if run.stages:
            stages += [("table", tables.stages(run)), ("settings", _settings(run))]
    yield Section("run", "Stages", stages)
    yield Section("inputs", "Inputs and versions", show(tables.inputs(runs), tables.versions(runs)))


def _settings(run: Run) -> RunSettings:
    found = []
    for stage in run.stages:
        settings = orjson.dumps(stage.recipe or stage.config, option=orjson.OPT_INDENT_2).decode()
        found.append((stage.label, run.relative(settings)))
    return RunSettings(run.name, found)
