"""Plain data, tables and figures → one HTML page with no script, no network, and nothing of anybody's text as markup.

Whatever a person, a model or a recipe wrote passes `escaped`; tags come from this file and `page.html` alone.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files

import orjson

from maieutic.core.console import shown
from maieutic.core.messages import utf8
from maieutic.report import dialogue_tables as loops
from maieutic.report import preferences, probes, tables
from maieutic.report import tutor_grid as gridded
from maieutic.report.collect import Run
from maieutic.report.draw import Picture
from maieutic.report.material import Material
from maieutic.report.numbers import plural
from maieutic.report.sample_dialogues import RULE, Mark, Said, Shown
from maieutic.report.tables import Table

LONG = 700
"""Characters past which a text is folded."""
_TEASER = 180
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_MARKS = re.compile("[\u061c\u200e\u200f\ufeff]")
"""Direction marks beside those that `shown` makes visible."""


def escaped(text: str) -> str:
    """Text as HTML that shows it and does nothing else; control and direction characters made visible."""
    plain = _MARKS.sub(lambda match: f"\\u{ord(match[0]):04x}", shown(utf8(text)))
    return html.escape(plain, quote=True)


def page(
    runs: Sequence[Run], material: Material, pictures: Sequence[Picture], dialogues: Sequence[Shown]
) -> str:
    """The whole page."""
    room = files("maieutic.report")
    sections = [
        (anchor, heading, "\n".join(parts))
        for anchor, heading, parts in _sections(runs, material, pictures, dialogues)
        if parts
    ]
    contents = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading, _ in sections)
    body = "\n".join(
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{heading}</h2>\n{text}\n</section>'
        for anchor, heading, text in sections
    )
    values = {
        "title": escaped("Report: " + ", ".join(run.name for run in runs)),
        "css": (room / "page.css").read_text(encoding="utf-8").strip(),
        "lead": f'{_lead(runs)}\n<nav aria-label="Contents"><ul>{contents}</ul></nav>',
        "body": body,
    }
    template = (room / "page.html").read_text(encoding="utf-8")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _lead(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        what = f"recipe {run.recipe}" if run.recipe else "ratings" if not run.stages else "no recipe"
        owed = sum(stage.manifest is None for stage in run.stages)
        late = f", {owed} of them not finished" if owed else ""
        parts.append(f"{run.name} ({what}): {plural(len(run.stages), 'stage')}{late}.")
    return f"<p>{escaped(' '.join(parts))}</p>"


def _sections(
    runs: Sequence[Run], material: Material, pictures: Sequence[Picture], dialogues: Sequence[Shown]
) -> Iterator[tuple[str, str, list[str]]]:
    """Anchor, heading and parts of each section; one without parts is left out."""

    def drawn(section: str) -> list[str]:
        return [_figure(picture) for picture in pictures if picture.section == section]

    def made(found: Sequence[Table | None]) -> list[str]:
        return [_table(one) for one in found if one is not None]

    of_kind = {
        kind: [stage for run in runs for stage in run.stages if stage.kind == kind]
        for kind in ("eval-simulator", "eval-tutor", "eval-dialogue")
    }
    probed = probes.probed(runs, material.scores)
    of_grids = [line for one in material.grids for line in gridded.findings(one)]
    lines = [*loops.findings(runs), *tables.findings(runs), *of_grids, *probes.warnings(probed)]
    found = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    yield "findings", "What came out", [f'<ul class="findings">{found}</ul>'] if found else []
    simulators = made([tables.simulator(stage) for stage in of_kind["eval-simulator"]])
    yield "simulator", "The simulated person", [*simulators, *drawn("simulator")]
    grids = made([table for one in material.grids for table in gridded.tables(one)])
    tutors = made([*map(tables.tutor, of_kind["eval-tutor"]), tables.by_model(material.scores)])
    probe_tables = made([*map(probes.table, probed)])
    yield "tutor", "The tutor’s replies", [*grids, *drawn("tutor"), *tutors, *probe_tables]
    learned = made([loops.cost_of_plays(runs), *preferences.pairs(runs)])
    yield "pairs", "What the tutor learned from", [*drawn("pairs"), *learned]
    alone = [one for one in material.outcomes if not one.student]
    outcomes = made([tables.outcomes(alone)] if alone else [])
    outcomes += made(list(loops.tables(runs)))
    outcomes += made([tables.differences(stage) for stage in of_kind["eval-dialogue"]])
    yield "dialogue", "Whole dialogues", [*drawn("dialogue"), *outcomes]
    yield (
        "judge",
        "The judge",
        [*drawn("judge"), *made([tables.agreement(one) for one in material.agreements])],
    )
    yield "training", "Training", drawn("training")
    if dialogues:
        shown_here = [f'<p class="note">{escaped(RULE)}</p>', *map(_dialogue, dialogues)]
        number = "Ten dialogues" if len(dialogues) == 10 else plural(len(dialogues), "dialogue").capitalize()
        yield "dialogues", number, shown_here
    ran = [part for run in runs if run.stages for part in (*made([tables.stages(run)]), *_settings(run))]
    yield "run", "What was run", ran
    yield "inputs", "On what, and with what", made([tables.inputs(runs), tables.versions(runs)])


def _settings(run: Run) -> Iterator[str]:
    one = []
    for stage in run.stages:
        settings = orjson.dumps(stage.recipe or stage.config, option=orjson.OPT_INDENT_2).decode()
        one.append(f"<p>{escaped(stage.label)}</p>\n<pre>{escaped(run.plain(settings))}</pre>")
    yield f"<details><summary>Settings of every stage of {escaped(run.name)}</summary>\n{''.join(one)}</details>"


def _table(table: Table) -> str:
    def cell(text: str, column: int, row_head: bool = False) -> str:
        kinds = ["w"] if column in table.words else []
        if table.columns[column] == "SHA-256":
            kinds.append("hash")
        if column in table.words and not row_head and len(text) > 40:
            kinds.append("wide")
        named = f' class="{" ".join(kinds)}"' if kinds else ""
        above, below, second = text.partition("\n")
        whole = escaped(above) + (f'<br><span class="ci">{escaped(second)}</span>' if below else "")
        return f'<th scope="row"{named}>{whole}</th>' if row_head else f"<td{named}>{whole}</td>"

    heads = ["<br>".join(map(escaped, name.splitlines())) for name in table.columns]
    head = "".join(
        f'<th scope="col"{" class=w" if place in table.words else ""}>{name}</th>'
        for place, name in enumerate(heads)
    )
    rows = "\n".join(
        "<tr>" + "".join(cell(text, place, place == 0) for place, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    note = f'\n<p class="note">{escaped(table.note)}</p>' if table.note else ""
    title = escaped(table.title)
    return (
        f'<h3>{title}</h3>\n<div class="scroll" tabindex="0" role="region" aria-label="{title}">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>{note}"
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode()
    width, height = picture.size
    return (
        f'<figure>\n<h3>{escaped(picture.title)}</h3>\n<img src="data:image/svg+xml;base64,{data}" '
        f'alt="{escaped(picture.alt)}" width="{width}" height="{height}">\n'
        f"<figcaption>{escaped(picture.says)}</figcaption>\n</figure>"
    )


def _dialogue(shown_: Shown) -> str:
    aside = [turn for turn in shown_.turns if turn.aside]
    turns = [_turn(turn) for turn in shown_.turns if not turn.aside]
    if aside:
        between = "".join(map(_turn, aside))
        number = "1 more reply" if len(aside) == 1 else f"{len(aside)} more replies"
        turns.append(f"<details><summary>{number}</summary>{between}</details>")
    return (
        f'<article>\n<h3>{escaped(shown_.title)}</h3>\n<p class="note">{escaped(shown_.group)}</p>\n'
        + "\n".join(turns)
        + "\n</article>"
    )


def _turn(turn: Said) -> str:
    side = turn.side if turn.side in ("user", "assistant", "system") else "system"
    marks = "".join(map(_mark, turn.marks))
    listed = f'<ul class="marks">{marks}</ul>' if marks else ""
    return f'<div class="turn {side}"><p class="who">{escaped(turn.who)}</p>{_text(turn.text, side)}{listed}</div>'


def _mark(mark: Mark) -> str:
    kind = {True: ' class="good"', False: ' class="bad"', None: ""}[mark.good]
    return f"<li{kind}>{escaped(_cut(mark.text, 200))}</li>"


def _text(text: str, side: str) -> str:
    """A turn's text, folded where it is long, or framing that nobody said."""
    if not text.strip():
        return '<p class="note">(no words)</p>'
    whole = f'<p class="text" dir="auto">{escaped(text)}</p>'
    if len(text) <= (_TEASER if side == "system" else LONG):
        return whole
    if side == "system":
        return f"<details><summary>{len(text):,} characters</summary>{whole}</details>"
    teaser = escaped(_cut(" ".join(text[: 4 * _TEASER].split()), _TEASER))
    return f"<details><summary><bdi>{teaser}</bdi> ({len(text):,} characters)</summary>{whole}</details>"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
