"""The stages of `eval utility`: equally many conversations of each corpus, and what came of training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from maieutic.core.costs import Cost, Flow, Size
from maieutic.core.errors import InputError
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
