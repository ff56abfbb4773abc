"""Rows of a dataset on the Hugging Face hub, or in a folder of the same layout, streaming through `datasets`.

The name is `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:CONFIG:SPLIT`; NAME may be a folder. Loading scripts of datasets
are never run: `datasets` no longer supports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core.console import note
from maieutic.core.errors import InputError, MissingExtra, MissingInput
from maieutic.core.json_rows import BadRows, Placed
from maieutic.core.tables import table_row

PREFIX = "hub:"
_BATCH = 64


class Dataset(NamedTuple):
    """One split, opened but not yet read."""

    name: str
    """The `source` of the split's rows: `hub:NAME:SPLIT`; of a folder only the last part of its path."""
    licence: str | None
    """The licence that the dataset's card names."""
    rows: Any
    """The stream of rows from `datasets`, each an object by column name."""

    def read(self, bad: BadRows) -> Iterator[Placed]:
        """The rows, each with its row number.

        Raises:
            InputError: the stream breaks off.
        """
        number = 0
        stream = iter(self.rows)
        while True:
            try:
                value = next(stream)
            except StopIteration:
                return
            except Exception as error:  # errors of readers, networks and casts have no common base class
                raise InputError(
                    f"{self.name}, row {number + 1}: the stream broke ({_short(error)})",
                    "Run the command again, or import the files themselves.",
                ) from error
            number += 1
            yield from table_row(f"{self.name}, row {number}", value, bad)


def is_hub(source: Path | str) -> bool:
    """Whether the source names a dataset and not a file."""
    return str(source).startswith(PREFIX)


def place(source: Path | str) -> Path:
    """The path of a source on disk; for a dataset on the hub a path that does not exist."""
    return Path(_parts(source)[0]) if is_hub(source) else Path(source)


def open_dataset(source: Path | str) -> Dataset:
    """Open one split of a dataset without reading a row.

    If no split is named, the only split or `train` is opened; the other splits are named on standard error.

    Raises:
        MissingExtra: `datasets` is not installed.
        MissingInput: there is no such dataset or split.
        InputError: the dataset cannot be opened.
    """
    name, config, split = _parts(source)
    try:
        import datasets
    except ImportError:
        raise MissingExtra(
            f"{source}: reading datasets needs the `datasets` library",
            "Install it: pip install 'maieutic[train]'; or import the files themselves.",
        ) from None
    try:
        builder = datasets.load_dataset_builder(name, config)
        if getattr(builder.config, "batch_size", 0) is None:
            builder.config.batch_size = (
                _BATCH  # otherwise `datasets` reads a whole Parquet row group at a time
            )
        splits = builder.as_streaming_dataset()
    except FileNotFoundError as error:
        raise MissingInput(
            f"{source}: no such dataset ({_short(error)})",
            "Check the name; a private dataset needs HF_TOKEN.",
        ) from None
    except Exception as error:  # the library's errors have no common base class
        raise InputError(
            f"{source}: cannot be opened ({_short(error)})",
            "Check the name and the network. Datasets with a loading script are not supported.",
        ) from error
    chosen = _split(str(source), split, sorted(map(str, splits)))
    folder = Path(name)
    shown = folder.resolve().name if folder.is_dir() else name
    return Dataset(
        ":".join(filter(None, (PREFIX[:-1], shown, config, chosen))), _licence(name), splits[chosen]
    )


def _parts(source: Path | str) -> tuple[str, str | None, str | None]:
    rest = str(source).removeprefix(PREFIX)
    if rest and Path(rest).is_dir():
        return rest, None, None
    name, *more = rest.split(":")
    if not name or len(more) > 2 or not all(more):
        raise InputError(
            f"{source}: not the name of a dataset", "Write hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT."
        )
    return name, more[0] if len(more) == 2 else None, more[-1] if more else None


def _split(source: str, asked: str | None, known: list[str]) -> str:
    chosen = asked or (known[0] if len(known) == 1 else "train")
    if chosen not in known:
        what = f"no split {asked!r}" if asked else "several splits and none named `train`"
        raise MissingInput(f"{source}: {what}", f"It has: {', '.join(known)}. Name one: hub:NAME:SPLIT.")
    if not asked and len(known) > 1:
        note(
            f"{source}: read the split train; left out: {', '.join(name for name in known if name != chosen)}"
        )
    return chosen


def _licence(name: str) -> str | None:
    """The licence that the dataset's card names, or None."""
    import yaml
    from huggingface_hub import hf_hub_download

    card = Path(name) / "README.md"
    if not Path(name).is_dir():
        try:
            card = Path(hf_hub_download(name, "README.md", repo_type="dataset"))
        except (OSError, ValueError):  # no card, or no network: the licence is unknown
            return None
    if not card.is_file():
        return None
    begin, _, rest = card.read_text(errors="replace").partition("---\n")
    try:
        head = yaml.safe_load(rest.partition("\n---")[0]) if not begin.strip() else None
    except yaml.YAMLError:
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    return licence if isinstance(licence, str) and licence else None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
