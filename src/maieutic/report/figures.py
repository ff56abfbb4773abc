"""Plain data → figures, each only where the run has its data, with a sentence that says what it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from maieutic.core.messages import Estimate
from maieutic.report import tutor_grid as gridded
from maieutic.report.draw import BLACK, COLOURS, DASHES, GREY, MARKERS, Picture, draw, label, light_grid
from maieutic.report.material import Agreement, Curve, Endings, Material, Outcome, Scores
from maieutic.report.numbers import num, plural, sure
from maieutic.report.rubric_validity import Worth, said
from maieutic.report.talks import Talk

MOST = 6
"""Series in one figure: as many as there are colours."""


def pictures(material: Material) -> list[Picture]:
    """Every figure that the data is there for."""
    found: list[Picture] = []
    if material.talks:
        found.append(turn_shapes(material.talks))
    found += [ending(one, place) for place, one in enumerate(material.endings, 1)]
    found += [picture for grid in material.grids[:1] for picture in gridded.pictures(grid)]
    if not material.grids and any("summary_score" in scores.values for scores in material.scores):
        found.append(scores_by_model(material.scores))
    if material.outcomes:
        found.append(told_solved(material.outcomes))
    if material.worths:
        found.append(rubric_worth(material.worths))
    found += [human_judge(one, place) for place, one in enumerate(material.agreements, 1)]
    found += [confusion(one, place) for place, one in enumerate(material.agreements, 1) if one.yes_no]
    if material.curves:
        found.append(learning(material.curves))
    return found


def learning(curves: Sequence[Curve]) -> Picture:
    """The loss at every step, a panel for each training run."""
    kept = curves[:MOST]

    def paint(figure: Any) -> None:
        for axes, curve in zip(figure.subplots(len(kept), 1, squeeze=False)[:, 0], kept, strict=True):
            axes.plot(*zip(*curve.train, strict=True), color=COLOURS[0], label="training")
            if curve.validation:
                axes.plot(
                    *zip(*curve.validation, strict=True), color=COLOURS[1], linestyle="--", marker="o",
                    markersize=5, label="held-out",
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
            part += (
                f"; held-out loss {num(curve.validation[0][1])} first, {num(curve.validation[-1][1])} last"
            )
        parts.append(part)
    says = "The loss as training went on; where the dashed line of held-out data turns up, learning by heart began."
    if not any(curve.validation for curve in kept):
        says = "The training loss as training went on; no loss on held-out data was recorded."
    if len(curves) > MOST:
        says += f" The first {MOST} of {len(curves)} training runs."
    return draw(
        paint, 2.2 * len(kept) + 0.4, name="learning-curves", section="training", title="Learning curves",
        says=says, alt=". ".join(parts) + ".",
    )  # fmt: skip


_PANELS = {
    "summary_score": "summary score",
    "asks_question": "asks a question",
    "reveals_answer": "reveals the answer",
    "takes_up": "takes up what is there",
    "misjudges": "misjudges the answer",
}


def scores_by_model(scores: Sequence[Scores]) -> Picture:
    """Means with intervals, a row for each model and set, a panel for each criterion."""
    kept = [one for one in scores if "summary_score" in one.values][:12]
    names = [name for name in _PANELS if any(name in one.values for one in kept)]
    ticks = [label(_short(one, kept), 24) for one in kept]

    def paint(figure: Any) -> None:
        for axes, name in zip(
            figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True
        ):
            for place, one in enumerate(kept):
                if name in one.values:
                    _dot(
                        axes,
                        one.values[name],
                        len(kept) - 1 - place,
                        COLOURS[place % MOST],
                        MARKERS[place % MOST],
                    )
            axes.set_yticks(range(len(kept)), ticks[::-1])
            axes.set_ylim(-0.6, len(kept) - 0.4)
            axes.set_xlim(-0.03, 1.03)
            axes.set_title(_PANELS[name])
            light_grid(axes, "x")

    parts = [
        f"{_short(one, kept)}: "
        + ", ".join(f"{_PANELS[name]} {_said(one.values[name])}" for name in names if name in one.values)
        for one in kept
    ]
    says = "Means over judged replies with their 95 % intervals. To reveal or to misjudge is bad, all else is good."
    return draw(
        paint, len(names) * (0.55 + 0.34 * len(kept)) + 0.5, name="scores", section="tutor",
        title="Scores by model and set", says=says, alt=". ".join(parts) + ".",
    )  # fmt: skip


def _short(one: Scores, among: Sequence[Scores]) -> str:
    """The stage, and the set where there are several."""
    return f"{one.label}, {one.set}" if len({other.set for other in among}) > 1 and one.set else one.label


def _dot(axes: Any, estimate: Estimate, y: float, colour: str, marker: str) -> None:
    if estimate.ci:
        axes.plot(estimate.ci, (y, y), color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([estimate.value], [y], marker=marker, color=colour, markersize=7, linestyle="", clip_on=False)


def _said(estimate: Estimate) -> str:
    return f"{num(estimate.value)} ({sure(estimate)}, n = {estimate.n})"


def turn_shapes(talks: Sequence[Talk]) -> Picture:
    """Words a turn and turns a conversation, people beside the simulated."""
    kept = [talk for talk in talks if talk.people][:1] + [t for t in talks if not t.people][: MOST - 1]
    looks = _looks(kept)

    def paint(figure: Any) -> None:
        lengths, counts = figure.subplots(2, 1)
        most = _percentile([n for talk in kept for n in talk.lengths], 0.98)
        step = max(1, -(-most // 20))
        for talk, look in zip(kept, looks, strict=True):
            bins = Counter(min(n, most) // step for n in talk.lengths)
            shares = [bins[p] / len(talk.lengths) for p in range(most // step + 1)]
            edges = [p * step for p in range(most // step + 2)]
            lengths.stairs(shares, edges, label=label(talk.label, 30), linewidth=1.8, **look)
        lengths.set_xlabel(f"words of a human turn (the last step: {most} or more)")
        top = min(max(max(talk.counts) for talk in kept), 30)
        for talk, look in zip(kept, looks, strict=True):
            tally = Counter(min(n, top) for n in talk.counts)
            places = range(top + 1)
            counts.plot(
                places, [tally[p] / len(talk.counts) for p in places], marker="o", markersize=5, **look
            )
        counts.set_xlabel("human turns of a conversation" + (f" ({top}: or more)" if top == 30 else ""))
        for axes in (lengths, counts):
            axes.set_ylabel("share")
            axes.set_ylim(bottom=0)
            axes.xaxis.get_major_locator().set_params(integer=True)
            light_grid(axes, "y")
        figure.legend(loc="outside upper left", ncols=1)

    means = [
        f"{talk.label}: {num(_mean(talk.lengths))} words a turn and {num(_mean(talk.counts))} turns a conversation on "
        f"average, over {plural(len(talk.counts), 'conversation')}"
        for talk in kept
    ]
    says = "How long human turns are and how many make a conversation: "
    says += (
        "a simulator that is like people draws the black line."
        if kept[0].people
        else "no people were given to compare."
    )
    return draw(
        paint, 4.6 + 0.25 * len(kept), name="turn-shapes", section="simulator", title="Turn lengths and turn counts",
        says=says, alt=". ".join(means) + ".",
    )  # fmt: skip


def _looks(talks: Sequence[Talk]) -> list[dict[str, Any]]:
    simulated = iter(zip(COLOURS, DASHES[1:] + DASHES[:1], strict=True))
    looks = []
    for talk in talks:
        colour, dash = (BLACK, "-") if talk.people else next(simulated)
        looks.append({"color": colour, "linestyle": dash})
    return looks


def _percentile(values: Sequence[int], share: float) -> int:
    return max(1, sorted(values)[min(len(values) - 1, int(len(values) * share))])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def ending(endings: Endings, place: int) -> Picture:
    """How often people ended where the simulator gave END a probability."""
    bins = endings.bins

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as often as it said")
        axes.plot([b.predicted for b in bins], [b.ended for b in bins], color=COLOURS[0], linewidth=1)
        largest = max(b.n for b in bins)
        axes.scatter(
            [b.predicted for b in bins], [b.ended for b in bins], color=COLOURS[0], zorder=3, clip_on=False,
            s=[25 + 150 * b.n / largest for b in bins], label="openings (area: how many)",
        )  # fmt: skip
        axes.set(
            xlabel="probability of END, said", ylabel="share of people who ended", xlim=(0, 1), ylim=(0, 1)
        )
        light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=1)

    points = ", ".join(f"said {num(b.predicted)}, ended {num(b.ended)} (n = {b.n})" for b in bins)
    says = "How often people ended where the simulator gave END a probability; on the dashed line it would be right."
    if endings.error.value is not None:
        says += f" Calibration error {_said(endings.error)}."
    return draw(
        paint, 4.2, name=_numbered("end-calibration", place), section="simulator",
        title=f"Calibration of the ending ({endings.label})", says=says, alt=f"By bin: {points}.",
    )  # fmt: skip


def told_solved(outcomes: Sequence[Outcome]) -> Picture:
    """Each tutor as a point: how often it told, how often the student solved the problem; a panel for each student."""
    students = list(dict.fromkeys(one.student for one in outcomes))
    names = list(dict.fromkeys(one.label for one in outcomes))[:MOST]
    looks = {name: (COLOURS[place], MARKERS[place]) for place, name in enumerate(names)}
    kept = [one for one in outcomes if one.label in looks]

    def paint(figure: Any) -> None:
        panels = figure.subplots(len(students), 1, squeeze=False)[:, 0]
        for axes, student in zip(panels, students, strict=True):
            for one in kept:
                if one.student == student:
                    _cross(axes, one, *looks[one.label], named=student == students[0])
            axes.set(
                xlabel="the tutor told the answer", ylabel="the student solved it",
                xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
            )  # fmt: skip
            if student:
                axes.set_title(label(f"with the student “{student}”"))
            light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=1)

    parts = [
        f"{one.label}{f' with {one.student}' if one.student else ''}: "
        f"solved {_said(one.solved)}, told {_said(one.told)}"
        for one in kept
    ]
    says = "Whole dialogues on problems with known answers: a good tutor is high and to the left."
    says += " The crosses are 95 % intervals." if any(one.solved.ci for one in kept) else ""
    dropped = len({one.label for one in outcomes}) - len(names)
    if dropped > 0:
        says += f" The first {MOST} of {MOST + dropped} tutors."
    return draw(
        paint, 3.6 * len(students) + 0.4 + 0.25 * len(names), name="told-solved", section="dialogue",
        title="Told against solved", says=says, alt=". ".join(parts) + ".",
    )  # fmt: skip


def _cross(axes: Any, one: Outcome, colour: str, marker: str, named: bool) -> None:
    x, y = one.told.value, one.solved.value
    assert x is not None and y is not None
    spread = {
        side: [[max(0.0, value - of.ci[0])], [max(0.0, of.ci[1] - value)]] if of.ci else None
        for side, value, of in (("xerr", x, one.told), ("yerr", y, one.solved))
    }
    axes.errorbar(
        [x], [y], **spread, color=colour, marker=marker, markersize=8, linestyle="", clip_on=False,
        label=label(one.label) if named else None,
    )  # fmt: skip


def rubric_worth(worths: Sequence[Worth]) -> Picture:
    """The mean outcome of the replies that the rubric gave one score, a line for each round."""
    kept = worths[:MOST]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for place, one in enumerate(kept):
            xs, ys = [g.rubric for g in one.given], [g.outcome for g in one.given]
            axes.plot(xs, ys, color=COLOURS[place], linewidth=1)
            most = max(g.n for g in one.given)
            axes.scatter(
                xs, ys, s=[25 + 175 * g.n / most for g in one.given], color=COLOURS[place], marker=MARKERS[place],
                label=label(f"{one.label} (area: replies)"), zorder=3, clip_on=False,
            )  # fmt: skip
        axes.set(
            xlabel="score by the rubric", ylabel="plays that were solved", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
        )  # fmt: skip
        light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=1)

    says = (
        "Candidate replies by what the rubric gave them, and how often a student then found the answer alone."
    )
    return draw(
        paint, 3.8 + 0.25 * len(kept), name="rubric-outcome", section="pairs", title="What the rubric’s score is worth",
        says=says, alt=" ".join(map(said, kept)),
    )  # fmt: skip


def human_judge(agreement: Agreement, place: int) -> Picture:
    """Each rating of a person against the judge's, equal points gathered."""
    points = sorted((round(x, 6), round(y, 6)) for x, y in agreement.points)
    sizes = [(point, len(list(same))) for point, same in groupby(points)]
    ends = [min(min(p) for p, _ in sizes), max(max(p) for p, _ in sizes)]
    room = max(0.05 * (ends[1] - ends[0]), 0.02)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="equal")
        most = max(n for _, n in sizes)
        axes.scatter(
            [x for (x, _), _ in sizes], [y for (_, y), _ in sizes], s=[20 + 180 * n / most for _, n in sizes],
            color=COLOURS[0], alpha=0.75, edgecolors="white", label="texts (area: how many)",
        )  # fmt: skip
        limits = (ends[0] - room, ends[1] + room)
        axes.set(xlabel="people", ylabel="judge", xlim=limits, ylim=limits)
        light_grid(axes, "both")
        figure.legend(loc="outside upper left", ncols=2)

    pearson = agreement.result["pearson"]
    said = f"Pearson r {num(pearson['value'])} ({sure(pearson)}, n = {pearson['n']})"
    mark = agreement.result["baselines"]["question_mark"]["pearson"]["value"]
    beside = f"; a bare test for “?” reaches {num(mark)}" if mark is not None else ""
    means = [num(_mean([point[side] for point in points])) for side in (0, 1)]
    alt = f"{said}. People's mean {means[0]}, the judge's {means[1]}."
    return draw(
        paint, 4.2, name=_numbered("human-judge", place), section="judge",
        title=f"People against the judge ({agreement.label})",
        says=f"Each text as people and as the judge rated it. {said}{beside}.", alt=alt,
    )  # fmt: skip


