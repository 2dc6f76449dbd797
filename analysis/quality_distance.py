"""Distances between two datasets, as distributions of standardized states and actions."""

from __future__ import annotations

import numpy as np

from offbench.analysis.quality_neighbours import squared_distances
from offbench.analysis.quality_registry import measure
from offbench.analysis.quality_view import Float, View

DIRECTIONS = 64


def sliced_wasserstein(first: Float, second: Float, *, directions: int = DIRECTIONS, seed: int = 0) -> float:
    """Return the mean over random directions of the 1-Wasserstein distance of the projected points.

    Bonneel et al. 2015 (J. Math. Imaging Vis. 51). In the unit of the points; a shift by m gives |m| E|cos| of the
    angle between m and a direction.

    Args:
        first: [n, D]. second: [m, D].
    """
    rng = np.random.default_rng([seed, 4])
    unit = rng.normal(size=(first.shape[1], directions))
    unit /= np.linalg.norm(unit, axis=0)
    a, b = np.sort(first @ unit, axis=0), np.sort(second @ unit, axis=0)
    # Both quantile functions are steps: their difference is constant between the steps of either.
    shares = np.union1d(np.arange(1, len(a) + 1) / len(a), np.arange(1, len(b) + 1) / len(b))
    widths = np.diff(shares, prepend=0.0)
    middle = shares - widths / 2
    rows_a = np.minimum((middle * len(a)).astype(np.int64), len(a) - 1)
    rows_b = np.minimum((middle * len(b)).astype(np.int64), len(b) - 1)
    return float((widths[:, None] * np.abs(a[rows_a] - b[rows_b])).sum(axis=0).mean())


def energy_distance(first: Float, second: Float) -> float:
    """Return sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|), 0 only for equal distributions (Szekely and Rizzo 2013)."""

    def mean_distance(a: Float, b: Float) -> float:
        blocks = (np.sqrt(squared_distances(a[start : start + 1000], b)).sum() for start in range(0, len(a), 1000))
        return float(sum(blocks)) / (len(a) * len(b))

    square = 2 * mean_distance(first, second) - mean_distance(first, first) - mean_distance(second, second)
    return float(np.sqrt(max(0.0, square)))


@measure(
    "sliced_wasserstein",
    "distance to reference",
    formula="mean 1-Wasserstein distance to D_ref along 64 random directions of the standardized pairs",
    source="Bonneel et al. 2015",
    reference="reference dataset",
    cost="sorting 64 projections of the sample",
    meaning="the data are from elsewhere than the reference, in standard deviations",
)
def _sliced_wasserstein(view: View) -> float:
    other = _reference_sample(view)
    return sliced_wasserstein(view.state_actions, other, seed=view.settings.seed)


@measure(
    "energy_distance",
    "energy distance",
    formula="sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|) to D_ref, of the standardized pairs",
    source="Szekely and Rizzo 2013",
    reference="reference dataset",
    cost="quadratic in the sample (4,000 rows)",
    meaning="as distance to reference; it sees every difference of two distributions",
)
def _energy_distance(view: View) -> float:
    return energy_distance(view.state_actions, _reference_sample(view))


def _reference_sample(view: View) -> Float:
    reference = view.reference_dataset
    view.check_shapes([reference, view.dataset])
    return view.reference.once("reference sample", lambda: view.standardized(reference))
