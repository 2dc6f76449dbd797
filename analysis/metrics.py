"""Aggregate metrics over datasets and seeds: what each one is, for one set of scores and for many resampled ones.

Definitions are those of rliable (Agarwal et al., "Deep RL at the Edge of the Statistical Precipice", NeurIPS 2021):
IQM and other trimmed means pool the runs of all datasets; mean, median and optimality gap start from datasets' means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offbench.errors import UnknownNameError

METRICS = ("iqm", "mean", "median", "optimality_gap")
Strata = Sequence[np.ndarray] | np.ndarray

_TRIMMED = re.compile(r"trimmed_mean\((0?\.\d+|0)\)")


def as_strata(scores: Strata) -> list[np.ndarray]:
    """One float64 array [N_m] per dataset; a 2-D array is read like rliable's, [runs, datasets].

    Raises:
        ValueError: an array of another shape, or a dataset without runs.
    """
    if isinstance(scores, np.ndarray):
        if scores.ndim != 2:
            raise ValueError(f"a score array must be [runs, datasets], got shape {scores.shape}")
        scores = list(scores.T)
    strata = [np.asarray(stratum, dtype=np.float64) for stratum in scores]
    if not strata or any(stratum.ndim != 1 or stratum.size == 0 for stratum in strata):
        raise ValueError("scores must hold at least one dataset, each with at least one run")
    return strata


def trim_fraction(metric: str) -> float | None:
    """Share of runs that `metric` drops at each end; None if it is no trimmed mean.

    Raises:
        UnknownNameError: no metric of that name.
    """
    if metric == "iqm":
        return 0.25
    if metric in METRICS:
        return None
    match = _TRIMMED.fullmatch(metric)
    if match is None or float(match[1]) >= 0.5:
        raise UnknownNameError(
            "metric",
            metric,
            METRICS,
            fix=f"known: {', '.join(METRICS)}, trimmed_mean(FRACTION) with 0 <= FRACTION < 0.5",
        )
    return float(match[1])


def cut(runs: int, fraction: float) -> int:
    """Number of runs dropped at each end: floor(fraction * runs), without fractional weights, as scipy's
    `trim_mean` does.
    """
    return int(fraction * runs)


# -- point estimates -------------------------------------------------------------------------------


def trimmed_mean(scores: Strata, fraction: float = 0.25) -> float:
    """Mean of all runs pooled without the lowest and highest `fraction` of them
    (`scipy.stats.trim_mean(x, fraction, axis=None)`).

    Args:
        scores: one array [N_m] per dataset, or an array [runs, datasets].
        fraction: dropped at each end, 0 <= fraction < 0.5; 0.25 gives the IQM.
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"the trimmed fraction must lie in [0, 0.5), got {fraction}")
    ordered = np.sort(np.concatenate(as_strata(scores)))
    dropped = cut(ordered.size, fraction)
    return float(ordered[dropped : ordered.size - dropped].mean())


def iqm(scores: Strata) -> float:
    """Interquartile mean of all runs pooled: `trimmed_mean` with a quarter dropped at each end.

    Args:
        scores: one array [N_m] per dataset, or an array [runs, datasets].
    """
    return trimmed_mean(scores, 0.25)


def mean(scores: Strata) -> float:
    """Mean over datasets of the mean over runs."""
    return float(np.mean([stratum.mean() for stratum in as_strata(scores)]))


def median(scores: Strata) -> float:
    """Median over datasets of the mean over runs."""
    return float(np.median([stratum.mean() for stratum in as_strata(scores)]))


def optimality_gap(scores: Strata, gamma: float = 100.0) -> float:
    """gamma - mean(min(x, gamma)), averaged within and then over datasets; lower is better.

    Args:
        gamma: the score regarded as reached; 100 on D4RL's scale, 1 where scores are divided by 100.
    """
    return float(np.mean([gamma - np.minimum(stratum, gamma).mean() for stratum in as_strata(scores)]))


def point(metric: str, scores: Strata, gamma: float = 100.0) -> float:
    """The metric called `metric`: "iqm", "mean", "median", "optimality_gap" or "trimmed_mean(0.1)"."""
    fraction = trim_fraction(metric)
    if fraction is not None:
        return trimmed_mean(scores, fraction)
    if metric == "optimality_gap":
        return optimality_gap(scores, gamma)
    return mean(scores) if metric == "mean" else median(scores)


# -- many samples at once --------------------------------------------------------------------------


@dataclass(frozen=True)
class RowStatistics:
    """Metrics of each row of a matrix of resampled scores [b, n] whose columns are the datasets' runs in turn.

    Built once per set of sizes: `sizes` are the datasets' N_m.
    """

    metrics: tuple[str, ...]
    sizes: tuple[int, ...]
    gamma: float

    def __call__(self, chunk: np.ndarray) -> dict[str, np.ndarray]:
        """Metric -> [b]. Destroys `chunk`: it is sorted in place, in `chunk`'s precision."""
        sizes = np.asarray(self.sizes)
        weights = np.repeat(1.0 / (sizes * sizes.size), sizes)  # of each run in a mean of datasets' means
        found: dict[str, np.ndarray] = {}
        if "median" in self.metrics:
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            found["median"] = middle(np.add.reduceat(chunk, starts, axis=1) / sizes)
        if "mean" in self.metrics:
            found["mean"] = chunk @ weights
        if "optimality_gap" in self.metrics:
            found["optimality_gap"] = self.gamma - np.minimum(chunk, self.gamma) @ weights
        fractions = {metric: trim_fraction(metric) for metric in self.metrics}
        if any(fraction is not None for fraction in fractions.values()):
            chunk.sort(axis=1)
            runs = chunk.shape[1]
            for metric, fraction in fractions.items():
                if fraction is not None:
                    dropped = cut(runs, fraction)
                    found[metric] = chunk[:, dropped : runs - dropped].mean(axis=1)
        return {metric: found[metric] for metric in self.metrics}


