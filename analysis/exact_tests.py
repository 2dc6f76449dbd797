"""Exact two-sided tests for few runs: permutation of means, Mann-Whitney, Wilcoxon signed-rank; ties allowed.

All three count arrangements that are at least as extreme, p = min(1, 2 min(P(S <= s), P(S >= s))), so that no
approximation enters with 3 or 5 seeds. What bounds such tests is stated by `smallest_p`: with N against N runs no p can
be below 2 / C(2N, N), whatever the scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_EXACT_PERMUTATION = 40  # pooled runs up to which all splits are counted: 20 against 20, 1.4e11 splits, in 0.1 s
_EXACT_RANKS = 120  # pooled runs up to which rank sums are counted
_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class ExactP:
    """A p value. `exact` is False for Monte Carlo or normal approximations; `error` is then the standard error of a
    Monte Carlo p, else 0.
    """

    statistic: float
    p: float
    exact: bool = True
    error: float = 0.0


def smallest_p(first: int, second: int) -> float:
    """Smallest two-sided p of a permutation or Mann-Whitney test of N_1 against N_2 runs: 2 / C(N_1+N_2, N_1).

    >>> [round(smallest_p(n, n), 4) for n in (3, 4, 5, 6)]
    [0.1, 0.0286, 0.0079, 0.0022]
    """
    return min(1.0, 2 / math.comb(first + second, first))


def seeds_to_reject(tests: int, alpha: float = 0.05) -> int:
    """Fewest seeds N (against N) with which an exact test can give p < `alpha` after Holm over `tests` tests."""
    seeds = 1
    while smallest_p(seeds, seeds) * tests >= alpha:
        seeds += 1
    return seeds


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 (smallest) along the last axis, ties sharing their mean rank."""
    below = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    return below + (equal + 1) / 2


# -- permutation of means --------------------------------------------------------------------------


def permutation_test(first: np.ndarray, second: np.ndarray, *, draws: int = 100_000, seed: int = 0) -> ExactP:
    """Permutation test of the difference of means between scores [N_1] and [N_2].

    Up to 40 pooled runs all C(N_1+N_2, N_1) splits are counted without being listed: the sums of all subsets of one
    half of the runs are matched with sorted sums of the other half. Beyond, `draws` random splits give p and its error.

    Returns:
        `ExactP` with the difference of means as statistic; p is NaN if a side is empty.
    """
    if not first.size or not second.size:
        return ExactP(math.nan, math.nan)
    difference = float(first.mean() - second.mean())
    small, large = sorted((first, second), key=len)  # swapping the sides mirrors the distribution
    pooled = np.concatenate([small, large])
    pooled = pooled - pooled.mean()
    target = float(pooled[: small.size].sum())
    slack = 1e-12 * float(np.abs(pooled).sum())  # equal sums, added up in another order
    if pooled.size > _EXACT_PERMUTATION:
        return _sampled_permutation(pooled, small.size, target, slack, difference, draws, seed)
    half = pooled.size // 2
    left, right = _subset_sums(pooled[:half]), _subset_sums(pooled[half:])
    at_most = at_least = 0
    for taken, sums in enumerate(left):
        rest = small.size - taken
        if 0 <= rest < len(right):
            others = right[rest]
            at_most += int(np.searchsorted(others, target + slack - sums, side="right").sum())
            at_least += int((others.size - np.searchsorted(others, target - slack - sums, side="left")).sum())
    return ExactP(difference, min(1.0, 2 * min(at_most, at_least) / math.comb(pooled.size, small.size)))


def _subset_sums(values: np.ndarray) -> list[np.ndarray]:
    """Sorted sums of all subsets of each size 0, 1, ..., n of `values` [n]."""
    sums, sizes = np.zeros(1), np.zeros(1, dtype=np.int64)
    for value in values:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
    return [np.sort(sums[sizes == size]) for size in range(values.size + 1)]


