"""The report: a page that parses, hides nothing, runs nothing, and shows what the run has data for."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from generate import candidates, simulate
from judges import Speaker, judge, verdict

from maieutic.core.errors import InputError, MissingExtra, MissingInput
from maieutic.core.messages import Conversation
from maieutic.core.store import Stage, write_json
from maieutic.data.corpus import write_corpus
from maieutic.evals import tutor
from maieutic.evals.likelihood import decisions, end_bins
from maieutic.evals.steps import EvalSimulator, EvalTutorScore
from maieutic.judging.preferences import judged_rows, pairs
from maieutic.judging.steps import Preferences
from maieutic.models import load
from maieutic.report.collect import collect
from maieutic.report.estimates import num
from maieutic.report.extract import extract
from maieutic.report.figures import label
from maieutic.report.page import environment, write_report
from maieutic.report.sample_dialogues import sample_dialogues

HOSTILE = (
    "<script>alert(1)</script></textarea><img src=x onerror=alert(2)> & &lt;b&gt; \"' {{css}} $x^2$ **bold** "
    "\u202egnp.exe\u2066 \x00 \x1b[31m </style> https://evil.example/ ]]> <!-- \u200f"
)
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags, in balance, with the text that is seen."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def checked(path: Path) -> Page:
    """The page, after everything that must hold for every report."""
    raw = path.read_text(encoding="utf-8")
    page = Page(raw)
    names = [tag for tag, _ in page.tags]
    assert names.count("h1") == names.count("main") == 1
    allowed = {
        "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "nav", "section", "article",
        "h1", "h2", "h3", "p", "ul", "li", "a", "div", "span", "br", "bdi", "table", "thead", "tbody", "tr", "th",
        "td", "figure", "figcaption", "img", "details", "summary", "pre",
    }  # fmt: skip
    assert set(names) <= allowed
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href"):
            target = attrs.get(name) or ""
            assert not target or target.startswith("data:image/svg+xml;base64,") or target[1:] in ids
    assert all((attrs.get("alt") or "").strip() for attrs in page.of("img"))
    policy = next(attrs for attrs in page.of("meta") if "http-equiv" in attrs)
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not re.search(r"url\(|@import|@font-face", "".join(raw.partition("</style>")[:1]))
    for attrs in page.of("img"):
        picture = base64.b64decode((attrs["src"] or "").partition("base64,")[2])
        assert b"<script" not in picture
        assert b"<svg" in picture
    figures = path.parent / "figures"
    files = sorted(file.name for file in figures.iterdir()) if figures.is_dir() else []
    assert len(files) == 2 * len(page.of("img"))
    return page


def figures(path: Path) -> set[str]:
    return {file.stem for file in (path.parent / "figures").glob("*.svg")}


def script(folder: Path, name: str, texts: list[dict[str, Any]]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(text) for text in texts))
    return f"script/{path}"


def talk(folder: Path, out: Path, said: str = "How do I bake bread?") -> Path:
    user = [
        {"trained_role": "user"}, {"text": said, "end_probability": 0.01}, {"text": "And how long?"},
        {"text": "", "finish": "end", "end_probability": 0.9},
    ]  # fmt: skip
    replies = [{"text": f"With flour. {said}"}, {"text": "Forty minutes."}, {"text": "You are welcome."}]
    models = load(script(folder, "user", user)), load(script(folder, "assistant", replies))
    simulate(*models, out, 4, {"guards": "none"})
    return out


MATH = {"statement": "Ann has 3 bags with 4 nuts each. How many nuts?", "answer": "12"}
REPLIES = ["What do 3 bags hold?", "You have 12 nuts.", "Think again.", HOSTILE, "Is it a lot?"]


def seeds(count: int = 6) -> list[Conversation]:
    return [
        Conversation.model_validate(
            {"id": f"s{n}", "messages": [{"role": "user", "content": f"I got {n + 20}."}], "problem": MATH,
             "source": "mathdial"}
        )
        for n in range(count)
    ]  # fmt: skip


def judged(out: Path, k: int = 5, wrong: bool = False) -> Path:
    """Replies, and a judge's verdicts on them: scores that differ, and one that cannot be read."""
    model = Speaker(lambda messages, sampling: REPLIES[sampling.seed % 5], f"test/{HOSTILE[:30]}")
    candidates(model, seeds(), out / "replies", k=k)

    def say(messages: Any, sampling: Any) -> str:
        text = messages[-1].content
        if "Is it a lot?" in text and wrong:
            return HOSTILE
        return verdict(
            asks_question="yes" if "What do" in text else "no", helpful=1 + len(text) % 5,
            reveals_answer="yes" if "12 nuts" in text else "no",
        )  # fmt: skip

    judge(out / "replies", out / "judged", model=Speaker(say, "test/judge"), retries=0, max_failure_rate=1)
    return out / "judged"


