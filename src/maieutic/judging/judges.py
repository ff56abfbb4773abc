"""A model as judge of a text by a rubric: the prompt, the answer's schema, and how an answer is read.

The judged text and its context are untrusted. Each part is enclosed in two lines with a marker that is computed from
the texts and occurs in none of them, so no text by a tutor or a student can end its own part or begin another.
An object that the judge copied from the material, word for word, is a quotation and not a verdict. After an unreadable
answer the judge is asked again, with the error; after the last retry the text is unscored.

Reading is tolerant of form (code fences, prose around the JSON, "No.", numbers as text) and strict in content: a value
off its scale, a missing or unknown key, two different verdicts and anything unclear are refused, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

from maieutic.core import prompts
from maieutic.core.messages import Finish, Message, Problem, Reply, Role, Sampling, Verdict, fingerprint
from maieutic.core.prompts import fenced
from maieutic.judging.rubrics import Criterion, Kind, Rubric
from maieutic.judging.steps import JUDGE_SAMPLING

if TYPE_CHECKING:
    from maieutic.models import ChatModel

_SPEAKERS = {Role.USER: "student", Role.ASSISTANT: "tutor"}
_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_AROUND_WORD = re.compile(r"[\s.!,;:\"'*`]+")
_YES = frozenset({"yes", "y", "true", "1"})
_NO = frozenset({"no", "n", "false", "0"})
REASON = "reason"
"""A key of every verdict: one sentence, asked for first, since a judge that gives its reason first judges better."""
BETTER = "better"
"""The key of a verdict on a pair, and of its value: 1 for A, 0 for B, .5 for a tie."""
_SIDES = {"a": 1.0, "b": 0.0, "tie": 0.5}


class Judgement(NamedTuple):
    """A verdict, and the number of calls that it took."""

    verdict: Verdict
    calls: int


class Question(NamedTuple):
    """A question to a judge."""

    prompt: str
    schema: dict[str, Any]
    """The JSON schema of the answer."""
    shape: str
    """The answer's shape as text."""
    again: str
    """The name of the prompt that asks again; it has `error` and `shape`."""


class Parsed(NamedTuple):
    """Values by criterion, or the reason why there are none."""

    values: dict[str, float]
    error: str | None = None


def prompt_hash() -> str:
    """A hash of the two prompts that decide a verdict."""
    return fingerprint([prompts.load("judge_rubric").hash, prompts.load("judge_again").hash])[:16]


async def ask_judge(
    model: ChatModel,
    rubric: Rubric,
    text: str,
    context: Sequence[Message] = (),
    problem: Problem | None = None,
    *,
    sampling: Sampling = JUDGE_SAMPLING,
    retries: int = 2,
    charge: Callable[[Reply], object] | None = None,
) -> Judgement:
    """The model's verdict on a text.

    Args:
        model: the judge.
        rubric: the criteria; its `show_answer` decides whether the judge sees the known answer.
        text: the judged text.
        context: the messages before it; system messages are left out, since they address the tutor.
        problem: the problem of the dialogue.
        sampling: how the judge samples.
        retries: how often an unreadable answer is asked for again.
        charge: called with each reply.

    Raises:
        ModelError: the model did not answer.
    """
    shown = material(rubric, text, context, problem)
    texts = [part for _, part in shown]
    return await ask_until_read(
        model,
        Question(_rubric_prompt(rubric, shown), verdict_schema(rubric), verdict_shape(rubric), "judge_again"),
        lambda answer: parse_verdict(answer, rubric, texts),
        sampling=sampling,
        retries=retries,
        charge=charge,
    )


async def ask_until_read(
    model: ChatModel,
    question: Question,
    read: Callable[[str], Parsed],
    *,
    sampling: Sampling,
    retries: int,
    charge: Callable[[Reply], object] | None = None,
) -> Judgement:
    """Ask until the answer can be read, up to `retries` more times, each time with the error; else unscored.

    Raises:
        ModelError: the model did not answer.
    """
    messages, calls = [Message(role=Role.USER, content=question.prompt)], 0
    while True:
        reply = await model.reply(messages, sampling, schema=question.schema)
        calls += 1
        if charge:
            charge(reply)
        parsed = read(reply.text)
        if parsed.error is None:
            return Judgement(Verdict(judge=model.id, values=parsed.values, raw=reply.text), calls)
        error = parsed.error + (", cut off at the token limit" if reply.finish == Finish.LENGTH else "")
        if calls > retries:
            return Judgement(Verdict(judge=model.id, raw=reply.text, error=f"no verdict: {error}"), calls)
        again = prompts.load(question.again).fill(error=error, shape=question.shape)
        answered = Message(role=Role.ASSISTANT, content=reply.text if reply.text.strip() else "(nothing)")
        messages = [messages[0], answered, Message(role=Role.USER, content=again)]


