"""Judge MT-Bench answers with a model, in FastChat's form (Zheng et al. 2023, arXiv 2306.05685).

Temperature 0; one call for each answered turn, or two for a pair, the answers swapped in the second. Math, reasoning
and coding are judged with a reference answer. An unreadable verdict is -1 (`error` in a pair), as in FastChat; the
judge is not asked again, since temperature 0 would give the same verdict. A failed call, where failures are accepted,
also gives -1 or `error`. Both are counted.

Our own prompts enclose every text in markers that occur in none of the texts. Templates from a file in FastChat's
form are filled unchanged, in one pass, to follow the published protocol; they have no such protection against
injection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maieutic.core import prompts
from maieutic.core.console import note
from maieutic.core.errors import EmptyCorpus, InputError
from maieutic.core.messages import Fault, Message, Role, Sampling, fingerprint
from maieutic.core.prompts import fenced
from maieutic.core.workers import Failed, check_rate, fault_of
from maieutic.evals.benchmark_answer import Row, start
from maieutic.evals.benchmark_files import (
    NEED_REFERENCE,
    Answer,
    Question,
    parse_rating,
    parse_winner,
    read_answers,
    read_questions,
    write_lines,
)
from maieutic.evals.files import read_table
from maieutic.evals.mt_bench import model_side
from maieutic.models import identity

if TYPE_CHECKING:
    from maieutic.evals.benchmark_steps import EvalMtBenchJudge

_UNREADABLE = (
    "The file is written, with -1 or `error` for these. Choose another judge, or raise --max-failure-rate."
)
_FASTCHAT = {"single": ("single-v1", "single-math-v1"), "pair": ("pair-v2", "pair-math-v1")}
_VERDICT = {"single": "[[rating]]", "pair": "[[A]]"}
_OURS = {"single": "mt_bench_single", "pair": "mt_bench_pair"}
_PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")


class JudgePrompt(NamedTuple):
    """The prompt of one call to a judge."""

    name: str
    """The prompt's name, which is part of the judgment's `judge`."""
    system: str
    user: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as messages."""
        system = (Message(role=Role.SYSTEM, content=self.system),) if self.system.strip() else ()
        return (*system, Message(role=Role.USER, content=self.user))


class Prompts(NamedTuple):
    """The prompts of one kind of judging."""

    kind: str
    """`single` or `pair`."""
    templates: dict[str, dict[str, Any]] | None
    """The templates of a file, by name; null: our own."""

    @property
    def hash(self) -> str:
        """A hash of all prompt templates of this kind."""
        return fingerprint(self.templates or prompts.load(_OURS[self.kind]).hash)[:16]

    def fill(self, question: Question, turn: int, answers: Sequence[Sequence[str]]) -> JudgePrompt:
        """The prompt about a turn (1 is the first) of the answers of one or two models, in the order shown."""
        reference = question.reference[:turn] if len(question.reference) >= turn else ()
        if self.templates is None:
            return self._fill_ours(question, turn, answers, reference)
        name = _FASTCHAT[self.kind][bool(reference)] + ("-multi-turn" if turn > 1 else "")
        template = self.templates[name]
        values = _values(question, turn, answers, reference)
        return JudgePrompt(
            name, template["system_prompt"], _filled(template["prompt_template"], values, name)
        )

    def _fill_ours(
        self, question: Question, turn: int, answers: Sequence[Sequence[str]], reference: Sequence[str]
    ) -> JudgePrompt:
        parts: list[tuple[str, str]] = []
        for place in range(turn):
            parts.append((f"question {place + 1}", question.turns[place]))
            if reference:
                parts.append((f"reference answer to question {place + 1}", reference[place]))
        task = "TO BE RATED" if self.kind == "single" else "TO BE COMPARED"
        for who, turns in zip(("A", "B") if self.kind == "pair" else ("",), answers, strict=True):
            for place in range(turn):
                title = f"{f'assistant {who}, ' if who else ''}answer to question {place + 1}"
                parts.append((f"{task}: {title}" if place + 1 == turn else title, turns[place]))
        mark, material = fenced(parts)
        name = f"maieutic-{self.kind}{'-math' if reference else ''}-v1{'-multi-turn' if turn > 1 else ''}"
        return JudgePrompt(name, "", prompts.load(_OURS[self.kind]).fill(mark=mark, material=material))


def load_prompts(kind: str, path: Path | None = None) -> Prompts:
    """Our prompts of a kind, or those of a file.

    Raises:
        MissingInput, InputError: the file cannot be read, or lacks one of the four prompts.
    """
    if path is None:
        return Prompts(kind, None)
    found = {str(row.get("name")): row for row in read_table(path).rows}
    names = [name + turns for name in _FASTCHAT[kind] for turns in ("", "-multi-turn")]
    for name in names:
        row = found.get(name, {})
        if not all(isinstance(row.get(key), str) for key in ("system_prompt", "prompt_template")):
            raise InputError(f"{path}: no prompt {name!r}", f"Give all of {', '.join(names)}.")
        if row.get("output_format") != _VERDICT[kind]:
            raise InputError(
                f"{path}: {name} has the output_format {row.get('output_format')!r}",
                f"Supported is {_VERDICT[kind]}.",
            )
    return Prompts(kind, {name: found[name] for name in names})


