"""Measures of returns: trajectory quality, the spread that reweighting can use, episode length, reward sparsity."""

from __future__ import annotations

import numpy as np

from offbench.analysis.quality_registry import measure
from offbench.analysis.quality_view import Float, NotMeasurableError, View
from offbench.datasets.returns import positive_sided_variance, relative_positive_sided_variance

_PAPER = "Schweighofer et al. 2022, arXiv 2111.04714"
_HONG = "Hong et al. 2023, arXiv 2306.13085"


def trajectory_quality(returns: Float, minimum: float, maximum: float) -> float:
    """Return TQ = (mean return - minimum) / (maximum - minimum) (Schweighofer et al. 2022, equation of TQ).

    Args:
        returns: [K] of the episodes of the dataset.
        minimum: mean return of the random policy's data. maximum: return of the best online policy.
    """
    if not maximum > minimum:
        raise NotMeasurableError(f"the maximum return {maximum:g} is not above the minimum {minimum:g}")
    return float((returns.mean() - minimum) / (maximum - minimum))


def estimated_return_improvement(returns: Float) -> float:
    """Return (G_max - mean) / mean, or / (mean - G_min) if a return is negative (Swazinna et al. 2021)."""
    base = returns.mean() - (returns.min() if returns.min() < 0 else 0.0)
    if base <= 0:
        raise NotMeasurableError("the mean return is not above the least one")
    return float((returns.max() - returns.mean()) / base)


@measure(
    "tq",
    "TQ",
    formula="(mean return - minimum) / (maximum - minimum)",
    source=_PAPER,
    reference="minimum and maximum return",
    meaning="the data are of good episodes (exploitation): 0 like random actions, 1 like the online policy",
)
def _tq(view: View) -> float:
    low, high = view.reference.minimum, view.reference.maximum
    if low is None or high is None:
        raise NotMeasurableError("no minimum and maximum return are given")
    return trajectory_quality(view.returns, low, high)


@measure(
    "return_mean",
    "mean return",
    formula="mean of the episodes' returns",
    source="elementary",
    meaning="the data are of good episodes, in the unit of the rewards",
)
def _return_mean(view: View) -> float:
    return float(view.returns.mean())


@measure(
    "return_std",
    "std of returns",
    formula="standard deviation of the episodes' returns",
    source="elementary",
    meaning="episodes differ in how good they are, in the unit of the rewards",
)
def _return_std(view: View) -> float:
    return float(view.returns.std())


@measure(
    "return_skew",
    "skewness of returns",
    formula="mean of ((G - mean G) / std G)^3 over episodes",
    source="elementary",
    meaning="a few episodes are far better than most; below 0 a few are far worse",
)
def _return_skew(view: View) -> float:
    deviation = view.returns.std()
    if not deviation > 1e-9 * (1 + abs(view.returns.mean())):
        raise NotMeasurableError("all returns are equal")
    return float(np.mean(((view.returns - view.returns.mean()) / deviation) ** 3))


@measure(
    "psv",
    "PSV of returns",
    formula="mean of max(G - mean G, 0)^2 over episodes",
    source=_HONG,
    meaning="some episodes are much better than most: weighting trajectories can gain",
)
def _psv(view: View) -> float:
    return positive_sided_variance(view.returns)


@measure(
    "rpsv",
    "RPSV of returns",
    formula="PSV of returns scaled to [0, 1]; 0 if all are equal",
    source=_HONG,
    meaning="as PSV, without a unit: at most 4/27, at a third of excellent episodes",
)
def _rpsv(view: View) -> float:
    return relative_positive_sided_variance(view.returns)


@measure(
    "eri",
    "ERI",
    formula="(max G - mean G) / mean G, returns less min G if any is negative",
    source="Swazinna, Udluft, Runkler 2021, arXiv 2111.13461",
    meaning="the best episode is far above the mean",
)
def _eri(view: View) -> float:
    return estimated_return_improvement(view.returns)


@measure(
    "best_gap",
    "best - mean",
    formula="(max G - mean G) / (maximum - minimum)",
    source="elementary",
    reference="minimum and maximum return",
    meaning="the best episode is far above the mean, on the scale of TQ",
)
def _best_gap(view: View) -> float:
    low, high = view.reference.minimum, view.reference.maximum
    if low is None or high is None or not high > low:
        raise NotMeasurableError("no minimum and maximum return are given")
    return float((view.returns.max() - view.returns.mean()) / (high - low))


@measure(
    "horizon",
    "mean length",
    formula="mean number of transitions of an episode",
    source="Belkhale, Cui, Sadigh 2023, arXiv 2306.02437",
    meaning="episodes are long, over which the errors of imitation add up",
)
def _horizon(view: View) -> float:
    lengths = view.dataset.episode_lengths
    if view.settings.partial_episodes == "drop":
        lengths = lengths[view.dataset.episode_complete]
    if not len(lengths):
        raise NotMeasurableError("no episode is complete, so there is no length")
    return float(lengths.mean())


@measure(
    "reward_sparsity",
    "reward sparsity",
    formula="mean over episodes of the share of rewards that are 0",
    source="code of Schweighofer et al. 2022",
    meaning="most steps say nothing about success",
)
def _reward_sparsity(view: View) -> float:
    data = view.dataset
    zeros = np.add.reduceat((data.rewards == 0).astype(np.float64), data.episode_starts)
    return float(np.mean(zeros / data.episode_lengths))
