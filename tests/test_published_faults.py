"""Each fault of the published Socratic pipeline, one test: it would fail if the fault came in.

The faults are those of the code that was published with the paper, by what they did; none of its code is here. That a
judge which made the pairs cannot report the result is held where recipes are tested.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_tree import commands
from loopback import Loopback
from tiny import tiny_checkpoint
from typer.testing import CliRunner

from maieutic.chat_templates.rendering import prompt_ids
from maieutic.cli import app as _app
from maieutic.cli import gather
from maieutic.core.errors import ContextTooShort, InputError, MaieuticError, RunConflict, TooManyFailures
from maieutic.core.messages import Message, Role
from maieutic.core.rows import PreferenceRow
from maieutic.core.store import stage_rows
from maieutic.models import load
from maieutic.models.checkpoint import find, load_tokenizer
from maieutic.recipes import runner
from maieutic.rollouts.steps import Candidates
from maieutic.train.rows import Framing, preference_rows

torch.set_num_threads(1)

gather()
GOOD = {"reason": "so", "asks_question": "yes", "on_topic": 4, "helpful": 3, "reveals_answer": "no"}
SAID = {"asks_question": 1.0, "on_topic": 4.0, "helpful": 3.0, "reveals_answer": 0.0}


def maieutic(*words: object) -> Any:
    """What a command prints with `--json`; its error is raised."""
    result = CliRunner().invoke(_app, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def dialogues(path: Path, *texts: str) -> Path:
    return lines(path, [{"messages": [{"role": "user", "content": text}]} for text in texts])


def replies(path: Path, *texts: str) -> Path:
    """Rows to judge: one dialogue and reply each."""
    return lines(path, [
        {"key": f"k{n}", "id": f"d{n}", "messages": [{"role": "user", "content": f"Is it {n}?"}],
         "candidates": [{"text": text}]} for n, text in enumerate(texts)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def new_text(folder: Path, ids: list[int], tokens: int) -> str:
    """What transformers itself greedily adds to these ids: the new ids alone, decoded."""
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_tokenizer(find(str(folder))), AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        whole = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
    return str(
        tokenizer.decode(whole[0][len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def asked(folder: Path, text: str) -> list[int]:
    return list(
        prompt_ids([Message(role=Role.USER, content=text)], load_tokenizer(find(str(folder))), Role.ASSISTANT)
    )


def test_the_answer_is_its_own_tokens_and_not_what_stands_behind_an_offset(
    tiny: Path, tmp_path: Path
) -> None:
    """Cutting the decoded whole at the prompt's length loses or adds characters: control tokens vanish from it."""
    texts = (
        "Hello!",
        "  two  spaces , and\ttabs ",
        "e\u0301 \u00e9 🙂 ½",
        "<|im_end|> in words",
        "\\frac{1}{2} {x}",
    )
    data = dialogues(tmp_path / "d.jsonl", *texts)
    maieutic("candidates", "--model", f"hf/{tiny}", "--data", data, "-k", 1, "--prompt", "none",
             "--temperature", 0, "--max-tokens", 24, "--out", tmp_path / "c")  # fmt: skip
    told = {row["messages"][0]["content"]: row["candidates"][0]["text"] for row in stage_rows(tmp_path / "c")}
    assert told == {text: new_text(tiny, asked(tiny, text), 24) for text in texts}
    tokenizer = load_tokenizer(find(str(tiny)))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello!"}], tokenize=False,
                                           add_generation_prompt=True)  # fmt: skip
    whole = tokenizer.decode(asked(tiny, "Hello!"), skip_special_tokens=True) + told["Hello!"]
    assert whole[len(prompt) :] != told["Hello!"], "so an offset would show"


