"""Histograms of a dataset card as small SVG pictures: the page's own fonts and colours, no plotting library."""

from __future__ import annotations

import math
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 460, 220  # CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 40
BAR = "#0072B2"
MOST_BINS = 40


def histogram(values: NDArray[np.float64] | NDArray[np.int64], title: str, *, standalone: bool = False) -> str:
    """An SVG picture of how `values` [K] are spread, with the mean as a dashed line.

    Args:
        values: finite numbers, at least one.
        title: of the horizontal axis.
        standalone: for a file of its own: dark ink on white and a fixed size. Otherwise the ink is `currentColor`.
    """
    counts, edges = bins(np.asarray(values, np.float64))
    ticks = nice_ticks(edges[0], edges[-1], 6)
    heights = nice_ticks(0, float(counts.max()), 4)
    top = max(float(counts.max()), heights[-1])
    ink = "#1f2328" if standalone else "currentColor"

    def x(value: float) -> float:
        return LEFT + (value - edges[0]) / (edges[-1] - edges[0]) * (WIDTH - LEFT - RIGHT)

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - count / top * (HEIGHT - TOP - BOTTOM)

    size = f'width="{WIDTH}" height="{HEIGHT}"' if standalone else f'style="max-width:{WIDTH}px;width:100%;height:auto"'
    mean = float(np.mean(values))
    words = f"{title}: {len(values):,} episodes, mean {label(mean)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {size} role="img" '
        f'aria-label="{escape(words, quote=True)}" font-family="system-ui, Segoe UI, DejaVu Sans, sans-serif" '
        f'font-size="11.5" fill="{ink}">'
    ]
    if standalone:
        parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>')
    for tick in heights:
        line = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"'
        parts.append(f'<line {line} stroke="{ink}" stroke-opacity="{0.6 if tick == 0 else 0.14}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{label(tick)}</text>')
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            left, right = x(low) + 0.5, x(high) - 0.5
            height = max(1.0, y(0) - y(count))  # a bin of one episode stays visible beside one of thousands
            parts.append(
                f'<rect x="{left:.1f}" y="{y(0) - height:.1f}" width="{max(1.0, right - left):.1f}" '
                f'height="{height:.1f}" fill="{BAR}"/>'
            )
    for tick in ticks:
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{y(0):.1f}" y2="{y(0) + 4:.1f}" stroke="{ink}"/>'
        )
        parts.append(f'<text x="{x(tick):.1f}" y="{y(0) + 16:.1f}" text-anchor="middle">{label(tick)}</text>')
    parts.append(
        f'<line x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{TOP - 4}" y2="{y(0):.1f}" stroke="{ink}" '
        'stroke-dasharray="4 3" stroke-width="1.2"/>'
    )
    side = "end" if x(mean) > WIDTH - 90 else "start" if x(mean) < LEFT + 40 else "middle"
    parts.append(f'<text x="{x(mean):.1f}" y="{TOP - 9}" text-anchor="{side}">mean {label(mean)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(title)}</text>')
    parts.append('<text x="4" y="12">episodes</text></svg>')
    return "\n".join(parts)


def bins(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(counts [B], edges [B + 1]); equal values get one bar in the middle; whole numbers whole bins."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        pad = max(0.5, 0.05 * abs(low))
        edges = low + pad * np.array([-5.0, -3.0, -1.0, 1.0, 3.0, 5.0])
        return np.array([0, 0, len(values), 0, 0]), edges
    q1, q3 = np.quantile(values, (0.25, 0.75))
    width = 2 * (q3 - q1) / len(values) ** (1 / 3)  # Freedman and Diaconis 1981
    number = MOST_BINS if width <= 0 else math.ceil((high - low) / width)
    number = min(MOST_BINS, max(10, number))
    if (values == np.round(values)).all():
        step = max(1, math.ceil((high - low + 1) / number))
        edges = np.arange(low - 0.5, high + step + 0.5, step)
        while len(edges) > 2 and edges[-2] > high:
            edges = edges[:-1]
        return np.histogram(values, edges)[0], edges
    counts, edges = np.histogram(values, number)
    return counts, edges


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most `most + 1` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)] or [low]


def label(value: float) -> str:
    """A tick's number, short."""
    if value == 0:
        return "0"
    if abs(value) >= 100_000:
        text = f"{value / 1000:,.0f}k"
    elif abs(value) >= 100 or value == round(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")
