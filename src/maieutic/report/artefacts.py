"""A run as socratic-llm's files: `dpo/{set}/train_dataset.json` and `evaluation/{set}/{model}.json`.

`eval tutor score` and `preferences` read these files and find the same scores and the same pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maieutic.core.console import note
from maieutic.core.errors import InputError
from maieutic.core.messages import Role, fingerprint
from maieutic.core.store import full_disk, read_json, write_json
from maieutic.evals import tutor
from maieutic.report.collect import Run, StageRun

_SPEAKERS = {Role.USER.value: "Student", Role.ASSISTANT.value: "Teacher"}


def write(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write the files below `out` and return their paths.

    Raises:
        InputError: no judged reply has the four published criteria.
    """
    files: dict[Path, list[dict[str, Any]]] = {}
    for run in runs:
        training, evaluations = _judge_stages(run)
        for stage in training:
            for name, rows in _by_set(run, stage).items():
                items = [item for row in rows if (item := training_item(row))]
                _add(files, out / "dpo" / name / "train_dataset.json", items)
        for stage, model in evaluations:
            for name, rows in _by_set(run, stage).items():
                items = [item for row in rows for item in evaluation_items(row)]
                _add(files, out / "evaluation" / name / f"{_slug(model)}.json", items)
        for path in run.ratings:
            if path.suffix == ".json" and any("gpt4o" in row for row in read_json(path)):
                files[out / "evaluation" / "human_vs_gpt.json"] = read_json(path)
    written = {path: items for path, items in files.items() if items}
    if not written:
        raise InputError(
            "no judged reply has the four criteria of socratic-llm's files",
            "The files need a judge stage with --rubric socratic and a model as the judge.",
        )
    for path, items in written.items():
        with full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, items)
    return list(written)


def _add(files: dict[Path, list[dict[str, Any]]], path: Path, items: list[dict[str, Any]]) -> None:
    """Add a stage's items to a file, without items that the file already holds."""
    held = files.setdefault(path, [])
    known = {fingerprint(item) for item in held}
    held += [item for item in items if fingerprint(item) not in known]


def training_item(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A judged row with several candidates as an item of `train_dataset.json`, or null where the form does not fit.

    `chosen` is the best candidate and `rejected` the worst (of equal ones the first), as in the published files;
    `preferences` decides whether the two make a pair.
    """
    evaluations = [_evaluation(*one) for one in _graded(row)]
    scored = [(score, place) for place, (_, _, score) in enumerate(_graded(row)) if score is not None]
    if len(evaluations) < 2 or not any(one["evaluation"] for one in evaluations):
        return None
    best = min(scored, key=lambda one: (-one[0], one[1]))[1]
    worst = min(scored)[1]
    return {
        "prompt": prompt_of(row),
        "chosen_eval": evaluations[best],
        "rejected_eval": evaluations[worst],
        "all_evaluations": evaluations,
        "chosen": evaluations[best]["output"],
        "rejected": evaluations[worst]["output"],
    }


def evaluation_items(row: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Each judged reply of a row as an item of an evaluation file; replies judged by another rubric are left out."""
    for text, verdict, score in _graded(row):
        item = _evaluation(text, verdict, score)
        if item["evaluation"] or item["evaluation_error"]:
            yield {"prompt": prompt_of(row), **item, "score": score}


def prompt_of(row: Mapping[str, Any]) -> str:
    """The dialogue as one string, without instructions: a single turn as it is, several turns with their speakers."""
    turns = [turn for turn in row.get("messages") or () if turn.get("role") in _SPEAKERS]
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n".join(f"{_SPEAKERS[turn['role']]}: {turn['content']}" for turn in turns)


def _graded(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], float | None]]:
    columns = (row.get(key) or () for key in ("candidates", "verdicts", "scores"))
    return [
        (str((candidate or {}).get("text") or ""), verdict or {}, score)
        for candidate, verdict, score in zip(*columns, strict=False)
    ]


