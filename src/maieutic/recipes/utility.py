"""`eval utility`: which corpus is most useful for training, from assistants that differ only in their corpus."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from maieutic.core.console import note, table
from maieutic.core.errors import InputError
from maieutic.core.step import Step
from maieutic.evals.printing import Measurements, interval_text, words
from maieutic.evals.steps import Arm, read_arms

if TYPE_CHECKING:
    from maieutic.recipes.runner import Plan

_KEYS = ("corpus", "size", "model")
_TITLES = {
    "overall": "over all bases and sizes",
    "blocks": "at each base and size",
    "sizes": "compared with fewer of the same conversations",
}


def _arms(value: Any) -> Any:
    paths = [value] if isinstance(value, (str, Path)) else value
    if isinstance(paths, (list, tuple)) and all(isinstance(path, (str, Path)) for path in paths):
        return [arm for path in paths for arm in read_arms(Path(path))]
    return value


class UtilityResult(Measurements):
    """The scores by corpus, their paired differences, and metrics of the corpora; see `evals.utility`."""

    def show(self) -> None:
        """Print the tables."""
        values = self.values
        cells = [
            (*(c[key] for key in _KEYS), c["value"], interval_text(c["ci"]), c["n"], c["unscored"])
            for c in values["cells"]
        ]
        table(f"mean {words(values['metric'])}", (*_KEYS, "mean", "95 %", "n", "unscored"), cells)
        differences = dict(values["differences"])
        if len(differences["overall"]) == len(
            differences["blocks"]
        ):  # one base and size: both tables are equal
            del differences["overall"]
        for name, rows in differences.items():
            if rows:
                keys = [key for key in _KEYS if key in rows[0]]
                shown = [
                    (
                        *(r[key] for key in keys),
                        r["against"],
                        r["difference"],
                        interval_text(r["ci"]),
                        r["n"],
                        r["p_holm"],
                    )
                    for r in rows
                ]
                columns = (*keys, "minus", "difference", "95 %", "n", "p (Holm)")
                table(f"difference, {_TITLES[name]}", columns, shown)
        if values["correlations"]:
            self._show_corpora()

    def _show_corpora(self) -> None:
        related = self.values["correlations"]
        rows = [
            (
                words(name),
                c["corpus"],
                c["size"],
                c[name]["value"],
                interval_text(c[name]["ci"]),
                c[name]["n"],
            )
            for name in related
            for c in self.values["corpora"]
        ]
        table("the training corpora", ("", "corpus", "size", "value", "95 %", "n"), rows)
        ranks = [(words(name), r["value"], interval_text(r["ci"]), r["n"]) for name, r in related.items()]
        table("rank correlation with the scores", ("", "Spearman", "95 %", "arms"), ranks)
        for reason in dict.fromkeys(r["reason"] for r in related.values() if "reason" in r):
            note(f"rank correlation: {reason}")


class EvalUtility(Step):
    """Train the same assistant on equally many conversations of each corpus, and compare them on one benchmark.

    The same command resumes a stopped run. With --arms, assistants that were trained and judged before are compared.
    """

    command: ClassVar = "eval utility"
    shown: ClassVar = (
        "corpora", "bases", "sizes", "questions", "judge", "arms", "seeds", "epochs", "learning_rate", "lora_r",
    )  # fmt: skip
    flags: ClassVar = {"corpora": "--corpus", "bases": "--model", "sizes": "--size", "seeds": "--seed"}
    examples: ClassVar = (
        "maieutic eval utility --corpus real=real.jsonl --corpus simulated=runs/talk --model hf/BASE --size 1000 "
        "--questions question.jsonl --judge openai/NAME --out runs/utility",
        "maieutic eval utility --arms arms.jsonl",
    )
    writes: ClassVar = "files"
    outputs: ClassVar = ("utility.json",)

    corpora: dict[str, Path] = Field(
        default_factory=dict,
        description="NAME=FILE: a corpus in any known format, or a run of simulate; the first is the baseline.",
    )
    bases: list[str] = Field(default_factory=list, description="Base MODEL, hf/PATH_OR_ID; may be repeated.")
    sizes: list[int] = Field(
        default_factory=list, description="Conversations of each corpus to train on; may be repeated."
    )
    questions: Path | None = Field(None, description="FastChat's question.jsonl.")
    judge: str | None = Field(None, description="MODEL that rates the answers.")
    arms: Annotated[list[Arm], BeforeValidator(_arms)] = Field(
        default_factory=list,
        description='JSON or JSONL rows {"corpus", "size", "model", "seed"?, "judged", "name"?, "data"?}: `judged` is '
        "the file of scored answers, `name` the model in it where it has several, `data` the training corpus.",
    )
    seeds: list[int] = Field(default=[0], description="Training seed; may be repeated.")
    epochs: float = Field(3.0, gt=0, description="Training epochs.")
    learning_rate: float = Field(2e-5, gt=0, description="Learning rate of the training.")
    batch_size: int = Field(128, ge=1, description="Rows per optimizer step.")
    max_length: int | None = Field(
        None, description="Maximum tokens of a training row; default: 2048, or the model's context."
    )
    lora_r: int | None = Field(None, description="Rank of LoRA adapters; default: all weights.")
    template: str | None = Field(None, description="chat, dyadic, plain, or a Jinja file.")
    turns: int = Field(2, ge=1, le=2, description="Turns of a question; 1 for Vicuna-Bench.")
    max_tokens: int = Field(1024, ge=1, description="New tokens of an answer.")
    limit: int | None = Field(None, ge=1, description="Use only the first LIMIT questions.")

    def run(self, out: Path | str = "") -> UtilityResult:
        """Compare the arms, or train and judge them first, each stage in a folder of its own in `out`."""
        from maieutic.core.store import read_json, write_json
        from maieutic.evals.utility import compare_corpora
        from maieutic.recipes.runner import run_plan

        if self.arms:
            result = UtilityResult(values=compare_corpora(self.arms))
            if str(out):
                Path(out).mkdir(parents=True, exist_ok=True)
                write_json(Path(out) / "utility.json", result.json())
            return result
        if not str(out):
            raise InputError("out is missing", "Give --out, the run folder.")
        run_plan(self.plan(Path(out)))
        return UtilityResult(values=read_json(Path(out) / "utility" / "utility.json"))

    def needs_out(self) -> bool:
        """Training needs `out`; a comparison of existing arms can be printed only."""
        return not self.arms

    def check(self) -> None:
        """Refuse missing settings, and a value that is given twice."""
        if self.arms:
            return
        needed = {"corpus": self.corpora, "model": self.bases, "size": self.sizes, "questions": self.questions,
                  "judge": self.judge}  # fmt: skip
        if missing := [name for name, value in needed.items() if not value]:
            flags = ", ".join(f"--{name}" for name in missing)
            raise InputError(f"{', '.join(missing)}: missing", f"Give {flags}; or give --arms.")
        for name, values in (("model", self.bases), ("size", self.sizes), ("seed", self.seeds)):
            if len(set(values)) < len(values):
                raise InputError(f"--{name} has a value twice", "Give each value once.")

    def inputs(self) -> list[Path]:
        """The files of the arms, or the corpora and the questions."""
        arms = [path for arm in self.arms for path in (arm.judged, arm.data) if path]
        return [*arms, *self.corpora.values(), *([self.questions] if self.questions else [])]

    def describe(self) -> str:
        """A few words for the plan."""
        count = len(self.arms) or len(self.corpora) * len(self.bases) * len(self.sizes) * len(self.seeds)
        return f"{count} assistants on the same questions"

    def plan(self, out: Path) -> Plan:
        """The stages that train and judge an assistant for each corpus, size, base and seed, and compare them."""
        from maieutic.recipes.runner import Recipe, resolve

        files = [str(path) for path in self.inputs()]
        return resolve(Recipe(name="utility", values={"files": files}, stages=dict(self._stages())), out)

    def _stages(self) -> Iterable[tuple[str, dict[str, Any]]]:
        corpora = dict(zip(_slugs(self.corpora), self.corpora.values(), strict=True))
        bases = dict(
            zip(_slugs(model.rstrip("/").rpartition("/")[2] for model in self.bases), self.bases, strict=True)
        )
        for name, path in corpora.items():
            yield f"import_{name}", {"do": "import", "sources": [str(path)]}
            corpus = f"${{import_{name}}}/corpus.jsonl"
            yield (
                f"unseen_{name}",
                {"do": "decontaminate", "corpus": corpus, "against": [str(self.questions)]},
            )
        for name, size in product(corpora, self.sizes):
            yield (
                f"take_{name}_{size}",
                {
                    "do": "convert",
                    "corpus": f"${{unseen_{name}}}/corpus.jsonl",
                    "to": "messages",
                    "sample": size,
                    "exact_sample": True,
                },
            )
        arms = []
        for (name, corpus), (base, model), size, seed in product(
            zip(corpora, self.corpora, strict=True), bases.items(), self.sizes, self.seeds
        ):
            arm, data = f"{name}_{size}_{base}_{seed}", f"${{take_{name}_{size}}}/corpus.jsonl"
            yield from self._stages_of_arm(arm, model, data, seed).items()
            judged = f"${{judge_{arm}}}/judgments.jsonl"
            arms.append(
                {"corpus": corpus, "size": size, "model": model, "seed": seed, "judged": judged, "data": data}
            )
        yield "utility", {"do": self.command, "arms": arms}

    def _stages_of_arm(self, arm: str, model: str, data: str, seed: int) -> dict[str, dict[str, Any]]:
        names = ("epochs", "learning_rate", "batch_size", "max_length", "lora_r", "template")
        training = {name: getattr(self, name) for name in names}
        return {
            f"train_{arm}": {
                **training, "do": "train sft", "role": "assistant", "model": model, "data": data, "seed": seed,
            },
            f"answer_{arm}": {
                "do": "eval mt-bench answer", "model": f"hf/${{train_{arm}}}", "questions": str(self.questions),
                "name": arm, "turns": self.turns, "max_tokens": self.max_tokens, "limit": self.limit,
            },
            f"judge_{arm}": {
                "do": "eval mt-bench judge", "answers": [f"${{answer_{arm}}}/answers.jsonl"], "judge": self.judge,
                "turns": self.turns,
            },
        }  # fmt: skip


def _slugs(names: Iterable[str] | Mapping[str, Any]) -> list[str]:
    """Names as parts of a stage's name, all different."""
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"
        while slug in slugs:
            slug += "-2"
        slugs.append(slug)
    return slugs
