"""Learning curves and interval plots, as matplotlib figures and as PNG or SVG bytes.

Figures are built without pyplot and styled inside `rc_context`, so nothing of the caller's matplotlib
changes. The same input gives the same SVG bytes: identifiers are salted with a constant and no date is
written.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from offbench.analysis import ScoreTable
from offbench.analysis.student_t import t_quantile
from offbench.reports.tables import METRIC_TITLES, seeds_phrase

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
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))
_MARKERS = ("o", "s", "^")
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib: the same picture on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "grid.color": GRID,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "offbench",
    "text.parse_math": False,  # names are text, even with dollar signs
}


@dataclass(frozen=True)
class Style:
    """How an algorithm is drawn everywhere in a report."""

    color: str
    dashes: Any
    marker: str


def algorithm_styles(algorithms: Sequence[str]) -> dict[str, Style]:
    """A style per algorithm by its position; beyond the palette colours return with other dashes and
    markers.
    """
    styles = {}
    for position, algorithm in enumerate(algorithms):
        lap = position // len(PALETTE)
        styles[algorithm] = Style(
            PALETTE[position % len(PALETTE)], _DASHES[lap % len(_DASHES)], _MARKERS[lap % len(_MARKERS)]
        )
    return styles


@dataclass(frozen=True)
class Plot:
    """A figure and the sentences that a reader needs to understand it."""

    figure: Figure
    caption: str

    def render(self, format: Literal["png", "svg"]) -> bytes:
        """The picture as bytes: PNG at 200 dots per inch on white, or SVG with a transparent background."""
        buffer = io.BytesIO()
        with mpl.rc_context(_STYLE):
            if format == "png":
                metadata: dict[str, Any] = {"Software": None}
                self.figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata=metadata)
            else:
                metadata = {"Date": None, "Creator": None}
                self.figure.savefig(buffer, format="svg", metadata=metadata)
        return buffer.getvalue()


# -- learning curves -------------------------------------------------------------------------------


def curve_statistics(table: ScoreTable, level: float = 0.95) -> pd.DataFrame:
    """Mean over seeds and pointwise Student-t interval of every learning curve.

    Returns:
        algorithm, dataset, step, n, mean, low, high, in the table's order; low and high are NaN where n = 1.
    """
    columns = ["algorithm", "dataset", "step", "n", "mean", "low", "high"]
    if table.curves is None:
        return pd.DataFrame(columns=columns)
    groups = table.curves.groupby(["algorithm", "dataset", "step"], sort=False)["score"]
    frame = groups.agg(n="size", mean="mean", std=lambda scores: scores.std(ddof=1)).reset_index()
    factor = {int(n): t_quantile(0.5 + level / 2, n - 1) / math.sqrt(n) for n in frame["n"].unique() if n > 1}
    half = frame["std"] * frame["n"].map(lambda n: factor.get(int(n), math.nan))
    frame = frame.assign(low=frame["mean"] - half, high=frame["mean"] + half)
    return frame.sort_values("step", kind="stable")[columns].reset_index(drop=True)


def learning_curves(
    table: ScoreTable, *, behaviour: Mapping[str, float] | None = None, level: float = 0.95
) -> Plot | None:
    """One panel per dataset: mean over seeds against updates, with a pointwise interval.

    Args:
        table: scores that carry curves (`from_runs`, or `from_frame` with `step`).
        behaviour: per dataset the mean of the policy that collected it, in the unit of the dataset's scores.

    Returns:
        The plot, or None if the table has no curves with at least two evaluations.
    """
    frame = curve_statistics(table, level)
    if frame.empty or frame.groupby(["algorithm", "dataset"]).size().max() < 2:
        return None
    behaviour = behaviour or {}
    styles, datasets, units = algorithm_styles(table.algorithms), table.datasets, table.units
    columns = _columns(len(datasets))
    rows = math.ceil(len(datasets) / columns)
    panel = {1: (6.0, 3.6), 2: (4.2, 3.0)}.get(columns, (3.3, 2.5))
    width = panel[0] * columns
    with mpl.rc_context(_STYLE):
        handles = _legend_handles(table.algorithms, styles, bool(behaviour))
        legend_columns = _legend_columns([str(handle.get_label()) for handle in handles], width)
        legend_height = 0.25 * math.ceil(len(handles) / legend_columns) + 0.1
        figure = _figure(width, panel[1] * rows + legend_height)
        axes = figure.subplots(rows, columns, squeeze=False)
        for position, ax in enumerate(axes.flat):
            if position >= len(datasets):
                ax.set_axis_off()
                continue
            dataset = datasets[position]
            _draw_curves(ax, frame[frame["dataset"] == dataset], styles, behaviour.get(dataset))
            ax.set_title(_wrap(dataset, panel[0]))
            if position % columns == 0 or len(set(units.values())) > 1:
                ax.set_ylabel(units[dataset])
            if position + columns >= len(datasets):
                ax.set_xlabel("updates")
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=legend_columns,
            frameon=False,
            handlelength=2.4,
            columnspacing=1.6,
        )
        several = frame["n"].max() > 1
        bands = f"; bands: pointwise {100 * level:g} % t interval of the mean" if several else ""
        _footnote(figure, f"{seeds_phrase(table)}{bands}")
        figure.draw_without_rendering()
    band = f" with a pointwise {100 * level:g} % Student-t interval of the mean" if several else ""
    caption = f"Learning curves: mean over seeds{band}." if several else "Learning curves of single runs."
    if several:
        caption += " Bands wider than a panel are cut."
    if behaviour:
        caption += " Dotted: mean of the policy that collected the dataset."
    return Plot(figure, caption)


def _draw_curves(ax: Axes, frame: pd.DataFrame, styles: Mapping[str, Style], behaviour: float | None) -> None:
    for algorithm, style in styles.items():
        curve = frame[frame["algorithm"] == algorithm]
        if curve.empty:
            continue
        steps, mean = curve["step"].to_numpy(), curve["mean"].to_numpy()
        low, high = curve["low"].to_numpy(), curve["high"].to_numpy()
        ax.fill_between(steps, low, high, color=style.color, alpha=0.14, linewidth=0)
        marker = style.marker if len(steps) == 1 else ""
        ax.plot(steps, mean, color=style.color, linestyle=style.dashes, marker=marker, linewidth=1.6)
    if behaviour is not None:
        ax.axhline(behaviour, color=MUTED, linestyle=":", linewidth=1.4, zorder=1)
    _limit_to_means(ax, frame, behaviour)
    ax.grid(True)
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    ax.yaxis.set_major_locator(MaxNLocator(6))


def _limit_to_means(ax: Axes, frame: pd.DataFrame, behaviour: float | None) -> None:
    """Keep one huge interval (two seeds) from squeezing all curves flat: bands may be cut, means never."""
    means = frame["mean"].to_numpy()
    if behaviour is not None:
        means = np.append(means, behaviour)
    span = max(float(np.ptp(means)), 1e-9)
    low, high = np.nanmin([*frame["low"], *means]), np.nanmax([*frame["high"], *means])
    low, high = max(low, means.min() - 0.6 * span), min(high, means.max() + 0.6 * span)
    if high - low > 1e-9:
        ax.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _columns(panels: int) -> int:
    if panels <= 3:
        return panels
    return 2 if panels == 4 else 3 if panels <= 9 else 4


# -- intervals -------------------------------------------------------------------------------------


def interval_plot(aggregates: pd.DataFrame, algorithms: Sequence[str]) -> Plot | None:
    """Point and interval of every metric (columns) and algorithm (rows, best IQM on top).

    Args:
        aggregates: the result of `analysis.aggregate`, or the `records` of `tables.aggregate_table`.
        algorithms: all algorithms of the report in its order, which fixes their colours.
    """
    if aggregates.empty:
        return None
    styles = algorithm_styles(algorithms)
    metrics = [metric for metric in METRIC_TITLES if metric in set(aggregates["metric"])]
    by_cell = aggregates.set_index(["algorithm", "metric"])
    order = list(by_cell.xs("iqm", level="metric")["point"].sort_values(kind="stable").index)
    longest = max(len(name) for name in order)
    width = min(2.6 + 0.075 * longest + 2.0 * len(metrics), 13.0)
    with mpl.rc_context(_STYLE):
        figure = _figure(width, 1.0 + 0.34 * len(order))
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for ax, metric in zip(axes, metrics, strict=True):
            for height, algorithm in enumerate(order):
                _draw_interval(ax, by_cell.loc[(algorithm, metric)], height, styles[algorithm])
            arrow = "lower is better" if metric == "optimality_gap" else "higher is better"
            ax.set_title(METRIC_TITLES[metric])
            ax.set_xlabel(arrow, color=MUTED, fontsize=8)
            ax.set_ylim(-0.6, len(order) - 0.4)
            ax.set_yticks(range(len(order)), order)
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            ax.grid(True, axis="x")
            ax.use_sticky_edges = False  # bars would otherwise glue the axis to their ends
            ax.margins(x=0.06)
            ax.xaxis.set_major_locator(MaxNLocator(4))
        first = aggregates.iloc[0]
        if aggregates["low"].notna().any():
            _footnote(figure, f"bars: {100 * first['level']:g} % {first['method']} bootstrap intervals over seeds")
        figure.draw_without_rendering()
    unit = f" ({first['unit']})" if "unit" in aggregates else ""
    datasets = int(first["datasets"])
    over = "1 dataset" if datasets == 1 else f"{datasets} datasets"
    caption = f"Aggregates over {over}{unit}: point estimates"
    if aggregates["low"].notna().any():
        kind = "calibrated stratified" if first["method"] == "calibrated" else "percentile stratified"
        caption += f" and {100 * first['level']:g} % {kind} bootstrap intervals over seeds"
        caption += "; two intervals that overlap are not a test of their difference."
    else:
        caption += f"; no intervals: {first['reason']}."
    return Plot(figure, caption)


def _draw_interval(ax: Axes, value: pd.Series, height: int, style: Style) -> None:
    if math.isfinite(value["low"]):
        ax.barh(
            height,
            value["high"] - value["low"],
            left=value["low"],
            height=0.5,
            color=style.color,
            alpha=0.35,
            linewidth=0,
        )
    ax.plot(value["point"], height, marker=style.marker, color=style.color, markersize=5.5, linestyle="")


# -- parts -----------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, hspace=0.04, wspace=0.04)  # type: ignore[union-attr, call-arg]
    return figure


def _footnote(figure: Figure, text: str) -> None:
    """What bands and bars are, inside the picture, because pictures get copied without their captions."""
    figure.supxlabel(text, x=0.995, ha="right", fontsize=7.0, color=MUTED)


def _legend_handles(algorithms: Sequence[str], styles: Mapping[str, Style], with_behaviour: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=styles[name].color, linestyle=styles[name].dashes, linewidth=2.0, label=name)
        for name in algorithms
    ]
    if with_behaviour:
        handles.append(Line2D([], [], color=MUTED, linestyle=":", linewidth=1.6, label="data (behaviour)"))
    return handles


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many legend columns as fit into `width` inches, balanced over the rows they need."""
    entry = 0.075 * max(len(label) for label in labels) + 0.65
    fits = max(1, min(len(labels), int(width / entry)))
    return math.ceil(len(labels) / math.ceil(len(labels) / fits))


def _wrap(name: str, width: float) -> str:
    """Break a long dataset name at its separators so that it fits a panel of `width` inches."""
    room = int(width * 10.5)
    if len(name) <= room:
        return name
    spaced = name.replace("/", "/ ").replace("-", "- ").replace("_", "_ ")
    lines = textwrap.wrap(spaced, room, break_long_words=True)
    return "\n".join(line.replace("/ ", "/").replace("- ", "-").replace("_ ", "_") for line in lines)


def thousands(value: float) -> str:
    """A step count as people say it: 0, 500, 20k, 1.5M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