def trained(out: Path, held_out: bool = True) -> Path:
    with Stage(
        out, {"method": "sft", "model": "base", "data": {"name": "train.jsonl", "sha256": "ab" * 32}}
    ) as s:
        for step in range(1, 9):
            s.rows.append(f"train-{step}", {"step": step, "loss": 3 / step})
            if held_out and step % 4 == 0:
                s.rows.append(f"eval-{step}", {"step": step, "eval_loss": 4 / step})
        s.finish(
            {
                "steps": 8,
                "final_loss": 0.375,
                "eval_loss": 0.5,
                "seconds": 2.5,
                "versions": {"torch": "2.13.0"},
            }
        )
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of stage, hostile text wherever a person or model may put it."""
    folder = tmp_path_factory.mktemp("whole")
    run = folder / "run"
    run.mkdir()
    people = [
        Conversation.model_validate(
            {"messages": [{"role": "user", "content": "word " * (n + 1)}, {"role": "assistant", "content": "."}]}
        )
        for n in range(6)
    ]  # fmt: skip
    write_corpus(folder / "people.jsonl", people)
    talk(folder, run / "talk", HOSTILE)
    trained(run / "simulator")
    EvalSimulator(people=folder / "people.jsonl", simulated=run / "talk").run_stage(run / "realism")
    metrics = json.loads((run / "realism" / "manifest.json").read_text())
    bins = [{"low": 0, "high": 0.1, "n": 20, "predicted": 0.02, "ended": 0.05},
            {"low": 0.9, "high": 1, "n": 4, "predicted": 0.95, "ended": 0.75}]  # fmt: skip
    metrics["metrics"]["end_bins"] = bins
    write_json(run / "realism" / "manifest.json", metrics)
    judged(run, wrong=True)
    judged(folder / "base", k=1)
    judged(folder / "tuned", k=1)
    for name in ("base", "tuned"):
        (folder / name / "judged").rename(run / f"{name}-judged")
    Preferences(data=[run / "judged"], min_chosen=0.4).run_stage(run / "pairs")
    EvalTutorScore(data=run / "tuned-judged", against=run / "base-judged").run_stage(run / "scores")
    ratings = [
        {"human": n % 3, "judge": (n % 3) + n % 2, "text": HOSTILE if n % 3 else "no"} for n in range(12)
    ]
    (run / "ratings.json").write_text(json.dumps(ratings))
    three = {"base": 0.2, "base_ci": [0.1, 0.3], "tuned": 0.4, "tuned_ci": [0.3, 0.5]}
    three |= {"difference": 0.2, "ci": [-0.1, 0.5], "n": 30}
    summary = {
        "stages": [{"name": "pairs", "seconds": 1.25}], "dialogue": {"solved": three, "told": three, "turns": three}
    }  # fmt: skip
    write_json(run / "summary.json", summary)
    return run


@pytest.fixture(scope="module")
def made(whole: Path) -> Path:
    """Its report."""
    return write_report([whole], whole.parent / "report")


ALL = {"turn-shapes", "end-calibration", "scores", "told-solved", "human-judge", "learning-curves"}


def test_a_whole_run_shows_everything(made: Path) -> None:
    page = checked(made)
    assert made.name == "report.html"
    assert figures(made) == ALL
    for said in (
        "The simulator and people", "perplexity of human turns", "Scores of the tutor", "summary score",
        "The judge and people", "Whole dialogues on problems", "Stages of run", "ab" * 32, "torch 2.13.0",
        "Preference pairs (pairs)", "Chosen minus rejected: ", "Pairs by strategy (pairs)", "used here",
        "validation loss", "1.250", "the simulator ended it", "probability of END 90 %", "reveals answer: yes", "unscored:",
    ):  # fmt: skip
        assert said in page.text, said
    assert len(page.of("article")) == 10
    assert (
        "whole dialogues: solved 0.400, against 0.200; difference 0.200 (95 % −0.100 to 0.500, n = 30). The"
        in page.text
    )
    assert "The interval contains zero: no difference is shown." in page.text


def test_text_is_shown_and_never_markup(made: Path) -> None:
    page = checked(made)  # only our own tags, no handlers, no URLs
    assert "<script>alert(1)</script></textarea><img src=x onerror=alert(2)>" in page.text
    assert "&lt;b&gt; \"' {{css}} $x^2$ **bold** \\u202egnp.exe\\u2066 ␀ ␛[31m" in page.text
    raw = made.read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", raw)
    assert raw.count("</style>") == 1


@pytest.mark.parametrize("text", [HOSTILE, "\ud800", "a\r\nb", "<" * 5, "&amp;", "'\""])
def test_escaped_text_reads_back_as_it_is_shown(text: str) -> None:
    template = environment().from_string("{{ text }}")
    once = template.render(text=text)
    assert not set("<>\"'") & set(once)
    assert template.render(text=html.unescape(once)) == once  # nothing is left that would change
    once.encode()


def test_without_jinja2_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match="jinja2") as missing:
        environment()
    assert "maieutic[report]" in missing.value.hint


def test_the_same_run_gives_the_same_bytes(made: Path, whole: Path, tmp_path: Path) -> None:
    write_report([whole], tmp_path)
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file())
    assert len(files) == 1 + 2 * len(ALL)
    assert all((tmp_path / file).read_bytes() == (made.parent / file).read_bytes() for file in files)


def test_single_stages(tmp_path: Path) -> None:
    path = write_report([talk(tmp_path, tmp_path / "talk")])
    assert path == tmp_path / "talk" / "report.html"
    assert figures(path) == {"turn-shapes"}
    assert "has no people to compare with" in checked(path).text
    assert simulate_again(tmp_path) == 4, "a report in its folder does not disturb a stage"

    path = write_report([judged(tmp_path / "j")], tmp_path / "judge-report")
    assert figures(path) == {"scores"}
    assert "the best" in checked(path).text

    path = write_report([trained(tmp_path / "sft", held_out=False)])
    assert figures(path) == {"learning-curves"}
    page = checked(path)
    assert "No validation loss" in page.text
    assert not page.of("article")


def simulate_again(folder: Path) -> int:
    talk(folder, folder / "talk")
    return len((folder / "talk" / "rows.jsonl").read_bytes().splitlines())


def test_an_unfinished_stage_says_so(tmp_path: Path) -> None:
    with Stage(tmp_path / "run" / "half", {"stage": "judge", "rubric": "socratic"}):
        pass
    page = checked(write_report([tmp_path / "run"]))
    assert "1 of them not finished" in page.text
    assert not page.of("img")


def test_several_runs_and_files_of_ratings(whole: Path, tmp_path: Path) -> None:
    ratings = tmp_path / "human_vs_judge.jsonl"
    ratings.write_text('{"human": "yes", "judge": "no"}\n{"human": 1, "judge": 1}\n')
    alone = write_report([ratings])
    assert alone == tmp_path / "report.html"
    assert figures(alone) == {"human-judge"}
    page = checked(write_report([trained(tmp_path / "sft"), whole, ratings], tmp_path / "out"))
    assert "run/talk" in page.text
    assert len(page.of("img")) == len(ALL) + 1


def test_tutors_are_compared_over_whole_dialogues(tmp_path: Path) -> None:
    share = {"value": 0.7, "ci": [0.6, 0.8], "n": 100}
    gap = {"difference": 0.4, "ci": [0.3, 0.5], "n": 100, "a": 0.7, "b": 0.3}
    with Stage(tmp_path / "outcomes", {"data": "x/tuned-lessons", "against": "x/base-lessons"}) as stage:
        three = {"solved": share, "told": share, "turns": share}
        stage.finish({"scores": three, "against": three, "difference": {"metrics": {"solved": gap}}})
    write_json(
        tmp_path / "recipe.json", {"recipe": "r", "stages": {"outcomes": {"do": "eval dialogue score"}}}
    )
    write_json(tmp_path / "timings.json", {"outcomes": 7.25})
    path = write_report([tmp_path])
    page = checked(path)
    assert figures(path) == {"told-solved"}
    assert (
        "outcomes: solved 0.700, against 0.300; difference 0.400 (95 % 0.300 to 0.500, n = 100)." in page.text
    )
    assert "tuned-lessons" in page.text and "eval dialogue score" in page.text and "7.250" in page.text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("[]")
    for path, said in (
        (tmp_path / "no", "no such"),
        (tmp_path, "no stage"),
        (tmp_path / "file.json", "not a run"),
    ):
        with pytest.raises(MissingInput, match=said):
            write_report([path])
    with pytest.raises(MissingInput, match="no run was given"):
        write_report([])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file.json"]


def test_the_ten_are_picked_by_rule(whole: Path) -> None:
    runs = collect([whole])
    ten = sample_dialogues(runs)
    assert len(ten) == 10
    assert sample_dialogues(runs, 3) == ten[:3]
    replies = [turn for shown in ten[:2] for turn in shown.turns if turn.who.startswith("reply")]
    assert [turn.who for turn in replies if not turn.folded] == [
        "reply 1 of 5, the best",
        "reply 2 of 5, the worst",
    ]
    assert replies[-1].marks[0].text.startswith("unscored") and replies[-1].folded
    first = [shown.title.partition(":")[0] for shown in ten]
    assert first[:4] == ["base-judged", "judged", "talk", "tuned-judged"]
    assert first[4:8] == first[:4]
    marks = {mark.text for shown in ten for turn in shown.turns for mark in turn.marks}
    assert {"asks question: yes", "on topic: 4 of 5", "by test/judge"} <= marks


def test_a_moved_run_finds_its_people(whole: Path) -> None:
    found = extract(collect([whole])).turn_counts
    assert [counts.people for counts in found] == [True, False]
    assert found[1].counts == [2] * 4


def test_labels_are_plain_one_line_and_drawable() -> None:
    assert label("$\\alpha$ <b>") == "$\\alpha$ <b>"
    assert label("a\nb \U0001f973 漢") == "a b □ □"
    assert len(label("x" * 100)) == 34


def test_numbers_are_short() -> None:
    said = {
        None: "–",
        3: "3",
        12345: "12,345",
        0.12345: "0.123",
        -1.5: "−1.500",
        -0.0001: "0.000",
        1234.5: "1,234",
    }
    assert {value: num(value) for value in said} == said


def test_end_bins_hold_every_decision() -> None:
    said = Conversation.model_validate(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "ended": True}
    )
    made = [decisions(said, [0.05, 0.95]), decisions(said, [0.07, 0.2])]
    assert [(b["low"], b["n"], b["ended"]) for b in end_bins(made)] == [
        (0.0, 2, 0.0),
        (0.2, 1, 1.0),
        (0.9, 1, 1.0),
    ]
    assert end_bins([]) == []


def test_artefacts_load_back_with_the_same_scores_and_pairs(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "again")
    path = write_report([whole, tmp_path / "again"], tmp_path / "out", artefacts=True)
    tmp_path = path.parent
    written = sorted(str(file.relative_to(path.parent)) for file in path.parent.rglob("*.json"))
    assert written == [
        "dpo/mathdial/train_dataset.json",
        "evaluation/mathdial/base.json",
        "evaluation/mathdial/from_finetuned_with_mathdial.json",
    ]
    for name, stage in (("base", "base-judged"), ("from_finetuned_with_mathdial", "tuned-judged")):
        file = tmp_path / "evaluation" / "mathdial" / f"{name}.json"
        assert tutor.score_tutor(file) == tutor.score_tutor(whole / stage)
    file = tmp_path / "dpo" / "mathdial" / "train_dataset.json"
    items = json.loads(file.read_text())
    assert list(items[0]) == [
        "prompt",
        "chosen_eval",
        "rejected_eval",
        "all_evaluations",
        "chosen",
        "rejected",
    ]
    assert list(items[0]["chosen_eval"]) == ["output", "raw_evaluation", "evaluation_error", "evaluation"]
    assert set(items[0]["chosen_eval"]["evaluation"]) == {"questions", "on_topic", "helpful", "reveal_answer"}
    assert any(one["evaluation_error"] for one in items[0]["all_evaluations"])
    assert tutor.score_tutor(file) == tutor.score_tutor(whole / "judged")

    def found(source: Path) -> set[tuple[str, ...]]:
        made = pairs(judged_rows(source), min_chosen=0.4)
        return {
            (p.prompt[-1].content, p.chosen[0].content, p.rejected[0].content, str(p.scores)) for p in made
        }

    assert found(file) == found(whole / "judged")
    assert len(found(file)) == 6


WEAK = """
name: weak
about: A rubric under which any question is as good as a good one.
judged: the tutor's reply
criteria:
  - {name: asks_question, kind: yes_no, question: "Does it ask?", weight: 1, code: asks_question}
