"""Pairs: the published rule, the tutor's own prompt, and a reason for every prompt without one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from judges import Speaker, judge, preferences, verdict

from maieutic.core.errors import EmptyCorpus, InputError, StoreError
from maieutic.core.rows import JudgedRow, PreferenceRow, parse
from maieutic.core.store import stage_rows
from maieutic.judging import preferences as module
from maieutic.judging.preferences import STRATEGIES, Refusal
from maieutic.judging.steps import Preferences


def row(*graded: tuple[str, float | None] | tuple[str, float | None, bool], **extra: Any) -> dict[str, Any]:
    verdicts = [
        {"judge": "j", "values": {} if one[1] is None else {"reveals_answer": float(len(one) > 2 and one[2])},
         "raw": "", "error": "no verdict" if one[1] is None else None}
        for one in graded
    ]  # fmt: skip
    return {
        "key": "k", "id": "p", "messages": [{"role": "system", "content": "Ask."}, {"role": "user", "content": "Hi"}],
        "candidates": [{"text": one[0], "finish": "stop"} for one in graded],
        "verdicts": verdicts, "scores": [one[1] for one in graded], "model": "m", "rubric": "socratic", **extra,
    }  # fmt: skip


def choose(judged: dict[str, Any], **rules: Any) -> Any:
    return module.choose(parse(JudgedRow, judged, "row"), Preferences(data=[], **rules))


def pairs(rows: list[dict[str, Any]], **rules: Any) -> list[PreferenceRow]:
    return list(module.pairs([parse(JudgedRow, one, "row") for one in rows], **rules))


def pair(judged: dict[str, Any], **rules: Any) -> PreferenceRow | Refusal:
    made = pairs([judged], **rules)
    return made[0] if made else choose(judged, **rules)


def test_best_against_worst_on_the_tutors_prompt() -> None:
    result = pair(row(("b", 0.9), ("a", 1.0), ("c", 0.3), ("d", 0.5)))
    assert isinstance(result, PreferenceRow)
    assert [turn.role for turn in result.prompt] == ["system", "user"]
    assert (result.chosen[0].content, result.rejected[0].content) == ("a", "c")
    assert result.scores == {"chosen": 1.0, "rejected": 0.3}


@pytest.mark.parametrize(
    ("judged", "reason"),
    [
        (row(("a", 0.8), ("b", 0.2)), Refusal.TOO_LOW),
        (row(("a", 0.25 + 0.25 + 0.05 * 3 + 0.05 * 3), ("b", 0.2)), Refusal.TOO_LOW),
        (row(("a", 0.9), ("b", 0.9)), Refusal.TIE),
        (row(("same", 0.9), ("same", 0.7)), Refusal.TIE),
        (row(("a", 0.9), ("b", 0.9 - 1e-12)), Refusal.TIE),
        (row(("a", 0.9)), Refusal.TOO_FEW),
        (row(("a", None), ("b", 0.9)), Refusal.UNSCORED),
        (row(("a", 0.9, True), ("b", 0.1)), Refusal.REVEALS),
        (row(("a", 0.9, True), ("b", 0.1, True)), Refusal.REVEALS),
        (row(("a", 1.0), ("b", 0.1), fault="network"), Refusal.FAILED),
    ],
)
def test_a_prompt_without_a_pair_says_why(judged: dict[str, Any], reason: Refusal) -> None:
    assert pair(judged) == reason


def test_margin() -> None:
    assert pair(row(("a", 0.9), ("b", 0.7)), min_margin=0.2) == Refusal.MARGIN
    assert isinstance(pair(row(("a", 0.95), ("b", 0.7)), min_margin=0.2), PreferenceRow)


GRADED = st.lists(
    st.tuples(
        st.text("abc", max_size=2),
        st.one_of(st.none(), st.integers(2, 20).map(lambda n: n / 20)),
        st.booleans(),
    ),
    max_size=6,
)


@given(GRADED)
def test_the_chosen_is_above_the_floor_and_silent(graded: list[Any]) -> None:
    judged = row(*graded)
    for preference in pairs([judged]):
        chosen, rejected = preference.scores["chosen"], preference.scores["rejected"]
        assert chosen > 0.8
        assert chosen > rejected
        assert preference.chosen != preference.rejected
        assert (preference.chosen[0].content, chosen, False) in graded
        assert rejected == min(score for _, score, _ in graded if score is not None)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_the_file_and_its_quality(tmp_path: Path) -> None:
    source = write(
        tmp_path / "rows.jsonl",
        [row(("a b c", 1.0), ("d", 0.2), key="2", index=1), row(("e", 0.9), ("f", 0.1), key="1", index=0),
         row(("g", 0.5), ("h", 0.1), key="3"), row(("i", None), ("j", 0.9), key="4")],
    )  # fmt: skip
    quality = preferences(source, tmp_path / "p.jsonl")
    assert (quality.prompts, quality.pairs, quality.unscored) == (4, 2, 1)
    assert quality.refused == {"chosen too low": 1, "unscored": 1}
    assert quality.words_chosen == 2
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [one["chosen"][0]["content"] for one in lines] == ["e", "a b c"]
    assert preferences(source, tmp_path / "p.jsonl") == quality
    with pytest.raises(StoreError, match="other content"):
        preferences(source, tmp_path / "p.jsonl", min_chosen=0.95)
    with pytest.raises(EmptyCorpus, match="chosen too low"):
        preferences(source, tmp_path / "q.jsonl", min_chosen=1.0)
    assert not (tmp_path / "q.jsonl").exists()
    with pytest.raises(InputError, match="JudgedRow"):
        pair({"id": "x", "messages": []})


def published(*words: Any) -> dict[str, Any]:
    """An item of the published artefact, from (output, questions, on_topic, helpful, reveal) or (output, error)."""
    evaluations = []
    for output, *rest in words:
        error = rest[0] if len(rest) == 1 else None
        values = (
            None
            if error
            else dict(zip(("questions", "on_topic", "helpful", "reveal_answer"), rest, strict=True))
        )
        evaluations.append(
            {"output": output, "raw_evaluation": "", "evaluation_error": error, "evaluation": values}
        )
    return {
        "prompt": "Student: {braces} \\frac{1}{2} ", "chosen": "x", "rejected": "y", "chosen_eval": evaluations[0],
        "rejected_eval": evaluations[-1], "all_evaluations": evaluations,
    }  # fmt: skip


def test_the_published_artefact(tmp_path: Path) -> None:
    items = [
        published(("A?", "yes", 5, 5, "No."), ("B", "No.", 2, 2, "yes"), ("C?", True, 50, 5, False)),
        published(("A", "yes", 5, 5, "no"), ("B", "timeout")),
        published(("A?", "yes", 3, 3, "no"), ("B", "no", 1, 1, "yes")),
    ]
    file = tmp_path / "train_dataset.json"
    file.write_text(json.dumps(items))
    quality = preferences(file, tmp_path / "p.jsonl", min_chosen=0.8)
    assert (quality.prompts, quality.pairs) == (3, 1)
    assert quality.refused == {"unscored": 1, "chosen too low": 1}
    assert quality.unscored == 2
    (line,) = (tmp_path / "p.jsonl").read_text().splitlines()
    preference = json.loads(line)
    assert preference["prompt"] == [{"role": "user", "content": items[0]["prompt"]}]
    assert (preference["chosen"][0]["content"], preference["rejected"][0]["content"]) == ("A?", "B")
    assert preference["scores"] == {"chosen": 1.0, "rejected": 0.2}
    file.write_text(json.dumps([{"prompt": 3, "all_evaluations": []}]))
    with pytest.raises(InputError, match="published form"):
        preferences(file, tmp_path / "q.jsonl")


def maieutic(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maieutic", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_commands_in_a_row(tmp_path: Path) -> None:
    problem = {"statement": "3 bags with 4 nuts. How many nuts?", "answer": "12"}
    write(
        tmp_path / "seeds.jsonl",
        [{"messages": [{"role": "user", "content": f"Is it {n}?"}], "problem": problem} for n in (7, 8, 9)],
    )
    write(tmp_path / "tutor.jsonl", [{"texts": ["What do three bags hold?", "It is 12.", "Well."]}])
    grades = [
        {"asks_question": "yes", "on_topic": 5, "helpful": n, "reveals_answer": "no"} for n in (5, 4, 5)
    ]
    write(tmp_path / "judge.jsonl", [{"text": json.dumps(grade)} for grade in grades])
    run = tmp_path / "run"
    made = maieutic(
        "candidates", "--model", f"script/{tmp_path}/tutor.jsonl", "--data", tmp_path / "seeds.jsonl", "-k", 6,
        "--out", run / "candidates", "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["prompts"] == 3
    for rubric, judges, folder in (
        ("socratic_checks", [], "checks"),
        ("socratic", ["--judge", f"script/{tmp_path}/judge.jsonl"], "judge"),
    ):
        judged = maieutic("judge", run, "--rubric", rubric, *judges, "--out", run / folder, "--json")
        assert judged.returncode == 0, judged.stderr
        result = json.loads(judged.stdout)
        assert (result["judged"], result["unscored"]) == (18, 0)
        written = maieutic("preferences", run / folder, "--out", tmp_path / f"{folder}-pairs.jsonl")
        assert written.returncode == 0, written.stderr
        assert re.search(r"3 pairs of 3 prompts", written.stdout)
    wrong = maieutic("judge", run, "--rubric", "socratic", "--out", tmp_path / "x")
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 2
    assert "Traceback" not in wrong.stderr
    nothing = maieutic("preferences", "--out", tmp_path / "y.jsonl")
    assert nothing.returncode == 2 and "DATA" in nothing.stderr


# The rules, over rows of any kind.

TEXTS = st.text("ab ?", max_size=6)
REPEATS = st.lists(st.one_of(st.none(), st.integers(0, 20).map(lambda n: n / 20)), min_size=3, max_size=3)
CANDIDATES = st.lists(
    st.tuples(TEXTS, st.one_of(st.none(), st.integers(0, 20).map(lambda n: n / 20)), st.booleans(), REPEATS),
    max_size=7,
)
RULES = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(STRATEGIES),
        "min_chosen": st.sampled_from([0.0, 0.4, 0.8]),
        "min_margin": st.sampled_from([0.0, 0.1, 0.25]),
        "match_length": st.sampled_from([None, 1.0, 1.5]),
        "per_prompt": st.sampled_from([None, 1, 2]),
        "agreement": st.sampled_from([0.0, 0.5, 1.0]),
    }
)


def repeated(candidates: list[Any], **extra: Any) -> dict[str, Any]:
    judged = row(*((text, score, reveals) for text, score, reveals, _ in candidates), **extra)
    return {**judged, "repeats": [repeats for *_, repeats in candidates]}


def wins(good: list[Any], bad: list[Any]) -> tuple[int, int, int]:
    both = [(a, b) for a, b in zip(good, bad, strict=True) if a is not None and b is not None]
    return sum(a > b for a, b in both), sum(a < b for a, b in both), len(both)


@settings(max_examples=300)
@given(CANDIDATES, RULES)
def test_every_pair_keeps_every_rule(candidates: list[Any], rules: dict[str, Any]) -> None:
    made = list(pairs([repeated(candidates)], **rules))
    texts = [(one.chosen[0].content, one.rejected[0].content) for one in made]
    assert len(set(texts)) == len(texts), "a pair twice"
    assert len(made) <= (1 if rules["strategy"] == "best-worst" else rules["per_prompt"] or len(made))
    for preference, (chosen, rejected) in zip(made, texts, strict=True):
        better, worse = preference.scores["chosen"], preference.scores["rejected"]
        assert better > rules["min_chosen"] and better > worse
        assert better - worse > rules["min_margin"] - 1e-6
        if rules["strategy"] == "best-worst":
            assert better - worse > rules["min_margin"] + 1e-9
        else:
            assert (rejected, chosen) not in texts, "a pair and its opposite"
        assert chosen.strip() and chosen != rejected
        good = [one for one in candidates if one[0] == chosen and one[1] == better and not one[2]]
        bad = [one for one in candidates if one[0] == rejected and one[1] == worse]
        assert good and bad, "no text and no score is made up, and nothing that reveals is chosen"
        if (ratio := rules["match_length"]) is not None:
            short, long = sorted((len(chosen.split()), len(rejected.split())))
            assert long <= ratio * short
        if rules["agreement"]:
            agreed = [wins(a[3], b[3]) for a in good for b in bad]
            assert any(won > lost and won >= rules["agreement"] * of for won, lost, of in agreed)


@settings(max_examples=200)
@given(CANDIDATES, RULES, st.randoms(use_true_random=False))
def test_the_order_of_candidates_decides_nothing_but_ties(
    candidates: list[Any], rules: dict[str, Any], random: Any
) -> None:
    def told(given: list[Any]) -> Any:
        found = choose(repeated(given), **rules)
        if isinstance(found, Refusal):
            return found
        return sorted((one.chosen.text, one.rejected.text) for one in found)

    texts = [one[0] for one in candidates]
    scores = [one[1] for one in candidates if one[1] is not None]
    gaps = [a - b for a in scores for b in scores if a > b]
    tied = len({round(gap, 6) for gap in gaps}) < len(gaps) or len(set(scores)) < len(scores)
    cut = rules["strategy"] == "best-worst" or (rules["strategy"] == "margin" and rules["per_prompt"])
    assume(len(set(texts)) == len(texts) and not (tied and cut))
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert told(candidates) == told(shuffled)


@settings(max_examples=60)
@given(st.lists(CANDIDATES, max_size=6), RULES)
def test_the_report_adds_up(prompts: list[list[Any]], rules: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    rows = [repeated(one, key=str(n), id=str(n), messages=[*turns, {"role": "assistant", "content": str(n)}, *turns])
            for n, one in enumerate(prompts)]  # fmt: skip
    rows += rows[:1]  # one row twice
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "rows.jsonl", [{**one, "key": str(n)} for n, one in enumerate(rows)])
        try:
            quality = preferences(source, Path(folder) / "p.jsonl", **rules)
        except EmptyCorpus:
            assert not list(pairs(rows, **rules))
            return
        written = [json.loads(line) for line in (Path(folder) / "p.jsonl").read_text().splitlines()]
    assert quality.pairs == len(written) == len({json.dumps([one["prompt"], one["chosen"], one["rejected"]])
                                                 for one in written})  # fmt: skip
    assert quality.paired + sum(quality.refused.values()) == quality.prompts == len(rows)
    assert quality.paired == len({json.dumps(one["prompt"]) for one in written})
    assert quality.by_strategy.keys() == set(STRATEGIES)
    for counts in quality.by_strategy.values():
        assert counts["paired"] + sum(counts["refused"].values()) == len(rows)
    assert quality.by_strategy[rules["strategy"]] == {
        "paired": quality.paired, "pairs": quality.pairs, "refused": quality.refused,
    }  # fmt: skip
    gaps = [len(one["chosen"][0]["content"].split()) - len(one["rejected"][0]["content"].split())
            for one in written]  # fmt: skip
    assert quality.words_gap.value == pytest.approx(sum(gaps) / len(gaps))
    assert quality.words_gap.n == quality.paired
    assert quality.unscored == sum(score is None for one in rows for score in one["scores"])


FIVE = [("a a a a", 1.0), ("b", 0.95), ("c c", 0.9), ("d d d", 0.5), ("e", 0.3, True)]


def told(judged: dict[str, Any], **rules: Any) -> list[tuple[str, str]] | Refusal:
    found = choose(judged, **rules)
    if isinstance(found, Refusal):
        return found
    return [(one.chosen.text[0], one.rejected.text[0]) for one in found]


def test_what_each_strategy_takes() -> None:
    judged = row(*FIVE)
    assert told(judged) == [("a", "e")]
    every = told(judged, strategy="all-pairs")
    assert len(every) == 9 and every[0] == ("a", "e")
    assert told(judged, strategy="margin", min_margin=0.4) == [
        ("a", "e"), ("b", "e"), ("c", "e"), ("a", "d"), ("b", "d"), ("c", "d"),
    ]  # fmt: skip
    assert told(judged, strategy="margin", per_prompt=2) == [("a", "e"), ("b", "e")]
    assert told(judged, strategy="margin", min_margin=0.8) == Refusal.MARGIN
    drawn = told(judged, strategy="all-pairs", per_prompt=3)
    assert len(drawn) == 3 and set(drawn) < set(every) and drawn != every[:3]
    assert told(judged, match_length=1.0) == [("b", "e")]
    assert told(judged, strategy="all-pairs", match_length=1.4) == [("b", "e"), ("a", "d")]
    assert told(row(("a a", 1.0), ("b", 0.2)), match_length=1.5) == Refusal.LENGTH


def test_a_chosen_reply_that_code_sees_reveal_is_none() -> None:
    """Also where the rubric says nothing of revealing."""
    judged = row(("It is 12.", 1.0), ("What do three bags hold?", 0.9), ("Well.", 0.2),
                 problem={"statement": "3 bags with 4 nuts. How many nuts?", "answer": "12"})  # fmt: skip
    for one in judged["verdicts"]:
        one["values"] = {"nice": 1.0}
    assert told(judged, strategy="all-pairs") == [("W", "W")]


def said(*helpful: int | None, **values: Any) -> list[dict[str, Any]]:
    whole = {"asks_question": 1.0, "on_topic": 5.0, "reveals_answer": 0.0, **values}
    return [
        {"judge": "j", "values": {} if n is None else {**whole, "helpful": float(n)}, "raw": "",
         "error": "no verdict" if n is None else None}
        for n in helpful
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("good", "bad", "agreement", "agreed"),
    [
        ((5, 5, 1), (3, 3, 3), 0.5, True),
        ((5, 1, 1), (3, 3, 3), 0.5, False),
        ((5, 1), (3, 3), 0.5, False),
        ((5, 3), (3, 3), 0.5, True),
        ((5, 3, 3), (3, 3, 3), 0.5, False),
        ((5, None, 1), (3, 3, None), 1.0, True),
        ((5, 5, 1), (3, 3, 3), 0.9, False),
        ((None, None), (3, 3), 0.5, False),
        ((1, 1), (3, 3), 0.0, True),
        ((1,), (3,), 0.5, True),
    ],
)
def test_repeats_must_agree(good: Any, bad: Any, agreement: float, agreed: bool) -> None:
    judged = row(("a", 0.9), ("b", 0.7), model_verdicts=[said(*good), said(*bad)])
    assert told(judged, agreement=agreement) == ([("a", "b")] if agreed else Refusal.DISAGREE)


def test_what_code_decided_holds_in_every_repeat() -> None:
    """The models call the rejected reply silent; code knows that it reveals."""
    judged = row(("a", 1.0), ("b", 0.75, True), model_verdicts=[said(5, 5), said(5, 5)],
                 decided_by=[{"reveals_answer": "code"}] * 2)  # fmt: skip
    assert told(judged) == [("a", "b")]
    del judged["decided_by"]
    assert told(judged) == Refusal.DISAGREE
    judged["rubric"] = "of-my-own"
    with pytest.raises(InputError, match="no rubric 'of-my-own'"):
        told(judged)
    assert told(judged, agreement=0) == [("a", "b")]
    judged["repeats"] = [[1.0, 0.9], [0.5]]
    with pytest.raises(InputError, match="2 repeats of the chosen candidate and 1 of the rejected one"):
        told(judged)


def test_the_judge_writes_the_score_of_each_repeat(tmp_path: Path) -> None:
    """A panel with draws: the means make a pair, the repeats do not bear it out."""
    grades = {"good": [5, 5, 1, 1], "poor": [2, 2, 2, 2]}

    def judge_of(first: int) -> Speaker:
        def answer(messages: Any, sampling: Any) -> str:
            which = "good" if "good" in messages[0].content else "poor"
            return verdict(helpful=grades[which][first + sampling.seed])

        return Speaker(answer, f"test/{first}")

    source = [{"key": "k", "id": "p", "messages": [{"role": "user", "content": "Hi"}],
               "candidates": [{"text": "What is good?"}, {"text": "What is poor?"}]}]  # fmt: skip
    judge(source, tmp_path / "j", model=[judge_of(0), judge_of(2)], samples=2)
    (judged,) = stage_rows(tmp_path / "j")
    assert judged["repeats"] == [pytest.approx([0.95, 0.95, 0.75, 0.75]), pytest.approx([0.8] * 4)]
    with pytest.raises(EmptyCorpus, match="1 repeats disagree"):
        preferences(tmp_path / "j", tmp_path / "p.jsonl")
    assert preferences(tmp_path / "j", tmp_path / "p.jsonl", agreement=0).pairs == 1
    del judged["repeats"]
    assert told(judged) == Refusal.DISAGREE, "and read from what was said it is the same"


def test_a_rule_that_is_none_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row(("a", 1.0), ("b", 0.1))])
    for rules in (
        {"strategy": "best"},
        {"match_length": 0.5},
        {"per_prompt": 0},
        {"agreement": 2},
        {"margin": 1},
    ):
        with pytest.raises(InputError) as refused:
            preferences(source, tmp_path / "p.jsonl", **rules)
        assert next(iter(rules)) in refused.value.what and not (tmp_path / "p.jsonl").exists()


def test_rows_that_hold_no_more_than_is_asked_for(tmp_path: Path) -> None:
    """Whoever judged them: a verdict may be empty; what is no dialogue is named, not printed as a traceback."""
    row = {
        "id": "own", "messages": [{"role": "user", "content": "I think 5."}],
        "candidates": [{"text": "How so?"}, {"text": "No."}], "verdicts": [{}, {}], "scores": [1, 0.2], "more": {"a": [1]},
    }  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    assert preferences(path, tmp_path / "pairs.jsonl").pairs == 1
    (pair,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("How so?", "No.")
    for messages in ([], [{"role": "pupil", "content": "x"}], [{"role": "user"}], "x"):
        path.write_text(json.dumps({**row, "messages": messages}))
        with pytest.raises(InputError, match=r"rows.jsonl:1: not a JudgedRow"):
            preferences(path, tmp_path / "none.jsonl")
