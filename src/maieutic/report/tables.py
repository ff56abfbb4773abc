"""The tables of a report, and the comparisons as sentences: every number with its interval and its n."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.evals.judge_agreement import BASELINES
from maieutic.report.collect import Run, StageRun
from maieutic.report.estimates import NONE, ci_text, num, plural, with_interval
from maieutic.report.extract import Agreement, Outcome, Scores


class Table(NamedTuple):
    """A table; the first cell of a row is its heading, and a line break in a cell starts a smaller second line."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    text_columns: tuple[int, ...] = (0,)
    """The columns that hold text and are aligned left."""


def stages(run: Run) -> Table:
    """Every stage with its result and its time."""
    rows = [
        (
            f"{stage.name}\n{stage.kind}",
            stage_summary(stage) if stage.manifest is not None else "not finished",
            num(stage.seconds),
            stage.config_hash,
            stage.rows_hash or NONE,
        )
        for stage in run.stages
    ]
    measured = [stage.seconds for stage in run.stages if stage.seconds is not None]
    total = f"Measured time in total: {num(sum(measured))} seconds. " if len(measured) > 1 else ""
    return Table(
        f"Stages of {run.name}", ("stage", "result", "seconds", "settings", "rows"), rows,
        f"{total}The last two columns are the first 12 digits of a hash of the settings and of rows.jsonl.", (0, 1),
    )  # fmt: skip


def stage_summary(stage: StageRun) -> str:
    """The main counts of a stage, from its manifest; for another kind of stage its number of rows."""
    summarise = _SUMMARIES.get(stage.kind)
    parts = summarise(stage.result) if summarise else ()
    return "; ".join(filter(None, parts)) or plural(int(stage.result.get("rows") or 0), "row")


def _counts(counts: Any) -> str:
    if not isinstance(counts, Mapping):
        return ""
    return ", ".join(f"{name} {num(count)}" for name, count in counts.items())


def _base(m: Mapping[str, Any]) -> Iterator[str]:
    if "parameters" in m:
        yield f"{num(m['parameters'])} parameters, {num(m.get('vocabulary'))} tokens, loss {num(m.get('loss'))}"


def _clean(m: Mapping[str, Any]) -> Iterator[str]:
    if "kept" in m:
        yield f"{num(m['kept'])} of {num(m.get('read'))} kept"
    yield _counts({name: count for name, count in (m.get("rejected") or {}).items() if count})


def _import(m: Mapping[str, Any]) -> Iterator[str]:
    if "conversations" in m:
        yield plural(int(m["conversations"]), "conversation")


def _split(m: Mapping[str, Any]) -> Iterator[str]:
    yield _counts(m.get("counts"))
    if m.get("by"):
        yield f"by {m['by']}"


def _train(m: Mapping[str, Any]) -> Iterator[str]:
    if (rows := (m.get("data") or {}).get("rows")) is not None:
        yield plural(int(rows), "row")
    yield f"{num(m.get('steps'))} steps"
    yield f"loss {num(m.get('final_loss', m.get('loss')))}"
    if m.get("eval_loss") is not None:
        yield f"validation loss {num(m['eval_loss'])}"
    if m.get("accuracy") is not None:
        yield f"accuracy {num(m['accuracy'])}"


def _simulate(m: Mapping[str, Any]) -> Iterator[str]:
    if "dialogues" not in m:
        return
    yield plural(int(m["dialogues"]), "dialogue")
    yield f"{num(m.get('failed') or 0)} failed"
    for key, heading in (("ends", "ended by "), ("faults", "faults: "), ("guards", "sampled again: ")):
        if m.get(key):
            yield heading + _counts(m[key])


def _candidates(m: Mapping[str, Any]) -> Iterator[str]:
    yield plural(int(m.get("rows") or 0), "prompt")
    yield f"{num(m.get('failed') or 0)} failed"
    if m.get("cut"):
        yield f"{num(m['cut'])} cut at the token limit"


def _judge(m: Mapping[str, Any]) -> Iterator[str]:
    if "judged" in m:
        yield f"{num(m['judged'])} verdicts"
        yield f"{num(m.get('unscored') or 0)} unscored"
        yield f"mean {num(m.get('mean'))}"


def _preferences(m: Mapping[str, Any]) -> Iterator[str]:
    if "pairs" in m:
        yield f"{plural(int(m['pairs']), 'pair')} from {plural(int(m.get('prompts') or 0), 'prompt')}"
        if m.get("refused"):
            yield f"prompts without a pair: {_counts(m['refused'])}"


def _dialogue(m: Mapping[str, Any]) -> Iterator[str]:
    scores = m.get("scores") or {}
    measures = {name: scores.get(name) for name in ("solved", "told", "turns")}
    yield ", ".join(f"{name} {num(m.get('value'))}" for name, m in measures.items() if isinstance(m, Mapping))


