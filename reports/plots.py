"""What all figures share: sizes, fonts, one style per algorithm, and rendering to PNG, SVG and PDF.

Figures are as wide as a column (3.3 in) or the text (6.8 in) of a two-column paper and set in 7-8 pt, so that they go
in without scaling. They are built without pyplot and styled inside `rc_context`, so nothing of the caller's matplotlib
changes. The same input gives the same bytes: identifiers are salted with a constant and no date is written.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")
COLUMN_WIDTH, TEXT_WIDTH = 3.3, 6.8  # inches

INK = "#1f2328"  # text and axes; the HTML page replaces it so that plots follow its light or dark scheme
MUTED = "#6e7781"
GRID = "#8c959f"
# Okabe and Ito's palette (safe for colour-blind readers) without its yellow and black, then three of Paul Tol's.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#7A5CC6",
)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib: the same picture on every machine
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 4.0,
    "axes.labelsize": 7.5,
    "axes.labelpad": 2.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "grid.color": GRID,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "offbench",
    "pdf.fonttype": 42,  # TrueType: submission systems refuse Type 3 fonts
    "pdf.use14corefonts": False,
    "text.parse_math": False,  # names are text, even with dollar signs
}


@dataclass(frozen=True)
class Style:
    """How an algorithm is drawn everywhere in a report."""

    color: str
    dashes: Any
    marker: str


def algorithm_styles(algorithms: Sequence[str]) -> dict[str, Style]:
    """A style per algorithm by its position; beyond the palette colours return with other dashes and markers."""
    styles = {}
    for position, algorithm in enumerate(algorithms):
        lap = position // len(PALETTE)
        styles[algorithm] = Style(
            PALETTE[position % len(PALETTE)], DASHES[lap % len(DASHES)], MARKERS[position % len(MARKERS)]
        )
    return styles


@dataclass(frozen=True)
class Plot:
    """A figure and the sentences that a reader needs to understand it."""

    figure: Figure
    caption: str

    def render(self, format: Format) -> bytes:
        """The picture as bytes: PNG at 300 dots per inch on white; SVG and PDF with a transparent background."""
        buffer = io.BytesIO()
        options: dict[str, dict[str, Any]] = {
            "png": {"dpi": 300, "facecolor": "white", "metadata": {"Software": None}},
            "svg": {"metadata": {"Date": None, "Creator": None}},
            "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
        }
        with mpl.rc_context(STYLE):
            self.figure.savefig(buffer, format=format, **options[format])
        return buffer.getvalue()


# -- parts of figures ------------------------------------------------------------------------------


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches whose parts make room for each other; call inside `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, hspace=0.03, wspace=0.03)  # type: ignore[union-attr, call-arg]
    return figure


def settle(figure: Figure) -> None:
    """Lay out once; every format then shows the same arrangement, and is drawn without doing it again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def footnote(figure: Figure, text: str) -> None:
    """What bands and bars are, inside the picture, because pictures get copied without their captions."""
    room = int(figure.get_figwidth() * 21)
    figure.supxlabel("\n".join(textwrap.wrap(text, room)), x=0.995, ha="right", fontsize=6.0, color=MUTED)


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """All algorithms above the figure, in as many columns as fit."""
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=legend_columns(labels, figure.get_figwidth()),
        frameon=False,
        handlelength=2.2,
        columnspacing=1.3,
        handletextpad=0.5,
        borderaxespad=0.1,
    )


def legend_height(labels: Sequence[str], width: float) -> float:
    """Inches that `legend` needs."""
    return 0.16 * math.ceil(len(labels) / legend_columns(labels, width)) + 0.08


def legend_columns(labels: Sequence[str], width: float) -> int:
    """As many legend columns as fit into `width` inches, balanced over the rows they need."""
    entry = 0.063 * max(len(label) for label in labels) + 0.47
    fits = max(1, min(len(labels), int(width / entry)))
    return math.ceil(len(labels) / math.ceil(len(labels) / fits))


def algorithm_handles(algorithms: Sequence[str], *, markers: bool = False, lines: bool = True) -> list[Line2D]:
    """Legend entries in the algorithms' styles."""
    return [
        Line2D(
            [],
            [],
            color=style.color,
            linestyle=style.dashes if lines else "",
            linewidth=1.5,
            marker=style.marker if markers else "",
            markersize=4.0,
            label=name,
        )
        for name, style in algorithm_styles(algorithms).items()
    ]


def wrap(name: str, width: float) -> str:
    """Break a long dataset name at its separators so that it fits a panel of `width` inches."""
    room = max(8, int(width * 15.5))
    if len(name) <= room:
        return name
    spaced = name.replace("/", "/ ").replace("-", "- ").replace("_", "_ ")
    lines = textwrap.wrap(spaced, room, break_long_words=True)
    return "\n".join(line.replace("/ ", "/").replace("- ", "-").replace("_ ", "_") for line in lines)


def panel_columns(panels: int) -> int:
    """Columns of a grid of panels."""
    if panels <= 3:
        return panels
    return 2 if panels == 4 else 3 if panels <= 9 else 4


def thousands(value: float) -> str:
    """A step count as people say it: 0, 500, 20k, 1.5M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