def test_a_prompt_is_never_cut_to_its_last_128_tokens(tiny: Path, tmp_path: Path) -> None:
    text = "First of all, seven. " + "And then I counted on and on. " * 30
    ids = asked(tiny, text)
    assert len(ids) > 400
    data = dialogues(tmp_path / "d.jsonl", text)
    maieutic("candidates", "--model", f"hf/{tiny}", "--data", data, "-k", 1, "--prompt", "none",
             "--temperature", 0, "--max-tokens", 24, "--out", tmp_path / "c")  # fmt: skip
    (row,) = stage_rows(tmp_path / "c")
    assert row["candidates"][0]["text"] == new_text(tiny, ids, 24) != new_text(tiny, ids[-128:], 24)
    pair = PreferenceRow.model_validate({
        "prompt": [{"role": "user", "content": text}],
        "chosen": [{"role": "assistant", "content": "Why?"}],
        "rejected": [{"role": "assistant", "content": "It is 7."}],
    })  # fmt: skip
    tokenizer, frame = load_tokenizer(find(str(tiny))), Framing(None, None)
    made = preference_rows([pair], tokenizer, frame, 2048)
    assert list(made.dataset["prompt_ids"][0]) == ids
    with pytest.raises(ContextTooShort):
        preference_rows([pair], tokenizer, frame, 128)
    with Loopback(json.dumps(GOOD)) as server:
        source = lines(tmp_path / "r.jsonl", [
            {"key": "k", "messages": [{"role": "user", "content": text}], "candidates": [{"text": text + "?"}]}
        ])  # fmt: skip
        maieutic("judge", source, "--judge", server.spec, "--out", tmp_path / "j")
        shown = server.chats[0].body["messages"][0]["content"]
    assert shown.count(text) == 2


def test_a_reply_that_mentions_a_student_is_kept_whole(tmp_path: Path) -> None:
    """From the tutor to the judge, the pairs and the comparison: to the byte, and no stop string is asked for."""
    texts = ['Student: what did the Student say?\nStudent: "6"\nTeacher: and Student B?', "Hm. Student"]

    def tutor(body: dict[str, Any]) -> str:
        return texts[body["seed"] % 2]

    def judge(body: dict[str, Any]) -> str:
        asks = texts[0] in body["messages"][0]["content"]
        return json.dumps({**GOOD, "asks_question": "yes" if asks else "no", "helpful": 5, "on_topic": 5})

    data = dialogues(tmp_path / "d.jsonl", "Student: I got 6.\nStudent: is it right?")
    with Loopback(tutor) as server:
        maieutic("candidates", "--model", server.spec, "--data", data, "-k", 2, "--out", tmp_path / "c")
        assert all("stop" not in seen.body for seen in server.chats)
    (row,) = stage_rows(tmp_path / "c")
    assert [one["text"] for one in row["candidates"]] == texts
    with Loopback(judge) as server:
        maieutic("judge", tmp_path / "c", "--judge", server.spec, "--out", tmp_path / "j")
        assert all(any(text in s.body["messages"][0]["content"] for s in server.chats) for text in texts)
    maieutic("preferences", tmp_path / "j", "--out", tmp_path / "p.jsonl")
    pair = json.loads((tmp_path / "p.jsonl").read_text())
    assert [pair[side][0]["content"] for side in ("chosen", "rejected")] == texts


MISREAD: list[tuple[dict[str, Any], dict[str, float] | None]] = [
    ({"asks_question": True, "reveals_answer": False}, SAID),
    ({"asks_question": "Yes.", "reveals_answer": "No."}, SAID),
    ({"reveals_answer": "NO!"}, SAID),
    ({"reveals_answer": "Yes."}, {**SAID, "reveals_answer": 1.0}),
    ({"on_topic": 50}, None),
    ({"on_topic": -4}, None),
    ({"helpful": "five"}, None),
    ({"reveals_answer": "not sure"}, None),
]


@pytest.mark.parametrize("dress", ["{}", "```json\n{}\n```", "Here it is:\n```\n{}\n```\nDone."])
@pytest.mark.parametrize(("changes", "values"), MISREAD)
def test_booleans_no_with_a_stop_and_fenced_json_are_read_right(
    changes: dict[str, Any], values: dict[str, float] | None, dress: str, tmp_path: Path
) -> None:
    """There "No." counted as *reveals*, and an `on_topic` of 50 as a score of 2.95."""
    with Loopback(dress.replace("{}", json.dumps({**GOOD, **changes}))) as server:
        maieutic("judge", replies(tmp_path / "r.jsonl", "And now?"), "--judge", server.spec, "--retries", 0,
                 "--max-failure-rate", 1, "--out", tmp_path / "j")  # fmt: skip
    (row,) = stage_rows(tmp_path / "j")
    assert row["model_verdicts"][0][0]["values"] == (values or {})
    score = row["scores"][0]
    assert (score is None) == (values is None) and (score is None or 0.1 <= score <= 1)
    told = maieutic("eval", "tutor", "score", tmp_path / "j")
    assert (told["n"], told["unscored"]) == ((1, 0) if values else (0, 1))


