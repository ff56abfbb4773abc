"""The main job on twenty conversations of real people: every stage, by its command, on real text.

The text holds LaTeX, code, braces, emoji and a turn of 3,000 tokens. The models are tiny: what is tested is that every
token of people's turns, and nothing else, is learned, that nothing is lost on the way, and that each stage reads what
the one before it wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import Loopback
from typer.testing import CliRunner

from maieutic.chat_templates.rendering import IGNORED, add_end, end_id
from maieutic.cli import app, gather
from maieutic.core.errors import BudgetSpent, RunConflict
from maieutic.core.messages import Conversation, Role, fingerprint
from maieutic.core.store import stage_rows
from maieutic.models.checkpoint import find, load_tokenizer

torch.set_num_threads(1)

CHOSEN = {
    "document.jsonl": (10, 11, 12, 17, 19),  # emoji, code, whole stories as turns
    "math-tutoring.jsonl": (2, 3, 6, 8, 9, 14, 20, 23),  # LaTeX; a picture; one of 34 turns
    "oasst1.jsonl": (41, 46, 61, 72, 82, 83, 110),  # code, braces, emoji; a question of 3,000 tokens
}
"""Rows of the real chats, by file: twenty."""

gather()


def maieutic(*words: object) -> Any:
    """What a command prints with `--json`; its error is raised."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def corpus(path: Path) -> list[Conversation]:
    return [Conversation.model_validate(json.loads(line)) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def sources(real_data: Path, run: Path) -> list[Path]:
    """The twenty, as they lie in their files."""
    for name, places in CHOSEN.items():
        rows = (real_data / "real-chats" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (run / name).write_text("".join(rows[place] for place in places), encoding="utf-8")
    return [run / name for name in CHOSEN]


@pytest.fixture(scope="module")
def imported(sources: list[Path], run: Path) -> Path:
    printed = maieutic("import", *sources, "--out", run / "corpus.jsonl")
    assert printed["conversations"] == 20 and printed["bad"]["count"] == 0
    return run / "corpus.jsonl"


@pytest.fixture(scope="module")
def cleaned(imported: Path, run: Path) -> Path:
    printed = maieutic("clean", imported, "--out", run / "clean.jsonl")
    assert printed["kept"] == 20 and not any(printed["rejected"].values())
    return run / "clean.jsonl"


@pytest.fixture(scope="module")
def parts(cleaned: Path, run: Path) -> Path:
    maieutic("split", cleaned, "--by", "user", "--parts", "0.6,0.2,0.2", "--out", run / "parts")
    return run / "parts"


@pytest.fixture(scope="module")
def base(parts: Path, run: Path) -> Path:
    sizes = ("--vocab-size", 1024, "--hidden", 64, "--layers", 2, "--context", 4096, "--steps", 30)
    built = maieutic("demo-base", "--corpus", parts / "train.jsonl", "--out", run / "base", *sizes)
    assert built["vocabulary"] == 1024 and built["loss"] < math.log(1024)
    return run / "base"


@pytest.fixture(scope="module")
def simulator(base: Path, parts: Path, run: Path) -> Path:
    held_out = ("--validation", parts / "validation.jsonl")
    learned = train_sft("user", base, parts / "train.jsonl", run / "user", *held_out)
    assert learned["steps"] == 6 and math.isfinite(learned["eval_loss"])
    return run / "user"


def train_sft(role: str, model: Path, rows: Path, out: Path, *more: object) -> Any:
    sizes = ("--batch-size", 4, "--max-steps", 6, "--max-length", 1024, "--learning-rate", 1e-3)
    return maieutic(
        "train", "sft", "--role", role, "--model", model, "--data", rows, "--out", out, *sizes, *more
    )


@pytest.fixture(scope="module")
def talk(simulator: Path, base: Path, parts: Path, run: Path) -> Path:
    """Dialogues between the trained simulator and the base model, stopped once on the way."""
    words = ("simulate", "--user", f"hf/{simulator}", "--assistant", f"hf/{base}", "--out", run / "talk",
             "--seeds", parts / "test.jsonl", "--seed-turns", 1, "-n", 6, "--rounds", 3, "--concurrency", 3,
             "--user-max-tokens", 24, "--max-tokens", 24)  # fmt: skip
    with pytest.raises(BudgetSpent):
        maieutic(*words, "--budget-tokens", 600)
    before = [
        (row["dialogue"], row["index"], row["turn"]) for row in stage_rows(run / "talk" / "turns.jsonl")
    ]
    assert before
    printed = maieutic(*words)
    turns = list(stage_rows(run / "talk" / "turns.jsonl"))
    assert before == [(row["dialogue"], row["index"], row["turn"]) for row in turns[: len(before)]]
    assert printed["dialogues"] == 6 and printed["failed"] == 0
    assert len({(row["dialogue"], row["index"]) for row in turns}) == len(turns)
    assert maieutic(*words)["replies"] == 0
    return run / "talk"


def test_nothing_is_lost_or_changed_on_the_way_in(real_data: Path, imported: Path) -> None:
    raw = [
        json.loads((real_data / "real-chats" / name).read_text(encoding="utf-8").splitlines()[place])
        for name, places in CHOSEN.items()
        for place in places
    ]
    for row, conversation in zip(raw, corpus(imported), strict=True):
        turns = row.get("messages") or row["turns"]
        texts = [turn["content"] if isinstance(turn["content"], str) else "" for turn in turns]
        assert [turn.content for turn in conversation.messages] == texts
    text = imported.read_text(encoding="utf-8")
    assert "\\\\frac{" in text and "```" in text and any(ord(char) > 0x1F000 for char in text)


def test_the_split_is_whole_and_leaks_nothing(cleaned: Path, parts: Path) -> None:
    split = {name: corpus(parts / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert all(split.values())
    ids = [conversation.id for part in split.values() for conversation in part]
    assert sorted(ids) == sorted(conversation.id for conversation in corpus(cleaned))
    printed = maieutic("split", "--check", parts / "train.jsonl", parts / "test.jsonl")
    assert printed["overlap"] == {"exact": 0, "near": 0, "problems": 0}
    users = [{conversation.user_id for conversation in part} - {None} for part in split.values()]
    assert all(not one & other for one, other in pairwise([*users, users[0]]))


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_the_mask_is_exactly_the_text_of_one_side(cleaned: Path, base: Path, role: str) -> None:
    printed = maieutic("mask", cleaned, "--model", base, "--role", role)
    tokenizer = load_tokenizer(find(str(base)))
    end = add_end(tokenizer)
    longest = 0
    for conversation, shown in zip(corpus(cleaned), printed["conversations"], strict=True):
        said = list(supervised(shown["input_ids"], shown["labels"]))
        if role == "user" and conversation.ended:
            assert said.pop() == [end]
        assert all(ids[-1] == tokenizer.eos_token_id for ids in said)  # each turn's end is learned with it
        texts = [tokenizer.decode(ids[:-1]) for ids in said]
        assert texts == list(conversation.turns(Role(role))) and conversation.id == shown["id"]
        longest = max(longest, *map(len, said))
    assert longest > 3000 or role == "assistant"


def supervised(ids: list[int], labels: list[int]) -> Iterator[list[int]]:
    """The runs of ids in the loss; a label is its own id there."""
    for learned, group in groupby(zip(ids, labels, strict=True), lambda pair: pair[1] != IGNORED):
        pairs = list(group)
        if learned:
            assert all(i == label for i, label in pairs)
            yield [i for i, _ in pairs]


def test_the_trained_simulator_says_what_it_is(simulator: Path, base: Path, parts: Path) -> None:
    record = json.loads((simulator / "model" / "maieutic.json").read_text())
    assert record["role"] == "user" and record["method"] == "sft" and record["end"] is True
    assert record["data"]["rows"] == len(corpus(parts / "train.jsonl"))
    assert record["base"].endswith("base") and str(base.parent.parent) not in record["base"]
    tokenizer = load_tokenizer(find(str(simulator / "model")))
    assert end_id(tokenizer) is not None
    opened = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert opened.endswith("<|im_start|>user\n")  # any server asks it for the human's turn


def test_an_assistant_is_trained_on_the_dialogues_as_they_lie(talk: Path, base: Path, run: Path) -> None:
    learned = train_sft("assistant", base, talk, run / "assistant")
    assert learned["data"]["rows"] == 6 and learned["data"]["broken"] == 0
    record = json.loads((run / "assistant" / "model" / "maieutic.json").read_text())
    assert record["role"] == "assistant" and record["data"]["name"] == "talk"


def test_the_dialogues_carry_their_start_and_how_each_turn_came_about(talk: Path, parts: Path) -> None:
    starts = {conversation.messages[0].content for conversation in corpus(parts / "test.jsonl")}
    rows = list(stage_rows(talk))
    assert len(rows) == 6
    for row in rows:
        assert row["messages"][0]["content"] in starts
        roles = [turn["role"] for turn in row["messages"]]
        assert roles == [("user", "assistant")[place % 2] for place in range(len(roles))]
        assert row["meta"]["end"] in ("end", "rounds", "context")
        assert row.get("ended", False) == (row["meta"]["end"] == "end")


def test_the_simulator_stands_beside_people(talk: Path, simulator: Path, base: Path, parts: Path) -> None:
    printed = maieutic("eval", "simulator", "--people", parts / "test.jsonl", "--model", f"hf/{simulator}",
                       "--simulated", talk, "--baseline", f"hf/{base}")  # fmt: skip
    metrics = {name: value for name, value in printed.items() if isinstance(value, dict)}
    assert {"perplexity_on_human_turns", "end_f1", "first_turn_diversity", "distinct_2"} <= metrics.keys()
    for metric in metrics.values():
        assert {"value", "ci", "n", "human", "baseline"} <= metric.keys()
        assert metric["ci"] is None or metric["ci"][0] <= metric["value"] <= metric["ci"][1]
        assert metric["value"] is not None or metric["reason"]
    perplexity = metrics["perplexity_on_human_turns"]
    assert 1 < perplexity["value"] < perplexity["baseline"]  # even six steps on people's turns help


# The tutor's half: seeds of socratic-llm, candidates, verdicts, pairs, DPO, scores.


@pytest.fixture(scope="module")
def problems(real_data: Path, run: Path) -> Path:
    sets = [
        real_data / "socratic-llm" / f"{name}_train.json" for name in ("mathdial", "tutorchat", "debugging")
    ]
    printed = maieutic("import", *sets, "--out", run / "seeds.jsonl")
    assert printed["conversations"] == sum(len(json.loads(path.read_text())) for path in sets)
    cleaned = maieutic("clean", run / "seeds.jsonl", "--out", run / "seeds-clean.jsonl")
    assert cleaned["rejected"]["exact duplicate"] == 131  # what FACTS say of the published lists
    maieutic("split", run / "seeds-clean.jsonl", "--by", "problem", "--out", run / "problems")
    return run / "problems"


@pytest.fixture(scope="module")
def judged(problems: Path, base: Path, run: Path) -> Path:
    """Twenty dialogues with four candidates each, and a served judge's word on every one."""
    asked = maieutic("candidates", "--model", f"hf/{base}", "--data", problems / "train.jsonl", "-k", 4,
                     "--limit", 20, "--max-tokens", 16, "--out", run / "tutor" / "candidates")  # fmt: skip
    assert asked["prompts"] == 20 and asked["failed"] == 0 and asked["replies"] == 80
    with Loopback(verdict) as server:
        done = maieutic("judge", run / "tutor" / "candidates", "--judge", server.spec)
        assert done["judged"] == 80 and done["unscored"] == 0 and done["calls"] == len(server.chats)
    return run / "tutor" / "judge"


def verdict(request: dict[str, Any]) -> str:
    """A judge who says something else of every text, in words around the JSON."""
    number = int(fingerprint(request["messages"])[:6], 16)
    values = {"asks_question": "yes", "on_topic": 1 + number % 5, "helpful": 1 + number // 5 % 5,
              "reveals_answer": "no"}  # fmt: skip
    return f"Let me see: {{a set}}.\n```json\n{json.dumps(values)}\n```"


@pytest.fixture(scope="module")
def tuned(judged: Path, base: Path, run: Path) -> Path:
    made = maieutic("preferences", judged, "--out", run / "pairs.jsonl", "--min-chosen", 0.6)
    assert made["pairs"] >= 5 and made["pairs"] + sum(made["refused"].values()) == made["prompts"] == 20
    pairs = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    for pair in pairs:
        assert pair["scores"]["chosen"] > max(0.6, pair["scores"]["rejected"])
        assert next(turn["role"] for turn in pair["prompt"]) == "system"
    maieutic("train", "dpo", "--model", base, "--data", run / "pairs.jsonl", "--out", run / "dpo",
             "--learning-rate", 2e-3, "--max-steps", 8, "--batch-size", 4, "--micro-batch-size", 2, "--beta", 0.5)  # fmt: skip
    return run / "dpo"


def test_the_margin_grows(tuned: Path) -> None:
    rows = [row for row in stage_rows(tuned) if "margin" in row]
    assert len(rows) == 8 and abs(rows[0]["margin"]) < 1e-3  # the reference is its own start
    assert rows[-1]["margin"] > 0.1 and rows[-1]["loss"] < rows[0]["loss"]
    assert json.loads((tuned / "model" / "maieutic.json").read_text())["method"] == "dpo"


def test_the_same_command_again_finds_it_done_and_another_is_refused(
    tuned: Path, base: Path, run: Path
) -> None:
    words = ("train", "dpo", "--model", base, "--data", run / "pairs.jsonl", "--out", tuned, "--max-steps", 8,
             "--batch-size", 4, "--micro-batch-size", 2, "--beta", 0.5, "--learning-rate")  # fmt: skip
    assert maieutic(*words, 2e-3)["steps"] == 8
    with pytest.raises(RunConflict, match="learning_rate"):
        maieutic(*words, 1e-3)


def test_base_and_tuned_are_scored_on_the_same_unseen_dialogues(
    tuned: Path, base: Path, problems: Path, run: Path
) -> None:
    with Loopback(verdict) as server:
        for name, model in (("base", base), ("tuned", tuned)):
            maieutic("candidates", "--model", f"hf/{model}", "--data", problems / "test.jsonl", "-k", 1,
                     "--temperature", 0, "--limit", 8, "--max-tokens", 16,
                     "--out", run / f"{name}-answers")  # fmt: skip
            maieutic(
                "judge", run / f"{name}-answers", "--judge", server.spec, "--out", run / f"{name}-judged"
            )
    scores = maieutic("eval", "tutor", "score", run / "tuned-judged")
    criteria = ("asks_question", "on_topic", "helpful", "reveals_answer")
    assert scores["n"] == 8 and scores["unscored"] == 0
    assert all(0 <= scores[name] <= 1 for name in ("summary_score", *criteria))
    summary = sum(
        (scores["asks_question"], 1 - scores["reveals_answer"], scores["on_topic"], scores["helpful"])
    )
    assert scores["summary_score"] == pytest.approx(summary / 4)
    paired = maieutic("eval", "paired", run / "tuned-judged", run / "base-judged")
    assert paired["n"] == 8 and {"difference", "ci"} <= paired.keys()
    ids = [[row["id"] for row in stage_rows(run / f"{name}-judged")] for name in ("base", "tuned")]
    assert sorted(ids[0]) == sorted(ids[1])
