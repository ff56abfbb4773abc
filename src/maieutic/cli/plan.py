"""What `--dry-run` prints: the plan of a recipe, or the estimated cost of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maieutic.core.console import note, print_json, say, table
from maieutic.core.costs import Flow, total_cost
from maieutic.core.step import Step
from maieutic.recipes import runner
from maieutic.recipes.utility import EvalUtility


def show_step(step: Step, out: Path, json: bool) -> None:
    """Print what a step would do and cost."""
    if isinstance(step, runner.Run) or (isinstance(step, EvalUtility) and not step.arms):
        show_plan(step.plan(out), json)
        return
    from maieutic.models.checkpoint import parameters

    flow = Flow(count=parameters)
    step.declare_models(out, flow)
    cost = step.expect(out, flow)
    missing = [str(path) for path in step.inputs() if not path.exists()]
    if json:
        print_json({"step": step.command, "does": step.describe(), **cost._asdict(), "missing": missing})
        return
    say(f"{step.command}: {step.describe()}")
    rows = [
        ("calls", _count(cost.calls)),
        ("tokens written at most, or trained on", _count(cost.tokens)),
        ("hours", _hours(cost.hours)),
        ("dollars", _dollars(cost.usd)),
        ("GPU memory", _memory(cost.gpu_bytes)),
    ]
    table("estimated cost", ("", ""), rows)
    for name in missing:
        note(f"{name}: no such file or folder")


def show_plan(plan: Any, json: bool) -> None:
    """Print what a plan would do and cost."""
    lines = runner.expected_costs(plan)
    if json:
        stages = [
            {"name": line.stage, "does": line.does, "done": line.done, **line.cost._asdict()}
            for line in lines
        ]
        missing = [str(path) for path in runner.missing_files(plan)]
        print_json(
            {
                "recipe": plan.name,
                "run": str(plan.out),
                "values": plan.values,
                "stages": stages,
                "total": total_cost(line.cost for line in lines)._asdict(),
                "rates": plan.rates.model_dump(),
                "missing": missing,
            }
        )
        return
    priced = any(line.cost.usd is not None for line in lines)
    width = max(len(line.stage) for line in lines) + 2
    rows = [
        (
            f"{'✓' if line.done else ' '} {line.stage:<{width}}{line.does}",
            _count(line.cost.calls),
            _count(line.cost.tokens),
            _hours(line.cost.hours),
            *([_dollars(line.cost.usd)] if priced else []),
            _memory(line.cost.gpu_bytes),
        )
        for line in lines
    ]
    total = total_cost(line.cost for line in lines)
    rows.append(
        (
            f"  {'in all':<{width}}",
            _count(total.calls),
            _count(total.tokens),
            _hours(total.hours),
            *([_dollars(total.usd)] if priced else []),
            _memory(total.gpu_bytes),
        )
    )
    table(
        f"{plan.name}: {len(lines)} stages in {plan.out}",
        (
            f"  {'stage':<{width}}does",
            "calls",
            "tokens",
            "hours",
            *(["dollars"] if priced else []),
            "GPU memory",
        ),
        rows,
    )
    note(
        "tokens: written at most, or trained on; memory: weights and optimizer. – : not known beforehand, or none"
    )
    rates = plan.rates
    note(
        "hours: a rough estimate for stages run one after the other on one GPU. "
        f"A server writes {rates.served:g} tokens a second, a model of 7e9 weights here {rates.local:g}, "
        f"training reaches {rates.flops:g} FLOP/s; --rate changes them"
    )
    if unknown := [line.stage for line in lines if _untold(line)]:
        note(f"not in the totals, since their hours are unknown: {', '.join(unknown)}")
    for path in runner.missing_files(plan):
        note(f"{path}: no such file or folder; a run would stop before its first stage")


def _untold(line: Any) -> bool:
    """Whether a stage has work whose hours are not known."""
    return line.cost.hours is None and bool(line.cost.tokens or line.cost.gpu_bytes)


def _hours(value: float | None) -> str | None:
    return None if not value else f"{value:.1f}" if value >= 0.05 else "< 0.1"


def _dollars(value: float | None) -> str | None:
    return None if value is None else f"{value:,.2f}"


def _memory(value: int | None) -> str | None:
    if not value:
        return None
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 / 10 else f"{value / 2**20:.1f} MiB"


def _count(value: int | None) -> str | None:
    return f"{value:,}" if value else None
