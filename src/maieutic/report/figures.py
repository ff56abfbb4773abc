"""The figures of a report, each drawn only where the run has its data, with a caption that says what it shows.

Matplotlib is used without its global state, and the same data gives the same bytes. Colours can be told apart by
colour-blind people. Labels are plain text (a `$` starts no formula), and characters that the font lacks become a box.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from maieutic.core.console import shown
from maieutic.core.errors import MissingExtra
from maieutic.core.messages import Estimate
from maieutic.report.estimates import ci_text, estimate_text, num, plural
from maieutic.report.extract import (
    Agreement,
    EndCalibration,
    LearningCurve,
    Outcome,
    ReportData,
    RubricValidity,
    Scores,
    TurnCounts,
)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, without its black (used for people) and its yellow (too pale on white)."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST = len(COLOURS)
"""Series in one figure at most."""
_BLACK, _GREY = "#000000", "#595959"
_WIDTH = 4.8
"""Inches: small enough that 11-point text is readable when a phone shrinks the figure to its own width."""
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": _GREY,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "maieutic",
    "text.parse_math": False,
    "axes.unicode_minus": True,
}


class Figure(NamedTuple):
    """A drawn figure."""

    name: str
    """The file's name without its suffix."""
    section: str
    """The section of the page in which it is shown."""
    title: str
    caption: str
    """What the figure shows."""
    alt: str
    """The same facts for a reader who cannot see it."""
    svg: bytes
    png: bytes
    size: tuple[int, int]
    """Width and height in CSS pixels."""

    @property
    def data_uri(self) -> str:
        """The SVG as a URL that needs no file."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


def draw(
    paint: Callable[[Any], None],
    height: float,
    *,
    name: str,
    section: str,
    title: str,
    caption: str,
    alt: str,
) -> Figure:
    """Draw a figure of `height` inches as SVG and PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise MissingExtra(
            "figures need matplotlib, which is not installed", 'Run: pip install "maieutic[report]"'
        ) from None
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasAgg(canvas)
        paint(canvas)
        svg, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        canvas.set_layout_engine("none")  # the PNG keeps the layout of the SVG
        canvas.savefig(png, format="png", dpi=200, metadata={"Software": None})
    size = (round(_WIDTH * 96), round(height * 96))
    return Figure(name, section, title, caption, alt, svg.getvalue(), png.getvalue(), size)


def label(text: str, longest: int = 34) -> str:
    """A label of one line, at most `longest` characters, all of them in the font."""
    flat = " ".join(shown(text).split())
    known = "".join(char if ord(char) in _glyphs() else "□" for char in flat)
    return known if len(known) <= longest else f"{known[: longest // 2 - 1]}…{known[-(longest // 2) :]}"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def light_grid(axes: Any, along: str) -> None:
    """Faint grid lines."""
    axes.grid(visible=True, axis=along, color="#dddddd", linewidth=0.8)