def judge_prompt(
    rubric: Rubric, text: str, context: Sequence[Message] = (), problem: Problem | None = None
) -> str:
    """The prompt of a judge."""
    return _rubric_prompt(rubric, material(rubric, text, context, problem))


def _rubric_prompt(rubric: Rubric, shown: Sequence[tuple[str, str]]) -> str:
    mark, between = fenced(shown)
    return prompts.load("judge_rubric").fill(
        judged=rubric.judged,
        mark=mark,
        material=between,
        criteria="\n".join(described(criterion) for criterion in rubric.criteria),
        shape=verdict_shape(rubric),
    )


def material(
    rubric: Rubric, text: str, context: Sequence[Message] = (), problem: Problem | None = None
) -> list[tuple[str, str]]:
    """The parts that a judge sees, each with its title."""
    return [*background(rubric, context, problem), (f"TO BE GRADED: {rubric.judged}", text)]


def background(
    rubric: Rubric, context: Sequence[Message] = (), problem: Problem | None = None
) -> list[tuple[str, str]]:
    """The problem, with its answer if the rubric shows it, and the dialogue without system messages."""
    spoken = [message for message in context if message.role in _SPEAKERS]
    return _problem_parts(problem, rubric.show_answer) + [
        (f"the dialogue, turn {number}: {_SPEAKERS[message.role]}", message.content)
        for number, message in enumerate(spoken, 1)
    ]


def _problem_parts(problem: Problem | None, show_answer: bool) -> list[tuple[str, str]]:
    if problem is None:
        return []
    parts = [("the problem", problem.statement), ("the student's first attempt", problem.attempt)]
    if show_answer:
        parts += [
            ("what is wrong in the attempt (known to the judge alone)", problem.misconception),
            ("the solution (known to the judge alone)", problem.solution),
            ("the known answer (known to the judge alone)", problem.answer),
        ]
    return [(title, text) for title, text in parts if text]


def described(criterion: Criterion) -> str:
    """A criterion as the prompt describes it."""
    scale = "yes or no" if criterion.kind == Kind.YES_NO else f"{criterion.low} to {criterion.high}"
    anchors = "".join(f"\n    {value}: {meaning}" for value, meaning in criterion.anchors.items())
    return f"- {criterion.name} ({scale}): {criterion.question}{anchors}"


def verdict_schema(rubric: Rubric) -> dict[str, Any]:
    """The JSON schema of a verdict: a reason, then each criterion; all required, nothing else."""
    return _schema(
        {
            criterion.name: {"type": "string", "enum": ["yes", "no"]}
            if criterion.kind == Kind.YES_NO
            else {"type": "integer", "enum": list(range(criterion.low, criterion.high + 1))}
            for criterion in rubric.criteria
        }
    )


def pair_schema() -> dict[str, Any]:
    """The JSON schema of a verdict on a pair."""
    return _schema({BETTER: {"type": "string", "enum": ["A", "B", "tie"]}})


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    properties = {REASON: {"type": "string", "description": "One sentence."}, **properties}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def verdict_shape(rubric: Rubric) -> str:
    """The verdict's shape as the prompt shows it."""
    return _shape((criterion.name, _allowed(criterion)) for criterion in rubric.criteria)


def pair_shape() -> str:
    """The shape of a verdict on a pair as the prompt shows it."""
    return _shape([(BETTER, '"A", "B" or "tie"')])


