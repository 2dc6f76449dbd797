"""Measures of entropy: of cells, of actions, of states by their nearest neighbours and by clusters."""

from __future__ import annotations

import math

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.analysis.quality_counting import occurrences
from offbench.analysis.quality_neighbours import k_means, nearest, squared_distances
from offbench.analysis.quality_registry import measure
from offbench.analysis.quality_view import Float, NotMeasurableError, View

ACTION_BINS = 50
GBE_ALPHA = 0.5  # of behavioural entropy; below 1 rare states weigh more
_EULER = 0.5772156649015329


def plug_in_entropy(counts: NDArray[np.int64]) -> float:
    """Return -sum p log p in nats, with p the shares of the counts; its exponential is at most their number."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def neighbour_entropy(points: Float, k: int = 5) -> float:
    """Return the differential entropy in nats of the density that [n, D] points are drawn from.

    Kozachenko and Leonenko 1987 with the k-th neighbour: psi(n) - psi(k) + log V_D + D/n sum log eps_i, where eps_i is
    the distance to the k-th nearest other point and V_D the volume of the unit ball.

    Raises:
        NotMeasurableError: there are k or more copies of a point, which a density does not have.
    """
    n, dimensions = points.shape
    if n <= k:
        raise NotMeasurableError(f"{n} rows are too few for {k} neighbours")
    distances = nearest(points, k)[0][:, -1]
    if (distances <= 0).any():
        raise NotMeasurableError(f"rows repeat more than {k} times, so that they have no density")
    ball = 0.5 * dimensions * math.log(math.pi) - math.lgamma(0.5 * dimensions + 1)
    return _digamma(n) - _digamma(k) + ball + dimensions * float(np.log(distances).mean())


def _digamma(n: int) -> float:
    """The digamma function of a positive whole number."""
    return float(np.sum(1.0 / np.arange(1, n))) - _EULER


def behavioural_entropy(points: Float, k: int = 5, alpha: float = GBE_ALPHA) -> float:
    """Return the nearest-neighbour estimate of generalized behavioural entropy (Suttle et al. 2025, arXiv 2502.04141).

    Per point with d = distance to the k-th neighbour over the mean of all: e = beta log(1 + d)^alpha with
    beta = (log D)^(1 - alpha), value d exp(-e) e; the mean over points. D is at least 2 here.
    """
    if len(points) <= k:
        raise NotMeasurableError(f"{len(points)} rows are too few for {k} neighbours")
    distances = nearest(points, k)[0][:, -1]
    if not distances.mean() > 0:
        raise NotMeasurableError("all rows are equal to their neighbours")
    relative = distances / distances.mean()
    beta = math.log(max(2, points.shape[1])) ** (1 - alpha)
    weight = beta * np.log1p(relative) ** alpha
    return float(np.mean(relative * np.exp(-weight) * weight))


@measure(
    "pair_entropy",
    "pair entropy",
    formula="-sum p log p over the cells of (state, action), in nats",
    source="Schweighofer et al. 2022, arXiv 2111.04714; exp of it is at most u(D)",
    reference="reference dataset, where it sets the bounds of the bins",
    cost="two passes, 8 bytes per row",
    meaning="the data spread evenly over many pairs",
)
def _pair_entropy(view: View) -> float:
    own = view.reference.dataset is None and view.settings.bounds == "reference"
    bins = view.bins("own" if own else None)
    keys = [bins.keys(chunk) for chunk in view.chunks(view.dataset)]
    return plug_in_entropy(occurrences(np.concatenate(keys)))


@measure(
    "action_entropy",
    "action entropy",
    formula="entropy of actions / its maximum; mean over dimensions, 50 bins between the bounds, for continuous ones",
    source="practice; 1 for uniform actions",
    meaning="all actions are used alike",
)
def _action_entropy(view: View) -> float:
    data, space = view.dataset, view.dataset.action_space
    if isinstance(space, spaces.Discrete):
        if space.n < 2:
            raise NotMeasurableError("there is a single action")
        counts = np.bincount(data.actions.reshape(-1) - int(space.start), minlength=int(space.n))
        return plug_in_entropy(counts) / math.log(int(space.n))
    table = data.actions.reshape(len(data), -1)
    low, high = np.full(table.shape[1], -np.inf), np.full(table.shape[1], np.inf)
    if isinstance(space, spaces.Box):
        low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    entropies = []
    for column, least, most in zip(table.T, low, high, strict=True):
        start = least if math.isfinite(least) else float(column.min())
        stop = most if math.isfinite(most) else float(column.max())
        if stop > start:
            counts, _ = np.histogram(np.clip(column, start, stop), ACTION_BINS, (start, stop))
            entropies.append(plug_in_entropy(counts) / math.log(ACTION_BINS))
        else:
            entropies.append(0.0)
    return float(np.mean(entropies))


@measure(
    "state_entropy",
    "state entropy (kNN)",
    formula="psi(n) - psi(k) + log V + D/n sum log eps, eps = distance to the k-th neighbour of standardized states",
    source="Kozachenko and Leonenko 1987",
    reference="datasets to compare with, for a common scale",
    cost="quadratic in the sample (4,000 rows)",
    meaning="states are spread out; nats, compare only datasets that were measured together",
)
def _state_entropy(view: View) -> float:
    return neighbour_entropy(_varying(view.states, view), view.settings.neighbours)


@measure(
    "behavioural_entropy",
    "behavioural entropy",
    formula="mean of d exp(-e) e, e = beta log(1 + d)^0.5, d = distance to the k-th neighbour / its mean",
    source="Suttle et al. 2025, arXiv 2502.04141, alpha 0.5",
    cost="quadratic in the sample (4,000 rows)",
    meaning="distances between neighbours are even; no scale of its own",
)
def _behavioural_entropy(view: View) -> float:
    return behavioural_entropy(view.states, view.settings.neighbours)


@measure(
    "cluster_coverage",
    "cluster coverage",
    formula="share of 64 k-means clusters of all compared datasets' states that the data visit",
    source="practice; Arthur and Vassilvitskii 2007 for k-means++",
    reference="datasets to compare with",
    cost="64 x sample x datasets",
    meaning="the data visit most regions; near 1 by construction where a dataset is measured alone",
)
def _cluster_coverage(view: View) -> float:
    counts = _cluster_counts(view)
    return float(np.mean(counts > 0))


@measure(
    "cluster_entropy",
    "cluster entropy",
    formula="entropy of the clusters' shares / log 64",
    source="practice",
    reference="datasets to compare with",
    cost="as cluster coverage",
    meaning="the data visit the regions equally often",
)
def _cluster_entropy(view: View) -> float:
    counts = _cluster_counts(view)
    if len(counts) < 2:
        raise NotMeasurableError("all states are equal")
    return plug_in_entropy(counts) / math.log(len(counts))


def _cluster_counts(view: View) -> NDArray[np.int64]:
    settings, scale = view.settings, view.scale
    points = scale.apply(scale.states, actions=False)
    centers = view.reference.once("clusters", lambda: k_means(points, settings.clusters, settings.seed))
    return np.bincount(squared_distances(view.states, centers).argmin(axis=1), minlength=len(centers))


def _varying(states: Float, view: View) -> Float:
    """The columns that vary in the pool: a constant one has no density."""
    varying = np.ptp(view.scale.states, axis=0) > 0
    if not varying.any():
        raise NotMeasurableError("all states are equal")
    return states[:, varying]
