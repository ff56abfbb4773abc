"""`maieutic eval mt-bench|vicuna-bench|alpaca-eval …`: the public benchmarks, from answers to numbers.

The `score` and `pairwise` forms work on files alone, with no model and no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maieutic.cli.printing import printed, say_reasons, span
from maieutic.core.console import Json, print_json, say, table

_SETTINGS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}

mt_app = typer.Typer(help="MT-Bench, in FastChat's files.", **_SETTINGS)
vicuna_app = typer.Typer(help="Vicuna-Bench: MT-Bench with one turn.", **_SETTINGS)
alpaca_app = typer.Typer(help="AlpacaEval, in its own files.", **_SETTINGS)

_COUNTS = ("failed", "cut", "unscored", "without_reference", "weighted", "equal")

Judgments = Annotated[
    list[Path], typer.Option("--judgments", help="FastChat's judgment JSONL; may be repeated.")
]
Questions = Annotated[Path | None, typer.Option(help="FastChat's question file, for scores by category.")]
References = Annotated[
    Path | None,
    typer.Option(
        help="Reference answers; default: what reference_answer/ beside the questions holds, else their own."
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="File to write. Rows gather in OUT.run beside it, where the same command goes on after a stop; "
        "the file is made of them when all are there."
    ),
]
Name = Annotated[str | None, typer.Option(help="The model's name in the file; default: its MODEL.")]
JudgeModel = Annotated[str, typer.Option("--judge", help="MODEL that judges.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="New tokens of a reply.")]
Seed = Annotated[int, typer.Option(help="Item i is drawn with seed + i.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many.")]
Template = Annotated[str | None, typer.Option(help="Of hf/ models: chat, dyadic, plain or a file.")]
System = Annotated[str | None, typer.Option(help="System text put before every conversation.")]
Batch = Annotated[int, typer.Option(min=1, help="Of hf/ models: rows decoded together.")]
Device = Annotated[str | None, typer.Option(help="Of hf/ models, such as cuda.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Calls under way at once.")]
Attempts = Annotated[int, typer.Option(min=1, help="Calls a reply may take.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one reply, attempts together.")]
FailureRate = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Share of failures, or of unreadable verdicts, past which the run fails."
    ),
]


def add_to(evals: typer.Typer) -> None:
    """Add the benchmarks' commands to `eval`."""
    for name, inner in (("mt-bench", mt_app), ("vicuna-bench", vicuna_app), ("alpaca-eval", alpaca_app)):
        evals.add_typer(inner, name=name)


def bench_answer(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="MODEL that answers.")],
    questions: Annotated[Path, typer.Option(help="FastChat's question.jsonl.")],
    out: Out,
    name: Name = None,
    references: References = None,
    max_tokens: MaxTokens = 1024,
    seed: Seed = 0,
    limit: Limit = None,
    template: Template = None,
    system: System = None,
    batch: Batch = 16,
    device: Device = None,
    concurrency: Concurrency = 32,
    attempts: Attempts = 8,
    timeout: Timeout = 600.0,
    max_failure_rate: FailureRate = 0.05,
    as_json: Json = False,
) -> None:
    """Answer the questions, at the temperature of each category.

    Example: maieutic eval mt-bench answer --model openai/NAME --questions question.jsonl --out answers.jsonl
    """
    from maieutic.evals import mt_answer
    from maieutic.models import ModelOptions, load

    reach = ModelOptions(
        template=template,
        system=system,
        batch=batch,
        device=device,
        attempts=attempts,
        timeout=timeout,
        concurrency=concurrency,
    )
    result = mt_answer.answer(
        load(model, reach),
        questions,
        out,
        name=name,
        turns=_turns(context),
        references=references,
        max_tokens=max_tokens,
        seed=seed,
        limit=limit,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
    )
    _said(f"{result.answers} questions answered", result, as_json)


def bench_judge(
    context: typer.Context,
    answers: Annotated[list[Path], typer.Option(help="Answers in FastChat's form; may be repeated.")],
    judge: JudgeModel,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; default: STEM_single.jsonl or STEM_pair.jsonl beside the answers. Rows gather in "
            "OUT.run beside it, where the same command goes on after a stop."
        ),
    ] = None,
    pairwise: Annotated[
        str | None,
        typer.Option(
            metavar="BASELINE", help="Compare with this model, or file of answers, instead of rating."
        ),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="FastChat's question.jsonl; default: as the answers carry them.")
    ] = None,
    references: References = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Judge prompts in FastChat's form (judge_prompts.jsonl); default: our own."),
    ] = None,
    max_tokens: MaxTokens = 2048,
    template: Template = None,
    concurrency: Concurrency = 32,
    attempts: Attempts = 8,
    timeout: Timeout = 600.0,
    max_failure_rate: FailureRate = 0.05,
    as_json: Json = False,
) -> None:
    """Judge answers: rate each turn, or compare it with a baseline's in both orders.

    Example: maieutic eval mt-bench judge --answers answers.jsonl --judge openai/NAME --out judgments.jsonl
    """
    from maieutic.evals import mt_judge
    from maieutic.models import ModelOptions, load

    reach = ModelOptions(template=template, attempts=attempts, timeout=timeout, concurrency=concurrency)
    result = mt_judge.judge(
        answers,
        load(judge, reach),
        out,
        baseline=pairwise,
        questions=questions,
        references=references,
        prompts=prompts,
        turns=_turns(context),
        max_tokens=max_tokens,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
    )
    _said(f"{result.judged} judgments", result, as_json)


