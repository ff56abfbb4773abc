"""Splits that hold still as a corpus grows, and leaks between parts made by anybody."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from conversations import conversations, run, talk, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.core.errors import InputError, StoreError
from maieutic.core.messages import Conversation, Problem, Role
from maieutic.core.step import build
from maieutic.data.corpus import identity, problem_key, read_corpus, write_corpus
from maieutic.data.importing import import_files
from maieutic.data.lengths import cut, estimate
from maieutic.data.near_duplicates import jaccard as share
from maieutic.data.overlap import check, grams, overlap
from maieutic.data.results import FoldsResult, SplitResult
from maieutic.data.split import (
    PARTS,
    By,
    SplitReport,
    fold_name,
    split,
)
from maieutic.data.steps import Split

BY = st.sampled_from(list(By))
FEW = conversations(st.sampled_from(["a", "b", "c"]))


@given(st.lists(FEW, max_size=8), st.lists(FEW, max_size=8), BY)
@settings(max_examples=60)
def test_growth_moves_nothing(corpus: list[Conversation], more: list[Conversation], by: By) -> None:
    before = list(split(corpus, by, (0.4, 0.3, 0.3)))
    assert list(split([*corpus, *more], by, (0.4, 0.3, 0.3)))[: len(corpus)] == before
    assert [conversation for _, conversation in before] == corpus


@given(st.lists(FEW, max_size=10), BY, st.integers(0, 5))
@settings(max_examples=60)
def test_equal_content_and_groups_stay_together(corpus: list[Conversation], by: By, seed: int) -> None:
    report = SplitReport(by)
    parts_of: defaultdict[str, set[str]] = defaultdict(set)
    for part, conversation in split(corpus, by, (0.4, 0.3, 0.3), seed=seed, report=report):
        parts_of[identity(conversation)].add(part)
        if by == By.USER and conversation.user_id and not report.moved:
            parts_of[f"user {conversation.user_id}"].add(part)
        if by == By.PROBLEM and conversation.problem and (key := problem_key(conversation.problem)):
            parts_of[f"problem {key}"].add(part)
    assert all(len(parts) == 1 for parts in parts_of.values())
    assert sum(report.counts.values()) == len(corpus)


@given(st.permutations([talk(str(n), "b") for n in range(8)]), st.sampled_from([By.CONVERSATION, By.PROBLEM]))
def test_order_decides_nothing(corpus: list[Conversation], by: By) -> None:
    placed = {conversation.id: part for part, conversation in split(corpus, by)}
    assert placed == {
        conversation.id: part for part, conversation in split(sorted(corpus, key=lambda c: c.id), by)
    }


def test_shares_are_kept_about_and_seeds_differ() -> None:
    corpus = [talk(f"question {n}", "answer", user_id=f"u{n % 700}") for n in range(2000)]
    report = SplitReport(By.USER)
    parts = [part for part, _ in split(corpus, "user", report=report)]
    assert abs(report.counts["train"] - 1600) < 120 and abs(report.counts["test"] - 200) < 90
    assert sum(report.groups.values()) == 700
    assert parts != [part for part, _ in split(corpus, "user", seed=1)]
    assert {part for part, _ in split(corpus, parts=(0.5, 0.5, 0.0))} == {"train", "validation"}
    assert {part for part, _ in split(corpus, parts=(1, 0, 0))} == {"train"}
    assert {part for part, _ in split(corpus, parts=(0, 0, 1))} == {"test"}


def test_paths_of_a_tree_stay_together_and_loners_are_counted() -> None:
    trees = [talk(f"q{n % 20}", f"a{n}", meta={"tree": f"t{n % 20}"}) for n in range(200)]
    for by in By:
        report = SplitReport(by)
        parts: defaultdict[str, set[str]] = defaultdict(set)
        for part, conversation in split(trees, by, report=report):
            parts[conversation.meta["tree"]].add(part)
        assert all(len(found) == 1 for found in parts.values()) and len(parts) == 20
        assert report.alone == (0 if by == By.CONVERSATION else 200)


def test_the_same_words_by_two_users_go_to_one_part_and_it_is_said() -> None:
    corpus = [talk("hi", "ho", user_id=f"u{n}") for n in range(50)]
    report = SplitReport(By.USER)
    assert len({part for part, _ in split(corpus, "user", (0.4, 0.3, 0.3), report=report)}) == 1
    assert report.moved > 0


def test_a_wrong_solution_is_the_students_but_a_program_is_the_problems() -> None:
    def key(**fields: str) -> str | None:
        return problem_key(Problem(**fields))

    assert key(statement="Add  3\nand 4.", attempt="7") == key(statement="Add 3 and 4. ", attempt="8")
    code = "1. def f(x):\n2.     return x"
    assert key(statement="s", attempt=code) != key(
        statement="s", attempt=code.replace("return x", "return 2")
    )
    assert key(statement="s", attempt=code) == key(
        statement="s", attempt=code.replace("     ", " "), solution="?"
    )
    assert key(statement=" ") is None and problem_key(None) is None
    assert key(statement="Add", attempt="For 3 bags: 4") == key(statement="Add", attempt="from 3 to 4 {")


def test_split_file_writes_three_parts_and_says_how(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    corpus = [talk(f"q{n}", "a", id=str(n)) for n in range(60)]
    write_corpus(source, corpus)
    whole = Split(corpus=source, parts=(0.5, 0.3, 0.2))
    report = whole.run(tmp_path / "parts")
    assert isinstance(report, SplitResult)
    read = {part: list(read_corpus(tmp_path / "parts" / f"{part}.jsonl")) for part in PARTS}
    assert {part: len(found) for part, found in read.items()} == report.counts
    assert sorted((c.id for found in read.values() for c in found), key=int) == [c.id for c in corpus]
    record = orjson.loads((tmp_path / "parts" / "split.json").read_bytes())
    assert record["by"] == "conversation" and record["counts"] == report.counts and record["seed"] == 0
    whole.run(tmp_path / "parts")
    before = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    with pytest.raises(StoreError, match="other content"):
        whole.model_copy(update={"seed": 1}).run(tmp_path / "parts")
    with pytest.raises(StoreError, match="is an input"):
        Split(corpus=tmp_path / "parts" / "train.jsonl", force=True).run(tmp_path / "parts")
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == before
    for wrong in ({"by": "x"}, {"parts": (0.5, 0.6, 0.1)}, {"parts": (1.2, -0.1, -0.1)}):
        with pytest.raises(InputError):
            build(Split, {"corpus": source, **wrong}).check()


def test_what_leaks_between_the_parts_is_measured_and_written(tmp_path: Path) -> None:
    def words(seed: int) -> str:
        return " ".join(f"w{(n * seed) % 997}" for n in range(80))

    source = tmp_path / "c.jsonl"
    corpus = [
        talk(f"Question {n} about {words(n + 2)}", f"Answer {words(n + 300)}", id=str(n)) for n in range(120)
    ]
    corpus += [
        talk(c.turns(Role.USER)[0], c.turns(Role.ASSISTANT)[0] + " Sure.", id=f"near {c.id}") for c in corpus
    ]
    corpus += [talk(f"Question {n} about {words(n + 2)}", "No.", id=f"prompt {n}") for n in range(120)]
    write_corpus(source, corpus)
    report = Split(corpus=source, parts=(0.6, 0.2, 0.2)).run(tmp_path / "parts")
    assert isinstance(report, SplitResult)
    assert list(report.leakage) == ["validation in train", "test in train", "test in validation"]
    for pair, found in report.leakage.items():
        tested, seen = pair.split(" in ")
        checked = check(tmp_path / "parts" / f"{seen}.jsonl", tmp_path / "parts" / f"{tested}.jsonl").overlap
        assert checked.counts() == found and checked.exact == 0 and checked.near and checked.prompts
    record = orjson.loads((tmp_path / "parts" / "split.json").read_bytes())
    assert record["leakage"] == report.leakage
    code, out, _ = run("split", source, "--out", tmp_path / "parts", "--parts", "0.6,0.2,0.2")
    assert code == 0 and "leakage" in out and "test in validation" in out
    code, out, _ = run("split", source, "--out", tmp_path / "quick", "--no-near", "--json")
    leakage = orjson.loads(out)["leakage"]["test in train"]
    assert code == 0 and leakage["overlap"]["near"] is None and leakage["prompts"]["exact"]
    train, test = tmp_path / "parts" / "train.jsonl", tmp_path / "parts" / "test.jsonl"
    assert (
        run("split", "--check", train, test)[0] == 1
        and run("split", "--check", train, test, "--no-near")[0] == 0
    )


def test_without_rensa_a_split_says_so_and_a_check_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    source = tmp_path / "c.jsonl"
    write_corpus(source, [talk(f"q{n}", "a") for n in range(60)])
    code, _, err = run("split", source, "--out", tmp_path / "parts")
    assert code == 0 and "rensa" in err
    parts = (tmp_path / "parts" / "train.jsonl", tmp_path / "parts" / "test.jsonl")
    code, _, err = run("split", "--check", *parts)
    assert code == 1 and "maieutic[data]" in err
    assert run("split", "--check", *parts, "--no-near")[0] == 0


def test_parts_of_one_conversation_stay_together() -> None:
    whole = talk(*(f"turn {n} of it" for n in range(20)), id="c")
    parts = cut(whole, 30, estimate).fitting
    assert len(parts) > 3
    for seed in range(20):
        assert len({placed.part for placed in split(parts, parts=(0.4, 0.3, 0.3), seed=seed)}) == 1


def test_programs_and_prompts_are_told_beside_the_overlap(tmp_path: Path) -> None:
    train, test = tmp_path / "train.json", tmp_path / "test.json"
    train.write_bytes(orjson.dumps([seed(STATEMENT, CODE, "Help!")]))
    test.write_bytes(
        orjson.dumps([seed("Something else entirely.", CODE, "Help!"), seed(STATEMENT, CODE, "Help!", "?")])
    )
    code, out, _ = run("split", "--check", train, test, "--json")
    found = orjson.loads(out)
    assert code == 1 and found["programs"] == 2 and found["prompts"] == {"exact": 1, "near": 0}
    assert found["overlap"]["problems"] == 1 and found["leaked"] == [found["leaked"][0]]


WORDS = st.lists(st.sampled_from("ab"), max_size=14).map(" ".join)
SMALL = st.builds(lambda first, second: talk(first, second), WORDS, WORDS)


@given(st.lists(SMALL, max_size=6), st.lists(SMALL, max_size=6), st.sampled_from([0.8, 1.0]))
@settings(max_examples=200)
def test_the_index_finds_exactly_what_comparing_all_pairs_finds(
    train: list[Conversation], test: list[Conversation], near: float
) -> None:
    def texts(conversation: Conversation) -> list[str]:
        return [turn.content for turn in conversation.messages]

    def jaccard(one: Conversation, other: Conversation) -> float:
        return share(grams(one), grams(other))

    exact = [item for item in test if any(texts(item) == texts(other) for other in train)]
    close = [
        item for item in test if item not in exact and any(jaccard(item, other) >= near for other in train)
    ]
    found = overlap(train, test, near)
    assert (found.exact, found.near, found.problems) == (len(exact), len(close), 0)
    assert (found.train, found.test) == (len(train), len(test))


def seed(statement: str, code: str, *said: str) -> str:
    tags = {"problem": statement, "bug_code": code, "bug_desc": "It is wrong.", "bug_fixes": "Mend it."}
    material = "\n".join(f"<{tag}>\n{text}\n</{tag}>" for tag, text in tags.items())
    roles = ("User", "Assistant")
    return material + "\n".join(f"{roles[n % 2]}: {text}" for n, text in enumerate(said)) + "\nAssistant: "


CODE = "1. def add(a, b):\n2.     return a - b"
STATEMENT = (
    "Write a function `add(a, b)` that returns the sum of its two arguments, whatever their sign may be."
)


def test_leaks_are_counted_in_test_items(tmp_path: Path) -> None:
    long = "I ran it with two and three and got minus one, though five is what the example says it should be."
    train, test = tmp_path / "train.json", tmp_path / "test.json"
    train.write_bytes(
        orjson.dumps([seed(STATEMENT, CODE, "Help!"), seed(STATEMENT, CODE, long), seed("Else.", CODE, "x")])
    )
    items = [
        seed(STATEMENT, CODE, "Help!"),  # exact, and the same problem
        seed(STATEMENT, CODE, "Help!"),  # counted again: test items are counted
        seed(STATEMENT, CODE, long + " Please."),  # near, and the same problem
        seed(
            STATEMENT,
            CODE.replace("a - b", "b - a"),
            "Help me, something is off here and I cannot see what it is!",
        ),
        seed("Another problem altogether.", "1. print(1)", "Help!"),  # the same words about another problem
    ]
    test.write_bytes(orjson.dumps(items))
    found = check(train, test).overlap
    assert (found.exact, found.near, found.problems) == (2, 1, 3)
    assert (found.train, found.test) == (3, 5) and len(found.leaked) == 3

    code, out, _ = run("split", "--check", train, test, "--json")
    report = orjson.loads(out)
    assert code == 1 and report["overlap"] == {"exact": 2, "near": 1, "problems": 3}
    assert (report["train"], report["test"]) == (3, 5)
    for name in ("train", "test"):  # the same after an import, and across the two forms
        write_corpus(tmp_path / f"{name}.jsonl", import_files([tmp_path / f"{name}.json"])[0])
    for one in (train, tmp_path / "train.jsonl"):
        for other in (test, tmp_path / "test.jsonl"):
            assert check(one, other).overlap == found


def test_equal_turns_are_exact_in_any_form_unless_their_problems_differ(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    shared = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    sharegpt = write_lines(tmp_path / "s.jsonl", {"conversations": shared})
    plain = write_lines(tmp_path / "m.jsonl", {"messages": turns}, {"messages": turns, "problem": "p"})
    other = write_lines(tmp_path / "o.jsonl", {"messages": turns, "problem": "q"})
    assert check(sharegpt, plain).overlap.exact == 2
    assert check(other, plain).overlap[:3] == (1, 0, 0)
    code, out, _ = run("split", "--check", other, write_lines(tmp_path / "n.jsonl", {"messages": turns[:1]}))
    assert code == 0 and "no overlap" in out


def test_the_call_is_wrong_without_two_files_or_a_corpus(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    write_corpus(source, [talk("a", "b", user_id="x"), talk("c", "d")])
    assert (
        run("split")[0] == run("split", source)[0] == run("split", source, "--check", source, source)[0] == 2
    )
    code, out, err = run("split", source, "--out", tmp_path / "parts", "--by", "user")
    assert code == 0 and "1 conversations have no user" in out and "empty:" in err
    code, out, _ = run("split", source, "--out", tmp_path / "parts", "--by", "user", "--json")
    assert code == 0 and orjson.loads(out)["alone"] == 1


@pytest.mark.parametrize(
    ("name", "exact", "problems"), [("debugging", 663, 663), ("mathdial", 498, 498), ("tutorchat", 594, 68)]
)
def test_real_seeds_leak_into_themselves(real_data: Path, name: str, exact: int, problems: int) -> None:
    path = real_data / "socratic-llm" / f"{name}_train.json"
    found = check(path, path).overlap
    assert (found.exact, found.near, found.problems, found.test) == (exact, 0, problems, exact)


def test_real_parts_by_problem_share_none(real_data: Path, tmp_path: Path) -> None:
    names = ("debugging", "mathdial")
    sources = [real_data / "mathdial", *(real_data / "socratic-llm" / f"{name}_train.json" for name in names)]
    write_corpus(tmp_path / "c.jsonl", import_files(sources)[0])
    report = Split(corpus=tmp_path / "c.jsonl", by="problem").run(tmp_path)
    assert isinstance(report, SplitResult)
    assert report.alone == 0 and min(report.counts.values()) > 30
    for part in PARTS[1:]:
        found = check(tmp_path / "train.jsonl", tmp_path / f"{part}.jsonl").overlap
        assert (found.exact, found.problems) == (0, 0)
    human = check(
        real_data / "socratic-llm" / "mathdial_train.json",
        real_data / "socratic-llm" / "mathdial_human_eval_dev.json",
    )
    assert human.overlap[:3] == (0, 0, 15)


def lesson(number: int, problem: int, user: int) -> Conversation:
    return talk(f"Talk {number}", id=str(number), problem=f"Problem {problem}?", user_id=f"u{user}")


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=8, max_size=40),
    st.integers(1, 4),
    st.sampled_from(["problem", "user"]),
    st.integers(0, 3),
)
def test_folds_are_disjoint_complete_and_of_about_equal_size(
    drawn: list[tuple[int, int]], folds: int, by: str, seed: int
) -> None:
    def key(one: Conversation) -> str | None:
        return one.user_id if by == "user" else one.problem and one.problem.statement

    talks = [lesson(number, *both) for number, both in enumerate(drawn)]
    if len({key(one) for one in talks}) < folds:
        return
    with TemporaryDirectory() as folder:
        source, out = Path(folder, "all.jsonl"), Path(folder, "out")
        write_corpus(source, talks)
        sizes = Split.model_validate({"corpus": source, "folds": folds, "by": by, "seed": seed}).run(out)
        found = [list(read_corpus(out / fold_name(number))) for number in range(1, folds + 1)]
    assert sorted(one.id for fold in found for one in fold) == sorted(one.id for one in talks)
    keys = [{key(one) for one in fold} for fold in found]
    assert isinstance(sizes, FoldsResult)
    assert sum(map(len, keys)) == len({key(one) for one in talks}) == sum(sizes.groups)
    assert max(sizes.groups) - min(sizes.groups) <= 1


def test_folds_that_share_a_problem_with_a_test_set_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "seeds.jsonl", [lesson(1, 1, 1), lesson(2, 2, 2)])
    write_corpus(tmp_path / "held.jsonl", [lesson(9, 2, 9)])
    source, out = tmp_path / "seeds.jsonl", tmp_path / "out"
    with pytest.raises(InputError, match="1 of 2 groups .*held"):
        Split(corpus=source, folds=2, by="problem", disjoint_from=[tmp_path / "held.jsonl"]).run(out)
    with pytest.raises(InputError, match="2 groups .* 3 folds"):
        Split(corpus=source, folds=3, by="problem").run(out)
    with pytest.raises(InputError, match="by"):
        build(Split, {"corpus": source, "folds": 1, "by": "colour"})
    assert not out.exists()
