"""Tables and figures of a grid: every tutor on every test set, on all items and on those that have not leaked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maieutic.core.messages import Estimate
from maieutic.report.estimates import NONE, estimate_text, num
from maieutic.report.extract import TutorGrid, tutor_name
from maieutic.report.figures import COLOURS, DASHES, Figure, dot, draw, label, light_grid
from maieutic.report.tables import Table, compared

_BASE = "base"
_PARTS = {"published": "as published", "clean": "clean"}
_CRITERIA = {
    "asks_question": "asks a question",
    "reveals_answer": "reveals the answer",
    "on_topic": "on topic (of 5, as a share)",
    "helpful": "helpful (of 5, as a share)",
}


def findings(grid: TutorGrid) -> Iterator[str]:
    """The shown tutor against the base on each test set; on clean items where there are any."""
    for test in grid.tests:
        gaps = grid.cells[test, grid.shown].get("difference") or {}
        for part in reversed(_PARTS):
            if gap := ((gaps.get(part) or {}).get("metrics") or {}).get("summary_score"):
                yield compared(f"{test}, {_PARTS[part]}: summary score {tutor_name(grid.shown)}", gap)
                break


def tables(grid: TutorGrid) -> Iterator[Table]:
    """Scores, differences from the base, and leaks."""
    yield _scores(grid)
    if len(grid.tutors) > 1:
        yield _differences(grid)
    yield _leaks(grid)


def _scores(grid: TutorGrid) -> Table:
    rows = []
    for test in grid.tests:
        for part, title in _PARTS.items():
            found = [grid.estimate(test, tutor, part) for tutor in grid.tutors]
            rows.append((f"{test}\n{title}", *(_cell(e.value, e.ci, e.n) for e in found)))
    note = (
        "Mean summary score; below it the 95 % interval and the number of test items. Clean: the items that share no "
        "bytes, near-duplicate text, problem or program with the tutor's training data (for a prompted tutor: with any "
        "training set). Both use the same replies and verdicts. An item that is in a list twice is answered once."
    )
    columns = ("test set", *(tutor_name(tutor).replace("tuned on ", "tuned on\n") for tutor in grid.tutors))
    return Table(f"Every test set with every tutor ({grid.label})", columns, rows, note)


def _cell(value: float | None, ci: Sequence[float] | None, n: int, sign: str = "") -> str:
    """A number, and below it its interval with two decimals (so that five columns fit a page) and n."""
    if value is None:
        return f"{NONE}\nn 0"
    ends = (f"{end:.2f}".replace("0.", ".", 1).replace("-", "−") for end in ci or ())
    return f"{sign}{num(value)}\n{' to '.join(ends) or 'no interval'}, n {n}"


def _differences(grid: TutorGrid) -> Table:
    tutors = [tutor for tutor in grid.tutors if tutor != _BASE]
    rows = []
    for test in grid.tests:
        for part, title in _PARTS.items():
            rows.append((f"{test}\n{title}", *(_gap(grid.cells[test, tutor], part) for tutor in tutors)))
    note = (
        "Summary score minus that of the base, paired by item; below it the 95 % interval. Clean: the items that are "
        "clean for the tutor."
    )
    columns = ("test set", *map(tutor_name, tutors))
    return Table("Differences from the base with the prompt", columns, rows, note)


def _gap(cell: Mapping[str, Any], part: str) -> str:
    gap = ((cell.get("difference") or {}).get(part) or {}).get("metrics", {}).get("summary_score")
    if not gap:
        return _cell(None, None, 0)
    return _cell(gap["difference"], gap["ci"], gap["n"], "+" if gap["difference"] > 0 else "")


def _leaks(grid: TutorGrid) -> Table:
    rows = []
    for train, tests in grid.leakage.items():
        for test, found in tests.items():
            kinds, before = found["overlap"], found.get("before")
            counts = (
                *(kinds[kind] for kind in ("exact", "near", "problems")),
                *(found[key] for key in ("programs", "leaked", "test")),
                before["leaked"] if before else None,
            )
            rows.append((f"{test} in {train}", *map(num, counts)))
    note = (
        "Test items contained in a training set: to the byte, nearly (.8 of the word 5-grams), by problem, by program. "
        "Any: at least one of these. Before: any, before leaked items were removed from the training set."
    )
    columns = ("test set in training set", "exact", "near", "problem", "program", "any", "of", "before")
    return Table("Test items that are in the training sets", columns, rows, note)


def figures(grid: TutorGrid) -> Iterator[Figure]:
    """Scores of all tutors; for base, prompted and shown tutors also distributions and criteria."""
    yield _all_scores(grid)
    yield _distribution(grid)
    first = grid.tests[0]
    criteria = [
        name for name in _CRITERIA if grid.estimate(first, _BASE, "published", name).value is not None
    ]
    if criteria:
        yield _criteria(grid, criteria)


def _panels(figure: Any, count: int) -> Sequence[Any]:
    """Panels one below the other."""
    found: Sequence[Any] = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    return found


def _all_scores(grid: TutorGrid) -> Figure:
    ticks = [label(tutor_name(tutor), 24) for tutor in grid.tutors]
    count = len(grid.tutors)

    def paint(figure: Any) -> None:
        panels = _panels(figure, len(grid.tests))
        for axes, test in zip(panels, grid.tests, strict=True):
            for place, tutor in enumerate(grid.tutors):
                for part, up in (("published", 0.14), ("clean", -0.14)):
                    found = grid.estimate(test, tutor, part)
                    dot(axes, found, count - 1 - place + up, place, hollow=part == "clean")
            axes.set_yticks(range(count), ticks[::-1])
            axes.set(ylim=(-0.6, count - 0.4), xlim=(-0.03, 1.03), title=label(test))
            light_grid(axes, "x")
        panels[-1].set_xlabel("summary score")

    return draw(
        paint, len(grid.tests) * (0.6 + 0.36 * count) + 0.5, name="grid-scores", section="tutor",
        title="Every test set with every tutor", alt=_alt(grid, "summary_score", grid.tutors),
        caption="Mean summary scores with 95 % intervals. Filled: all items, as published; hollow: clean items.",
    )  # fmt: skip


def _alt(grid: TutorGrid, name: str, tutors: Sequence[str]) -> str:
    parts = [
        f"{test}, {tutor_name(tutor)}: {_estimate_text(grid.estimate(test, tutor, 'published', name))}"
        for test in grid.tests
        for tutor in tutors
    ]
    return ". ".join(parts) + "."


def _estimate_text(found: Estimate) -> str:
    return NONE if found.value is None else estimate_text(found)


def _distribution(grid: TutorGrid) -> Figure:
    def paint(figure: Any) -> None:
        panels = _panels(figure, len(grid.tests))
        for axes, test in zip(panels, grid.tests, strict=True):
            for place, tutor in enumerate(grid.figure_tutors):
                scores = {float(score): n for score, n in grid.cells[test, tutor]["scores"].items()}
                total = sum(scores.values()) or 1
                edges = [0.0, *sorted(scores)]
                above = [sum(n for score, n in scores.items() if score >= edge) / total for edge in edges]
                axes.step(
                    [*edges, edges[-1]], [*above, 0.0], where="pre",
                    color=COLOURS[grid.tutors.index(tutor) % len(COLOURS)], linestyle=DASHES[place % len(DASHES)],
                    label=label(tutor_name(tutor)) if axes is panels[0] else None,
                )  # fmt: skip
            axes.set(xlim=(0, 1.02), ylim=(0, 1.05), title=label(test), ylabel="share")
            light_grid(axes, "both")
        panels[-1].set_xlabel("summary score")
        figure.legend(loc="outside upper left", ncols=2)

    return draw(
        paint, 1.9 * len(grid.tests) + 1.0, name="score-distribution", section="tutor",
        title="Distribution of the summary scores", alt=_alt(grid, "summary_score", grid.figure_tutors),
        caption="The share of replies with at least a given score. A line that stays high further right is better.",
    )  # fmt: skip


def _criteria(grid: TutorGrid, criteria: Sequence[str]) -> Figure:
    pairs = [(test, tutor) for test in grid.tests for tutor in grid.figure_tutors]
    ticks = [label(f"{test}, {tutor_name(tutor)}", 32) for test, tutor in pairs]

    def paint(figure: Any) -> None:
        for axes, name in zip(_panels(figure, len(criteria)), criteria, strict=True):
            for place, (test, tutor) in enumerate(pairs):
                found = grid.estimate(test, tutor, "published", name)
                dot(axes, found, len(pairs) - 1 - place, grid.tutors.index(tutor))
            for line in range(len(grid.figure_tutors), len(pairs), len(grid.figure_tutors)):
                axes.axhline(len(pairs) - 0.5 - line, color="#dddddd", linewidth=0.8)
            axes.set_yticks(range(len(pairs)), ticks[::-1], fontsize=9)
            axes.set(ylim=(-0.6, len(pairs) - 0.4), xlim=(-0.03, 1.03), title=_CRITERIA[name])
            light_grid(axes, "x")

    return draw(
        paint, len(criteria) * (0.6 + 0.25 * len(pairs)) + 0.4, name="criteria", section="tutor",
        title="The criteria one by one",
        caption="Means with 95 % intervals over all test items. Lower is better for “reveals”, higher for the rest.",
        alt=" ".join(f"{_CRITERIA[name]}: {_alt(grid, name, grid.figure_tutors)}" for name in criteria),
    )  # fmt: skip