def _shape(keys: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> str:
    lines = [f'  "{name}": {allowed}' for name, allowed in ((REASON, '"one sentence"'), *keys)]
    return "{\n" + ",\n".join(lines) + "\n}"


def _allowed(criterion: Criterion) -> str:
    if criterion.kind == Kind.YES_NO:
        return '"yes" or "no"'
    return f"a whole number from {criterion.low} to {criterion.high}"


def parse_verdict(text: str, rubric: Rubric, shown: Sequence[str] = ()) -> Parsed:
    """The verdict in a judge's answer; an object that occurs in the texts `shown` to the judge is a quotation."""
    names = [name for criterion in rubric.criteria for name in (criterion.name, *criterion.also)]
    missing = f"the object has none of the keys {', '.join(criterion.name for criterion in rubric.criteria)}"
    return _parse(text, names, missing, lambda found: read_values(found, rubric), shown)


def parse_pair(text: str, shown: Sequence[str] = ()) -> Parsed:
    """Which of A and B a judge's answer calls better."""
    return _parse(text, [BETTER], f"the object has none of the keys {BETTER}", _read_pair, shown)


def _parse(
    text: str,
    names: Sequence[str],
    missing: str,
    read: Callable[[dict[str, Any]], Parsed],
    shown: Sequence[str],
) -> Parsed:
    """The one verdict among an answer's objects: those that have any of the `names` and are not quotations."""
    try:
        return _only_verdict(text, {_key(name) for name in names}, missing, read, shown)
    except RecursionError:
        return Parsed({}, "its JSON is nested too deeply")


def _only_verdict(
    text: str,
    names: Set[str],
    missing: str,
    read: Callable[[dict[str, Any]], Parsed],
    shown: Sequence[str],
) -> Parsed:
    objects = list(_objects(_THINKING.sub("", text)))
    if not objects:
        return Parsed({}, "it holds no JSON object" if text.strip() else "it is empty")
    verdicts = [found for found in objects if any(_key(key) in names for key in found)]
    if not verdicts:
        return Parsed({}, missing)
    own = [found for found in verdicts if not _is_quoted(found, shown)]
    if not own:
        return Parsed({}, "it repeats, word for word, an object that stands in the material")
    parsed = [read(found) for found in own]
    readable = [one for one in parsed if one.error is None]
    if any(one.values != readable[0].values for one in readable[1:]):
        return Parsed({}, "it holds several verdicts that differ")
    if readable and len(readable) == len(parsed):
        return readable[0]
    return next(one for one in parsed if one.error)


def _is_quoted(found: dict[str, Any], shown: Sequence[str]) -> bool:
    """Whether an object occurs in one of the texts, white space aside."""
    written = {_squeezed(json.dumps(found, ensure_ascii=ascii_only)) for ascii_only in (True, False)}
    return any(one in squeezed for squeezed in map(_squeezed, shown) for one in written)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _read_pair(found: dict[str, Any]) -> Parsed:
    unknown = [key for key in found if _key(key) not in (BETTER, REASON)]
    if unknown:
        return Parsed({}, f"not asked for: {', '.join(_short(key) for key in unknown)}")
    given = [value for key, value in found.items() if _key(key) == BETTER]
    word = _word(given[0]) if len(given) == 1 else ""
    if word not in _SIDES:
        return Parsed({}, f'{BETTER} must be "A", "B" or "tie", not {_short(given[0])}')
    return Parsed({BETTER: _SIDES[word]})


def read_values(found: dict[str, Any], rubric: Rubric) -> Parsed:
    """The values of one object by the rubric."""
    names = {
        _key(name): criterion for criterion in rubric.criteria for name in (criterion.name, *criterion.also)
    }
    values: dict[str, float] = {}
    unknown: list[str] = []
    wrong: dict[str, str] = {}
    for key, raw in found.items():
        criterion = names.get(_key(key))
        if criterion is None:
            unknown += [] if _key(key) == REASON else [key]
            continue
        value = _yes_no(raw) if criterion.kind == Kind.YES_NO else _on_scale(raw, criterion)
        if value is None:
            wrong[criterion.name] = f"{criterion.name} must be {_allowed(criterion)}, not {_short(raw)}"
        elif criterion.name in values:
            wrong[criterion.name] = f"{criterion.name} stands twice"
        else:
            values[criterion.name] = value
    missing = [c.name for c in rubric.criteria if c.name not in values and c.name not in wrong]
    problems = [*wrong.values(), *([f"missing: {', '.join(missing)}"] if missing else [])]
    problems += [f"not in the rubric: {', '.join(map(_short, unknown))}"] if unknown else []
    return Parsed({}, "; ".join(problems)) if problems else Parsed(values)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in the text, and the objects inside it."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_refuse)
    place = text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield from _nested(found)
        place = text.find("{", end)


def _nested(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        yield found
        for value in found.values():
            yield from _nested(value)
    elif isinstance(found, list):
        for value in found:
            yield from _nested(value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _word(raw: Any) -> str:
    return _AROUND_WORD.sub("", raw).lower() if isinstance(raw, str) else ""


def _yes_no(raw: Any) -> float | None:
    if isinstance(raw, bool):
        return float(raw)
    if isinstance(raw, (int, float)):
        return float(raw) if raw in (0, 1) else None
    word = _word(raw)
    return 1.0 if word in _YES else 0.0 if word in _NO else None


def _on_scale(raw: Any, criterion: Criterion) -> float | None:
    if isinstance(raw, str):
        match = re.fullmatch(r"\s*\**(\d+(?:\.0+)?)\**(?:\s*/\s*(\d+))?\s*\.?\s*", raw, re.ASCII)
        if not match or (match[2] and int(match[2]) != criterion.high):
            return None
        raw = float(match[1])
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    return float(raw) if criterion.low <= raw <= criterion.high and raw == int(raw) else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
