"""The interface of all models, and a model's identity in rows, keys and runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from maieutic.core.messages import Message, Problem, Reply, Role, Sampling


class ChatModel(Protocol):
    """A model that answers a conversation."""

    id: str
    """The MODEL that it was loaded from. Rows and keys contain this id, so it contains no secret."""
    trained_role: Role | None
    """The side it was trained to speak, where its checkpoint says so."""
    fingerprint: str | None
    """A hash that changes when a checkpoint is trained again under the same name; null if there is no such hash."""

    async def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        role: Role = Role.ASSISTANT,
        schema: dict[str, Any] | None = None,
        suppress_end: bool = False,
    ) -> Reply:
        """The next turn of `role`.

        Args:
            messages: the conversation as people see it: user and assistant are not swapped.
            sampling: how the reply is drawn.
            role: `USER` asks a trained simulator for the human's next turn. A prompted model is asked for an assistant
                turn over swapped messages instead; the caller swaps them (`rollouts.users`).
            schema: a JSON schema that the text should follow, used where the server supports schemas.
            suppress_end: forbid END as the first token.

        Raises:
            ModelError: all attempts failed; the error quotes the server.
        """
        ...

    async def check(self) -> None:
        """Raise a ModelError unless the model is reachable, the name right and the key accepted."""
        ...

    async def close(self) -> None:
        """Free memory and connections."""
        ...


def with_problem(model: ChatModel, problem: Problem | None) -> ChatModel:
    """The model with knowledge of a problem (baselines and scripted students); other models are returned unchanged."""
    about = getattr(model, "about", None)
    knowing: ChatModel = about(problem) if about is not None and problem is not None else model
    return knowing


def identity(model: ChatModel) -> str:
    """A model's identity in the settings of a run: its name and, if it has one, its fingerprint."""
    return f"{model.id} @{model.fingerprint[:12]}" if model.fingerprint else model.id
