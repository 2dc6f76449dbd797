"""Aggregate scores over datasets and seeds (IQM, mean, median, optimality gap) with stratified bootstrap
intervals.

Definitions are those of rliable (Agarwal et al., "Deep RL at the Edge of the Statistical Precipice",
NeurIPS 2021). The default interval is calibrated for few seeds; percentile intervals, as rliable prints
them, are one option away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd

from offbench.analysis.score_checks import ScoreError
from offbench.analysis.scores import RETURN, SCORE, ScoreTable
from offbench.analysis.student_t import t_cdf, t_quantile

METRICS = ("iqm", "mean", "median", "optimality_gap")
Method = Literal["calibrated", "percentile"]
Strata = Sequence[np.ndarray] | np.ndarray

_CHUNK_ELEMENTS = 1 << 20  # scores resampled at a time: about 8 MB, so it stays near the cache


@dataclass(frozen=True)
class Estimate:
    """A point estimate with its interval. `reason` says why `low` and `high` are NaN, and is empty
    otherwise.
    """

    point: float
    low: float
    high: float
    reason: str = ""


# -- point estimates -------------------------------------------------------------------------------


def _as_strata(scores: Strata) -> list[np.ndarray]:
    """One float64 array [N_m] per dataset; a 2-D array is read like rliable's, [runs, datasets]."""
    if isinstance(scores, np.ndarray):
        if scores.ndim != 2:
            raise ValueError(f"a score array must be [runs, datasets], got shape {scores.shape}")
        scores = list(scores.T)
    strata = [np.asarray(stratum, dtype=np.float64) for stratum in scores]
    if not strata or any(stratum.ndim != 1 or stratum.size == 0 for stratum in strata):
        raise ValueError("scores must hold at least one dataset, each with at least one run")
    return strata


def _sorted_iqm(ordered: np.ndarray) -> np.ndarray:
    """IQM along the last axis of sorted scores: floor(n/4) dropped at each end, no fractional weights."""
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def iqm(scores: Strata) -> float:
    """Interquartile mean of all runs pooled: `scipy.stats.trim_mean(x, 0.25, axis=None)`.

    Args:
        scores: one array [N_m] per dataset, or an array [runs, datasets].
    """
    return float(_sorted_iqm(np.sort(np.concatenate(_as_strata(scores)))))


def mean(scores: Strata) -> float:
    """Mean over datasets of the mean over runs."""
    return float(np.mean([stratum.mean() for stratum in _as_strata(scores)]))


def median(scores: Strata) -> float:
    """Median over datasets of the mean over runs."""
    return float(np.median([stratum.mean() for stratum in _as_strata(scores)]))


def optimality_gap(scores: Strata, gamma: float = 100.0) -> float:
    """gamma - mean(min(x, gamma)), averaged within and then over datasets; lower is better.

    Args:
        gamma: the score regarded as reached; 100 on D4RL's scale, 1 where scores are divided by 100.
    """
    return float(np.mean([gamma - np.minimum(stratum, gamma).mean() for stratum in _as_strata(scores)]))


# -- bootstrap -------------------------------------------------------------------------------------


