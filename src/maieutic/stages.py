"""What a recipe's stage can do: each kind with its settings, the files it makes, the models it asks, what it costs.

A stage calls the library function that its command calls. Those that append rows keep their own run folder; the
others are wrapped here into one, with the manifest last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from maieutic.console import note
from maieutic.costs import CHARS_A_TOKEN, FULL_BYTES, HELD_BYTES, VERDICT_TOKENS, Cost, Flow, Size
from maieutic.errors import RecipeError
from maieutic.store import Stage
from maieutic.types import Record, Sampling


class Action(Record):
    """One thing a stage can do."""

    outputs: ClassVar[tuple[str, ...]] = ()
    """The files it makes in its folder."""

    def run(self, out: Path) -> None:
        """Do it; the manifest is the last thing written."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse now what its work would refuse later: an unknown name, settings that do not go together.

        Raises:
            ValidationError, MaieuticError: says which setting.
        """

    def inputs(self) -> list[Path]:
        """The files and folders it reads."""
        values = (
            item for value in dict(self).values() for item in (value if isinstance(value, list) else [value])
        )
        return [item for item in values if isinstance(item, Path)]

    def models(self) -> list[str]:
        """The models it asks."""
        return []

    def describe(self) -> str:
        """A few words for the plan."""
        return type(self).__name__.lower()

    def weigh(self, out: Path, flow: Flow) -> None:
        """Tell `flow` the sizes of models that it knows or makes, before any stage is expected."""

    def expect(self, out: Path, flow: Flow) -> Cost:
        """What it will cost, telling `flow` what it will make."""
        return Cost()

    def settings(self, root: Path) -> dict[str, Any]:
        """Its settings, with the run folder's own path left out: a moved run is the same run."""
        text = self.model_dump_json(exclude_defaults=True).replace(f"{root}/", "")
        return {"do": type(self).__name__.lower(), **orjson.loads(text)}


class Options(Record):
    """How a stage reaches or loads its models, for all of them alike; see `maieutic.models.ModelOptions`."""

    template: str | None = None
    system: str | None = None
    batch: int = Field(16, ge=1)
    device: str | None = None
    remote_code: bool = False
    attempts: int = Field(8, ge=1)
    timeout: float = Field(600.0, gt=0)

    def whole(self, concurrency: int = 64) -> Any:
        """As the models take them."""
        from maieutic.models import ModelOptions

        return ModelOptions(**self.model_dump(), concurrency=concurrency)


class World(Action):
    """The demo's closed world: dialogues, seeds and starts, in parts that share no problem."""

    outputs = (
        *("train.jsonl", "validation.jsonl", "test.jsonl", "starts.jsonl"),
        *("train-seeds.jsonl", "validation-seeds.jsonl", "test-seeds.jsonl"),
    )
    dialogues: tuple[int, int, int] = (3000, 200, 300)
    """In train, validation and test."""
    seeds: tuple[int, int, int] = (240, 100, 150)
    """Lessons that stop at a pupil who has not got it yet."""
    starts: int = 72
    """Sheets of train before which nobody has spoken yet."""
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.demo.world import PARTS, Sizes, write

        counts = zip(self.dialogues, self.seeds, (self.starts, 0, 0), strict=True)
        sizes = {part: Sizes(*three) for part, three in zip(PARTS, counts, strict=True)}
        _wrapped(out, self, lambda: write(out, sizes, self.seed))

    def describe(self) -> str:  # noqa: D102
        return "the dialogues of a small closed world"


class Base(Action):
    """A tiny base model from a corpus."""

    outputs = ("model",)
    corpus: Path
    vocab_size: int = 2048
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    context: int = 4096
    steps: int = Field(200, ge=0)
    seed: int = 0

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.demo.base import build

        sizes = self.model_dump(exclude={"corpus"})
        _wrapped(out, self, lambda: build(self.corpus, out / "model", **sizes).json())

    def describe(self) -> str:  # noqa: D102
        return f"a tiny base model from {self.corpus.name}"


