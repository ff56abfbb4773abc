"""The corpus stages of a recipe: what each command can do, a stage can, and a mistake is said before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from conversations import talk, write_lines

from maieutic.core.errors import InputError, RecipeError
from maieutic.data.corpus import read_corpus
from maieutic.data.importing import import_files
from maieutic.recipes import runner

ASKED = "Compose an engaging travel blog post about a recent trip to the moon, with craters and dust."


def stages(folder: Path) -> dict[str, Any]:
    chats = [
        talk(f"Question {n} about {word * n}", f"Answer {n}", "And then?", "So be it.", id=f"{n}{word}",
             user_id=f"u{n}", meta={"category": word})
        for n in range(1, 21)
        for word in ("tea", "salt")
    ]  # fmt: skip
    asked = talk(ASKED, "No.", "Why?", "Just so.", id="asked", meta={"category": "tea"})
    write_lines(folder / "chats.jsonl", *(chat.row() for chat in [*chats, asked, chats[0]]))
    write_lines(folder / "question.jsonl", {"question_id": 1, "turns": [ASKED]})
    return {
        "import": {"do": "import", "sources": ["chats.jsonl"], "source": "mine", "licence": "CC0-1.0"},
        "sample": {
            "do": "import", "sources": ["${import}/corpus.jsonl"], "sample": 10, "by": "category",
        },
        "clean": {
            "do": "clean", "corpus": "${import}/corpus.jsonl", "filters": ["personal", "length"],
            "min_turns": 3, "max_tokens": 500,
        },
        "unseen": {"do": "decontaminate", "corpus": "${clean}/corpus.jsonl", "against": ["question.jsonl"]},
        "stats": {"do": "stats", "corpus": "${unseen}/corpus.jsonl"},
        "split": {"do": "split", "corpus": "${unseen}/corpus.jsonl", "by": "user", "parts": [0.5, 0.2, 0.3]},
        "share": {"do": "convert", "corpus": "${split}/train.jsonl", "to": "sharegpt"},
    }  # fmt: skip


def plan(folder: Path, stages: dict[str, Any], out: str = "run") -> runner.Plan:
    path = folder / "r.yaml"
    path.write_bytes(orjson.dumps({"name": "r", "stages": stages}))
    return runner.resolve(str(path), folder / out)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_corpus_command_is_a_stage(here: Path) -> None:
    done = runner.run_plan(plan(here, stages(here)))
    assert done["import"]["licences"] == {"CC0-1.0": 42}
    assert done["sample"]["sample"] == {"salt": {"seen": 20, "kept": 5}, "tea": {"seen": 22, "kept": 5}}
    assert [step["step"] for step in done["clean"]["steps"]] == [
        "personal", "roles", "length", "turns", "duplicates",
    ]  # fmt: skip
    assert (done["clean"]["kept"], done["unseen"]["flagged"], done["stats"]["conversations"]) == (41, 1, 40)
    assert sum(done["split"]["counts"].values()) == 40 and done["split"]["leakage"]
    shared = list(import_files([here / "run" / "share" / "corpus.json"])[0])
    assert shared == list(read_corpus(here / "run" / "split" / "train.jsonl"))
    assert {(one.source, one.licence) for one in shared} == {("mine", "CC0-1.0")}


def test_a_dataset_is_a_source_and_no_path(here: Path) -> None:
    pytest.importorskip("datasets")
    (here / "set").mkdir()
    write_lines(here / "set" / "train.jsonl", {"instruction": "a", "output": "b"})
    done = runner.run_plan(plan(here, {"import": {"do": "import", "sources": ["hub:set:train"]}}))
    assert done["import"]["formats"] == {"hub:set:train": {"alpaca": 1}}


@pytest.mark.parametrize(
    ("stage", "setting", "said"),
    [
        ("import", {"format": "zz"}, "no format 'zz'"),
        ("import", {"by": "category"}, "`by` needs `sample`"),
        ("import", {"sample": 0}, "sample: "),
        ("clean", {"preset": "plato"}, "no preset 'plato'"),
        ("clean", {"filters": ["nope"]}, "no filter 'nope'"),
        ("clean", {"languages": ["xx"]}, "unknown language 'xx'"),
        ("clean", {"max_tokens": 0}, "max_tokens: "),
        ("split", {"parts": [0.5, 0.6, 0.1]}, "three shares"),
        ("share", {"to": "zz"}, "to: "),
    ],
)
def test_a_mistake_is_said_before_anything_runs(here: Path, stage: str, setting: Any, said: str) -> None:
    whole = stages(here)
    whole[stage] |= setting
    with pytest.raises((RecipeError, InputError), match=f"stage {stage}: .*{said}"):
        plan(here, whole)


def test_a_preset_is_a_setting(here: Path) -> None:
    whole = stages(here)
    whole["clean"] = {"do": "clean", "corpus": "${import}/corpus.jsonl", "preset": "platolm"}
    described = next(line.does for line in runner.expected_costs(plan(here, whole)) if line.stage == "clean")
    assert described == "clean: html, roles, mentions, language, length, turns, duplicates"


def test_the_python_of_the_page_runs(here: Path) -> None:
    stages(here)
    (here / "chats.jsonl").rename(here / "chats.json")
    page = (Path(__file__).parent.parent / "docs" / "cleaning.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    names: dict[str, Any] = {}
    exec(code, names)  # our own page
    assert names["cleaned"].kept == 41 and set(names["counts"].licences) == {"CC-BY-4.0"}
    assert sum(names["parts"].counts.values()) == 40 and names["overlap"].overlap["exact"] == 0
