FORMATS: dict[str, Callable[[Any], Iterator[Conversation]]] = {
    "messages": from_turns,
    "sharegpt": from_turns,
    "oasst": from_oasst,
    "mathdial": from_mathdial,
    "bridge": from_bridge,
    "socratic-llm": from_seeds,
    "socratic-debugging": from_seeds,
}
"""Every format by the name the command line knows."""


def guess(value: Any) -> str | None:
    """The format a JSON value looks like, by its keys; None where it looks like none."""
    if isinstance(value, str):
        return "socratic-debugging" if "<dialogue>" in value else "socratic-llm"
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("prompt"), Mapping):
        return "oasst"
    if isinstance(value.get("prompt"), str) and _turn_list(value) is None:
        return "socratic-llm"
    if isinstance(value.get("c_h"), list):
        return "bridge"
    if isinstance(value.get("conversation"), str) and "question" in value:
        return "mathdial"
    name = _turn_list(value)
    if name is None or (value[name] and not isinstance(value[name][0], Mapping)):
        return None
    return "sharegpt" if name == "items" or (value[name] and "from" in value[name][0]) else "messages"


class ImportReport(NamedTuple):
    """What an import read; full once its conversations are consumed."""

    formats: dict[str, Counter[str]]
    """By file: rows read as each format."""
    bad: BadRows

    def json(self) -> dict[str, Any]:
        """`{"formats": {file: {format: rows}}, "bad": {"count", "rows"}}`."""
        return {
            "formats": {name: dict(found) for name, found in self.formats.items()},
            "bad": self.bad.json(),
        }


def import_files(
    sources: Iterable[Path | str],
    format: str = "auto",
    *,
    ended: bool = False,
    source: str | None = None,
    licence: str | None = None,
    strict: bool = False,
) -> tuple[Iterator[Conversation], ImportReport]:
    """Read files or folders of any known shape, streaming.

    Args:
        sources: files (`.json`, `.jsonl`, `.txt`, `.parquet`, also `.gz`) and folders of them.
        format: one of `FORMATS`, or `auto` to go by each row's keys.
        ended: say of every conversation that the person ended it where it stops.
        source: where the rows come from, if a row does not say so itself; default: its file's name.
        licence: their licence, if a row does not say so itself.
        strict: raise at the first row that cannot be read.

    Returns:
        The conversations, and the report that fills as they are consumed.

    Raises:
        InputError: the format is unknown, or a row is broken under `strict`.
        MissingInput: at once, where a source does not exist.
        EmptyCorpus: at the end, where not one conversation came.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(f"no format {format!r}", f"Known: auto, {', '.join(FORMATS)}.")
    files = [file for one in sources for file in files_in(Path(one))]
    report = ImportReport({}, BadRows(strict))
    return _imported(files, format, {"ended": ended, "source": source, "licence": licence}, report), report


def _imported(
    files: Sequence[Path], format: str, fill: dict[str, Any], report: ImportReport
) -> Iterator[Conversation]:
    found = 0
    for path in files:
        counts = report.formats.setdefault(str(path), Counter())
        for row in read_rows(path, report.bad):
            for conversation in _read(row, format, path.name == "rows.jsonl", counts, report.bad):
                found += 1
                yield _filled(conversation, path.name, fill)
    if not found:
        first = f" ({report.bad.summary(1)})" if report.bad.count else ""
        raise EmptyCorpus(
            f"{', '.join(map(str, files[:3]))}: not one conversation to import{first}",
            f"Known formats: {', '.join(FORMATS)}; name one with --format if the guess is wrong.",
        )


def _read(row: Row, format: str, stage: bool, counts: Counter[str], bad: BadRows) -> Iterator[Conversation]:
    value = row.value
    if stage and isinstance(value, dict):
        value = {key: item for key, item in value.items() if key != "key"}
    name = guess(value) if format == "auto" else format
    if name is None:
        keys = f"keys: {key_list(value)}" if isinstance(value, dict) else "no object"
        bad.add(row.where, f"unknown shape ({keys})")
        return
    try:
        conversations = list(FORMATS[name](value))
    except ValueError as error:
        bad.add(row.where, str(error))
        return
    counts[name] += 1
    yield from conversations


def _filled(conversation: Conversation, file: str, fill: Mapping[str, Any]) -> Conversation:
    changes: dict[str, Any] = {"ended": True} if fill["ended"] else {}
    if conversation.source is None:
        changes["source"] = fill["source"] or file
    if conversation.licence is None and fill["licence"]:
        changes["licence"] = fill["licence"]
    return conversation.model_copy(update=changes)
