"""Ranks of several algorithms over datasets: Friedman's test, Nemenyi's critical difference, Wilcoxon's signed-rank
test with Holm, and the cliques that a critical-difference diagram draws.

Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets" (JMLR 2006); Benavoli, Corani & Mangili,
"Should We Really Use Post-Hoc Tests Based on Mean-Ranks?" (JMLR 2016) for preferring Wilcoxon with Holm: whether two
algorithms differ should not depend on which others were entered. Each dataset counts once, by its mean over seeds;
seeds enter only through that mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd

from offbench.analysis.exact_tests import holm, midranks, signed_rank_test
from offbench.analysis.score_checks import ScoreError, some
from offbench.analysis.shared_scores import Scores, SharedScores, shared_scores
from offbench.analysis.wording import p_in_words

_NORMAL = NormalDist()


@dataclass(frozen=True)
class WilcoxonTests:
    """Wilcoxon's exact signed-rank test of every pair over datasets.

    Attributes:
        frame: first, second, statistic (W+), zeros (datasets with equal means, dropped), p, p_corrected (Holm over the
            pairs), winner ("" if not significant), sentence.
        alpha: level of the winner. datasets, left_out: used, and not used because a cell is missing.
    """

    frame: pd.DataFrame
    alpha: float
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return " ".join([*self.frame["sentence"], *self.notes])


@dataclass(frozen=True)
class RankComparison:
    """Average ranks with what is needed to draw them.

    Attributes:
        ranks: algorithm -> average rank over datasets (1 is best), best first.
        chi2, df, p: Friedman's test that all algorithms rank alike, corrected for ties.
        q, critical_difference: Nemenyi's, at `alpha`: ranks further apart than this differ.
        pairs: first, second, rank_difference, nemenyi_p, wilcoxon_p, wilcoxon_p_corrected, different (by `cliques_by`).
        cliques: maximal groups of algorithms, neighbours in rank, of which no two differ; two or more in each.
        cliques_by: "nemenyi" or "wilcoxon" (with Holm).
        alpha: level of all of these. datasets, left_out: used, and not used because a cell is missing.
    """

    ranks: dict[str, float]
    chi2: float
    df: int
    p: float
    q: float
    critical_difference: float
    pairs: pd.DataFrame
    cliques: tuple[tuple[str, ...], ...]
    cliques_by: str
    alpha: float
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        order = ", ".join(f"{name} {rank:.2f}" for name, rank in self.ranks.items())
        differ = "differ" if self.p < self.alpha else "are not shown to differ"
        parts = [
            f"Average ranks over {len(self.datasets)} datasets (1 is best): {order}.",
            f"They {differ} (Friedman's chi-squared {self.chi2:.1f} with {self.df} degrees of freedom, "
            f"{p_in_words(self.p)}).",
            f"By Nemenyi's test, ranks must be {self.critical_difference:.2f} apart to differ at {self.alpha:g}.",
        ]
        rule = "Nemenyi's test" if self.cliques_by == "nemenyi" else "Wilcoxon's signed-rank test with Holm"
        if self.cliques:
            groups = "; ".join(", ".join(clique) for clique in self.cliques)
            parts.append(f"Not told apart by {rule}: {groups}.")
        else:
            parts.append(f"All pairs of neighbours are told apart by {rule}.")
        return " ".join([*parts, *self.notes])


def friedman(
    scores: Scores,
    *,
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    alpha: float = 0.05,
    cliques_by: Literal["nemenyi", "wilcoxon"] = "wilcoxon",
) -> RankComparison:
    """Friedman's test over datasets, average ranks, critical difference and cliques.

    chi2 = 12 T / (k (k+1)) [sum R_j^2 - k (k+1)^2 / 4], divided by 1 - sum(t^3 - t) / (T k (k^2 - 1)) for ties of t
    algorithms on a dataset; critical difference = q sqrt(k (k+1) / (6 T)), q the studentized range over sqrt 2.

    Args:
        scores: a table or plain arrays by algorithm; see `shared_scores`. Raw returns are welcome: only their order
            within a dataset matters. Wilcoxon's test needs one scale and is left out (NaN) for several of them.
        algorithms, datasets: by default all algorithms, over the datasets that they share.
        cliques_by: which test joins algorithms; "wilcoxon" is with Holm's correction over pairs.

    Raises:
        ScoreError: fewer than two algorithms or two datasets, NaN, or cliques by Wilcoxon from raw returns.
    """
    if cliques_by not in ("nemenyi", "wilcoxon"):
        raise ScoreError(f"unknown rule for cliques {cliques_by!r}", fix="use 'nemenyi' or 'wilcoxon'")
    shared = _shared(scores, algorithms, datasets)
    one_scale = _one_scale(scores, shared)
    if cliques_by == "wilcoxon" and not one_scale:
        raise ScoreError(
            "Wilcoxon's test compares differences between datasets, which raw returns do not allow",
            fix="use cliques_by='nemenyi', which needs ranks only",
        )
    ranks = midranks(-shared.means())  # [T, k]
    tasks, k = ranks.shape
    average = ranks.mean(axis=0)
    ties = sum(float((np.unique(row, return_counts=True)[1] ** 3).sum() - k) for row in ranks)
    spread = 1 - ties / (tasks * k * (k * k - 1))
    chi2 = 12 * tasks / (k * (k + 1)) * float((average**2).sum() - k * (k + 1) ** 2 / 4) / spread if spread > 0 else 0.0
    scale = math.sqrt(k * (k + 1) / (6 * tasks))
    q = studentized_range_quantile(1 - alpha, k) / math.sqrt(2)
    wilcoxon = _wilcoxon(shared, alpha)
    place = {name: float(rank) for name, rank in zip(shared.algorithms, average, strict=True)}
    pairs = wilcoxon[["first", "second"]].copy()
    pairs["rank_difference"] = [place[a] - place[b] for a, b in pairs.itertuples(index=False)]
    pairs["nemenyi_p"] = [
        1 - studentized_range_cdf(abs(gap) / scale * math.sqrt(2), k) for gap in pairs["rank_difference"]
    ]
    pairs["wilcoxon_p"] = wilcoxon["p"] if one_scale else math.nan
    pairs["wilcoxon_p_corrected"] = wilcoxon["p_corrected"] if one_scale else math.nan
    pairs["different"] = pairs["nemenyi_p" if cliques_by == "nemenyi" else "wilcoxon_p_corrected"] < alpha
    order = sorted(place, key=lambda name: place[name])
    different = {frozenset(pair) for pair in pairs.loc[pairs["different"], ["first", "second"]].itertuples(index=False)}
    notes = [*shared.notes]
    if tasks < 10:
        notes.append(f"With {tasks} datasets the chi-squared approximation of Friedman's test is rough.")
    floor = 2.0 ** (1 - tasks)
    if cliques_by == "wilcoxon" and floor * len(pairs) >= alpha:
        notes.append(
            f"Wilcoxon's test cannot tell any pair apart with {tasks} datasets: its smallest p is {floor:.2g}, times "
            f"{len(pairs)} pairs {min(1.0, floor * len(pairs)):.2g}."
        )
    return RankComparison(
        {name: place[name] for name in order},
        chi2,
        k - 1,
        chi_squared_tail(chi2, k - 1),
        q,
        q * scale,
        pairs,
        cliques(order, different),
        cliques_by,
        alpha,
        shared.datasets,
        shared.left_out,
        tuple(notes),
    )


def wilcoxon_over_datasets(
    scores: Scores,
    *,
    algorithms: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> WilcoxonTests:
    """Exact Wilcoxon signed-rank test of every pair on the datasets' means, with Holm's correction over pairs.

    The test ranks the sizes of differences, so it needs one scale: raw returns of several datasets are refused.

    Raises:
        ScoreError: fewer than two algorithms or two datasets, raw returns, or NaN.
    """
    shared = _shared(scores, algorithms, datasets, common_scale=True)
    return WilcoxonTests(_wilcoxon(shared, alpha), alpha, shared.datasets, shared.left_out, shared.notes)


def cliques(order: Sequence[str], different: set[frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    """Maximal runs of neighbours in `order` of which no two are in `different`; only runs of two or more.

    These are the bars of a critical-difference diagram.
    """
    found: list[tuple[int, int]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and all(frozenset((order[end], name)) not in different for name in order[start:end]):
            end += 1
        if end - start > 1 and (not found or end > found[-1][1]):
            found.append((start, end))
    return tuple(tuple(order[start:end]) for start, end in found)


def _shared(
    scores: Scores, algorithms: Sequence[str] | None, datasets: Sequence[str] | None, *, common_scale: bool = False
) -> SharedScores:
    shared = shared_scores(scores, algorithms, datasets, common_scale=common_scale)
    if len(shared.algorithms) < 2 or len(shared.datasets) < 2:
        raise ScoreError(
            "ranks over datasets need at least two algorithms and two shared datasets",
            f"there are {some(shared.algorithms)} on {some(shared.datasets)}",
        )
    return shared


def _one_scale(scores: Scores, shared: SharedScores) -> bool:
    try:
        same = shared_scores(scores, shared.algorithms, shared.datasets, common_scale=True)
    except ScoreError:
        return False
    return same.datasets == shared.datasets


def _wilcoxon(shared: SharedScores, alpha: float) -> pd.DataFrame:
    means = dict(zip(shared.algorithms, shared.means().T, strict=True))
    pairs = list(itertools.combinations(shared.algorithms, 2))
    tests = [signed_rank_test(means[a] - means[b]) for a, b in pairs]
    corrected = holm(np.array([test.p for test in tests]))
    records = []
    for (first, second), test, p in zip(pairs, tests, corrected, strict=True):
        gaps = means[first] - means[second]
        kept = int((gaps != 0).sum())
        ahead = test.statistic > kept * (kept + 1) / 4
        winner = (first if ahead else second) if p < alpha else ""
        wins = int((gaps > 0).sum())
        verdict = f"{winner} is better over datasets" if winner else "no difference over datasets is shown"
        text = (
            f"{first} against {second}: higher on {wins} of {len(gaps)} datasets; {verdict} (Wilcoxon signed-rank, "
            f"{p_in_words(test.p)}, {p_in_words(float(p))} with Holm over {len(pairs)} pairs)."
        )
        records.append((first, second, test.statistic, len(gaps) - kept, test.p, float(p), winner, text))
    columns = ["first", "second", "statistic", "zeros", "p", "p_corrected", "winner", "sentence"]
    return pd.DataFrame.from_records(records, columns=columns)


# -- distributions ---------------------------------------------------------------------------------


def chi_squared_tail(value: float, df: int) -> float:
    """P(X > value) of the chi-squared distribution with whole degrees of freedom, by its finite sum."""
    half = value / 2
    if value <= 0:
        return 1.0
    if df % 2 == 0:
        terms = (i * math.log(half) - math.lgamma(i + 1) for i in range(df // 2))
        return math.fsum(math.exp(term - half) for term in terms)
    terms = ((i + 0.5) * math.log(half) - math.lgamma(i + 1.5) for i in range(df // 2))
    return math.erfc(math.sqrt(half)) + math.fsum(math.exp(term - half) for term in terms)


@lru_cache(maxsize=1)
def _nodes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes on [-8.5, 8.5], weights times the normal density, and the normal distribution there."""
    nodes, weights = np.polynomial.legendre.leggauss(128)
    z = 8.5 * nodes
    return z, 8.5 * weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi), _normal_cdf(z)


