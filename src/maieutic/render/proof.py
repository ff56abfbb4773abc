"""Proof, by reading a chat template once, that it never looks at what is said.

If texts are only put between other texts, trimmed or not, then what stands around them is the same whatever they say,
and one rendering with marks in place of the texts tells how every conversation with these roles is written. The
reading is cautious: at an expression it does not know, or a test on a text other than of its type or of being there,
nothing is proven, and the template is rendered for every conversation and compared. A text is never empty here:
conversations that have an empty one are rendered too.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser


class Kind(Enum):
    """What an expression can hold, as far as texts are concerned."""

    FREE = "depends on no text"
    YES = "true, whatever is said"
    NO = "false or undefined, whatever is said"
    TEXT = "text, perhaps with what was said somewhere in it"
    TURN = "one message"
    TURNS = "a list of messages"


SAID = {Kind.TEXT, Kind.TURN, Kind.TURNS}


class Unproven(Exception):
    """The template may look at a text."""


def only_places(template: str) -> bool:
    """Whether the template only puts texts in their places, for conversations without an empty text."""
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(template)  # noqa: S701
        reader = _Reader()
        before: tuple[dict[str, Kind], set[str]] | None = None
        while before != (reader.held, reader.macros):  # a loop's later rounds see what its earlier ones set
            before = (dict(reader.held), set(reader.macros))
            reader.block(tree.body)
    except (Unproven, TemplateSyntaxError):
        return False
    return True


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's text for other trainers; what it holds is written as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


_NAMES_OF_TYPES = {
    **dict.fromkeys(("string", "iterable", "sequence", "defined"), Kind.YES),
    **dict.fromkeys(
        ("none", "mapping", "undefined", "number", "boolean", "integer", "float", "true", "false"), Kind.NO
    ),
}
_TRIMS = {"strip", "lstrip", "rstrip"}


class _Reader:
    """Walks statements; `held` is what each name may hold anywhere in the template."""

    def __init__(self) -> None:
        self.held: dict[str, Kind] = {"messages": Kind.TURNS}
        self.macros: set[str] = set()

    def block(self, body: Sequence[nodes.Node]) -> None:
        for node in body:
            self._statement(node)

    def _statement(self, node: nodes.Node) -> None:
        match node:
            case nodes.Output():
                for part in node.nodes:
                    if self._kind(part) in (Kind.TURN, Kind.TURNS):
                        raise Unproven
            case nodes.If():
                self._branches(node)
            case nodes.For():
                self._loop(node)
            case nodes.Assign():
                self._assign(node.target, self._kind(node.node))
            case nodes.AssignBlock() if node.filter is None:
                self.block(node.body)
                self._assign(node.target, Kind.TEXT)
            case nodes.Scope():
                self.block(node.body)
            case nodes.ExprStmt():
                self._kind(node.node)
            case nodes.Break() | nodes.Continue():
                pass
            case nodes.Macro():
                self._macro(node)
            case _:
                raise Unproven

    def _branches(self, node: nodes.If) -> None:
        """Both sides of a test, or the one side that can be reached."""
        remaining = [(node.test, node.body)]
        remaining += [(other.test, other.body) for other in node.elif_]
        for test, body in remaining:
            truth = self._truth(test)
            if truth != Kind.NO:
                self.block(body)
            if truth == Kind.YES:
                return
        self.block(node.else_)

    def _loop(self, node: nodes.For) -> None:
        over = self._kind(node.iter)
        if over == Kind.TEXT or node.recursive:
            raise Unproven
        if over == Kind.NO:
            self.block(node.else_)
            return
        self._assign(node.target, Kind.TURN if over == Kind.TURNS else Kind.FREE)
        if node.test is not None:
            self._truth(node.test)
        self.block(node.body)
        self.block(node.else_)

    def _macro(self, node: nodes.Macro) -> None:
        """A macro that is only given what depends on no text; what it returns may hold one all the same."""
        self.macros.add(node.name)
        self._free(node.defaults)
        for name in node.args:
            self._assign(name, Kind.FREE)
        self.block(node.body)

    def _assign(self, target: nodes.Node, kind: Kind) -> None:
        match target:
            case nodes.Name():
                self._hold(target.name, kind)
            case nodes.NSRef():
                self._hold(f"{target.name}.{target.attr}", kind)
            case nodes.Tuple() if kind == Kind.FREE:
                for item in target.items:
                    self._assign(item, kind)
            case _:
                raise Unproven

    def _hold(self, name: str, kind: Kind) -> None:
        """A name holds the widest of all it is given anywhere; what is given is decided by no text."""
        kind = kind if kind in SAID else Kind.FREE
        held = self.held.get(name, kind)
        if held != kind and {held, kind} != {Kind.FREE, Kind.TEXT}:
            raise Unproven
        self.held[name] = kind if held == kind else Kind.TEXT

    def _truth(self, node: nodes.Node) -> Kind:
        """YES, NO or FREE for a test. What holds a text is true, and whether it holds one, no text decides."""
        kind = self._kind(node)
        if kind == Kind.TEXT:
            return Kind.YES if _is_text_itself(node) else Kind.FREE
        return {Kind.TURN: Kind.YES, Kind.TURNS: Kind.FREE}.get(kind, kind)

    def _kind(self, node: nodes.Node | None) -> Kind:
        match node:
            case None | nodes.TemplateData():
                return Kind.FREE
            case nodes.Const():
                return Kind.FREE if node.value else Kind.NO
            case nodes.Name():
                return self._name(node.name)
            case nodes.Getattr():
                return self._member(node.node, nodes.Const(node.attr))
            case nodes.Getitem():
                return self._member(node.node, node.arg)
            case nodes.Add():
                return self._joined([node.left, node.right])
            case nodes.Concat():
                return self._joined(node.nodes)
            case nodes.CondExpr():
                return self._either(node)
            case nodes.Not():
                return {Kind.YES: Kind.NO, Kind.NO: Kind.YES}.get(self._truth(node.node), Kind.FREE)
            case nodes.And() | nodes.Or():
                return self._both(node)
            case nodes.Test():
                return self._test(node)
            case nodes.Filter():
                return self._filter(node)
            case nodes.Compare():
                return self._compare(node)
            case nodes.Call():
                return self._call(node)
            case nodes.Tuple() | nodes.List():
                return self._free(node.items)
            case nodes.Dict():
                return self._free([part for pair in node.items for part in (pair.key, pair.value)])
            case nodes.BinExpr() | nodes.UnaryExpr():
                return self._free(list(node.iter_child_nodes()))
            case _:
                raise Unproven

    def _name(self, name: str) -> Kind:
        if any(field.startswith(f"{name}.") for field in self.held):
            raise Unproven  # a namespace under a second name: its fields could no longer be told
        return self.held.get(name, Kind.FREE)

    def _free(self, parts: Sequence[nodes.Node]) -> Kind:
        """FREE, if no part depends on a text."""
        if any(self._kind(part) in SAID for part in parts):
            raise Unproven
        return Kind.FREE

    def _joined(self, parts: Sequence[nodes.Node]) -> Kind:
        return self._one_of({self._kind(part) for part in parts})

    def _one_of(self, kinds: set[Kind]) -> Kind:
        if kinds & {Kind.TURN, Kind.TURNS}:
            raise Unproven
        return Kind.TEXT if Kind.TEXT in kinds else Kind.FREE

    def _either(self, node: nodes.CondExpr) -> Kind:
        truth = self._truth(node.test)
        if truth == Kind.YES:
            return self._kind(node.expr1)
        other = Kind.NO if node.expr2 is None else self._kind(node.expr2)
        if truth == Kind.NO:
            return other
        kinds = {self._kind(node.expr1), other}
        return kinds.pop() if len(kinds) == 1 else self._one_of(kinds)

    def _both(self, node: nodes.And | nodes.Or) -> Kind:
        """`and` and `or`: what cannot be reached is not read; a text on either side may be what comes out."""
        decides = Kind.NO if isinstance(node, nodes.And) else Kind.YES
        left = self._truth(node.left)
        if left == decides:
            return self._kind(node.left)
        kinds = {self._kind(node.left), self._kind(node.right)}
        if isinstance(node, nodes.And):
            kinds -= {Kind.TURN, Kind.TURNS} & {self._kind(node.left)} - {self._kind(node.right)}
        said = self._one_of(kinds)
        if said == Kind.TEXT:
            return said
        right = self._truth(node.right)
        return (
            right
            if left in (Kind.YES, Kind.NO) or left == right
            else decides
            if right == decides
            else Kind.FREE
        )

    def _test(self, node: nodes.Test) -> Kind:
        kind = self._kind(node.node)
        if kind == Kind.TEXT:
            if node.name not in _NAMES_OF_TYPES:
                raise Unproven
            return _NAMES_OF_TYPES[node.name] if _is_text_itself(node.node) else Kind.FREE
        if kind in SAID and node.name not in ("defined", "undefined", "none", "mapping", "string"):
            raise Unproven
        return self._free(node.args)

    def _filter(self, node: nodes.Filter) -> Kind:
        if node.node is None:
            raise Unproven
        kind = self._kind(node.node)
        if kind == Kind.TEXT and (node.name == "string" or (node.name == "trim" and not node.args)):
            return Kind.TEXT
        if kind == Kind.TURNS and node.name == "list":
            return Kind.TURNS
        if kind == Kind.TURNS and node.name in ("first", "last"):
            return Kind.TURN
        if kind == Kind.TURNS and node.name in ("length", "count"):
            return Kind.FREE
        if kind in SAID:
            raise Unproven
        return self._free([*node.args, *(pair.value for pair in node.kwargs)])

    def _compare(self, node: nodes.Compare) -> Kind:
        inside = [
            part for part in node.ops if part.op in ("in", "notin") and self._kind(part.expr) == Kind.TURN
        ]
        if len(inside) == len(node.ops) == 1 and self._kind(node.expr) in (Kind.FREE, Kind.YES, Kind.NO):
            return Kind.FREE  # whether a message has a key
        return self._free([node.expr, *(part.expr for part in node.ops)])

    def _member(self, holder: nodes.Node, key: nodes.Node) -> Kind:
        if isinstance(holder, nodes.Name) and isinstance(key, nodes.Const):
            if f"{holder.name}.{key.value}" in self.held:
                return self.held[f"{holder.name}.{key.value}"]
            if holder.name == "loop" and key.value in ("previtem", "nextitem"):
                return Kind.TURN
        if isinstance(key, nodes.Slice):
            self._free([part for part in (key.start, key.stop, key.step) if part is not None])
        else:
            self._free([key])
        if isinstance(holder, nodes.Name) and isinstance(key, nodes.Const):
            kind = self.held.get(holder.name, Kind.FREE)  # a namespace may be asked for a field
        else:
            kind = self._kind(holder)
        if kind == Kind.TEXT:
            raise Unproven
        if kind == Kind.TURNS:
            return Kind.TURNS if isinstance(key, nodes.Slice) else Kind.TURN
        if kind == Kind.TURN:
            if not isinstance(key, nodes.Const) or hasattr(dict, str(key.value)):
                raise Unproven
            return {"content": Kind.TEXT, "role": Kind.FREE}.get(str(key.value), Kind.NO)
        return Kind.FREE

    def _call(self, node: nodes.Call) -> Kind:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise Unproven
        values: list[nodes.Expr] = [*node.args, *(pair.value for pair in node.kwargs)]
        if isinstance(node.node, nodes.Getattr):
            holder, method = self._kind(node.node.node), node.node.attr
            if holder == Kind.TEXT and method in _TRIMS and all(_is_newline(value) for value in values):
                return Kind.TEXT
            if holder == Kind.TURN and method == "get" and values and not node.kwargs:
                self._free(values)
                return self._member(node.node.node, values[0])
            if holder in SAID:
                raise Unproven
        self._free([node.node, *values])
        is_macro = isinstance(node.node, nodes.Name) and node.node.name in self.macros
        return Kind.TEXT if is_macro else Kind.FREE


def _is_text_itself(node: nodes.Node) -> bool:
    """Whether an expression is a message's `content` and nothing else, which is never empty here."""
    return (isinstance(node, nodes.Getattr) and node.attr == "content") or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    )


def _is_newline(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and node.value == "\n"
