"""Statistics of a corpus in one pass, and a figure of its turns and lengths."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maieutic.core.errors import EmptyCorpus, InputError, MissingExtra
from maieutic.core.json_rows import BadRows
from maieutic.core.messages import Conversation, Role
from maieutic.core.store import full_disk
from maieutic.core.words import pairwise_diversity
from maieutic.data.corpus import read_source
from maieutic.data.lengths import CountTokens, token_counter

if TYPE_CHECKING:
    from maieutic.data.steps import Stats

SAMPLE = 2000
"""Maximum number of first turns to compare; in a larger corpus the first turns with the smallest hashes are used."""
_QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def survey_file(step: Stats) -> tuple[Survey, BadRows]:
    """Count the corpus of a step."""
    bad = BadRows(step.strict)
    found = survey(read_source(step.corpus, bad), tokenizer=step.tokenizer, languages=step.languages)
    return found, bad


def survey(
    conversations: Iterable[Conversation], *, tokenizer: Path | str | None = None, languages: bool = True
) -> Survey:
    """Count a corpus, streaming.

    Args:
        conversations: at least one conversation.
        tokenizer: counts the tokens (see `lengths.token_counter`); without one they are estimated.
        languages: identify the languages, which takes most of the time; the result is null without py3langid.

    Raises:
        EmptyCorpus: there is no conversation.
        MissingInput, MissingExtra: the tokenizer cannot be loaded.
    """
    found = Survey(token_counter(tokenizer), _identifier() if languages else None, tokenizer)
    for conversation in conversations:
        found.add(conversation)
    if not found.conversations:
        raise EmptyCorpus("no conversation to count", "Give a corpus with conversations.")
    return found


def _identifier() -> Callable[[Conversation], str] | None:
    from maieutic.data.language import known_languages, language

    try:
        known_languages()
    except MissingExtra:
        return None
    return language


class Survey:
    """The counts of a corpus; memory: eight bytes for each turn and statistic.

    A *round* is a user turn followed by an assistant turn. Lengths are in characters, words between white space, and
    tokens. *First-turn diversity* is `core.words.pairwise_diversity` of the first user turns, from 0 to 100.
    """

    def __init__(
        self,
        count_tokens: CountTokens,
        identify: Callable[[Conversation], str] | None,
        tokenizer: Path | str | None,
    ) -> None:
        self.conversations = self.ended = self.problems = 0
        self.users: set[str] = set()
        self.sources: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.rounds, self.turns = array("l"), array("l")
        self.characters = {role: array("l") for role in Role}
        self.tokens = {role: array("l") for role in Role}
        """By role, one number per turn."""
        self.words: Counter[Role] = Counter()
        self.tokenizer = None if tokenizer is None else str(tokenizer)
        """The tokenizer that counted the tokens; null: estimated."""
        self._count, self._identify = count_tokens, identify
        self._firsts: list[tuple[int, int, str]] = []

    def add(self, conversation: Conversation) -> None:
        """Count one more conversation."""
        self.conversations += 1
        self.ended += conversation.ended
        self.problems += conversation.problem is not None
        if conversation.user_id is not None:
            self.users.add(conversation.user_id)
        self.sources[conversation.source or "unknown"] += 1
        self.licences[conversation.licence or "unknown"] += 1
        roles = [turn.role for turn in conversation.messages]
        self.rounds.append(sum(pair == (Role.USER, Role.ASSISTANT) for pair in pairwise(roles)))
        self.turns.append(sum(role != Role.SYSTEM for role in roles))
        sizes = self._count([turn.content for turn in conversation.messages])
        for turn, size in zip(conversation.messages, sizes, strict=True):
            self.characters[turn.role].append(len(turn.content))
            self.words[turn.role] += len(turn.content.split())
            self.tokens[turn.role].append(size)
        if self._identify:
            self.languages[self._identify(conversation)] += 1
        if first := conversation.turns(Role.USER)[:1]:
            self._sample(first[0])

    def _sample(self, text: str) -> None:
        order = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
        entry = (-order, self.conversations, text)
        if len(self._firsts) < SAMPLE:
            heapq.heappush(self._firsts, entry)
        elif entry > self._firsts[0]:
            heapq.heapreplace(self._firsts, entry)

    def json(self) -> dict[str, Any]:
        """The counts, by role where the role matters; an undefined value is null, and so are unidentified languages.

        `{"conversations", "rounds", "turns", "characters", "words", "tokens", "tokenizer", "lengths", "languages",
        "first_turn_diversity", "ended", "problems", "users", "sources", "licences"}`.
        """
        spoken = {role: lengths for role, lengths in self.characters.items() if len(lengths)}
        return {
            "conversations": self.conversations,
            "rounds": _quantiles(self.rounds),
            "turns": {role.value: len(lengths) for role, lengths in spoken.items()},
            "characters": {role.value: sum(lengths) for role, lengths in spoken.items()},
            "words": {role.value: self.words[role] for role in spoken},
            "tokens": {role.value: sum(self.tokens[role]) for role in spoken},
            "tokenizer": self.tokenizer,
            "lengths": {
                "turns": _quantiles(self.turns),
                **{f"{role.value}_characters": _quantiles(lengths) for role, lengths in spoken.items()},
                **{f"{role.value}_tokens": _quantiles(self.tokens[role]) for role in spoken},
            },
            "languages": dict(self.languages.most_common()) if self._identify else None,
            "first_turn_diversity": pairwise_diversity(
                [text for _, _, text in sorted(self._firsts)], interval=False
            ).json(),
            "ended": self.ended,
            "problems": self.problems,
            "users": len(self.users),
            "sources": dict(self.sources.most_common()),
            "licences": dict(self.licences.most_common()),
        }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    numbers = np.asarray(values, dtype=float)
    found = {name: float(np.quantile(numbers, share)) for name, share in _QUANTILES.items()}
    return {"mean": float(numbers.mean()), **found}


FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's blue and vermilion are distinct for colour-blind readers; the dashes are distinct in grey.
_LOOKS = {Role.USER: ("#0072B2", "-"), Role.ASSISTANT: ("#D55E00", "--")}
_BAR = "#56B4E9"


def draw(survey: Survey, path: Path | str) -> Path:
    """Draw a survey into a `.png`, `.svg` or `.pdf` file: turns per conversation, and tokens per turn by role.

    Raises:
        InputError: the name has another suffix.
        MissingExtra: matplotlib is not installed.
    """
    path = Path(path)
    check_name(path)
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra(
            "drawing needs matplotlib", "Install it: pip install 'maieutic[report]'."
        ) from None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _turns(left, survey)
    _lengths(right, survey)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    with full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # No date and no random ids in the file, so the same corpus gives the same file.
        dateless = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with rc_context({"svg.hashsalt": "maieutic"}):
            figure.savefig(path, dpi=200, metadata=dateless[path.suffix.lower()])
    return path


def check_name(path: Path) -> None:
    """Refuse a file name with an unknown suffix before any work is done.

    Raises:
        InputError: the name does not end in one of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"{path}: a figure cannot be written in this format", f"End the name in {', '.join(FORMATS)}."
        )


