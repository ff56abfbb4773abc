"""`simulator.evaluate` with everything named: corpora by path, models as MODEL, baselines as NAME=THING."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maieutic.core.errors import InputError, MissingInput
from maieutic.evals.simulator import Baseline, evaluate
from maieutic.models import ChatModel, ModelOptions, load

MODEL_KINDS = (
    "hf/",
    "openai/",
    "ollama/",
    "script/",
    "probe/",
    "student/",
    "http://",
    "https://",
    "inspect/",
)
UNNAMED = "baseline"
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


def evaluate_named(
    people: Path | str,
    model: str | None = None,
    simulated: Path | str | None = None,
    baselines: Sequence[str] = (),
    options: ModelOptions | None = None,
    *,
    embedder: str | None = None,
    judge: str | None = None,
) -> dict[str, Any]:
    """What `evaluate` returns.

    Args:
        people: corpus of held-out people.
        model: MODEL; `hf/` for perplexity and END, any for adherence.
        simulated: corpus or run of what it wrote.
        baselines: each `[NAME=]THING`, a THING being a MODEL or a corpus; one name may have one of each, and those
            without a name share one.
        options: how the models are reached, the judge left out.
        embedder: a sentence-transformers model; null: the offline default.
        judge: MODEL.

    Raises:
        InputError, MissingInput, MissingExtra, ModelError: a name names nothing of use; said before any work.
    """
    from maieutic.data.corpus import read_corpus

    things = parse_baselines(baselines)
    specs = [spec for spec in (model, *(one[0] for one in things.values())) if spec]
    for spec in specs:
        _check_use(spec, judge is not None)
    held_out = list(read_corpus(people))
    written = list(read_corpus(simulated)) if simulated else None
    corpora = {name: list(read_corpus(path)) for name, (_, path) in things.items() if path}
    embed = None
    if embedder:
        from maieutic.evals.embed import sentences

        embed = sentences(embedder)
    loaded: dict[str, ChatModel] = {}
    try:
        for spec in dict.fromkeys(specs):
            loaded[spec] = load(spec, options)
        grader = (
            load(judge, options._replace(template=None, system=None) if options else None) if judge else None
        )
        based = {
            name: Baseline(loaded.get(spec or ""), corpora.get(name)) for name, (spec, _) in things.items()
        }
        return evaluate(
            held_out,
            model=loaded.get(model or ""),
            simulated=written,
            baselines=based,
            embed=embed,
            judge=grader,
        )
    finally:
        for one in loaded.values():
            asyncio.run(one.close())


def is_model(text: str) -> bool:
    """Whether a text is a MODEL and no path."""
    return text.startswith(MODEL_KINDS)


def split_name(text: str) -> tuple[str, str]:
    """The name and the THING of `[NAME=]THING`; a path that exists has no name in it."""
    named = None if Path(text).exists() else _NAMED.fullmatch(text)
    return (named[1], named[2]) if named else (UNNAMED, text)


def parse_baselines(texts: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
    """By name the MODEL and the corpus path of each baseline.

    Raises:
        InputError: one name has two models or two corpora.
        MissingInput: a THING is neither a MODEL nor there.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    for name, thing in map(split_name, texts):
        spec, path = found.get(name, (None, None))
        if not is_model(thing) and not Path(thing).exists():
            raise MissingInput(f"{thing}: neither a corpus nor a MODEL", "Give a path, or hf/PATH_OR_ID.")
        if (spec if is_model(thing) else path) is not None:
            raise InputError(
                f"two {'models' if is_model(thing) else 'corpora'} for the baseline {name}",
                f"Name them apart: --baseline NAME={thing}.",
            )
        found[name] = (thing, path) if is_model(thing) else (spec, thing)
    return found


def _check_use(spec: str, with_judge: bool) -> None:
    """Refuse a model of which nothing could be measured.

    Raises:
        InputError: it is reached over the network, where a server does not say token probabilities, and there is no
            judge of what it says.
    """
    if not spec.startswith("hf/") and not (with_judge and is_model(spec)):
        raise InputError(
            f"{spec}: perplexity and END need token probabilities, which only a model in this process gives",
            "Name it hf/PATH_OR_ID, or add --judge MODEL to measure adherence, or simulate with it and give the "
            "run with --simulated or --baseline.",
        )
