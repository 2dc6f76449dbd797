"""Scores as points: aggregates with their intervals, and every seed of every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from offbench.analysis import ScoreTable
from offbench.reports.plots import (
    COLUMN_WIDTH,
    INK,
    MUTED,
    STYLE,
    TEXT_WIDTH,
    Plot,
    Style,
    algorithm_styles,
    footnote,
    new_figure,
    panel_columns,
    settle,
    wrap,
)
from offbench.reports.words import METRIC_TITLES, seeds_phrase


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
    with mpl.rc_context(STYLE):
        figure = new_figure(COLUMN_WIDTH if len(metrics) == 1 else TEXT_WIDTH, 0.75 + 0.19 * len(order))
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for ax, metric in zip(axes, metrics, strict=True):
            for height, algorithm in enumerate(order):
                _draw_interval(ax, by_cell.loc[(algorithm, metric)], height, styles[algorithm])
            arrow = "lower is better" if metric == "optimality_gap" else "higher is better"
            ax.set_title(METRIC_TITLES[metric])
            ax.set_xlabel(arrow, color=MUTED, fontsize=6.5)
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
            footnote(figure, f"bars: {100 * first['level']:g} % {first['method']} intervals over seeds")
        settle(figure)
    unit = f" ({first['unit']})" if "unit" in aggregates else ""
    datasets = int(first["datasets"])
    over = "1 dataset" if datasets == 1 else f"{datasets} datasets"
    caption = f"Aggregates over {over}{unit}: point estimates"
    if aggregates["low"].notna().any():
        caption += f" and {100 * first['level']:g} % {first['method']} intervals over seeds"
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
            height=0.56,
            color=style.color,
            alpha=0.35,
            linewidth=0,
        )
    ax.plot(value["point"], height, marker=style.marker, color=style.color, markersize=4.2, linestyle="")


def seed_strips(table: ScoreTable) -> Plot | None:
    """Every run as a point, one panel per dataset and one line per algorithm; a bar marks the mean.

    Returns:
        The plot, or None if no cell has more than one seed.
    """
    if table.seed_counts().to_numpy().max() < 2:
        return None
    datasets, algorithms, units = table.datasets, table.algorithms, table.units
    columns = panel_columns(len(datasets))
    rows = math.ceil(len(datasets) / columns)
    width = COLUMN_WIDTH if columns == 1 else TEXT_WIDTH
    styles = algorithm_styles(algorithms)
    lines = max(wrap(name, width / columns - 0.4).count("\n") for name in datasets)
    with mpl.rc_context(STYLE):
        height = (0.4 + 0.12 * lines + 0.135 * len(algorithms)) * rows + 0.25
        figure = new_figure(width, height)
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(datasets) :]:
            ax.set_axis_off()
        for dataset, ax in zip(datasets, axes.flat, strict=False):
            for position, algorithm in enumerate(algorithms):
                _draw_strip(ax, table.cell(algorithm, dataset), position, styles[algorithm])
            ax.set_title(wrap(dataset, width / columns - 0.4))
            ax.set_ylim(len(algorithms) - 0.4, -0.6)
            ax.set_yticks(range(len(algorithms)), algorithms)
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            ax.grid(True, axis="x")
            ax.margins(x=0.06)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            if len(set(units.values())) > 1:
                ax.set_xlabel(units[dataset])
        unit = f"{next(iter(units.values()))}; " if len(set(units.values())) == 1 else ""
        footnote(figure, f"{unit}a point is a run, a bar the mean over {seeds_phrase(table)}")
        settle(figure)
    return Plot(figure, "Every run: a point is the score of one seed, a bar the mean of its cell.")


def _draw_strip(ax: Axes, scores: np.ndarray, position: int, style: Style) -> None:
    if not scores.size:
        return
    # Points are spread by their rank, so that equal scores stay visible and the picture is the same every time.
    offsets = np.zeros(scores.size)
    offsets[np.argsort(scores, kind="stable")] = 0.22 * np.resize([-1.0, 0.0, 1.0], scores.size)
    ax.scatter(
        scores, position + offsets, s=7, marker=style.marker, color=style.color, alpha=0.65, linewidths=0, zorder=3
    )
    if scores.size > 1:
        ax.plot([scores.mean()] * 2, [position - 0.38, position + 0.38], color=INK, linewidth=1.0, zorder=4)