def _draws(strata: list[np.ndarray], reps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Chunks [b, n] of resampled scores: runs with replacement, within each dataset, with its own N_m."""
    total = sum(stratum.size for stratum in strata)
    rows = max(1, _CHUNK_ELEMENTS // total)
    for start in range(0, reps, rows):
        b = min(rows, reps - start)
        chunk = np.empty((b, total))
        column = 0
        for stratum in strata:
            small = np.uint8 if stratum.size <= 255 else np.int64  # bytes are drawn several times faster
            index = rng.integers(0, stratum.size, size=(b, stratum.size), dtype=small)
            np.take(stratum, index, out=chunk[:, column : column + stratum.size])
            column += stratum.size
        yield chunk


def _rliable_draws(strata: list[np.ndarray], reps: int, stream: np.random.RandomState) -> Iterator[np.ndarray]:
    """The same, consuming rliable's legacy stream: `randint(0, R, (R, T))` per replicate, runs before
    datasets.
    """
    runs, tasks = strata[0].size, len(strata)
    matrix = np.stack(strata)  # [T, R]
    rows = max(1, _CHUNK_ELEMENTS // (runs * tasks))
    for start in range(0, reps, rows):
        index = stream.randint(0, runs, (min(rows, reps - start), runs, tasks))
        yield matrix[np.arange(tasks)[:, None], index.transpose(0, 2, 1)].reshape(len(index), -1)


def _statistics(chunk: np.ndarray, sizes: Sequence[int], gamma: float) -> dict[str, np.ndarray]:
    """All metrics of each resampled row [b, n]; destroys `chunk` (sorts it in place)."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    counts = np.asarray(sizes, dtype=np.float64)
    task_means = np.add.reduceat(chunk, starts, axis=1) / counts
    clipped = np.add.reduceat(np.minimum(chunk, gamma), starts, axis=1) / counts
    chunk.sort(axis=1)
    return {
        "iqm": _sorted_iqm(chunk),
        "mean": task_means.mean(axis=1),
        "median": np.median(task_means, axis=1),
        "optimality_gap": gamma - clipped.mean(axis=1),
    }


def _collect(chunks: Iterator[np.ndarray], sizes: Sequence[int], gamma: float) -> dict[str, np.ndarray]:
    parts = [_statistics(chunk, sizes, gamma) for chunk in chunks]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in METRICS}


def bootstrap(scores: Strata, *, reps: int = 50_000, seed: int = 0, gamma: float = 100.0) -> dict[str, np.ndarray]:
    """Stratified bootstrap distribution of every metric.

    Args:
        scores: one array [N_m] per dataset, or an array [runs, datasets].
        reps: number of replicates B.
        seed: of the generator; the same seed gives the same numbers.

    Returns:
        metric -> float64 [B].
    """
    strata = _as_strata(scores)
    return _collect(_draws(strata, reps, np.random.default_rng(seed)), [s.size for s in strata], gamma)


# -- calibration -----------------------------------------------------------------------------------


def _stretch(strata: list[np.ndarray], metric: str, level: float, gamma: float) -> float:
    """Factor k by which a percentile interval is stretched about its point.

    Two corrections for few seeds. A bootstrap sees the plug-in variance, (N-1)/N of the unbiased one; and the
    variance itself is estimated, so t replaces the normal quantile, with Satterthwaite degrees of freedom
    over the datasets. For IQM the variances are those of scores winsorised at the pooled quartiles, as for
    any trimmed mean.
    """
    if metric == "iqm":
        low, high = np.quantile(np.concatenate(strata), [0.25, 0.75])
        strata = [np.clip(stratum, low, high) for stratum in strata]
    elif metric == "optimality_gap":
        strata = [np.minimum(stratum, gamma) for stratum in strata]
    sizes = np.array([stratum.size for stratum in strata], dtype=np.float64)
    variances = np.array([stratum.var(ddof=1) for stratum in strata]) / sizes
    # As careful as the smallest dataset demands: where all variation lies outside the quartiles, and for the
    # median, which rests on the one or two datasets in the middle.
    df, inflation = sizes.min() - 1, sizes.min() / (sizes.min() - 1)
    if variances.sum() > 0:
        inflation = variances.sum() / (variances * (sizes - 1) / sizes).sum()
        if metric != "median":
            df = variances.sum() ** 2 / (variances**2 / (sizes - 1)).sum()
    upper = 0.5 + level / 2
    return math.sqrt(inflation) * t_quantile(upper, df) / NormalDist().inv_cdf(upper)


def _interval(replicates: np.ndarray, point: float, level: float, stretch: float) -> tuple[float, float]:
    low, high = np.percentile(replicates, [50 - 50 * level, 50 + 50 * level])
    return float(point + (low - point) * stretch), float(point + (high - point) * stretch)


