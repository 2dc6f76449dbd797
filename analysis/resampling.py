"""Bootstrap replicates of aggregate metrics, streamed: memory does not grow with the number of replicates.

Runs are resampled within each dataset (stratified); with `tasks=True` datasets are resampled as well. Three sources
of randomness: our own generator (PCG64), and the legacy stream of rliable with and without its task bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

from offbench.analysis.metrics import METRICS, RowStatistics, Strata, as_strata, padded_statistics, reference_statistics

NORMAL = NormalDist()

_CHUNK_ELEMENTS = 1 << 19  # scores resampled at a time: about 4 MB in float64, so it stays in the cache


def bootstrap(
    scores: Strata,
    *,
    reps: int = 50_000,
    seed: int = 0,
    gamma: float = 100.0,
    metrics: Sequence[str] = METRICS,
    tasks: bool = False,
) -> dict[str, np.ndarray]:
    """Stratified bootstrap distribution of metrics.

    Args:
        scores: one array [N_m] per dataset, or an array [runs, datasets].
        reps: number of replicates B.
        seed: of the generator; the same seed gives the same numbers.
        gamma: of the optimality gap.
        metrics: which; also "trimmed_mean(0.1)".
        tasks: resample the datasets, too: the interval then speaks of datasets like these, not of these.

    Returns:
        metric -> float64 [B].
    """
    strata = as_strata(scores)
    rng = np.random.default_rng(seed)
    if tasks:
        return _collect(_task_statistics(strata, reps, rng, metrics, gamma), metrics)
    rows = RowStatistics(tuple(metrics), tuple(stratum.size for stratum in strata), gamma)
    return _collect((rows(chunk) for chunk in _draws(strata, reps, rng)), metrics)


def rliable_bootstrap(
    scores: Strata,
    *,
    stream: np.random.RandomState,
    reps: int = 50_000,
    gamma: float = 100.0,
    metrics: Sequence[str] = METRICS,
    tasks: bool = False,
) -> dict[str, np.ndarray]:
    """The replicates that `rliable.library.StratifiedBootstrap` draws from numpy's global stream, where `stream` has
    the global stream's state. Arguments as for `bootstrap`; all datasets have the same number of runs.

    Returns:
        metric -> float64 [B]; `stream` has advanced as rliable advances it.
    """
    matrix = np.stack(as_strata(scores), axis=1)
    draws = _rliable_task_draws if tasks else _rliable_draws
    chunks = draws(matrix, reps, stream)
    return _collect((reference_statistics(chunk, metrics, gamma) for chunk in chunks), metrics)


def _collect(parts: Iterator[dict[str, np.ndarray]], metrics: Sequence[str]) -> dict[str, np.ndarray]:
    found = list(parts)
    return {metric: np.concatenate([part[metric] for part in found]) for metric in metrics}


def chunk_rows(total: int, reps: int) -> Iterator[int]:
    """Numbers of replicates of `total` scores to hold at a time, adding up to `reps`."""
    rows = max(1, _CHUNK_ELEMENTS // total)
    for start in range(0, reps, rows):
        yield min(rows, reps - start)


def _draws(strata: list[np.ndarray], reps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Chunks [b, n] of resampled scores: runs with replacement, within each dataset, with its own N_m."""
    sizes = np.array([stratum.size for stratum in strata])
    scores, starts = np.concatenate(strata), np.concatenate([[0], np.cumsum(sizes)[:-1]])
    offsets = np.repeat(starts, sizes)
    small = np.uint8 if sizes.max() <= 255 else np.int64  # bytes are drawn several times faster
    rows = next(chunk_rows(scores.size, reps))
    places, chunk = np.empty((rows, scores.size), dtype=np.intp), np.empty((rows, scores.size))  # reused
    for b in chunk_rows(scores.size, reps):
        if (sizes == sizes[0]).all():
            index = rng.integers(0, sizes[0], size=(b, scores.size), dtype=small)
        else:
            index = np.hstack([rng.integers(0, size, size=(b, size), dtype=small) for size in sizes])
        np.add(index, offsets, out=places[:b])
        yield np.take(scores, places[:b], out=chunk[:b], mode="clip")  # "raise" would go through a buffer


def _task_statistics(
    strata: list[np.ndarray], reps: int, rng: np.random.Generator, metrics: Sequence[str], gamma: float
) -> Iterator[dict[str, np.ndarray]]:
    """Metrics of chunks in which every place of a dataset holds one drawn with replacement, its runs resampled."""
    sizes = np.array([stratum.size for stratum in strata])
    longest, count = int(sizes.max()), len(strata)
    padded = np.full((count, longest), np.inf)
    for row, stratum in zip(padded, strata, strict=True):
        row[: stratum.size] = stratum
    equal = RowStatistics(tuple(metrics), tuple(map(int, sizes)), gamma) if (sizes == longest).all() else None
    for b in chunk_rows(longest * count, reps):
        chosen = rng.integers(0, count, size=(b, count))
        counts = sizes[chosen]
        index = rng.integers(0, counts[:, :, None], size=(b, count, longest))
        chunk = padded[chosen[:, :, None], index]
        if equal is not None:
            yield equal(chunk.reshape(b, -1))
        else:
            chunk[np.arange(longest) >= counts[:, :, None]] = np.inf
            yield padded_statistics(chunk, counts, metrics, gamma)


def _rliable_draws(matrix: np.ndarray, reps: int, stream: np.random.RandomState) -> Iterator[np.ndarray]:
    """Chunks [b, R, T] from matrix [R, T], consuming `randint(0, R, (R, T))` per replicate."""
    runs, tasks = matrix.shape
    for b in chunk_rows(matrix.size, reps):
        yield matrix[stream.randint(0, runs, (b, runs, tasks)), np.arange(tasks)]


def _rliable_task_draws(matrix: np.ndarray, reps: int, stream: np.random.RandomState) -> Iterator[np.ndarray]:
    """The same with rliable's task bootstrap: after the runs' indices, `randint(0, T, (1, T))` in every replicate.

    The two bounds alternate, and rejected numbers make their use of the stream irregular, so replicates are drawn
    one by one.
    """
    runs, tasks = matrix.shape
    for b in chunk_rows(matrix.size, reps):
        index, chosen = np.empty((b, runs, tasks), dtype=np.int64), np.empty((b, 1, tasks), dtype=np.int64)
        for row in range(b):
            index[row] = stream.randint(0, runs, (runs, tasks))
            chosen[row] = stream.randint(0, tasks, (1, tasks))
        yield matrix[index, chosen]
