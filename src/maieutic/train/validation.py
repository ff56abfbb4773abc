"""Validation after each epoch: perplexity, F1 of END, diversity of first turns; and the best checkpoint.

F1 of END and the diversity are measured on the first validation conversations only, so that measuring costs less than
training. Validation does not change the random numbers of training. With several processes, each process measures the
same values.

The checkpoint with the lowest validation loss becomes the model; of equal ones, the earliest. Training may stop early
if the loss does not improve. These decisions use the rows of the run: an evaluation is written before the checkpoint
that depends on it, so a resumed run uses the earlier evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from maieutic.chat_templates.rendering import end_id, prompt_ids, stop_ids
from maieutic.chat_templates.turns import Decisions, Openings, decisions, openings
from maieutic.core.console import note
from maieutic.core.errors import ModelError
from maieutic.core.messages import Conversation, Message, Role
from maieutic.core.words import pairwise_diversity
from maieutic.models.engine import Engine, Generated, Request
from maieutic.models.forward import Network, probabilities
from maieutic.models.weights import Framing
from maieutic.train import distributed
from maieutic.train.checkpoint import COMPLETE
from maieutic.train.distributed import AnyStage

MetricsRow = Mapping[str, Any]
"""A row of the run: the metrics of one step."""

END_CONVERSATIONS = 1000
"""Number of conversations on which END is measured."""
FIRST_TURNS = 64
"""Number of conversations for which a first turn is sampled."""
FIRST_TURN_TOKENS = 64
TEMPERATURE, TOP_P = 1.0, 0.8
"""Sampling of a first turn, as in UserLM and `simulate`."""


class Validation:
    """The validation conversations, prepared to be measured on after every epoch.

    Args:
        conversations: prepared as in training: conditioned, and shortened to fit.
        tokenizer: contains END if training teaches END.
        frame: template and system text.
        role: the trained side.
    """

    def __init__(
        self, conversations: Sequence[Conversation], tokenizer: Any, frame: Framing, role: str
    ) -> None:
        self._tokenizer = tokenizer
        self._frame = frame
        self._end = end_id(tokenizer) if role != Role.ASSISTANT else None
        self._decided = [] if self._end is None else list(conversations[:END_CONVERSATIONS])
        self._places = [_decided_openings(each, openings(each, tokenizer, *frame)) for each in self._decided]
        opened = [each for each in conversations if each.turns(Role.USER)] if role == Role.USER else []
        self._opened = opened[:FIRST_TURNS]

    def people(self) -> dict[str, float | None]:
        """The diversity of the first turns that people wrote, for comparison."""
        if not self._opened:
            return {}
        first = [each.turns(Role.USER)[0] for each in self._opened]
        return {"people_first_turn_diversity": pairwise_diversity(first).value}

    def measure(self, model: Any) -> dict[str, float | None]:
        """F1 of END at 1/2 (`end_f1`), and the diversity of drawn first turns (`first_turn_diversity`)."""
        found: dict[str, float | None] = {}
        if self._end is not None:
            found["end_f1"] = end_f1(self._decisions(model))
        if self._opened:
            found["first_turn_diversity"] = pairwise_diversity(self._first_turns(model)).value
        return found

    def _decisions(self, model: Any) -> list[Decisions]:
        assert self._end is not None
        network = Network(model, self._tokenizer.pad_token_id or 0)
        texts, places = zip(*self._places, strict=True)
        chances = probabilities(network, texts, places, self._end)
        return [decisions(*pair) for pair in zip(self._decided, chances, strict=True)]

    def _first_turns(self, model: Any) -> list[str]:
        stops = frozenset(stop_ids(self._tokenizer, self._frame.template))
        requests = [
            Request(
                prompt_ids(_before(conversation), self._tokenizer, Role.USER, *self._frame),
                FIRST_TURN_TOKENS,
                TEMPERATURE,
                TOP_P,
                seed,
                stops,
                self._end,
                suppress_end=True,
            )
            for seed, conversation in enumerate(self._opened)
        ]
        drawn = Engine(model, self._tokenizer.pad_token_id or 0).generate(requests)
        return [
            self._tokenizer.decode(turn.ids, skip_special_tokens=True)
            for turn in drawn
            if isinstance(turn, Generated)
        ]


def _decided_openings(conversation: Conversation, found: Openings) -> Openings:
    """The openings at which the person spoke or ended; the ids up to them fit the context, since the rows do."""
    places = found.places[: len(conversation.turns(Role.USER)) + (1 if conversation.ended else 0)]
    return Openings(found.ids[: places[-1] + 1] if places else [], places)


def _before(conversation: Conversation) -> Sequence[Message]:
    """The messages before the person's first turn."""
    messages = conversation.messages
    return messages[: next(place for place, turn in enumerate(messages) if turn.role == Role.USER)]