def _rewards(m: Mapping[str, Any]) -> Iterator[str]:
    if "agreement" in m:
        yield f"{num(m['scored'])} of {num(m['replies'])} replies scored"
        yield f"{num(m['plays'])} continuations counted"
        yield f"{num(m['lost'])} lost"


def _play(m: Mapping[str, Any]) -> Iterator[str]:
    if models := m.get("models"):
        yield f"{plural(len(models['tutors']), 'tutor')} with {plural(len(models['students']), 'student')}"


def _eval_simulator(m: Mapping[str, Any]) -> Iterator[str]:
    yield plural(len(m.get("metrics") or {}), "metric")


def _eval_tutor(m: Mapping[str, Any]) -> Iterator[str]:
    yield f"summary score {num((m.get('scores') or {}).get('summary_score'))}"


_SUMMARIES: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "demo-base": _base, "import": _import, "clean": _clean, "split": _split, "train sft": _train, "train dpo": _train,
    "simulate": _simulate, "candidates": _candidates, "judge": _judge, "preferences": _preferences,
    "eval simulator": _eval_simulator, "eval dialogue score": _dialogue, "eval tutor score": _eval_tutor,
    "eval dialogue run": _play, "continuations": _simulate, "rewards": _rewards,
}  # fmt: skip


def inputs(runs: Sequence[Run]) -> Table | None:
    """The input files with their hashes."""
    rows = [(run.relative(path), digest) for run in runs for path, digest in run.files.items()]
    for run in runs:
        for stage in run.stages:
            for setting in ("data", "validation"):
                source = stage.config.get(setting)
                if isinstance(source, Mapping) and source.get("sha256"):
                    rows.append((f"{stage.label}, {setting}: {source.get('name')}", str(source["sha256"])))
    columns = ("file", "SHA-256")
    return Table("Inputs", columns, list(dict.fromkeys(rows)), text_columns=(0, 1)) if rows else None


def versions(runs: Sequence[Run]) -> Table:
    """Versions and devices as training recorded them; first the version that wrote the page."""
    from maieutic import __version__

    rows = {(f"maieutic {__version__}", "this page"): None}
    for run in runs:
        for stage in run.stages:
            for name, version in (stage.result.get("versions") or {}).items():
                rows[f"{name} {version}", "recorded by training"] = None
            if device := stage.result.get("device"):
                rows[str(device), "device of training"] = None
    return Table("Versions", ("what", "where"), list(rows), text_columns=(0, 1))


