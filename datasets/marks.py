"""Marks that transforms leave in `Dataset.infos` and that decide what is learned: missing values, n-step windows.

- `missing/actions`, `missing/rewards` [N] bool: the value of the row is unknown and a filler stands in its place.
- `n_step` [N] int, `n_step_discount` [N] float: the rewards of up to so many steps are summed, with this discount,
  before the value is bootstrapped. The columns themselves stay those of single steps, so that returns, corruption and
  subsets mean what they always mean; `bootstrap_view` builds the sums where a dataset is packed for training.
- `bootstrap_discount` [N] float: a factor on what is bootstrapped after the row, beside the algorithm's own discount; 0
  ends the return there although the trajectory goes on (a goal that was reached).

They are part of the fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from offbench.datasets.columns import Array

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

MISSING = "missing/"
N_STEP = "n_step"
N_STEP_DISCOUNT = "n_step_discount"
BOOTSTRAP_DISCOUNT = "bootstrap_discount"
# What a dataset without the mark means.
NEUTRAL: dict[str, Any] = {
    f"{MISSING}actions": False,
    f"{MISSING}rewards": False,
    BOOTSTRAP_DISCOUNT: np.float32(1),
    N_STEP: 1,
    N_STEP_DISCOUNT: np.float32(1),
}


def missing(dataset: Dataset, column: str) -> Array | None:
    """Return which rows lack `column` ("actions" or "rewards"), [N] bool; None if no row does."""
    mask = dataset.infos.get(MISSING + column)
    return None if mask is None or not mask.any() else mask.astype(np.bool_)


def rewarded_episodes(dataset: Dataset) -> Array:
    """Return [K] bool, the episodes in which no reward is missing."""
    absent = missing(dataset, "rewards")
    if absent is None:
        return np.ones(dataset.num_episodes, np.bool_)
    return ~np.logical_or.reduceat(absent, dataset.episode_starts)


def complete_returns(dataset: Dataset) -> Array:
    """Return [K] bool, the episodes whose return is known: terminated or truncated, and no reward missing."""
    return dataset.episode_complete & rewarded_episodes(dataset)


@dataclass(frozen=True)
class BootstrapView:
    """What a bootstrapped target of each row t is made of: sum of rewards + discount * factor * value after row `last`.

    Attributes:
        rewards: [N] float64, sum over k < m of (product of discounts before it) * r_{t+k}.
        weights: [N] float64, the sum of those products: what a constant added to every reward adds to the sum.
        last: [N] int64, row t + m - 1. The next observation, the next action and the termination are that row's.
        factor: [N] float64, on the bootstrapped value beside one discount of the algorithm and 1 - d; 1 for m = 1.
    """

    rewards: Array
    weights: Array
    last: Array
    factor: Array


def bootstrap_view(dataset: Dataset) -> BootstrapView:
    """Return the targets' parts that the marks of a dataset mean; those of single steps if it has none.

    The window of a row has m <= n steps. It stays inside the episode, or the fragment that is left of it, stops before
    a row whose reward is missing, and ends at the latest row from which one can bootstrap (terminated, or s' known):
    where a trajectory is cut, the rows before the cut bootstrap from its last known observation.
    """
    count = dataset.num_transitions
    rewards, after = dataset.rewards.astype(np.float64), np.ones(count)
    if BOOTSTRAP_DISCOUNT in dataset.infos:
        after = dataset.infos[BOOTSTRAP_DISCOUNT].astype(np.float64)
    last, weights, factor = np.arange(count), np.ones(count), np.ones(count)
    if N_STEP not in dataset.infos:
        return BootstrapView(rewards, weights, last, after)
    steps = dataset.infos[N_STEP]
    discount = dataset.infos[N_STEP_DISCOUNT].astype(np.float64)
    absent = missing(dataset, "rewards")
    totals, products, sums = rewards.copy(), factor.copy(), weights.copy()  # as they grow; kept where a window may end
    running = np.arange(count)
    for step in range(1, int(steps.max())):
        running = running[(steps[running] > step) & ~dataset.is_last[running + step - 1]]
        if absent is not None:
            running = running[~absent[running + step]]
        row = running + step
        products[running] *= discount[running] * after[row - 1]
        totals[running] += products[running] * dataset.rewards[row]
        sums[running] += products[running]
        ending = running[dataset.bootstrappable[row]]
        last[ending] = ending + step
        rewards[ending], weights[ending], factor[ending] = totals[ending], sums[ending], products[ending]
    return BootstrapView(rewards, weights, last, factor * after[last])