def _normal_cdf(z: np.ndarray) -> np.ndarray:
    return np.array([_NORMAL.cdf(value) for value in z])


def studentized_range_cdf(value: float, groups: int) -> float:
    """P(range of `groups` standard normals <= value): the studentized range with infinite degrees of freedom.

    k times the integral of phi(z) [Phi(z) - Phi(z - value)]^(k-1), by Gauss-Legendre quadrature; error below 1e-10.
    """
    if value <= 0:
        return 0.0
    z, weights, distribution = _nodes()
    inside = np.maximum(distribution - _normal_cdf(z - value), 0.0)
    return min(1.0, groups * float(weights @ inside ** (groups - 1)))


def studentized_range_quantile(probability: float, groups: int) -> float:
    """The value below which the range of `groups` standard normals lies with `probability`, by bisection.

    Raises:
        ValueError: unless 0 < probability < 1 and groups >= 2.
    """
    if not 0 < probability < 1 or groups < 2:
        raise ValueError(f"need 0 < probability < 1 and at least 2 groups, got {probability}, {groups}")
    low, high = 0.0, 2.0
    while studentized_range_cdf(high, groups) < probability:
        low, high = high, 2 * high
    while high - low > 1e-11 * high:
        middle = (low + high) / 2
        if studentized_range_cdf(middle, groups) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2
