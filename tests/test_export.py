"""A checkpoint written for servers: whole, self-contained, and asked in the frame it was trained in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import gotext
import pytest
import torch
from exporting import export
from jobs import sft_job
from shapes import PHI3, pieces, shaped
from tiny import CHATML, tiny_checkpoint, tiny_tokenizer
from tokenizers_of_ours import TEMPLATES, tokenizer

from maieutic.chat_templates.encode import END
from maieutic.chat_templates.rendering import add_end, prompt_ids
from maieutic.core.errors import MissingInput, ModelError, NoTemplate, RenderError, RunConflict
from maieutic.core.messages import Conversation, Message
from maieutic.data.corpus import write_corpus
from maieutic.models.weights import quiet
from maieutic.serving.checkpoint import open_checkpoint
from maieutic.serving.ollama import modelfile

torch.set_num_threads(1)

TALK = [
    {"role": "user", "content": "How would I make a cake?"},
    {"role": "assistant", "content": "Take {3} eggs; what else?"},
    {"role": "user", "content": "Flour 🙂"},
    {"role": "assistant", "content": "And then?"},
]
SYSTEM = {"role": "system", "content": 'Be "curious".\nAlways 🙂 {{ so }}.'}


def turns(rows: list[dict[str, str]]) -> list[Message]:
    return [Message.model_validate(row) for row in rows]


def asked(folder: Path, rows: list[dict[str, str]]) -> list[int]:
    """The ids that a server makes of a chat."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder)
    return made.apply_chat_template(rows, tokenize=True, add_generation_prompt=True, return_dict=False)


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    talks = [Conversation.model_validate({"messages": TALK, "ended": True, "licence": "CC0-1.0"})]
    write_corpus(folder / "talks.jsonl", talks)
    base = tiny_checkpoint(folder / "base", context=512)
    more = {
        "role": "user",
        "batch_size": 1,
        "epochs": 8,
        "learning_rate": 1e-2,
        "lora_r": 4,
        "system": "Be curious.",
    }
    sft_job(model=f"hf/{base}", data=folder / "talks.jsonl", out=folder / "run", **more).run()
    return folder / "run"


