"""Mean, standard error and interval of a cell's seeds, and of averages over datasets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offbench.analysis.student_t import t_cdf, t_quantile


@dataclass(frozen=True)
class Summary:
    """Mean of a cell, or of an average over datasets, with its standard error and degrees of freedom."""

    mean: float
    se: float
    df: float
    std: float  # over seeds; NaN for averages over datasets
    seeds: int

    @classmethod
    def of(cls, scores: np.ndarray) -> Summary:
        """Of one cell's scores [N]; N = 0 gives NaN."""
        n = scores.size
        mean = float(scores.mean()) if n else math.nan
        std = float(scores.std(ddof=1)) if n > 1 else math.nan
        return cls(mean, std / math.sqrt(n) if n > 1 else math.nan, n - 1, std, n)

    @classmethod
    def over(cls, cells: Sequence[Summary]) -> Summary:
        """Average over datasets: stratified standard error, Satterthwaite degrees of freedom."""
        mean = float(np.mean([cell.mean for cell in cells]))
        variances = np.array([cell.se for cell in cells]) ** 2
        total = variances.sum()
        df = math.nan
        if total > 0:
            df = float(total**2 / (variances**2 / np.array([max(cell.df, 1) for cell in cells])).sum())
        return cls(mean, math.sqrt(total) / len(cells), df, math.nan, min(cell.seeds for cell in cells))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student-t interval of the mean; NaN where the variation is unknown."""
        if not math.isfinite(self.se):
            return math.nan, math.nan
        half = t_quantile(0.5 + level / 2, self.df) * self.se if self.se > 0 else 0.0
        return self.mean - half, self.mean + half


def not_below(one: Summary, top: Summary, alpha: float = 0.05) -> bool:
    """Welch's test of two averages: p >= alpha; False where the variation is unknown."""
    v1, v2 = one.se**2, top.se**2
    if not math.isfinite(v1 + v2) or v1 + v2 == 0:
        return False
    parts = sum(v**2 / side.df for v, side in ((v1, one), (v2, top)) if v > 0)
    return 2 * t_cdf(-(top.mean - one.mean) / math.sqrt(v1 + v2), (v1 + v2) ** 2 / parts) >= alpha
