"""Personal data in text, replaced by the tags [EMAIL], [PHONE], [CARD], [IBAN] and [KEY].

This module uses patterns and checksums, not a model, so names and postal addresses are not masked. Doubtful numbers are
not masked either, so that versions, long decimals, dates, matrices and code keep every digit. A card number must pass
Luhn's test, and an IBAN must have a valid checksum. Digits count as a phone number only in an unmistakable format or
after a word such as "call" or "phone". Example addresses of documentation (RFC 2606: example.com, .test) are kept.

Why not presidio: we compared this module with presidio-analyzer 2.2.366 (its patterns, without a spaCy model) on the
cases in `tests/test_personal.py`. Both find all 18 e-mail addresses, cards, IBANs and phone numbers. Presidio has no
recogniser for the 10 keys, and damages 14 of 40 texts without personal data (it takes a row of a matrix for a phone
number, and a decimal for a card); this module damages none. On English documentation presidio reads 0.18 MB per CPU
second and this module 11.9 MB. Presidio also fetches a list of domain suffixes over the network, and it needs a spaCy
model to find names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from maieutic.core.messages import Conversation, Problem, fingerprint


class Kind(StrEnum):
    """A kind of personal data: the word in the tag."""

    KEY = "KEY"
    EMAIL = "EMAIL"
    IBAN = "IBAN"
    CARD = "CARD"
    PHONE = "PHONE"


class Masked(NamedTuple):
    """A text with tags, and the number of pieces of each kind."""

    text: str
    found: Counter[Kind]


_LETTER = "A-Za-z0-9À-ÖØ-öø-ſ"
_EMAIL = re.compile(
    rf"(?<![{_LETTER}_.+%@-])(?!git@)[{_LETTER}][{_LETTER}_.+%-]{{0,63}}@"
    r"(?:[A-Za-z0-9-]{1,63}\.)+([A-Za-z]{2,24})(?![\w(@\[]|\.\w|:\w)",
    re.ASCII,
)
_EXAMPLE = re.compile(
    r"@(?:.*\.)?(?:example\.(?:com|org|net)|(?:[\w-]+\.)*(?:test|example|invalid|localhost))\Z", re.IGNORECASE
)
_TOP = (
    " com org net edu gov mil int info biz name pro mobi museum coop aero jobs post tel travel asia cat arpa app dev "
    "online site tech store cloud email xyz me school college university academy education family life live chat "
    "support agency company solutions services systems network media news blog club shop world digital studio "
)
"""Top-level domains with more than two letters. A matrix product such as `q@k.transpose` ends in none of them."""

_KEY = re.compile(
    r"(?<![\w-])(?:"
    r"sk-(?:[A-Za-z]+-)*[A-Za-z0-9_-]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|hf_[A-Za-z]{30,}|AIza[\w-]{35}|xox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|gsk_[A-Za-z0-9]{40,}|SG\.[\w-]{20,}\.[\w-]{40,}"
    r")(?![\w-])"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    r"(?:(?:(?!-----).){1,10000}-----END (?:[A-Z]+ )*PRIVATE KEY-----|(?:(?:\s|\\n)*[A-Za-z0-9+/=]{40,})+)",
    re.ASCII | re.DOTALL,
)
_KEY_HINTS = (
    "sk-",
    "AKIA",
    "ASIA",
    *(f"gh{kind}_" for kind in "pousr"),
    "github_pat_",
    "glpat-",
    "hf_",
    "AIza",
    "xox",
    "k_",
    "eyJ",
    "npm_",
    "pypi-",
    "PRIVATE KEY-",
    "gsk_",
    "SG.",
)
_NAMED_KEY = re.compile(
    r"(?:(?:api|access|secret)[_ -]?(?:key|token)|client[_ -]?secret|authorization)[\"']?\s{0,3}[:=]\s{0,3}"
    r"[\"']?(?:Bearer )?(?P<number>[\w/+-]{20,}={0,2})(?![\w(.])",
    re.ASCII | re.IGNORECASE,
)

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(
    r"(?<![\w.,+*/^=-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{5}|\d{13,16})"
    r"(?![\w^*/=]|[.,-]\d|\s*[-+*/^=×÷<>])"
)
_BRAND = re.compile(
    r"4(?:\d{12}|\d{15})|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|6(?:011|4[4-9]\d|5\d{2})\d{12}"
)
_ARITHMETIC = re.compile(r"[-+*/^=×÷<>\\{(\[,]\s*\Z")

_BEFORE = r"(?<![\w.,:/+*^=#$€£%-])(?<![+*/^×÷] )"
_AFTER = r"(?![\w^*/=%]|[.,:-]\d|\s*[-+*/^=×÷<>]\s*-?\d)"
_PHONE = re.compile(
    rf"{_BEFORE}(?:"
    # +44 20 7946 0958, +33 6 12 34 56 78, +1 (415) 555-0134: a plus, a country code, 8 to 15 digits
    r"\+[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\)|[ .-]\d)?(?:[ .-]?\d{2,4}){2,5}"
    # (415) 555-0134, 415-555-0134 and 415.555.0134, with or without a leading 1-
    r"|(?:1[ -])?\(\d{3}\) ?\d{3}[ .-]\d{4}|(?:1-)?\d{3}-\d{3}-\d{4}|\d{3}\.\d{3}\.\d{4}"
    # 06 12 34 56 78, 07700 900123: the mobile phones of France and Britain
    rf"|0[67](?:([ .-])\d{{2}})(?:\1\d{{2}}){{3}}|07\d{{3}} ?\d{{6}}"
    rf"){_AFTER}"
)
_CALLED = re.compile(
    r"\b(?:(?:phone|tel|telephone|telefon|téléphone|teléfono|handy|mobile"
    r"|cellphone|cell (?:phone|number)|cell(?=:)|whatsapp|fax|sms|my number(?=(?:\D*\d){9}))"
    r"|(?:call|text|ring) (?:me|us|him|her|them|at|on)\b)"
    r"(?: (?:number|no\.?|nr\.?|nummer))?(?: (?:is|at|on|under|ist))?"
    rf"[ \t]?[.:]?[ \t]{{0,2}}(?P<number>\+?\(?\d[\d ()./-]{{5,18}}\d){_AFTER}",
    re.IGNORECASE,
)
_NO_NUMBER = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d+\.\d+")
"""A date or a decimal after "phone" is not a phone number."""
_SIGNED = re.compile(r"\+\d+\.\d+")
_AMERICAN = re.compile(r"1[2-9]\d{9}")
_DIGITS = re.compile(r"\d(?:[^\n\d]{0,3}\d){6}")
"""Seven digits close to each other: phone, card and account numbers have at least that many."""


def mask(text: str) -> Masked:
    """Replace the personal data in a text; masking twice changes nothing more."""
    found: Counter[Kind] = Counter()
    while True:
        masked = _once(text, found)
        if masked == text:
            return Masked(text, found)
        text = masked


def _once(text: str, found: Counter[Kind]) -> str:
    if any(hint in text for hint in _KEY_HINTS):
        text = _replaced(_KEY, Kind.KEY, _is_key, text, found)
    if any(name in text.lower() for name in ("key", "token", "secret", "authorization")):
        text = _replaced(_NAMED_KEY, Kind.KEY, _is_random, text, found)
    if "@" in text or _DIGITS.search(text):
        text = "\n".join(_line(line, found) for line in text.split("\n"))
    return text


def _line(line: str, found: Counter[Kind]) -> str:
    if "@" in line:
        line = _replaced(_EMAIL, Kind.EMAIL, _is_address, line, found)
    if _DIGITS.search(line):
        line = _replaced(_IBAN, Kind.IBAN, _is_iban, line, found)
        line = _replaced(_CARD, Kind.CARD, _is_card, line, found)
        line = _replaced(_PHONE, Kind.PHONE, _is_phone, line, found)
        line = _replaced(_CALLED, Kind.PHONE, _is_called, line, found)
    return line


def _replaced(
    pattern: re.Pattern[str],
    kind: Kind,
    holds: Callable[[re.Match[str]], bool],
    text: str,
    found: Counter[Kind],
) -> str:
    """The text with a tag in place of each valid match, or of the match's group `number` if there is one."""

    def replace(match: re.Match[str]) -> str:
        if not holds(match):
            return match[0]
        found[kind] += 1
        start = match.start("number") if "number" in pattern.groupindex else match.start()
        return f"{match.string[match.start() : start]}[{kind.value}]"

    return pattern.sub(replace, text)