def dot(axes: Any, found: Estimate, y: float, place: int, *, hollow: bool = False) -> None:
    """An estimate as a point with its interval, in the colour and marker of its place in the series."""
    if found.value is None:
        return
    colour = COLOURS[place % MOST]
    if found.ci:
        axes.plot(found.ci, (y, y), color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.plot(
        [found.value], [y], marker=MARKERS[place % MOST], color=colour, markersize=6.5, linestyle="",
        markerfacecolor="white" if hollow else colour, clip_on=False,
    )  # fmt: skip


def figures(data: ReportData) -> Iterator[Figure]:
    """Every figure for which there is data, except those of a grid of tutors."""
    if data.turn_counts:
        yield turn_shapes(data.turn_counts)
    for place, one in enumerate(data.endings, 1):
        yield end_calibration(one, place)
    if not data.grids and any("summary_score" in scores.values for scores in data.scores):
        yield scores_by_model(data.scores)
    if data.outcomes:
        yield told_solved(data.outcomes)
    if data.rubrics:
        yield rubric_outcome(data.rubrics)
    for place, ratings in enumerate(data.agreements, 1):
        yield human_judge(ratings, place)
        if ratings.yes_no:
            yield confusion(ratings, place)
    if data.curves:
        yield learning_curves(data.curves)


def learning_curves(curves: Sequence[LearningCurve]) -> Figure:
    """The loss at every step, one panel for each training run."""
    kept = curves[:MOST]

    def paint(figure: Any) -> None:
        for axes, curve in zip(figure.subplots(len(kept), 1, squeeze=False)[:, 0], kept, strict=True):
            axes.plot(*zip(*curve.train, strict=True), color=COLOURS[0], label="training")
            if curve.validation:
                axes.plot(
                    *zip(*curve.validation, strict=True), color=COLOURS[1], linestyle="--", marker="o",
                    markersize=5, label="validation",
                )  # fmt: skip
                axes.legend(loc="best")
            axes.set_title(label(f"{curve.label} ({curve.method})"))
            axes.set_ylabel("loss")
            axes.set_ylim(0, 1.1 * max(loss for _, loss in (*curve.train, *curve.validation)) or 1)
            light_grid(axes, "y")
        axes.set_xlabel("step")

    parts = []
    for curve in kept:
        part = f"{curve.label}: training loss {num(curve.train[0][1])} at the first step, "
        part += f"{num(curve.train[-1][1])} at step {curve.train[-1][0]}"
        if curve.validation:
            first, last = curve.validation[0][1], curve.validation[-1][1]
            part += f"; validation loss {num(first)} at first, {num(last)} at last"
        parts.append(part)
    caption = "Loss by training step. Where the dashed validation loss rises, the model overfits."
    if not any(curve.validation for curve in kept):
        caption = "Training loss by step. No validation loss was recorded."
    if len(curves) > MOST:
        caption += f" The first {MOST} of {len(curves)} training runs."
    return draw(
        paint, 2.2 * len(kept) + 0.4, name="learning-curves", section="training", title="Learning curves",
        caption=caption, alt=". ".join(parts) + ".",
    )  # fmt: skip


_PANELS = {
    "summary_score": "summary score",
    "asks_question": "asks a question",
    "reveals_answer": "reveals the answer",
    "takes_up": "takes up the student's work",
    "misjudges": "misjudges the answer",
}


def scores_by_model(scores: Sequence[Scores]) -> Figure:
    """Means with intervals: a row for each model and data set, a panel for each criterion."""
    kept = [one for one in scores if "summary_score" in one.values][:12]
    names = [name for name in _PANELS if any(name in one.values for one in kept)]
    several_sets = len({one.set for one in kept}) > 1
    titles = [f"{one.label}, {one.set}" if several_sets and one.set else one.label for one in kept]

    def paint(figure: Any) -> None:
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            for place, one in enumerate(kept):
                if name in one.values:
                    dot(axes, one.values[name], len(kept) - 1 - place, place)
            axes.set_yticks(range(len(kept)), [label(title, 24) for title in reversed(titles)])
            axes.set(ylim=(-0.6, len(kept) - 0.4), xlim=(-0.03, 1.03), title=_PANELS[name])
            light_grid(axes, "x")

    parts = []
    for title, one in zip(titles, kept, strict=True):
        values = (
            f"{_PANELS[name]} {estimate_text(one.values[name])}" for name in names if name in one.values
        )
        parts.append(f"{title}: {', '.join(values)}")
    return draw(
        paint, len(names) * (0.55 + 0.34 * len(kept)) + 0.5, name="scores", section="tutor",
        title="Scores by model and data set", alt=". ".join(parts) + ".",
        caption="Means over judged replies with 95 % intervals. Lower is better for “reveals” and “misjudges”, higher "
        "for the rest.",
    )  # fmt: skip


def turn_shapes(corpora: Sequence[TurnCounts]) -> Figure:
    """Words of a turn and turns of a conversation, people and simulators in one figure."""
    people = [one for one in corpora if one.people][:1]
    kept = people + [one for one in corpora if not one.people][: MOST - 1]
    looks: list[dict[str, Any]] = [{"color": _BLACK, "linestyle": "-"} for _ in people]
    dashes = (*DASHES[1:], DASHES[0])
    looks += [{"color": COLOURS[n], "linestyle": dashes[n]} for n in range(len(kept) - len(people))]

    def paint(figure: Any) -> None:
        lengths, counts = figure.subplots(2, 1)
        every = sorted(n for one in kept for n in one.lengths)
        most = max(1, every[min(len(every) - 1, int(len(every) * 0.98))])
        step = max(1, -(-most // 20))
        top = min(max(max(one.counts) for one in kept), 30)
        for one, look in zip(kept, looks, strict=True):
            bins = Counter(min(n, most) // step for n in one.lengths)
            shares = [bins[place] / len(one.lengths) for place in range(most // step + 1)]
            edges = [place * step for place in range(most // step + 2)]
            lengths.stairs(shares, edges, label=label(one.label, 30), linewidth=1.8, **look)
            tally = Counter(min(n, top) for n in one.counts)
            shares = [tally[place] / len(one.counts) for place in range(top + 1)]
            counts.plot(range(top + 1), shares, marker="o", markersize=5, **look)
        lengths.set_xlabel(f"words of a human turn (last bin: {most} or more)")
        counts.set_xlabel("human turns of a conversation" + (f" ({top}: or more)" if top == 30 else ""))
        for axes in (lengths, counts):
            axes.set_ylabel("share")
            axes.set_ylim(bottom=0)
            axes.xaxis.get_major_locator().set_params(integer=True)
            light_grid(axes, "y")
        figure.legend(loc="outside upper left", ncols=1)

    means = [
        f"{one.label}: on average {num(_mean(one.lengths))} words a turn and {num(_mean(one.counts))} turns a "
        f"conversation, over {plural(len(one.counts), 'conversation')}"
        for one in kept
    ]
    caption = "Lengths of human turns, and human turns of a conversation. "
    caption += (
        "A good simulator follows the black line." if people else "The run has no people to compare with."
    )
    return draw(
        paint, 4.6 + 0.25 * len(kept), name="turn-shapes", section="simulator", title="Turn lengths and turn counts",
        caption=caption, alt=". ".join(means) + ".",
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def end_calibration(found: EndCalibration, place: int) -> Figure:
    """The share of people who ended, by the simulator's predicted probability of END."""
    bins = found.bins

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--", label="perfect calibration")
        predicted, ended = [b.predicted for b in bins], [b.ended for b in bins]
        axes.plot(predicted, ended, color=COLOURS[0], linewidth=1)
        _scatter(axes, predicted, ended, [b.n for b in bins], label="human openings (area: count)")
        axes.set(
            xlabel="predicted probability of END",
            ylabel="share of people who ended",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=1)

    points = ", ".join(f"predicted {num(b.predicted)}, ended {num(b.ended)} (n = {b.n})" for b in bins)
    caption = (
        "The share of people who ended the conversation, by the simulator's predicted probability of END."
    )
    if found.error.value is not None:
        caption += f" Calibration error {estimate_text(found.error)}."
    return draw(
        paint, 4.2, name=_numbered("end-calibration", place), section="simulator",
        title=f"Calibration of the ending ({found.label})", caption=caption, alt=f"By bin: {points}.",
    )  # fmt: skip


def _scatter(
    axes: Any, xs: Sequence[float], ys: Sequence[float], counts: Sequence[int], place: int = 0, **more: Any
) -> None:
    """Points whose area grows with their count."""
    areas = [25 + 150 * count / max(counts) for count in counts]
    axes.scatter(
        xs, ys, s=areas, color=COLOURS[place], marker=MARKERS[place], zorder=3, clip_on=False, **more
    )


def told_solved(outcomes: Sequence[Outcome]) -> Figure:
    """Each tutor as a point: how often it told the answer, how often the student solved; a panel for each student."""
    students = list(dict.fromkeys(one.student for one in outcomes))
    names = list(dict.fromkeys(one.label for one in outcomes))[:MOST]
    kept = [one for one in outcomes if one.label in names]

    def paint(figure: Any) -> None:
        panels = figure.subplots(len(students), 1, squeeze=False)[:, 0]
        for axes, student in zip(panels, students, strict=True):
            for one in kept:
                if one.student == student:
                    _cross(axes, one, names.index(one.label), named=student == students[0])
            axes.set(
                xlabel="the tutor told the answer", ylabel="the student solved the problem",
                xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
            )  # fmt: skip
            if student:
                axes.set_title(label(f"with the student “{student}”"))
            light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=1)

    parts = [
        f"{one.label}{f' with {one.student}' if one.student else ''}: "
        f"solved {estimate_text(one.solved)}, told {estimate_text(one.told)}"
        for one in kept
    ]
    caption = "Whole dialogues on problems with known answers. A good tutor is at the upper left."
    caption += " The crosses are 95 % intervals." if any(one.solved.ci for one in kept) else ""
    if (total := len({one.label for one in outcomes})) > MOST:
        caption += f" The first {MOST} of {total} tutors."
    return draw(
        paint, 3.6 * len(students) + 0.4 + 0.25 * len(names), name="told-solved", section="dialogue",
        title="Told against solved", caption=caption, alt=". ".join(parts) + ".",
    )  # fmt: skip


def _cross(axes: Any, one: Outcome, place: int, named: bool) -> None:
    x, y = one.told.value, one.solved.value
    assert x is not None and y is not None
    spread = {
        side: [[max(0.0, value - of.ci[0])], [max(0.0, of.ci[1] - value)]] if of.ci else None
        for side, value, of in (("xerr", x, one.told), ("yerr", y, one.solved))
    }
    axes.errorbar(
        [x], [y], **spread, color=COLOURS[place], marker=MARKERS[place], markersize=8, linestyle="", clip_on=False,
        label=label(one.label) if named else None,
    )  # fmt: skip


def rubric_outcome(rubrics: Sequence[RubricValidity]) -> Figure:
    """The mean outcome of replies by their rubric score, a line for each round."""
    kept = rubrics[:MOST]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for place, one in enumerate(kept):
            scores, outcomes, counts = zip(*one.points, strict=True)
            axes.plot(scores, outcomes, color=COLOURS[place], linewidth=1)
            _scatter(axes, scores, outcomes, counts, place, label=label(f"{one.label} (area: replies)"))
        axes.set(
            xlabel="rubric score", ylabel="share of continuations that were solved",
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
        )  # fmt: skip
        light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=1)

    return draw(
        paint, 3.8 + 0.25 * len(kept), name="rubric-outcome", section="pairs",
        title="Rubric score and outcome", alt=" ".join(map(_rubric_text, kept)),
        caption="How often a student then solved the problem alone, by the rubric score of the tutor's reply.",
    )  # fmt: skip


def _rubric_text(one: RubricValidity) -> str:
    parts = [f"rubric {num(score)}: {num(outcome)} (n = {n})" for score, outcome, n in one.points]
    r = one.within
    tail = (
        f" Within a dialogue r {num(r['value'])} ({ci_text(r.get('ci'))})."
        if r.get("value") is not None
        else ""
    )
    return f"{one.label}, mean outcome by score: {', '.join(parts)}.{tail}"


def human_judge(agreement: Agreement, place: int) -> Figure:
    """Human ratings against the judge's, equal points gathered."""
    points = sorted((round(x, 6), round(y, 6)) for x, y in agreement.points)
    counts = [(point, len(list(same))) for point, same in groupby(points)]
    low, high = min(map(min, points)), max(map(max, points))
    margin = max(0.05 * (high - low), 0.02)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([low, high], [low, high], color=_GREY, linewidth=1, linestyle="--", label="equal")
        xs, ys = [x for (x, _), _ in counts], [y for (_, y), _ in counts]
        _scatter(
            axes, xs, ys, [n for _, n in counts], alpha=0.75, edgecolors="white", label="texts (area: count)"
        )
        limits = (low - margin, high + margin)
        axes.set(xlabel="people", ylabel="judge", xlim=limits, ylim=limits)
        light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=2)

    pearson = agreement.result["pearson"]
    found = f"Pearson r {num(pearson['value'])} ({ci_text(pearson['ci'])}, n = {pearson['n']})"
    mark = agreement.result["baselines"]["question_mark"]["pearson"]["value"]
    baseline = f"; the baseline “contains a ?” reaches {num(mark)}" if mark is not None else ""
    means = [num(_mean([point[side] for point in points])) for side in (0, 1)]
    return draw(
        paint, 4.2, name=_numbered("human-judge", place), section="judge",
        title=f"People against the judge ({agreement.label})",
        caption=f"Ratings of each text by people and by the judge. {found}{baseline}.",
        alt=f"{found}. Mean of people {means[0]}, of the judge {means[1]}.",
    )  # fmt: skip


def confusion(agreement: Agreement, place: int) -> Figure:
    """For each yes/no criterion how often people and the judge said yes and no."""

    def paint(figure: Any) -> None:
        panels = figure.subplots(1, len(agreement.yes_no), squeeze=False)[0]
        for axes, (name, counts) in zip(panels, agreement.yes_no.items(), strict=True):
            cells = [[counts.get((person, judge), 0) for person in (0, 1)] for judge in (0, 1)]
            axes.imshow(cells, cmap="Blues", vmin=0, vmax=1.6 * max(counts.values()), origin="lower")
            for judge, row in enumerate(cells):
                for person, n in enumerate(row):
                    axes.text(person, judge, str(n), ha="center", va="center", fontsize=12)
            axes.set(xlabel="people", ylabel="judge", title=label(name.replace("_", " "), 20))
            axes.set_xticks((0, 1), ("no", "yes"))
            axes.set_yticks((0, 1), ("no", "yes"))

    parts = []
    for name, counts in agreement.yes_no.items():
        same = sum(n for (person, judge), n in counts.items() if person == judge)
        parts.append(f"{name.replace('_', ' ')}: {same} of {sum(counts.values())} equal")
    found = f"{'; '.join(parts)}."
    return draw(
        paint, 2.6, name=_numbered("human-judge-criteria", place), section="judge",
        title=f"Yes and no, people against the judge ({agreement.label})",
        caption=f"Number of texts by the answer of people and of the judge. {found}", alt=found,
    )  # fmt: skip


def _numbered(name: str, place: int) -> str:
    return name if place == 1 else f"{name}-{place}"
