"""From a MODEL, as written on a command line or in a recipe, to a `ChatModel`."""

from __future__ import annotations

from collections.abc import Sequence

from maieutic.core.errors import InputError
from maieutic.core.settings import LocalModel, Requests
from maieutic.models.chat_model import ChatModel


def load(spec: str, local: LocalModel | None = None, requests: Requests | None = None) -> ChatModel:
    """The model that a MODEL names.

    Args:
        spec: see `maieutic.models`.
        local: how an `hf/` model is loaded. Its `system` goes to every kind of model.
        requests: how a server is asked.

    Raises:
        InputError: the text has none of the known forms.
        ModelError, MissingInput, MissingExtra: the model cannot be loaded.
    """
    kind, _, name = spec.partition("/")
    if kind == "hf" and name:
        from maieutic.models.local import TransformersModel

        return TransformersModel(name, local)
    if kind in ("script", "baseline") and name:
        from maieutic.models.scripted import Baseline, ScriptModel

        return ScriptModel(name) if kind == "script" else Baseline(name)
    if kind == "student" and name:
        from maieutic.models.student import ScriptedStudent

        return ScriptedStudent(name)
    if spec.startswith(("http://", "https://")) or (kind in ("openai", "ollama") and name):
        from maieutic.models.remote import RemoteModel

        return RemoteModel(spec, local.system if local else None, requests)
    raise InputError(
        f"{spec!r} is not a MODEL",
        "Write hf/PATH_OR_ID, openai/NAME, http://HOST:PORT/v1#NAME, ollama/NAME, script/FILE, baseline/NAME or "
        "student/NAME.",
    )


def load_all(
    models: Sequence[str | ChatModel], local: LocalModel | None = None, requests: Requests | None = None
) -> list[ChatModel]:
    """The models of a step. A MODEL that is named twice is loaded once; a model that is an object stays as it is."""
    loaded = {spec: load(spec, local, requests) for spec in models if isinstance(spec, str)}
    return [loaded[model] if isinstance(model, str) else model for model in models]


async def check(spec: str) -> None:
    """Raise unless a MODEL can be used: reachable, the right name, the key accepted. Weights are not read."""
    if spec.startswith("hf/"):
        from maieutic.models.checkpoint import check_weights, find

        check_weights(find(spec.removeprefix("hf/")))
        return
    model = load(spec)
    try:
        await model.check()
    finally:
        await model.close()
