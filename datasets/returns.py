"""Returns-to-go, the discounted reward sums from a transition on, and the positive-sided variance of returns."""

from __future__ import annotations

import numpy as np

from offbench.datasets.columns import Array


def returns_to_go(rewards: Array, episode_starts: Array, discount: float) -> Array:
    """Return [N] float64, G_t = r_t + discount * G_{t+1} inside every episode.

    Args:
        rewards: [N].
        episode_starts: [K], the first transition of each episode.
        discount: in [0, 1].
    """
    lengths = np.diff(episode_starts, append=len(rewards))
    result = np.array(rewards, np.float64)
    # Backwards in time, all episodes at once; longest first, so that those still running are a prefix.
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = episode_starts[order], lengths[order]
    running = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")  # episodes longer than t
    for step in range(lengths[0] - 2, -1, -1):
        rows = starts[: running[step + 1]] + step
        result[rows] += discount * result[rows + 1]
    return result


def positive_sided_variance(returns: Array) -> float:
    """Return PSV, E[max(G - E[G], 0)^2] of returns [K] (Hong et al. 2023, arXiv 2306.13085, section 3)."""
    return float(np.mean(np.maximum(returns - returns.mean(), 0.0) ** 2))


def relative_positive_sided_variance(returns: Array) -> float:
    """Return RPSV, the PSV of returns [K] scaled to [0, 1]; 0 if all are equal. At most 4/27."""
    spread = np.ptp(returns)
    return positive_sided_variance((returns - returns.min()) / spread) if spread > 0 else 0.0