def _is_key(match: re.Match[str]) -> bool:
    # Names in code can also begin with sk-.
    return not match[0].startswith("sk-") or _mixed(match[0][3:])


def _is_random(match: re.Match[str]) -> bool:
    return _mixed(match["number"])


def _mixed(text: str) -> bool:
    """Whether a text has both digits and letters, as random keys do."""
    return any(map(str.isdigit, text)) and any(map(str.isalpha, text))


def _is_address(match: re.Match[str]) -> bool:
    top = match[1].lower()
    return (len(top) == 2 or f" {top} " in _TOP) and not _EXAMPLE.search(match[0])


def _is_iban(match: re.Match[str]) -> bool:
    plain = match[0].replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    if not _BRAND.fullmatch(digits) or _in_arithmetic(match):
        return False
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    return sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10 == 0


def _is_phone(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    if not 8 <= len(digits) <= 15 or _in_a_row_of_numbers(match):
        return False
    if match[0][0] != "+":
        return True
    if _SIGNED.fullmatch(match[0]) or (digits[0] == "1" and not _AMERICAN.fullmatch(digits)):
        return False
    bare = len(digits) == len(match[0]) - 1
    return len(digits) >= (10 if bare else 8) and not _in_arithmetic(match)


def _in_a_row_of_numbers(match: re.Match[str]) -> bool:
    """Whether other numbers are next to the match, as in a row of a matrix."""
    before = match.string[max(0, match.start() - 4) : match.start()]
    after = match.string[match.end() : match.end() + 4]
    return bool(re.search(r"\d[ \t,;&]+\Z", before) or re.match(r"[ \t,;&]+[-+]?\d", after))


def _is_called(match: re.Match[str]) -> bool:
    return 7 <= len(_digits(match["number"])) <= 15 and not _NO_NUMBER.fullmatch(match["number"])


def _in_arithmetic(match: re.Match[str]) -> bool:
    return bool(_ARITHMETIC.search(match.string, max(0, match.start() - 4), match.start()))


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


class MaskedConversation(NamedTuple):
    """A conversation with tags, and the number of pieces of each kind."""

    conversation: Conversation
    found: Counter[Kind]


def mask_conversation(conversation: Conversation) -> MaskedConversation:
    """Mask messages, problem, intent, profile and every text in `meta`; an id with personal data becomes a hash."""
    found: Counter[Kind] = Counter()

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            text, more = mask(value)
            found.update(more)
            return text
        if isinstance(value, dict):
            return {name: masked(item) for name, item in value.items()}
        return [masked(item) for item in value] if isinstance(value, (list, tuple)) else value

    changes: dict[str, Any] = {
        "messages": tuple(
            message.model_copy(
                update={
                    "content": masked(message.content),
                    "reasoning": masked(message.reasoning),
                    "name": masked(message.name),
                    "tool_calls": tuple(
                        {key: item if key == "id" else masked(item) for key, item in call.items()}
                        for call in message.tool_calls
                    ),
                }
            )
            for message in conversation.messages
        ),
        "tools": tuple(masked(conversation.tools)),
        "problem": conversation.problem and Problem(**masked(conversation.problem.model_dump())),
        "intent": masked(conversation.intent),
        "profile": masked(conversation.profile),
        "meta": masked(conversation.meta),
    }
    for name in ("id", "user_id"):
        own = getattr(conversation, name)
        if own and masked(own) != own:
            changes[name] = fingerprint(own)[:16]
    return MaskedConversation(conversation.model_copy(update=changes) if found else conversation, found)
