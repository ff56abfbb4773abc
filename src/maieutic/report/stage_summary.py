"""What came of a stage, in a few words from its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maieutic.report.collect import StageRun
from maieutic.report.numbers import num, plural


def came_of(stage: StageRun) -> str:
    """A few words; for a stage of a kind not known here, its number of rows."""
    manifest = stage.manifest or {}
    say = _SAY.get(stage.kind)
    said = say(manifest) if say else ""
    return said or plural(int(manifest.get("rows") or 0), "row")


def _counts(of: Any) -> str:
    return ", ".join(f"{name} {num(count)}" for name, count in of.items()) if isinstance(of, Mapping) else ""


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _base(m: Mapping[str, Any]) -> str:
    if "parameters" not in m:
        return ""
    return f"{num(m['parameters'])} parameters, {num(m.get('vocabulary'))} tokens, loss {num(m.get('loss'))}"


def _clean(m: Mapping[str, Any]) -> str:
    rejected = {name: count for name, count in (m.get("rejected") or {}).items() if count}
    kept = f"{num(m['kept'])} of {num(m.get('read'))} kept" if "kept" in m else ""
    return _joined(kept, _counts(rejected))


def _import(m: Mapping[str, Any]) -> str:
    return plural(int(m["conversations"]), "conversation") if "conversations" in m else ""


def _split(m: Mapping[str, Any]) -> str:
    return _joined(_counts(m.get("counts")), f"by {m['by']}" if m.get("by") else "")


def _train(m: Mapping[str, Any]) -> str:
    held_out = f"held-out loss {num(m['eval_loss'])}" if m.get("eval_loss") is not None else ""
    accuracy = f"accuracy {num(m['accuracy'])}" if m.get("accuracy") is not None else ""
    data = m.get("data") or {}
    rows = f"{plural(int(data['rows']), 'row')}" if data.get("rows") is not None else ""
    loss = f"loss {num(m.get('final_loss', m.get('loss')))}"
    return _joined(rows, f"{num(m.get('steps'))} steps", loss, held_out, accuracy)


def _simulate(m: Mapping[str, Any]) -> str:
    if "dialogues" not in m:
        return ""
    ends = f"ended by {_counts(m.get('ends'))}" if m.get("ends") else ""
    faults = f"faults: {_counts(m.get('faults'))}" if m.get("faults") else ""
    guards = f"drawn again: {_counts(m.get('guards'))}" if m.get("guards") else ""
    return _joined(
        plural(int(m["dialogues"]), "dialogue"), f"{num(m.get('failed') or 0)} failed", ends, faults, guards
    )


def _candidates(m: Mapping[str, Any]) -> str:
    cut = f"{num(m['cut'])} cut at the token limit" if m.get("cut") else ""
    return _joined(plural(int(m.get("rows") or 0), "prompt"), f"{num(m.get('failed') or 0)} failed", cut)


def _judge(m: Mapping[str, Any]) -> str:
    if "judged" not in m:
        return ""
    mean = f"mean {num(m.get('mean'))}"
    return _joined(f"{num(m['judged'])} verdicts", f"{num(m.get('unscored') or 0)} unscored", mean)


def _prefer(m: Mapping[str, Any]) -> str:
    if "pairs" not in m:
        return ""
    none = f"none from: {_counts(m.get('refused'))}" if m.get("refused") else ""
    return _joined(
        f"{plural(int(m['pairs']), 'pair')} from {plural(int(m.get('prompts') or 0), 'prompt')}", none
    )


def _dialogues(m: Mapping[str, Any]) -> str:
    scores = m.get("scores") or {}
    return ", ".join(
        f"{name} {num(of.get('value'))}"
        for name in ("solved", "told", "turns")
        if isinstance(of := scores.get(name), Mapping)
    )


def _mix(m: Mapping[str, Any]) -> str:
    if "agreement" not in m:
        return ""
    scored = f"{num(m['scored'])} of {num(m['replies'])} replies scored"
    return _joined(scored, f"{num(m['plays'])} plays count", f"{num(m['lost'])} lost")


def _play(m: Mapping[str, Any]) -> str:
    models = m.get("models") or {}
    return (
        f"{plural(len(models['tutors']), 'tutor')} with {plural(len(models['students']), 'student')}"
        if models
        else ""
    )


_SAY: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "base": _base, "import": _import, "clean": _clean, "split": _split, "sft": _train, "dpo": _train,
    "simulate": _simulate, "candidates": _candidates, "judge": _judge, "prefer": _prefer,
    "eval-simulator": lambda m: plural(len(m.get("metrics") or {}), "metric"),
    "eval-dialogue": _dialogues, "play": _play, "play-on": _simulate, "mix": _mix,
    "eval-tutor": lambda m: f"summary score {num((m.get('scores') or {}).get('summary_score'))}",
}  # fmt: skip
