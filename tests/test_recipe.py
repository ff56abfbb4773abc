"""Recipes: what resolves and what is refused, what a run will cost, and runs that stop and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from loopback import Loopback
from typer.testing import CliRunner

from maieutic.cli import generate
from maieutic.core.errors import MissingInput, RecipeError, RunConflict, UnknownModel, Unreachable, WrongKey
from maieutic.core.store import stage_rows
from maieutic.recipes import runner

GIB = 2**30
FULL = {
    "platolm": {"corpus": "chats.jsonl"},
    "socratic-tutor": {"sets": ["debugging"], "debugging_train": "seeds.jsonl", "beside": [], "people": []},
}
SMALL = {
    "platolm": {"user_base": "hf/a/b", "assistant_base": "hf/a/b", "respondent": "hf/a/b"},
    "socratic-tutor": {"base": "hf/a/b"},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a hundred conversations of 800 characters and a hundred seeds, worked in."""
    talk = {"messages": [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "y" * 400}]}
    write(tmp_path / "chats.jsonl", [{**talk, "id": str(i), "meta": {"note": "z" * 900}} for i in range(100)])
    write(tmp_path / "seeds.jsonl", [{**talk, "id": str(i)} for i in range(100)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def costs(plan: runner.Plan) -> dict[str, runner.Cost]:
    return {line.stage: line.cost for line in runner.expected_costs(plan)}


@pytest.mark.parametrize("name", FULL)
def test_a_small_sibling_has_the_same_stages(here: Path, name: str) -> None:
    full = runner.resolve(name, Path("run"), FULL[name])
    small = runner.resolve(f"{name}-small", Path("run"), FULL[name] | SMALL[name])
    assert [step.name for step in full.stages] == [step.name for step in small.stages]
    assert [type(step.step) for step in full.stages] == [type(step.step) for step in small.stages]
    assert full.values.keys() == small.values.keys()
    assert costs(small).keys() == costs(full).keys()
    assert not Path("run").exists()


def test_platolm_at_full_size(here: Path) -> None:
    plan = runner.resolve("platolm", Path("run"), FULL["platolm"])
    stages = {step.name: step.step.model_dump() for step in plan.stages}
    for name in ("simulator", "assistant"):
        sft = stages[name]
        assert (sft["epochs"], sft["learning_rate"], sft["batch_size"]) == (3, 2e-5, 128)
        assert (sft["max_length"], sft["warmup_ratio"], sft["precision"]) == (2048, 0.03, "bfloat16")
    assert stages["talk"]["n"] == 50728 and stages["talk"]["sampling"]["temperature"] == 0.7
    assert stages["corpus-split"]["parts"] == (0.95, 0.05, 0.0)
    cost = costs(plan)
    assert cost["simulator"].tokens == pytest.approx(
        100 * 200 * 0.9 * 3, rel=0.03
    )  # the text, not the meta beside it
    assert cost["talk"].calls == 2 * 10 * 50728
    assert cost["talk"].tokens == 50728 * 10 * (512 + 512)
    assert cost["assistant"].tokens == round(50728 * 0.95) * 2048 * 3  # no row is longer than what fits
    for name in ("simulator", "assistant"):
        assert cost[name].gpu_bytes == 16 * 7e9  # 104 GiB, before activations
    assert cost["talk"].gpu_bytes == cost["realism"].gpu_bytes == 2 * 7e9  # the simulator that the run makes


def test_socratic_tutor_at_full_size(here: Path) -> None:
    settings = {**FULL["socratic-tutor"], "parts": [0.8, 0, 0.2], "beside": ["gpt4o"]}
    plan = runner.resolve("socratic-tutor", Path("run"), settings)
    stages = {step.name: step.step.model_dump() for step in plan.stages}
    assert stages["candidates-debugging"]["k"] == 5
    drawn = stages["candidates-debugging"]["sampling"]
    assert (drawn["temperature"], drawn["max_tokens"]) == (1.2, 400)
    dpo = stages["tutor-debugging"]
    assert (dpo["beta"], dpo["learning_rate"], dpo["epochs"]) == (0.1, 5e-5, 2)
    assert (dpo["batch_size"], dpo["micro_batch_size"], dpo["warmup_ratio"], dpo["max_grad_norm"]) == (
        4,
        1,
        0.05,
        0.3,
    )
    assert stages["pairs-debugging"]["min_chosen"] == 0.8
    assert stages["judge-debugging"]["judge"] != stages["judged-debugging-base"]["judge"]
    cost = costs(plan)
    assert cost["candidates-debugging"].calls == cost["judge-debugging"].calls == 80 * 5
    assert cost["candidates-debugging"].tokens == 80 * 5 * 400
    assert (
        2 * 2 * 80 * (200 + 400) < cost["tutor-debugging"].tokens < 2 * 2 * 80 * (200 + 400 + 500)
    )  # and the tutor's prompt
    assert cost["tutor-debugging"].gpu_bytes == 16 * 3.8e9
    for name in ("candidates-debugging", "answers-debugging-from-debugging"):
        assert cost[name].gpu_bytes == 2 * 3.8e9
    asked = [
        line.cost.calls
        for line in runner.expected_costs(plan)
        if line.stage.startswith(("answers-", "judged-"))
    ]
    assert asked == [20] * 6


def test_several_judges_are_a_panel_and_cost_each(here: Path) -> None:
    judges = ["openai/a", "openai/b"]
    settings = {**FULL["socratic-tutor"], "training_judge": judges, "parts": [0.8, 0, 0.2]}
    plan = runner.resolve("socratic-tutor", Path("run"), settings)
    assert costs(plan)["judge-debugging"].calls == 80 * 5 * 2
    assert [step.step.models() for step in plan.stages if step.name == "judge-debugging"] == [judges]


# What is refused, and how it is said.

IMPORT = {"do": "import", "sources": ["${corpus}"]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"stage": {}}, "stage: Extra inputs"),
    "no stages": ({"stages": {}}, "no stages"),
    "an unknown action": ({"stages": {"a": {"do": "fly"}}}, "`do` is none of"),
    "no action": ({"stages": {"a": {}}}, "`do` is none of"),
    "an unknown setting": ({"stages": {"a": {**IMPORT, "licens": 1}}}, "no setting 'licens'\n.*'licence'"),
    "a wrong type": ({"stages": {"a": {**IMPORT, "ended": "perhaps"}}}, "stage a: ended: .*boolean"),
    "a missing setting": ({"stages": {"a": {"do": "clean"}}}, "stage a: corpus is missing"),
    "a reference to nothing": ({"stages": {"a": {"do": "import", "sources": ["${corpsu}"]}}}, "corpsu.*\n.*'corpus'"),
    "a later stage": ({"stages": {"a": {"do": "clean", "corpus": "${b}/corpus.jsonl"}, "b": IMPORT}},
                      "nor an earlier stage"),
    "what a stage does not make": (
        {"stages": {"a": IMPORT, "b": {"do": "clean", "corpus": "${a}/rows.jsonl"}}},
        "stage a does not write 'rows.jsonl'\n.*corpus.jsonl",
    ),
    "an unknown prompt": ({"stages": {"a": {"do": "candidates", "model": "x", "data": "d", "prompt": "zen"}}}, "zen"),
    "a rubric without its judge": ({"stages": {"a": {"do": "judge", "data": "d"}}}, "needs a model"),
    "a batch that does not divide": (
        {"stages": {"a": {"do": "train dpo", "model": "m", "data": "d", "batch_size": 4, "micro_batch_size": 3}}},
        "stage a: batch_size .*multiple of micro_batch_size",
    ),
    "a bad name": ({"stages": {"A b": IMPORT}}, "not a good name"),
    "a name taken": ({"stages": {"corpus": IMPORT}}, "not a good name"),
    "a group without stages": ({"stages": {"g": {"for": {"x": 2}, "do": "import"}}}, "group g: not a group"),
    "a group of nothing": ({"stages": {"g": {"for": {"x": 0}, "stages": {"a": IMPORT}}}}, "x is 0, neither a number"),
    "a variable that is a value": (
        {"stages": {"g": {"for": {"corpus": 2}, "stages": {"a": IMPORT}}}}, "'corpus'",
    ),
    "a value that nobody has": ({"stages": {"a": IMPORT}, "extends": "platolm", "values": {"nix": 1}}, "no value 'nix'"),
    "two stages of one name": ({"stages": {"g": {"for": {"x": 2}, "stages": {"a": IMPORT}}}}, "two stages are called a"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_recipe_says_what_and_how_to_mend(here: Path, wrong: dict[str, Any], said: str) -> None:
    Path("r.yaml").write_text(yaml.safe_dump({"values": {"corpus": "chats.jsonl"}, **wrong}, sort_keys=False))
    with pytest.raises(Exception, match=said) as caught:
        runner.resolve("r.yaml", Path("run"))
    assert len(str(caught.value).splitlines()) == 2 and not Path("run").exists()


def test_groups_repeat_their_stages_in_order(here: Path) -> None:
    stages = {
        "sets": {
            "for": {"set": "${sets}"},
            "stages": {"import-${set}": {"do": "import", "sources": ["${${set}_file}"]}},
        },
        "rounds": {
            "for": {"round": "${rounds}"},
            "stages": {
                "clean-${round}": {"do": "clean", "corpus": "${clean-${round.before}}/corpus.jsonl"},
                "each-${round}": {
                    "for": {"set": "${sets}"},
                    "stages": {
                        "near-${set}-${round}": {
                            "do": "decontaminate",
                            "corpus": "${clean-${round}}/corpus.jsonl",
                            "against": {
                                "for": {"other": "${sets}"},
                                "item": "${import-${other}}/corpus.jsonl",
                            },
                        },
                    },
                },
            },
        },
    }
    values = {"sets": ["a", "b"], "rounds": 2, "a_file": "x.jsonl", "b_file": "y.jsonl", "clean-0": "seed"}
    Path("r.yaml").write_text(yaml.safe_dump({"values": values, "stages": stages}, sort_keys=False))
    plan = runner.resolve("r.yaml", Path("run"))
    names = ["import-a", "import-b", "clean-1", "near-a-1", "near-b-1", "clean-2", "near-a-2", "near-b-2"]
    assert [step.name for step in plan.stages] == names
    steps = {step.name: step.step.model_dump(mode="json") for step in plan.stages}
    assert steps["import-b"]["sources"] == ["y.jsonl"]
    assert [steps[f"clean-{place}"]["corpus"] for place in (1, 2)] == [
        "seed/corpus.jsonl",
        "run/clean-1/corpus.jsonl",
    ]
    assert steps["near-b-2"]["against"] == [f"run/import-{name}/corpus.jsonl" for name in "ab"]
    assert runner.resolve("r.yaml", Path("run"), {"sets": ["b"], "rounds": 1}).stages[0].name == "import-b"


def test_an_empty_list_repeats_nothing_and_what_nobody_reads_may_be_unset(here: Path) -> None:
    stages = {
        "each": {"for": {"set": "${sets}"}, "stages": {"import-${set}": {"do": "import", "sources": ["${${set}_file}"]}}},
        "last": {"do": "import", "sources": {"for": {"set": "${sets}"}, "item": "${${set}_file}"}, "source": "${word}"},
    }  # fmt: skip
    values = {"sets": ["a"], "a_file": None, "word": "w"}
    Path("r.yaml").write_text(yaml.safe_dump({"values": values, "stages": stages}, sort_keys=False))
    with pytest.raises(RecipeError, match="needs a value for a_file"):
        runner.resolve("r.yaml", Path("run"))
    assert [step.name for step in runner.resolve("r.yaml", Path("run"), {"sets": []}).stages] == ["last"]
    named = runner.resolve(
        "r.yaml", Path("run"), {"sets": ["b"], "b_file": "chats.jsonl"}
    )  # named by a stage alone
    assert [step.name for step in named.stages] == ["import-b", "last"]
    Path("c.yaml").write_text("extends: r.yaml\nvalues: {sets: [c], c_file: chats.jsonl}\n")
    assert runner.resolve("c.yaml", Path("run")).stages[0].name == "import-c"


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("platolm", {}, "needs a value for corpus\n.*--set corpus="),
        ("platolm", {"corpus": "c", "learning_rte": 1}, "no value 'learning_rte'\n.*'learning_rate'"),
        ("platolm", {"corpus": "c", "epochs": "many"}, "stage simulator: epochs: .*number"),
        ("platolm", {"corpus": "c", "parts": [0.9, 0.1]}, "stage split: parts"),
        ("plato", {}, "no recipe 'plato'\n.*platolm"),
        ("socratic-tutor-small", {"debugging_train": "s"}, "needs a value for base"),
        ("platolm", {"corpus": "c", "clean": 1}, "no value 'clean'"),
    ],
)
def test_a_wrong_value_says_what_and_how_to_mend(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises((RecipeError, MissingInput), match=said):
        runner.resolve(name, Path("run"), settings)


def test_a_sibling_may_only_change_what_is_there(here: Path) -> None:
    Path("child.yaml").write_text("extends: platolm\nvalues: {dialoges: 3}\n")
    with pytest.raises(RecipeError, match=r"platolm has no value 'dialoges'\n.*'dialogues'"):
        runner.load_recipe("child.yaml")
    Path("loop.yaml").write_text("extends: loop.yaml\n")
    with pytest.raises(RecipeError, match="extends itself"):
        runner.load_recipe("loop.yaml")


def test_set_gives_values_their_types(here: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("other")(lambda: None)
    generate.add({"": app}, (runner.Run,), {})
    words = ["corpus=[chats.jsonl, seeds.jsonl]", "dialogues=7", "learning_rate=1e-4", "whole=true",
             "parts=[0.5, 0.25, 0.25]", "respondent=http://127.0.0.1:1/v1#a=b"]  # fmt: skip
    call = [
        "run",
        "platolm",
        "--out",
        "run",
        "--dry-run",
        "--json",
        *(part for word in words for part in ("--set", word)),
    ]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    printed = json.loads(result.stdout)
    assert printed["values"]["dialogues"] == 7 and printed["values"]["whole"] is True
    assert printed["values"]["respondent"] == "http://127.0.0.1:1/v1#a=b"
    stages = {stage["name"]: stage for stage in printed["stages"]}
    assert stages["talk"]["calls"] == 140 and stages["import"]["does"].startswith("import 2 sources")
    plan = runner.Run(recipe="platolm", set=dict(word.split("=", 1) for word in words)).plan(Path("run"))
    assert {step.name: step.step for step in plan.stages}["simulator"].learning_rate == 1e-4


# Runs.

RECIPE: dict[str, Any] = {
    "values": {"corpus": "chats.jsonl", "user": None, "assistant": None, "n": 6, "seed": 0},
    "stages": {
        "import": IMPORT,
        "clean": {"do": "clean", "corpus": "${import}/corpus.jsonl"},
        "base": {"do": "demo-base", "corpus": "${clean}/corpus.jsonl", "steps": 0, "hidden": 32, "layers": 1,
                 "vocab_size": 300, "context": 1024, "seed": "${seed}"},
        "talk": {"do": "simulate", "user": "${user}", "assistant": "${assistant}", "n": "${n}", "rounds": 2,
                 "requests": {"concurrency": 2}, "guards": "none", "seed": "${seed}"},
        "split": {"do": "split", "corpus": "${talk}", "parts": [0.5, 0.0, 0.5]},
        "answers": {"do": "candidates", "model": "hf/${base}/model", "data": "${clean}/corpus.jsonl", "k": 1,
                    "limit": 2, "prompt": None, "sampling": {"max_tokens": 4}},
    },
}  # fmt: skip


@pytest.fixture
def chain(here: Path) -> Path:
    """A recipe of six stages with scripted models, and fewer conversations."""
    talk = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]}
    write(here / "chats.jsonl", [{**talk, "id": str(i), "intent": f"{i}"} for i in range(8)])
    write(here / "user.jsonl", [{"trained_role": "user"}, {"text": "One?"}, {"text": "Two?"}])
    (here / "assistant.txt").write_text("Yes.\nNo.\n")
    (here / "chain.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return here


def plan(**settings: Any) -> runner.Plan:
    models = {"user": "script/user.jsonl", "assistant": "script/assistant.txt"}
    return runner.resolve("chain.yaml", Path("run"), {**models, **settings})


def stamps(out: Path = Path("run")) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_run_leaves_every_stage_whole_and_again_does_nothing(chain: Path) -> None:
    manifests = runner.run_plan(plan())
    assert list(manifests) == list(RECIPE["stages"])
    assert manifests["clean"]["kept"] == 1  # seven equals of one conversation
    assert manifests["talk"]["dialogues"] == 6 and len(list(stage_rows("run/talk"))) == 6
    assert sum(manifests["split"]["counts"].values()) == 6
    before = stamps()
    Path("assistant.txt").unlink()  # a done stage needs its model no more
    assert runner.run_plan(plan()) == manifests
    assert stamps() == before


def test_a_changed_value_is_refused_by_name_and_nothing_is_touched(chain: Path) -> None:
    runner.run_plan(plan())
    before = stamps()
    with pytest.raises(
        RunConflict, match=r"stages\.base\.seed .*stages\.talk\.n \(6 → 7\).*stages\.talk\.seed"
    ):
        runner.run_plan(plan(n=7, seed=1))
    write(Path("chats.jsonl"), [{"messages": [{"role": "user", "content": "Another"}]}])
    with pytest.raises(RunConflict, match="files"):
        runner.run_plan(plan())
    assert stamps() == before


def test_a_folder_of_somebody_else_is_refused(chain: Path) -> None:
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("years of work")
    with pytest.raises(RunConflict, match="holds no run"):
        runner.run_plan(plan())
    assert [path.name for path in Path("run").iterdir()] == ["thesis.tex"]


def test_a_moved_run_goes_on(chain: Path) -> None:
    runner.run_plan(plan())
    shutil.rmtree("run/answers")
    (Path("run/split") / "manifest.json").unlink()
    shutil.move("run", "moved")
    done = runner.run_plan(plan()._replace(**runner.resolve("chain.yaml", Path("moved"), {
        "user": "script/user.jsonl", "assistant": "script/assistant.txt"})._asdict()))  # fmt: skip
    assert done["answers"]["rows"] == 1 and sum(done["split"]["counts"].values()) == 6


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("{url}#tiny", WrongKey),
        ("script/nowhere.txt", MissingInput),
        ("http://127.0.0.1:9/v1#tiny", Unreachable),
        ("hf/nowhere/./here", MissingInput),
    ],
)
def test_every_model_is_checked_before_the_first_stage(
    chain: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: type[Exception]
) -> None:
    monkeypatch.setenv("MAIEUTIC_API_KEY", "wrong")
    with Loopback(key="right") as server, pytest.raises(error):
        runner.run_plan(plan(assistant=spec.format(url=server.url)))
    assert not Path("run").exists() and not server.chats