@pytest.mark.parametrize(("changes", "values"), MISREAD)
def test_recorded_verdicts_are_read_right_too(
    changes: dict[str, Any], values: dict[str, float] | None, tmp_path: Path
) -> None:
    names = {"asks_question": "questions", "reveals_answer": "reveal_answer"}
    given = {names.get(key, key): value for key, value in ({**GOOD, **changes}).items() if key != "reason"}
    file = tmp_path / "base.json"
    file.write_text(json.dumps([{"prompt": "p", "output": "o", "raw_evaluation": "", "evaluation_error": None,
                                 "evaluation": given, "score": 2.95}]))  # fmt: skip
    told = maieutic("eval", "tutor", "score", file)
    assert (told["n"], told["unscored"]) == ((1, 0) if values else (0, 1))
    if values:
        assert told["reveals_answer"] == values["reveals_answer"]
        assert told["summary_score"] == pytest.approx(0.5 * (2 - values["reveals_answer"]) / 2 + 0.2 + 0.15)
    best = {"questions": "yes", "on_topic": 5, "helpful": 5, "reveal_answer": "no"}
    items = [
        {"prompt": "p", "all_evaluations": [
            {"output": "best", "raw_evaluation": "", "evaluation_error": None, "evaluation": best},
            {"output": "other", "raw_evaluation": "", "evaluation_error": None, "evaluation": given},
        ]}
    ]  # fmt: skip
    (tmp_path / "train_dataset.json").write_text(json.dumps(items))
    words = (
        "preferences",
        tmp_path / "train_dataset.json",
        "--min-chosen",
        0.8,
        "--out",
        tmp_path / "p",
    )
    if values is None:
        with pytest.raises(InputError, match="1 unscored"):
            maieutic(*words)
    else:
        assert maieutic(*words)["score_rejected"] == pytest.approx(told["summary_score"])


def test_a_verdict_that_cannot_be_read_does_not_leave_the_mean_in_silence(tmp_path: Path) -> None:
    """It is counted as unscored wherever a mean is printed, and past the accepted share the run fails."""

    def answer(body: dict[str, Any]) -> str:
        return "Lovely." if "bad" in body["messages"][0]["content"] else json.dumps(GOOD)

    source = replies(tmp_path / "r.jsonl", "good one?", "bad one?", "good two?", "bad two?")
    with Loopback(answer) as server:
        words = ("judge", source, "--judge", server.spec, "--out", tmp_path / "j")
        with pytest.raises(TooManyFailures, match="2 of 4"):
            maieutic(*words)
        judged = maieutic(*words, "--max-failure-rate", 0.5)
    assert (judged["judged"], judged["unscored"]) == (2, 2)
    told = maieutic("eval", "tutor", "score", tmp_path / "j")
    assert (told["n"], told["unscored"]) == (2, 2)
    with pytest.raises(InputError, match="too few candidates"):
        maieutic("preferences", tmp_path / "j", "--out", tmp_path / "p.jsonl")


def test_a_retry_asks_again_and_says_what_was_wrong(tmp_path: Path) -> None:
    answers = ["Fine!", json.dumps({**GOOD, "on_topic": 50}), json.dumps(GOOD)]
    with Loopback(answers) as server:
        maieutic(
            "judge",
            replies(tmp_path / "r.jsonl", "And now?"),
            "--judge",
            server.spec,
            "--out",
            tmp_path / "j",
        )
        sent = [seen.body["messages"] for seen in server.chats]
    assert [len(turns) for turns in sent] == [1, 3, 3]
    assert sent[1][1]["content"] == "Fine!" and "no JSON object" in sent[1][2]["content"]
    assert "on_topic must be a whole number from 1 to 5, not 50" in sent[2][2]["content"]
    (row,) = stage_rows(tmp_path / "j")
    assert row["model_verdicts"][0][0]["values"] == SAID


