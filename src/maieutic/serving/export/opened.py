"""What is exported: a checkpoint with its tokenizer, the template it is served with, and the tokens it stops at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from maieutic.chat_templates import end_id, serving_template, stop_ids
from maieutic.core.errors import ModelError
from maieutic.models.checkpoint import Source, check_weights, end_of_text_ids, find, load_tokenizer
from maieutic.models.weights import Framing, framing, locate

ADAPTER = "adapter_config.json"
_WANTED = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.py", "*.md"]


class Opened(NamedTuple):
    """A checkpoint, ready to be written in another form."""

    folder: Path
    """Where its weights lie: of a LoRA adapter, those of its base."""
    adapter: Path | None
    """A LoRA adapter that has to be merged in."""
    tokenizer: Any
    """With the template that is served."""
    role: str
    """The side that is served: `user` or `assistant`."""
    frame: Framing
    """How its conversations are framed."""
    ends: list[int]
    """The ids at which a reply stops, the end of the text first."""
    record: dict[str, Any]
    """Its `maieutic.json`; empty where it has none."""
    name: str
    """What to call it."""
    card: str | None
    """The text of its model card."""


def opened(
    model: str, template: str | None = None, system: str | None = None, role: str | None = None
) -> Opened:
    """Open a finished run, a checkpoint's folder, a LoRA adapter or a name on the hub.

    Args:
        model: with or without `hf/`.
        template: `chat`, `dyadic`, `plain` or a Jinja file; null: what the checkpoint says, else its own.
        system: system text for conversations that have none; null: what the checkpoint says.
        role: the side to serve; null: what the checkpoint says, else the assistant's.

    Raises:
        MissingInput, UnknownModel, Unreachable: it is not there.
        NoTemplate, RenderError: it has no template, or one that cannot be served for that side.
        ModelError: it has no safetensors weights.
    """
    source = locate(model)
    adapter = None
    if ADAPTER in source.files and "config.json" not in source.files:
        adapter = source
        source = _base(adapter)
    check_weights(source)
    said = source if adapter is None else _speaker(adapter, source)
    frame = framing(said, template, system)
    record = said.json("maieutic.json")
    side = role or ("user" if record.get("role") == "user" else "assistant")
    tokenizer = load_tokenizer(said)
    tokenizer.chat_template = serving_template(tokenizer, side, frame.template, frame.system)
    return Opened(
        _local(source),
        None if adapter is None else _local(adapter),
        tokenizer,
        side,
        frame,
        _ends(said, tokenizer, frame, side, record),
        record,
        _name(Path(said.name)),
        None if adapter is not None and said is source else _card(_local(said)),
    )


def _base(adapter: Source) -> Source:
    base = adapter.json(ADAPTER).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{adapter.name} does not name its base", "Mend its adapter_config.json.")
    return find(str(base))


def _speaker(adapter: Source, base: Source) -> Source:
    """Where an adapter's tokenizer lies: with it, in the model its own run made, or with its base."""
    if "tokenizer.json" in adapter.files:
        return adapter
    beside = Path(adapter.name).parent / "model"
    return find(str(beside)) if (beside / "tokenizer.json").is_file() else base


def _ends(source: Source, tokenizer: Any, frame: Framing, side: str, record: dict[str, Any]) -> list[int]:
    ends = set(end_of_text_ids(source))
    if not ends or side == "user" or frame != Framing(None, None):
        ends |= stop_ids(tokenizer, frame.template)
    if record.get("end") and (end := end_id(tokenizer)) is not None:
        ends.add(end)
    eos = tokenizer.eos_token_id
    return ([eos] if eos is not None else []) + sorted(ends - {eos})


def _local(source: Source) -> Path:
    """The folder of its files; those of a name on the hub are fetched."""
    folder = Path(source.name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source.name, allow_patterns=_WANTED, local_files_only=source.offline))


def _card(folder: Path) -> str | None:
    """The card that lies in a folder; a form that nobody has filled in is none."""
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text if text and "[More Information Needed]" not in text else None


def _name(path: Path) -> str:
    """The checkpoint's name; of a run's `model`, the run's."""
    path = path.expanduser().absolute()
    return path.parent.name if path.name == "model" else path.name
