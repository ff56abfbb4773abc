"""The commands of the data room: import and convert; those for a corpus stand in `corpora`."""

from __future__ import annotations

from typing import Annotated

import typer

from maieutic.cli import corpora
from maieutic.cli.options import Corpus, Force, Out, Strict, tell_bad
from maieutic.core.console import Json, note, print_json, say, table


def register(app: typer.Typer) -> None:
    """Add the data commands."""
    app.command(
        "import",
        epilog="Examples: maieutic import chats.json trees.jsonl --out corpus.jsonl; "
        "maieutic import dolly.jsonl --sample 1000 --by category --out seeds.jsonl",
    )(import_)
    app.command("convert", epilog="Example: maieutic convert corpus.jsonl --to sharegpt --out chats.json")(
        convert
    )
    corpora.register(app)


def import_(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC", help="Files and folders of any known shape; hub:NAME[:SPLIT] a dataset."
        ),
    ],
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="auto (guess, and say so), messages, sharegpt, oasst, mathdial, bridge, socratic-llm, "
            "socratic-debugging, tutorchat, alpaca, dolly, wizardlm, ultrachat, baize, wildchat, lmsys.",
        ),
    ] = "auto",
    ended: Annotated[
        bool, typer.Option("--ended", help="People ended every one of these conversations.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Where they are from (default: name of the file or dataset)."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Their licence, where a row names none.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Keep this many, drawn by a hash of the content.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Stratify the sample by this field or key of meta, such as category."),
    ] = None,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Bring conversations of any known shape into a corpus (JSONL of `messages`)."""
    from maieutic.data.corpus import write_corpus
    from maieutic.data.hub import place
    from maieutic.data.importing import import_files

    if by is not None and sample is None:
        raise typer.BadParameter("--by says how --sample is drawn: give both")
    conversations, report = import_files(
        sources, format, ended=ended, source=source, licence=licence, sample=sample, by=by, strict=strict
    )
    count = write_corpus(out, conversations, overwrite=force, sources=map(place, sources))
    if json:
        print_json({"out": str(out), "conversations": count, **report.json()})
        return
    for file, found in report.formats.items():
        guesses = ", ".join(f"{rows} as {name}" for name, rows in found.most_common()) or "nothing"
        say(f"{file}: read {guesses}")
    tell_bad(report.bad)
    if report.strata:
        rows = [(value, stratum.seen, stratum.kept) for value, stratum in report.strata.items()]
        table(f"sample by {by}" if by else "sample", ("value", "seen", "kept"), rows)
    if unlicensed := report.licences[None]:
        note(f"{unlicensed} conversations name no licence; say it with --licence")
    say(f"{count} conversations in {out}")


def convert(
    corpus: Corpus,
    to: Annotated[str, typer.Option("--to", help="sharegpt, parquet or messages.")],
    out: Out,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a corpus in a form that other tools read."""
    from maieutic.data.convert import convert as convert_file

    done = convert_file(corpus, to, out, overwrite=force, strict=strict)
    if json:
        print_json({"out": str(out), "to": to, "conversations": done.conversations, "bad": done.bad.json()})
        return
    tell_bad(done.bad)
    say(f"{done.conversations} conversations in {out}")
