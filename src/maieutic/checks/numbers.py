"""Numbers in running text, in any form: digits, fractions, percent, money, LaTeX and words.

A number has every value that it may mean: `50%` can mean 50 or 0.5. `checks.answers` decides whether a number is an
answer, an operand or a line number in its sentence.
"""

from __future__ import annotations

import re
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNITS = {word: value for value, word in enumerate(_SMALL.split(" "))}
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7, "eighth": 8, "eighths": 8,
    "ninth": 9, "ninths": 9, "tenth": 10, "tenths": 10,
}  # fmt: skip
_GLYPHS = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip

_WORD = "|".join((*_UNITS, *_TENS, *_SCALES, "dozen"))
_PART = "|".join(_PARTS)
_WHOLE = r"\d{1,3}(?:,\d{3})+(?![\d])|\d+"

_DIGITS = re.compile(
    rf"""(?<!\w)(?<!\d[.,/:])(?<![A-Za-z]\.)            # not inside a word, a decimal, a date or a clock time
    (?=\.?\d)(?P<whole>{_WHOLE})?
    (?P<decimal>\.\d+)?
    (?:(?P<and>\s(?:and\s)?)?(?P<top>(?<=\s)\d+)?/(?P<bottom>\d+)(?!\d|/))?
    """,
    re.VERBOSE,
)
_AFTER = re.compile(
    r"\s?(?P<percent>%|percent\b|per\scent\b)|\s?(?P<cents>cents?\b|¢)|\s?(?P<scale>hundred|thousand|million|billion|dozen)\b"
    r"|(?P<k>k)\b",
    re.IGNORECASE,
)
_COUNT = rf"(?:{_WORD})(?:(?:[\s-]+|\s+and\s+)(?:{_WORD}))*"
_DOLLARS = re.compile(r"\s+(?:dollars?|euros?)\s+(?:and\s+)?", re.IGNORECASE)
_WORDS = re.compile(
    rf"\b(?:(?P<count>{_COUNT}|\d+)(?:\s+and\s+an?\s+(?P<plus>half|third|quarter)|[\s-]+(?P<of>{_PART}))"
    rf"|an?\s+(?P<a>{_PART})|(?P<half>half)|(?P<plain>{_COUNT}))\b",
    re.IGNORECASE,
)

_NORMAL: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), to)
    for pattern, to, flags in (
        (r"<<[^<>]*>>", "", 0),  # GSM8K's calculator notes
        (r"\{,\}", ",", 0),
        (r"\\([%$])", r"\1", 0),
        (r"\\[,;:! ]|\\q?quad\b|~", " ", 0),
        (r"\\[dt]?frac\s*\{\s*([\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}", r" \1/\2 ", 0),
        (r"\\[dt]?frac\s*(\d)\s*(\d)", r" \1/\2 ", 0),
        (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" (\1) / (\2) ", 0),
        (r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", 0),
        (r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r" = \1 ", 0),
        (r"\\(?:times|cdot|ast)\b|[×·∗⋅✕]", " * ", 0),
        (r"\\div\b|÷", " / ", 0),
        (r"\\(?:approx|implies|Rightarrow|rightarrow|to)\b|[≈→⇒]", " = ", 0),
        (r"\\[()\[\]]", " ", 0),
        (r"\\[A-Za-z]+", " ", 0),
        (r"[{}]", " ", 0),
        (r"[−‒–](?=\s?[$£€]?\d)", "-", 0),
        (r"[’ʼ]", "'", 0),
        (r"[\u00a0\u2007\u2009\u202f]", " ", 0),
        (r"(?<![\d.,])(\d{1,3}) (\d{3})(?: (\d{3}))?(?![\d.,]?\d)", r"\1\2\3", 0),  # 10 000
        (r"\*\*([^*\n]+)\*\*", r"\1", 0),
        (r"__([^_\n]+)__", r"\1", 0),
        (r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])", r"\1", 0),
        (r"`", " ", 0),
        (r"(?<=\d)\s?[xX]\s?(?=[$£€]?\d)", " * ", 0),
        (r"^[ \t]*[-*•#]+[ \t]+(?=\S)", "", re.MULTILINE),  # list markers
        (r"([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", r" \1 ", 0),
    )
)