def _turns(context: typer.Context) -> int:
    """Turns of a question in the benchmark whose command this is."""
    return 1 if context.parent and context.parent.info_name == "vicuna-bench" else 2


def bench_pairwise(
    context: typer.Context,
    judgments: Judgments,
    baseline: Annotated[str | None, typer.Option(help="Only the matches against this model.")] = None,
    as_json: Json = False,
) -> None:
    """Wins, losses and ties over two games with the answers swapped.

    Example: maieutic eval mt-bench pairwise --judgments gpt-4_pair.jsonl --baseline gpt-3.5-turbo
    """
    from maieutic.evals import mt_bench

    result = mt_bench.pairwise(judgments, baseline, _turns(context))
    if printed(result, as_json):
        return
    rows: list[tuple[object, ...]] = []
    for name, m in result["models"].items():
        wins, adjusted = (
            (word, m[key], span(m[f"{key}_ci"]))
            for word, key in (("win rate", "win_rate"), ("adjusted", "adjusted_win_rate"))
        )
        rows += [(name, m["win"], m["loss"], m["tie"], m["n"], *wins), ("", "", "", "", "", *adjusted)]
    counts = f"{result['dropped']} rows dropped, {result['strict_ties']} ties in both games"
    say(f"{counts}, {result['inconsistent']} rows where the games differ")
    table("", ("model", "win", "loss", "tie", "n", "", "value", "95 %"), rows)
    say_reasons(result["models"])


for _name, _app in (("mt-bench", mt_app), ("vicuna-bench", vicuna_app)):
    for _word, _command in (("answer", bench_answer), ("judge", bench_judge), ("pairwise", bench_pairwise)):
        _app.command(_word, help=str(_command.__doc__).replace("mt-bench", _name))(_command)


@mt_app.command("score")
def mt_bench_score(judgments: Judgments, questions: Questions = None, as_json: Json = False) -> None:
    """Turn scores and their pooled average, as FastChat counts them.

    Example: maieutic eval mt-bench score --judgments gpt-4_single.jsonl --questions question.jsonl
    """
    _bench_score(judgments, questions, 2, as_json)


@vicuna_app.command("score")
def vicuna_bench_score(judgments: Judgments, questions: Questions = None, as_json: Json = False) -> None:
    """First-turn scores, as FastChat counts them.

    Example: maieutic eval vicuna-bench score --judgments gpt-4_single.jsonl
    """
    _bench_score(judgments, questions, 1, as_json)


def _bench_score(judgments: list[Path], questions: Path | None, turns: int, as_json: bool) -> None:
    from maieutic.evals import mt_bench

    result = mt_bench.score(judgments, questions, turns)
    if printed(result, as_json):
        return
    parts = ("first_turn", "second_turn", "average") if turns > 1 else ("first_turn",)
    rows = [
        ("" if place else name, *_mean(part, m))
        for name, m in result["models"].items()
        for place, part in enumerate(parts)
    ]
    table("scores, 1 to 10", ("model", "", "mean", "95 %", "questions"), rows)
    by_category = [
        ("" if place else name, category, *_mean("average", of)[1:])
        for name, m in result["models"].items()
        for place, (category, of) in enumerate(m["by_category"].items())
    ]
    if by_category:
        table("average by category", ("model", "category", "mean", "95 %", "questions"), by_category)
    keys = ("rows", "unscored", "duplicates")
    table("judgments", ("model", *keys), [(name, *map(m.get, keys)) for name, m in result["models"].items()])
    say_reasons(result["models"], (*parts, "se"))


def _mean(name: str, shape: dict[str, Any]) -> tuple[object, ...]:
    return name.replace("_", " "), shape[name], span(shape[f"{name}_ci"]), shape[f"{name}_questions"]


