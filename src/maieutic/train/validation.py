"""What a model in training is like on held-out people, after each epoch: perplexity, END, and how varied it opens.

END and the openings are measured on so many held-out conversations, the first, so that an epoch's end does not cost an
epoch. Nothing here draws from the random numbers that training uses. On several devices each computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from maieutic.chat_templates import end_id, prompt_ids, stop_ids
from maieutic.chat_templates.turns import Decisions, Openings, decisions, openings
from maieutic.core.messages import Conversation, Message, Role
from maieutic.core.store import Stage
from maieutic.core.words import pairwise_diversity
from maieutic.models.engine import Engine, Generated, Request
from maieutic.models.forward import Network, probabilities
from maieutic.models.weights import Framing
from maieutic.train.distributed import Follower

DECIDED = 1000
"""Conversations whose endings are measured."""
OPENED = 64
"""Conversations whose first turn is drawn."""
OPENING_TOKENS = 64
TEMPERATURE, TOP_P = 1.0, 0.8
"""How a first turn is drawn: UserLM's, and `simulate`'s."""


class HeldOut:
    """The held-out conversations, ready to be measured on again and again.

    Args:
        talks: as they are trained on: told what they are told, cut to what fits.
        tokenizer: with END where it was taught.
        frame: template and system text.
        role: the trained side.
    """

    def __init__(self, talks: Sequence[Conversation], tokenizer: Any, frame: Framing, role: str) -> None:
        self._tokenizer = tokenizer
        self._frame = frame
        self._end = end_id(tokenizer) if role != Role.ASSISTANT else None
        self._decided = [] if self._end is None else list(talks[:DECIDED])
        self._places = [_asked(talk, openings(talk, tokenizer, *frame)) for talk in self._decided]
        self._opened = [talk for talk in talks if talk.turns(Role.USER)][:OPENED] if role == Role.USER else []

    def people(self) -> dict[str, float | None]:
        """What people's own first turns are like, to see the samples beside."""
        if not self._opened:
            return {}
        said = [talk.turns(Role.USER)[0] for talk in self._opened]
        return {"people_first_turn_diversity": pairwise_diversity(said).value}

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
                prompt_ids(_before(talk), self._tokenizer, Role.USER, *self._frame),
                OPENING_TOKENS,
                TEMPERATURE,
                TOP_P,
                seed,
                stops,
                self._end,
                suppress_end=True,
            )
            for seed, talk in enumerate(self._opened)
        ]
        drawn = Engine(model, self._tokenizer.pad_token_id or 0).generate(requests)
        return [
            self._tokenizer.decode(one.ids, skip_special_tokens=True)
            for one in drawn
            if isinstance(one, Generated)
        ]


def _asked(talk: Conversation, found: Openings) -> Openings:
    """The openings at which the person decided; the ids that they need all fit, since the rows do."""
    places = found.places[: len(talk.turns(Role.USER)) + (1 if talk.ended else 0)]
    return Openings(found.ids[: places[-1] + 1] if places else [], places)


def _before(talk: Conversation) -> Sequence[Message]:
    """What stands before the person's first turn."""
    first = next(place for place, turn in enumerate(talk.messages) if turn.role == Role.USER)
    return talk.messages[:first]


def end_f1(made: Sequence[Decisions], threshold: float = 0.5) -> float | None:
    """F1 of END, predicted from `threshold` on; null where nobody ended."""
    pairs = [(p >= threshold, ended) for one in made for p, ended in zip(*one, strict=True)]
    hit = sum(said and ended for said, ended in pairs)
    wrong = sum(said != ended for said, ended in pairs)
    return 2 * hit / (2 * hit + wrong) if any(ended for _, ended in pairs) else None


class Measuring(TrainerCallback):
    """Measures after every evaluation, and lets the trainer log it, to our rows and to whatever tracker there is.

    Args:
        trainer: the one it is a callback of.
        held_out: what is measured on.
        stage: holds what was measured before a kill, which is not measured again.
    """

    def __init__(self, trainer: Any, held_out: HeldOut, stage: Stage | Follower) -> None:
        self._trainer, self._held_out, self._stage = trainer, held_out, stage

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Measure, unless a kill came after."""
        if f"held-out-{state.global_step}" in self._stage.rows:
            return
        with self._trainer.compute_loss_context_manager():
            found = self._held_out.measure(plain_model(self._trainer))
        perplexity = {"perplexity": math.exp(min(metrics["eval_loss"], 700))}
        self._trainer.log(
            {f"eval_{name}": value for name, value in {**perplexity, **found}.items() if value is not None}
        )


def plain_model(trainer: Any) -> Any:
    """The model in training without its wrappers; adapters inside it stay in force."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model