def confusion(agreement: Agreement, place: int) -> Picture:
    """For each yes/no criterion how often people and the judge said yes and no."""
    words = ("no", "yes")

    def paint(figure: Any) -> None:
        panels = figure.subplots(1, len(agreement.yes_no), squeeze=False)[0]
        for axes, (name, counts) in zip(panels, agreement.yes_no.items(), strict=True):
            most = max(counts.values())
            cells = [[counts.get((person, judge), 0) for person in (0, 1)] for judge in (0, 1)]
            axes.imshow(cells, cmap="Blues", vmin=0, vmax=1.6 * most, origin="lower")
            for judge, row in enumerate(cells):
                for person, n in enumerate(row):
                    axes.text(person, judge, str(n), ha="center", va="center", fontsize=12)
            axes.set(xlabel="people", ylabel="judge", title=label(name.replace("_", " "), 20))
            axes.set_xticks((0, 1), words)
            axes.set_yticks((0, 1), words)

    parts = []
    for name, counts in agreement.yes_no.items():
        same = sum(n for (person, judge), n in counts.items() if person == judge)
        parts.append(f"{name.replace('_', ' ')}: {same} of {sum(counts.values())} alike")
    return draw(
        paint, 2.6, name=_numbered("human-judge-criteria", place), section="judge",
        title=f"Yes and no, people against the judge ({agreement.label})",
        says=f"How many texts people and the judge said yes and no of. {'; '.join(parts)}.", alt=f"{'; '.join(parts)}.",
    )  # fmt: skip


def _numbered(name: str, place: int) -> str:
    return name if place == 1 else f"{name}-{place}"
