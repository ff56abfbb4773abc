"""Sentences and words of a text, and whether it asks something.

Questions are found by syntax: by a question mark at the end of the speaker's own sentence, or by the first words.

A question mark inside code, a quotation, a URL or a ternary expression does not count. A sentence without a question
mark is a question if it begins with a question word and an inverted verb ("how many are left"), with an inverted verb
and a subject ("can you tell me"), or with a request ("tell me how you got 12", "I wonder what happens then").
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources
from itertools import islice
from typing import NamedTuple

_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|``[^`]+``|`[^`\n]+`", re.DOTALL)
_URL = re.compile(r"\b(?:https?://|www\.)\S+")
_QUOTED_LINE = re.compile(
    r"^\s*(?:>|(?:student|user|human|pupil|learner)\s*:).*$", re.IGNORECASE | re.MULTILINE
)
_QUOTES = re.compile(
    r"\"[^\"\n]+\"|“[^”\n]+”|«[^»\n]+»|„[^“”\n]+[“”]|(?<!\w)‘[^\n]+?’(?!\w)|(?<!\w)'(?=\S)[^\n']+(?:'\w[^\n']*)*'(?!\w)"
)
_TERNARY = re.compile(r"[\w)\]]\s+\?\s+[^?\n.:]{1,40}\s:\s*\S")
_BLANK = re.compile(r"(?<=[-+*/×÷=(])\s*\?\s*(?=[-+*/×÷=)<>])|\(\s*\?+\s*\)")
_MARK = re.compile(r"[?？؟⁇⁈‽]")
_STOP = re.compile(r"([.!?？؟⁇⁈‽。！]+)[\"'”’)\]*_]*(?=\s|$)|\n+|(?<=[？。！؟])")

_WRAPPERS = {'"': '"', "“": "”", "'": "'", "«": "»"}

_SUBJECT = r"(?:i|you|he|she|it|we|they|this|that|these|those|there|one|everyone|someone|anyone)"
_DETERMINER = r"(?:the|an?|your|his|her|their|our|my|its|each|every|all|any|both|some|another)"
_AUX = (
    r"(?:is|are|was|were|am|do|does|did|can|could|would|will|should|shall|might|must|have|has|had"
    r"|isn't|aren't|wasn't|weren't|don't|doesn't|didn't|can't|couldn't|wouldn't|won't|shouldn't|haven't|hasn't)"
)
_WH = r"(?:what|how|why|where|when|which|who|whom|whose)"

_OPENERS = re.compile(
    r"^(?:(?:so|now|ok|okay|well|and|but|then|first|next|also|hmm+|ah|oh|great|good|nice|right|yes|no|alright|sure"
    r"|again|finally|please|sorry|hi|hello|hey|remember|perhaps|maybe|exactly|correct|actually|anyway)\b[\s,:–—-]*)+",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;:–—]\s+|\s-\s+|\b(?:so|but|and|then)\s+")

_RULES = tuple(
    re.compile(rule, re.IGNORECASE)
    for rule in (
        # what is, how many apples did, which of the two is: there is no subject before the verb
        rf"{_WH}(?:'s|'re|'d|'ll)?(?:\s+(?!{_SUBJECT}\b)(?!{_AUX}\b)[\w'$%-]+){{0,5}}?\s+{_AUX}\b(?=\s+\S)",
        r"(?:what|who|where|how|when)'s\s+(?!more\b|important\b|good\b|nice\b)\S",
        r"(?:what|how)\s+about\b|what\s+if\b|why\s+not\b|how\s+come\b|how\s+so$|why$|what\s+(?:next|else|now)$",
        r"what\s+happens\b|what\s+comes\s+(?:next|after)|who\s+(?:has|gets|is)\b|which\s+(?:one|of)\b",
        rf"how\s+(?:many|much|old|far|long|often|tall|fast)\b(?!(?:\s+\w+){{0,3}}\s+{_SUBJECT}\b)",
        rf"(?:is|are|was|does|did|can|could|would|will|shall|isn't|aren't|doesn't|didn't|can't|couldn't|wouldn't|won't"
        rf"|wasn't|shouldn't|hasn't)\s+(?:{_SUBJECT}|{_DETERMINER}|(?-i:[A-Z])\w+)\b\s*\S",
        r"(?:do|have|don't|haven't|should|may|might)\s+(?:i|you|we|they)\b\s+\S",
        r"does\s+\w+|did\s+\w+",
        rf"(?:i\s+wonder|i(?:'m|\s+am)\s+(?:wondering|curious))\b.*?\b(?:{_WH}|if|whether)\b",
        rf"(?:tell|show|remind)\s+me\s+(?:again\s+)?(?:in\s+your\s+own\s+words\s+)?{_WH}\b",
        r"(?:explain|describe|say|state)\s+(?:to\s+me\s+)?(?:in\s+your\s+own\s+words\s+)?(?:why|how|what|which)\b",
        r"(?:give|tell|show|name)\s+me\s+(?:an?|the|one|two|three|your|another)\b",
        r"(?:list|name|identify|state)\s+(?:the|all|one|two|three|each|an?|your)\s+\w",
        r"i(?:'d|\s+would)\s+like\s+you\s+to\s+(?:tell|show|explain|describe|say)\b|i\s+want\s+you\s+to\s+(?:tell|explain)\b",
        r"what\s+makes\s+you\b|(?:what|which)\s+\w+\s+(?:goes|comes|fits|belongs)\s+(?:in|into|next|here|there|before|after)\b",
        r"(?:walk|talk|take)\s+me\s+through\b",
        r"let\s+me\s+know\s+(?:what|which|why|how)\b|i(?:'d|\s+would)\s+like\s+to\s+know\b",
    )
)
_NOT = tuple(
    re.compile(rule, re.IGNORECASE)
    for rule in (
        r"what\s+(?:is|was|'s|matters|remains|comes|happens)\b.*?\s(?:is|was)\s+(?:that|to|how|why|what|the|a|not)\b",
        r"which\s+(?:is|are|was|were|means|gives|makes|leaves|would|can|will|should|has|have)\b",
        rf"when\s+(?:is|are|was)\s+\w+ing\b|(?:when|where)\b(?!\s+{_AUX}\s+(?:{_SUBJECT}|{_DETERMINER})\b)[^,]*,",
        r"(?:who|what|which|how|why)\b.*?\b(?:is\s+(?:not\s+(?:important|relevant)|irrelevant|beside)|does(?:n't|\s+not)\s+matter)\b",
        rf"(?:should|had|were)\s+{_SUBJECT}\s+(?:need|want|have\s+any|get\s+stuck|require|wish|find|prefer)\b",
        r"how\s+\w+\s*!|what\s+an?\b(?!.*\b(?:do|does|did|is|are|would|could|should|can)\b)",
        r"may\s+(?:i|we)\s+(?:add|suggest|remind|point)\b|will\s+(?:be|do)\b|can\s+be\b",
        r"(?:explain|describe|say)\s+(?:why|how|what|which)\s+(?:this|it|that|the)\s+\w+\s+(?:is|was)\s+wrong\b.*below",
    )
)
TAG = re.compile(
    r",\s*(?:isn't|aren't|doesn't|don't|didn't|can't|wasn't|won't|wouldn't|is|are|does|do|did)\s+(?:it|you|they|we|he|she|that)$",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"(?:which|who|whose|where|when|is|are|was|does|did|will|would)\b", re.IGNORECASE)
_INVERTED = re.compile(
    rf"(?:(?:when|where)\s+(?:do|does|did|will|would|is|are|was|were)|is|are|does|did|was)\s+{_SUBJECT}\b",
    re.IGNORECASE,
)
_ASKED = re.compile(rf"\b(?:{_WH}|{_AUX})\b", re.IGNORECASE)

_WORD = re.compile(r"[^\W\d]\w*(?:['’][^\W\d]+)?|\d\w*")
_SUFFIXES = (
    "ications", "ication", "ations", "ation", "ying", "ings", "ing", "ies", "ied", "ers", "er", "es", "ed", "ly", "'s",
    "s", "e", "y",
)  # fmt: skip

_REACH = 400
"""Only this many characters of a clause are read, so that very long sentences are fast."""
_CLAUSES = 40
"""Only this many clauses of a sentence are read, for the same reason."""


class Sentence(NamedTuple):
    """A sentence, the mark that ended it, and its position in the text."""

    text: str
    mark: str
    start: int


def sentences(text: str) -> list[Sentence]:
    """The text split at sentence ends and line ends."""
    found, start = [], 0
    for match in _STOP.finditer(text):
        if text[start : match.start()].strip():
            found.append(Sentence(text[start : match.start()], match[0].strip(), start))
        start = match.end()
    if text[start:].strip():
        found.append(Sentence(text[start:], "", start))
    return found


def asks(text: str) -> bool:
    """Whether the text contains a question by the speaker, by the rules of this module."""
    own = own_words(text)
    return any(is_question(sentence) for sentence in sentences(own)) or _glued(own)


def own_words(text: str) -> str:
    """The speaker's own words: the text without code, quotations and URLs."""
    text = _unwrap(text.strip()).replace("’", "'")
    text = _CODE.sub(" CODE ", text)
    text = _URL.sub(" URL ", text)
    text = _QUOTED_LINE.sub("", text)
    text = _QUOTES.sub(" QUOTE ", text)
    text = _TERNARY.sub(" CODE ", text)
    text = _BLANK.sub(" BLANK ", text)
    return re.sub(r"\*\*|__", "", text)