_MARKS = re.compile(r"^[ \t]*(\d{1,2})[.)][ \t]+(?=\S)", re.MULTILINE)
_TEN_TO = re.compile(
    r"(?<![\w.])(?:(?P<times>\d{1,6}(?:\.\d{1,6})?)\s*\*\s*)?10(?:\^\s?(?P<power>\d{1,2})|(?P<raised>[⁰¹²³⁴-⁹]{1,2}))(?!\d)"
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_ODDS = re.compile(
    rf"\b(?P<top>\d{{1,4}}|{_WORD})\s+(?:out\s+of|in)\s+(?:every\s+)?(?P<bottom>\d{{1,4}}|{_WORD})\b"
    r"(?=\s+(?:of|times|cases|outcomes|chances?)\b|\s*(?:[.,;!?)]|$))",
    re.IGNORECASE,
)


_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![\d,])")
_COMMA_ANSWER = re.compile(
    r"[^\d,]{0,12}(?:(?:0|\d{4,}|\d{1,3}(?:\.\d{3})+),\d+|\d{1,3},(?!\d{3}(?!\d))\d+)[^\d,]{0,24}"
)
"""A decimal comma. A lone 1,234 is read as a thousand and more."""


class Form(Enum):
    """How a value is written."""

    PLAIN = "plain"
    DECIMAL = "decimal"
    FRACTION = "fraction"
    PERCENT = "percent"


class Number(NamedTuple):
    """One number: its possible values, its span in the text, and its form."""

    values: frozenset[Fraction]
    start: int
    end: int
    words: bool
    fraction: bool
    form: Form


def has_comma(answer: str | None) -> bool:
    """Whether an answer is a number with a decimal comma, as in most of Europe: 4,5 or 1.234,50 €."""
    return bool(answer and _COMMA_ANSWER.fullmatch(answer))


def with_points(text: str) -> str:
    """The text with decimal points instead of commas, and without points between thousands."""
    return _COMMA.sub(lambda found: f"{found[1].replace('.', '')}.{found[2]}", text)


@lru_cache(maxsize=256)  # a problem's statement is read once for each candidate
def plain(text: str) -> str:
    """The text with LaTeX, typographic signs, emphasis and list markers reduced to plain writing."""
    for pattern, to in _NORMAL:
        text = pattern.sub(to, text)
    text = _TEN_TO.sub(_written_out, text)
    if len(marks := _MARKS.findall(text)) > 1 or marks == ["1"]:
        text = _MARKS.sub("", text)  # a single mark may be the answer: "9. You add them"
    for glyph, fraction in _GLYPHS.items():
        text = text.replace(glyph, fraction)
    return re.sub(r"[ \t]+", " ", text)


@lru_cache(maxsize=256)
def numbers(text: str) -> tuple[Number, ...]:
    """The numbers of a text that `plain` returned, in order."""
    found = [*_odds(text), *_digits(text), *_words(text)]
    found.sort(key=lambda number: (number.start, -number.end))
    kept: list[Number] = []
    for number in found:
        if not kept or number.start >= kept[-1].end:
            kept.append(number)
    return tuple(_amounts(text, kept))


def _written_out(match: re.Match[str]) -> str:
    """`1 * 10^4` as `10000`."""
    power = int(match["power"] or match["raised"].translate(_RAISED))
    value = Fraction(match["times"] or 1) * 10**power
    return str(value) if value.denominator == 1 and power <= 15 else match[0]


def _odds(text: str) -> list[Number]:
    """`one in four`, `1 out of 4`: a share."""
    found = []
    for match in _ODDS.finditer(text):
        both = [
            Fraction(int(one)) if one.isdigit() else _counts(one) for one in (match["top"], match["bottom"])
        ]
        if both[0] and both[1] and both[0] <= both[1]:
            share = frozenset({both[0] / both[1]})
            found.append(Number(share, match.start(), match.end(), True, True, Form.FRACTION))
    return found


def _amounts(text: str, found: list[Number]) -> list[Number]:
    """`twelve dollars and fifty cents` as one amount."""
    merged: list[Number] = []
    for number in found:
        last = merged[-1] if merged else None
        between = text[last.end : number.start] if last and number.start - last.end < 20 else ""
        if last and _DOLLARS.fullmatch(between) and "cent" in text[number.end - 5 : number.end]:
            amount = frozenset({min(last.values) + min(number.values)})
            merged[-1] = Number(amount, last.start, number.end, last.words, True, Form.DECIMAL)
        else:
            merged.append(number)
    return merged


