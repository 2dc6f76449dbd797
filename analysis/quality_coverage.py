"""Measures of coverage: SACo and its variants, from the number of cells that a dataset's pairs occupy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offbench.analysis.quality_bins import Bins
from offbench.analysis.quality_counting import Count, count_distinct
from offbench.analysis.quality_registry import measure
from offbench.analysis.quality_view import NotMeasurableError, View, encoded_actions, states_at
from offbench.datasets import Dataset

_PAPER = "Schweighofer et al. 2022, arXiv 2111.04714"
FINE_EDGES = 1000  # bins of near-duplicates: a thousandth of each column's range
DRAWS, PLANE, PLANE_EDGES, PLANE_REACH = 8, 2, 51, 4.0  # random planes, cut into 50 x 50 cells within 4 deviations


@measure(
    "saco",
    "SACo",
    formula="u(D) / u(D_ref), u = number of distinct cells of (state, action)",
    source=_PAPER,
    reference="reference dataset",
    cost="two passes, 8 bytes per distinct cell",
    meaning="the data cover many state-action pairs (exploration): 1 like the reference",
)
def _saco(view: View) -> float:
    return view.pairs.value / view.reference_pairs.value


@measure(
    "lsaco",
    "lSACo",
    formula="log u(D) / log u(D_ref)",
    source="code of Schweighofer et al. 2022",
    reference="reference dataset",
    cost="as SACo",
    meaning="as SACo, on a logarithmic scale",
)
def _lsaco(view: View) -> float:
    if view.reference_pairs.value < 2:
        raise NotMeasurableError("the reference has a single state-action pair")
    return math.log(view.pairs.value) / math.log(view.reference_pairs.value)


@measure(
    "unique_pairs",
    "unique pairs",
    formula="u(D)",
    source=_PAPER,
    reference="reference dataset, where it sets the bounds of the bins",
    cost="as SACo",
    meaning="the data cover many state-action pairs",
)
def _unique_pairs(view: View) -> float:
    return float(_pairs_in_any_bins(view).value)


@measure(
    "saturation",
    "unique / rows",
    formula="u(D) / number of rows counted",
    source="elementary",
    reference="as unique pairs",
    cost="as SACo",
    meaning="near 1 nearly every row has a cell of its own: the bins are too fine, and SACo compares sizes only",
)
def _saturation(view: View) -> float:
    count = _pairs_in_any_bins(view)
    return count.value / count.rows


def _pairs_in_any_bins(view: View) -> Count:
    """Without a reference the bins are the dataset's own: the number then only describes that dataset."""
    if view.reference.dataset is None and view.settings.bounds == "reference":
        return view.count(view.dataset, view.bins("own"))
    return view.pairs


@measure(
    "saco_pooled",
    "SACo, pooled bounds",
    formula="as SACo; the bins reach from the least to the largest value of all datasets compared",
    source="variant of SACo, so that nothing lies outside of the bins",
    reference="reference dataset",
    cost="as SACo",
    meaning="as SACo; differs where a dataset leaves the range of the reference",
)
def _saco_pooled(view: View) -> float:
    bins = view.bins("pooled")
    reference = view.reference.once("pairs, pooled", lambda: view.count(view.reference_dataset, bins))
    return view.count(view.dataset, bins).value / reference.value


@measure(
    "saco_projected",
    "SACo, projected",
    formula="as SACo, mean u over 8 random planes of the standardized pairs, 50 x 50 cells within 4 deviations",
    source="variant of SACo that does not saturate in many dimensions",
    reference="reference dataset",
    cost="one pass with a product of matrices",
    meaning="the data are broad in random views of them: 1 like the reference",
)
def _saco_projected(view: View) -> float:
    reference = view.reference.once("cells, projected", lambda: projected_cells(view, view.reference_dataset))
    return projected_cells(view, view.dataset) / reference


def projected_cells(view: View, dataset: Dataset) -> float:
    """Return the mean number of cells that a dataset occupies in random planes.

    Directions are Gaussian in the standardized space of states and actions and have the pool's deviation 1 each.
    """
    directions = view.reference.once("directions", lambda: _directions(view))
    side = np.full(PLANE, PLANE_REACH)
    bins = Bins(-side, side, PLANE_EDGES)
    planes = [directions[:, first : first + PLANE] for first in range(0, directions.shape[1], PLANE)]
    counters: list[list[NDArray[np.uint64]]] = [[] for _ in planes]
    for chunk in _standardized_chunks(view, dataset):
        for keys, plane in zip(counters, planes, strict=True):
            keys.append(np.unique(bins.keys(chunk @ plane)))
    return float(np.mean([count_distinct(keys).value for keys in counters]))


def _directions(view: View) -> NDArray[np.float64]:
    pairs = np.concatenate([view.standardized(dataset) for dataset in view.pool])
    rng = np.random.default_rng([view.settings.seed, 2])
    directions = rng.normal(size=(pairs.shape[1], DRAWS * PLANE))
    deviation = (pairs @ directions).std(axis=0)
    return directions / np.where(deviation > 0, deviation, 1.0)


def _standardized_chunks(view: View, dataset: Dataset) -> Iterator[NDArray[np.float64]]:
    """All rows, whatever the settings count: a part of a dataset made of blocks is not like the whole."""
    total = len(dataset)
    width = int(np.prod(dataset.observations.shape[1:]))
    step = max(1, (1 << 20) // max(1, width))
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        states = states_at(dataset, rows)
        pairs = np.concatenate([states, encoded_actions(dataset, rows)], axis=1)
        yield view.scale.apply(pairs, actions=True)


@measure(
    "near_duplicates",
    "near-duplicates",
    formula="1 - distinct cells / rows, 999 bins of each column's own range",
    source="elementary",
    cost="two passes",
    meaning="many pairs occur again within a thousandth of the range",
)
def _near_duplicates(view: View) -> float:
    fine = View(view.dataset, replace(view.settings, zero_row=False, first_rows=None), view.reference)
    count = fine.count(fine.dataset, fine.bins("own", FINE_EDGES))
    return 1 - count.value / count.rows
