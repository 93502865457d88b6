"""Drawings: matplotlib's SVG, its colors replaced by the page's variables."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from edgekit.errors import EngineMissingError

INK, SOFT, LINE, ONE, TWO, GOOD, BAD = (f"#0{number}0{number}0{number}" for number in range(1, 8))
"""Stand for the page's variables while matplotlib draws; no drawing uses these grays otherwise."""
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", ONE: "one", TWO: "two", GOOD: "good", BAD: "bad"}

_LABEL = 36
_LEAST = 1.5
"""Inches: axes and their labels leave less than nothing to lower plots."""


def draw(name: str, height: float, paint: Callable[[Any], None], about: str) -> str:
    """One drawing.

    Args:
        name: Tells the ids of this drawing from those of others on the page.
        height: Of 7.2 inches' width.
        paint: Gets the axes.
        about: For who cannot see it.

    Raises:
        EngineMissingError: `report-missing`.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineMissingError(
            "report-missing", "a report is drawn by matplotlib, which is not installed",
            next_step='pip install "edgekit-sdk[report]"',
        ) from error  # fmt: skip
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11, "text.color": INK, "axes.labelcolor": INK,
        "xtick.color": SOFT, "ytick.color": SOFT, "axes.edgecolor": LINE, "grid.color": LINE, "grid.linewidth": 0.6,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        drawing = Figure(figsize=(7.2, max(height, _LEAST)), layout="constrained")
        drawing.patch.set_alpha(0)
        axes = drawing.add_subplot()
        axes.patch.set_alpha(0)
        axes.grid(visible=True, axis="x")
        paint(axes)
        made = io.BytesIO()
        drawing.savefig(made, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(made.getvalue().decode(), name, about)


def bars(
    labels: Sequence[str], values: Sequence[float], unit: str, colors: Sequence[str] | None = None
) -> Callable[[Any], None]:
    """Horizontal bars, the first at the top, each with its value."""

    def paint(axes: Any) -> None:
        places = range(len(values))
        axes.barh(places, values, color=colors or [ONE] * len(values), height=0.7)
        axes.set_yticks(places, list(labels), color=INK)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.margins(x=0.12)
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.3g}", (value, place), (3, 0), textcoords="offset points", va="center", color=SOFT)

    return paint


def histogram(axes: Any, values: Sequence[float], color: str) -> None:
    """Of values that may all be one."""
    low, high = min(values), max(values)
    room = max(0.02 * (high - low), 1e-6 * max(abs(low), abs(high)), 1e-12)
    axes.hist(values, bins=60, range=(low - room, high + room), color=color, alpha=0.85)


def short(label: str, most: int = _LABEL) -> str:
    """The end of a long name, where names differ; matplotlib reads dollars as formulas."""
    cut = label if len(label) <= most else "…" + label[1 - most :]
    return cut.replace("$", r"\$")


def _inline(svg: str, name: str, about: str) -> str:
    from edgekit.report.page import text

    body = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', body)
    inside = body[body.index(">") + 1 :]
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL).replace("xlink:href", "href")
    inside = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", inside)
    for color, variable in _VARIABLES.items():
        inside = inside.replace(color, f"var(--{variable})")
    inside = re.sub(r"(font(?:-family)?:[^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1sans-serif", inside)
    box = view.group(1) if view else "0 0 518 200"
    return f'<svg role="img" aria-label="{text(about)}" viewBox="{box}">{inside}'
