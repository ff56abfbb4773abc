"""Replies that people scored, for a judge to score too: socratic-llm's files in, its `human_vs_gpt.json` out.

Read are `[{prompt, output, evaluation}]` (the evaluation is a person's) and `[{prompt, output, human, …}]`. A prompt in
one of the published shapes is taken apart as in `import`, so that the judge sees turns and material; any other is one
turn of the student.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation, Message, Role, fingerprint
from maieutic.data.formats.tutoring import seed_conversation
from maieutic.evals import tutor
from maieutic.evals.files import Row, read_table


def rated_replies(path: Path | str) -> Iterator[dict[str, Any]]:
    """The scored replies of a file as rows of candidates, one reply each, people's evaluation under `human`.

    Raises:
        InputError: a row has no prompt, no output or no evaluation by people.
    """
    for place, row in enumerate(read_table(path).rows):
        prompt, output, human = row.get("prompt"), row.get("output"), row.get("human", row.get("evaluation"))
        if not isinstance(prompt, str) or not isinstance(output, str) or human is None:
            raise InputError(
                f"{path}: row {place + 1} is no reply that people scored",
                "Expected are socratic-llm's `prompt`, `output`, and `human` or `evaluation`.",
            )
        conversation = _conversation(prompt)
        yield {
            "key": fingerprint([place, prompt, output]),
            "id": conversation.id,
            "index": place,
            "messages": [turn.model_dump(mode="json") for turn in conversation.messages],
            "problem": conversation.problem.model_dump(exclude_none=True) if conversation.problem else None,
            "candidates": [{"text": output}],
            "prompt": prompt,
            "human": human,
        }


def _conversation(prompt: str) -> Conversation:
    try:
        return seed_conversation(prompt)
    except ValueError:
        turn = Message(role=Role.USER, content=prompt)
        return Conversation(id=fingerprint(prompt)[:16], messages=(turn,))


def beside_judge(path: Path | str) -> list[dict[str, Any]]:
    """The judged rows of `rated_replies` as `[{prompt, output, human, gpt4o}]`, in the order of the file.

    The judge's evaluation stands under `gpt4o` as the published form has it, whoever judged; it is null where the
    verdict could not be had, and then counts as unscored.
    """
    rows = sorted(read_table(path).rows, key=lambda row: int(row["index"]))
    return [
        {
            "prompt": row["prompt"],
            "output": row["candidates"][0]["text"],
            "human": row["human"],
            "gpt4o": _evaluation(row),
        }
        for row in rows
    ]


def _evaluation(row: Row) -> dict[str, Any] | None:
    verdict = (row.get("verdicts") or [{}])[0]
    values = verdict.get("values") or {}
    fits = not verdict.get("error") and set(tutor.CRITERIA) <= values.keys()
    return published(values) if fits else None


def published(values: Mapping[str, float]) -> dict[str, Any]:
    """The criteria under their published names; a mean of several judges stays the number it is."""

    def yes_no(value: float) -> Any:
        return "Yes" if value == 1 else "No" if value == 0 else value

    def rating(value: float) -> Any:
        return int(value) if value == int(value) else value

    return {
        "questions": yes_no(values["asks_question"]),
        "on_topic": rating(values["on_topic"]),
        "helpful": rating(values["helpful"]),
        "reveal_answer": yes_no(values["reveals_answer"]),
    }