_METRICS = {
    "perplexity_on_human_turns": "perplexity of human turns",
    "perplexity_with_intent": "the same, given the intent",
    "perplexity_without_intent": "the same conversations, intent not given",
    "end_f1": "end F1",
    "end_precision": "end precision",
    "end_recall": "end recall",
    "end_calibration_error": "end calibration error",
    "end_brier": "end Brier score",
    "first_turn_diversity": "first-turn diversity (of 100)",
    "distinct_1": "distinct words (share)",
    "distinct_2": "distinct word pairs (share)",
    "mtld": "MTLD",
    "repeats_rate": "repeated turns, per 100",
    "role_flips_rate": "role flips, per 100 turns",
    "empty_turns_rate": "empty turns, per 100",
    "human_likeness_auc": "distinguishable from people (AUC; .5: not at all)",
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


def _metric(name: str) -> str:
    return _METRICS.get(name, name.replace("_", " "))


def simulator(stage: StageRun) -> Table | None:
    """Each metric of a simulator, of people and of the baseline."""
    metrics = {k: v for k, v in (stage.result.get("metrics") or {}).items() if isinstance(v, dict)}
    order = [name for name in _METRICS if name in metrics]
    order += [name for name in metrics if name not in _METRICS]
    rows = []
    reasons: dict[str, list[str]] = {}
    for name in order:
        m = metrics[name]
        unmeasured = reasons.setdefault(str(m["reason"]), []) if m.get("reason") else None
        if m.get("value") is None and unmeasured is not None:
            unmeasured.append(_metric(name))
            continue
        cells = [
            with_interval(m.get("value"), m.get("ci")),
            with_interval(m.get("human"), m.get("human_ci")),
            with_interval(m.get("baseline"), m.get("baseline_ci")),
        ]
        rows.append((_metric(name), *cells, num(m.get("n"))))
    note = (
        "Below each number is its 95 % interval. People: held-out people, measured in the same way (a distance: "
        "between two halves of them). n counts conversations."
    )
    if reasons:
        parts = (f"{reason} ({', '.join(names)})" if names else reason for reason, names in reasons.items())
        note += f" Not measured, or without an interval: {'; '.join(parts)}."
    columns = ("metric", "simulator", "people", "baseline", "n")
    return Table(f"The simulator and people ({stage.label})", columns, rows, note) if rows else None


_CRITERIA = (
    *("summary_score", "asks_question", "on_topic", "helpful", "reveals_answer", "takes_up", "misjudges"),
)


def tutor(stage: StageRun) -> Table | None:
    """A tutor's scores; where it was compared with another, both and the paired difference."""
    own, other = _flat(stage.result.get("scores") or {}), _flat(stage.result.get("against") or {})
    gap = stage.result.get("difference") or {}
    rows = []
    for name in (name for name in _CRITERIA if own.get(name) is not None):
        cells = [with_interval(own[name], own.get(f"{name}_ci"))]
        if other:
            paired = (gap.get("metrics") or {}).get(name) or (gap if gap.get("metric") == name else {})
            cells.append(with_interval(other.get(name), other.get(f"{name}_ci")))
            cells.append(with_interval(paired.get("difference"), paired.get("ci")))
        rows.append((name.replace("_", " "), *cells, num(own.get("n"))))
    sides = [Path(str(stage.config.get(key) or key)).name for key in ("data", "against")]
    columns = ("criterion", *((*sides, "difference") if other else sides[:1]), "n")
    note = "Below each number is its 95 % interval."
    if other:
        note += " The difference is the first minus the second, paired by prompt."
    if own.get("unscored"):
        note += f" {own['unscored']} replies unscored."
    return Table(f"Scores of the tutor ({stage.label})", columns, rows, note) if rows else None


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as estimates: the published criteria, then those of other rubrics."""
    shapes = scores.get("criteria") or {}
    return {
        **scores,
        **{name: shape.get("value") for name, shape in shapes.items()},
        **{f"{name}_ci": shape.get("ci") for name, shape in shapes.items()},
    }


def by_model(scores: Sequence[Scores]) -> Table | None:
    """Every judged set with its model, its judge and its means."""
    names = list(dict.fromkeys(name for one in scores for name in one.values))
    rows = []
    for one in scores:
        cells = [with_interval(e.value, e.ci) if (e := one.values.get(name)) else NONE for name in names]
        model = f"{one.model or NONE}, {one.set}" if one.set else one.model or NONE
        judge = f"{one.rubric}, {one.judge}" if one.judge else one.rubric
        rows.append((one.label, *cells, num(one.n), num(one.unscored), model, judge))
    last = len(names) + 3
    columns = ("stage", *(n.replace("_", " ") for n in names), "n", "unscored", "model, set", "rubric, judge")
    note = (
        "Means over replies; below each its 95 % interval, with all replies to a prompt as one unit. Unscored: the "
        "judge's verdict could not be read, and the reply is in no mean."
    )
    title = "Judged replies by model and data set"
    return Table(title, columns, rows, note, (0, last, last + 1)) if rows else None


def agreement(found: Agreement) -> Table:
    """A judge's agreement with people, and that of trivial rules."""
    result, rows = found.result, []
    for name, shape in result.items():
        if isinstance(shape, dict) and "ci" in shape:
            trivial = [num((result["baselines"][base].get(name) or {}).get("value")) for base in BASELINES]
            own = with_interval(shape["value"], shape["ci"])
            rows.append((name.replace("_", " "), own, *trivial, num(shape["n"])))
    passed = result["gate"]["passed"]
    note = (
        f"The judge {'beats' if passed else 'does not beat'} every trivial rule: the interval of the difference in "
        f"Pearson's r {'is' if passed else 'is not'} above zero for each. {result['unscored']} texts unscored."
    )
    columns = ("agreement", "judge", "contains a “?”", "length", "constant", "n")
    return Table(f"The judge and people ({found.label})", columns, rows, note)


def outcomes(found: Sequence[Outcome]) -> Table:
    """Outcomes of the dialogues of each tutor."""
    rows = [
        (
            one.label,
            *(with_interval(e.value, e.ci) if e else NONE for e in (one.solved, one.told, one.turns)),
            num(one.solved.n),
        )
        for one in found
    ]
    note = (
        "Solved: share of dialogues in which the student stated the known answer first. Told: share in which the tutor "
        "stated it first. Below each number is its 95 % interval."
    )
    columns = ("tutor", "solved", "told", "turns", "n")
    return Table("Whole dialogues on problems with known answers", columns, rows, note)


def differences(stage: StageRun) -> Table | None:
    """Two tutors from the same starts: means and paired differences."""
    metrics = (stage.result.get("difference") or {}).get("metrics") or {}
    rows = [
        (
            name,
            num(m.get("a")),
            num(m.get("b")),
            with_interval(m.get("difference"), m.get("ci")),
            num(m.get("n")),
        )
        for name, m in metrics.items()
    ]
    sides = [Path(str(stage.config.get(key) or key)).name for key in ("data", "against")]
    note = (
        "Over the starts that both tutors have. The difference is first minus second, with its 95 % interval."
    )
    columns = ("measure", *sides, "difference", "n")
    return Table(f"The tutors from the same starts ({stage.label})", columns, rows, note) if rows else None


def preferences(runs: Sequence[Run]) -> Iterator[Table]:
    """The pairs of each `preferences` stage: both sides, and the counts by strategy."""
    for stage in (stage for run in runs for stage in run.stages if stage.kind == "preferences"):
        if "pairs" in stage.result:
            yield _pair_sides(stage.label, stage.result)
        if stage.result.get("by_strategy"):
            used = str(stage.config.get("strategy") or "best-worst")
            yield _strategies(stage.label, stage.result, used)


def _pair_sides(label: str, manifest: Mapping[str, Any]) -> Table:
    gap = manifest.get("words_gap") or {}
    note = (
        f"Chosen minus rejected: {num(gap['value'])} words ({ci_text(gap.get('ci'))}, {gap['n']} prompts). The chosen "
        f"reply is the longer one in {num(manifest.get('longer_chosen'))} of the pairs. Where lengths differ, DPO "
        "learns the length first."
        if gap.get("value") is not None
        else ""
    )
    rows = [
        ("mean score", num(manifest.get("score_chosen")), num(manifest.get("score_rejected"))),
        ("mean words", num(manifest.get("words_chosen")), num(manifest.get("words_rejected"))),
        ("share that reveals", num(0), num(manifest.get("rejected_reveal"))),
        ("cut at the token limit", num(manifest.get("chosen_cut")), NONE),
    ]
    return Table(f"Preference pairs ({label})", ("", "chosen", "rejected"), rows, note)


def _strategies(label: str, manifest: Mapping[str, Any], used: str) -> Table:
    rows = [
        (
            f"{name}\nused here" if name == used else name,
            num(counts.get("pairs")),
            num(counts.get("paired")),
            ", ".join(f"{why}: {num(count)}" for why, count in (counts.get("refused") or {}).items()) or NONE,
        )
        for name, counts in manifest["by_strategy"].items()
    ]
    note = (
        f"Of {num(manifest.get('prompts'))} prompts; {num(manifest.get('unscored'))} replies have no score."
    )
    columns = ("strategy", "pairs", "prompts with pairs", "prompts without, by reason")
    return Table(f"Pairs by strategy ({label})", columns, rows, note, (0, 3))


_COMPARED = {
    "eval tutor score": ("summary_score", "asks_question", "reveals_answer", "takes_up", "misjudges"),
    "eval dialogue score": ("solved", "told", "turns"),
}


def findings(runs: Sequence[Run]) -> Iterator[str]:
    """The comparisons of a run, one sentence each, which says where an interval contains zero."""
    for run in runs:
        for stage in run.stages:
            if stage.kind == "eval simulator":
                yield from _simulator_findings(stage.result.get("metrics") or {}, stage.label)
            gaps = (stage.result.get("difference") or {}).get("metrics") or {}
            for name in _COMPARED.get(stage.kind, ()):
                if name in gaps:
                    yield compared(f"{stage.label}: {name.replace('_', ' ')}", gaps[name])
        if any(stage.kind == "eval dialogue score" for stage in run.stages):
            continue
        for name, gap in (run.summary.get("dialogue") or {}).items():
            if isinstance(gap, Mapping) and gap.get("difference") is not None:
                sides = {"a": gap.get("tuned"), "b": gap.get("base")}
                yield compared(f"whole dialogues: {name}", {**sides, **gap})


def compared(what: str, gap: Mapping[str, Any]) -> str:
    """A paired difference as a sentence."""
    ci = gap.get("ci")
    text = (
        f"{what} {num(gap.get('a'))}, against {num(gap.get('b'))}; "
        f"difference {num(gap.get('difference'))} ({ci_text(ci)}, n = {gap.get('n')})."
    )
    if ci is None:
        return f"{text} Without an interval no difference is shown."
    return f"{text} The interval contains zero: no difference is shown." if ci[0] <= 0 <= ci[1] else text


def _simulator_findings(metrics: Mapping[str, Any], label: str) -> Iterator[str]:
    for name in ("perplexity_on_human_turns", "end_f1"):
        m = metrics.get(name) or {}
        if m.get("value") is None:
            continue
        what, base, gap = f"{label}: {_metric(name)}", m.get("baseline"), m.get("difference") or {}
        if base is not None and gap.get("difference") is not None:
            yield compared(what, {"a": m["value"], "b": base, **gap})
        else:
            baseline = "" if base is None else f"; baseline {num(base)}"
            yield f"{what} {num(m['value'])} ({ci_text(m.get('ci'))}, n = {m.get('n')}){baseline}."
