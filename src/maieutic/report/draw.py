"""How figures look: one style, colours that colour-blind people tell apart, and the same bytes each time.

Matplotlib is used without its global state: no pyplot, the style set only while a figure is drawn. Labels are plain
text (a `$` starts no formula), and characters that the font lacks become a box.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from maieutic.core.console import shown
from maieutic.core.errors import MissingExtra

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, without its black (people's lines are black) and its yellow (too pale on white)."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
BLACK = "#000000"
GREY = "#595959"
WIDTH = 4.8
"""Inches: small enough that 11-point text is still readable when a phone shrinks the figure to its own width."""
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "maieutic",
    "text.parse_math": False,
    "axes.unicode_minus": True,
}


class Picture(NamedTuple):
    """A drawn figure."""

    name: str
    """Its file's, without the ending."""
    section: str
    """The part of the page it belongs to."""
    title: str
    says: str
    """A sentence on what it shows."""
    alt: str
    """What someone who cannot see it should know."""
    svg: bytes
    png: bytes
    size: tuple[int, int]
    """Width and height, CSS pixels."""


def draw(
    paint: Callable[[Any], None], height: float, *, name: str, section: str, title: str, says: str, alt: str
) -> Picture:
    """Draw a figure of `height` inches as SVG and PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra(
            "figures need matplotlib, which is not installed", 'Run: pip install "maieutic[report]"'
        ) from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # both files have the layout that the first was given
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    size = (round(WIDTH * 96), round(height * 96))
    return Picture(name, section, title, says, alt, svg.getvalue(), png.getvalue(), size)


def label(text: str, longest: int = 34) -> str:
    """A label that is sure to be drawn as it stands: one line, not too long, in characters the font has."""
    flat = " ".join(shown(text).split())
    known = "".join(char if ord(char) in _glyphs() else "□" for char in flat)
    return known if len(known) <= longest else f"{known[: longest // 2 - 1]}…{known[-(longest // 2) :]}"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def light_grid(axes: Any, along: str) -> None:
    """Faint lines to read values by."""
    axes.grid(visible=True, axis=along, color="#dddddd", linewidth=0.8)
