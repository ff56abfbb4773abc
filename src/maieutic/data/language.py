"""Which language people speak in a conversation, and whether it is about translating.

The identifier is py3langid: its model comes inside the package, so it needs no network and says the same everywhere.
Code, mathematics and links are left out before it looks, and it may say that it cannot tell: a text is in another
language only where that is much likelier than any wanted one.
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
"""How much likelier a language must be than the wanted ones. "Hola, necesito ayuda con mi tarea" is Spanish 800 times
likelier than English; of 1,342 turns of real English chats none was another language beyond 110 times."""
UNKNOWN = "und"
"""The code of what is no language, or cannot be told."""
_SAMPLE = 500
_A_TURN = 250
_ENOUGH = 60
"""UTF-8 bytes from which a side is judged alone: a rare name makes "What was Kampuchea?" look like Swahili."""
_NO_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)|https?://\S+|<[^<>\n]{1,200}>|\[[A-Z]+\]"
    r"|^[^\n]*(?:[={};]|\w\()[^\n]*$",  # a line of code outside a fence
    re.DOTALL | re.MULTILINE,
)
_NOT_LATIN = re.compile(r"[^\u0000-\u024f\u1e00-\u1eff\u2000-\u206f]+")
_TONGUE = (
    "(?:english|german|french|spanish|italian|portuguese|dutch|russian|ukrainian|polish|turkish|arabic|hebrew|persian"
    "|hindi|chinese|mandarin|japanese|korean|vietnamese|latin|greek|swedish|norwegian|danish|finnish|icelandic|czech"
    "|hungarian|romanian|thai|indonesian|malay)"
)
_TRANSLATION = re.compile(
    r"\btranslat(?:e|es|ed|ing|ion|ions|or)\b|\bhow (?:do|would|can|should) (?:you|i|we|one) say\b"
    rf"|\bwhat(?:['’]s| is| does)\b.{{1,80}}\bin {_TONGUE}\b|\b(?:into|{_TONGUE} to) {_TONGUE}\b"
    r"|übersetz|traduc|traduis|traduire|traduz|vertaal|przetłumacz|tłumacz|перевед|перевод|переклад|翻译|翻譯|翻訳|訳して"
    r"|번역|ترجم|अनुवाद|çevir"
    r"|wie sagt man|comment (?:dit-on|dire)|c[oó]mo se (?:dice|diz)|come si dice|怎么说|怎麼說"
    r"|как сказать|по-(?:английски|немецки|французски|испански|русски)",
    re.IGNORECASE,
)


class Guess(NamedTuple):
    """A language and how sure it is."""

    code: str
    """ISO 639, or `und`."""
    times: float
    """How much likelier than any of the wanted languages; at most 1 where it is one of them."""


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra(
            "telling languages apart needs py3langid", "Install it: pip install 'maieutic[data]'."
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def known_languages() -> frozenset[str]:
    """The codes the identifier knows.

    Raises:
        MissingExtra: py3langid is not installed.
    """
    return frozenset(map(str, _identifier().nb_classes)) - {"zxx"}


def check_codes(codes: Collection[str]) -> None:
    """Refuse a code that could never be found.

    Raises:
        InputError: there is one.
    """
    if unknown := sorted(set(codes) - known_languages()):
        raise InputError(
            f"unknown language {', '.join(map(repr, unknown))}", "Give ISO 639 codes: en, de, fr, zh, …"
        )


def guess(text: str, wanted: Collection[str] = ()) -> Guess:
    """The likeliest language of a text, `und` where nothing is likely or the text is none.

    Args:
        text: any; its first 500 characters outside code and formulas decide.
        wanted: the languages it is compared with; without any, with the next likeliest.
    """
    text = prose(text[: 4 * _SAMPLE])[:_SAMPLE]
    if not any(map(str.isalpha, text)):
        return Guess(UNKNOWN, 1.0)
    if wanted and (code := _identifier().classify(text)[0]) in wanted:
        return Guess(code, 1.0)  # in most corpora that is nearly all, and ranking takes as long again
    (code, score), *others = _identifier().rank(text)
    if code == "zxx":
        return Guess(UNKNOWN, 1.0)
    rival = max(other for name, other in others if not wanted or name in wanted or name == "zxx")
    return Guess(code, math.exp(min(700.0, float(score - rival))))


def prose(text: str) -> str:
    """The text without code, formulas, links and tags, and without words of other scripts in a mostly Latin one."""
    text = _NO_PROSE.sub(" ", text)
    if text.isascii():
        return text
    letters = sum(map(str.isalpha, text))
    foreign = sum(1 for found in _NOT_LATIN.finditer(text) for char in found[0] if char.isalpha())
    return _NOT_LATIN.sub(" ", text) if foreign * 2 < letters else text


def sample(conversation: Conversation, *roles: Role) -> str:
    """A little of what each of the roles says."""
    parts: list[str] = []
    for role in roles:
        room = _SAMPLE // len(roles)
        for text in conversation.turns(role):
            part = prose(text[: 4 * _A_TURN])[:_A_TURN].strip()
            parts.append(part[:room])
            room -= len(parts[-1])
            if room <= 0:
                break
    return "\n".join(parts)


def other_language(conversation: Conversation, wanted: Collection[str]) -> str | None:
    """The language of a conversation that is clearly in none of the wanted ones; None where it is, or may be.

    The user's side decides; the assistant's has a say only where the user's is short or cannot be told.
    """
    found = _spoken(conversation, wanted)
    return found.code if found.code not in wanted and found.times >= TIMES else None


def language(conversation: Conversation) -> str:
    """The likeliest language of a conversation, the user's side before the assistant's; `und` where it is unclear."""
    found = _spoken(conversation)
    return found.code if found.times >= 2 else UNKNOWN


def _spoken(conversation: Conversation, wanted: Collection[str] = ()) -> Guess:
    asked = sample(conversation, Role.USER)
    found = guess(asked, wanted)
    is_sure = found.times >= TIMES and found.code != UNKNOWN and len(asked.encode()) >= _ENOUGH
    if found.code in wanted or is_sure:
        return found
    return guess(sample(conversation, Role.USER, Role.ASSISTANT), wanted)


def asks_to_translate(conversation: Conversation) -> bool:
    """Whether the user asks for a translation, or how something is said in another language."""
    return any(_TRANSLATION.search(text[:4000]) for text in conversation.turns(Role.USER))
