"""The estimated number of behaviour policies where it is known: made-up policies, and the makers of real files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import offbench
from offbench.analysis.quality import measure_datasets
from offbench.analysis.quality_policies import episodes_of, policy_classes
from offbench.analysis.quality_view import NotMeasurableError
from offbench.datasets import Dataset

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "mujoco_v4"
Policy = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def roll_out(policies: Sequence[Policy], episodes: int = 30, length: int = 30) -> Dataset:
    """A walk in the plane that each policy in turn drives for an episode."""
    rng = np.random.default_rng(0)
    states, actions = [], []
    for episode in range(episodes * len(policies)):
        state = rng.uniform(-1, 1, 2)
        for _ in range(length):
            action = policies[episode % len(policies)](state, rng)
            states.append(state)
            actions.append(action)
            state = np.clip(state + 0.3 * np.resize(action, 2) + 0.1 * rng.normal(size=2), -2, 2)
    ends = np.arange(1, len(states) + 1) % length == 0
    discrete = np.ndim(actions[0]) == 0
    return Dataset.from_arrays(
        observations=np.array(states),
        actions=np.array(actions),
        rewards=np.zeros(len(states)),
        terminated=ends,
        truncated=np.zeros(len(states), bool),
        action_space=Discrete(2) if discrete else Box(-9, 9, (2,)),
        name="rolled out",
    )


def home(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return -state + 0.2 * rng.normal(size=2)


def away(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.5 * state + 0.2 * rng.normal(size=2)


def around(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.array([state[1], -state[0]]) + 0.2 * rng.normal(size=2)


def noise(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, 2)


@pytest.mark.parametrize(
    ("policies", "expected"),
    [([home], 1), ([noise], 1), ([home, away], 2), ([home, noise], 2), ([home, away, around], 3)],
    ids=["one", "noise", "two", "one and noise", "three"],
)
def test_policies_are_counted(policies: list[Policy], expected: int) -> None:
    assert policy_classes(episodes_of(roll_out(policies), 0), 0)[0] == expected


def test_a_policy_with_noise_inside_its_episodes_is_one() -> None:
    def mixed(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return home(state, rng) if rng.random() < 0.5 else noise(state, rng)

    assert policy_classes(episodes_of(roll_out([mixed]), 0), 0)[0] == 1


def test_choices_and_their_opposites_are_two_policies() -> None:
    def right(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.int64(state[0] + 0.3 * rng.normal() > 0)

    def wrong(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return 1 - right(state, rng)

    def value(dataset: Dataset) -> float:
        return measure_datasets([dataset], measures=["policies"], settings="paper").datasets[0].values["policies"]

    assert value(roll_out([right, wrong])) == 2
    assert value(roll_out([right], episodes=60)) == 1


def test_too_few_episodes_say_so() -> None:
    with pytest.raises(NotMeasurableError, match="fewer than 8"):
        episodes_of(roll_out([home], episodes=5), 0)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hopper-random", {1}),
        ("hopper-medium", {1}),
        ("hopper-expert", {2}),  # two agents
        ("hopper-medium-replay", {4}),  # uniform actions and three agents
        ("halfcheetah-medium-replay", {3, 4}),  # the same
        ("halfcheetah-medium", {1}),
        ("halfcheetah-expert", {1}),
    ],
)
def test_makers_of_real_files_are_counted(name: str, expected: set[int]) -> None:
    dataset = offbench.load_dataset(str(REAL / f"{name}.hdf5"))
    assert policy_classes(episodes_of(dataset, 0), 0)[0] in expected
