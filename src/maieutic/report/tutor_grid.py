"""The table of test sets and tutors, and its figures: as published and clean side by side, and what has leaked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maieutic.core.messages import Estimate
from maieutic.report.draw import COLOURS, DASHES, MARKERS, Picture, draw, label, light_grid
from maieutic.report.grid import Grid, called
from maieutic.report.numbers import NONE, num, sure
from maieutic.report.tables import Table, compared

BASE = "base"
PARTS = {"published": "as published", "clean": "clean"}
CRITERIA = {
    "asks_question": "asks a question",
    "reveals_answer": "reveals the answer",
    "on_topic": "on topic (of 5, as a share)",
    "helpful": "helpful (of 5, as a share)",
}


def findings(grid: Grid) -> Iterator[str]:
    """The shown tutor beside the base on each test set, on clean items where there are any."""
    for test in grid.tests:
        gaps = grid.cells[test, grid.shown].get("difference") or {}
        for part in reversed(PARTS):
            if gap := ((gaps.get(part) or {}).get("metrics") or {}).get("summary_score"):
                yield compared(f"{test}, {PARTS[part]}: summary score {called(grid.shown)}", gap)
                break


def tables(grid: Grid) -> Iterator[Table]:
    """Scores, differences from the base, leaks."""
    yield _scores(grid)
    if len(grid.tutors) > 1:
        yield _differences(grid)
    yield _leaks(grid)


def _scores(grid: Grid) -> Table:
    rows = [
        (f"{test}\n{said}", *(_cell(grid.estimate(test, tutor, part)) for tutor in grid.tutors))
        for test in grid.tests
        for part, said in PARTS.items()
    ]
    note = (
        "Mean summary score; under it the 95 % interval and the number of test items. Clean: the items that share "
        "neither bytes nor near text nor problem nor program with what the tutor was trained on; for one that was only "
        "prompted, with any train set. Both are of the same replies and verdicts; an item that stands in a list twice "
        "is answered once."
    )
    columns = ("test set", *map(_head, grid.tutors))
    return Table(f"Every test set with every tutor ({grid.label})", columns, rows, note)


def _head(tutor: str) -> str:
    return called(tutor).replace("tuned on ", "tuned on\n")


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"{NONE}\nn 0"
    return f"{num(estimate.value)}\n{_between(estimate.ci)}, n {estimate.n}"


def _between(ci: Sequence[float] | None) -> str:
    """An interval in two places: five columns shall fit a page."""
    if ci is None:
        return "no interval"
    return " to ".join(f"{end:.2f}".replace("0.", ".", 1).replace("-", "−") for end in ci)


def _differences(grid: Grid) -> Table:
    tutors = [tutor for tutor in grid.tutors if tutor != BASE]
    rows = [
        (f"{test}\n{said}", *(_gap(grid.cells[test, tutor], part) for tutor in tutors))
        for test in grid.tests
        for part, said in PARTS.items()
    ]
    note = (
        "Summary score less the base’s on the same items, resampled together; under it the 95 % interval. Clean: the "
        "items that are clean for the tutor."
    )
    return Table(
        "The differences from the base with the prompt", ("test set", *map(called, tutors)), rows, note
    )


def _gap(cell: Mapping[str, Any], part: str) -> str:
    gap = ((cell.get("difference") or {}).get(part) or {}).get("metrics", {}).get("summary_score")
    if not gap:
        return f"{NONE}\nn 0"
    plus = "+" if gap["difference"] > 0 else ""
    return f"{plus}{num(gap['difference'])}\n{_between(gap['ci'])}, n {gap['n']}"


def _leaks(grid: Grid) -> Table:
    rows = []
    for train, tests in grid.leakage.items():
        for test, found in tests.items():
            kinds = found["overlap"]
            counts = (
                kinds["exact"],
                kinds["near"],
                kinds["problems"],
                found["programs"],
                found["leaked"],
                found["test"],
            )
            before = found.get("before")
            rows.append((f"{test} in {train}", *map(num, counts), num(before["leaked"]) if before else NONE))
    note = (
        "Test items that stand in a train set: to the byte, nearly (.8 of the word 5-grams), by problem, by program; "
        "any: one or more of these. Before: any, before it was left out of the train set."
    )
    columns = ("test set in train set", "exact", "near", "problem", "program", "any", "of", "before")
    return Table("What of the test sets stands in the train sets", columns, rows, note)


def pictures(grid: Grid) -> list[Picture]:
    """Scores of all; of the base, the prompted and the shown tutor also the distribution and the criteria."""
    found = [_all_scores(grid), _distribution(grid)]
    criteria = [
        name for name in CRITERIA if grid.estimate(grid.tests[0], BASE, "published", name).value is not None
    ]
    return [*found, _criteria(grid, criteria)] if criteria else found


def _all_scores(grid: Grid) -> Picture:
    ticks = [label(called(tutor), 24) for tutor in grid.tutors]
    count = len(grid.tutors)

    def paint(figure: Any) -> None:
        panels = figure.subplots(len(grid.tests), 1, sharex=True, squeeze=False)[:, 0]
        for axes, test in zip(panels, grid.tests, strict=True):
            for place, tutor in enumerate(grid.tutors):
                for part, up in (("published", 0.14), ("clean", -0.14)):
                    y = count - 1 - place + up
                    _dot(axes, grid.estimate(test, tutor, part), y, place, hollow=part == "clean")
            axes.set_yticks(range(count), ticks[::-1])
            axes.set(ylim=(-0.6, count - 0.4), xlim=(-0.03, 1.03), title=label(test))
            light_grid(axes, "x")
        panels[-1].set_xlabel("summary score")

    return draw(
        paint, len(grid.tests) * (0.6 + 0.36 * count) + 0.5, name="grid-scores", section="tutor",
        title="Every test set with every tutor",
        says="Mean summary scores with their 95 % intervals. Filled: all items, as published; hollow: the clean ones.",
        alt=_said(grid, "summary_score", grid.tutors),
    )  # fmt: skip


def _dot(axes: Any, estimate: Estimate, y: float, place: int, *, hollow: bool) -> None:
    if estimate.value is None:
        return
    colour = COLOURS[place % len(COLOURS)]
    if estimate.ci:
        axes.plot(estimate.ci, (y, y), color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(
        [estimate.value], [y], marker=MARKERS[place % len(MARKERS)], color=colour, markersize=6, linestyle="",
        markerfacecolor="white" if hollow else colour, clip_on=False,
    )  # fmt: skip


def _said(grid: Grid, name: str, tutors: Sequence[str]) -> str:
    parts = []
    for test in grid.tests:
        for tutor in tutors:
            one = grid.estimate(test, tutor, "published", name)
            parts.append(f"{test}, {called(tutor)}: {num(one.value)} ({sure(one)}, n = {one.n})")
    return ". ".join(parts) + "."


def _distribution(grid: Grid) -> Picture:
    def paint(figure: Any) -> None:
        panels = figure.subplots(len(grid.tests), 1, sharex=True, squeeze=False)[:, 0]
        for axes, test in zip(panels, grid.tests, strict=True):
            for place, tutor in enumerate(grid.few):
                scores = {float(score): n for score, n in grid.cells[test, tutor]["scores"].items()}
                total = sum(scores.values()) or 1
                edges = [0.0, *sorted(scores)]
                above = [sum(n for score, n in scores.items() if score >= edge) / total for edge in edges]
                edges, above = [*edges, edges[-1]], [*above, 0.0]
                axes.step(
                    edges, above, where="pre", color=COLOURS[grid.tutors.index(tutor) % len(COLOURS)],
                    linestyle=DASHES[place % len(DASHES)], label=label(called(tutor)) if axes is panels[0] else None,
                )  # fmt: skip
            axes.set(xlim=(0, 1.02), ylim=(0, 1.05), title=label(test), ylabel="share")
            light_grid(axes, "both")
        panels[-1].set_xlabel("summary score")
        figure.legend(loc="outside upper left", ncols=2)

    return draw(
        paint, 1.9 * len(grid.tests) + 1.0, name="score-distribution", section="tutor",
        title="How the summary scores are spread",
        says="The share of replies that score at least so much: the further right a line stays high, the better.",
        alt=_said(grid, "summary_score", grid.few),
    )  # fmt: skip


def _criteria(grid: Grid, criteria: Sequence[str]) -> Picture:
    pairs = [(test, tutor) for test in grid.tests for tutor in grid.few]
    ticks = [label(f"{test}, {called(tutor)}", 32) for test, tutor in pairs]

    def paint(figure: Any) -> None:
        panels = figure.subplots(len(criteria), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, criteria, strict=True):
            for place, (test, tutor) in enumerate(pairs):
                estimate = grid.estimate(test, tutor, "published", name)
                _dot(axes, estimate, len(pairs) - 1 - place, grid.tutors.index(tutor), hollow=False)
            for line in range(len(grid.few), len(pairs), len(grid.few)):
                axes.axhline(len(pairs) - 0.5 - line, color="#dddddd", linewidth=0.8)
            axes.set_yticks(range(len(pairs)), ticks[::-1], fontsize=9)
            axes.set(ylim=(-0.6, len(pairs) - 0.4), xlim=(-0.03, 1.03), title=CRITERIA[name])
            light_grid(axes, "x")

    return draw(
        paint, len(criteria) * (0.6 + 0.25 * len(pairs)) + 0.4, name="criteria", section="tutor",
        title="The criteria, one by one",
        says="Means with their 95 % intervals on all test items. To reveal the answer is bad, all else is good.",
        alt=" ".join(f"{CRITERIA[name]}: {_said(grid, name, grid.few)}" for name in criteria),
    )  # fmt: skip
