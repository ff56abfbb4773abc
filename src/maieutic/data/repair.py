"""Repairs of turns: empty turns, leading assistant turns, neighbours of one role, and turns saved as HTML.

A turn counts as the HTML of a chat page, and becomes Markdown, if it begins with a block element, ends with a closing
tag, and has only elements that such pages use for text. Turns about HTML stay as they are: code in fences, whole web
pages, forms, scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from maieutic.core.errors import MissingExtra
from maieutic.core.messages import Conversation, Message, Role

if TYPE_CHECKING:
    from collections.abc import Callable


class Repair(StrEnum):
    """What was repaired in a conversation."""

    HTML = "HTML made Markdown"
    MASKED = "personal data masked"
    EMPTY = "empty turns dropped"
    OPENING = "leading assistant turns dropped"
    MERGED = "same-role neighbours merged"
    TRANSLATION = "another language kept, to translate"
    CUT = "cut at turn borders"


class Repaired(NamedTuple):
    """A conversation after repairs, and the repairs."""

    conversation: Conversation
    repairs: tuple[Repair, ...]


def repair_turns(conversation: Conversation, keep_opening: bool = False) -> Repaired:
    """Drop empty turns and leading assistant turns, then merge neighbours of one role, with a blank line between.

    Entries of `meta["turns"]` (by turn index) move with their turns. When turns are merged, the entries of all but the
    first turn go to `merged`.

    Args:
        conversation: the conversation to repair.
        keep_opening: keep assistant turns before the first user turn. They are always kept if `meta.opens` is
            `assistant`.
    """
    turns = conversation.messages
    keep_opening = keep_opening or conversation.meta.get("opens") == "assistant"
    spoken = [index for index, turn in enumerate(turns) if turn.content.strip() or turn.tool_calls]
    first = next((index for index in spoken if turns[index].role == Role.USER), len(turns))
    wanted = [
        index for index in spoken if keep_opening or index >= first or turns[index].role != Role.ASSISTANT
    ]
    groups: list[list[int]] = []
    for index in wanted:
        if groups and turns[groups[-1][-1]].role == turns[index].role != Role.TOOL:
            groups[-1].append(index)
        else:
            groups.append([index])
    if len(groups) == len(turns):
        return Repaired(conversation, ())
    repairs = (
        *([Repair.EMPTY] if len(spoken) < len(turns) else []),
        *([Repair.OPENING] if len(wanted) < len(spoken) else []),
        *([Repair.MERGED] if len(groups) < len(wanted) else []),
    )
    messages = tuple(
        turns[group[0]] if len(group) == 1 else _merged([turns[index] for index in group]) for group in groups
    )
    changes = {"messages": messages, "meta": _moved(conversation.meta, groups)}
    return Repaired(conversation.model_copy(update=changes), repairs)


def _merged(messages: Sequence[Message]) -> Message:
    thoughts = [message.reasoning for message in messages if message.reasoning]
    return Message(
        role=messages[0].role,
        content="\n\n".join(message.content for message in messages),
        reasoning="\n\n".join(thoughts) or None,
        tool_calls=tuple(call for message in messages for call in message.tool_calls),
        name=messages[0].name,
    )


def _moved(meta: dict[str, Any], groups: list[list[int]]) -> dict[str, Any]:
    extras = meta.get("turns")
    if not isinstance(extras, Mapping):
        return meta
    moved: dict[str, Any] = {}
    for place, group in enumerate(groups):
        own, *later = [extras.get(str(index)) or {} for index in group]
        later = [extra for extra in later if extra]
        if whole := {**own, **({"merged": later} if later else {})}:
            moved[str(place)] = whole
    rest = {key: value for key, value in meta.items() if key != "turns"}
    return {**rest, "turns": moved} if moved else rest


_BLOCKS = "div|p|pre|ol|ul|table|blockquote|h[1-6]|section|article"
_BEGINS = re.compile(rf"\s*<(?:{_BLOCKS})(?:\s[^<>]*)?>", re.IGNORECASE)
_ENDS = re.compile(r"(?:</[a-z][a-z0-9]*>|<(?:br|hr)\s*/?>)\s*\Z", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([a-zA-Z][\w:-]*)(?:\s[^<>]*)?/?>")
_TEXT_TAGS = (
    " a abbr annotation article b blockquote br button caption cite code col colgroup dd del details div dl dt em "
    "figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li main mark math mfrac mi mn mo mover mpadded mphantom "
    "mroot mrow ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover ol p path polyline "
    "line rect circle pre q s samp section semantics small span strike strong sub summary sup svg table tbody td "
    "tfoot th thead time tr u ul var wbr "
)
_FURNITURE = ("button", "svg", "img")
"""Elements of a chat page that are not text."""
_LANGUAGE = re.compile(r"\blanguage-([\w+#.-]+)")
_FENCE = re.compile(r"`{3,}")
_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_BLANKS = re.compile(r"\n{3,}")


def is_html(text: str) -> bool:
    """Whether a turn is the HTML of a chat page."""
    if not _BEGINS.match(text) or not _ENDS.search(text[-40:]):
        return False
    return all(f" {tag[2].lower()} " in _TEXT_TAGS for tag in _TAG.finditer(text))


def to_markdown(text: str) -> str:
    """A turn as Markdown if it is HTML, else unchanged; applying this twice changes nothing more.

    Formulas typeset by KaTeX become `$…$` and `$$…$$`, code blocks become fences with their language. Text is not
    escaped: an asterisk stays an asterisk.

    Raises:
        MissingExtra: markdownify is not installed.
    """
    if not is_html(text):
        return text
    try:
        markdown = _converted(text)
    except RecursionError:  # nested a thousand deep: not a chat page
        return text
    # If the result looks like a chat page again, the page showed HTML source, which is code.
    return f"{_fence(markdown)}html\n{markdown}\n{_fence(markdown)}" if is_html(markdown) else markdown


def _converted(text: str) -> str:
    parse, convert = _library()
    page = parse(text, "html.parser")
    for node in page.select(".katex-display, .katex"):
        _restore_formula(node, page)
    for block in page.find_all("pre"):
        _tidy_code(block, page)
    for node in page.find_all(_FURNITURE):
        node.decompose()
    pieces = _CODE.split(convert(page))
    return "".join(piece if place % 2 else _neat(piece) for place, piece in enumerate(pieces)).strip()


def _neat(text: str) -> str:
    return _BLANKS.sub("\n\n", "\n".join(line.rstrip(" ") for line in text.split("\n")))


def _fence(text: str) -> str:
    return "`" * max([2, *(len(run) for run in _FENCE.findall(text))]) + "`"


def _restore_formula(node: Any, page: Any) -> None:
    if node.parent is None or node.decomposed:
        return
    source = node.find("annotation")
    if source is None:
        return
    is_block = "katex-display" in (node.get("class") or ())
    formula = source.get_text().strip()
    node.replace_with(page.new_string(f"$${formula}$$" if is_block else f"${formula}$"))


def _tidy_code(block: Any, page: Any) -> None:
    """Reduce a code block to its code, and keep the language that its class names."""
    code = block.find("code")
    if code is None:
        return
    named = _LANGUAGE.search(" ".join(code.get("class") or ()))
    text = code.get_text()
    block.clear()
    inner = page.new_tag("code")
    inner.string = text
    if named:
        block["data-language"] = named[1]
    block.append(inner)


@cache
def _library() -> tuple[Callable[[str, str], Any], Callable[[Any], str]]:
    try:
        from bs4 import BeautifulSoup
        from markdownify import ATX, MarkdownConverter
    except ImportError:
        raise MissingExtra(
            "turning HTML into Markdown needs markdownify", "Install it: pip install 'maieutic[data]'."
        ) from None
    converter = MarkdownConverter(
        heading_style=ATX,
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        code_language_callback=lambda block: block.get("data-language"),
    )
    return BeautifulSoup, converter.convert_soup
