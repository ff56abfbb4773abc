"""Counts of a corpus, and what the commands print."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import orjson
import pytest
from conversations import conversations, run, talk, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from maieutic.core.errors import EmptyCorpus
from maieutic.core.messages import Conversation
from maieutic.core.words import pairwise_diversity, words
from maieutic.data.corpus import write_corpus
from maieutic.data.importing import import_files
from maieutic.data.stats import FORMATS, SAMPLE, draw, survey


def test_counts() -> None:
    corpus = [
        talk("one two", "x", "Y", user_id="u", source="s", licence="MIT", ended=True, problem="p"),
        Conversation.model_validate(
            {"messages": [{"role": "system", "content": "be brief"}, *talk("two", "é!").messages]}
        ),
    ]
    found = survey(corpus).json()
    assert found["conversations"] == 2 and found["ended"] == found["problems"] == found["users"] == 1
    assert found["turns"] == {"system": 1, "user": 3, "assistant": 2}
    assert found["characters"] == {"system": 8, "user": 11, "assistant": 3}
    assert found["words"] == {"system": 2, "user": 4, "assistant": 2}
    assert found["rounds"]["mean"] == 1 and found["lengths"]["turns"] == {
        "mean": 2.5,
        "p10": 2.1,
        "median": 2.5,
        "p90": 2.9,
        "max": 3.0,
    }
    assert found["first_turn_diversity"] == {"value": 50.0, "ci": None, "n": 2}
    assert found["tokens"] == {"system": 3, "user": 7, "assistant": 4} and found["tokenizer"] is None
    assert found["lengths"]["user_tokens"]["max"] == 3
    assert found["sources"] == {"s": 1, "unknown": 1} and found["licences"] == {"MIT": 1, "unknown": 1}
    with pytest.raises(EmptyCorpus):
        survey([])


@given(st.lists(st.text("ab !", max_size=8), max_size=6))
def test_diversity_is_the_mean_over_all_pairs(texts: list[str]) -> None:
    sets = [own for text in texts if (own := set(words(text)))]
    found = pairwise_diversity(texts)
    assert found.n == len(sets)
    if len(sets) < 2:
        assert found.value is None and found.reason
    else:
        pairs = [1 - len(one & other) / len(one | other) for one, other in combinations(sets, 2)]
        assert found.value == pytest.approx(100 * sum(pairs) / len(pairs))


@given(st.lists(conversations(), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_corpus_can_be_counted_in_any_order(corpus: list[Conversation]) -> None:
    one, other = survey(corpus).json(), survey(corpus[::-1]).json()
    assert orjson.dumps(one)
    assert one == other


def test_a_large_corpus_is_sampled_the_same_way_in_any_order() -> None:
    corpus = [talk(f"word{n} word{n % 7}", "x") for n in range(SAMPLE + 300)]
    one = survey(corpus).json()["first_turn_diversity"]
    assert (
        one == survey(corpus[::-1]).json()["first_turn_diversity"]
        and one["n"] == SAMPLE
        and one["value"] > 90
    )


def test_stats_command(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "c.jsonl", talk("[red]a", "b", source="\x1b[31mx").row(), b"{", talk("c", "d").row()
    )
    code, out, err = run("stats", path)
    assert code == 0 and "first-turn diversity" in out and "\x1b" not in out and "c.jsonl:2" in err
    code, out, _ = run("stats", path, "--json")
    assert code == 0 and orjson.loads(out)["bad"]["count"] == 1 and orjson.loads(out)["conversations"] == 2


def test_languages_and_tokens_are_counted(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "c.jsonl"
    talks = [
        talk("Could you help me with my homework about the weather?", "Of course, I would love to!"),
        talk("Könntest du mir bei meinen Hausaufgaben über das Wetter helfen?", "Natürlich, sehr gern!"),
        talk("1 + 1", "2"),
    ]
    write_corpus(path, talks)
    code, out, _ = run("stats", path, "--tokenizer", tmp_path, "--json")
    found = orjson.loads(out)
    assert code == 0 and found["languages"] == {"en": 1, "de": 1, "und": 1}
    assert found["tokens"]["user"] == 11 + 11 + 3 and found["tokenizer"] == str(tmp_path)
    code, out, _ = run("stats", path)
    assert code == 0 and "languages" in out and "tokens (estimated)" in out
    assert survey(talks, languages=False).json()["languages"] is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_figure_is_drawn_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "c.jsonl"
    write_corpus(path, [talk(*["word " * (n + 1)] * (2 + n % 9)) for n in range(60)])
    pictures = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for picture in pictures:
        code, out, _ = run("stats", path, "--figure", picture)
        assert code == 0 and str(picture) in out.replace("\n", "")
    assert pictures[0].read_bytes() == pictures[1].read_bytes() and pictures[0].stat().st_size > 5000


def test_a_figure_of_next_to_nothing_and_one_that_cannot_be(tmp_path: Path) -> None:
    for few in ([talk("a", "b")], [talk("", "")], [talk("a " * 9)]):
        assert draw(survey(few, languages=False), tmp_path / "few.svg").is_file()
    write_corpus(tmp_path / "c.jsonl", few)
    code, _, err = run("stats", tmp_path / "c.jsonl", "--figure", tmp_path / "a.gif")
    assert code == 2 and ".png" in err


def test_convert_command(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.jsonl", talk("a", "b", id="1").row(), b"{")
    code, out, err = run("convert", path, "--to", "sharegpt", "--out", tmp_path / "s.json")
    assert code == 0 and "1 conversations" in out and "c.jsonl:2" in err
    assert orjson.loads((tmp_path / "s.json").read_bytes()) == [
        {"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    ]
    code, out, _ = run("convert", path, "--to", "sharegpt", "--out", tmp_path / "s.json", "--json")
    assert code == 0 and orjson.loads(out)["conversations"] == 1


@pytest.mark.parametrize("command", ["import", "convert", "clean", "split", "decontaminate", "stats"])
def test_every_command_shows_an_example(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0 and re.search(rf"Examples?: maieutic\s+{command}", out)


def test_the_examples_run_as_they_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    turns = [{"from": who, "value": said} for who, said in (("human", "Hi"), ("gpt", "Ho"), ("human", "Hm"))]
    tree = {
        "message_id": "q",
        "role": "prompter",
        "text": "Q",
        "replies": [{"role": "assistant", "text": "A"}],
    }
    Path("chats.json").write_bytes(orjson.dumps([{"conversations": turns}]))
    write_lines(Path("question.jsonl"), {"question_id": 1, "turns": ["Q"]})
    write_lines(Path("trees.jsonl"), {"message_tree_id": "t", "prompt": tree})
    for example, expected in {
        "import chats.json trees.jsonl --out corpus.jsonl": 0,
        "convert corpus.jsonl --to sharegpt --out chats2.json": 0,
        "clean corpus.jsonl --out clean.jsonl": 0,
        "clean corpus.jsonl --preset platolm --filters near --out platolm.jsonl": 0,
        "split clean.jsonl --by user --out parts": 0,
        "split --check corpus.jsonl clean.jsonl": 1,
        "decontaminate clean.jsonl --against question.jsonl --out unseen.jsonl": 0,
        "stats corpus.jsonl --figure corpus.png": 0,
    }.items():
        assert run(*example.split())[0] == expected, example


def test_real_chats_are_diverse(real_data: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "c.jsonl", import_files([*(real_data / "real-chats").glob("*.jsonl")])[0])
    code, out, _ = run("stats", tmp_path / "c.jsonl", "--json")
    found = orjson.loads(out)
    assert code == 0 and found["conversations"] == 188 and found["ended"] == 48
    assert found["first_turn_diversity"]["value"] > 85
