"""Models that can speak: `load(spec)` turns a MODEL into a `ChatModel`.

    hf/PATH_OR_ID            in this process, batched (needs the `train` extra)
    openai/NAME              any OpenAI-compatible server, by OPENAI_BASE_URL and OPENAI_API_KEY
    http://HOST:PORT/v1#NAME the same, by address; its key is MAIEUTIC_API_KEY, sent beyond this
                             machine only to the host in MAIEUTIC_API_HOST
    ollama/NAME              a local Ollama server
    script/FILE              canned replies, for tests and dry runs
    probe/NAME               a tutor of fixed words: controls, and probes that must not win
    student/NAME_OR_FILE     a scripted student: phrases and chances from data

Every request is asynchronous, so that thousands of dialogues advance on their own; the local engine gathers what
waits into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from maieutic.core.errors import InputError
from maieutic.core.messages import Message, Problem, Reply, Role, Sampling

Precision = Literal["auto", "float32", "bfloat16", "float64"]


class ChatModel(Protocol):
    """Anything that answers a conversation."""

    id: str
    """The MODEL it was loaded from; stands in rows and keys, and holds no secret."""
    trained_role: Role | None
    """The side it was trained to speak, where its checkpoint says so."""
    fingerprint: str | None
    """What tells two states of one name apart, such as a checkpoint trained anew; null where nothing can."""

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

        `messages` are as people see them (user and assistant, not swapped). `role=USER` asks a trained simulator for
        the human's next turn; a prompted model is asked for an assistant turn over swapped messages instead, which
        is the caller's business (`simulate.users`). `schema` is a JSON schema the text should follow, used where the
        server has it. `suppress_end` forbids END as the first token.

        Raises:
            ModelError: final after its attempts, in the server's words.
        """
        ...

    async def check(self) -> None:
        """Raise a ModelError unless the model is reachable, the name right and the key accepted."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


class ModelOptions(NamedTuple):
    """How to reach or load a model: template, system and precision decide what it says, the rest does not."""

    template: str | None = None
    """`chat`, `dyadic`, `plain`, or a Jinja file; null: the checkpoint's own (`chat`)."""
    system: str | None = None
    """System text put before conversations that have none."""
    batch: int = 16
    """Local: rows decoded together."""
    device: str | None = None
    precision: Precision = "auto"
    """Local: `auto` is float32 on a CPU and as stored on a GPU. Only in `float64` a reply does not depend, by rounding,
    on what is decoded beside it."""
    remote_code: bool = False
    attempts: int = 8
    """Remote: calls a reply may take."""
    timeout: float = 600.0
    """Remote: seconds for one reply, all attempts together."""
    concurrency: int = 64
    """Remote: connections kept open at most."""
    pull: bool = False
    """`ollama/`: let the server fetch a model that it does not have."""


def load(spec: str, options: ModelOptions | None = None) -> ChatModel:
    """The model a MODEL names.

    Raises:
        InputError: the text names no model in any known form.
        ModelError, MissingInput, MissingExtra: it cannot be loaded.
    """
    options = options or ModelOptions()
    kind, _, name = spec.partition("/")
    if kind == "hf" and name:
        from maieutic.models.local import LocalModel

        return LocalModel(name, options)
    if kind == "script" and name:
        from maieutic.models.script import ScriptModel

        return ScriptModel(name)
    if kind == "probe" and name:
        from maieutic.models.baseline import Probe

        return Probe(name)
    if kind == "student" and name:
        from maieutic.models.student import ScriptedStudent

        return ScriptedStudent(name)
    if spec.startswith(("http://", "https://")) or (kind in ("openai", "ollama") and name):
        from maieutic.models.remote import RemoteModel

        return RemoteModel(spec, options)
    raise InputError(
        f"{spec!r} is no MODEL",
        "Write hf/PATH_OR_ID, openai/NAME, http://HOST:PORT/v1#NAME, ollama/NAME, script/FILE, probe/NAME or "
        "student/NAME.",
    )


def briefed(model: ChatModel, problem: Problem | None) -> ChatModel:
    """The model as it speaks about a problem: a probe or a scripted student is told it, any other is what it was."""
    about = getattr(model, "about", None)
    told: ChatModel = about(problem) if about is not None and problem is not None else model
    return told


def identity(model: ChatModel) -> str:
    """A model as it stands in the settings of a run: its name, and its state where that can be told."""
    return f"{model.id} @{model.fingerprint[:12]}" if model.fingerprint else model.id


async def check(spec: str) -> None:
    """Raise unless a MODEL is there: reachable, the right name, the key accepted; weights are not read."""
    if spec.startswith("hf/"):
        from maieutic.models.checkpoint import check_weights, find

        check_weights(find(spec.removeprefix("hf/")))
        return
    model = load(spec)
    try:
        await model.check()
    finally:
        await model.close()
