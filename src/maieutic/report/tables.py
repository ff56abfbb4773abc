"""Plain data → tables: what was run, on what, and every number with its interval and how much it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.evals.judge_agreement import BASELINES
from maieutic.report.collect import Run, StageRun
from maieutic.report.material import Agreement, Outcome, Scores
from maieutic.report.numbers import NONE, holds_zero, num, span, sure
from maieutic.report.stage_summary import came_of


class Table(NamedTuple):
    """A table: the first cell of a row names it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    words: tuple[int, ...] = (0,)
    """The columns that hold words, and are set to the left."""


def stages(run: Run) -> Table:
    """Every stage, what it did, and how long it took."""
    rows = []
    for stage in run.stages:
        state = came_of(stage) if stage.manifest is not None else "not finished"
        rows.append(
            (
                f"{stage.name}\n{stage.kind}",
                state,
                num(stage.seconds),
                stage.config_hash,
                stage.rows_hash or NONE,
            )
        )
    spent = [stage.seconds for stage in run.stages if stage.seconds is not None]
    total = f"{num(sum(spent))} seconds in all that were measured. " if len(spent) > 1 else ""
    return Table(
        f"Stages of {run.name}", ("stage", "what came of it", "seconds", "settings", "rows"), rows,
        f"{total}The last two columns are the first 12 digits of a hash of the settings, and of rows.jsonl.", (0, 1),
    )  # fmt: skip


def inputs(runs: Sequence[Run]) -> Table | None:
    """The files that went in, with their hashes."""
    rows = [(run.plain(path), digest) for run in runs for path, digest in run.files.items()]
    for run in runs:
        for stage in run.stages:
            for setting in ("data", "validation"):
                named = stage.config.get(setting)
                if isinstance(named, Mapping) and named.get("sha256"):
                    rows.append((f"{stage.label}, {setting}: {named.get('name')}", str(named["sha256"])))
    return Table("Inputs", ("file", "SHA-256"), list(dict.fromkeys(rows)), words=(0, 1)) if rows else None


def versions(runs: Sequence[Run]) -> Table:
    """What it was run with, as the stages recorded it; the page's own maker first."""
    from maieutic import __version__

    found: dict[str, None] = {f"maieutic {__version__}|this page": None}
    for run in runs:
        for stage in run.stages:
            manifest = stage.manifest or {}
            for name, version in (manifest.get("versions") or {}).items():
                found[f"{name} {version}|recorded by training"] = None
            if device := manifest.get("device"):
                found[f"{device}|device of training"] = None
    pairs = [line.partition("|") for line in found]
    return Table("Versions", ("what", "where"), [(what, where) for what, _, where in pairs], words=(0, 1))


_SIMULATOR = {
    "perplexity_on_human_turns": "perplexity on people's turns",
    "perplexity_with_intent": "the same, told their intent",
    "perplexity_without_intent": "the same people, not told",
    "end_f1": "F1 of the ending",
    "end_precision": "precision of the ending",
    "end_recall": "recall of the ending",
    "end_calibration_error": "calibration error of the ending",
    "end_brier": "Brier score of the ending",
    "first_turn_diversity": "first-turn diversity (of 100)",
    "distinct_1": "distinct words (share)",
    "distinct_2": "distinct word pairs (share)",
    "mtld": "MTLD",
    "repeats_rate": "repeats, per 100 turns",
    "role_flips_rate": "role flips, per 100 turns",
    "empty_turns_rate": "empty turns, per 100 turns",
    "human_likeness_auc": "told from people (AUC; .5: not at all)",
    "topic_diversity": "topic diversity",
    "question_cosine": "cosine between questions",
    "topic_maintenance": "topic kept (share of moves)",
    "topic_drift": "topic drifts",
    "topic_shift": "topic shifts",
    "intent_overlap": "overlap with the intent (of 100)",
    "turns_per_conversation": "human turns a conversation",
    "turn_count_wasserstein": "turn counts, Wasserstein distance",
    "turn_count_ks": "turn counts, KS distance",
    "turn_length_wasserstein": "turn lengths, Wasserstein distance",
    "turn_length_ks": "turn lengths, KS distance",
}


