"""The plane of TQ and SACo with datasets placed in it, alone or coloured by the scores that algorithms reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from offbench.reports.plots import (
    COLUMN_WIDTH,
    INK,
    MARKERS,
    MUTED,
    STYLE,
    TEXT_WIDTH,
    Plot,
    algorithm_styles,
    footnote,
    legend,
    legend_height,
    new_figure,
    settle,
    wrap,
)


def quality_plane(points: Mapping[str, tuple[float, float]], *, settings: str = "") -> Plot | None:
    """Every dataset as a point: SACo to the right (exploration), TQ up (exploitation), as in Schweighofer et al. 2022.

    Args:
        points: TQ and SACo by dataset. Datasets without both are left out and named in the caption.
        settings: how they were measured, in words, for the foot of the picture.

    Returns:
        The plot, or None if no dataset has both numbers.
    """
    placed = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    if not placed:
        return None
    title, labels = short_names(list(placed))
    styles = algorithm_styles(list(placed))
    with mpl.rc_context(STYLE):
        figure = new_figure(COLUMN_WIDTH, 2.9)
        ax = figure.subplots()
        for value in (0.0, 1.0):
            ax.axhline(value, color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
            ax.axvline(value, color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
        for name, (tq, saco) in placed.items():
            style = styles[name]
            ax.plot(saco, tq, marker=style.marker, color=style.color, markersize=5.5, linestyle="", zorder=3)
        _limits(ax, placed)
        ax.set_xlabel("SACo: unique state-action pairs / those of the reference")
        ax.set_ylabel("TQ: normalized mean return")
        ax.grid(True)
        if title:
            ax.set_title(title)
        if settings:
            footnote(figure, settings)
        settle(figure)
        _label(ax, placed, labels, [style.color for style in styles.values()])
    left_out = [name for name in points if name not in placed]
    caption = (
        "TQ (exploitation) against SACo (exploration) of each dataset (Schweighofer et al. 2022). TQ 0: the random "
        "policy's data; TQ 1: the best online policy. SACo 1: as many unique state-action pairs as the reference."
    )
    if settings:
        caption += f" {settings[0].upper()}{settings[1:]}."
    if left_out:
        caption += f" Not placed, for want of a reference: {', '.join(left_out)}."
    return Plot(figure, caption)


def score_planes(
    points: Mapping[str, tuple[float, float]],
    scores: Mapping[str, Mapping[str, float]],
    *,
    unit: str = "normalized score",
    groups: Mapping[str, str] | None = None,
    settings: str = "",
) -> Plot | None:
    """The plane once per algorithm, each dataset coloured by the algorithm's score, as in Schweighofer et al. 2022.

    Args:
        points: TQ and SACo by dataset; those without both are left out.
        scores: score by algorithm and dataset, the mean over seeds. Where one is missing the point is hollow.
        unit: of the scores. Normalized ones are coloured from 0 to 100, others from the least to the largest.
        groups: what a dataset belongs to, e.g. its environment; the marker then tells the group, not the dataset.
        settings: how TQ and SACo were measured, in words, for the foot of the picture.

    Returns:
        The plot, or None if no placed dataset has a score.
    """
    placed = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    known = [scores[a][d] for a in scores for d in placed if math.isfinite(scores[a].get(d, math.nan))]
    if not known:
        return None
    title, labels = short_names(list(placed))
    low, high = (0.0, 100.0) if unit == "normalized score" else (min(known), max(known))
    if not high > low:
        high = low + 1.0
    colors = mpl.colormaps["viridis"]
    scale = mpl.colors.Normalize(low, high, clip=True)
    columns = min(len(scores), 3)
    rows = math.ceil(len(scores) / columns)
    of = labels if groups is None else [groups[name] for name in placed]
    kinds = list(dict.fromkeys(of))
    told = len(kinds) <= len(MARKERS)  # with more, markers cannot tell them apart
    named = told and groups is None
    markers = [MARKERS[kinds.index(kind)] if told else "o" for kind in of]
    width = TEXT_WIDTH if columns > 1 else COLUMN_WIDTH
    handles = [
        Line2D([], [], marker=marker, color=MUTED, linestyle="", markersize=4.5, label=label)
        for marker, label in dict(zip(markers, of, strict=True)).items()
    ]
    with mpl.rc_context(STYLE):
        figure = new_figure(width, 0.55 + 1.85 * rows + (legend_height(kinds, width) if told else 0.0))
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for ax, (algorithm, by_dataset) in zip(axes.flat, scores.items(), strict=False):
            for value in (0.0, 1.0):
                ax.axhline(value, color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
                ax.axvline(value, color=MUTED, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
            for marker, (name, (tq, saco)) in zip(markers, placed.items(), strict=True):
                score = by_dataset.get(name, math.nan)
                there = math.isfinite(score)
                face = colors(scale(score)) if there else "none"
                ax.plot(
                    saco, tq, marker=marker, color=face, markeredgecolor=INK if there else MUTED, markeredgewidth=0.5,
                    markersize=5.5 if named else 4.5, linestyle="", zorder=3,
                )  # fmt: skip
                if named and there:
                    ax.annotate(
                        f"{round(score):d}",
                        (saco, tq),
                        (5, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=6.0,
                        zorder=4,
                    )
            ax.set_title(wrap(algorithm, width / columns))
            ax.grid(True)
        for ax in axes.flat[len(scores) :]:
            ax.set_visible(False)
        _limits(axes.flat[0], placed)
        figure.supxlabel("SACo: unique state-action pairs / those of the reference", fontsize=7.5)
        figure.supylabel("TQ: normalized mean return", fontsize=7.5)
        beyond = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
        bar = figure.colorbar(
            mpl.cm.ScalarMappable(scale, colors),
            ax=axes,
            extend=beyond[min(known) < low, max(known) > high],
            fraction=0.03,
            pad=0.02,
        )
        bar.set_label(unit)
        if told:
            legend(figure, handles)
        settle(figure)
    caption = (
        f"TQ against SACo of each dataset{f' of {title}' if title else ''}, coloured by the {unit} that an algorithm "
        "reached on it (mean over seeds; Schweighofer et al. 2022 show theirs so). Hollow: no result."
    )
    if settings:
        caption += f" {settings[0].upper()}{settings[1:]}."
    return Plot(figure, caption)


def _limits(ax: Axes, placed: Mapping[str, tuple[float, float]]) -> None:
    """Room around the points and the lines of 0 and 1."""
    highest = max(1.0, *(tq for tq, _ in placed.values()))
    lowest = min(0.0, *(tq for tq, _ in placed.values()))
    farthest = max(1.0, *(saco for _, saco in placed.values()))
    ax.set_xlim(-0.05 * farthest, 1.12 * farthest)
    ax.set_ylim(lowest - 0.1 * (highest - lowest), highest + 0.12 * (highest - lowest))


def short_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """Split what all names begin with, up to a slash, from the names: ("cartpole", ["random", "replay"])."""
    heads = {name.rpartition("/")[0] for name in names}
    if len(names) > 1 and len(heads) == 1 and (head := heads.pop()):
        return head, [name.rpartition("/")[2] for name in names]
    return "", list(names)


def _label(ax: Axes, placed: Mapping[str, tuple[float, float]], labels: Sequence[str], colors: Sequence[str]) -> None:
    """Names beside their points, at the first of some places where they cover neither a point nor another name."""
    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    spots = [ax.transData.transform((saco, tq)) for tq, saco in placed.values()]
    room = ax.get_window_extent(renderer)
    taken: list[mpl.transforms.Bbox] = [mpl.transforms.Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in spots]
    # The dashed lines are in the way as well.
    zero, one = ax.transData.transform([(0, 0), (1, 1)])
    taken += [mpl.transforms.Bbox.from_extents(room.x0, y - 1, room.x1, y + 1) for y in (zero[1], one[1])]
    taken += [mpl.transforms.Bbox.from_extents(x - 1, room.y0, x + 1, room.y1) for x in (zero[0], one[0])]
    offsets = [
        *((6, 0, "left", "center"), (-6, 0, "right", "center"), (0, 6, "center", "bottom")),
        *((0, -6, "center", "top"), (6, 9, "left", "bottom"), (6, -9, "left", "top"), (-6, 9, "right", "bottom")),
    ]
    for (tq, saco), label, color in zip(placed.values(), labels, colors, strict=True):
        best = None
        for dx, dy, side, level in offsets:
            text = ax.annotate(
                label,
                (saco, tq),
                (dx, dy),
                textcoords="offset points",
                ha=side,
                va=level,
                color=color,
                fontsize=7.0,
                zorder=4,
            )
            box = text.get_window_extent(renderer)
            clashes = sum(box.overlaps(other) for other in taken)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            badness = clashes + (0 if inside else 10)
            if best is None or badness < best[0]:
                if best is not None:
                    best[1].remove()
                best = (badness, text, box)
            else:
                text.remove()
            if best[0] == 0:
                break
        if best is not None:
            taken.append(best[2])