def estimate(
    scores: Strata,
    *,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 50_000,
    seed: int = 0,
    gamma: float = 100.0,
    rliable_stream: np.random.RandomState | None = None,
) -> dict[str, Estimate]:
    """Point and interval of every metric.

    Args:
        scores: one array [N_m] per dataset (sizes may differ), or an array [runs, datasets].
        method: "calibrated": percentile bounds stretched about the point by sqrt(N/(N-1)) t_df/z, which
            covers near the nominal rate from 2-3 seeds on; "percentile": plain bounds, which cover 79-89 %
            of the time with 3 seeds instead of 95 %.
        level: nominal coverage.
        reps, seed: of the bootstrap. gamma: of the optimality gap.
        rliable_stream: consume this legacy stream exactly as rliable does, instead of `seed`; needs equal
            N_m.

    Returns:
        metric -> `Estimate`. A dataset with a single run leaves the intervals undefined (NaN) with a reason.
    """
    strata = _as_strata(scores)
    points = {"iqm": iqm(strata), "mean": mean(strata), "median": median(strata)}
    points["optimality_gap"] = optimality_gap(strata, gamma)
    sizes = [stratum.size for stratum in strata]
    if rliable_stream is not None and len(set(sizes)) > 1:
        raise ScoreError("rliable needs the same number of seeds on every dataset", f"it has {sorted(set(sizes))}")
    single = sum(size == 1 for size in sizes)
    if single:
        where = "" if single == len(sizes) else f" on {single} of {len(sizes)} datasets"
        reason = f"one seed{where}: run-to-run variation is unknown"
        return {metric: Estimate(point, math.nan, math.nan, reason) for metric, point in points.items()}
    if rliable_stream is None:
        replicates = bootstrap(strata, reps=reps, seed=seed, gamma=gamma)
    else:
        replicates = _collect(_rliable_draws(strata, reps, rliable_stream), sizes, gamma)
    stretches = {metric: 1.0 for metric in METRICS}
    if method == "calibrated":
        stretches = {metric: _stretch(strata, metric, level, gamma) for metric in METRICS}
    return {
        metric: Estimate(point, *_interval(replicates[metric], point, level, stretches[metric]))
        for metric, point in points.items()
    }


# -- tables ----------------------------------------------------------------------------------------


def comparable_datasets(table: ScoreTable) -> tuple[list[str], str]:
    """Datasets that an aggregate may span: common to all algorithms and of one unit; and, if none, why.

    Normalized scores are averaged over datasets. Raw returns of different datasets have different scales:
    they are aggregated only if there is a single dataset.
    """
    common = table.common_datasets()
    if not common:
        return [], "no dataset has runs of every algorithm"
    units = table.units
    normalized = [dataset for dataset in common if units[dataset] == SCORE]
    if normalized or len(common) == 1:
        return normalized or common, ""
    if len({units[dataset] for dataset in common}) == 1 and units[common[0]] != RETURN:
        return common, ""
    return [], "raw returns of different datasets have no common scale"


