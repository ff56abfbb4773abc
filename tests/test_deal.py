"""Dealing: every conversation once, nothing that belongs together in two parts, none that evaluates."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation
from maieutic.data.corpus import read_corpus, write_corpus
from maieutic.data.split import deal, file_name


def talk(number: int, problem: int, user: int) -> Conversation:
    return Conversation.model_validate(
        {
            "id": str(number),
            "messages": [{"role": "user", "content": f"Talk {number}"}],
            "problem": {"statement": f"Problem {problem}?"},
            "user_id": f"u{user}",
        }
    )


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=8, max_size=40),
    st.integers(1, 4),
    st.sampled_from(["problem", "user"]),
    st.integers(0, 3),
)
def test_parts_are_disjoint_whole_and_of_about_one_size(
    drawn: list[tuple[int, int]], parts: int, by: str, seed: int
) -> None:
    talks = [talk(number, *both) for number, both in enumerate(drawn)]
    kinds = {one.user_id if by == "user" else one.problem.statement for one in talks if one.problem}
    if len(kinds) < parts:
        return
    with TemporaryDirectory() as folder:
        source, out = Path(folder, "all.jsonl"), Path(folder, "out")
        write_corpus(source, talks)
        dealt = deal(source, out, parts=parts, by=by, seed=seed)
        heaps = [list(read_corpus(out / file_name(number))) for number in range(1, parts + 1)]
    assert sorted(one.id for heap in heaps for one in heap) == sorted(one.id for one in talks)
    found = [{one.user_id if by == "user" else one.problem.statement for one in heap} for heap in heaps]  # type: ignore[union-attr]
    assert sum(map(len, found)) == len(kinds) == sum(dealt.groups)
    assert max(dealt.groups) - min(dealt.groups) <= 1


def test_what_evaluates_is_refused_and_too_few_are_too(tmp_path: Path) -> None:
    write_corpus(tmp_path / "seeds.jsonl", [talk(1, 1, 1), talk(2, 2, 2)])
    write_corpus(tmp_path / "held.jsonl", [talk(9, 2, 9)])
    with pytest.raises(InputError, match="1 of 2 groups .* stand in .*held"):
        deal(tmp_path / "seeds.jsonl", tmp_path / "out", parts=2, apart_from=[tmp_path / "held.jsonl"])
    with pytest.raises(InputError, match="2 groups .* for 3 parts"):
        deal(tmp_path / "seeds.jsonl", tmp_path / "out", parts=3)
    with pytest.raises(InputError, match="by 'colour'"):
        deal(tmp_path / "seeds.jsonl", tmp_path / "out", parts=1, by="colour")
    assert not (tmp_path / "out").exists()
