"""The language of a conversation, and whether the conversation is about translation.

py3langid identifies the language. Its model is part of the package, so it needs no network and is reproducible. Code,
formulas and links are removed from the text first. A text counts as another language only if that language is much
likelier than every wanted language.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

from maieutic.core.errors import InputError, MissingExtra
from maieutic.core.messages import Conversation, Role

TIMES = 200.0
"""A text with at least this likelihood ratio is not in a wanted language. "Hola, necesito ayuda con mi tarea"
is Spanish with a ratio of 800 to English; among 1,342 turns of real English chats the largest ratio was 110."""
UNKNOWN = "und"
"""The code of a text whose language is unknown."""
_SAMPLE = 500
_A_TURN = 250
_ENOUGH = 60
"""User turns of at least this many UTF-8 bytes decide alone. Short texts are unreliable: a rare name makes "What was
Kampuchea?" look like Swahili."""
_NO_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)|https?://\S+|<[^<>\n]{1,200}>|\[[A-Z]+\]"
    r"|^[^\n]*(?:[={};]|\w\()[^\n]*$",  # a line of code outside a fence
    re.DOTALL | re.MULTILINE,
)
_NOT_LATIN = re.compile(r"[^\u0000-\u024f\u1e00-\u1eff\u2000-\u206f]+")
_LANGUAGES = (
    "(?:english|german|french|spanish|italian|portuguese|dutch|russian|ukrainian|polish|turkish|arabic|hebrew|persian"
    "|hindi|chinese|mandarin|japanese|korean|vietnamese|latin|greek|swedish|norwegian|danish|finnish|icelandic|czech"
    "|hungarian|romanian|thai|indonesian|malay)"
)
_TRANSLATION = re.compile(
    r"\btranslat(?:e|es|ed|ing|ion|ions|or)\b|\bhow (?:do|would|can|should) (?:you|i|we|one) say\b"
    rf"|\bwhat(?:['’]s| is| does)\b.{{1,80}}\bin {_LANGUAGES}\b|\b(?:into|{_LANGUAGES} to) {_LANGUAGES}\b"
    r"|übersetz|traduc|traduis|traduire|traduz|vertaal|przetłumacz|tłumacz|перевед|перевод|переклад|翻译|翻譯|翻訳|訳して"
    r"|번역|ترجم|अनुवाद|çevir"
    r"|wie sagt man|comment (?:dit-on|dire)|c[oó]mo se (?:dice|diz)|come si dice|怎么说|怎麼說"
    r"|как сказать|по-(?:английски|немецки|французски|испански|русски)",
    re.IGNORECASE,
)


class Guess(NamedTuple):
    """The likeliest language, and its likelihood ratio."""

    code: str
    """An ISO 639 code, or `und`."""
    times: float
    """Likelihood ratio to the likeliest wanted language; at most 1 if the language itself is wanted."""


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra(
            "identifying languages needs py3langid", "Install it: pip install 'maieutic[data]'."
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def known_languages() -> frozenset[str]:
    """The language codes that py3langid knows.

    Raises:
        MissingExtra: py3langid is not installed.
    """
    return frozenset(map(str, _identifier().nb_classes)) - {"zxx"}


def check_codes(codes: Collection[str]) -> None:
    """Check that py3langid knows the codes.

    Raises:
        InputError: a code is unknown.
    """
    if unknown := sorted(set(codes) - known_languages()):
        raise InputError(
            f"unknown language {', '.join(map(repr, unknown))}", "Give ISO 639 codes: en, de, fr, zh, …"
        )


def guess(text: str, wanted: Collection[str] = ()) -> Guess:
    """The likeliest language of a text; `und` if unknown.

    Args:
        text: any text; its first 500 characters outside code and formulas decide.
        wanted: the languages to compare with; by default the next likeliest.
    """
    text = prose(text[: 4 * _SAMPLE])[:_SAMPLE]
    if not any(map(str.isalpha, text)):
        return Guess(UNKNOWN, 1.0)
    if wanted and (code := _identifier().classify(text)[0]) in wanted:
        return Guess(code, 1.0)  # true of nearly all texts of most corpora; ranking would double the time
    (code, score), *others = _identifier().rank(text)
    if code == "zxx":
        return Guess(UNKNOWN, 1.0)
    rival = max(other for name, other in others if not wanted or name in wanted or name == "zxx")
    return Guess(code, math.exp(min(700.0, float(score - rival))))


def prose(text: str) -> str:
    """The text without code, formulas, links and tags; a mostly Latin text also loses words of other scripts."""
    text = _NO_PROSE.sub(" ", text)
    if text.isascii():
        return text
    letters = sum(map(str.isalpha, text))
    foreign = sum(1 for found in _NOT_LATIN.finditer(text) for char in found[0] if char.isalpha())
    return _NOT_LATIN.sub(" ", text) if foreign * 2 < letters else text


def sample(conversation: Conversation, *roles: Role) -> str:
    """The first texts of each of the roles, cut short."""
    parts: list[str] = []
    for role in roles:
        left = _SAMPLE // len(roles)
        for text in conversation.turns(role):
            part = prose(text[: 4 * _A_TURN])[:_A_TURN].strip()
            parts.append(part[:left])
            left -= len(parts[-1])
            if left <= 0:
                break
    return "\n".join(parts)


def other_language(conversation: Conversation, wanted: Collection[str]) -> str | None:
    """The language of a conversation that is clearly in no wanted language; None if it may be in a wanted language.

    The user's turns decide; the assistant's count too if the user's are short or unclear.
    """
    found = _conversation_language(conversation, wanted)
    return found.code if found.code not in wanted and found.times >= TIMES else None


def language(conversation: Conversation) -> str:
    """The likeliest language of a conversation, judged by the user's turns first; `und` if unclear."""
    found = _conversation_language(conversation)
    return found.code if found.times >= 2 else UNKNOWN


def _conversation_language(conversation: Conversation, wanted: Collection[str] = ()) -> Guess:
    asked = sample(conversation, Role.USER)
    found = guess(asked, wanted)
    is_sure = found.times >= TIMES and found.code != UNKNOWN and len(asked.encode()) >= _ENOUGH
    if found.code in wanted or is_sure:
        return found
    return guess(sample(conversation, Role.USER, Role.ASSISTANT), wanted)


def asks_to_translate(conversation: Conversation) -> bool:
    """Whether the user asks for a translation, or how something is said in another language."""
    return any(_TRANSLATION.search(text[:4000]) for text in conversation.turns(Role.USER))
