"""A run folder → one page that stands by itself, its figures, and on request socratic-llm's tree of files.

    collect (what was run) → material, talks, pick (plain data) → tables, figures → page

The page is made of what the run folder holds and of nothing else: no model is asked, no clock is read, and the same
run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maieutic.core.errors import InputError
from maieutic.core.store import full_disk
from maieutic.report.collect import collect


def report(runs: Sequence[Path | str], out: Path | str | None = None, artefacts: bool = False) -> Path:
    """Write `report.html` and `figures/*.{svg,png}` for one or more runs; returns the page's path.

    Args:
        runs: run folders of recipes, folders of single stages, or files of people's and a judge's ratings
            (rows `{"human", "judge", "text"?}`); the first decides where the report lies by default.
        out: the folder to write into, made where it does not exist.
        artefacts: write `dpo/` and `evaluation/` beside the page too, in socratic-llm's form.

    Raises:
        MissingInput: a run does not exist, or holds nothing that ran.
        InputError: artefacts are wanted and no judged reply has the four published criteria.
        MissingExtra: matplotlib is not installed.
        StoreError, DiskFull: the folder cannot be written.
    """
    from maieutic.report import artefacts as tree
    from maieutic.report.figures import pictures
    from maieutic.report.material import gather
    from maieutic.report.page import page
    from maieutic.report.sample_dialogues import pick

    found = collect([Path(run) for run in runs])
    first = Path(runs[0])
    folder = Path(out) if out is not None else first if first.is_dir() else first.parent
    if (folder / "figures" / "rows.jsonl").exists():
        raise InputError(f"{folder / 'figures'} is a stage of the run", "Choose another folder with --out.")
    material = gather(found)
    drawn = pictures(material)
    text = page(found, material, drawn, pick(found))
    with full_disk(folder):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for picture in drawn:
            (folder / "figures" / f"{picture.name}.svg").write_bytes(picture.svg)
            (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        part = folder / ".report.html.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / "report.html")
    if artefacts:
        tree.write(found, folder)
    return folder / "report.html"
