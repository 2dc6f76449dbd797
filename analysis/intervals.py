"""Confidence intervals of aggregate metrics: calibrated (the default), Student t, percentile, basic, BC and BCa.

All start from one array of scores per dataset, whose runs are the units of replication. docs/results_and_statistics.md
derives the calibrated interval; docs/results/coverage.md says how often each method covers the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offbench.analysis.metrics import (
    METRICS,
    Strata,
    as_strata,
    cut,
    jackknife,
    middle,
    point,
    reference_statistics,
    trim_fraction,
)
from offbench.analysis.resampling import NORMAL, bootstrap, chunk_rows, rliable_bootstrap
from offbench.analysis.score_checks import ScoreError
from offbench.analysis.student_t import t_quantile
from offbench.errors import UnknownNameError

Method = Literal["calibrated", "t", "percentile", "basic", "bc", "bca"]
METHODS = ("calibrated", "t", "percentile", "basic", "bc", "bca")
RLIABLE_METHODS = ("percentile", "basic", "bc", "bca")

_PRIOR_RUNS = 0.25  # weight, in degrees of freedom, of the datasets' mean variance in the median's standard error
_MEDIAN_DRAWS = 4_000  # the median's interval needs two moments only, not tails


@dataclass(frozen=True)
class Estimate:
    """A point estimate with its interval. `reason` says why `low` and `high` are NaN, and is empty
    otherwise.
    """

    point: float
    low: float
    high: float
    reason: str = ""


def estimate(
    scores: Strata,
    *,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 50_000,
    seed: int = 0,
    gamma: float = 100.0,
    metrics: Sequence[str] = METRICS,
    task_bootstrap: bool = False,
    rliable_stream: np.random.RandomState | None = None,
) -> dict[str, Estimate]:
    """Point and interval of metrics.

    Args:
        scores: one array [N_m] per dataset (sizes may differ), or an array [runs, datasets].
        method: "calibrated": near the nominal coverage from 2 seeds on. "t": stratified Student t of the mean, the
            optimality gap and trimmed means. "percentile" (what rliable prints), "basic", "bc", "bca": bootstrap
            intervals that cover 60-90 % of the time with 2-5 seeds instead of 95 %.
        level: nominal coverage.
        reps, seed: of the bootstrap. gamma: of the optimality gap.
        metrics: which; also "trimmed_mean(0.1)".
        task_bootstrap: resample datasets, too: the interval is then about datasets like these.
        rliable_stream: consume this legacy stream exactly as rliable does, instead of `seed`; needs equal
            N_m and a method of rliable.

    Returns:
        metric -> `Estimate`. A dataset with a single run leaves the intervals undefined (NaN) with a reason.

    Raises:
        UnknownNameError: no such method or metric.
        ScoreError: `rliable_stream` with unequal N_m or another method; a level outside (0, 1).
    """
    strata = as_strata(scores)
    _check(method, level, reps, rliable_stream is not None)
    sizes = [stratum.size for stratum in strata]
    if rliable_stream is not None and len(set(sizes)) > 1:
        raise ScoreError("rliable needs the same number of seeds on every dataset", f"it has {sorted(set(sizes))}")
    points = {metric: point(metric, strata, gamma) for metric in metrics}
    if rliable_stream is not None:
        same = reference_statistics(np.stack(strata, axis=1)[None], metrics, gamma)
        points = {metric: float(values[0]) for metric, values in same.items()}
    reason = _undefined(sizes, task_bootstrap)
    if reason:
        return {metric: Estimate(value, math.nan, math.nan, reason) for metric, value in points.items()}

    resampled = [metric for metric in metrics if _needs_replicates(method, metric, task_bootstrap)]
    replicates: dict[str, np.ndarray] = {}
    if rliable_stream is not None:
        replicates = rliable_bootstrap(
            strata, stream=rliable_stream, reps=reps, gamma=gamma, metrics=resampled, tasks=task_bootstrap
        )
    elif resampled:
        replicates = bootstrap(strata, reps=reps, seed=seed, gamma=gamma, metrics=resampled, tasks=task_bootstrap)

    strict = rliable_stream is not None
    accelerations: dict[str, float] = {}
    if method == "bca" and strict:
        accelerations = rliable_accelerations(metrics, strata, gamma)
    elif method == "bca":
        accelerations = {metric: run_acceleration(metric, strata, gamma) for metric in metrics}
    found = {}
    for metric, value in points.items():
        values = replicates.get(metric)
        if values is None:
            found[metric] = t_like(metric, strata, level=level, gamma=gamma, seed=seed, median=method == "calibrated")
        elif method == "calibrated":
            found[metric] = calibrated(metric, strata, values, level=level, gamma=gamma, task_bootstrap=task_bootstrap)
        else:
            acceleration = accelerations.get(metric, 0.0)
            bounds = bootstrap_bounds(values, value, method, level, acceleration, strict=strict)
            found[metric] = Estimate(value, *bounds)
    return found


def _check(method: str, level: float, reps: int, compatible: bool) -> None:
    if method not in METHODS:
        raise UnknownNameError("interval method", method, METHODS)
    if compatible and method not in RLIABLE_METHODS:
        raise ScoreError(f"rliable has no {method} interval", fix=f"use one of {', '.join(RLIABLE_METHODS)}")
    if not 0 < level < 1:
        raise ScoreError(f"the level of an interval lies between 0 and 1, got {level}", fix="use 0.95 for 95 %")
    if reps < 1:
        raise ScoreError(f"a bootstrap needs at least one replicate, got {reps}", fix="use 2,000 or more")


def _undefined(sizes: Sequence[int], task_bootstrap: bool) -> str:
    single = sum(size == 1 for size in sizes)
    if single and not task_bootstrap:
        where = "" if single == len(sizes) else f" on {single} of {len(sizes)} datasets"
        return f"one seed{where}: run-to-run variation is unknown"
    if task_bootstrap and len(sizes) == 1:
        return "one dataset: variation between datasets is unknown"
    return ""


def _needs_replicates(method: str, metric: str, task_bootstrap: bool) -> bool:
    if method in RLIABLE_METHODS:
        return True
    return method == "calibrated" and (task_bootstrap or trim_fraction(metric) is not None)


# -- Student t and the calibrated interval ---------------------------------------------------------


def contributions(metric: str, strata: Sequence[np.ndarray], gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """What each dataset adds to the squared standard error of a smooth metric, and its degrees of freedom.

    Mean and optimality gap are averages over datasets of independent means: exact. For trimmed means the runs'
    influence is that of the winsorised scores (Tukey & McLaughlin 1963; here with the datasets as strata), and a
    dataset has one degree of freedom less than it has runs inside the limits, but at least half of those of all its
    runs: the limits come from all datasets, and one with nine of ten runs beyond them still says how they vary.

    Returns:
        Variances [M] and degrees of freedom [M].
    """
    sizes = np.array([stratum.size for stratum in strata], dtype=np.float64)
    freedom = sizes - 1
    fraction = trim_fraction(metric)
    if fraction is None:
        if metric == "optimality_gap":
            strata = [np.minimum(stratum, gamma) for stratum in strata]
        weights = np.full(sizes.size, 1 / sizes.size)
    else:
        ordered = np.sort(np.concatenate(strata))
        dropped = cut(ordered.size, fraction)
        low, high = ordered[dropped], ordered[ordered.size - dropped - 1]
        inside = np.array([np.count_nonzero((stratum >= low) & (stratum <= high)) for stratum in strata])
        strata = [np.clip(stratum, low, high) for stratum in strata]
        freedom = np.maximum(inside - 1, np.maximum((sizes - 1) // 2, 1))
        weights = sizes / (ordered.size - 2 * dropped)
    return weights**2 * np.array([stratum.var(ddof=1) for stratum in strata]) / sizes, freedom


def satterthwaite(variances: np.ndarray, freedom: np.ndarray) -> float:
    """Degrees of freedom of a sum of independent variance estimates [M]; the smallest where none varies."""
    total = float(variances.sum())
    if total <= 0:
        return float(freedom.min())
    shares = variances / total  # squares of tiny variances would underflow
    return float(1 / (shares**2 / freedom).sum())


def t_like(
    metric: str, strata: Sequence[np.ndarray], *, level: float, gamma: float, seed: int = 0, median: bool = False
) -> Estimate:
    """Interval that is symmetric about the point, from standard error and degrees of freedom alone.

    Args:
        median: for the median over datasets give the calibrated interval; otherwise it has none.
    """
    value = point(metric, strata, gamma)
    if metric == "median":
        if not median:
            return Estimate(value, math.nan, math.nan, "there is no t interval of a median over datasets")
        error, freedom = median_error(strata, seed)
    else:
        variances, each = contributions(metric, strata, gamma)
        error, freedom = math.sqrt(variances.sum()), satterthwaite(variances, each)
    return _symmetric(metric, value, error, freedom, level)


def calibrated(
    metric: str,
    strata: Sequence[np.ndarray],
    replicates: np.ndarray,
    *,
    level: float,
    gamma: float,
    task_bootstrap: bool = False,
) -> Estimate:
    """Calibrated interval of a metric whose standard error comes from bootstrap replicates [B].

    A bootstrap sees the plug-in variance, (N-1)/N of the unbiased one: its standard error is inflated by as much.
    With `task_bootstrap` datasets take the place of runs.
    """
    value = point(metric, strata, gamma)
    if task_bootstrap:
        count = len(strata)
        return _symmetric(metric, value, float(replicates.std()) * math.sqrt(count / (count - 1)), count - 1.0, level)
    return _symmetric(metric, value, *bootstrap_error(metric, strata, replicates, gamma), level)


def bootstrap_error(
    metric: str, strata: Sequence[np.ndarray], replicates: np.ndarray, gamma: float
) -> tuple[float, float]:
    """Standard error of a smooth metric from replicates [B], inflated to unbiased variances, and its df."""
    variances, freedom = contributions(metric, strata, gamma)
    sizes = np.array([stratum.size for stratum in strata], dtype=np.float64)
    shares = variances if variances.sum() > 0 else (sizes == sizes.min()).astype(np.float64)
    shares = shares / shares.sum()
    inflation = 1 / float((shares * (sizes - 1) / sizes).sum())
    return float(replicates.std()) * math.sqrt(inflation), satterthwaite(variances, freedom)


def median_error(strata: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """Standard error of the median over datasets of their means, and its degrees of freedom.

    The datasets' means are redrawn from normal distributions with their standard errors: with few seeds a bootstrap
    has only a handful of distinct means. The error is the root mean square distance of the redrawn medians from the
    observed one, which includes the shift of a median of noisy means. Standard errors are raised to those of a
    weak prior (a quarter of a run with the datasets' mean variance), since the median can rest on datasets whose
    two or three seeds agree by chance. Each dataset counts in the degrees of freedom as often as it was in the
    middle.
    """
    sizes = np.array([stratum.size for stratum in strata], dtype=np.float64)
    means = np.array([stratum.mean() for stratum in strata])
    freedom = sizes - 1
    variances = np.array([stratum.var(ddof=1) for stratum in strata]) / sizes
    prior = (freedom * variances + _PRIOR_RUNS * variances.mean()) / (freedom + _PRIOR_RUNS)
    variances = np.maximum(variances, prior)
    if not variances.any():
        return 0.0, float(freedom.min())
    observed = float(np.median(means))
    rng = np.random.default_rng(seed)
    errors, count = np.sqrt(variances), means.size
    middles, square = np.zeros(count), 0.0
    for b in chunk_rows(count, _MEDIAN_DRAWS):
        drawn = means + errors * rng.standard_normal((b, count))
        order = np.argsort(drawn, axis=1)
        for place in ((count - 1) // 2, count // 2):
            middles += np.bincount(order[:, place], minlength=count)
        square += float(((middle(drawn) - observed) ** 2).sum())
    shares = middles / middles.sum()
    return math.sqrt(square / _MEDIAN_DRAWS), satterthwaite(shares * variances, freedom)


def _symmetric(metric: str, value: float, error: float, freedom: float, level: float) -> Estimate:
    half = t_quantile(0.5 + level / 2, freedom) * error if error > 0 else 0.0
    lowest = 0.0 if metric == "optimality_gap" else -math.inf  # a gap is never negative
    return Estimate(value, max(lowest, value - half), value + half)


# -- bootstrap intervals ---------------------------------------------------------------------------


def bootstrap_bounds(
    replicates: np.ndarray, value: float, method: str, level: float, acceleration: float = 0.0, *, strict: bool = False
) -> tuple[float, float]:
    """Bounds from bootstrap replicates [B] of a statistic whose observed value is `value`.

    percentile: the replicates' quantiles; basic: those reflected at `value`; bc and bca (Efron 1987): quantiles at
    levels moved for the share of replicates below `value` and for the acceleration. Replicates equal to `value` up to
    rounding count half; with few seeds there are many, and by "strictly below", which rliable has (`strict`), rounding
    decides. Where all replicates lie on one side, the share is half a replicate, and the interval stays finite.
    """
    tails = np.array([0.5 - level / 2, 0.5 + level / 2])
    if method in ("bc", "bca"):
        rounding = 0.0 if strict else 1e-9 * float(np.ptp(replicates))
        below = float(np.mean(replicates < value - rounding))
        if not strict:
            below += 0.5 * float(np.mean(np.abs(replicates - value) <= rounding))
        if replicates.min() == replicates.max():
            return float(replicates[0]), float(replicates[0])
        half = 0.5 / replicates.size
        bias = NORMAL.inv_cdf(min(max(below, half), 1 - half))
        moved = [bias + NORMAL.inv_cdf(tail) for tail in tails]
        tails = np.array([NORMAL.cdf(bias + m / (1 - acceleration * m)) for m in moved])
    low, high = np.percentile(replicates, 100 * tails)
    return (float(2 * value - high), float(2 * value - low)) if method == "basic" else (float(low), float(high))


def run_acceleration(metric: str, strata: Sequence[np.ndarray], gamma: float) -> float:
    """Acceleration of one statistic from leaving out one training run at a time, datasets being strata
    (Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 5.3.2).

    Zero where no run matters.
    """
    cubes = squares = 0.0
    for left_out in jackknife(metric, strata, gamma):
        if left_out.size == 1:
            continue  # a single run cannot be resampled
        influence = (left_out.size - 1) * (left_out.mean() - left_out)
        cubes += float((influence**3).sum()) / left_out.size**3
        squares += float((influence**2).sum()) / left_out.size**2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def rliable_accelerations(metrics: Sequence[str], strata: Sequence[np.ndarray], gamma: float) -> dict[str, float]:
    """Accelerations as rliable 1.2 with arch 7 has them, flaw included, for `compat="rliable"`.

    One row of the matrix, the n-th run of every dataset, is left out at a time, and deviations are taken from the
    average over all statistics asked for at once, so that the acceleration of one depends on the others.
    """
    matrix = np.stack(strata)
    left_out = np.array(
        [[point(m, list(np.delete(matrix, i, axis=1)), gamma) for m in metrics] for i in range(matrix.shape[1])]
    )
    deviations = left_out.mean() - left_out
    squares = (deviations**2).sum(axis=0)
    cubes = (deviations**3).sum(axis=0)
    return {
        metric: float(cubes[k] / (6 * squares[k] ** 1.5)) if squares[k] > 0 else 0.0 for k, metric in enumerate(metrics)
    }