def aggregate(
    table: ScoreTable,
    *,
    datasets: Sequence[str] | None = None,
    method: Method = "calibrated",
    level: float = 0.95,
    reps: int = 50_000,
    seed: int = 0,
    gamma: float = 100.0,
    compat: Literal["rliable"] | None = None,
) -> pd.DataFrame:
    """Aggregates of every algorithm over the same datasets.

    Args:
        datasets: which to span; by default those of `comparable_datasets`.
        compat: "rliable" replays the random stream of `rliable.library.get_interval_estimates` after
            `np.random.seed(seed)`, algorithm by algorithm, so that bounds agree to rounding; percentile only.

    Returns:
        One row per algorithm and metric: algorithm, metric, point, low, high, reason, datasets, runs,
            seeds_min,
        seeds_max, method, level, reps. Empty if no datasets can be compared.

    Raises:
        ScoreError: `compat` with a calibrated interval or unequal seeds; an algorithm without runs on
            `datasets`.
    """
    if compat is not None and method != "percentile":
        raise ScoreError("rliable has no calibrated interval", fix="use method='percentile' with compat='rliable'")
    chosen = list(datasets) if datasets is not None else comparable_datasets(table)[0]
    if compat is None:
        chosen = sorted(chosen)  # the order of rows must not change an interval
    stream = np.random.RandomState(seed) if compat == "rliable" else None
    records = []
    for algorithm in table.algorithms if chosen else []:
        strata = table.strata(algorithm, chosen)
        absent = [dataset for dataset, stratum in zip(chosen, strata, strict=True) if not stratum.size]
        if absent:
            raise ScoreError(f"{algorithm} has no runs on {', '.join(absent)}", fix="aggregate over common datasets")
        if compat is None:
            strata = [np.sort(stratum) for stratum in strata]
        sizes = [stratum.size for stratum in strata]
        estimates = estimate(
            strata, method=method, level=level, reps=reps, seed=seed, gamma=gamma, rliable_stream=stream
        )
        for metric, value in estimates.items():
            records.append(
                {
                    "algorithm": algorithm,
                    "metric": metric,
                    "point": value.point,
                    "low": value.low,
                    "high": value.high,
                    "reason": value.reason,
                    "datasets": len(chosen),
                    "runs": sum(sizes),
                    "seeds_min": min(sizes),
                    "seeds_max": max(sizes),
                    "method": method,
                    "level": level,
                    "reps": reps,
                }
            )
    return pd.DataFrame.from_records(records, columns=_AGGREGATE_COLUMNS)


_AGGREGATE_COLUMNS = [
    *("algorithm", "metric", "point", "low", "high", "reason", "datasets", "runs"),
    *("seeds_min", "seeds_max", "method", "level", "reps"),
]


def per_dataset(table: ScoreTable, level: float = 0.95) -> pd.DataFrame:
    """Mean, standard deviation (ddof=1) and Student-t interval of the mean over seeds, for every cell with
    runs.

    Returns:
        algorithm, dataset, unit, n, mean, std, low, high; std, low and high are NaN where n = 1.
    """
    units = table.units
    records = []
    for dataset in table.datasets:
        for algorithm in table.algorithms:
            scores = table.cell(algorithm, dataset)
            if scores.size:
                low, high = t_interval(scores, level)
                std = float(scores.std(ddof=1)) if scores.size > 1 else math.nan
                head = (algorithm, dataset, units[dataset], scores.size, float(scores.mean()))
                records.append((*head, std, low, high))
    columns = ["algorithm", "dataset", "unit", "n", "mean", "std", "low", "high"]
    return pd.DataFrame.from_records(records, columns=columns)


def t_interval(scores: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student-t interval of the mean of scores [N]; NaN for N = 1."""
    if scores.size < 2:
        return math.nan, math.nan
    half = t_quantile(0.5 + level / 2, scores.size - 1) * scores.std(ddof=1) / math.sqrt(scores.size)
    return float(scores.mean() - half), float(scores.mean() + half)


def welch_p(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of Welch's t-test between scores [N1] and [N2]; NaN if either has fewer than two runs."""
    if min(first.size, second.size) < 2:
        return math.nan
    v1, v2 = first.var(ddof=1) / first.size, second.var(ddof=1) / second.size
    difference = abs(first.mean() - second.mean())
    if v1 + v2 == 0:
        return 1.0 if difference == 0 else 0.0
    df = (v1 + v2) ** 2 / (v1**2 / (first.size - 1) + v2**2 / (second.size - 1))
    return min(1.0, 2 * t_cdf(-difference / math.sqrt(v1 + v2), df))


def leaders(cells: Mapping[str, np.ndarray], alpha: float = 0.05) -> set[str]:
    """Names whose mean is the highest, or is not shown to be lower than it (Welch's t, p >= alpha,
    uncorrected).

    Cells with a single run are leaders only if their mean is the highest.
    """
    means = {name: float(scores.mean()) for name, scores in cells.items() if scores.size}
    if not means:
        return set()
    top = max(means, key=lambda name: means[name])
    tied = {name for name, value in means.items() if value == means[top]}
    return tied | {name for name in means if welch_p(cells[name], cells[top]) >= alpha}