@alpaca_app.command("answer")
def alpaca_eval_answer(
    model: Annotated[str, typer.Option(help="MODEL that answers.")],
    instructions: Annotated[
        Path,
        typer.Option("--instructions", "--questions", help="AlpacaEval's set: JSON rows with instruction."),
    ],
    out: Out,
    name: Name = None,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    max_tokens: MaxTokens = 2048,
    seed: Seed = 0,
    limit: Limit = None,
    template: Template = None,
    system: System = None,
    batch: Batch = 16,
    device: Device = None,
    concurrency: Concurrency = 32,
    attempts: Attempts = 8,
    timeout: Timeout = 600.0,
    max_failure_rate: FailureRate = 0.05,
    as_json: Json = False,
) -> None:
    """Answer the instructions, as AlpacaEval's model_outputs.json.

    Example: maieutic eval alpaca-eval answer --model openai/NAME --instructions alpaca_eval.json --out outputs.json
    """
    from maieutic.evals import alpaca_answer
    from maieutic.models import ModelOptions, load

    reach = ModelOptions(
        template=template,
        system=system,
        batch=batch,
        device=device,
        attempts=attempts,
        timeout=timeout,
        concurrency=concurrency,
    )
    result = alpaca_answer.answer(
        load(model, reach),
        instructions,
        out,
        name=name,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        limit=limit,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
    )
    _said(f"{result.outputs} instructions answered", result, as_json)


@alpaca_app.command("judge")
def alpaca_eval_judge(
    outputs: Annotated[
        Path,
        typer.Option("--outputs", "--answers", help="The model's outputs, AlpacaEval's model_outputs.json."),
    ],
    reference: Annotated[
        Path, typer.Option("--reference", "--references", help="The reference's outputs, in the same form.")
    ],
    judge: JudgeModel,
    out: Out,
    prompt: Annotated[
        str, typer.Option(help="A .md file of your own wording that asks for m or M.")
    ] = "alpaca_eval_pair",
    max_tokens: Annotated[
        int, typer.Option(min=1, help="New tokens of a verdict; a judge that thinks first needs more.")
    ] = 16,
    template: Template = None,
    concurrency: Concurrency = 32,
    attempts: Attempts = 8,
    timeout: Timeout = 600.0,
    max_failure_rate: FailureRate = 0.05,
    as_json: Json = False,
) -> None:
    """Compare outputs with a reference's, as AlpacaEval's annotations.json.

    Example: maieutic eval alpaca-eval judge --outputs outputs.json --reference alpaca_eval.json
    --judge openai/NAME --out annotations.json
    """
    from maieutic.evals import alpaca_judge
    from maieutic.models import ModelOptions, load

    reach = ModelOptions(template=template, attempts=attempts, timeout=timeout, concurrency=concurrency)
    result = alpaca_judge.judge(
        outputs,
        reference,
        load(judge, reach),
        out,
        prompt=prompt,
        max_tokens=max_tokens,
        concurrency=concurrency,
        max_failure_rate=max_failure_rate,
    )
    _said(f"{result.judged} annotations", result, as_json)


@alpaca_app.command("score")
def alpaca_eval_score(
    annotations: Annotated[Path, typer.Option(help="AlpacaEval's annotations.json.")],
    length_controlled: Annotated[
        Path | None,
        typer.Option(
            metavar="DF_GAMED.CSV",
            help="Also the length-controlled rate, with this file of the data set tatsu-lab/alpaca_eval.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Win rate and its standard error, as AlpacaEval computes them.

    Example: maieutic eval alpaca-eval score --annotations annotations.json
    """
    from maieutic.evals import alpaca_eval

    result = alpaca_eval.score(annotations)
    if length_controlled:
        from maieutic.evals.alpaca_length import length_controlled as controlled

        result |= controlled(annotations, length_controlled)
    if printed(result, as_json):
        return
    say(
        f"{annotations}: {result['n']} comparisons ({result['wins']} won, {result['losses']} lost, "
        f"{result['draws']} drawn), {result['dropped']} dropped"
    )
    rates = (("win_rate", "standard_error"), ("discrete_win_rate", None), ("avg_length", None),
             ("length_controlled_winrate", "lc_standard_error"))  # fmt: skip
    rows = [
        (
            name,
            result[name],
            result.get(error or ""),
            span(result.get(f"{name}_ci")),
            result.get(f"{name}_n", result["n"]),
        )
        for name, error in rates
        if name in result
    ]
    table("", ("", "value", "standard error", "95 %", "n"), rows)
    say_reasons({"": result})


def _said(first: str, result: Any, as_json: bool) -> None:
    """What a stage made: JSON, or a line for people."""
    counts = result._asdict()
    if as_json:
        print_json(counts)
        return
    rest = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in _COUNTS if name in counts)
    say(f"{first}, {rest}, in {counts['out']}")
    calls = (
        f"{counts['replies']} replies, {counts['tokens']} tokens"
        if "replies" in counts
        else f"{counts['calls']} calls"
    )
    say(f"this call: {calls}, {counts['seconds']} s")