def _values(
    question: Question, turn: int, answers: Sequence[Sequence[str]], reference: Sequence[str]
) -> dict[str, str]:
    """The texts under the names of FastChat's placeholders."""
    sides = ("",) if len(answers) == 1 else ("_a", "_b")
    shown = dict(zip(sides, answers, strict=True))
    values = {f"ref_answer_{place}": text for place, text in enumerate(reference, 1)}
    if turn == 1:
        return values | {"question": question.turns[0]} | {f"answer{s}": own[0] for s, own in shown.items()}
    for place in range(turn):
        values[f"question_{place + 1}"] = question.turns[place]
        values |= {f"answer{side}_{place + 1}": turns[place] for side, turns in shown.items()}
    return values


def _filled(template: str, values: Mapping[str, str], name: str) -> str:
    """The template with its placeholders filled in one pass; a doubled brace is one brace, as in `str.format`.

    Raises:
        InputError: a placeholder has no text.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in values:
            raise InputError(f"prompt {name}: no text for {{{match[1]}}}", f"Known: {', '.join(values)}.")
        return values[match[1]]

    return _PLACE.sub(value, template)


class Call(NamedTuple):
    """One call to the judge."""

    key: str
    question: Question
    turn: int
    models: tuple[str, ...]
    """The judged model, or both in the file's order."""
    swapped: bool
    prompt: JudgePrompt
    material: tuple[str, ...]
    """The judged texts."""


def judge_mt_bench(step: EvalMtBenchJudge, out: Path, folder: Path) -> dict[str, Any]:
    """Judge answers into `out`: a rating for each turn, or the two games of each pair with the baseline."""
    kind = "pair" if step.baseline else "single"
    answers = [answer for path in step.answers for answer in read_answers(path)]
    if step.questions:
        questions = read_questions(step.questions, step.references)
    else:
        questions = _carried_questions(answers, step.answers[0])
    baseline = _baseline(step.baseline, answers, step.answers[0]) if step.baseline else None
    templates = load_prompts(kind, step.prompts)
    sampling = Sampling(temperature=0, max_tokens=step.max_tokens)
    run = start(step, step.judge, folder)

    def call(question: Question, turn: int, shown: Sequence[Answer], swapped: bool) -> Call:
        models = tuple(answer.model for answer in shown)
        texts = [answer.turns[:turn] for answer in (reversed(shown) if swapped else shown)]
        prompt = templates.fill(question, turn, texts)
        parts = [str(question.id), turn, models, swapped, *prompt, run.model.id, sampling.model_dump()]
        material = tuple(text for own in texts for text in own)
        return Call(fingerprint(parts), question, turn, models, swapped, prompt, material)

    calls = [
        call(question, turn, shown, swapped)
        for question, turn, shown in _judged_turns(questions, answers, baseline, step.turns)
        for swapped in (False, True)[: len(shown)]
    ]
    if not calls:
        raise EmptyCorpus(
            f"{step.answers[0]}: no answer to judge", "Check that the answers belong to the questions."
        )

    async def work(call: Call) -> Row:
        reply = await run.model.reply(call.prompt.messages, sampling)
        run.spending.charge(reply)
        parse = parse_rating if kind == "single" else parse_winner
        return {"judgment": reply.text, "verdict": parse(reply.text, call.material), "tstamp": time.time()}

    def on_failure(call: Call, error: Failed) -> Row:
        cause = {"fault": fault_of(error, Fault.JUDGE), "error": error.what}
        return {"judgment": "", "verdict": None, "tstamp": time.time(), **cause}

    def finish(rows: list[Row]) -> dict[str, Any]:
        judged = list(zip(calls, rows, strict=True))
        if kind == "single":
            lines = [_rating_line(call, row, run.model.id) for call, row in judged]
        else:
            lines = [_pair_line(games, run.model.id) for games in zip(judged[::2], judged[1::2], strict=True)]
        write_lines(out, lines)
        counts = {
            "judged": len(lines),
            "unscored": sum(map(_is_unscored, lines)),
            **_without_reference(calls),
        }
        unread = [row["judgment"] for row in rows if row["verdict"] is None]
        first = " ".join(unread[0].split())[:80] if unread else ""
        limit = step.requests.max_failure_rate
        check_rate(len(unread), len(rows), limit, "unreadable verdicts", first, _UNREADABLE)
        return counts

    config = {
        "kind": kind,
        "judge": identity(run.model),
        "prompts": templates.hash,
        "sampling": sampling,
        "calls": fingerprint([call.key for call in calls]),
    }
    counts = run.items("judge", config, calls, work, on_failure, finish)
    return {**counts, "calls": run.spending.replies, "seconds": run.seconds}