def _sampled_permutation(
    pooled: np.ndarray, size: int, target: float, slack: float, difference: float, draws: int, seed: int
) -> ExactP:
    rng = np.random.default_rng(seed)
    at_most = at_least = 1  # the observed split counts, so p is never 0 (Phipson & Smyth 2010)
    rows = max(1, _CHUNK_ELEMENTS // pooled.size)
    for start in range(0, draws, rows):
        keys = rng.random((min(rows, draws - start), pooled.size))
        sums = pooled[np.argpartition(keys, size, axis=1)[:, :size]].sum(axis=1)
        at_most += int((sums <= target + slack).sum())
        at_least += int((sums >= target - slack).sum())
    tail = min(at_most, at_least) / (draws + 1)
    return ExactP(difference, min(1.0, 2 * tail), False, 2 * math.sqrt(tail * max(0.0, 1 - tail) / draws))


# -- Mann-Whitney ----------------------------------------------------------------------------------


def mann_whitney_test(first: np.ndarray, second: np.ndarray) -> ExactP:
    """Mann-Whitney U test between scores [N_1] and [N_2].

    The number of ways to reach each rank sum comes from dynamic programming over doubled midranks, which are whole
    numbers: without ties this is the tabulated distribution, with ties the exact permutation distribution of midranks.
    Beyond 120 pooled runs the normal approximation with correction for ties and continuity is used.

    Returns:
        `ExactP` with U of `first` (pairs won, ties half) as statistic; p is NaN if a side is empty.
    """
    if not first.size or not second.size:
        return ExactP(math.nan, math.nan)
    ranks = midranks(np.concatenate([first, second]))
    u = float(ranks[: first.size].sum() - first.size * (first.size + 1) / 2)
    if ranks.size > _EXACT_RANKS:
        return _normal_mann_whitney(ranks, first.size, u)
    doubled = np.rint(2 * ranks).astype(np.int64)
    size = min(first.size, second.size)
    chosen = doubled[: first.size] if first.size <= second.size else doubled[first.size :]
    target = int(chosen.sum())
    most = int(np.sort(doubled)[-size:].sum())
    ways = np.zeros((size + 1, most + 1))  # ways[j, s]: subsets of j runs with doubled rank sum s
    ways[0, 0] = 1.0
    for rank in doubled:
        ways[1:, rank:] += ways[:-1, : most + 1 - rank]  # numpy reads the old values: each run is used once
    last = ways[size]
    tail = min(last[: target + 1].sum(), last[target:].sum()) / last.sum()
    return ExactP(u, min(1.0, 2 * float(tail)))


def _normal_mann_whitney(ranks: np.ndarray, size: int, u: float) -> ExactP:
    n, other = ranks.size, ranks.size - size
    _, ties = np.unique(ranks, return_counts=True)
    variance = size * other / 12 * (n + 1 - float((ties**3 - ties).sum()) / (n * (n - 1)))
    if variance == 0:
        return ExactP(u, 1.0, False)
    z = max(0.0, abs(u - size * other / 2) - 0.5) / math.sqrt(variance)
    return ExactP(u, min(1.0, 2 * NormalDist().cdf(-z)), False)


# -- Wilcoxon signed-rank --------------------------------------------------------------------------


def signed_rank_test(differences: np.ndarray) -> ExactP:
    """Wilcoxon's signed-rank test that differences [T] are symmetric about 0.

    Zeros are dropped (Wilcoxon's own rule). The distribution over all 2^T signs is computed for any T, ties included.

    Returns:
        `ExactP` with W+, the rank sum of the positive differences, as statistic; p is 1 if all differences are 0.
    """
    kept = differences[differences != 0]
    if not kept.size:
        return ExactP(0.0, 1.0)
    doubled = np.rint(2 * midranks(np.abs(kept))).astype(np.int64)
    target = int(doubled[kept > 0].sum())
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: chances.size - rank]
        chances = (chances + shifted) / 2
    tail = min(chances[: target + 1].sum(), chances[target:].sum())
    return ExactP(target / 2, min(1.0, 2 * float(tail)))


# -- correction ------------------------------------------------------------------------------------


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p values [T], which controls the chance of any false rejection.

    NaN (a test that could not be made) stays NaN and does not count.
    """
    adjusted = np.full(p.shape, math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * (known.size - np.arange(known.size))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