def simulator(stage: StageRun) -> Table | None:
    """Each metric of the simulator beside people's and the baseline's."""
    metrics = {k: v for k, v in ((stage.manifest or {}).get("metrics") or {}).items() if isinstance(v, dict)}
    order = [name for name in _SIMULATOR if name in metrics]
    order += [name for name in metrics if name not in _SIMULATOR]
    unmeasured = {name for name, m in metrics.items() if m.get("value") is None and m.get("reason")}
    rows = []
    for name in order:
        m = metrics[name]
        if name in unmeasured:
            continue
        beside = [over(m.get(side), m.get(f"{side}_ci")) for side in ("human", "baseline")]
        own = over(m.get("value"), m.get("ci"))
        rows.append((_SIMULATOR.get(name, name.replace("_", " ")), own, *beside, num(m.get("n"))))
    reasons = dict.fromkeys(
        f"{_SIMULATOR.get(name, name.replace('_', ' '))}, {m['reason']}"
        if name in unmeasured
        else str(m["reason"])
        for name, m in metrics.items()
        if m.get("reason")
    )
    note = "Under each number its 95 % interval. People: held-out people, measured the same way "
    note += "(for a distance: between two halves of them). n counts conversations."
    if reasons:
        note += f" Not measured, or without an interval: {'; '.join(reasons)}."
    columns = ("metric", "simulator", "people", "baseline", "n")
    return Table(f"The simulator beside people ({stage.label})", columns, rows, note) if rows else None


_CRITERIA = (
    "summary_score",
    "asks_question",
    "on_topic",
    "helpful",
    "reveals_answer",
    "takes_up",
    "misjudges",
)


def tutor(stage: StageRun) -> Table | None:
    """A tutor's scores; beside another's, with the paired difference."""
    manifest = stage.manifest or {}
    own, other = _whole(manifest.get("scores") or {}), _whole(manifest.get("against") or {})
    gap = manifest.get("difference") or {}
    named = [name for name in _CRITERIA if own.get(name) is not None]
    rows = []
    for name in named:
        cells = [over(own[name], own.get(f"{name}_ci"))]
        if other:
            paired = (gap.get("metrics") or {}).get(name) or (gap if gap.get("metric") == name else {})
            cells += [
                over(other.get(name), other.get(f"{name}_ci")),
                over(paired.get("difference"), paired.get("ci")),
            ]
        rows.append((name.replace("_", " "), *cells, num(own.get("n"))))
    sides = [Path(str(stage.config.get(key) or key)).name for key in ("data", "against")]
    columns = ("criterion", *((*sides, "difference") if other else sides[:1]), "n")
    note = "Under each number its 95 % interval."
    if other:
        note += " The difference is of the same prompts, the first less the second."
    if own.get("unscored"):
        note += f" {own['unscored']} replies unscored."
    return Table(f"Scores of the tutor ({stage.label})", columns, rows, note) if rows else None