def _carried_questions(answers: Sequence[Answer], path: Path) -> list[Question]:
    """The questions that the answers carry."""
    found: dict[str, Question] = {}
    for answer in answers:
        if answer.asked is None:
            raise InputError(
                f"{path}: the answers do not carry their questions",
                "Give --questions, FastChat's question.jsonl.",
            )
        if found.setdefault(answer.question, answer.asked) != answer.asked:
            raise InputError(
                f"question {answer.question} is not the same in every answer",
                "Give --questions, FastChat's question.jsonl.",
            )
    return list(found.values())


def _baseline(name: str, answers: Sequence[Answer], path: Path) -> dict[str, Answer]:
    """The baseline's answers by question. It is a model of `answers`, a file, or `NAME.jsonl` next to the answers."""
    own = [answer for answer in answers if answer.model == name]
    if not own:
        files = (Path(name), path.parent / f"{name}.jsonl")
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            models = ", ".join(sorted({answer.model for answer in answers}))
            raise InputError(
                f"no answers of {name!r}", f"Give a file of answers, or one of the models {models}."
            )
        own = read_answers(file)
    if len({answer.model for answer in own}) > 1:
        raise InputError(
            f"{name} holds several models", "Name a model with --baseline, its file with --answers."
        )
    return {answer.question: answer for answer in own}


def _judged_turns(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Mapping[str, Answer] | None,
    turns: int,
) -> Iterator[tuple[Question, int, list[Answer]]]:
    """Every turn to judge with the answers shown, in the order of the file: first turns, then second ones."""
    by_question: dict[str, list[Answer]] = {}
    for answer in answers:
        by_question.setdefault(answer.question, []).append(answer)
    name = next(iter(baseline.values())).model if baseline else None
    missing = 0
    for turn in range(1, turns + 1):
        for question in (question for question in questions if turn <= len(question.turns)):
            for answer in by_question.get(str(question.id), ()):
                if answer.model == name:
                    continue
                other = baseline.get(answer.question) if baseline else None
                shown = [answer, *([other] if other else [])]
                if len(shown) == 1 + bool(baseline) and all(turn <= len(one.turns) for one in shown):
                    yield question, turn, shown
                else:
                    missing += 1
    known = {str(question.id) for question in questions}
    if strangers := sum(len(own) for id, own in by_question.items() if id not in known):
        note(f"{strangers} answers to questions that are not in the question file are not judged")
    if unanswered := sum(str(question.id) not in by_question for question in questions):
        note(f"{unanswered} of {len(questions)} questions have no answer and are not judged")
    if missing:
        note(f"{missing} turns are not judged: the answer, or the baseline's, is missing")


def _rating_line(call: Call, row: Row, judge: str) -> dict[str, Any]:
    score = row["verdict"]
    return {
        "question_id": call.question.id,
        "model": call.models[0],
        "judge": [judge, call.prompt.name],
        "user_prompt": call.prompt.user,
        "judgment": row["judgment"],
        "score": -1 if score is None else int(score) if float(score).is_integer() else score,
        "turn": call.turn,
        "tstamp": row["tstamp"],
    }


def _pair_line(games: Sequence[tuple[Call, Row]], judge: str) -> dict[str, Any]:
    first = games[0][0]
    winners = [model_side(row["verdict"], swapped=call.swapped) or "error" for call, row in games]
    line: dict[str, Any] = {
        "question_id": first.question.id,
        "model_1": first.models[0],
        "model_2": first.models[1],
        **{f"g{place}_winner": winner for place, winner in enumerate(winners, 1)},
        "judge": [judge, first.prompt.name],
    }
    for place, (call, row) in enumerate(games, 1):
        line |= {f"g{place}_user_prompt": call.prompt.user, f"g{place}_judgment": row["judgment"]}
    return {**line, "turn": first.turn, "tstamp": games[1][1]["tstamp"]}


def _is_unscored(line: Mapping[str, Any]) -> bool:
    return line.get("score") == -1 or "error" in (line.get("g1_winner"), line.get("g2_winner"))


def _without_reference(calls: Sequence[Call]) -> dict[str, int]:
    """The number of judgments that should have had a reference answer; a note says what to do."""
    count = sum(
        call.question.category in NEED_REFERENCE and len(call.question.reference) < call.turn
        for call in calls
        if not call.swapped
    )
    if count:
        note(
            f"{count} judgments on {', '.join(NEED_REFERENCE)} had no reference answer; published scores have one: "
            "give --questions and --references"
        )
    return {"without_reference": count}
