"""Measures of behaviour: how much actions differ in alike states, how alike states are, where episodes meet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offbench.analysis.quality_neighbours import nearest, squared_distances
from offbench.analysis.quality_registry import measure
from offbench.analysis.quality_view import Float, NotMeasurableError, View, encoded_actions, states_at

_BELKHALE = "Belkhale, Cui, Sadigh 2023, arXiv 2306.02437"
_COST = "quadratic in the sample (4,000 rows)"


def local_variance(points: Float, values: Float, k: int) -> float:
    """Return how much of the variance of values is left among neighbours: 0 for a smooth function, 1 for noise.

    The mean over rows of |v - mean of v in C|^2, where C holds the row and its k nearest neighbours in `points`,
    times (k + 1) / k because the mean is taken from C, over the variance of all values. Columns of values count in
    their own unit.

    Args:
        points: [n, D]. values: [n, A].
    """
    total = float(values.var(axis=0).sum())
    if not total > 0:
        raise NotMeasurableError("all of them are equal")
    k = min(k, len(points) - 1)
    if k < 1:
        raise NotMeasurableError("there is a single row")
    _, neighbours = nearest(points, k)
    inside = np.concatenate([values[:, None], values[neighbours]], axis=1)
    residuals = ((values - inside.mean(axis=1)) ** 2).sum(axis=1)
    # The row is one of the k + 1 whose mean is taken.
    return float(residuals.mean()) * (k + 1) / k / total


@measure(
    "action_variance",
    "action variance",
    formula="mean |a - mean a of the states nearby|^2 / variance of actions; one-hot where actions are choices",
    source=f"{_BELKHALE}; a proxy of action divergence",
    cost=_COST,
    meaning="alike states were met with different actions: several policies, or a noisy one",
)
def _action_variance(view: View) -> float:
    return local_variance(view.states, encoded_actions(view.dataset, view.sample), view.settings.neighbours)


@measure(
    "transition_variance",
    "transition variance",
    formula="mean |ds - mean ds of the pairs nearby|^2 / variance of ds, ds = s' - s standardized by its deviations",
    source=f"{_BELKHALE}; transition diversity",
    cost=_COST,
    meaning="alike pairs had different outcomes: a noisy system, or a sample too thin for the dynamics",
)
def _transition_variance(view: View) -> float:
    data = view.dataset
    valid = data.next_valid[view.sample]
    if data.next_observations_override is not None:
        following = data.next_observations_override[view.sample].reshape(len(view.sample), -1)
    else:
        following = data.observations[data.next_frame_index[view.sample]].reshape(len(view.sample), -1)
    change = following.astype(np.float64) - states_at(data, view.sample)
    change = change[valid]
    if len(change) < 2:
        raise NotMeasurableError("next observations are not known")
    deviation = change.std(axis=0)
    change = change[:, deviation > 0] / deviation[deviation > 0]
    return local_variance(view.state_actions[valid], change, view.settings.neighbours)


@measure(
    "state_similarity",
    "state similarity",
    formula="mean share of sampled states within a radius of 0.25 sqrt(D) deviations",
    source=_BELKHALE,
    reference="datasets to compare with, for a common scale",
    cost=_COST,
    meaning="states are alike, so that actions can be learned from many examples",
)
def _state_similarity(view: View) -> float:
    n = len(view.states)
    if n < 2:
        raise NotMeasurableError("there is a single row")
    near = sum(int(block.sum()) for _, block in _near(view))
    return (near - n) / (n * (n - 1))


@measure(
    "trajectory_overlap",
    "trajectory overlap",
    formula="share of sampled states with a state of another episode within 0.25 sqrt(D) deviations",
    source="elementary; the condition for stitching",
    reference="datasets to compare with, for a common scale",
    cost=_COST,
    meaning="episodes meet, so that parts of several can be joined to a better one",
)
def _trajectory_overlap(view: View) -> float:
    if view.dataset.num_episodes < 2:
        raise NotMeasurableError("there is a single episode")
    episodes = view.dataset.episode_ids[view.sample]
    met = 0
    for start, near in _near(view):
        other = episodes[start : start + len(near), None] != episodes[None, :]
        met += int((near & other).any(axis=1).sum())
    return met / len(episodes)


def _near(view: View) -> list[tuple[int, NDArray[np.bool_]]]:
    """Blocks of the matrix that says which sampled states are near one another, with their first rows."""
    states, step = view.states, 1000
    limit = view.settings.radius**2 * states.shape[1]
    starts = range(0, len(states), step)
    return [(start, squared_distances(states[start : start + step], states) <= limit) for start in starts]