def test_an_unknown_name_on_a_server_is_found_first_too(chain: Path) -> None:
    with Loopback(models=["small", "large"]) as server, pytest.raises(UnknownModel, match="medium"):
        runner.run_plan(plan(assistant=f"{server.url}#medium"))
    assert not Path("run").exists()


def test_a_missing_file_is_found_first_too(chain: Path) -> None:
    with pytest.raises(MissingInput, match=r"gone\.jsonl"):
        runner.run_plan(plan(corpus="gone.jsonl"))
    assert not Path("run").exists()


def test_a_killed_run_goes_on_and_asks_nothing_twice(chain: Path) -> None:
    with Loopback(reply="Because.", latency=0.05) as server:
        settings = {"user": "script/user.jsonl", "assistant": server.spec, "n": 30}
        words = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "maieutic", "run", "chain.yaml", "--out", "run", *words]
        killed = subprocess.Popen(command, stderr=subprocess.PIPE)
        rows = Path("run/talk/rows.jsonl")
        deadline = time.monotonic() + 60
        while not (rows.exists() and rows.read_bytes().count(b"\n") >= 5):
            assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert not Path("run/talk/manifest.json").exists()
        held, before = rows.read_bytes(), stamps()
        asked = len(server.chats)
        server.latency = 0.0
        manifests = runner.run_plan(plan(**settings))
        whole = rows.read_bytes()
        assert manifests["talk"]["dialogues"] == 30 and whole.startswith(held[: held.rindex(b"\n") + 1])
        assert max(Counter(json.loads(line)["key"] for line in whole.splitlines()).values()) == 1
        assert len(server.chats) <= 30 * 2 + 2  # at most what was in flight is asked again
        assert asked < len(server.chats)
        early = [name for name in before if name.startswith(("run/import", "run/clean", "run/base"))]
        assert early and all(stamps()[name] == before[name] for name in early)