def _unwrap(text: str) -> str:
    """The text without quotation marks around the whole of it."""
    close = _WRAPPERS.get(text[:1])
    if close and len(text) > 2 and text.endswith(close) and close not in text[1:-1]:
        return text[1:-1].strip()
    return text


def is_question(sentence: Sentence) -> bool:
    """Whether one sentence is a question, with or without a question mark."""
    if _MARK.search(sentence.mark):
        return bool(re.search(r"\w|\)", sentence.text))
    body = sentence.text.strip(" \t*_#>-•\"'()")
    if TAG.search(body):
        return True
    starts = [0, *(match.end() for match in islice(_CLAUSE.finditer(body), _CLAUSES))]
    return any(_opens_question(body[start : start + _REACH], inner=start > 0) for start in starts)


def _opens_question(clause: str, inner: bool) -> bool:
    clause = _OPENERS.sub("", clause.strip()).strip()
    if inner and _RELATIVE.match(clause) and not _INVERTED.match(clause):
        return False  # after a comma these words begin a relative clause or a second verb
    return any(rule.match(clause) for rule in _RULES) and not any(rule.match(clause) for rule in _NOT)


def _glued(text: str) -> bool:
    """Whether a question mark without a space after it (as weak models write) ends a clause that asks."""
    for match in re.finditer(r"\?(?=[^\s\"'”’)\]*_])", text):
        before = re.split(r"[.!?\n]", text[: match.start()])[-1].split()
        if len(before) >= 3 and _ASKED.match(before[0]):
            return True
    return False


def words(text: str) -> list[str]:
    """The words of a text in lower case, with a straight apostrophe inside; numbers are words too."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """The stem of a word: the word without its grammatical ending, at least three letters long."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            rest = word[: -len(suffix)]
            return rest[:-1] if len(rest) > 3 and rest[-1] == rest[-2] else rest
    return word


@cache
def listed(name: str) -> frozenset[str]:
    """The words of a list: `framing` or `generic`."""
    return frozenset(word for line in lines(name) for word in line.split())


def lines(name: str) -> list[str]:
    """The lines of a list, without comments."""
    text = (resources.files(__package__) / "lists" / f"{name}.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
