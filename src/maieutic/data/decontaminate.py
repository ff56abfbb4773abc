"""Find conversations that contain questions of a benchmark, since training on them invalidates its scores.

A question is compared with each turn and with the problem's statement, by words (lower case, without punctuation):

- *run*: thirteen consecutive words of the question occur in the text (as in the GPT-3 paper). A question of eight to
  twelve words must occur completely. A shorter question must be the whole turn.
- *near*: there is no such run, but at least half of the question's word 5-grams, and at least eight of them, occur in
  the text, as in a copy of the question with some words changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from maieutic.core.errors import EmptyCorpus, InputError, MissingInput
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation, fingerprint
from maieutic.core.reading import read_rows
from maieutic.data.corpus import line, read_source, refuse_source, replacing_all
from maieutic.data.near_duplicates import GRAM, Words, runs, words
from maieutic.data.results import DecontaminateResult

if TYPE_CHECKING:
    from maieutic.data.steps import Decontaminate

RUN = 13
WHOLE = 8
"""A question of at least this many words, but fewer than `RUN`, may occur inside a longer text."""
SHARE = 0.5
LEAST = 8
"""Minimum number of shared 5-grams of a *near* match."""


class Match(StrEnum):
    """Match a question occurs in a conversation."""

    RUN = "run"
    NEAR = "near"


class Question(NamedTuple):
    """One text of a benchmark."""

    name: str
    """`FILE:ROW`, or `FILE:ROW:TURN` if the row has several texts; ROW is the row's id or number."""
    text: str


class Hit(NamedTuple):
    """A question found in a conversation."""

    conversation: str
    question: str
    how: Match
    share: float
    """Share of the question's 5-grams that occur in the text; 1 for a question of fewer than eight words."""
    words: str
    """The first of the shared words."""

    def json(self) -> dict[str, Any]:
        """`{"conversation", "question", "how", "share", "words"}`."""
        return self._asdict()


class ContaminationReport:
    """Counts and matches, complete once all conversations are consumed."""

    def __init__(self, strict: bool = False) -> None:
        self.read = 0
        self.questions = 0
        self.hits: list[Hit] = []
        self.flagged = 0
        """Conversations with a match."""
        self.bad = BadRows(strict)

    def json(self) -> dict[str, Any]:
        """`{"read", "flagged", "questions", "questions_found", "hits": [...], "bad"}`."""
        return {
            "read": self.read,
            "flagged": self.flagged,
            "questions": self.questions,
            "questions_found": len({hit.question for hit in self.hits}),
            "hits": [hit.json() for hit in self.hits],
            "bad": self.bad.json(),
        }


def questions(path: Path | str, bad: BadRows | None = None) -> list[Question]:
    """Read the questions of one file.

    Args:
        path: JSON or JSON lines whose rows are strings or objects with `turns` (FastChat), `instruction` (AlpacaEval),
            `prompt`, `question`, `text` or `messages` (the user's turns), or FastChat's reference answers (`choices`);
            or a plain text file with one question per line.
        bad: collects the rows without a question.

    Raises:
        MissingInput: there is no such file.
        EmptyCorpus: the file has no question.
    """
    path, bad = Path(path), bad if bad is not None else BadRows()
    if not path.is_file():
        raise MissingInput(f"{path}: no such file", "Name a file of questions.")
    found = [
        Question(f"{path}:{name}" + (f":{turn}" if len(texts) > 1 else ""), text)
        for name, texts in (_lines(path) if path.suffix.lower() in ("", ".txt") else _rows(path, bad))
        for turn, text in enumerate(texts, 1)
        if text.strip()
    ]
    if not found:
        raise EmptyCorpus(
            f"{path}: no question found" + (f" ({bad.summary(1)})" if bad.count else ""),
            "Rows need `turns`, `instruction`, `prompt`, `question`, `text` or `messages`, or be strings.",
        )
    return found


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                yield str(number), [text.rstrip("\r\n")]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", "Check the file.") from None


def _rows(path: Path, bad: BadRows) -> Iterator[tuple[str, list[str]]]:
    for number, row in enumerate(read_rows(path, bad), 1):
        texts = _texts(row.value)
        if not texts:
            bad.add(row.where, "no question found")
            continue
        name = row.value.get("question_id", row.value.get("id")) if isinstance(row.value, dict) else None
        yield str(name if isinstance(name, (str, int)) else number), texts


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("choices"), list):
        return [text for choice in value["choices"] for text in _texts(choice)]
    if isinstance(value.get("turns"), list):
        return [turn for turn in value["turns"] if isinstance(turn, str)]
    if isinstance(value.get("messages"), list):
        turns = (turn for turn in value["messages"] if isinstance(turn, dict) and turn.get("role") == "user")
        return [turn["content"] for turn in turns if isinstance(turn.get("content"), str)]
    named = (value.get(name) for name in ("instruction", "prompt", "question", "text"))
    return next(([text] for text in named if isinstance(text, str) and text.strip()), [])


