"""Calibrated intervals of comparisons, with the standard errors and degrees of freedom of `intervals`.

Differences and learning curves are symmetric: the point +- t * standard error. Where a quantity has bounds (a
probability, a budget's curve), percentile bounds are stretched about the point by sqrt(inflation) * t / z instead: a
bootstrap within datasets of N runs sees the plug-in variance, (N-1)/N of the unbiased one, and treats it as known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np

from offbench.analysis.intervals import bootstrap_error, contributions, median_error, satterthwaite
from offbench.analysis.metrics import trim_fraction
from offbench.analysis.score_checks import ScoreError
from offbench.analysis.student_t import t_quantile

Method = Literal["calibrated", "percentile"]


def require_method(method: str, level: float) -> None:
    """Raises ScoreError unless `method` is known and 0 < `level` < 1."""
    if method not in ("calibrated", "percentile"):
        raise ScoreError(f"unknown interval method {method!r}", fix="use 'calibrated' or 'percentile'")
    if not 0 < level < 1:
        raise ScoreError(f"the level of an interval lies between 0 and 1, got {level}", fix="use 0.95 for 95 %")


def stretch(variances: np.ndarray, sizes: np.ndarray, level: float) -> float:
    """Factor by which a percentile interval is stretched about its point.

    Args:
        variances: what each group of runs contributes to the squared standard error, from unbiased variances [G].
        sizes: number of runs in each group [G], all at least 2.
        level: nominal coverage.

    Returns:
        The factor. Where no group varies, that of the smallest group.
    """
    total = float(variances.sum())
    inflation = float(sizes.min() / (sizes.min() - 1))
    if total > 0:
        inflation = 1 / float((variances / total * (sizes - 1) / sizes).sum())
    df = satterthwaite(variances, sizes - 1)
    upper = 0.5 + level / 2
    return math.sqrt(inflation) * t_at(upper, df) / NormalDist().inv_cdf(upper)


def t_at(probability: float, df: float) -> float:
    """Quantile of Student's t, interpolated where many are needed: relative error below 1e-5."""
    if df < 5:
        return t_quantile(probability, df)
    return float(np.interp(1 / df, *_t_table(probability)))


@lru_cache(maxsize=8)
def _t_table(probability: float) -> tuple[np.ndarray, np.ndarray]:
    """1/df from 0 to 1/5, in which the quantile is nearly straight, and the quantiles there."""
    inverse = np.linspace(0, 0.2, 65)
    quantiles = [t_quantile(probability, 1 / u if u > 0 else math.inf) for u in inverse]
    return inverse, np.array(quantiles)


def standard_error(
    metric: str, cells: Sequence[np.ndarray], *, replicates: np.ndarray | None, gamma: float, seed: int
) -> tuple[float, float]:
    """Standard error of an aggregate over cells and its degrees of freedom, as its calibrated interval has them.

    Args:
        replicates: of the bootstrap [B]; needed by IQM and other trimmed means only.
        seed: of the median's standard error.
    """
    if metric == "median":
        return median_error(cells, seed)
    if replicates is None or trim_fraction(metric) is None:
        variances, freedom = contributions(metric, cells, gamma)
        return math.sqrt(variances.sum()), satterthwaite(variances, freedom)
    return bootstrap_error(metric, cells, replicates, gamma)


def margin(errors: Sequence[float] | np.ndarray, freedom: Sequence[float] | np.ndarray, level: float) -> float:
    """t * standard error of a sum or difference of independent estimates, from their errors and degrees of freedom."""
    squares = np.square(errors)
    if not squares.any():
        return 0.0
    return t_at(0.5 + level / 2, satterthwaite(squares, np.asarray(freedom))) * math.sqrt(squares.sum())


def interval(
    replicates: np.ndarray,
    point: float,
    level: float,
    factor: float = 1.0,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> tuple[float, float]:
    """Percentile bounds of replicates [B], stretched about the point and kept inside what is possible."""
    low, high = np.percentile(replicates, [50 - 50 * level, 50 + 50 * level])
    low, high = (float(np.clip(point + (bound - point) * factor, lowest, highest)) for bound in (low, high))
    return low, high  # both kept inside: rounding may put the lower bound a hair above the highest value
