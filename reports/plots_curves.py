"""Curves: scores against updates (one panel per dataset), and scores against the severity of a disturbance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from offbench.analysis import ScoreTable
from offbench.analysis.curves import LearningCurve
from offbench.analysis.student_t import t_quantile
from offbench.reports.plots import (
    COLUMN_WIDTH,
    MUTED,
    STYLE,
    TEXT_WIDTH,
    Plot,
    Style,
    algorithm_handles,
    algorithm_styles,
    footnote,
    legend,
    legend_height,
    new_figure,
    panel_columns,
    settle,
    thousands,
    wrap,
)
from offbench.reports.words import METRIC_TITLES, seeds_phrase


def curve_statistics(table: ScoreTable, level: float = 0.95) -> pd.DataFrame:
    """Mean over seeds and pointwise Student-t interval of every learning curve.

    Returns:
        algorithm, dataset, step, n, mean, low, high, in the table's order; low and high are NaN where n = 1.
    """
    columns = ["algorithm", "dataset", "step", "n", "mean", "low", "high"]
    if table.curves is None:
        return pd.DataFrame(columns=columns)
    frame = mean_and_interval(table.curves, ["algorithm", "dataset", "step"], level)
    return frame.sort_values("step", kind="stable")[columns].reset_index(drop=True)


def mean_and_interval(rows: pd.DataFrame, keys: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Per group of `keys`: n, mean and Student-t interval of the mean of `score`; NaN bounds where n = 1."""
    groups = rows.groupby(list(keys), sort=False)["score"]
    frame = groups.agg(n="size", mean="mean", std=lambda scores: scores.std(ddof=1)).reset_index()
    factor = {int(n): t_quantile(0.5 + level / 2, n - 1) / math.sqrt(n) for n in frame["n"].unique() if n > 1}
    half = frame["std"] * frame["n"].map(lambda n: factor.get(int(n), math.nan))
    return frame.assign(low=frame["mean"] - half, high=frame["mean"] + half)


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
    units = table.units
    with mpl.rc_context(STYLE):
        handles = algorithm_handles(table.algorithms)
        if behaviour:
            handles.append(Line2D([], [], color=MUTED, linestyle=":", linewidth=1.3, label="data (behaviour)"))
        figure, panels = _panels(table.datasets, handles)
        styles = algorithm_styles(table.algorithms)
        for dataset, ax in panels.items():
            _draw_curves(ax, frame[frame["dataset"] == dataset], styles, "step", behaviour.get(dataset))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
            if ax.get_subplotspec().is_first_col() or len(set(units.values())) > 1:  # type: ignore[union-attr]
                ax.set_ylabel(units[dataset])
        _label_bottom(panels, "updates")
        several = frame["n"].max() > 1
        bands = f"; bands: pointwise {100 * level:g} % t interval of the mean" if several else ""
        footnote(figure, f"{seeds_phrase(table)}{bands}")
        settle(figure)
    band = f" with a pointwise {100 * level:g} % Student-t interval of the mean" if several else ""
    caption = f"Learning curves: mean over seeds{band}." if several else "Learning curves of single runs."
    if several:
        caption += " Bands wider than a panel are cut."
    if behaviour:
        caption += " Dotted: mean of the policy that collected the dataset."
    return Plot(figure, caption)


def efficiency_plot(curve: LearningCurve, algorithms: Sequence[str], *, unit: str = "") -> Plot:
    """An aggregate over datasets against updates, one line per algorithm, with pointwise intervals.

    Args:
        curve: the result of `analysis.curves.learning_curve` over all datasets.
        algorithms: all algorithms of the report in its order, which fixes their colours.
        unit: of the scores.
    """
    drawn = set(curve.frame["algorithm"])
    metric = METRIC_TITLES.get(curve.metric, curve.metric)
    over = f"{len(curve.datasets)} datasets"
    frame = curve.frame.rename(columns={"point": "mean"})
    with mpl.rc_context(STYLE):
        handles = [handle for handle in algorithm_handles(algorithms) if handle.get_label() in drawn]
        labels = [str(handle.get_label()) for handle in handles]
        figure = new_figure(COLUMN_WIDTH, 2.2 + legend_height(labels, COLUMN_WIDTH))
        ax = figure.subplots()
        _draw_curves(ax, frame, algorithm_styles(algorithms), "step", None)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
        ax.set_xlabel("updates")
        ax.set_ylabel(f"{metric} of {unit}s" if unit else metric)
        legend(figure, handles)
        banded = frame["low"].notna().any()
        footnote(figure, f"{over}; bands: pointwise {100 * curve.level:g} % intervals over seeds" if banded else over)
        settle(figure)
    caption = f"Sample efficiency: {metric} over {over} at every evaluation; smoothing: {curve.smoothing}."
    if banded:
        caption += f" Bands: pointwise {100 * curve.level:g} % {curve.method} intervals, which resample whole runs."
    return Plot(figure, " ".join([caption, *curve.notes]))


