"""Figures of the dataset perspective: datasets in their planes, and correlations of performance with TQ and SACo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from offbench.analysis.perspective import ALL, MEASURES, SCHEMES
from offbench.reports.plots import (
    MARKERS,
    MUTED,
    PALETTE,
    STYLE,
    TEXT_WIDTH,
    Plot,
    footnote,
    legend,
    new_figure,
    settle,
)

_TITLES = {"tq": "TQ", "saco": "SACo", "lsaco": "lSACo"}
_DEFINITIONS = (
    "TQ: mean return, 0 for the random data and 1 for the best online evaluation of the same dataset-creation run; "
    "SACo: unique state-action pairs, 1 for the replay data of the run"
)


def dataset_planes(points: pd.DataFrame) -> Plot:
    """Every dataset in the plane of its environment: SACo to the right, TQ up, one colour per scheme.

    Args:
        points: environment, scheme, run, tq and saco, one row per dataset.
    """
    environments = list(dict.fromkeys(points["environment"]))
    with mpl.rc_context(STYLE):
        figure, axes = _panels(environments, 3)
        schemes = [scheme for scheme in SCHEMES if scheme in set(points["scheme"])]
        for ax, environment in zip(axes, environments, strict=True):
            inside = points[points["environment"] == environment]
            for scheme in schemes:
                chosen = inside[inside["scheme"] == scheme]
                color, marker = _scheme_style(scheme)
                ax.plot(chosen["saco"], chosen["tq"], marker, color=color, markersize=5, alpha=0.8, zorder=3)
            _plane(ax, points, environment)
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="", markersize=5, label=scheme)
            for scheme in schemes
            for color, marker in [_scheme_style(scheme)]
        ]
        legend(figure, handles)
        settle(figure)
    runs = points["run"].nunique()
    return Plot(figure, f"The datasets, one mark per dataset-creation run ({runs} runs). {_DEFINITIONS}.")


def correlation_bars(correlations: pd.DataFrame) -> Plot:
    """Pearson correlation of each algorithm's performance with TQ, SACo and lSACo, by both rules.

    Args:
        correlations: as `offbench.analysis.perspective.correlations` gives it.
    """
    domains = list(dict.fromkeys(correlations["domain"]))
    algorithms = list(dict.fromkeys(correlations["algorithm"]))
    with mpl.rc_context(STYLE):
        figure, axes = _panels(domains, 3, height=0.5 + 0.19 * len(algorithms), shared_labels=False)
        places = np.arange(len(algorithms))[::-1]
        for position, (ax, domain) in enumerate(zip(axes, domains, strict=True)):
            for offset, measure in enumerate(MEASURES):
                for rule, filled in (("last", True), ("paper", False)):
                    rows = correlations[
                        (correlations["domain"] == domain)
                        & (correlations["measure"] == measure)
                        & (correlations["rule"] == rule)
                    ].set_index("algorithm")
                    color = PALETTE[offset]
                    ax.plot(
                        rows["r"].reindex(algorithms),
                        places + 0.22 * (1 - offset),
                        MARKERS[offset],
                        color=color,
                        markersize=4,
                        markerfacecolor=color if filled else "none",
                        markeredgewidth=0.8,
                        zorder=3,
                    )
            ax.axvline(0, color=MUTED, linewidth=0.6)
            for line in places[:-1] - 0.5:
                ax.axhline(line, color=MUTED, linewidth=0.3, alpha=0.4)
            ax.set_xlim(-1.08, 1.08)
            ax.set_ylim(-0.6, len(algorithms) - 0.4)
            ax.set_yticks(places, algorithms if position % 3 == 0 else [""] * len(algorithms))
            count = int(correlations.loc[correlations["domain"] == domain, "points"].max())
            name = "all environments" if domain == ALL else domain
            ax.set_title(f"{name} ({count} datasets)")
            ax.set_xlabel("Pearson correlation")
            ax.grid(True, axis="x")
        handles = [
            Line2D([], [], color=PALETTE[i], marker=MARKERS[i], linestyle="", markersize=4, label=_TITLES[measure])
            for i, measure in enumerate(MEASURES)
        ]
        legend(figure, handles)
        footnote(figure, "Filled: final evaluation. Open: the paper's maximum over evaluations (optimistic).")
        settle(figure)
    return Plot(
        figure,
        "Correlation of performance with TQ, SACo and lSACo over datasets. Filled marks: final evaluation; open marks: "
        "the paper's rule, the maximum over evaluations. Datasets of one environment are few and not independent, so "
        "small differences mean nothing.",
    )


# -- parts -----------------------------------------------------------------------------------------


def _scheme_style(scheme: str) -> tuple[str, str]:
    position = SCHEMES.index(scheme) if scheme in SCHEMES else len(SCHEMES)
    return PALETTE[position], MARKERS[position]


def _panels(
    names: Sequence[str], columns: int, *, height: float = 1.9, shared_labels: bool = True
) -> tuple[Figure, list[Axes]]:
    """As many axes as names, at most `columns` side by side."""
    columns = min(columns, len(names))
    rows = math.ceil(len(names) / columns)
    width = TEXT_WIDTH if columns == 3 else 0.4 * TEXT_WIDTH * columns
    figure = new_figure(width, height * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    flat = list(grid.ravel())
    for ax in flat[len(names) :]:
        ax.remove()
    if shared_labels:
        figure.supylabel("TQ", fontsize=7.5)
        for position, ax in enumerate(flat[: len(names)]):
            if position + columns >= len(names):
                ax.set_xlabel("SACo")
    return figure, flat[: len(names)]


def _plane(ax: Axes, points: pd.DataFrame, title: str) -> None:
    """The same limits in all planes, and lines at 0 and 1."""
    for value in (0.0, 1.0):
        ax.axhline(value, color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
        ax.axvline(value, color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
    for axis, measure in ((ax.set_xlim, "saco"), (ax.set_ylim, "tq")):
        values = points[measure].dropna()  # TQ has no value where online training was no better than random actions
        low, high = min([0.0, *values]), max([1.0, *values])
        axis(low - 0.08 * (high - low), high + 0.1 * (high - low))
    ax.set_title(title)
    ax.grid(True)
