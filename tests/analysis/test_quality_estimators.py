"""Estimators on data whose answer is known: Gaussians, cubes, discrete distributions, shifts, noisy actions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from scipy import spatial, stats

from offbench.analysis.quality import measure_datasets
from offbench.analysis.quality_behaviour import local_variance
from offbench.analysis.quality_distance import energy_distance, sliced_wasserstein
from offbench.analysis.quality_entropy import behavioural_entropy, neighbour_entropy, plug_in_entropy
from offbench.analysis.quality_neighbours import k_means, nearest
from offbench.analysis.quality_settings import QualitySettings
from offbench.analysis.quality_view import NotMeasurableError
from offbench.datasets import Dataset

RNG = np.random.default_rng


def table(observations: np.ndarray, actions: np.ndarray | None = None, length: int = 10, **columns: Any) -> Dataset:
    rows = len(observations)
    ends = np.zeros(rows, bool)
    ends[length - 1 :: length] = True
    columns.setdefault("action_space", Discrete(4))
    return Dataset.from_arrays(
        observations=observations,
        actions=np.zeros(rows, int) if actions is None else actions,
        rewards=np.zeros(rows),
        terminated=ends,
        truncated=np.zeros(rows, bool),
        name=columns.pop("name", "table"),
        **columns,
    )


def value(dataset: Dataset, name: str, *others: Dataset, **settings: Any) -> float:
    chosen = QualitySettings(**{"bounds": "own", **settings})
    return measure_datasets([dataset, *others], measures=[name], settings=chosen).datasets[0].values[name]


# -- neighbours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [1, 3, 20])
def test_nearest_is_that_of_a_tree(dimensions: int) -> None:
    points = RNG(0).normal(size=(700, dimensions)) + 1e4  # far from the origin, where products cancel
    expected, _ = spatial.cKDTree(points).query(points, k=6)
    np.testing.assert_allclose(nearest(points, 5)[0], expected[:, 1:], rtol=1e-6)
    asked = RNG(1).normal(size=(50, dimensions)) + 1e4
    expected, rows = spatial.cKDTree(points).query(asked, k=3)
    distances, found = nearest(points, 3, asked)
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    np.testing.assert_array_equal(found, rows)


def test_k_means_finds_separate_groups() -> None:
    centers = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    points = np.repeat(centers, 100, axis=0) + 0.1 * RNG(0).normal(size=(400, 2))
    found = k_means(points, 4, seed=0)
    assert sorted(map(tuple, found.round().tolist())) == sorted(map(tuple, centers.tolist()))
    assert len(k_means(np.repeat(centers, 5, axis=0), 10, seed=0)) == 4  # no more clusters than points


# -- entropies -------------------------------------------------------------------------------------


def test_plug_in_entropy_of_known_distributions() -> None:
    assert plug_in_entropy(np.array([7, 7, 7, 7])) == pytest.approx(math.log(4))
    assert plug_in_entropy(np.array([5])) == 0
    assert plug_in_entropy(np.array([1, 2, 3, 0])) == pytest.approx(stats.entropy([1, 2, 3]))


@pytest.mark.parametrize(("dimensions", "tolerance"), [(1, 0.06), (2, 0.08), (4, 0.15)])
def test_neighbour_entropy_of_gaussians(dimensions: int, tolerance: float) -> None:
    points = 3.0 * RNG(0).normal(size=(4000, dimensions))
    exact = dimensions * (0.5 * math.log(2 * math.pi * math.e) + math.log(3.0))
    assert neighbour_entropy(points) == pytest.approx(exact, abs=tolerance)


def test_neighbour_entropy_of_the_unit_square_and_of_scales() -> None:
    points = RNG(0).uniform(size=(4000, 2))
    entropy = neighbour_entropy(points)
    assert entropy == pytest.approx(0.0, abs=0.08)
    assert neighbour_entropy(points[::-1] + 5.0) == pytest.approx(entropy, abs=1e-9)
    assert neighbour_entropy(points * [2.0, 2.0]) == pytest.approx(entropy + 2 * math.log(2.0), abs=1e-9)


def test_points_that_repeat_have_no_density() -> None:
    with pytest.raises(NotMeasurableError, match="repeat"):
        neighbour_entropy(np.repeat(RNG(0).normal(size=(50, 2)), 10, axis=0))
    with pytest.raises(NotMeasurableError, match="too few"):
        neighbour_entropy(np.zeros((3, 1)), k=5)


def test_behavioural_entropy_by_hand_and_without_unit() -> None:
    square = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])  # every nearest distance is 1, their mean too
    weight = math.log(2) ** 0.5 * math.log(2) ** 0.5
    assert behavioural_entropy(square, k=1) == pytest.approx(math.exp(-weight) * weight)
    points = RNG(0).normal(size=(300, 3))
    assert behavioural_entropy(100 * points) == pytest.approx(behavioural_entropy(points))


def test_pair_entropy_bounds_the_count() -> None:
    grid = np.repeat(np.arange(8.0), [1, 1, 1, 1, 4, 8, 16, 32])[:, None]
    data = table(grid)
    entropy = value(data, "pair_entropy")
    assert entropy == pytest.approx(stats.entropy([1, 1, 1, 1, 4, 8, 16, 32]))
    assert math.exp(entropy) <= value(data, "unique_pairs") == 8


def test_action_entropy_of_choices_and_of_numbers() -> None:
    states = RNG(0).normal(size=(4000, 2))
    assert value(table(states, np.arange(4000) % 4), "action_entropy") == pytest.approx(1.0)
    assert value(table(states, np.arange(4000) % 2), "action_entropy") == pytest.approx(0.5)
    assert value(table(states, np.full(4000, 3)), "action_entropy") == 0
    box = {"action_space": Box(-1, 1, (2,))}
    uniform = np.stack([np.linspace(-1, 1, 4000), np.zeros(4000)], axis=1)
    assert value(table(states, uniform, **box), "action_entropy") == pytest.approx(0.5, abs=1e-3)


def test_actions_that_do_not_start_at_zero() -> None:
    states = RNG(0).normal(size=(400, 2))
    data = table(states, 5 + np.arange(400) % 4, action_space=Discrete(4, start=5))
    assert value(data, "action_entropy") == pytest.approx(1.0)


def test_clusters_of_all_datasets_tell_narrow_from_broad() -> None:
    broad, narrow = table(RNG(0).uniform(size=(3000, 2))), table(0.1 * RNG(1).uniform(size=(3000, 2)))
    assert value(broad, "cluster_coverage", narrow) > 0.9
    assert value(narrow, "cluster_coverage", broad) < 0.7
    assert value(broad, "cluster_entropy", broad) > 0.95
    assert value(narrow, "state_entropy", broad) < value(broad, "state_entropy", narrow) - 3


# -- behaviour -------------------------------------------------------------------------------------


def test_local_variance_of_a_function_of_noise_and_between() -> None:
    points = RNG(0).uniform(size=(3000, 2))
    smooth, noise = np.sin(points), RNG(1).normal(size=(3000, 2))
    assert local_variance(points, smooth, 5) < 0.01
    assert local_variance(points, noise, 5) == pytest.approx(1.0, abs=0.05)
    scale = smooth.std()
    mixed = smooth / scale + noise  # half of the variance is noise
    assert local_variance(points, mixed, 5) == pytest.approx(0.5, abs=0.05)
    assert local_variance(points, 10 * mixed - 3, 5) == pytest.approx(local_variance(points, mixed, 5))


def test_action_variance_of_one_policy_and_of_random_choices() -> None:
    states = RNG(0).uniform(-1, 1, size=(3000, 2))
    policy = (states[:, 0] > 0).astype(int)
    assert value(table(states, policy), "action_variance") < 0.1
    assert value(table(states, RNG(1).integers(0, 4, 3000)), "action_variance") == pytest.approx(1.0, abs=0.05)


def test_transition_variance_sees_a_noisy_system() -> None:
    states = RNG(0).uniform(-1, 1, size=(3000, 2))
    noise = RNG(1).normal(size=(3000, 2))
    for following, expected in ((0.9 * states, 0.0), (states + noise, 1.0)):
        data = table(states, next_observations=following, length=1)
        assert value(data, "transition_variance") == pytest.approx(expected, abs=0.06)


def test_state_similarity_and_overlap_of_two_places() -> None:
    places = np.where(np.arange(400) < 200, 0.0, 100.0)[:, None]
    data = table(places + 1e-6 * RNG(0).normal(size=(400, 1)), length=200)
    assert value(data, "state_similarity") == pytest.approx(199 / 399)
    assert value(data, "trajectory_overlap") == 0  # each episode has a place of its own
    alternating = table(np.where(np.arange(400) % 2 == 0, 0.0, 100.0)[:, None], length=200)
    assert value(alternating, "trajectory_overlap") == 1


# -- distances -------------------------------------------------------------------------------------


def test_sliced_wasserstein_in_one_dimension_is_the_exact_distance() -> None:
    first, second = RNG(0).normal(size=300), 2 + 3 * RNG(1).normal(size=470)
    expected = stats.wasserstein_distance(first, second)
    assert sliced_wasserstein(first[:, None], second[:, None]) == pytest.approx(expected)


def test_sliced_wasserstein_of_a_shift() -> None:
    points = RNG(0).normal(size=(500, 3))
    shift = np.array([3.0, 0, 4])  # length 5; the mean of |cos| is 1/2 in three dimensions
    assert sliced_wasserstein(points, points + shift, directions=5000) == pytest.approx(2.5, rel=0.03)
    assert sliced_wasserstein(points, points) == 0


def test_energy_distance_is_scipys_and_a_metric() -> None:
    first, second, third = RNG(0).normal(size=200), RNG(1).normal(1, 2, 300), RNG(2).uniform(size=250)
    a, b, c = first[:, None], second[:, None], third[:, None]
    assert energy_distance(a, b) == pytest.approx(stats.energy_distance(first, second))
    assert energy_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert energy_distance(a, b) == pytest.approx(energy_distance(b, a))
    assert energy_distance(a, c) <= energy_distance(a, b) + energy_distance(b, c)