def _evaluation(text: str, verdict: Mapping[str, Any], score: float | None) -> dict[str, Any]:
    error = verdict.get("error")
    values = verdict.get("values") or {}
    fits = not error and score is not None and set(tutor.CRITERIA) <= values.keys()
    return {
        "output": text,
        "raw_evaluation": verdict.get("raw") or "",
        "evaluation_error": str(error) if error else None,
        "evaluation": tutor.published_criteria(values) if fits else None,
    }


def _judge_stages(run: Run) -> tuple[list[StageRun], list[tuple[StageRun, str]]]:
    """The judge stages whose verdicts made pairs, and the others with the file name of the model that they score.

    Decided by what the later stages read. Without a `preferences` stage, several candidates a prompt are training data.
    A judge that was only compared with people scores no model.
    """
    judged = [stage for stage in run.stages if stage.kind == "judge"]
    sources = [stage.setting("data") for stage in run.stages if stage.kind == "preferences"]
    feeding = [run.stage_at(path) for of in sources for path in (of if isinstance(of, list) else [of])]
    names: dict[str, str] = {}
    for stage in run.stages:
        if stage.kind == "eval tutor score":
            names |= {stage.setting("data"): _TUNED, stage.setting("against"): "base"}
        elif stage.kind == "eval tutor grid":
            names |= _of_grid(stage)
    models = {of.name: model for path, model in names.items() if (of := run.stage_at(path)) is not None}
    training = [stage for stage in judged if stage in feeding]
    if not training:
        training = [stage for stage in judged if stage.name not in models and _several(stage)]
    trained_on = "-".join(dict.fromkeys(name for stage in training for name in _by_set(run, stage)))
    models = {name: model + trained_on if model == _TUNED else model for name, model in models.items()}
    validated = [
        run.stage_at(stage.setting("pairs")) for stage in run.stages if stage.kind == "eval judge score"
    ]
    rest = [stage for stage in judged if stage not in training and stage not in validated]
    return training, [(stage, models.get(stage.name, stage.name)) for stage in rest]


_TUNED = "from_finetuned_with_"


def _of_grid(stage: StageRun) -> dict[str, str]:
    """The file name of each judged stage of a grid: `base`, a prompted model's name, or the set it was trained on."""
    sets, others = stage.setting("sets"), stage.setting("others") or []
    columns = (("base", ["base"]), ("beside", others), ("tuned", [_TUNED + name for name in sets]))
    return {
        path: name
        for setting, names in columns
        for path, name in zip(stage.setting(setting) or [], list(names) * len(sets), strict=True)
    }


def _several(stage: StageRun) -> bool:
    first = next(stage.rows(), {})
    return len(first.get("candidates") or ()) > 1


def _by_set(run: Run, stage: StageRun) -> dict[str, list[dict[str, Any]]]:
    """A stage's rows by source; without a source, under the name of the run's only input file, or `dialogues`."""
    names = [Path(path).stem for path in run.files]
    default = names[0] if len(names) == 1 else "dialogues"
    found: dict[str, list[dict[str, Any]]] = {}
    averaged = 0
    for row in sorted(stage.rows(), key=_place):
        found.setdefault(_slug(str(row.get("source") or default)), []).append(row)
        averaged += any(
            0 < (verdict.get("values") or {}).get(name, 0) < 1
            for verdict in row.get("verdicts") or ()
            for name in ("asks_question", "reveals_answer")
        )
    if averaged:
        note(
            f"{stage.label}: for {averaged} prompts the judges disagree on yes or no, which the published form cannot "
            "hold; the mean is written as a number and reads as unscored"
        )
    return found


def _place(row: Mapping[str, Any]) -> int:
    index = row.get("index")
    return index if isinstance(index, int) else 0


def _slug(text: str) -> str:
    """A file name that is valid on every system."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:60] or "dialogues"
