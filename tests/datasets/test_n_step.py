"""n-step targets against a brute-force loop over every row, in the columns and in what algorithms are given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import Requires
from offbench.algorithms.batches import Preprocessing, TransitionBuffer, check_discount, usable_rows
from offbench.datasets import Dataset
from offbench.datasets.transforms import apply_transforms
from offbench.datasets.transforms.n_step import n_step_columns
from offbench.datasets.transforms.subsets import take_rows
from offbench.errors import IncompatibleError, SpecError
from tests.datasets.transform_data import datasets, made

PLAIN = Preprocessing(observations="none")


def brute(dataset: Dataset, row: int, steps: int, discount: float) -> tuple[float, int, bool, float]:
    """(sum of rewards, row that the window ends at, terminated there, discount^(m-1) unless terminated) of one row."""
    window = [row]
    while len(window) < steps and not dataset.is_last[window[-1]]:
        window.append(window[-1] + 1)
    while len(window) > 1 and not (dataset.terminated[window[-1]] or dataset.next_valid[window[-1]]):
        window.pop()
    total = sum(discount**k * float(dataset.rewards[t]) for k, t in enumerate(window))
    ended = bool(dataset.terminated[window[-1]])
    return total, window[-1], ended, 0.0 if ended else discount ** (len(window) - 1)


@settings(max_examples=60, deadline=None)
@given(dataset=datasets(), steps=st.integers(1, 8), discount=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_columns_equal_brute_force(dataset: Dataset, steps: int, discount: float) -> None:
    marked = apply_transforms(dataset, [f"n_step(steps={steps}, discount={discount})"])
    columns = n_step_columns(marked)
    for row in range(len(dataset)):
        total, last, ended, bootstrap = brute(dataset, row, steps, discount)
        assert math.isclose(columns["rewards"][row], total, rel_tol=1e-5, abs_tol=1e-6)
        assert columns["steps"][row] == last - row + 1
        assert columns["terminated"][row] == ended
        assert math.isclose(columns["bootstrap"][row], bootstrap, rel_tol=1e-5, abs_tol=1e-7)
        assert columns["valid"][row] == dataset.next_valid[last]
        if dataset.next_valid[last]:
            assert columns["next_observations"][row].tolist() == dataset.next_observations[last].tolist()
    # The dataset itself still says what happened step by step.
    assert marked.episode_returns.tolist() == dataset.episode_returns.tolist()
    assert marked.fingerprint != dataset.fingerprint


@settings(max_examples=40, deadline=None)
@given(dataset=datasets(), steps=st.integers(1, 5), discount=st.sampled_from([0.5, 0.9]), next_actions=st.booleans())
def test_batches_equal_brute_force(dataset: Dataset, steps: int, discount: float, next_actions: bool) -> None:
    marked = apply_transforms(dataset.replace(sampling_weights=None), [f"n_step(steps={steps}, discount={discount})"])
    rows = []
    for row in range(len(dataset)):
        _, last, ended, _ = brute(dataset, row, steps, discount)
        if (ended or dataset.next_valid[last]) and not (next_actions and not ended and dataset.is_last[last]):
            rows.append(row)
    requires = Requires(next_actions=next_actions)
    assert np.flatnonzero(usable_rows(marked, requires)).tolist() == rows
    if not rows:
        return
    preprocessing = Preprocessing(observations="none", reward_scale=2.0, reward_shift=-1.0)
    batch = TransitionBuffer(marked, requires, preprocessing).gather(torch.arange(len(rows))[None])
    changed = dataset.replace(rewards=dataset.rewards * 2 - 1)  # every single reward, before they are summed
    for position, row in enumerate(rows):
        total, last, ended, bootstrap = brute(changed, row, steps, discount)
        assert math.isclose(batch["rewards"][0, position], total, rel_tol=1e-4, abs_tol=1e-5)
        assert math.isclose(batch["continues"][0, position], bootstrap, rel_tol=1e-5, abs_tol=1e-7)
        np.testing.assert_array_equal(batch["observations"][0, position], dataset.step_observations[row])
        np.testing.assert_allclose(batch["actions"][0, position], dataset.actions[row])
        if not ended:
            np.testing.assert_array_equal(batch["next_observations"][0, position], dataset.next_observations[last])
            if next_actions:
                np.testing.assert_allclose(batch["next_actions"][0, position], dataset.actions[last + 1])


def test_targets_by_hand() -> None:
    dataset = apply_transforms(made(), ["n_step(steps=3, discount=0.5)"])
    columns = n_step_columns(dataset)
    # Episodes: 1 2 3 (terminated), 4 5 (truncated, s' known), 6 7 8 9 (running, the last s' is not known).
    rewards = [1 + 1 + 0.75, 2 + 1.5, 3, 4 + 2.5, 5, 6 + 3.5 + 2, 7 + 4, 8, 9]
    assert columns["rewards"].tolist() == rewards
    assert columns["steps"].tolist() == [3, 2, 1, 2, 1, 3, 2, 1, 1]
    assert columns["bootstrap"].tolist() == [0, 0, 0, 0.5, 1, 0.25, 0.5, 1, 1]
    assert columns["next_observations"][3:8, 0].tolist() == [12, 12, 23, 23, 23]
    assert columns["valid"].tolist() == [True] * 8 + [False]


def test_a_cut_fragment_bootstraps_at_its_end() -> None:
    dataset = apply_transforms(made(), ["n_step(steps=3, discount=0.5)"])
    columns = n_step_columns(take_rows(dataset, np.array([0, 1, 5, 6, 7])))
    assert columns["steps"].tolist() == [2, 1, 3, 2, 1]
    assert columns["rewards"].tolist() == [2, 2, 6 + 3.5 + 2, 11, 8]
    assert columns["bootstrap"].tolist() == [0.5, 1, 0.25, 0.5, 1]


def test_windows_stop_before_missing_rewards_and_at_reached_goals() -> None:
    marks = {"missing/rewards": np.arange(9) == 6, "bootstrap_discount": np.where(np.arange(9) == 0, 0.0, 1.0)}
    dataset = apply_transforms(made(infos=marks), ["n_step(steps=3, discount=0.5)"])
    columns = n_step_columns(dataset)
    assert columns["steps"][5] == 1
    assert columns["rewards"][5] == 6
    assert columns["rewards"][0] == 1  # what follows the goal does not count
    assert columns["bootstrap"][0] == 0
    usable = usable_rows(dataset, Requires())
    assert usable.tolist() == [True] * 6 + [False, True, False]


def test_other_discounts_are_refused() -> None:
    dataset = apply_transforms(made(), ["n_step(steps=3, discount=0.9)"])
    config = get_algorithm("iql").config_class
    check_discount(dataset, [config(discount=0.9)])
    check_discount(made(), [config(discount=0.99)])
    check_discount(dataset, [get_algorithm("bc").config_class()])
    with pytest.raises(IncompatibleError, match=r"the discount 0\.9, the algorithm has 0\.99"):
        check_discount(dataset, [config(discount=0.9), config(discount=0.99)])


@pytest.mark.parametrize("text", ["n_step(steps=0)", "n_step(steps=2, discount=1.5)", "n_step"])
def test_wrong_parameters(text: str) -> None:
    with pytest.raises(SpecError, match="n_step"):
        apply_transforms(made(), [text])
