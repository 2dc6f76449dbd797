"""Performance profiles: the share of runs, or of datasets, above every score."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from offbench.analysis.profiles import PerformanceProfile
from offbench.reports.plots import (
    STYLE,
    TEXT_WIDTH,
    Plot,
    algorithm_handles,
    algorithm_styles,
    footnote,
    legend,
    legend_height,
    new_figure,
    settle,
)

_TITLES = {"scores": "Share of runs above a score", "averages": "Share of datasets whose mean is above it"}


def profile_plot(
    profiles: list[PerformanceProfile], algorithms: list[str], *, unit: str = "", nonlinear: bool = False
) -> Plot | None:
    """One panel per kind of profile, with pointwise bands.

    Args:
        profiles: from `analysis.profiles.performance_profile`, over the same datasets.
        algorithms: all algorithms of the report in its order, which fixes their colours.
        unit: of the scores, for the axis.
        nonlinear: stretch the axis where the algorithms' mean profile falls (Agarwal et al. 2021).
    """
    if not profiles:
        return None
    with mpl.rc_context(STYLE):
        drawn = [name for name in algorithms if name in profiles[0].algorithms]
        handles = [handle for handle in algorithm_handles(algorithms) if handle.get_label() in drawn]
        labels = [str(handle.get_label()) for handle in handles]
        figure = new_figure(TEXT_WIDTH, 2.2 + legend_height(labels, TEXT_WIDTH) + 0.2)
        axes = figure.subplots(1, len(profiles), sharey=True, squeeze=False)[0]
        for ax, profile in zip(axes, profiles, strict=True):
            _draw_profile(ax, profile, algorithms, nonlinear)
            ax.set_title(_TITLES[profile.kind])
            ax.set_xlabel(unit)
        legend(figure, handles)
        first = profiles[0]
        banded = first.curves["low"].notna().any()
        over = f"{len(first.datasets)} dataset{'s' if len(first.datasets) > 1 else ''}"
        if banded:
            footnote(figure, f"{over}; bands: pointwise {100 * first.level:g} % {first.method} intervals over seeds")
        else:
            footnote(figure, over)
        settle(figure)
    caption = f"Performance profiles over {over}; a curve that lies higher is better."
    if banded:
        caption += f" Bands: pointwise {100 * first.level:g} % {first.method} bootstrap intervals over seeds."
    if nonlinear:
        caption += " The axis is stretched where the algorithms' mean profile falls."
    return Plot(figure, " ".join([caption, *first.notes]))


def _draw_profile(ax: Axes, profile: PerformanceProfile, algorithms: list[str], nonlinear: bool) -> None:
    # A wide view of empty tails tells nothing: start where the first run drops out, end where the last one does.
    share = profile.curves.groupby("tau")["profile"].agg(["min", "max"])
    inside = share.index[(share["min"] < 1) & (share["max"] > 0)]
    for name, style in algorithm_styles(algorithms).items():
        curve = profile.curves[profile.curves["algorithm"] == name]
        if curve.empty:
            continue
        x = curve["position" if nonlinear else "tau"].to_numpy()
        low, high = curve["low"].to_numpy(), curve["high"].to_numpy()
        ax.fill_between(x, low, high, color=style.color, alpha=0.12, linewidth=0)
        ax.plot(x, curve["profile"].to_numpy(), color=style.color, linestyle=style.dashes, linewidth=1.2)
    if nonlinear:
        ticks = MaxNLocator(9).tick_values(inside[0], inside[-1]) if len(inside) else profile.taus[:1]
        ticks = ticks[(ticks >= profile.taus[0]) & (ticks <= profile.taus[-1])]
        places = profile.position(ticks)
        kept = [0]
        for index in range(1, len(ticks)):
            if places[index] - places[kept[-1]] > 0.09:
                kept.append(index)
        ax.set_xticks(places[kept], [f"{tick:g}" for tick in ticks[kept]])
    elif len(inside):
        margin = 0.03 * max(inside[-1] - inside[0], 1e-9)
        ax.set_xlim(inside[0] - margin, inside[-1] + margin)
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(True)