def _turns(panel: Any, survey: Survey) -> None:
    turns = np.asarray(survey.turns)
    # The few longest conversations would squeeze all others into one bar.
    most = max(2, int(np.quantile(turns, 0.99)))
    panel.hist(
        np.minimum(turns, most),
        bins=np.arange(0.5, most + 1.5, max(1, most // 40)),
        color=_BAR,
        edgecolor="white",
    )
    median = float(np.median(turns))
    panel.axvline(median, color="black", linewidth=1, linestyle=":")
    panel.annotate(
        f"median {median:g}", (median, 0.98), xycoords=("data", "axes fraction"), xytext=(4, 0),
        textcoords="offset points", va="top", fontsize=9,
    )  # fmt: skip
    over = int((turns > most).sum())
    panel.set_xlabel("turns" + (f" ({over} of more than {most} in the last bar)" if over else ""))
    panel.set_ylabel("conversations")
    panel.set_title(f"{survey.conversations:,} conversations", fontsize=11)


def _lengths(panel: Any, survey: Survey) -> None:
    spoken = {
        role: np.maximum(1, np.asarray(survey.tokens[role])) for role in _LOOKS if len(survey.tokens[role])
    }
    if spoken:
        longest = max(int(lengths.max()) for lengths in spoken.values())
        bins = np.unique(np.geomspace(1, longest + 1, 40).round())
        bins = bins if len(bins) > 1 else np.array([0.5, 1.5])
        for role, lengths in spoken.items():
            colour, dash = _LOOKS[role]
            shares = np.histogram(lengths, bins)[0] / len(lengths)
            label = f"{role.value} (median {np.median(lengths):g})"
            panel.stairs(100 * shares, bins, color=colour, linestyle=dash, linewidth=1.8, label=label)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.legend(frameon=False, fontsize=9)
    panel.set_xlabel("tokens a turn" + ("" if survey.tokenizer else ", estimated"))
    panel.set_ylabel("% of the side's turns")
    panel.set_title("length by role", fontsize=11)
