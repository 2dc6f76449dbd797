"""The clone's measures on policies whose randomness is known: softmax, tanh-Gaussian, uniform, none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from offbench.analysis.quality import measure_datasets
from offbench.analysis.quality_learned import clone, unsquashed
from offbench.analysis.quality_view import NotMeasurableError
from offbench.datasets import Dataset

RNG = np.random.default_rng


def table(states: np.ndarray, actions: np.ndarray, space: Any) -> Dataset:
    ends = np.arange(1, len(states) + 1) % 50 == 0
    return Dataset.from_arrays(
        observations=states,
        actions=actions,
        rewards=np.zeros(len(states)),
        terminated=ends,
        truncated=np.zeros(len(states), bool),
        action_space=space,
        name="table",
    )


STATES = RNG(0).uniform(-1, 1, size=(5000, 2))


def test_entropy_of_a_policy_that_is_random_in_half_of_the_states() -> None:
    greedy = (STATES[:, 1] > 0).astype(int)
    actions = np.where(STATES[:, 0] > 0, greedy, RNG(1).integers(0, 2, 5000))
    found = clone(table(STATES, actions, Discrete(2)), updates=800)
    assert found.stochasticity == pytest.approx(0.5, abs=0.06)
    assert found.marginal == pytest.approx(-math.log(2), abs=0.01)
    # Half of the actions are foreseen, the others not at all.
    assert found.log_likelihood == pytest.approx(-0.5 * math.log(2), abs=0.06)


def test_entropy_of_no_policy_and_of_a_fixed_one() -> None:
    random = clone(table(STATES, RNG(1).integers(0, 4, 5000), Discrete(4)), updates=400)
    assert random.stochasticity == pytest.approx(1.0, abs=0.01)
    assert random.log_likelihood - random.marginal == pytest.approx(0.0, abs=0.01)
    fixed = clone(table(STATES, 5 + (STATES[:, 0] > 0), Discrete(2, start=5)), updates=800)
    assert fixed.stochasticity < 0.08
    assert fixed.log_likelihood - fixed.marginal == pytest.approx(math.log(2), abs=0.08)


@pytest.mark.parametrize("sigma", [0.2, 0.6])
def test_eas_is_the_deviation_of_a_tanh_gaussian(sigma: float) -> None:
    means = np.stack([STATES[:, 0], -0.5 * STATES[:, 1]], axis=1)
    actions = 3.0 * np.tanh(means + sigma * RNG(1).normal(size=means.shape))
    found = clone(table(STATES, actions, Box(-3.0, 3.0, (2,))), updates=1000)
    assert found.stochasticity == pytest.approx(sigma, rel=0.08)
    # The exact mean log-density of the actions, of their own policy.
    noise = np.arctanh(np.clip(actions / 3, -0.999999, 0.999999)) - means
    exact = (
        -0.5 * (noise / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi)) - np.log(3 * (1 - (actions / 3) ** 2))
    )
    assert found.log_likelihood == pytest.approx(exact.sum(axis=1).mean(), abs=0.15)


def test_eas_of_uniform_actions_is_that_of_the_logistic() -> None:
    actions = RNG(1).uniform(-1, 1, size=(5000, 1))  # atanh of them is logistic of scale 1/2
    found = clone(table(STATES, actions, Box(-1.0, 1.0, (1,))), updates=600)
    assert found.stochasticity == pytest.approx(math.pi / (2 * math.sqrt(3)), rel=0.05)


def test_unsquashing_by_hand() -> None:
    data = table(np.zeros((3, 1)), np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]]), Box(0.0, np.inf, (2,)))
    targets, slope = unsquashed(data, np.arange(3))
    assert targets[1, 0] == 0
    assert targets[2, 0] == -targets[0, 0] == pytest.approx(math.atanh(0.999))
    # The second column is scaled from its bound 0 to its extreme 5.
    assert targets[0, 1] == pytest.approx(math.atanh(0.999))
    assert slope[1] == pytest.approx(-math.log(2.0) - math.log((1 - 0.999**2) * 2.5))


def test_the_same_seed_gives_the_same_number_and_rows_do_not_leak() -> None:
    data = table(STATES[:500], RNG(1).integers(0, 2, 500), Discrete(2))
    first, second = clone(data, updates=200), clone(data, updates=200)
    assert first == second
    assert clone(data, seed=1, updates=200) != first
    # Few rows of coin flips can be learned by heart, but not those that were held out.
    assert clone(data, updates=1000).log_likelihood < -math.log(2) + 0.03


def test_measures_name_the_one_that_fits() -> None:
    discrete = table(STATES[:400], RNG(1).integers(0, 2, 400), Discrete(2))
    found = measure_datasets([discrete], measures=["eas", "bc_entropy", "bc_gain"], settings="paper").datasets[0]
    assert "choices" in found.reasons["eas"]
    assert 0.8 < found.values["bc_entropy"] <= 1
    assert abs(found.values["bc_gain"]) < 0.1
    with pytest.raises(NotMeasurableError, match="neither"):
        clone(table(STATES[:400], np.zeros((400, 2), int), MultiDiscrete([2, 2])))
    with pytest.raises(NotMeasurableError, match="single action"):
        clone(table(STATES[:400], np.zeros(400, int), Discrete(1)))
