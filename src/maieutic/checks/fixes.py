"""Does a text give away the fix of a buggy program?

The reference fixes are sentences such as ``Replace `>` with `>=` on line 4.`` Each sentence is parsed into the old
code, the new code and the changed lines, and the fix is applied to the program. A text gives away a fix if it contains
the new code, quotes a corrected line, or names the change ("have you tried `>=` instead of `>`"). Questions count like
statements. Code is compared without white space and line numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

_FENCE = re.compile(r"```[\w+-]*\n?(.*?)```", re.DOTALL)
_SPAN = re.compile(r"``([^`]+)``|`([^`]+)`")
_NUMBERED = re.compile(r"^\s*\d{1,3}\s*[.:)|]\s?", re.MULTILINE)
_LINES = re.compile(r"\blines?\s+(\d+(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)\d+)*)", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z_]\w*|\d+\.?\d*|\*\*|//|[<>=!]=|[^\s\w]")

_SPAN_OR_SIGN = r"(`[^`]+`|[^\s\w`.,]{1,3}(?=\s))"
_REPLACE = re.compile(
    rf"\b(?:replac|chang|swap|substitut|turn|updat)\w*\s+(?:the\s+)?{_SPAN_OR_SIGN}"
    rf"(?:\s+(?:on|in|at)\s+line\s+\d+)?\s+(?:\w+\s+)?(?:with|to|by|for|into)\s+{_SPAN_OR_SIGN}",
    re.IGNORECASE,
)
_ALSO = re.compile(rf"\s+and\s+(?:\w+\s+)?{_SPAN_OR_SIGN}\s+(?:with|to|by)\s+{_SPAN_OR_SIGN}", re.IGNORECASE)
_BEFORE = re.compile(r"\b(?:add|insert|put)\s+`([^`]+)`\s+(before|after)\s+`([^`]+)`", re.IGNORECASE)
_INITIAL = re.compile(
    r"\b(?:initiali[sz]e|set)\s+`(\w+)`[^.`]*?\bto\s+(?:[a-z ]+)?`?(-?[\w\[\]]+)`?", re.IGNORECASE
)
_PROGRAM = re.compile(
    r"\bdef \w+\(|^[ \t]*(?:\d+\.\s*)?(?:return|for|while|if|int|let|var)\b.*[:;)]?\s*$", re.MULTILINE
)
_EDIT = re.compile(
    r"\b(?:insert|add|chang|replac|initiali[sz]|set|us)\w*\b[^\n]*(?:`|\bline\b)", re.IGNORECASE
)
_MOVE = re.compile(r"\b(move|remove|delete|swap|indent|unindent|dedent)\w*\b", re.IGNORECASE)
CHANGE = re.compile(
    r"\b(?:replac|chang|swap|substitut|instead|rather|should(?:n't)?\s+be|switch|us(?:e|ing)\b|need|try|turn|add|insert|writ)",
    re.IGNORECASE,
)
_SHIFT = re.compile(
    r"\b(?:(?:mov|remov|delet|swapp|shift|switch|plac)(?:e|es|ed|ing)?|(?:un|de|out)?-?(?:in)?dent(?:ed|ing)?|swap|put|outside|above|below)\b",
    re.IGNORECASE,
)
_KEYWORD = re.compile(r"(return|yield|break|continue|global|nonlocal|await)(\w+)$")
_ITEM = re.compile(r"(\w+)=\w+\[(0|-1)\]$")
_ENDS = {
    "0": re.compile(r"\bfirst\s+(?:element|item|value|entry|number|one|member|word)\b", re.IGNORECASE),
    "-1": re.compile(r"\blast\s+(?:element|item|value|entry|number|one|member|word)\b", re.IGNORECASE),
}
_BRACKETS = re.compile(r"\b(?:brackets?|parenthes[ei]s|wrap\w*|group\w*)\b", re.IGNORECASE)
_ONE_MORE = re.compile(
    r"\b(?:add|adding|subtract|subtracting)\s+(?:one|1)\b|\b(?:plus|minus)\s+one\b|\bby\s+(?:one|1)\b|\bone\s+(?:more|less)\b",
    re.IGNORECASE,
)
_SIGNS = {
    ">=": r"greater than or equal|at least as (?:large|big)",
    "<=": r"less than or equal|smaller than or equal",
    "==": r"(?:double|two) equals?|equality (?:operator|sign)|equals? equals?",
    "!=": r"not[- ]equals? (?:operator|sign|to operator)",
    "%": r"modulo|modulus|remainder operator",
    "//": r"(?:integer|floor|whole[- ]number) division",
    "**": r"(?:power|exponent\w*) operator",
}


class Fix(NamedTuple):
    """What a text that gives away one reference fix would contain."""

    code: frozenset[str]
    """Code without white space; each piece alone gives away the fix."""
    swaps: tuple[tuple[str, str], ...]
    """Pairs of old and new code, for new code that is too short to be recognised alone."""
    fresh: frozenset[str]
    """Names and operators that the fix adds and the program lacks."""
    moved: frozenset[str]
    """Lines that the fix moves, removes or indents: `line 9`, or the code without white space."""
    indented: frozenset[tuple[str, str, int]]
    """For each line whose indentation the fix changes: the previous line, the line, and how much deeper the line is
    indented than the previous line in the program."""


def squeeze(code: str) -> str:
    """Code without white space, line numbers and closing punctuation, for comparison."""
    return re.sub(r"\s+", "", _NUMBERED.sub("", code)).rstrip(".;,")


def reads_as_fixes(solution: str | None, attempt: str | None) -> bool:
    """Whether a solution is a list of code fixes rather than worked mathematics."""
    program = bool(attempt and _PROGRAM.search(attempt))
    if not solution or not (program or "`" in solution):
        return False
    return bool(_MOVE.search(solution) or _REPLACE.search(solution) or _EDIT.search(solution))


def reference_fixes(solution: str, attempt: str) -> list[Fix]:
    """The fixes that a solution names; a fix is left out if nothing in it can be compared with a text."""
    program = _program(attempt)
    return [fix for part in _parts(solution) if any((fix := _read(part, program))[:2]) or fix.moved]


def gives_away(text: str, fix: Fix, known: str) -> bool:
    """Whether the text gives away more of the fix than `known` (the statement and the student's words) contains."""
    known_squeezed = squeeze(known)
    spans = {squeeze(span) for span in code_spans(text)}
    whole = squeeze(text.replace("`", ""))
    for code in fix.code:
        if code in known_squeezed:
            continue
        if any(code in span for span in spans if len(code) > 2) or code in spans:
            return True
        if len(code) >= 8 and re.search(r"\W", code) and code in whole:
            return True
    return (
        _in_words(text, fix, known)
        or _reindents(text, fix)
        or any(_swapped(text, spans, old, new, known) for old, new in fix.swaps)
        or any(_named(text, name, known) for name in fix.fresh)
        or any(_shifted(text, spans, line) for line in fix.moved)
    )


def _in_words(text: str, fix: Fix, known: str) -> bool:
    """Whether the text describes the new code in words: a keyword and its name, brackets, the first item."""
    for line in fix.code:
        written = _KEYWORD.match(line)
        if written and not _holds(known, written[1]):
            said = rf"\b{written[1]}(?:s|ing)?\s+(?:\w+\s+){{0,3}}`*{re.escape(written[2])}\b"
            if re.search(said, text, re.IGNORECASE):
                return True
        item = _ITEM.match(line)
        if item and re.search(rf"\b{re.escape(item[1])}\b", text) and _ENDS[item[2]].search(text):
            return True
    for old, new in fix.swaps:
        bare_old, bare_new = squeeze(old), squeeze(new)
        if re.sub(r"[()]", "", bare_new) == bare_old != bare_new and _BRACKETS.search(text):
            return True
        if bare_new in (f"{bare_old}+1", f"{bare_old}-1") and _ONE_MORE.search(text):
            return True
    return False


def code_spans(text: str) -> list[str]:
    """The code in fences (line by line) and in backticks."""
    fenced = [line for block in _FENCE.findall(text) for line in block.splitlines() if line.strip()]
    rest = _FENCE.sub(" ", text)
    return fenced + [one or two for one, two in _SPAN.findall(rest)]


def _program(attempt: str) -> list[str]:
    return [_NUMBERED.sub("", line) for line in attempt.strip("\n").splitlines()]


def _parts(solution: str) -> list[str]:
    """The solution split at line ends; a fenced block belongs to the line before it."""
    parts: list[str] = []
    fenced = False
    for line in solution.splitlines():
        if parts and (fenced or line.lstrip().startswith("```")):
            parts[-1] += "\n" + line
        elif line.strip():
            parts.append(line)
        fenced ^= line.count("```") % 2 == 1
    return parts


def _read(part: str, program: list[str]) -> Fix:
    source = squeeze("\n".join(program))
    blocks = [line for block in _FENCE.findall(part) for line in block.splitlines() if line.strip()]
    prose = _FENCE.sub(" ", part)
    touched = [int(number) for lines in _LINES.findall(prose) for number in re.findall(r"\d+", lines)]
    swaps = [(old.strip("`"), new.strip("`")) for old, new in _swaps(prose)]
    code = {squeeze(line) for line in blocks}
    for old, new in swaps:
        code |= {squeeze(new.join(_edged(old).split(line))) for line in _touched(program, touched)}
        code |= {squeeze(new)} if len(squeeze(new)) >= 4 else set()
    for new, where, anchor in _BEFORE.findall(prose):
        joined = f"{new} {anchor}" if where.lower() == "before" else f"{anchor} {new}"
        code |= {
            squeeze(joined),
            *(squeeze(line.replace(anchor, joined)) for line in _touched(program, touched)),
        }
    for name, value in _INITIAL.findall(prose):
        code.add(squeeze(f"{name} = {value}"))
    olds = {squeeze(old) for old, _ in swaps}
    spans = [one or two for one, two in _SPAN.findall(prose) if squeeze(one or two) not in olds]
    code |= {squeeze(span) for span in spans if len(squeeze(span)) >= 6}
    code |= {line.rstrip(":") for line in code}
    code = {line for line in code if line not in source and len(line) >= 3}
    fresh = {
        token for text in (*[new for _, new in swaps], *spans, *blocks) for token in _TOKEN.findall(text)
    }
    fresh = {
        token
        for token in fresh - set(_TOKEN.findall("\n".join(program)))
        if token in _SIGNS or len(token) >= 3
    }
    return Fix(
        frozenset(code),
        tuple(swaps),
        frozenset(fresh),
        frozenset(_moved(prose, program, touched, code)),
        frozenset(_steps(program, touched)) if "ndent" in prose and not code else frozenset(),
    )


def _swaps(prose: str) -> list[tuple[str, str]]:
    found = []
    for match in _REPLACE.finditer(prose):
        found.append((match[1], match[2]))
        end = match.end()
        while more := _ALSO.match(prose, end) or re.compile(r"[^`]{0,24}?" + _ALSO.pattern).match(prose, end):
            found.append((more[1], more[2]))
            end = more.end()
    return found


def _touched(program: list[str], touched: list[int]) -> list[str]:
    """The lines that a fix names, or all lines of the program."""
    return [program[number - 1] for number in touched if 0 < number <= len(program)] or program


def _edged(fragment: str) -> re.Pattern[str]:
    """A pattern for the fragment as a whole token: `>` is not found in `>=`, nor `lst` in `lst2`."""
    left = (
        r"(?<![<>=!*/+%-])"
        if re.match(r"[<>=!*/+%-]", fragment)
        else r"(?<!\w)"
        if fragment[:1].isalnum()
        else ""
    )
    right = (
        r"(?![<>=!*/+%-])"
        if re.search(r"[<>=!*/+%-]$", fragment)
        else r"(?!\w)"
        if fragment[-1:].isalnum()
        else ""
    )
    return re.compile(left + re.escape(fragment) + right)


def _moved(prose: str, program: list[str], touched: list[int], code: set[str]) -> set[str]:
    """The lines that a fix moves, removes or indents; empty if the fix contains new code."""
    if code or not (_MOVE.search(prose) or "ndent" in prose):
        return set()
    lines = _touched(program, touched) if touched else []
    named = {squeeze(line) for line in lines} | {squeeze(span) for span in code_spans(prose)}
    return {name for name in named if len(name) >= 4} | {f"line {number}" for number in touched}


def _steps(program: Sequence[str], touched: Sequence[int] = ()) -> Iterator[tuple[str, str, int]]:
    """The previous line, the line, and how much deeper it is indented, for the `touched` lines or for all lines."""
    for number, (above, line) in enumerate(pairwise(program), 2):
        if not touched or number in touched:
            yield squeeze(above), squeeze(line), _depth(line) - _depth(above)


def _depth(line: str) -> int:
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())