def _digits(text: str) -> list[Number]:
    found = []
    for match in _DIGITS.finditer(text):
        if not (match["whole"] or match["decimal"]):
            continue
        end, value, fraction = match.end(), _decimal(match["whole"], match["decimal"]), False
        if match["bottom"] is not None:
            top, bottom = match["top"], int(match["bottom"])
            shown = (
                value + Fraction(int(top), bottom) if top and bottom else value / bottom if bottom else value
            )
            if shown.denominator == 1 or bottom == 0 or (match["and"] and not top):
                end = match.end("decimal") if match["decimal"] else match.end("whole")  # 24/3 is a division
            else:
                value, fraction = shown, True
        rest = text[end : end + 12]
        if re.match(r"(?:st|nd|rd|th)\b|:\d|_|[xyzn](?![a-z])", rest):
            continue
        values, end = _with_unit(value, text, end)
        if _negative(text, match.start()):
            values = {-value for value in values}
        form = (
            Form.FRACTION
            if fraction
            else Form.PERCENT
            if len(values) > 1 and "%" in text[match.end() : end]
            else None
        )
        form = form or (Form.DECIMAL if value.denominator > 1 else Form.PLAIN)
        found.append(Number(frozenset(values), match.start(), end, False, fraction, form))
    return found


def _decimal(whole: str | None, decimal: str | None) -> Fraction:
    return Fraction((whole or "0").replace(",", "") + (decimal or ""))


def _with_unit(value: Fraction, text: str, end: int) -> tuple[set[Fraction], int]:
    unit = _AFTER.match(text, end)
    if not unit:
        return {value}, end
    if unit["percent"] or unit["cents"]:
        return {value, value / 100}, unit.end()
    scale = {"k": 1000, "dozen": 12, **_SCALES}[(unit["scale"] or "k").lower()]
    return {value * scale}, unit.end()


def _negative(text: str, start: int) -> bool:
    """Whether the minus before a number is its sign; otherwise the minus is a subtraction."""
    before = text[max(0, start - 12) : start]
    if re.search(r"[\w)%]\s+-\s+[$£€]?$", before):
        return False
    return bool(re.search(r"(?:(?:^|[^\w)\s])\s?|^|\s)-\s?[$£€]?$|\bnegative $", before))


def _words(text: str) -> list[Number]:
    found = []
    for match in _WORDS.finditer(text):
        count = match["count"] or match["plain"]
        whole = Fraction(1) if not count else Fraction(int(count)) if count.isdigit() else _counts(count)
        if whole is None:
            continue
        part = match["plus"] or match["of"] or match["a"] or match["half"]
        start = match.start()
        if re.search(r"\bnegative $", text[max(0, start - 10) : start]):
            start, whole = start - len("negative "), -whole
        if count and "dozen" in count.lower():
            part = None  # a dozen thirds is twelve of them
        if part is None:
            values, end = _with_unit(whole, text, match.end())
            form = Form.PERCENT if "percent" in text[match.end() : end] else Form.PLAIN
            found.append(Number(frozenset(values), start, end, True, False, form))
            continue
        share = Fraction(1, _PARTS[part.lower()])
        value = whole + share if match["plus"] else whole * share
        found.append(Number(frozenset({value}), start, match.end(), True, True, Form.FRACTION))
    return found


def _counts(words: str) -> Fraction | None:
    """The value of number words; null if they are several numbers in a row."""
    total = group = 0
    last = 10**12
    for word in re.findall(r"[a-z]+", words.lower()):
        if word == "and":
            if last != 100 and not total:
                return None
        elif word in _SCALES and _SCALES[word] > 100:
            total, group, last = total + (group or 1) * _SCALES[word], 0, 10**12
        elif word in ("hundred", "dozen"):
            group, last = (group or 1) * (100 if word == "hundred" else 12), 100
        else:
            size, rank = (_TENS[word], 10) if word in _TENS else (_UNITS[word], 1)
            if rank >= last or (last == 10 and size > 9):
                return None
            group, last = group + size, rank
    return Fraction(total + group)