class Import(Action):
    """Files of any known shape → one corpus."""

    outputs = ("corpus.jsonl",)
    sources: list[Path]
    format: str = "auto"
    ended: bool = False
    licence: str | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.corpus import write_corpus
        from maieutic.data.formats import import_files

        def work() -> dict[str, Any]:
            conversations, report = import_files(
                self.sources, self.format, ended=self.ended, licence=self.licence
            )
            count = write_corpus(out / "corpus.jsonl", conversations, overwrite=True)
            return {"conversations": count, **report.json()}

        _wrapped(out, self, work)

    def check(self) -> None:  # noqa: D102
        from maieutic.data.formats import FORMATS

        if self.format not in ("auto", *FORMATS):
            raise RecipeError(f"no format {self.format!r}", f"Known: auto, {', '.join(FORMATS)}.")

    def describe(self) -> str:  # noqa: D102
        return f"import {len(self.sources)} sources as {self.format}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        sizes = [flow.size(source) for source in self.sources]
        if all(sizes):
            flow.put(out / "corpus.jsonl", Size(*map(sum, zip(*filter(None, sizes), strict=True))))
        return Cost()


class Clean(Action):
    """Repairs and rejects, each with a named reason."""

    outputs = ("corpus.jsonl", "rejected.jsonl")
    corpus: Path
    keep_opening: bool = False

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.clean import CleanOptions, clean_file

        options = CleanOptions(keep_opening=self.keep_opening)
        _wrapped(
            out, self, lambda: clean_file(self.corpus, out / "corpus.jsonl", options, overwrite=True).json()
        )

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        flow.put(out / "corpus.jsonl", flow.size(self.corpus))
        return Cost()


class Split(Action):
    """Train, validation and test, by a hash of the group."""

    outputs = ("train.jsonl", "validation.jsonl", "test.jsonl")
    corpus: Path
    by: Literal["conversation", "problem", "user"] = "conversation"
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.data.split import split_file

        _wrapped(
            out,
            self,
            lambda: split_file(self.corpus, out, by=self.by, parts=self.parts, overwrite=True).json(),
        )

    def describe(self) -> str:  # noqa: D102
        return f"split by {self.by}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.corpus):
            for name, part in zip(self.outputs, self.parts, strict=True):
                flow.put(out / name, Size(round(size.rows * part), round(size.tokens * part)))
        return Cost()


class _Training(Action):
    outputs = ("model",)
    model: str
    data: Path
    validation: Path | None = None
    epochs: float
    learning_rate: float
    batch: int
    micro_batch: int | None = None
    warmup_ratio: float
    max_length: int | None = None
    lora: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_activations: bool = False
    save_steps: int = 100
    seed: int = 0
    template: str | None = None
    remote_code: bool = False
    parameters: float | None = None
    """Weights of the model, for the estimate of a dry run where its name does not say."""

    def _config(self, out: Path) -> Any:
        raise NotImplementedError

    def check(self) -> None:
        self._config(Path())

    def models(self) -> list[str]:
        return [self.model if self.model.startswith("hf/") else f"hf/{self.model}"]

    def _settings(self, out: Path) -> dict[str, Any]:
        return {**self.model_dump(exclude={"parameters"}), "out": out}

    def _for_run(self, out: Path) -> Any:
        """The config of its work; an empty validation part, as a small split makes, is left out."""
        config = self._config(out)
        if self.validation and self.validation.is_file() and self.validation.stat().st_size == 0:
            note(f"{self.validation} is empty: training without validation")
            return config.model_copy(update={"validation": None})
        return config

    def weigh(self, out: Path, flow: Flow) -> None:
        flow.weigh(self.model, self.parameters)
        flow.weigh(out, flow.weights(self.model))

    def _cost(self, flow: Flow, texts: int = 1) -> Cost:
        """Of so many texts a row, each of which is cut or refused at the longest length."""
        size = flow.size(self.data)
        weights = flow.weights(self.model)
        if size is not None:
            longest = self.max_length or 2048
            size = size._replace(tokens=min(size.tokens, size.rows * texts * longest))
        return Cost(
            None,
            round(size.tokens * self.epochs) if size else None,
            round(weights * (HELD_BYTES if self.lora else FULL_BYTES)) if weights else None,
        )


class Sft(_Training):
    """Supervised fine-tuning of one side."""

    role: Literal["user", "assistant", "both"]
    epochs: float = 3.0
    learning_rate: float = 2e-5
    batch: int = 128
    warmup_ratio: float = 0.03

    def _config(self, out: Path) -> Any:
        from maieutic.train.config import SftConfig

        return SftConfig(**self._settings(out))

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.train.sft import sft

        sft(self._for_run(out))

    def describe(self) -> str:  # noqa: D102
        return f"train the {self.role}'s side"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return self._cost(flow)


