"""The command line: the commands are generated from the steps; errors become two lines."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from maieutic.core.errors import MaieuticError

if TYPE_CHECKING:
    from maieutic.core.step import Step

app = typer.Typer(
    name="maieutic",
    help="Train either side of a conversation: user simulators, assistants, Socratic tutors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

_EXTRAS = {
    **dict.fromkeys(("markdownify", "py3langid", "rensa"), "data"),
    **dict.fromkeys(("accelerate", "datasets", "huggingface_hub", "peft", "pyarrow"), "train"),
    **dict.fromkeys(("safetensors", "tokenizers", "torch", "transformers", "trl"), "train"),
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    "gguf": "export",
}
"""The extra that installs a library, for the error where an import fails."""


def main() -> None:
    """The entry point. Exit status: 0 done, 1 failed, 2 wrong call."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    gather()
    try:
        app(prog_name="maieutic")
    except MaieuticError as error:
        _fail(error.what, error.hint)
    except SystemExit as stopped:
        if stopped.code == 130:  # Ctrl-C
            sys.stderr.write("\nstopped; the same command resumes\n")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        hint = f"Run: python -m pip install 'maieutic[{_EXTRAS[package]}]'"
        _fail(f"this needs {package}, which is not installed", hint)
    except OSError as error:
        if not (error.filename and error.strerror):
            raise
        # Refused by the system: a name that is too long, a file that may not be read.
        _fail(f"{error.filename}: {error.strerror}", "Choose a path that can be read and written.")


def _fail(what: str, hint: str) -> NoReturn:
    """Print the error in two lines, without the line breaks inside it."""
    from maieutic.core.console import note

    note("\n  ".join(" ".join(part.split("\n")) for part in (f"error: {what}", hint)))
    sys.exit(1)


GROUPS = {
    "train": "Fine-tune a model: `train sft` on conversations, `train dpo` on preferences.",
    "eval": "Measure simulators, tutors, assistants and judges.",
    "eval tutor": "Single replies of a tutor, judged by people or models.",
    "eval judge": "A judge compared with people.",
    "eval dialogue": "Whole dialogues of tutors with students.",
    "eval mt-bench": "MT-Bench, in FastChat's files.",
    "eval vicuna-bench": "Vicuna-Bench: MT-Bench with one turn.",
    "eval alpaca-eval": "AlpacaEval, in its own files.",
    "eval utility": "How useful a simulated corpus is for training an assistant.",
}


def steps() -> tuple[type[Step], ...]:
    """The steps that have a command, in the order of `--help`."""
    from maieutic.cli.demo import Demo
    from maieutic.recipes.runner import Run
    from maieutic.recipes.steps import STEPS
    from maieutic.report.steps import Report
    from maieutic.rollouts.chat import Chat
    from maieutic.serving.export import Export
    from maieutic.serving.server import Serve
    from maieutic.train.mask import Mask

    return (Demo, Run, *STEPS, Report, Mask, Chat, Export, Serve)


def gather() -> None:
    """Add the commands of all steps, in the order of the pipeline; no step's class imports a heavy library."""
    from maieutic.cli import generate

    if not app.registered_commands:
        generate.add({"": app}, steps(), GROUPS)
