"""Numbers and phrases as every table, figure and page of a report writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from offbench.analysis import RETURN, SCORE, ScoreTable

MISSING = "–"
METHOD_TITLES = {
    "calibrated": "calibrated interval over seeds (Student t, errors and degrees of freedom made for few seeds)",
    "t": "stratified Student-t interval over seeds",
    "percentile": "percentile stratified bootstrap interval over seeds (too narrow with few seeds)",
    "basic": "basic stratified bootstrap interval over seeds (too narrow with few seeds)",
    "bc": "bias-corrected stratified bootstrap interval over seeds (too narrow with few seeds)",
    "bca": "BCa stratified bootstrap interval over seeds (too narrow with few seeds)",
}
METRIC_TITLES = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}


def decimals(values: Sequence[float] | np.ndarray) -> int:
    """Decimals to print so that values of this size keep three to four digits."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    largest = max(finite, default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2


def number(value: float, places: int = 1) -> str:
    """A number with fixed decimals; – where undefined; never "-0.0"."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(low: float, high: float, places: int = 1) -> str:
    """Two bounds in brackets."""
    return f"[{number(low, places)}, {number(high, places)}]"


def seeds_phrase(table: ScoreTable) -> str:
    """ "5 seeds" or "3 to 10 seeds" (per cell that has runs)."""
    counts = table.seed_counts().to_numpy()
    present = counts[counts > 0]
    low, high = int(present.min()), int(present.max())
    return f"{low} seed{'s' if low > 1 else ''}" if low == high else f"{low} to {high} seeds"


def unit_phrase(unit: str) -> str:
    """A unit in words, with its scale where it is ours."""
    return {SCORE: "normalized scores (0–100)", RETURN: "raw returns (not normalized)"}.get(unit, unit)


def p_text(p: float) -> str:
    """A p-value as tables print it."""
    return MISSING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
