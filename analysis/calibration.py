"""Widening of percentile intervals for few seeds, as one formula for aggregates, differences, probabilities of
improvement and learning curves; profiles share its degrees of freedom.

A bootstrap within datasets of N runs sees the plug-in variance, (N-1)/N of the unbiased one, and treats it as known.
The bounds are therefore stretched about the point estimate by sqrt(inflation) * t_df / z, with Satterthwaite degrees
of freedom over the datasets that contribute to the standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np

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
    df, inflation = float(sizes.min() - 1), float(sizes.min() / (sizes.min() - 1))
    total = float(variances.sum())
    if total > 0:
        shares = variances / total  # squares of tiny variances would underflow
        inflation = float(1 / (shares * (sizes - 1) / sizes).sum())
        df = float(1 / (shares**2 / (sizes - 1)).sum())
    upper = 0.5 + level / 2
    return math.sqrt(inflation) * _t(upper, df) / NormalDist().inv_cdf(upper)


def t_margin(variances: np.ndarray, sizes: np.ndarray, level: float) -> float:
    """t * standard error, where groups of `sizes` runs [G] contribute `variances` [G] to the squared standard error."""
    total = float(variances.sum())
    if total <= 0:
        return 0.0
    shares = variances / total
    df = float(1 / (shares**2 / (sizes - 1)).sum())
    return _t(0.5 + level / 2, df) * math.sqrt(total)


def _t(probability: float, df: float) -> float:
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


def contributions(cells: Sequence[np.ndarray], metric: str, gamma: float) -> np.ndarray:
    """Contribution of each dataset's runs to the squared standard error of an aggregate [M].

    For IQM and other trimmed means, scores are winsorised at the pooled quantiles. For the median over datasets the
    mean's contributions are returned; use `aggregate_stretch`, which is more careful there.
    """
    sizes = np.array([cell.size for cell in cells], dtype=np.float64)
    weights = np.full(len(cells), 1 / len(cells))
    fraction = trim_fraction(metric)
    if fraction is not None:
        low, high = np.quantile(np.concatenate(list(cells)), [fraction, 1 - fraction])
        cells = [np.clip(cell, low, high) for cell in cells]
        weights = sizes / sizes.sum()  # trimmed means pool runs
    elif metric == "optimality_gap":
        cells = [np.minimum(cell, gamma) for cell in cells]
    return weights**2 * np.array([cell.var(ddof=1) for cell in cells]) / sizes


def aggregate_stretch(groups: Sequence[Sequence[np.ndarray]], metric: str, level: float, gamma: float) -> float:
    """`stretch` for an aggregate (one group of cells) or a difference of two.

    The median rests on the one or two datasets in the middle, so it takes the factor of the smallest cell.
    """
    sizes = np.array([cell.size for cells in groups for cell in cells], dtype=np.float64)
    if metric == "median":
        return stretch(np.zeros(sizes.size), sizes, level)
    return stretch(np.concatenate([contributions(cells, metric, gamma) for cells in groups]), sizes, level)


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
    return max(lowest, float(point + (low - point) * factor)), min(highest, float(point + (high - point) * factor))