def _reindents(text: str, fix: Fix) -> bool:
    """Whether code in the text indents a line differently than the program."""
    wrong = {(above, line): depth for above, line, depth in fix.indented}
    blocks = _FENCE.findall(text) if wrong else []
    for block in blocks:
        shown = [_NUMBERED.sub("", line) for line in block.splitlines() if line.strip()]
        if any(wrong.get((above, line), depth) != depth for above, line, depth in _steps(shown)):
            return True
    return False


def _swapped(text: str, spans: set[str], old: str, new: str, known: str) -> bool:
    """Whether one sentence names the old code, the new code and a word for a change."""
    if squeeze(new) in {squeeze(span) for span in code_spans(known)}:
        return False
    for sentence in re.split(r"(?<=[.!?])\s|\n", text):
        if CHANGE.search(sentence) and _holds(sentence, new) and _holds(sentence, old):
            return True
    return (
        len(squeeze(new)) >= 2
        and squeeze(new) in spans
        and not _holds(known, new)
        and bool(re.search(r"\W", new))
    )


def _holds(text: str, fragment: str) -> bool:
    return bool(_edged(fragment).search(text))


def _named(text: str, name: str, known: str) -> bool:
    """Whether the text contains a new name or operator: as code, as a call, or in words."""
    if _holds(known, name):
        return False
    if name in _SIGNS:
        said = re.compile(_SIGNS[name], re.IGNORECASE)
        return _holds(" ".join(code_spans(text)), name) or bool(said.search(text) and not said.search(known))
    word = re.escape(name)
    called = rf"\b{word}\(|`{word}`|\b{word}\s+(?:function|method|keyword|operator|statement)"
    return bool(re.search(called, text))


def _shifted(text: str, spans: set[str], line: str) -> bool:
    """Whether one sentence names the line together with a word for moving it."""
    for sentence in re.split(r"(?<=[.!?])\s|\n", text):
        if not _SHIFT.search(sentence):
            continue
        if line.startswith("line ") and re.search(rf"\b{line}\b", sentence, re.IGNORECASE):
            return True
        if any(line in squeeze(span) for span in code_spans(sentence)):
            return True
    return False
