"""The commands for a corpus: clean, split, contamination, stats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maieutic.cli.options import Corpus, Force, Out, Strict, tell_bad
from maieutic.core.console import Json, note, print_json, say, table
from maieutic.core.errors import InputError

if TYPE_CHECKING:
    from maieutic.data.clean import CleanReport
    from maieutic.data.decontaminate import ContaminationReport
    from maieutic.data.overlap import Overlap

Near = Annotated[bool, typer.Option("--near/--no-near", help="Look for near duplicates too.")]
SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "clean",
        epilog="Examples: maieutic clean corpus.jsonl --out clean.jsonl; "
        "maieutic clean corpus.jsonl --preset platolm --filters near --out platolm.jsonl",
    )(clean)
    app.command(
        "split",
        epilog="Examples: maieutic split clean.jsonl --by user --out parts; "
        "maieutic split --check parts/train.jsonl parts/test.jsonl",
    )(split)
    app.command(
        "contamination",
        epilog="Example: maieutic contamination clean.jsonl --against question.jsonl --out unseen.jsonl",
    )(contamination)
    app.command("stats", epilog="Example: maieutic stats corpus.jsonl --figure corpus.png")(stats)


def clean(
    corpus: Corpus,
    out: Out,
    preset: Annotated[
        str | None, typer.Option("--preset", help="platolm: html, mentions, language, length, three turns.")
    ] = None,
    filters: Annotated[
        str | None,
        typer.Option(
            "--filters",
            metavar="A,B,…",
            help="Beside roles, turns and duplicates: html, personal, mentions, branding, refusals, floods, "
            "language, length, near; or all.",
        ),
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option("--languages", metavar="en,de", help="Filter language: the ones to keep [en]."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Filter length: tokens of a part at most [2048]."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", help="Filter length: what counts tokens (default: estimated from words)."
        ),
    ] = None,
    keep_opening: Annotated[
        bool, typer.Option("--keep-opening", help="Keep assistant turns before the first user turn.")
    ] = False,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep exact duplicates.")
    ] = False,
    min_turns: Annotated[
        int | None, typer.Option("--min-turns", min=1, help="User and assistant turns at least [2].")
    ] = None,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Mend what can be mended, drop what cannot, and say what and why.

    Unasked: empty turns and leading assistant turns are dropped and same-role neighbours merged; conversations without
    one of the sides, too short ones and exact duplicates are rejected. Everything else only by --preset or --filters
    (an option of a filter asks for it too); the order is fixed. Rejected rows go to rejected.jsonl beside the output.
    """
    from maieutic.data.clean import clean_file
    from maieutic.data.filters import choose

    options = choose(
        preset,
        _listed(filters),
        {
            "languages": _listed(languages) or None,
            "max_tokens": max_tokens,
            "tokenizer": tokenizer,
            "min_turns": min_turns,
            "keep_opening": keep_opening or None,
            "keep_duplicates": keep_duplicates or None,
        },
    )
    report = clean_file(corpus, out, options, overwrite=force, strict=strict)
    if json:
        print_json({"out": str(out), **report.json()})
        return
    tell_bad(report.bad)
    _print_clean(report)
    say(f"{report.kept} conversations in {out}")


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _print_clean(report: CleanReport) -> None:
    steps: list[tuple[object, ...]] = [("read", None, report.read, report.read)]
    steps += [
        (name.value, count.rejected, count.conversations, count.segments)
        for name, count in report.steps.items()
    ]
    columns: tuple[str, ...] = ("after", "rejected", "conversations")
    if report.cut:
        table("clean", (*columns, "segments"), steps)
    else:
        table("clean", columns, [row[:3] for row in steps])
    rows: list[tuple[str, int]] = [
        (f"rejected: {reason.value}", count) for reason, count in report.rejected.most_common()
    ]
    rows += [("kept", report.kept)]
    rows += [(f"  of these, {repair.value}", count) for repair, count in report.repaired.most_common()]
    rows += [(f"masked: {kind}", count) for kind, count in sorted(report.masked.items())]
    table("why", ("what", "count"), rows)
    if report.cut:
        say(f"{report.cut} conversations were cut into {report.parts} parts")
    if report.rejected:
        say(f"the rejected ones, each with its reason: {report.rejected_file}")


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
    near: Near = True,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Split a corpus by a hash, stable as it grows; or check two parts made by anybody for leaks.

    Afterwards what of test and validation stands in the other parts is measured, and written into split.json. With
    --check both files may have any importable shape. Counted are the tested part's items: exact (equal to the byte),
    near (not exact, .8 of the word 5-grams shared) and problems (same statement and program), for which --check exits
    with 1; and prompts (the first user turn and problem) and programs (whatever their statement), which are only told.
    """
    if check is not None:
        if corpus is not None or out is not None:
            raise typer.BadParameter("--check takes the two files and neither a corpus nor --out")
        _check(*check, near=near, strict=strict, json=json)
        return
    if corpus is None or out is None:
        raise typer.BadParameter("give a corpus and --out DIR, or --check TRAIN TEST")
    from maieutic.data.split import split_file

    report = split_file(corpus, out, by, _shares(parts), seed=seed, overwrite=force, strict=strict, near=near)
    if json:
        print_json({"out": str(out), **report.json()})
        return
    tell_bad(report.bad)
    rows = [(part, report.counts[part], report.groups[part]) for part in ("train", "validation", "test")]
    table(f"split by {by}", ("part", "conversations", "groups"), rows)
    if report.alone:
        say(f"{report.alone} conversations have no {by} and went by their own content")
    if report.moved:
        say(f"{report.moved} conversations went where their equal went, not with their group")
    if report.leakage:
        _print_overlap("leakage", report.leakage)
    if near and any(found.near is None for found in report.leakage.values()):
        note("near ones were not looked for: that needs rensa (pip install 'maieutic[data]')")
    if empty := [part for part, count, _ in rows if not count]:
        note(f"empty: {', '.join(empty)}; too few groups for these shares")
    say(f"in {out}: train.jsonl, validation.jsonl, test.jsonl, split.json")


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(share) for share in text.split(","))
    except ValueError:
        raise InputError("--parts takes three shares", "Give for example --parts 0.8,0.1,0.1.") from None
    return train, validation, test


def _check(train: Path, test: Path, *, near: bool, strict: bool, json: bool) -> None:
    from maieutic.data.overlap import NEAR, check

    found = check(train, test, strict=strict, least=NEAR if near else None)
    overlap = found.overlap
    if json:
        print_json(
            {**overlap.json(), "bad": {"train": found.train.bad.json(), "test": found.test.bad.json()}}
        )
    else:
        tell_bad(found.train.bad)
        tell_bad(found.test.bad)
        _print_overlap("overlap", {"test in train": overlap})
        say("nothing overlaps" if overlap.clean else "train and test overlap")
    if not overlap.clean:
        raise typer.Exit(1)


def _print_overlap(title: str, pairs: dict[str, Overlap]) -> None:
    names = ("exact", "near", "problems", "prompts", "near_prompts", "programs", "test", "train")
    shown = {"test": "of", "train": "compared with", "near_prompts": "near prompts"}
    rows = [(shown.get(name, name), *(getattr(found, name) for found in pairs.values())) for name in names]
    table(title, ("how", *pairs), rows)


def contamination(
    corpus: Corpus,
    against: Annotated[
        list[Path],
        typer.Option(
            "--against",
            "-q",
            help="A file of questions: FastChat's question.jsonl, AlpacaEval's JSON, a list, or text by lines. "
            "May be given several times.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the corpus without the flagged conversations.")
    ] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 where a question is found.")] = False,
    strict: Strict = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Flag the conversations that hold questions of a benchmark.

    A question counts as found where thirteen words in a row of it stand in one turn (all of a shorter one, from eight
    on; a still shorter one only as a whole turn), or, as near, half of its word 5-grams.
    """
    from maieutic.data.decontaminate import decontaminate_file

    report = decontaminate_file(corpus, against, out, overwrite=force, strict=strict)
    if json:
        print_json({"out": str(out) if out else None, **report.json()})
    else:
        tell_bad(report.bad)
        _print_contamination(report)
        if out:
            say(f"{report.read - report.flagged} conversations in {out}")
    if fail and report.flagged:
        raise typer.Exit(1)


