"""The stages of `eval utility`: equally many conversations of each corpus, and what came of training on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from maieutic.core.costs import Cost, Flow, Size
from maieutic.core.errors import InputError
from maieutic.evals.utility import Arm, compare_corpora
from maieutic.recipes.stages.action import Action, wrapped


class Take(Action):
    """So many conversations of a corpus, by the hash of their content: a larger sample holds the smaller one."""

    outputs = ("corpus.jsonl",)
    corpus: Path
    n: int = Field(ge=1)

    def run(self, out: Path) -> None:  # noqa: D102
        wrapped(out, self, lambda: self._taken(out / "corpus.jsonl"))

    def _taken(self, target: Path) -> dict[str, Any]:
        from maieutic.data.corpus import read_corpus, write_corpus
        from maieutic.data.importing import ALL, Stratum, draw_sample

        strata: dict[str, Stratum] = {}
        write_corpus(target, draw_sample(read_corpus(self.corpus), self.n, None, strata), overwrite=True)
        if strata[ALL].seen < self.n:
            raise InputError(
                f"{self.corpus}: {strata[ALL].seen} conversations, and {self.n} are wanted",
                "Corpora are compared at equal size: ask for fewer, in another run folder, or give a larger corpus.",
            )
        return {"conversations": self.n, "of": strata[ALL].seen}

    def describe(self) -> str:  # noqa: D102
        return f"take {self.n} conversations"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.corpus):
            rows = min(size.rows, self.n)
            flow.put(out / "corpus.jsonl", Size(rows, round(size.tokens * rows / max(1, size.rows))))
        return Cost()


class Utility(Action):
    """Which corpus is worth training on."""

    outputs = ("utility.json",)
    arms: list[Arm] = Field(min_length=1)
    """The first one's corpus is what the others are compared with."""

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.core.store import write_json

        def work() -> dict[str, Any]:
            result = compare_corpora(self.arms)
            write_json(out / "utility.json", result)
            return result

        wrapped(out, self, work)

    def inputs(self) -> list[Path]:  # noqa: D102
        return [path for arm in self.arms for path in (arm.judged, arm.data) if path]

    def describe(self) -> str:  # noqa: D102
        return f"{len(self.arms)} assistants on the same questions"


def plan(
    corpora: Mapping[str, Path],
    models: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    questions: Path,
    judge: str,
    *,
    training: Mapping[str, Any] | None = None,
    turns: int = 2,
    max_tokens: int = 1024,
    limit: int | None = None,
) -> dict[str, Any]:
    """The stages of a comparison, as a recipe's `stages`: one assistant a corpus, size, base and seed.

    Args:
        corpora: by name, files of any known format or stage folders; conversations that hold one of the questions
            are left out.
        models: bases, `hf/PATH_OR_ID`.
        sizes: conversations of each corpus.
        seeds: of the training, each for all.
        questions: FastChat's question.jsonl.
        judge: MODEL that rates the answers.
        training: settings of the `sft` stage, the same for all.
        turns: of a question at most; 1 for Vicuna-Bench.
        max_tokens: new tokens of an answer.
        limit: only the first so many questions.
    """
    stages: dict[str, Any] = {}
    names, bases = _slugs(corpora), _slugs(model.rstrip("/").rpartition("/")[2] for model in models)
    for name, path in zip(names, corpora.values(), strict=True):
        stages[f"import_{name}"] = {"do": "import", "sources": [str(path)]}
        stages[f"unseen_{name}"] = {
            "do": "contamination", "corpus": f"${{import_{name}}}/corpus.jsonl", "against": [str(questions)],
        }  # fmt: skip
    for name, size in product(names, sizes):
        stages[f"take_{name}_{size}"] = {
            "do": "take", "corpus": f"${{unseen_{name}}}/corpus.jsonl", "n": size,
        }  # fmt: skip
    arms = []
    for (name, corpus), (base, model), size, seed in product(
        zip(names, corpora, strict=True), zip(bases, models, strict=True), sizes, seeds
    ):
        arm = f"{name}_{size}_{base}_{seed}"
        data = f"${{take_{name}_{size}}}/corpus.jsonl"
        stages |= {
            f"train_{arm}": {
                **(training or {}), "do": "sft", "role": "assistant", "model": model, "data": data, "seed": seed,
            },
            f"answer_{arm}": {
                "do": "mt-bench-answer", "model": f"hf/${{train_{arm}}}", "data": str(questions), "name": arm,
                "turns": turns, "max_tokens": max_tokens, "limit": limit,
            },
            f"judge_{arm}": {
                "do": "mt-bench-judge", "data": f"${{answer_{arm}}}/answers.jsonl", "judge": judge, "turns": turns,
            },
        }  # fmt: skip
        judged = f"${{judge_{arm}}}/judgments.jsonl"
        arms.append(
            {"corpus": corpus, "size": size, "model": model, "seed": seed, "judged": judged, "data": data}
        )
    return {**stages, "utility": {"do": "utility", "arms": arms}}


def _slugs(names: Iterable[str]) -> list[str]:
    """Names as parts of a stage's name, all different."""
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"
        while slug in slugs:
            slug += "-2"
        slugs.append(slug)
    return slugs