def robustness_curves(
    rows: pd.DataFrame, algorithms: Sequence[str], *, severity: str = "severity", level: float = 0.95, unit: str = ""
) -> Plot | None:
    """One panel per dataset: mean score over seeds against a severity, with its interval.

    Args:
        rows: one row per run: algorithm, dataset, seed, score and the column `severity`, a number (0: undisturbed).
        algorithms: all algorithms of the report in its order, which fixes their colours.
        severity: name of that column, which labels the axis.
        unit: of the scores.

    Returns:
        The plot, or None if no algorithm was run at two severities of one dataset.
    """
    frame = mean_and_interval(rows, ["algorithm", "dataset", severity], level)
    if frame.groupby(["algorithm", "dataset"]).size().max() < 2:
        return None
    datasets = list(frame["dataset"].unique())
    with mpl.rc_context(STYLE):
        figure, panels = _panels(datasets, algorithm_handles(algorithms, markers=True))
        for dataset, ax in panels.items():
            chosen = frame[frame["dataset"] == dataset].sort_values(severity, kind="stable")
            _draw_curves(ax, chosen, algorithm_styles(algorithms), severity, None, markers=True)
            if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
                ax.set_ylabel(unit)
        _label_bottom(panels, severity)
        several = frame["n"].max() > 1
        seeds = f"{frame['n'].min()} to {frame['n'].max()} seeds" if frame["n"].nunique() > 1 else ""
        seeds = seeds or f"{frame['n'].max()} seed{'s' if several else ''}"
        bands = f"; bands: {100 * level:g} % t interval of the mean" if several else ""
        footnote(figure, f"{seeds} per point{bands}")
        settle(figure)
    return Plot(figure, f"Robustness: mean over seeds against {severity}{bands}.")


def severity_table(rows: pd.DataFrame, severity: str = "severity") -> pd.DataFrame:
    """Robustness in numbers, per algorithm and dataset.

    Returns:
        algorithm, dataset, at_lowest, area (mean height of the curve between the lowest and highest severity, by
        trapezoids), worst (lowest mean), worst_at, retained (worst / at_lowest, NaN unless at_lowest > 0).
    """
    means = rows.groupby(["algorithm", "dataset", severity], sort=False)["score"].mean().reset_index()
    records = []
    for (algorithm, dataset), curve in means.groupby(["algorithm", "dataset"], sort=False):
        ordered = curve.sort_values(severity)
        x, y = ordered[severity].to_numpy(dtype=np.float64), ordered["score"].to_numpy()
        if len(x) < 2:
            continue
        area = float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))
        worst = int(y.argmin())
        retained = float(y[worst] / y[0]) if y[0] > 0 else math.nan
        records.append((algorithm, dataset, float(y[0]), area, float(y[worst]), float(x[worst]), retained))
    columns = ["algorithm", "dataset", "at_lowest", "area", "worst", "worst_at", "retained"]
    return pd.DataFrame.from_records(records, columns=columns)


# -- parts -----------------------------------------------------------------------------------------


def _panels(datasets: Sequence[str], handles: Sequence[Line2D]) -> tuple[Figure, dict[str, Axes]]:
    """A grid of panels with a legend above: one column for a single dataset, else as wide as the text."""
    columns = panel_columns(len(datasets))
    width = COLUMN_WIDTH if columns == 1 else TEXT_WIDTH
    rows = math.ceil(len(datasets) / columns)
    height = {1: 2.2, 2: 2.1, 3: 1.6}.get(columns, 1.3)
    labels = [str(handle.get_label()) for handle in handles]
    lines = max(wrap(name, width / columns - 0.3).count("\n") for name in datasets)
    figure = new_figure(width, (height + 0.12 * lines) * rows + legend_height(labels, width) + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(datasets) :]:
        ax.set_axis_off()
    panels = dict(zip(datasets, axes.flat, strict=False))
    for dataset, ax in panels.items():
        ax.set_title(wrap(dataset, width / columns - 0.3))
    legend(figure, handles)
    return figure, panels


def _label_bottom(panels: Mapping[str, Axes], label: str) -> None:
    """Name the axis under the lowest panel of every column."""
    columns = panel_columns(len(panels))
    for position, ax in enumerate(panels.values()):
        if position + columns >= len(panels):
            ax.set_xlabel(label)


def _draw_curves(
    ax: Axes,
    frame: pd.DataFrame,
    styles: Mapping[str, Style],
    x: str,
    behaviour: float | None,
    *,
    markers: bool = False,
) -> None:
    for algorithm, style in styles.items():
        curve = frame[frame["algorithm"] == algorithm]
        if curve.empty:
            continue
        steps, mean = curve[x].to_numpy(), curve["mean"].to_numpy()
        low, high = curve["low"].to_numpy(), curve["high"].to_numpy()
        ax.fill_between(steps, low, high, color=style.color, alpha=0.14, linewidth=0)
        marker = style.marker if markers or len(steps) == 1 else ""
        ax.plot(steps, mean, color=style.color, linestyle=style.dashes, marker=marker, markersize=3.2, linewidth=1.2)
    if behaviour is not None:
        ax.axhline(behaviour, color=MUTED, linestyle=":", linewidth=1.2, zorder=1)
    _limit_to_means(ax, frame, behaviour)
    ax.grid(True)
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(5))


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
