"""What non-uniform sampling does to a dataset: effective sizes, returns and moments as sampled, ratios back to uniform.

Everything here is about the distribution over transitions that `TransitionBuffer` draws from: the dataset's
`sampling_weights`, or 1 / N for each of the N transitions where it has none.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from offbench.datasets.columns import Array, first_rows
from offbench.datasets.dataset import Dataset
from offbench.errors import DatasetError, IncompatibleError


def sampling_probabilities(dataset: Dataset) -> Array:
    """Return [N] float64, the probability of drawing each transition."""
    if dataset.sampling_weights is not None:
        return dataset.sampling_weights
    return np.full(dataset.num_transitions, 1.0 / dataset.num_transitions)


def episode_shares(dataset: Dataset) -> Array:
    """Return [K] float64, the probability that a draw is a transition of each episode."""
    return np.add.reduceat(sampling_probabilities(dataset), dataset.episode_starts)


def episode_weights(dataset: Dataset) -> Array:
    """Return [K] float64, how often each episode counts, summing to 1: its mean weight per transition.

    Drawing transitions evenly from a dataset that held episode i w_i times would give the same draws (Hong et al.
    2023, section 3). Uniform sampling has 1 / K for each episode, whatever the lengths.
    """
    means = episode_shares(dataset) / dataset.episode_lengths
    return means / means.sum()


def effective_size(probabilities: Array) -> float:
    """Return 1 / sum(p^2) of probabilities that sum to 1: how many equally likely items vary as much (Kish 1965)."""
    return float(1.0 / np.sum(np.square(probabilities)))


def mean_return(dataset: Dataset) -> float:
    """Return the mean return of complete episodes, each counted by its `episode_weights`.

    It is the return of the behaviour that the sampled data show (J(D_w) of Hong et al. 2023); the plain mean over
    episodes where sampling is uniform.

    Raises:
        DatasetError: no complete episode can be drawn.
    """
    weights = np.where(dataset.episode_complete, episode_weights(dataset), 0.0)
    if not weights.sum() > 0:
        raise DatasetError(f"no complete episode of {dataset.name} can be drawn, so its mean return is not known")
    return float(np.average(dataset.episode_returns, weights=weights))


def observation_moments(dataset: Dataset) -> tuple[Array, Array]:
    """Return mean and standard deviation (ddof 0), each [*obs_shape] float64, of s_t as sampled."""
    probabilities = sampling_probabilities(dataset)
    rows = np.flatnonzero(probabilities)
    values = dataset.observations[dataset.frame_index[rows]].astype(np.float64)
    mean = np.tensordot(probabilities[rows], values, 1)
    np.square(np.subtract(values, mean, out=values), out=values)
    return mean, np.sqrt(np.tensordot(probabilities[rows], values, 1))


def importance_ratios(dataset: Dataset, *, uncovered: Literal["refuse", "drop"] = "refuse") -> Array:
    """Return [N] float64, u_i / p_i: by what a drawn transition counts so that means are those of uniform sampling.

    With i drawn from p, the mean of ratio_i * x_i estimates the plain mean of x without bias; dividing by the mean of
    the ratios (self-normalized) trades a small bias for less variance.

    Args:
        uncovered: what to do with transitions of probability 0, which no ratio can bring back. "drop" leaves them out
            of the target: the ratios are 0 there and lead to uniform sampling of the others.

    Raises:
        IncompatibleError: a transition has probability 0 and `uncovered` is "refuse".
    """
    probabilities = sampling_probabilities(dataset)
    covered = probabilities > 0
    if uncovered == "refuse" and not covered.all():
        raise IncompatibleError(
            f"sampling of {dataset.name} cannot be corrected to uniform: {first_rows(~covered)} are never drawn",
            "a ratio weighs what is drawn, and cannot stand in for what is not",
            'pass uncovered="drop" to correct to uniform sampling of the transitions that are drawn',
        )
    ratios = np.zeros(len(probabilities))
    return np.divide(1.0 / covered.sum(), probabilities, out=ratios, where=covered)


def sampling_summary(dataset: Dataset) -> dict[str, Any]:
    """Return what non-uniform sampling means for the dataset, JSON-able; see docs/reweighting.md.

    `mean_return` is None where no complete episode can be drawn.
    """
    probabilities = sampling_probabilities(dataset)
    complete = dataset.episode_complete
    reachable = complete & (episode_shares(dataset) > 0)
    return {
        "transitions_drawn": int(np.count_nonzero(probabilities)),
        "effective_transitions": effective_size(probabilities),
        "effective_episodes": effective_size(episode_weights(dataset)),
        "largest_ratio_to_uniform": float(probabilities.max() * dataset.num_transitions),
        "mean_return": mean_return(dataset) if reachable.any() else None,
        "mean_return_uniform": float(dataset.episode_returns[complete].mean()) if complete.any() else None,
    }