def middle(values: np.ndarray) -> np.ndarray:
    """Median along the last axis; sorts `values` in place, which is several times faster than `numpy.median`."""
    values.sort(axis=-1)
    count = values.shape[-1]
    return (values[..., (count - 1) // 2] + values[..., count // 2]) / 2


def padded_statistics(
    chunk: np.ndarray, sizes: np.ndarray, metrics: Sequence[str], gamma: float
) -> dict[str, np.ndarray]:
    """Metrics of samples in which every row has its own numbers of runs.

    Args:
        chunk: scores [b, T, N], +inf beyond a dataset's last run.
        sizes: number of runs of each dataset of each row, int [b, T].
    """
    real = np.isfinite(chunk)
    filled = np.where(real, chunk, 0.0)
    means = filled.sum(axis=2) / sizes
    found = {"mean": means.mean(axis=1), "median": middle(means.copy())}
    found["optimality_gap"] = gamma - (np.where(real, np.minimum(chunk, gamma), 0.0).sum(axis=2) / sizes).mean(axis=1)
    ordered = np.sort(chunk.reshape(len(chunk), -1), axis=1)
    sums = np.zeros((len(chunk), ordered.shape[1] + 1))
    np.cumsum(np.where(np.isfinite(ordered), ordered, 0.0), axis=1, out=sums[:, 1:])
    runs = sizes.sum(axis=1)
    for metric in metrics:
        fraction = trim_fraction(metric)
        if fraction is not None:
            dropped = (fraction * runs).astype(np.int64)
            last = np.take_along_axis(sums, (runs - dropped)[:, None], axis=1)[:, 0]
            first = np.take_along_axis(sums, dropped[:, None], axis=1)[:, 0]
            found[metric] = (last - first) / (runs - 2 * dropped)
    return {metric: found[metric] for metric in metrics}


def reference_statistics(samples: np.ndarray, metrics: Sequence[str], gamma: float) -> dict[str, np.ndarray]:
    """Metrics of matrices [b, runs, datasets] with rliable's order of summation, so that not even rounding differs.

    With few seeds many replicates equal the observed value, and bias-corrected intervals count those strictly below.
    """
    pooled = samples.reshape(len(samples), -1)
    runs = pooled.shape[1]
    found = {}
    for metric in metrics:
        fraction = trim_fraction(metric)
        if fraction is not None:
            dropped = cut(runs, fraction)
            kept = np.partition(pooled, (dropped, runs - dropped - 1), axis=1)[:, dropped : runs - dropped]
            found[metric] = kept.mean(axis=1)
        elif metric == "optimality_gap":
            found[metric] = gamma - np.minimum(pooled, gamma).mean(axis=1)
        else:
            means = samples.mean(axis=1)
            found[metric] = means.mean(axis=1) if metric == "mean" else np.median(means, axis=1)
    return found


def jackknife(metric: str, strata: Sequence[np.ndarray], gamma: float) -> list[np.ndarray]:
    """Metric without one training run, for every run: one array [N_m] per dataset, in O(n log n) for most metrics.

    A dataset with a single run gives NaN: without that run there is no dataset.
    """
    sizes = np.array([stratum.size for stratum in strata])
    fraction = trim_fraction(metric)
    if fraction is not None:
        found = _jackknife_trimmed(np.concatenate(list(strata)), fraction)
    else:
        if metric == "optimality_gap":
            strata = [gamma - np.minimum(stratum, gamma) for stratum in strata]
        means = np.array([stratum.mean() for stratum in strata])
        changed = np.concatenate([(s.sum() - s) / max(s.size - 1, 1) for s in strata])
        owner = np.repeat(np.arange(sizes.size), sizes)
        if metric == "median":
            rows = np.tile(means, (changed.size, 1))
            rows[np.arange(changed.size), owner] = changed
            found = middle(rows)
        else:
            found = means.mean() + (changed - means[owner]) / sizes.size
    found = np.where(np.repeat(sizes, sizes) == 1, math.nan, found)
    return np.split(found, np.cumsum(sizes)[:-1])


def _jackknife_trimmed(pooled: np.ndarray, fraction: float) -> np.ndarray:
    """Trimmed mean without each value: which values are kept depends only on the rank of the one left out."""
    order = np.argsort(pooled, kind="stable")
    ordered, left = pooled[order], pooled.size - 1
    if left == 0:
        return np.full(1, math.nan)
    dropped = cut(left, fraction)
    rank = np.arange(pooled.size)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    first = dropped + (rank < dropped)
    last = pooled.size - dropped - (rank >= pooled.size - dropped)
    kept = sums[last] - sums[first] - np.where((rank >= first) & (rank < last), ordered, 0.0)
    found = np.empty(pooled.size)
    found[order] = kept / (left - 2 * dropped)
    return found