@pytest.mark.slow
def test_intents_teach_a_simulator_that_is_told_them(here: Path) -> None:
    """A model writes intents, a simulator is trained on them at a stated rate, and simulate tells it its own."""
    said = [{"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "Look again."}]
    write(here / "c.jsonl", [{"messages": said, "id": str(i), "ended": True} for i in range(8)])
    (here / "writer.txt").write_text("To find out the reason.\n")
    (here / "tutor.txt").write_text("Look again.\n")
    stages = {
        "base": {"do": "demo-base", "corpus": "c.jsonl", "steps": 0, "hidden": 32, "layers": 1, "vocab_size": 300,
                 "context": 512},
        "wants": {"do": "intents", "model": "script/writer.txt", "data": "c.jsonl"},
        "user": {"do": "train sft", "model": "${base}/model", "data": "${wants}", "validation": "${wants}", "role": "user",
                 "batch_size": 4, "epochs": 2, "condition": {"intent": 0.5}, "early_stopping": 2},
        "talk": {"do": "simulate", "user": "hf/${user}/model", "assistant": "script/tutor.txt", "seeds": "${wants}",
                 "seed_turns": 0, "rounds": 1, "guards": "none", "user_sampling": {"max_tokens": 8}},
    }  # fmt: skip
    (here / "told.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    done = runner.run_plan(runner.resolve("told.yaml", Path("run"), {}))
    assert done["wants"]["written"] == 8
    conditions = done["user"]["data"]["conditions"]
    assert sum(conditions.values()) == 8 and 0 < conditions["intent"] < 8
    rows = list(stage_rows("run/talk"))
    told = [row["meta"]["turns"]["0"]["prompt_tokens"] for row in rows if "0" in row["meta"]["turns"]]
    assert told and min(told) > 8, "the intent stands in the prompt"
    assert all(row["intent"] == "To find out the reason." for row in rows)
    assert all(turn["role"] != "system" for row in rows for turn in row["messages"])