def test_a_run_is_exported_as_it_was_saved(lora_run: Path, tmp_path: Path) -> None:
    done = export(str(lora_run), "merged", tmp_path / "out")
    assert done.role == "user"
    assert set(done.stops) == {"<|im_end|>", END}
    for file in (lora_run / "model").iterdir():
        assert (tmp_path / "out" / file.name).is_file(), file.name
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md"):
        held = (lora_run / "model" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == held, name
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    held = json.loads((lora_run / "model" / "generation_config.json").read_text())
    assert set(settings["eos_token_id"]) == set(held["eos_token_id"])
    record = json.loads((lora_run / "model" / "maieutic.json").read_text())
    assert json.loads((tmp_path / "out" / "maieutic.json").read_text()) == record


def test_an_adapter_is_merged_into_its_base(lora_run: Path, tmp_path: Path) -> None:
    """The folder of the adapter alone, its base found by name, gives the model that the run made."""
    done = export(str(lora_run / "adapter"), "merged", tmp_path / "out")
    assert done.role == "user"
    ids = torch.tensor([asked(tmp_path / "out", TALK)])
    with torch.no_grad():
        ours, theirs = (loaded(folder)(ids).logits for folder in (tmp_path / "out", lora_run / "model"))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert asked(tmp_path / "out", TALK) == asked(lora_run / "model", TALK)
    whole = Path(export(str(lora_run / "model"), "gguf", tmp_path / "whole").run)
    merged = Path(export(str(lora_run / "adapter"), "gguf", tmp_path / "merged").run)
    assert sorted(path.name for path in merged.parent.iterdir()) == ["README.md", "model.gguf"]
    assert (merged.parent / "README.md").read_bytes() == (lora_run / "model" / "README.md").read_bytes()
    for one, two in zip(gguf.GGUFReader(whole).tensors, gguf.GGUFReader(merged).tensors, strict=True):
        assert one.name == two.name
        assert abs(one.data.astype(float) - two.data.astype(float)).max() < 1e-3


def test_a_system_text_of_training_is_served(lora_run: Path) -> None:
    """A chat that brings none gets the one that stood before every conversation in training."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(lora_run / "model")
    expected = prompt_ids(turns(TALK), made, "user", system="Be curious.")
    assert asked(lora_run / "model", TALK) == expected
    assert asked(lora_run / "model", [{"role": "system", "content": "Be curious."}, *TALK]) == expected
    other = [SYSTEM, *TALK]
    assert asked(lora_run / "model", other) == prompt_ids(turns(other), made, "user", system="Be curious.")


@pytest.mark.parametrize("shape", ["llama", "phi3"])
@pytest.mark.parametrize("template", ["dyadic", "plain", "file"])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_published_checkpoints_by_template_and_system(
    tmp_path: Path, shape: str, template: str, role: str
) -> None:
    """One that carries no template, or another's: what the export is asked is what it was trained on."""
    (tmp_path / "file").write_text(PHI3 if shape == "phi3" else CHATML)
    made = pieces.__wrapped__("prepend", "phi3") if shape == "phi3" else tiny_tokenizer()
    made.chat_template = None
    folder = shaped(shape, tmp_path / "model", made)
    named = str(tmp_path / "file") if template == "file" else template
    text = None if template == "dyadic" else 'You are a "person" 🙂; ask.\n{{ why }}'
    done = export(str(folder), "merged", tmp_path / "out", template=named, system=text, role=role)
    assert done.role == role
    talk = TALK if role == "user" else TALK[:-1]
    if shape == "llama" or template == "file":  # the frames of Llama's own kind are encoded apart in training
        assert asked(tmp_path / "out", talk) == prompt_ids(turns(talk), made, role, named, text)
    again = open_checkpoint(str(tmp_path / "out"))
    assert (again.role, again.frame.system) == (role, text)
    assert again.frame.template == (None if template == "file" else template)
    ids = torch.tensor([asked(tmp_path / "out", talk)])
    with torch.no_grad():
        assert torch.equal(loaded(folder)(ids).logits, loaded(tmp_path / "out")(ids).logits)


def test_a_model_of_both_sides_is_served_as_either(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "maieutic.json").write_text(json.dumps({"role": "both", "template": None, "system": None}))
    for asked_for, kept, role in ((None, "both", "assistant"), ("user", "user", "user")):
        out = tmp_path / role
        assert export(str(folder), "merged", out, role=asked_for).role == role
        assert json.loads((out / "maieutic.json").read_text())["role"] == kept
        assert open_checkpoint(str(out)).role == role
        assert asked(out, TALK) == prompt_ids(turns(TALK), tiny_tokenizer(), role)


def test_a_checkpoint_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    made = tiny_tokenizer()
    made.chat_template = None
    with pytest.raises(NoTemplate) as caught:
        export(str(shaped("llama", tmp_path / "model", made)), "gguf", tmp_path / "out")
    assert "--template" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(RunConflict, match="not empty"):
        export(str(folder), "merged", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    with pytest.raises(MissingInput):
        export(str(tmp_path / "none/at/all"), "merged", tmp_path / "new")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        export(str(folder), "merged", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def served(shape: str, role: str, folder: Path) -> tuple[Any, str]:
    """What Ollama gets of a model of one template, BOS left to it where the file says so."""
    made = tokenizer.__wrapped__("bytes", shape if shape not in ("dyadic", "plain") else "chatml")
    template = shape if shape in ("dyadic", "plain") else None
    add_end(made)
    held = open_checkpoint(str(shaped("llama", folder, made)), template, role=role)
    return held, modelfile(held, 4096, adds_bos=False)


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("shape", ["chatml", "llama3", "mistral", "gemma", "phi3", "dyadic", "plain"])
def test_ollama_asks_as_the_template_does(tmp_path: Path, shape: str, role: str) -> None:
    held, text = served(shape, role, tmp_path / "model")
    template = text.split('TEMPLATE """')[1].split('"""')[0]
    chats = [TALK, [SYSTEM, *TALK], TALK[:2]] if role == "user" else [TALK[:3], [SYSTEM, *TALK[:3]], TALK[:1]]
    if role == "user":
        chats += [[SYSTEM]]
    for rows in chats:
        if SYSTEM in rows and shape in ("gemma", "mistral") and role == "assistant":
            continue  # no system turn there
        if SYSTEM in rows and len(rows) > 1 and shape in ("gemma", "mistral"):
            continue
        expected = held.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
        given = rows
        if shape == "dyadic" and SYSTEM not in rows:  # Ollama puts the Modelfile's own before it
            given = [{"role": "system", "content": text.split('SYSTEM """')[1].split('"""')[0]}, *rows]
        assert gotext.execute(template, given) == expected, rows
    for name in held.tokenizer.convert_ids_to_tokens(held.ends):
        assert f'PARAMETER stop "{name}"\n' in text
    assert "PARAMETER num_ctx 4096\n" in text


def test_ollama_adds_bos_itself(tmp_path: Path) -> None:
    folder = shaped("phi3", tmp_path / "model", pieces("prepend", "phi3"))
    export(str(folder), "ollama", tmp_path / "out", system="Ask {{ me }}.")
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """') and (tmp_path / "out" / "model.gguf").is_file()
    assert "<s>" not in text
    assert 'SYSTEM """Ask {{ me }}."""' in text


def test_what_a_modelfile_cannot_say(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(RenderError, match="cannot quote"):
        export(str(folder), "ollama", tmp_path / "out", system='say """')
    numbered = tmp_path / "numbered.jinja"
    numbered.write_text(
        CHATML.replace("message['role'] +", "message['role'] + ('' if loop.index < 3 else '+') +")
    )
    with pytest.raises(RenderError):
        export(str(folder), "ollama", tmp_path / "out", template=str(numbered))
    qwen = (TEMPLATES / "qwen3.jinja").read_text()
    (tmp_path / "qwen.jinja").write_text(qwen)
    with pytest.raises(RenderError):
        export(str(folder), "ollama", tmp_path / "out", template=str(tmp_path / "qwen.jinja"))


def maieutic(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maieutic", *map(str, words)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    done = maieutic(
        "export",
        folder,
        "--to",
        "gguf",
        "--quantize",
        "q8_0",
        "--as",
        "user",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "run": str(tmp_path / "out" / "model.gguf"), "role": "user", "stops": ["<|im_end|>"], "context": 2048
    }  # fmt: skip
    wrong = maieutic("export", folder, "--to", "merged", "--quantize", "q8_0", "--out", tmp_path / "new")
    assert wrong.returncode == 2
    failed = maieutic("export", folder, "--to", "merged", "--out", tmp_path / "out")
    assert failed.returncode == 1 and len(failed.stderr.strip().splitlines()) == 2, failed.stderr