def test_base_and_tuned_tutor_answer_with_the_same_dtype_and_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every recipe that ships, what answers one dialogue once differs in nothing but the model and the dialogues."""
    monkeypatch.chdir(tmp_path)
    dialogues(tmp_path / "d.jsonl", "Is it 7?")
    compared = 0
    for name in (name for name in runner.recipe_names() if "tutor" in name):
        values = runner.load_recipe(name).values
        given = {
            key: "d.jsonl" if key == "seeds" else "hf/x" for key, value in values.items() if value is None
        }
        answers = [
            step.step
            for step in runner.resolve(name, tmp_path / "run", given).stages
            if isinstance(step.step, Candidates) and step.step.k == 1
        ]
        ways = {json.dumps([one.sampling.model_dump(), one.local.model_dump(), one.prompt, one.show_solution])
                for one in answers}  # fmt: skip
        assert len(answers) >= 2 and len(ways) == 1, name
        compared += len(answers)
    assert compared >= 4


def test_a_stage_belongs_to_the_length_it_was_drawn_with(tmp_path: Path) -> None:
    data = dialogues(tmp_path / "d.jsonl", "Is it 7?")
    lines(tmp_path / "s.jsonl", [{"text": "Why?"}])
    words = ("candidates", "--model", f"script/{tmp_path}/s.jsonl", "--data", data, "--out", tmp_path / "c")
    maieutic(*words, "--max-tokens", 250)
    with pytest.raises(RunConflict, match="max_tokens"):
        maieutic(*words, "--max-tokens", 400)


def writers(tmp_path: Path) -> dict[str, Callable[[Path], object]]:
    """Every command of the tutor's pipeline that writes a folder, asked to write this one."""
    data = dialogues(tmp_path / "d.jsonl", "Is it 7?")
    script = f"script/{lines(tmp_path / 's.jsonl', [{'text': 'Why?'}])}"
    grade = f"script/{lines(tmp_path / 'g.jsonl', [{'text': json.dumps(GOOD)}])}"
    better = f"script/{lines(tmp_path / 'b.jsonl', [{'text': json.dumps({'reason': 'so', 'better': 'A'})}])}"
    one, other = replies(tmp_path / "r.jsonl", "Why?"), replies(tmp_path / "q.jsonl", "How?")
    return {
        "candidates": lambda out: maieutic("candidates", "--model", script, "--data", data, "--out", out),
        "judge": lambda out: maieutic("judge", one, "--judge", grade, "--out", out),
        "pairwise": lambda out: maieutic("eval", "tutor", "pairwise", one, other, "--judge", better, "--out", out),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["candidates", "judge", "pairwise"])
def test_no_folder_is_emptied(name: str, tmp_path: Path) -> None:
    """One with other people's files is refused untouched; one's own goes on, whatever else lies in it."""
    write = writers(tmp_path)[name]
    strange = tmp_path / "strange"
    (strange / "inner").mkdir(parents=True)
    (strange / "inner" / "thesis.txt").write_text("years of work")
    with pytest.raises(MaieuticError, match="not empty"):
        write(strange)
    assert [path.name for path in strange.rglob("*")] == ["inner", "thesis.txt"]
    assert (strange / "inner" / "thesis.txt").read_text() == "years of work"
    write(tmp_path / "own")
    (tmp_path / "own" / "notes.txt").write_text("mine")
    before = (tmp_path / "own" / "rows.jsonl").read_bytes()
    write(tmp_path / "own")
    assert (tmp_path / "own" / "rows.jsonl").read_bytes() == before
    assert (tmp_path / "own" / "notes.txt").read_text() == "mine"


def test_no_key_comes_by_the_command_line_or_goes_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No option takes one, an address with one is refused, and what is sent to the server stands in no artefact."""
    secret = re.compile(r"(^|-)(key|token|secret|password|credential|auth|bearer)(-|$)")
    options = {
        option: " ".join(path)
        for path, command in commands()
        for parameter in command.params
        for option in parameter.opts
        if secret.search(option.lstrip("-"))
    }
    assert not options
    key = "sk-published-0123456789abcdef"
    for address in (f"http://user:{key}@127.0.0.1:9/v1#m", f"http://127.0.0.1:9/v1?api_key={key}#m"):
        with pytest.raises(InputError) as refused:
            load(address)
        assert key not in str(refused.value)
    monkeypatch.setenv("MAIEUTIC_API_KEY", key)
    data = dialogues(tmp_path / "d.jsonl", "Is it 7?")
    answers = [f"Is it {key}?", "Why?", json.dumps({**GOOD, "reason": key})]
    with Loopback(lambda body: answers[min(len(server.chats) - 1, 2)], key=key) as server:
        maieutic("candidates", "--model", server.spec, "--data", data, "-k", 2, "--out", tmp_path / "c")
        maieutic("judge", tmp_path / "c", "--judge", server.spec, "--out", tmp_path / "j")
        assert all(seen.headers["Authorization"] == f"Bearer {key}" for seen in server.chats)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5 and not [path for path in written if key.encode() in path.read_bytes()]
