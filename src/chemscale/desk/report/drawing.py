"""How a figure looks, and how it becomes inline SVG or a file.

A figure is drawn in the light scheme's colours. Inside the page each of them becomes a CSS
variable, so that the same SVG follows the reader's colour scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.desk.report.words import number, scientific, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, SHADE, PAPER = "#1f2328", "#67707b", "#dfe3e8", "#eef1f4", "#fffffe"
SCHEME = {  # name: light, dark
    "ink": (INK, "#e6e9ed"),
    "muted": (MUTED, "#98a1ac"),
    "grid": (GRID, "#333a43"),
    "shade": (SHADE, "#1f252c"),
    "paper": (PAPER, "#14181d"),
    # an ordered ramp (matplotlib's plasma): sizes and amounts, smallest first
    "r0": ("#ef7e50", "#b6489a"),
    "r1": ("#db5c68", "#cc4d7d"),
    "r2": ("#c23c81", "#dc5d67"),
    "r3": ("#a21d9a", "#ed7953"),
    "r4": ("#7d03a8", "#f89540"),
    "r5": ("#5102a3", "#feb72d"),
    "r6": ("#20068f", "#f9dc24"),
    # unordered (after Okabe and Ito): families
    "f0": ("#0072b2", "#56b4e9"),
    "f1": ("#c75400", "#ff9a4d"),
    "f2": ("#008a64", "#3ddbb0"),
    "f3": ("#a8518a", "#f0a6cf"),
    "f4": ("#7a6200", "#e6c84a"),
}
MOST_SAID = 12  # series that a legend names
SCREEN = 112  # pixels of the page to an inch of a figure
RAMP = [SCHEME[f"r{place}"][0] for place in range(7)]
SERIES = [SCHEME[f"f{place}"][0] for place in range(5)]
MARKERS = "osD^vPX*"
DASHES: list[Any] = ["-", (0, (5, 1.6)), (0, (1.6, 1.2)), (0, (6, 1.4, 1.4, 1.4)), (0, (9, 2))]
RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "font.size": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "chemscale",
    "text.color": INK,
    "text.parse_math": False,  # names are names, whatever dollars they hold
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 7.5,
}


@dataclass(frozen=True)
class Drawn:
    """A figure with its words: what it shows (caption) and what is seen in it (alt)."""

    name: str
    figure: Figure
    caption: str
    alt: str


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of one series: told apart without the colour too."""

    color: str
    marker: str
    dashes: Any


def ordered_looks(amount: int) -> list[Look]:
    """Looks along the ramp, the last one strongest."""
    last = max(amount - 1, 1)
    places = [round(i * (len(RAMP) - 1) / last) if amount > 1 else 6 for i in range(amount)]
    return [_look(RAMP[place], i) for i, place in enumerate(places)]


def series_looks(amount: int) -> list[Look]:
    """Looks of things without an order."""
    return [_look(SERIES[i % len(SERIES)], i) for i in range(amount)]


def _look(color: str, place: int) -> Look:
    return Look(color, MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])


@contextmanager
def style() -> Iterator[None]:
    """Our settings and nobody's matplotlibrc: same input, same bytes."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def blank(width: float, height: float, rows: int = 1, columns: int = 1, **share: Any) -> Any:
    """A figure and its (rows, columns) axes; inches. Call inside `style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def log_axis(
    axes: Axes, which: str, values: Sequence[float], counts: bool = False, most: int = 7
) -> None:
    """Make an axis logarithmic around the values, with few, round and readable ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    margin = max((high / low) ** 0.06, 1.02)
    low, high = low / margin, high * margin
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    say: Callable[[float], str] = short if counts else tick
    if counts and high > 1e13:
        say = partial(scientific, digits=1)
    axis.set_major_locator(FixedLocator(round_ticks(low, high, most)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))
    axis.set_minor_locator(NullLocator())


def tick(value: float) -> str:
    """A tick label without digits that say nothing."""
    return number(value, 1) if value >= 1e5 or value < 1e-3 else f"{float(f'{value:.4g}'):g}"


def round_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Three or more round numbers between two positive ones, at most so many where that can be."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for stride in (3, 2, 1):
        found = [10.0**d for d in decades if d % stride == 0 and low <= 10.0**d <= high]
        if 4 <= len(found) <= most:
            return found
    for steps in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        finer = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if 3 <= len(finer) <= most:
            return [float(f"{value:.6g}") for value in finer]
    if len(found) >= 3:
        return found
    unit = 10.0 ** np.floor(np.log10((high - low) / 3))
    step = max(s * unit for s in (1, 2, 2.5, 5) if s * unit <= (high - low) / 3)
    return [float(f"{k * step:.6g}") for k in range(int(low / step) + 1, int(high / step) + 1)]


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as a file; its suffix says the format. Light colours, white paper."""
    path = Path(path)
    clean = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    with style():
        figure.savefig(
            path,
            dpi=200,
            facecolor="white",
            metadata=clean if path.suffix in (".svg", ".png") else None,
        )


def inline_svg(drawn: Drawn, prefix: str) -> str:
    """The figure as an SVG element: no ids but prefixed ones, no fonts, no fixed colours."""
    from markupsafe import escape

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with style():
        drawn.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    head, _, body = text[text.index("<svg") :].partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    assert box, "matplotlib writes a viewBox"
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", body))
    # Within tags only: a tick label is text, and 0.003 must stay 0.003.
    body = re.sub(r"<[^>]+>", lambda tag: _tidy(tag[0], prefix, used), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    # All figures at one scale, so that their letters are of one size.
    width = f"max-width: {drawn.figure.get_figwidth() * SCREEN:.0f}px"
    alt = escape(drawn.alt)
    return f'<svg role="img" aria-label="{alt}" style="{width}" {box[0]}>{body.strip()}'


def _tidy(tag: str, prefix: str, used: set[str]) -> str:
    """Round coordinates, prefix ids that are used, drop others, fonts and fixed colours."""
    tag = re.sub(r" font-family: [^;\"]+;?", "", tag)
    tag = re.sub(r" transform=\"rotate\(-0 [^\"]*\"", "", tag)
    tag = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)
    tag = re.sub(
        r' id="([^"]+)"',
        lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "",
        tag,
    )
    tag = re.sub(r"(?:xlink:)?(href=\"|url\()#", rf"\g<1>#{prefix}-", tag)
    for name, (light, _) in SCHEME.items():
        tag = tag.replace(light, f"var(--{name})")
    return tag


def scheme_css(dark: bool) -> str:
    """The colours of a scheme as CSS variables."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in SCHEME.items())
