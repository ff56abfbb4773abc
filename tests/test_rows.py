"""The rows between steps: what is kept, what is written, and how a bad row is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from maieutic.core.errors import InputError, MissingInput
from maieutic.core.messages import Finish, Message, Role
from maieutic.core.rows import CandidateRow, Episode, JudgedRow, parse, read_step
from maieutic.core.store import Stage

ROW: dict[str, Any] = {
    "key": "k",
    "id": "a",
    "messages": [{"role": "user", "content": "Why?"}],
    "problem": {"statement": "1 + 1"},
    "candidates": [{"text": "How so?", "finish": "length"}, {"text": "2"}],
    "source": None,
    "mine": {"kept": 1},
}
VERDICTS = [{"judge": "m", "values": {"x": 1.0}, "raw": "", "error": None}] * 2


def test_a_row_is_written_as_it_was_read_with_keys_of_others() -> None:
    row = parse(CandidateRow, ROW, "here")
    assert row.texts == ("How so?", "2") and row.candidates[0].finish is Finish.LENGTH
    assert row.row() == {name: value for name, value in ROW.items() if name != "key"}
    assert row.key == "k" and row.start == (Message(role=Role.USER, content="Why?"),)


def test_a_judged_row_keeps_what_the_candidates_held() -> None:
    judged = {**ROW, "verdicts": VERDICTS, "scores": [0.5, None]}
    assert parse(JudgedRow, judged, "here").row() == {k: v for k, v in judged.items() if k != "key"}
    with pytest.raises(InputError, match="here.*2 candidates, 2 verdicts, 1 scores"):
        parse(JudgedRow, {**judged, "scores": [1.0]}, "here")


def test_the_last_reply_of_a_conversation_is_its_candidate() -> None:
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    row = parse(CandidateRow, talk, "here")
    assert row.texts == ("b",) and [message.content for message in row.messages] == ["a"]
    with pytest.raises(InputError):
        parse(CandidateRow, {"messages": talk["messages"][:1]}, "here")


def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path) -> None:
    with Stage(tmp_path / "run" / "judge", {"stage": "judge"}) as stage:
        stage.rows.append("1", {"messages": [], "candidates": []})
        stage.rows.append("2", {"messages": [{"role": "nobody", "content": ""}], "candidates": []})
    rows = read_step(CandidateRow, tmp_path / "run", "judge")
    assert next(rows).key == "1"
    with pytest.raises(InputError, match=r"rows\.jsonl:2: .*CandidateRow.*messages\.0\.role"):
        next(rows)
    (tmp_path / "file.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in (ROW, [1])))
    with pytest.raises(InputError, match=r"file\.jsonl:2"):
        list(read_step(CandidateRow, tmp_path / "file.jsonl", "judge"))
    with pytest.raises(MissingInput):
        list(read_step(CandidateRow, tmp_path / "none", "judge"))


def test_rows_of_a_file_without_keys_get_one_from_their_content(tmp_path: Path) -> None:
    bare = {name: value for name, value in ROW.items() if name != "key"}
    (tmp_path / "file.json").write_bytes(orjson.dumps([bare, {**bare, "id": "b"}]))
    keys = [row.key for row in read_step(CandidateRow, tmp_path / "file.json", "candidates")]
    assert len(set(keys)) == 2 and all(keys)


def test_an_episode_is_a_conversation_with_its_failure() -> None:
    row = {
        "key": "k",
        "id": "e",
        "messages": [{"role": "user", "content": "a"}],
        "meta": {
            "seed": "s",
            "dialogue": "d",
            "end": None,
            "turns": {"0": {"model": "m", "seed": 3, "new": 1}},
        },
        "failure": {"fault": "network", "error": "gone"},
    }
    episode = parse(Episode, row, "here")
    assert episode.failure and episode.failure.error == "gone"
    assert (episode.seed, episode.dialogue, episode.end) == ("s", "d", None)
    assert episode.infos["0"].seed == 3 and episode.infos["0"].model_dump() == {
        "model": "m",
        "seed": 3,
        "new": 1,
    }
    assert episode.row() == {name: value for name, value in row.items() if name != "key"}
