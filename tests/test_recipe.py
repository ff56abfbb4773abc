"""Recipes: those that ship resolve and are costed, a run is checked before it begins, and goes on where it stopped."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import yaml

from maieutic import recipe
from maieutic.errors import MissingInput, ModelError, RecipeError, RunConflict

SHORT = """
name: short
values: {seeds: null, model: null, k: 2}
stages:
  import: {do: import, sources: ["${seeds}"]}
  split: {do: split, corpus: "${import}/corpus.jsonl", parts: [0.5, 0.0, 0.5]}
  candidates: {do: candidates, model: "${model}", data: "${split}/train.jsonl", k: "${k}"}
"""


@pytest.fixture
def seeds() -> Path:
    with as_file(files("maieutic.demo") / "seeds.jsonl") as path:
        return Path(path)


@pytest.fixture
def short(tmp_path: Path) -> str:
    (tmp_path / "short.yaml").write_text(SHORT)
    (tmp_path / "script.jsonl").write_text('{"text": "What do you see?"}\n')
    return str(tmp_path / "short.yaml")


def needed(name: str, corpus: Path) -> dict[str, object]:
    """The values that a recipe leaves open, filled."""
    return {
        key: str(corpus) if key in ("corpus", "seeds") else "hf/tiny-1b"
        for key, value in recipe.load(name).values.items()
        if value is None
    }


@pytest.mark.parametrize("name", recipe.names())
def test_each_recipe_that_ships_resolves_and_is_costed(name: str, tmp_path: Path, seeds: Path) -> None:
    plan = recipe.resolve(name, tmp_path / "run", needed(name, seeds))
    lines = recipe.expect(plan)
    assert [line.stage for line in lines] == [step.name for step in plan.steps]
    assert not any(line.done for line in lines)
    assert any(line.cost.tokens for line in lines)
    assert recipe.missing(plan) == []
    assert not (tmp_path / "run").exists(), "a dry run writes nothing"


@pytest.mark.parametrize("name", ["platolm", "socratic-tutor"])
def test_a_small_sibling_has_the_same_stages_with_other_values(
    name: str, tmp_path: Path, seeds: Path
) -> None:
    full, small = recipe.load(name), recipe.load(f"{name}-small")
    assert small.stages == full.stages
    assert small.values.keys() == full.values.keys() and small.values != full.values


def test_the_full_recipes_have_the_papers_settings(tmp_path: Path, seeds: Path) -> None:
    values = recipe.load("platolm").values
    assert (values["epochs"], values["learning_rate"], values["batch"], values["max_length"]) == (
        3,
        2e-5,
        128,
        2048,
    )
    assert (values["temperature"], values["assistant_tokens"], values["dialogues"]) == (0.7, 512, 50728)
    values = recipe.load("socratic-tutor").values
    assert (values["k"], values["temperature"], values["tokens"], values["min_chosen"]) == (5, 1.2, 400, 0.8)
    assert (values["beta"], values["learning_rate"], values["epochs"], values["answer_tokens"]) == (
        0.1,
        5e-5,
        2,
        250,
    )
    assert values["training_judge"] != values["final_judge"], "who made the pairs does not report the result"


def test_done_stages_are_skipped_and_an_interrupted_run_goes_on(
    tmp_path: Path, short: str, seeds: Path
) -> None:
    given = {"seeds": str(seeds), "model": f"script/{tmp_path}/script.jsonl"}
    plan = recipe.resolve(short, tmp_path / "run", given)
    recipe.run(plan)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("rows.jsonl")}
    assert len(written) == 3
    (tmp_path / "run" / "candidates" / "manifest.json").unlink()
    assert [line.done for line in recipe.expect(plan)] == [True, True, False]
    manifests = recipe.run(plan)
    assert manifests.keys() == {"import", "split", "candidates"}
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_changed_recipe_or_input_is_another_run(tmp_path: Path, short: str, seeds: Path) -> None:
    (tmp_path / "seeds.jsonl").write_bytes(seeds.read_bytes())
    given = {"seeds": str(tmp_path / "seeds.jsonl"), "model": f"script/{tmp_path}/script.jsonl"}
    recipe.run(recipe.resolve(short, tmp_path / "run", given))
    with pytest.raises(RunConflict, match=r"stages\.candidates\.k"):
        recipe.run(recipe.resolve(short, tmp_path / "run", {**given, "k": 3}))
    (tmp_path / "seeds.jsonl").write_bytes(seeds.read_bytes()[:-20])
    with pytest.raises(RunConflict, match=r"files\."):
        recipe.run(recipe.resolve(short, tmp_path / "run", given))


def test_nothing_is_begun_before_files_and_models_are_there(tmp_path: Path, short: str, seeds: Path) -> None:
    given = {"seeds": str(tmp_path / "nowhere.jsonl"), "model": f"script/{tmp_path}/script.jsonl"}
    plan = recipe.resolve(short, tmp_path / "run", given)
    assert recipe.missing(plan) == [tmp_path / "nowhere.jsonl"]
    with pytest.raises(MissingInput, match=r"nowhere\.jsonl"):
        recipe.run(plan)
    given = {"seeds": str(seeds), "model": "http://127.0.0.1:9/v1#tiny"}
    with pytest.raises(ModelError, match="127"):
        recipe.run(recipe.resolve(short, tmp_path / "run", given))
    assert not (tmp_path / "run").exists()


def test_a_reference_keeps_its_type_and_knows_what_a_stage_makes(
    tmp_path: Path, short: str, seeds: Path
) -> None:
    plan = recipe.resolve(short, tmp_path / "run", {"seeds": [str(seeds)] * 2, "model": "script/x"})
    assert plan.steps[0].action.inputs() == [seeds, seeds]
    assert plan.steps[2].needs == ("split",)
    (tmp_path / "other.yaml").write_text(SHORT.replace("${split}/train.jsonl", "${split}/nothing.jsonl"))
    with pytest.raises(RecipeError, match=r"split does not make 'nothing\.jsonl'"):
        recipe.resolve(str(tmp_path / "other.yaml"), tmp_path / "run", {"seeds": "s", "model": "script/x"})


def test_the_run_folder_keeps_the_resolved_recipe(tmp_path: Path, short: str, seeds: Path) -> None:
    given = {"seeds": str(seeds), "model": f"script/{tmp_path}/script.jsonl"}
    recipe.run(recipe.resolve(short, tmp_path / "run", given))
    held = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert held["recipe"] == "short" and list(held["stages"]) == list(yaml.safe_load(SHORT)["stages"])
    assert str(tmp_path / "run") not in json.dumps(held), "a moved run is the same run"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert recipe.run(recipe.resolve(short, tmp_path / "moved", given)).keys() == held["stages"].keys()