def _whole(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores with the criteria of another rubric beside the published ones, in the same form."""
    shapes = scores.get("criteria") or {}
    return {
        **scores,
        **{name: shape.get("value") for name, shape in shapes.items()},
        **{f"{name}_ci": shape.get("ci") for name, shape in shapes.items()},
    }


def over(value: Any, ci: Any) -> str:
    """A number over its interval."""
    if value is None:
        return NONE
    return f"{num(float(value))}\n{span({'ci': ci})}" if ci else num(float(value))


def by_model(scores: Sequence[Scores]) -> Table | None:
    """Every judged set: who answered, who judged, and the means."""
    names = list(dict.fromkeys(name for one in scores for name in one.values))
    rows = []
    for one in scores:
        cells = [over(e.value, e.ci) if (e := one.values.get(name)) else NONE for name in names]
        model = f"{one.model or NONE}, {one.set}" if one.set else one.model or NONE
        judged = f"{one.rubric}, {one.judge}" if one.judge else one.rubric
        rows.append((one.label, *cells, num(one.n), num(one.unscored), model, judged))
    last = len(names) + 3
    columns = ("stage", *(n.replace("_", " ") for n in names), "n", "unscored", "model, set", "rubric, judge")
    note = (
        "Means, and under each its 95 % interval; replies to one prompt are one unit. Unscored: the judge gave no "
        "verdict that could be read; such a reply is in no mean."
    )
    return (
        Table("Judged replies by model and set", columns, rows, note, (0, last, last + 1)) if rows else None
    )


def agreement(one: Agreement) -> Table:
    """A judge's agreement with people, beside rules nobody would call a judge."""
    result, rows = one.result, []
    for name, shape in result.items():
        if isinstance(shape, dict) and "ci" in shape:
            beside = [num((result["baselines"][base].get(name) or {}).get("value")) for base in BASELINES]
            rows.append((name.replace("_", " "), over(shape["value"], shape["ci"]), *beside, num(shape["n"])))
    passed = result["gate"]["passed"]
    note = f"The judge {'beats' if passed else 'does not beat'} every trivial rule: the interval of the difference in "
    note += f"Pearson {'lies' if passed else 'does not lie'} above zero for each. {result['unscored']} texts unscored."
    columns = ("agreement", "judge", "has a “?”", "length", "constant", "n")
    return Table(f"The judge beside people ({one.label})", columns, rows, note)


def outcomes(found: Sequence[Outcome]) -> Table:
    """What became of the students."""
    rows = [
        (
            one.label, over(one.solved.value, one.solved.ci), over(one.told.value, one.told.ci),
            over(one.turns.value, one.turns.ci) if one.turns else NONE, num(one.solved.n),
        )
        for one in found
    ]  # fmt: skip
    note = "Solved: the share of students who stated the known answer. Told: of dialogues in which the tutor did first."
    return Table(
        "Whole dialogues on problems with known answers", ("tutor", "solved", "told", "turns", "n"), rows,
        f"{note} Under each number its 95 % interval.",
    )  # fmt: skip


def differences(stage: StageRun) -> Table | None:
    """Two tutors over the same starts: means and paired differences."""
    metrics = ((stage.manifest or {}).get("difference") or {}).get("metrics") or {}
    rows = [
        (name, num(m.get("a")), num(m.get("b")), over(m.get("difference"), m.get("ci")), num(m.get("n")))
        for name, m in metrics.items()
    ]
    sides = [Path(str(stage.config.get(key) or key)).name for key in ("data", "against")]
    note = "Over the starts that both have; under the difference, first less second, its 95 % interval."
    columns = ("measure", *sides, "difference", "n")
    return Table(f"The tutors over the same starts ({stage.label})", columns, rows, note) if rows else None


_COMPARED = {
    "eval-tutor": ("summary_score", "asks_question", "reveals_answer", "takes_up", "misjudges"),
    "eval-dialogue": ("solved", "told", "turns"),
}


def findings(runs: Sequence[Run]) -> Iterator[str]:
    """The comparisons of a run, a sentence each; where an interval holds zero, that is said."""
    for run in runs:
        for stage in run.stages:
            manifest = stage.manifest or {}
            if stage.kind == "eval-simulator":
                yield from _of_simulator(manifest.get("metrics") or {}, stage.label)
            gaps = (manifest.get("difference") or {}).get("metrics") or {}
            for name in _COMPARED.get(stage.kind, ()):
                if name in gaps:
                    yield compared(f"{stage.label}: {name.replace('_', ' ')}", gaps[name])
        if any(stage.kind == "eval-dialogue" for stage in run.stages):
            continue
        for name, gap in (run.summary.get("dialogue") or {}).items():
            if isinstance(gap, Mapping) and gap.get("difference") is not None:
                sides = {"a": gap.get("tuned"), "b": gap.get("base")}
                yield compared(f"whole dialogues: {name}", {**sides, **gap})


def compared(what: str, gap: Mapping[str, Any]) -> str:
    """A paired difference as a sentence."""
    said = (
        f"{what} {num(gap.get('a'))}, against {num(gap.get('b'))}; "
        f"difference {num(gap.get('difference'))} ({sure(gap)}, n = {gap.get('n')})."
    )
    if gap.get("ci") is None:
        return f"{said} There is no interval, so nothing is shown."
    return f"{said} The interval holds zero: no difference is shown." if holds_zero(gap["ci"]) else said


def _of_simulator(metrics: Mapping[str, Any], label: str) -> Iterator[str]:
    for name in ("perplexity_on_human_turns", "end_f1"):
        m = metrics.get(name) or {}
        if m.get("value") is not None:
            base = m.get("baseline")
            gap = m.get("difference") or {}
            if base is not None and gap.get("difference") is not None:
                yield compared(f"{label}: {_SIMULATOR[name]}", {"a": m["value"], "b": base, **gap})
                continue
            beside = "" if base is None else f"; the baseline: {num(base)}"
            yield f"{label}: {_SIMULATOR[name]} {num(m['value'])} ({sure(m)}, n = {m.get('n')}){beside}."
