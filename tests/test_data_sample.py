"""Sampling a stream: the same sample from the same rows, in proportion, in order."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from conversations import run, talk, write_lines
from hypothesis import given
from hypothesis import strategies as st

from maieutic.core.errors import InputError
from maieutic.core.messages import Conversation
from maieutic.data.importing import Stratum, draw_sample, import_files

ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60)), min_size=1, max_size=60)


def corpus(rows: list[tuple[str, int]]) -> list[Conversation]:
    return [
        talk(f"{kind} {number}", "yes\n", id=str(place), meta={"category": kind} if kind != "d" else {})
        for place, (kind, number) in enumerate(rows)
    ]


@given(ROWS, st.integers(1, 70), st.sampled_from([None, "category"]), st.randoms())
def test_a_sample_is_in_proportion_in_order_and_does_not_hang_on_the_order(
    rows: list[tuple[str, int]], count: int, by: str | None, random: object
) -> None:
    rows = list(dict.fromkeys(rows))
    if all(kind == "d" for kind, _ in rows):
        by = None
    source = corpus(rows)
    strata: dict[str, Stratum] = {}
    kept = list(draw_sample(source, count, by, strata))
    assert len(kept) == min(count, len(source)) == sum(stratum.kept for stratum in strata.values())
    places = [int(c.id) for c in kept]
    assert places == sorted(places) and all(source[place] == c for place, c in zip(places, kept, strict=True))
    for stratum in strata.values():
        exact = stratum.seen * len(kept) / len(source)
        assert exact - 1 < stratum.kept < exact + 1 and stratum.kept <= stratum.seen
    shuffled = list(source)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = draw_sample(shuffled, count, by, {})
    assert {c.id for c in again} == set(map(str, places))


@given(ROWS, st.integers(1, 20))
def test_a_growing_corpus_only_lets_rows_give_way(rows: list[tuple[str, int]], count: int) -> None:
    source = corpus(list(dict.fromkeys(rows)))
    half = source[: len(source) // 2] or source
    before = {c.id for c in draw_sample(half, count, None, {})}
    after = {c.id for c in draw_sample(source, count, None, {})}
    assert after & {c.id for c in half} <= before


def test_equal_rows_may_all_be_kept() -> None:
    same = corpus([("a", 1)] * 5)
    strata: dict[str, Stratum] = {}
    assert [c.id for c in draw_sample(same, 3, None, strata)] == ["0", "1", "2"]
    assert strata == {"(all)": Stratum(5, 3)}


def test_values_of_any_type_and_fields_of_the_conversation() -> None:
    rows = [talk("x", str(n), meta={"level": n % 2}, source="s" if n < 3 else None) for n in range(6)]
    strata: dict[str, Stratum] = {}
    assert len(list(draw_sample(rows, 4, "level", strata))) == 4
    assert strata == {"0": Stratum(3, 2), "1": Stratum(3, 2)}
    strata.clear()
    list(draw_sample(rows, 2, "source", strata))
    assert strata == {"(none)": Stratum(3, 1), "s": Stratum(3, 1)}


def test_a_field_nobody_has_is_an_error() -> None:
    with pytest.raises(InputError, match="'categroy'") as caught:
        list(draw_sample(corpus([("a", 1)]), 1, "categroy", {}))
    assert "category" in caught.value.hint


def test_the_command_stratifies(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Do {n}.", "context": "", "response": "x", "category": "qa" if n % 4 else "list"}
        for n in range(200)
    ]
    path = write_lines(tmp_path / "dolly.jsonl", *rows, b"{")
    out = tmp_path / "s.jsonl"
    code, text, err = run(
        "import", path, "--sample", "40", "--by", "category", "--out", out, "--licence", "CC BY-SA 3.0"
    )
    assert code == 0 and "broken JSON" in err and "40 conversations" in text and "licence" not in err
    found = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert sum(row["meta"]["category"] == "list" for row in found) == 10
    numbers = [int(row["messages"][0]["content"][3:-1]) for row in found]
    assert numbers == sorted(numbers)
    code, text, _ = run(
        "import",
        path,
        "--sample",
        "40",
        "--by",
        "category",
        "--out",
        out,
        "--json",
        "--licence",
        "CC BY-SA 3.0",
    )
    assert code == 0 and orjson.loads(text)["sample"]["qa"] == {"seen": 150, "kept": 30}
    assert run("import", path, "--by", "category", "--out", out)[0] == 2
    code, _, err = run("import", path, "--sample", "3", "--out", tmp_path / "t.jsonl")
    assert code == 0 and "3 conversations name no licence" in err
    with pytest.raises(InputError, match="sample"):
        import_files([path], sample=0)
