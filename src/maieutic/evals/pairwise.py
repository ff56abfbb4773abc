"""Recorded comparisons of two tutors: who wins, and how much the place decides. Nothing is judged again here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maieutic.core import statistics as stats
from maieutic.core.errors import InputError
from maieutic.core.messages import fingerprint
from maieutic.evals.files import Row, read_table

_WORTH = {"a": 1.0, "b": 0.0, "tie": 0.5}


class _Game(NamedTuple):
    at: int
    """Its pair's place in the file."""
    unit: str
    """Its dialogue."""
    row: Mapping[str, Any]

    @property
    def better(self) -> Any:
        return self.row.get("better")

    @property
    def judge(self) -> str:
        return str(self.row.get("judge"))


def score(path: Path | str) -> dict[str, Any]:
    """What a pairwise stage holds, from its rows alone; rates are of A against B.

    Returns:
        `win`, `loss`, `tie`, `n` (their sum), `unscored`; `win_rate`: (W + T/2)/(W + L + T); `position_bias`: of the
        games that did not end in a tie, the share won by the reply that stood first (.5: none); `inconsistent`: of
        the votes of two readable games, the share in which the games differ; `decided`: pairs by who decided them;
        `judges`: position_bias and inconsistent of each judge. Estimates resample dialogues.

    Raises:
        InputError: the rows are no comparisons.
    """
    rows, notes = read_table(path)
    winners = [_winner(row, at, path) for at, row in enumerate(rows)]
    units = [fingerprint(row.get("messages")) for row in rows]
    scored = [(_WORTH[side], unit) for side, unit in zip(winners, units, strict=True) if side is not None]
    counts = Counter(winners)
    games = [
        _Game(at, unit, game)
        for at, (row, unit) in enumerate(zip(rows, units, strict=True))
        for game in row.get("games") or ()
    ]
    judges = dict.fromkeys(game.judge for game in games)
    return {
        "win": counts["a"],
        "loss": counts["b"],
        "tie": counts["tie"],
        "n": len(scored),
        "unscored": counts[None],
        "win_rate": stats.mean([worth for worth, _ in scored], [unit for _, unit in scored]).json(),
        **_places(games),
        "decided": dict(Counter(str(row.get("decided")) for row in rows)),
        "judges": {name: _places([game for game in games if game.judge == name]) for name in judges},
        "notes": notes,
    }


def _winner(row: Row, at: int, path: Path | str) -> str | None:
    side = row.get("winner", "")
    games = row.get("games", [])
    fits = isinstance(games, list) and all(isinstance(game, Mapping) for game in games)
    if not fits or not (side is None or side in _WORTH):
        raise InputError(
            f"{path}, row {at + 1}: no comparison of two replies",
            "Give what `eval tutor pairwise` wrote: its --out folder, or its rows.jsonl.",
        )
    return None if side is None else str(side)


def _places(games: Sequence[_Game]) -> dict[str, Any]:
    """What the places did to the games."""
    won = [game for game in games if game.better in ("a", "b")]
    bias = stats.proportion(
        [float(game.row.get("first") == game.better) for game in won], [game.unit for game in won]
    )
    votes: dict[tuple[Any, ...], list[Any]] = {}
    for game in games:
        votes.setdefault((game.unit, game.at, game.judge, game.row.get("draw")), []).append(game.better)
    whole = [(key[0], sides) for key, sides in votes.items() if len(sides) == 2 and None not in sides]
    differ = stats.proportion([float(a != b) for _, (a, b) in whole], [unit for unit, _ in whole])
    return {"position_bias": bias.json(), "inconsistent": differ.json()}
