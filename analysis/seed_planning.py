"""How many seeds would show a given difference: power of a two-sample t-test, from a pilot's standard deviations.

Power is the chance that the test finds a difference that is there. Standard deviations from a pilot of three to five
seeds are rough (within a factor of about two), and so are plans made with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pandas as pd

from offbench.analysis.exact_tests import smallest_p
from offbench.analysis.pairwise_tests import Test
from offbench.analysis.score_checks import ScoreError
from offbench.analysis.shared_scores import Scores, shared_scores
from offbench.analysis.student_t import t_quantile
from offbench.analysis.wording import number
from offbench.errors import UnknownNameError

# Asymptotic efficiency of rank and permutation tests relative to t under normal scores (Lehmann 1975).
_EFFICIENCY = {"welch": 1.0, "permutation": 1.0, "mann-whitney": 3 / math.pi}
_NAMES = {"welch": "Welch's t-test", "permutation": "exact permutation test", "mann-whitney": "Mann-Whitney test"}
_MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class SeedPlan:
    """Seeds of each of two algorithms that show a gap.

    Attributes:
        seeds: of each; None if more than a million.
        gap: true difference of means to be found.
        std_first, std_second: over seeds.
        power: asked for. alpha: two-sided level, before dividing by `tests`.
        tests: number of tests that a correction spans.
        test: which.
    """

    seeds: int | None
    gap: float
    std_first: float
    std_second: float
    power: float
    alpha: float
    tests: int
    test: str

    @property
    def sentence(self) -> str:
        seeds = "more than a million" if self.seeds is None else str(self.seeds)
        corrected = f", corrected for {self.tests} tests" if self.tests > 1 else ""
        return (
            f"A true difference of {number(abs(self.gap))} needs {seeds} seeds of each algorithm to be found with "
            f"probability {self.power:g} ({_NAMES[self.test]}, two-sided, at {self.alpha:g}{corrected}; standard "
            f"deviations {number(self.std_first)} and {number(self.std_second)} over seeds)."
        )


def power_of_t(
    gap: float, std_first: float, std_second: float, n_first: int, n_second: int, alpha: float = 0.05
) -> float:
    """Chance that a two-sided Welch t-test at `alpha` finds a true difference `gap` of normal scores.

    The statistic is taken as noncentral t with Welch's degrees of freedom: exact for equal variances and sizes. Its
    tails are integrated over the distribution of the estimated standard deviation.
    """
    if min(n_first, n_second) < 2:
        return 0.0
    v1, v2 = std_first**2 / n_first, std_second**2 / n_second
    if v1 + v2 == 0:
        return 1.0 if gap else alpha
    share = v1 / (v1 + v2)
    df = 1 / (share**2 / (n_first - 1) + (1 - share) ** 2 / (n_second - 1))
    bound, shift = t_quantile(1 - alpha / 2, df), abs(gap) / math.sqrt(v1 + v2)
    s, weights = _std_ratio(df)
    normal = NormalDist()
    return float(
        sum(
            w * (normal.cdf(shift - bound * x) + normal.cdf(-shift - bound * x))
            for x, w in zip(s, weights, strict=True)
        )
    )


@lru_cache(maxsize=256)
def _std_ratio(df: float) -> tuple[list[float], list[float]]:
    """Nodes and weights for integrating over sqrt(chi2_df / df), whose density is s^(df-1) exp(-df s^2 / 2)."""
    nodes, weights = np.polynomial.legendre.leggauss(48)
    centre, reach = math.sqrt(max(0.0, df - 1) / df), 8 / math.sqrt(2 * df)
    low, high = max(0.0, centre - reach), centre + reach
    s = (low + high) / 2 + (high - low) / 2 * nodes
    log_density = (df - 1) * np.log(s) - df * s * s / 2
    density = weights * np.exp(log_density - log_density.max())
    return s.tolist(), (density / density.sum()).tolist()


def seeds_needed(
    gap: float,
    std_first: float,
    std_second: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    tests: int = 1,
    test: Test = "welch",
) -> SeedPlan:
    """Smallest number of seeds per algorithm whose test has the wanted power.

    Args:
        gap: true difference of means, not 0.
        std_first, std_second: standard deviations over seeds (ddof = 1), e.g. from a pilot.
        tests: how many tests are corrected for; each is then planned at alpha / tests, where Holm starts.
        test: "welch"; "permutation" also needs enough splits to reach alpha; "mann-whitney" needs pi/3 as many runs.

    Raises:
        ScoreError: a gap of 0, negative or non-finite standard deviations, a power outside (alpha, 1).
        UnknownNameError: an unknown test.
    """
    if test not in _EFFICIENCY:
        raise UnknownNameError("test", test, _EFFICIENCY)
    usable = math.isfinite(gap) and gap != 0 and all(math.isfinite(s) and s >= 0 for s in (std_first, std_second))
    if not usable or not 0 < alpha < power < 1 or tests < 1:
        raise ScoreError(
            f"no plan for gap {gap}, standard deviations {std_first} and {std_second}, power {power}, alpha {alpha}",
            fix="a gap other than 0, finite standard deviations, alpha < power < 1",
        )
    level = alpha / tests

    def enough(n: int) -> bool:
        if test != "welch" and smallest_p(n, n) >= level:
            return False
        # fewer effective runs enter as larger standard deviations
        widen = math.sqrt(1 / _EFFICIENCY[test])
        return power_of_t(gap, widen * std_first, widen * std_second, n, n, level) >= power

    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST_SEEDS:
            return SeedPlan(None, gap, std_first, std_second, power, alpha, tests, test)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return SeedPlan(high, gap, std_first, std_second, power, alpha, tests, test)


def plan_seeds(
    scores: Scores,
    first: str,
    second: str,
    gap: float | None = None,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    correct: bool = True,
    test: Test = "welch",
    datasets: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Seeds that would show a gap on each shared dataset, with the present runs as the pilot.

    Args:
        gap: in units of the scores; by default the gap observed on each dataset, which a lucky pilot exaggerates.
        correct: plan for Holm's correction over the datasets.

    Returns:
        dataset, gap, std_first, std_second, n_first, n_second, power (that the present seeds have for the gap), seeds
        (missing where a side has one run, the gap is 0, or over a million are needed), sentence.
    """
    shared = shared_scores(scores, [first, second], datasets, common_scale=False)
    tests = len(shared.datasets) if correct else 1
    records = []
    for dataset, x, y in zip(shared.datasets, shared.cells[first], shared.cells[second], strict=True):
        wanted = float(x.mean() - y.mean()) if gap is None else float(gap)
        if min(x.size, y.size) < 2 or wanted == 0:
            text = "No plan: a side has a single seed." if wanted else "No plan: no difference was observed."
            spreads = [float(v.std(ddof=1)) if v.size > 1 else math.nan for v in (x, y)]
            records.append((dataset, wanted, *spreads, x.size, y.size, math.nan, None, text))
            continue
        s1, s2 = float(x.std(ddof=1)), float(y.std(ddof=1))
        plan = seeds_needed(wanted, s1, s2, power=power, alpha=alpha, tests=tests, test=test)
        now = power_of_t(wanted, s1, s2, x.size, y.size, alpha / tests)
        records.append((dataset, wanted, s1, s2, x.size, y.size, now, plan.seeds, f"{dataset}: {plan.sentence}"))
    columns = ["dataset", "gap", "std_first", "std_second", "n_first", "n_second", "power", "seeds", "sentence"]
    frame = pd.DataFrame.from_records(records, columns=columns)
    return frame.astype({"seeds": "Int64"})