"""


def test_a_baseline_that_would_win_is_named(tmp_path: Path) -> None:
    """Under each rubric that judged it, beside the tutor on the same dialogues."""
    (tmp_path / "weak.yaml").write_text(WEAK)
    run = tmp_path / "run"
    good = Speaker(
        lambda messages, sampling: "How many nuts does one bag hold, and how many bags are there?",
        "test/good",
    )
    candidates(good, seeds(), run / "good", k=1)
    candidates(load("baseline/question-only"), seeds(), run / "probe", k=1)
    candidates(
        good, [talk.model_copy(update={"id": "other"}) for talk in seeds()[:1]], run / "elsewhere", k=1
    )
    for rubric in ("socratic_checks", str(tmp_path / "weak.yaml")):
        for stage in ("good", "probe", "elsewhere"):
            judge(run / stage, run / f"{stage}-{Path(rubric).stem}", rubric=rubric)
    text = html.unescape(write_report([run]).read_text(encoding="utf-8"))
    for rubric in ("socratic_checks", "weak"):
        assert f"<h3>Baselines: tutors that must not win ({rubric}, code)</h3>" in text
    wins = re.findall(
        r"<li>The baseline question-only is not shown to score below (\S+) under (\w+): 1.000 against 1.000;",
        text,
    )
    assert wins == [("good-weak", "weak")]
    assert "Each baseline is shown to score below each tutor." in text


def test_artefacts_need_the_published_criteria(tmp_path: Path) -> None:
    candidates(Speaker(lambda messages, sampling: "Why?"), seeds(), tmp_path / "c", k=2)
    judge(tmp_path / "c", tmp_path / "j", rubric="socratic_checks")
    with pytest.raises(InputError, match="four criteria"):
        write_report([tmp_path / "j"], tmp_path / "out", artefacts=True)


def test_the_command(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maieutic", "report", str(whole), "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["report"] == str(tmp_path / "report.html")
    assert done.stderr == ""
    checked(tmp_path / "report.html")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_has_a_report(tmp_path: Path) -> None:
    maieutic = [sys.executable, "-m", "maieutic"]
    subprocess.run([*maieutic, "demo", "--out", str(tmp_path / "demo")], check=True, capture_output=True)
    page = checked(write_report([tmp_path / "demo"], tmp_path / "out"))
    assert {"learning-curves", "scores", "turn-shapes"} <= figures(tmp_path / "out" / "report.html")
    assert len(page.of("article")) == 10