class Dpo(_Training):
    """Direct preference optimisation."""

    epochs: float = 2.0
    learning_rate: float = 5e-5
    batch: int = 4
    micro_batch: int | None = 1
    warmup_ratio: float = 0.05
    clip: float = 0.3
    beta: float = 0.1
    drop_too_long: bool = False

    def _config(self, out: Path) -> Any:
        from maieutic.train.config import DpoConfig

        return DpoConfig(**self._settings(out))

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.train.dpo import dpo

        dpo(self._for_run(out))

    def describe(self) -> str:  # noqa: D102
        return "train on preferences (DPO)"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return self._cost(flow, texts=2)


class Simulate(Action):
    """Two models talk."""

    outputs = ("rows.jsonl",)
    user: str
    assistant: str
    n: int | None = Field(None, ge=1)
    seeds: Path | None = None
    seed_turns: int | None = None
    user_mode: Literal["trained", "prompted"] | None = None
    user_sampling: Sampling = Sampling(temperature=1.0, top_p=0.8, max_tokens=256)
    sampling: Sampling = Sampling(temperature=0.7, max_tokens=512)
    assistant_system: str | None = None
    rounds: int = 10
    min_rounds: int = 1
    guards: str = "default"
    concurrency: int = 64
    budget_tokens: int | None = None
    max_failure_rate: float = 0.05
    seed: int = 0
    options: Options = Options()

    def _config(self) -> Any:
        from maieutic.simulate import SimulateConfig

        renamed = {"user": self.user_sampling, "assistant": self.sampling}
        others = self.model_dump(exclude={"user", "assistant", "n", "user_sampling", "sampling", "options"})
        return SimulateConfig(**others, **renamed)

    def check(self) -> None:  # noqa: D102
        from maieutic.simulate.guards import parse

        parse(self._config().guards)

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.models import load
        from maieutic.simulate import simulate

        options = self.options.whole(self.concurrency)
        user = load(self.user, options)
        assistant = user if self.user == self.assistant else load(self.assistant, options)
        simulate(user, assistant, out, self.n, self._config())

    def models(self) -> list[str]:  # noqa: D102
        return [self.user, self.assistant]

    def describe(self) -> str:  # noqa: D102
        return "the two sides talk"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        seeds = flow.size(self.seeds) if self.seeds else None
        n = self.n or (seeds.rows if seeds else None)
        if n is None:
            return Cost(None, None, flow.memory(self.models()))
        written = n * self.rounds * (self.user_sampling.max_tokens + self.sampling.max_tokens)
        flow.put(out, Size(n, written))
        return Cost(2 * n * self.rounds, written, flow.memory(self.models()))


class Candidates(Action):
    """Several replies of a tutor to each dialogue."""

    outputs = ("rows.jsonl",)
    model: str
    data: Path
    k: int = Field(5, ge=1)
    sampling: Sampling = Sampling(temperature=1.2, max_tokens=400)
    prompt: str | None = "tutor_socratic"
    """The tutor's system text; null: none, the dialogue as it is."""
    show_solution: bool = False
    limit: int | None = Field(None, ge=1)
    """Only the first so many dialogues."""
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.candidates import candidates
        from maieutic.models import load

        candidates(
            load(self.model, self.options.whole()),
            self.data,
            out,
            k=self.k,
            sampling=self.sampling,
            prompt=self.prompt,
            show_solution=self.show_solution,
            limit=self.limit,
        )

    def check(self) -> None:  # noqa: D102
        from maieutic import prompts

        if self.prompt:
            prompts.load(self.prompt)

    def models(self) -> list[str]:  # noqa: D102
        return [self.model]

    def describe(self) -> str:  # noqa: D102
        return f"{self.k} replies a dialogue" if self.k > 1 else "a reply to each dialogue"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        from maieutic import prompts

        size, memory = flow.size(self.data), flow.memory(self.models())
        if size is None:
            return Cost(None, None, memory)
        rows = min(size.rows, self.limit or size.rows)
        told = len(prompts.load(self.prompt).text) // CHARS_A_TOKEN if self.prompt else 0
        read = round(size.tokens * rows / max(1, size.rows)) + rows * told
        flow.put(out, Size(rows, read, self.k, self.sampling.max_tokens))
        return Cost(rows * self.k, rows * self.k * self.sampling.max_tokens, memory)