def end_f1(made: Sequence[Decisions], threshold: float = 0.5) -> float | None:
    """F1 of END, predicted where its probability is at least `threshold`; null where no conversation ended."""
    pairs = [(p >= threshold, ended) for each in made for p, ended in zip(*each, strict=True)]
    hit = sum(predicted and ended for predicted, ended in pairs)
    wrong = sum(predicted != ended for predicted, ended in pairs)
    return 2 * hit / (2 * hit + wrong) if any(ended for _, ended in pairs) else None


class Measure(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Measures after every evaluation and logs the metrics through the trainer, to our rows and to the trackers.

    Args:
        trainer: the trainer that calls this.
        validation: the conversations to measure on.
        stage: the run; metrics that its rows already contain are not measured again.
    """

    def __init__(self, trainer: Any, validation: Validation, stage: AnyStage) -> None:
        self._trainer, self._validation, self._stage = trainer, validation, stage

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Measure, unless the rows have the metrics of this step."""
        if f"validation-{state.global_step}" in self._stage.rows:
            return
        with self._trainer.compute_loss_context_manager():
            found = self._validation.measure(plain_model(self._trainer))
        perplexity = {"perplexity": math.exp(min(metrics["eval_loss"], 700))}
        self._trainer.log(
            {f"eval_{name}": value for name, value in {**perplexity, **found}.items() if value is not None}
        )


def plain_model(trainer: Any) -> Any:
    """The model in training without its wrappers; its adapters stay active."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def evaluations(stage: AnyStage) -> list[MetricsRow]:
    """The rows of evaluations, in the order of their steps."""
    return sorted((row for row in stage.rows.rows() if "eval_loss" in row), key=lambda row: row["step"])


def best_of(rows: Sequence[MetricsRow]) -> MetricsRow:
    """The evaluation with the lowest validation loss."""
    return min(rows, key=lambda row: row["eval_loss"])


def stale(rows: Sequence[MetricsRow]) -> int:
    """How many evaluations came after the best one."""
    return len(rows) - 1 - list(rows).index(best_of(rows)) if rows else 0


class BestSoFar(NamedTuple):
    """The best evaluation up to a step."""

    best: int | None
    """Its step; null: nothing was evaluated."""
    stale: int
    """See `stale`."""


class EvaluateFirst(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes an epoch's last checkpoint after the evaluation, so that a resumed run does not skip the evaluation."""

    def __init__(self) -> None:
        self._pending = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Postpone the checkpoint of an epoch's last step."""
        last = control.should_training_stop or float(state.epoch).is_integer()
        if last and control.should_save:
            control.should_save, self._pending = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the postponed checkpoint, after the evaluation."""
        control.should_save = control.should_save or self._pending
        self._pending = False


class KeepBest(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Saves a checkpoint at each improvement, keeps the best one, and stops training that does not improve.

    Args:
        stage: the run, whose rows decide.
        patience: stop after this many evaluations without improvement; null: never.
    """

    def __init__(self, stage: AnyStage, patience: int | None) -> None:
        self._stage, self._patience = stage, patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the trainer the best checkpoint so far, also when a run resumes."""
        state.best_global_step = self._best(state.global_step).best

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the best so far; stop after too many evaluations without improvement."""
        found = self._best(state.global_step)
        state.best_global_step = found.best
        if found.best == state.global_step:
            control.should_save = True
        elif self._patience and found.stale >= self._patience:
            note(f"stopped at epoch {state.epoch:g}: no improvement for {found.stale} evaluations")
            # Not saved: a run resumed from this checkpoint would train further.
            control.should_save, control.should_training_stop = False, True

    def _best(self, step: int) -> BestSoFar:
        """The first process decides for all: rounding may differ between processes, but decisions must not."""
        return distributed.from_first(lambda: self._read(step))

    def _read(self, step: int) -> BestSoFar:
        """The best evaluation in the rows. Syncs them first: a checkpoint may be deleted because of this result."""
        self._stage.rows.sync()
        rows = [row for row in evaluations(self._stage) if row["step"] <= step]
        return BestSoFar(best_of(rows)["step"] if rows else None, stale(rows))


def load_best(trainer: Any, stage: AnyStage) -> MetricsRow | None:
    """Load the best checkpoint's weights into the trainer's model, unless it has them; returns the best evaluation.

    Raises:
        ModelError: the best checkpoint is missing.
    """
    rows = evaluations(stage)
    if not rows:
        return None
    best = best_of(rows)
    if best["step"] != trainer.state.global_step:
        checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{best['step']}"
        if not (checkpoint / COMPLETE).is_file():
            raise ModelError(
                f"{checkpoint}, the run's best checkpoint, is missing",
                "Restore it, or train again into another folder.",
            )
        trainer.state.best_model_checkpoint = str(checkpoint)
        trainer._load_best_model()
    return best
