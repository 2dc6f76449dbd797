"""Algorithms against each other: the matrix of probabilities of improvement, and the critical-difference diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from offbench.analysis.ranks import RankComparison
from offbench.reports.plots import (
    COLUMN_WIDTH,
    INK,
    MUTED,
    STYLE,
    TEXT_WIDTH,
    Plot,
    algorithm_styles,
    footnote,
    new_figure,
    settle,
)

# From vermilion (loses) over near-white to blue (wins): told apart by every kind of colour vision, and in grey by text.
_DIVERGING = LinearSegmentedColormap.from_list("improvement", ["#C75000", "#F3B27A", "#F7F7F7", "#7FB6DB", "#00599C"])
_DARK, _LIGHT = "#1a1a1a", "#fdfdfd"  # text inside coloured fields, whatever the page's scheme


def improvement_matrix_plot(pairs: pd.DataFrame, algorithms: Sequence[str], *, level: float = 0.95) -> Plot | None:
    """Probability that a run of the row's algorithm beats one of the column's, best row on top.

    Args:
        pairs: the result of `analysis.comparisons.improvement_matrix`: first, second, point, low, high, datasets.
        algorithms: all algorithms of the report in its order (only those of `pairs` are drawn).
        level: of the intervals; probabilities whose interval contains 0.5 are set in brackets.
    """
    if pairs.empty:
        return None
    names = [name for name in algorithms if name in set(pairs["first"])]
    matrix = pairs.pivot(index="first", columns="second", values="point").reindex(index=names, columns=names)
    order = list(matrix.mean(axis=1).sort_values(ascending=False, kind="stable").index)
    by_pair = pairs.set_index(["first", "second"])
    size = len(order)
    width = COLUMN_WIDTH if size <= 6 else TEXT_WIDTH
    longest = max(map(len, order))
    with mpl.rc_context(STYLE):
        side = (width - 0.066 * longest - 0.15) / size
        figure = new_figure(width, min(side, 0.36) * size + 0.055 * longest + 0.35)
        ax = figure.subplots()
        values = matrix.reindex(index=order, columns=order).to_numpy(dtype=np.float64)
        ax.pcolormesh(np.ma.masked_invalid(values), cmap=_DIVERGING, vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
        for row, first in enumerate(order):
            for column, second in enumerate(order):
                if first != second:
                    _write_probability(ax, by_pair.loc[(first, second)], row, column, 6.6 if size <= 8 else 6.0)
        ax.set_xticks(
            np.arange(size) + 0.5, order, rotation=45 if longest > 3 else 0, ha="left" if longest > 3 else "center"
        )
        ax.set_yticks(np.arange(size) + 0.5, order)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.invert_yaxis()
        for spine in ax.spines.values():
            spine.set_visible(False)
        known = pairs["low"].notna().any()
        note = "P(run of the row > run of the column)"
        footnote(figure, note + (f"; in brackets: {100 * level:g} % interval contains 0.5" if known else ""))
        settle(figure)
    over = int(pairs["datasets"].to_numpy()[0])
    caption = (
        f"Probability of improvement: that a run of the row's algorithm scores higher than one of the column's on the "
        f"same dataset, averaged over {over} dataset{'s' if over != 1 else ''}."
    )
    if known:
        caption += f" In brackets: the {100 * level:g} % bootstrap interval contains 0.5."
    return Plot(figure, caption)


def _write_probability(ax: Axes, pair: pd.Series, row: int, column: int, size: float) -> None:
    point = float(pair["point"])
    text = f"{point:.2f}"
    if math.isfinite(pair["low"]) and pair["low"] <= 0.5 <= pair["high"]:
        text = f"({text})"
    red, green, blue, _ = _DIVERGING(point)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.42
    ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=_DARK if light else _LIGHT)


def critical_difference_plot(comparison: RankComparison, algorithms: Sequence[str]) -> Plot | None:
    """Mean ranks on a line, best on the left; bars join algorithms whose ranks are not shown to differ (Demsar 2006).

    Args:
        comparison: the result of `analysis.ranks.friedman`.
        algorithms: all algorithms of the report in its order, which fixes their colours.
    """
    ranks, cliques = comparison.ranks, comparison.cliques
    nemenyi = comparison.cliques_by == "nemenyi"
    critical_difference = comparison.critical_difference if nemenyi else None
    test = (
        f"Nemenyi's test at {comparison.alpha:g}" if nemenyi else f"Wilcoxon's test with Holm at {comparison.alpha:g}"
    )
    datasets = len(comparison.datasets)
    if len(ranks) < 2:
        return None
    styles = algorithm_styles(algorithms)
    order = sorted(ranks, key=lambda name: (ranks[name], name))
    bars = [sorted(ranks[name] for name in clique) for clique in cliques if len(clique) > 1]
    half = math.ceil(len(order) / 2)
    width = COLUMN_WIDTH if len(order) <= 5 else TEXT_WIDTH
    step, bar_step, axis = 0.16, 0.075, 0.42 if critical_difference else 0.24
    first_label = axis + 0.16 + bar_step * len(bars)
    with mpl.rc_context(STYLE):
        height = first_label + step * half + 0.22
        figure = new_figure(width, height)
        ax = figure.subplots()
        ax.set_axis_off()
        count = len(order)
        side = 0.068 * (max(map(len, order)) + 7) + 0.1  # inches for a name and its rank
        margin = side * (count - 1) / (width - 2 * side)
        ax.set_xlim(1 - margin, count + margin)
        ax.set_ylim(height - 0.2, 0)
        ax.plot([1, count], [axis, axis], color=INK, linewidth=0.8)
        for rank in range(1, count + 1):
            ax.plot([rank, rank], [axis - 0.045, axis], color=INK, linewidth=0.8)
            ax.text(rank, axis - 0.07, str(rank), ha="center", va="bottom", fontsize=6.5)
        if critical_difference:
            ruler = min(critical_difference, count - 1)
            ax.plot([1, 1 + ruler], [0.14, 0.14], color=INK, linewidth=1.0)
            for end in (1, 1 + ruler):
                ax.plot([end, end], [0.1, 0.18], color=INK, linewidth=1.0)
            ax.text(
                1 + ruler / 2,
                0.09,
                f"critical difference {critical_difference:.2f}",
                ha="center",
                va="bottom",
                fontsize=6.5,
            )
        for index, (low, *_, high) in enumerate(bars):
            y = axis + 0.075 + bar_step * index
            ax.plot([low - 0.04, high + 0.04], [y, y], color=INK, linewidth=2.6, solid_capstyle="butt")
        for place, name in enumerate(order):
            left = place < half
            y = first_label + step * (place if left else count - 1 - place) + 0.04
            end = 1 - 0.1 * margin if left else count + 0.1 * margin
            ax.plot([ranks[name], ranks[name], end], [axis, y, y], color=MUTED, linewidth=0.6, zorder=1)
            ax.plot(
                ranks[name], axis, marker=styles[name].marker, color=styles[name].color, markersize=4.2, clip_on=False
            )
            text = f"{name}  {ranks[name]:.2f}" if left else f"{ranks[name]:.2f}  {name}"
            ax.text(end + (-0.03 if left else 0.03) * margin, y, text, ha="right" if left else "left", va="center")
        footnote(figure, f"mean rank over {datasets} datasets (1 is best); bars: not told apart, {test}")
        settle(figure)
    caption = (
        f"Mean ranks over {datasets} datasets, by means over seeds; 1 is best. Algorithms under a common bar are not "
        f"shown to differ ({test})."
    )
    return Plot(figure, caption)