class Judge(Action):
    """Verdicts: deterministic checks first, then a model where the rubric needs one."""

    outputs = ("rows.jsonl",)
    data: Path
    rubric: str = "socratic"
    judge: str | list[str] = "code"
    """A MODEL, several, which make a panel, or `code`: deterministic checks alone."""
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.judge import judge
        from maieutic.models import load

        options = self.options.whole()
        panel = [load(model, options) for model in self.models()]
        judge(self.data, out, rubric=self.rubric, model=panel or None)

    def check(self) -> None:  # noqa: D102
        from maieutic import rubrics
        from maieutic.judge.run import check_rubric

        check_rubric(rubrics.load(self.rubric), with_model=bool(self.models()))

    def models(self) -> list[str]:  # noqa: D102
        named = [self.judge] if isinstance(self.judge, str) else self.judge
        return [model for model in named if model != "code"]

    def describe(self) -> str:  # noqa: D102
        return f"judge by {self.rubric}, {' and '.join(self.models()) or 'code'}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        size = flow.size(self.data)
        flow.put(out, size)
        memory = flow.memory(self.models())
        if not self.models() or size is None:
            return Cost(0 if size else None, None, memory)
        calls = size.rows * max(1, size.replies) * len(self.models())
        return Cost(calls, calls * VERDICT_TOKENS, memory)


class Prefer(Action):
    """Best and worst → preference pairs."""

    outputs = ("pairs.jsonl",)
    data: Path
    strategy: Literal["best-worst"] = "best-worst"
    min_chosen: float = 0.8

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.prefer import prefer

        _wrapped(
            out,
            self,
            lambda: prefer(
                self.data,
                out / "pairs.jsonl",
                strategy=self.strategy,
                min_chosen=self.min_chosen,
                overwrite=True,
            ).json(),
        )

    def describe(self) -> str:  # noqa: D102
        return f"pairs, chosen above {self.min_chosen}"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        if size := flow.size(self.data):
            both = 2 * (size.tokens + size.rows * size.reply_tokens)  # each reply with the prompt before it
            flow.put(out / "pairs.jsonl", Size(size.rows, both))
        return Cost()


class Simulator(Action):
    """Is the simulator like people?"""

    outputs = ("metrics.json",)
    people: Path
    model: str | None = None
    simulated: Path | None = None
    baselines: list[str] = Field(default_factory=list)
    options: Options = Options()

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.simulator import evaluate_named
        from maieutic.store import write_json

        def work() -> dict[str, Any]:
            metrics = evaluate_named(
                self.people, self.model, self.simulated, self.baselines, self.options.whole()
            )
            write_json(out / "metrics.json", metrics)
            return {"metrics": metrics}

        _wrapped(out, self, work)

    def models(self) -> list[str]:  # noqa: D102
        named = [self.model, *self.baselines]
        return [name for name in named if name and name.startswith("hf/")]

    def describe(self) -> str:  # noqa: D102
        return "set beside people"

    def expect(self, out: Path, flow: Flow) -> Cost:  # noqa: D102
        return Cost(None, None, flow.memory(self.models()))


class Tutor(Action):
    """Scores of judged replies; beside another tutor's on the same dialogues, the paired difference."""

    outputs = ("scores.json",)
    data: Path
    against: Path | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.paired import compare
        from maieutic.evals.tutor import score
        from maieutic.store import write_json

        def work() -> dict[str, Any]:
            scores: dict[str, Any] = {"scores": score(self.data)}
            if self.against:
                scores["against"] = score(self.against)
                scores["difference"] = compare(self.data, self.against)
            write_json(out / "scores.json", scores)
            return scores

        _wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return "score the tutor" + (" against another" if self.against else "")


class Dialogues(Action):
    """What came of whole dialogues with a tutor: solved, told, turns; beside another's from the same starts."""

    outputs = ("scores.json",)
    data: Path
    against: Path | None = None

    def run(self, out: Path) -> None:  # noqa: D102
        from maieutic.evals.dialogue import compare, score
        from maieutic.store import write_json

        def work() -> dict[str, Any]:
            scores: dict[str, Any] = {"scores": score(self.data)}
            if self.against:
                scores["against"] = score(self.against)
                scores["difference"] = {"metrics": compare(self.data, self.against)}
            write_json(out / "scores.json", scores)
            return scores

        _wrapped(out, self, work)

    def describe(self) -> str:  # noqa: D102
        return "who finds the answer" + (", beside another tutor" if self.against else "")


ACTIONS: dict[str, type[Action]] = {
    "world": World,
    "base": Base,
    "import": Import,
    "clean": Clean,
    "split": Split,
    "sft": Sft,
    "simulate": Simulate,
    "candidates": Candidates,
    "judge": Judge,
    "prefer": Prefer,
    "dpo": Dpo,
    "eval-simulator": Simulator,
    "eval-tutor": Tutor,
    "eval-dialogue": Dialogues,
}


def _wrapped(out: Path, action: Action, work: Callable[[], dict[str, Any]]) -> None:
    with Stage(out, action.model_dump(mode="json")) as stage:
        stage.finish(work())