class Benchmark:
    """An index of questions that finds them in conversations.

    Args:
        asked: the questions.
    """

    def __init__(self, asked: Sequence[Question]) -> None:
        self.names = [question.name for question in asked]
        self._sizes: list[int] = []
        """5-grams by question."""
        self._runs: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)
        """By length in words, then by hash: the indices of the questions with that run."""
        self._grams: dict[int, list[int]] = {}
        self._whole: dict[tuple[int, ...], list[int]] = {}
        for place, question in enumerate(asked):
            self._add(place, words(question.text))

    def _add(self, place: int, found: Words) -> None:
        grams = set(runs(found.hashes, GRAM).tolist())
        self._sizes.append(len(grams))
        if len(found.hashes) < WHOLE:
            self._whole.setdefault(tuple(found.hashes.tolist()), []).append(place)
            return
        length = min(RUN, len(found.hashes))
        for value in set(runs(found.hashes, length).tolist()):
            self._runs[length].setdefault(value, []).append(place)
        for value in grams:
            self._grams.setdefault(value, []).append(place)

    def find(self, conversation: Conversation) -> list[Hit]:
        """The best match of each question that occurs in a conversation, in the order of the questions."""
        texts = [turn.content for turn in conversation.messages]
        if conversation.problem:
            texts.append(conversation.problem.statement)
        best: dict[int, Hit] = {}
        for text in texts:
            for place, how, share, shared in self._in_text(words(text)):
                hit = Hit(conversation.id, self.names[place], how, share, shared)
                old = best.get(place)
                if old is None or (hit.how == Match.RUN, hit.share) > (old.how == Match.RUN, old.share):
                    best[place] = hit
        return [best[place] for place in sorted(best)]

    def _in_text(self, text: Words) -> Iterator[tuple[int, Match, float, str]]:
        if len(text.hashes) < WHOLE:
            for place in self._whole.get(tuple(text.hashes.tolist()), ()):
                yield place, Match.RUN, 1.0, text.run(0, len(text.hashes)) if len(text.hashes) else ""
            return
        shared: Counter[int] = Counter()
        first: dict[int, int] = {}
        values = runs(text.hashes, GRAM).tolist()
        if self._grams.keys().isdisjoint(values):
            return
        for value in dict.fromkeys(values):
            for place in self._grams.get(value, ()):
                shared[place] += 1
                first.setdefault(place, value)
        ran = dict(self._runs_of(text))
        for place, count in shared.items():
            share = count / self._sizes[place]
            if place in ran:
                length, at = ran[place]
                yield place, Match.RUN, share, text.run(at, length)
            elif count >= LEAST and share >= SHARE:
                yield place, Match.NEAR, share, text.run(values.index(first[place]), GRAM)

    def _runs_of(self, text: Words) -> Iterator[tuple[int, tuple[int, int]]]:
        for length, known in self._runs.items():
            for at, value in enumerate(runs(text.hashes, length).tolist()):
                for place in known.get(value, ()):
                    yield place, (length, at)


def decontaminate(
    conversations: Iterable[Conversation],
    asked: Sequence[Question],
    report: ContaminationReport | None = None,
    drop: bool = True,
) -> Iterator[Conversation]:
    """Yield the conversations that contain no question, in their order; streaming.

    Args:
        conversations: any number of conversations.
        asked: the benchmark's questions; equal texts count once.
        report: filled while the conversations are consumed.
        drop: if false, only report: yield every conversation.
    """
    report = report or ContaminationReport()
    once = list({fingerprint(question.text): question for question in reversed(asked)}.values())[::-1]
    report.questions = len(once)
    benchmark = Benchmark(once)
    for conversation in conversations:
        report.read += 1
        hits = benchmark.find(conversation)
        report.flagged += bool(hits)
        report.hits += hits
        if not (hits and drop):
            yield conversation


def decontaminate_file(step: Decontaminate, out: Path | None) -> DecontaminateResult:
    """Look for questions and test items in a corpus, and write the conversations without them.

    Raises:
        EmptyCorpus: there is no question, no conversation, or no conversation left to write.
    """
    report = ContaminationReport(step.strict)
    asked = [question for path in step.against for question in questions(path, report.bad)]
    left: Iterable[Conversation] = decontaminate(
        read_source(step.corpus, report.bad), asked, report, step.drop
    )
    files = [] if out is None else [out, *([out.with_name("leaks.json")] if step.test else [])]
    for file in files:
        refuse_source(file, step.inputs())
    tests: dict[str, Any] = {}
    kept = 0
    with ExitStack() as stack:
        writers = stack.enter_context(replacing_all(files, overwrite=step.force)) if files else []
        if step.test:
            from maieutic.data.overlap import find_leaks, without_ids

            leaks = find_leaks(list(left), step.test, drop=step.drop)
            left, tests = leaks.kept, without_ids(leaks.tests)
        for conversation in left:
            kept += 1
            if writers:
                writers[0](line(conversation.row()))
        if writers and not kept:
            raise EmptyCorpus(
                f"{step.corpus}: every conversation contains a question or leaks a test item",
                "Nothing was written. Use another corpus, or only report with drop: false.",
            )
        if len(writers) > 1:
            writers[1](orjson.dumps(leaks.json(), option=orjson.OPT_INDENT_2) + b"\n")
    return DecontaminateResult(
        run=None if out is None else str(out),
        **report.json(),
        tests=tests,
        dropped=report.read - kept,
        fail=step.fail,
    )
