"""The commands of the data room: import, convert, clean, split, stats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maieutic.console import Json, note, print_json, say, table
from maieutic.errors import InputError

if TYPE_CHECKING:
    from maieutic.data.reading import BadRows

Corpus = Annotated[Path, typer.Argument(help="A corpus: JSONL (or .gz), a JSON list, or a stage folder.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that holds something else.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first broken row instead of keeping it out.")
]


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
    app.command("clean", epilog="Example: maieutic clean corpus.jsonl --out clean.jsonl")(clean)
    app.command(
        "split",
        epilog="Examples: maieutic split clean.jsonl --by user --out parts; "
        "maieutic split --check parts/train.jsonl parts/test.jsonl",
    )(split)
    app.command("stats", epilog="Example: maieutic stats corpus.jsonl")(stats)


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
    from maieutic.data.formats import import_files
    from maieutic.data.hub import place

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
    _tell_bad(report.bad)
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
    from maieutic.data import export

    done = export.convert(corpus, to, out, overwrite=force, strict=strict)
    if json:
        print_json({"out": str(out), "to": to, "conversations": done.conversations, "bad": done.bad.json()})
        return
    _tell_bad(done.bad)
    say(f"{done.conversations} conversations in {out}")


def clean(
    corpus: Corpus,
    out: Out,
    keep_opening: Annotated[
        bool, typer.Option("--keep-opening", help="Keep assistant turns before the first user turn.")
    ] = False,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep exact duplicates.")
    ] = False,
    min_turns: Annotated[
        int, typer.Option("--min-turns", min=1, help="User and assistant turns at least.")
    ] = 2,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Mend what can be mended, drop what cannot, and say what and why.

    Empty turns and leading assistant turns are dropped and same-role neighbours merged. Conversations without one of
    the sides, too short ones and exact duplicates are rejected, into rejected.jsonl beside the output.
    """
    from maieutic.data.clean import CleanOptions, clean_file

    options = CleanOptions(keep_opening=keep_opening, keep_duplicates=keep_duplicates, min_turns=min_turns)
    report = clean_file(corpus, out, options, overwrite=force, strict=strict)
    if json:
        print_json({"out": str(out), **report.json()})
        return
    _tell_bad(report.bad)
    rows: list[tuple[str, int]] = [("read", report.read)]
    rows += [(f"rejected: {reason.value}", count) for reason, count in report.rejected.most_common()]
    rows += [("kept", report.kept)]
    rows += [(f"  of these, {repair.value}", count) for repair, count in report.repaired.most_common()]
    table("clean", ("what", "conversations"), rows)
    if report.rejected:
        say(f"the rejected ones, each with its reason: {report.rejected_file}")
    say(f"{report.kept} conversations in {out}")


def split(
    corpus: Annotated[Path | None, typer.Argument(help="The corpus to split.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder for the three parts.")] = None,
    by: Annotated[
        str, typer.Option("--by", help="What must not be torn apart: conversation, problem or user.")
    ] = "conversation",
    parts: Annotated[
        str, typer.Option("--parts", help="Shares of train, validation and test.")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives another split.")] = 0,
    check: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--check", metavar="TRAIN TEST", help="Instead, measure what of TEST stands in TRAIN."),
    ] = None,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Split a corpus by a hash, stable as it grows; or check two parts made by anybody for leaks.

    With --check both files may have any importable shape; the counts are of test items: exact (equal to the byte),
    near (not exact, .8 of the word 5-grams shared) and problems (same statement and program). Exit 1 on any overlap.
    """
    if check is not None:
        if corpus is not None or out is not None:
            raise typer.BadParameter("--check takes the two files and neither a corpus nor --out")
        _check(*check, strict=strict, json=json)
        return
    if corpus is None or out is None:
        raise typer.BadParameter("give a corpus and --out DIR, or --check TRAIN TEST")
    from maieutic.data.split import split_file

    report = split_file(corpus, out, by, _shares(parts), seed=seed, overwrite=force, strict=strict)
    if json:
        print_json({"out": str(out), **report.json()})
        return
    _tell_bad(report.bad)
    rows = [(part, report.counts[part], report.groups[part]) for part in ("train", "validation", "test")]
    table(f"split by {by}", ("part", "conversations", "groups"), rows)
    if report.alone:
        say(f"{report.alone} conversations have no {by} and went by their own content")
    if report.moved:
        say(f"{report.moved} conversations went where their equal went, not with their group")
    if empty := [part for part, count, _ in rows if not count]:
        note(f"empty: {', '.join(empty)}; too few groups for these shares")
    say(f"in {out}: train.jsonl, validation.jsonl, test.jsonl, split.json")


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(share) for share in text.split(","))
    except ValueError:
        raise InputError("--parts takes three shares", "Give for example --parts 0.8,0.1,0.1.") from None
    return train, validation, test


def _check(train: Path, test: Path, *, strict: bool, json: bool) -> None:
    from maieutic.data.overlap import check

    found = check(train, test, strict=strict)
    overlap = found.overlap
    if json:
        print_json(
            {**overlap.json(), "bad": {"train": found.train.bad.json(), "test": found.test.bad.json()}}
        )
    else:
        _tell_bad(found.train.bad)
        _tell_bad(found.test.bad)
        rows = (("exact", overlap.exact), ("near", overlap.near), ("problems", overlap.problems))
        table("overlap", ("how", "test items"), [*rows, ("of", overlap.test)])
        say(f"compared with {overlap.train} train items")
        say("nothing overlaps" if overlap.clean else "train and test overlap")
    if not overlap.clean:
        raise typer.Exit(1)


def stats(corpus: Corpus, strict: Strict = False, json: Json = False) -> None:
    """Count a corpus: rounds, turns, lengths, first-turn diversity, sources, licences."""
    from maieutic.data.corpus import read_corpus
    from maieutic.data.reading import BadRows
    from maieutic.data.stats import stats as count

    bad = BadRows(strict)
    found = count(read_corpus(corpus, on_bad=bad))
    if json:
        print_json({**found, "bad": bad.json()})
        return
    _tell_bad(bad)
    _print_stats(str(corpus), found)


def _print_stats(name: str, found: dict[str, Any]) -> None:
    diversity = found["first_turn_diversity"]
    table(
        name,
        ("what", "count"),
        [
            ("conversations", found["conversations"]),
            ("ended by the person", found["ended"]),
            ("with a problem", found["problems"]),
            ("known users", found["users"]),
            (f"first-turn diversity (n={diversity['n']})", diversity["value"]),
        ],
    )
    lengths = {"rounds": found["rounds"], **found["lengths"]}
    columns = ("mean", "p10", "median", "p90", "max")
    rows = [
        (what.replace("_", " "), *(round(spread[key], 1) for key in columns))
        for what, spread in lengths.items()
    ]
    table("lengths", ("per conversation or turn", *columns), [tuple(map(str, row)) for row in rows])
    roles = [
        (role, found["turns"][role], found["characters"][role], found["words"][role])
        for role in found["turns"]
    ]
    table("by role", ("role", "turns", "characters", "words"), roles)
    for what in ("sources", "licences"):
        table(what, (what[:-1], "conversations"), list(found[what].items())[:20])


def _tell_bad(bad: BadRows) -> None:
    if bad.count:
        note(bad.summary())