def _print_contamination(report: ContaminationReport) -> None:
    if report.hits:
        rows = [
            (hit.conversation, _tail(hit.question), hit.how.value, f"{hit.share:.2f}", _short(hit.words))
            for hit in report.hits[:SHOWN]
        ]
        table("contamination", ("conversation", "question", "how", "of its 5-grams", "shared words"), rows)
    if len(report.hits) > SHOWN:
        say(f"and {len(report.hits) - SHOWN} more; --json names all")
    found = len({hit.question for hit in report.hits})
    say(
        f"{report.flagged} of {report.read} conversations hold {found} of {report.questions} questions"
        if report.flagged
        else f"none of {report.questions} questions found in {report.read} conversations"
    )


def _tail(question: str) -> str:
    """`FILE:ID:TURN` without the file's folders."""
    return question.rpartition("/")[2]


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else flat[:59] + "…"


def stats(
    corpus: Corpus,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="What counts tokens (default: estimated from words)."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw turns and lengths into a .png, .svg or .pdf.")
    ] = None,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Count a corpus: rounds, turns, lengths and tokens by role, languages, first-turn diversity, sources."""
    from maieutic.core.json_rows import BadRows
    from maieutic.data.corpus import read_corpus
    from maieutic.data.stats import survey

    bad = BadRows(strict)
    if figure:
        from maieutic.data.stats import check_name, draw

        check_name(figure)
    found = survey(read_corpus(corpus, on_bad=bad), tokenizer=tokenizer)
    if figure:
        draw(found, figure)
    if json:
        print_json({**found.json(), "figure": str(figure) if figure else None, "bad": bad.json()})
        return
    tell_bad(bad)
    _print_stats(str(corpus), found.json())
    if figure:
        say(f"drawn: {figure}")


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
        (role, *(found[what][role] for what in ("turns", "characters", "words", "tokens")))
        for role in found["turns"]
    ]
    tokens = "tokens" if found["tokenizer"] else "tokens (estimated)"
    table("by role", ("role", "turns", "characters", "words", tokens), roles)
    if found["languages"] is None:
        note("languages were not told apart: that needs py3langid (pip install 'maieutic[data]')")
    for what in ("languages", "sources", "licences"):
        if found[what]:
            table(what, (what[:-1], "conversations"), list(found[what].items())[:SHOWN])
