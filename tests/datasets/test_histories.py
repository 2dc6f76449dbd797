"""Histories as index views, and stacked frames that equal what Gymnasium's wrapper shows in evaluation."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset, Reference, read_minari, write_minari
from offbench.datasets.environments import horizon, make_environment, packages
from offbench.datasets.rollout import collect
from offbench.datasets.transforms import apply_transforms, restore
from offbench.datasets.transforms.histories import frame_history, history_index
from offbench.errors import IncompatibleError, SpecError
from offbench.evaluation import check_environment
from tests.datasets.transform_data import datasets, made


@settings(max_examples=50, deadline=None)
@given(dataset=datasets(), length=st.integers(1, 9))
def test_histories_never_cross_an_episode(dataset: Dataset, length: int) -> None:
    index, inside = history_index(dataset, length)
    frames, _ = frame_history(dataset, length)
    assert index.shape == inside.shape == (len(dataset), length)
    assert frames.shape == (dataset.num_frames, length)
    np.testing.assert_array_equal(frames[dataset.frame_index], index)
    for row in range(len(dataset)):
        seen = dataset.observations[index[row]]
        assert (seen[:, 0] == dataset.episode_ids[row]).all()
        # An observation is (episode, step, noise): the last steps, and the first one again before the start.
        now = dataset.timesteps[row]
        assert seen[:, 1].tolist() == [max(0, now - back) for back in reversed(range(length))]
        assert inside[row].tolist() == [now - back >= 0 for back in reversed(range(length))]


@settings(max_examples=40, deadline=None)
@given(dataset=datasets(), size=st.integers(2, 5))
def test_stacks_and_their_next_observations(dataset: Dataset, size: int) -> None:
    stacked = apply_transforms(dataset, [f"frame_stack(size={size})"])
    assert stacked.observations.shape == (dataset.num_frames, size, 3)
    assert stacked.next_valid.tolist() == dataset.next_valid.tolist()
    np.testing.assert_array_equal(stacked.step_observations[:, -1], dataset.step_observations)
    for row in np.flatnonzero(dataset.next_valid):
        now, following = stacked.step_observations[row], stacked.next_observations[row]
        np.testing.assert_array_equal(following[:-1], now[1:])
        np.testing.assert_array_equal(following[-1], dataset.next_observations[row])
    assert stacked.actions is dataset.actions


def rolled_out(environment: str, steps: int) -> Dataset:
    env = make_environment(environment)
    frames = [env.reset(seed=3)[0]]
    taken = []
    env.action_space.seed(0)
    for _ in range(steps):
        action = env.action_space.sample()
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        taken.append((action, reward, terminated, truncated))
    episode = collect(frames, taken)
    return Dataset(
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminated=episode.terminated,
        truncated=episode.truncated,
        episode_starts=np.array([0]),
        last_known=np.array([True]),
        observation_space=env.observation_space,
        action_space=env.action_space,
        environment=environment,
        reference=Reference(-1000, 0, "made", environment),
    )


def test_evaluation_stacks_the_same_frames() -> None:
    dataset = apply_transforms(rolled_out("Pendulum-v1", 6), ["frame_stack(size=3)"])
    assert dataset.environment == "Pendulum-v1?frame_stack=3"
    check_environment(dataset, dataset.environment)
    env = make_environment(dataset.environment)
    assert isinstance(env, gymnasium.wrappers.FrameStackObservation)
    assert env.observation_space == dataset.observation_space
    seen = [env.reset(seed=3)[0], *(env.step(action)[0] for action in dataset.actions)]
    np.testing.assert_array_equal(np.stack(seen), dataset.observations)
    assert dataset.reference is not None
    assert dataset.reference.normalize([-500.0], environment=dataset.environment) == [50]
    assert horizon("Pendulum-v1?frame_stack=3") == horizon("Pendulum-v1") == 200
    assert packages("Hopper-v4?frame_stack=3") == packages("Hopper-v4")


def test_a_stacked_dataset_is_written_and_read(tmp_path: Path) -> None:
    dataset = apply_transforms(rolled_out("Pendulum-v1", 6), ["frame_stack(size=2)"])
    again = read_minari(write_minari(dataset, tmp_path, "test/stacked-v0"))
    assert (again.fingerprint, again.environment) == (dataset.fingerprint, "Pendulum-v1?frame_stack=2")
    assert again.provenance.transforms == dataset.provenance.transforms


def test_clean_values_are_stacked_too() -> None:
    dataset = made()
    noisy = dataset.observations.copy()
    noisy[dataset.frame_index[[1, 6]]] += 100
    touched = np.isin(np.arange(9), [1, 6])
    infos = {"touched/observations": touched, "clean/observations": dataset.step_observations}
    corrupted = dataset.replace(observations=noisy, infos=infos)
    stacked = apply_transforms(corrupted, ["frame_stack(size=3)"])
    assert stacked.step_observations[2, :, 0].tolist() == [0, 101, 2]
    clean = restore(stacked)
    np.testing.assert_array_equal(
        clean.step_observations, apply_transforms(dataset, ["frame_stack(size=3)"]).step_observations
    )


def test_what_cannot_be_stacked() -> None:
    discrete = made(observations=np.zeros(11, int), observation_space=spaces.Discrete(3))
    with pytest.raises(IncompatibleError, match="cannot be stacked"):
        apply_transforms(discrete, ["frame_stack(size=2)"])
    with pytest.raises(IncompatibleError, match="stacked already"):
        apply_transforms(made(), ["frame_stack(size=2)", "frame_stack(size=2)"])
    with pytest.raises(SpecError, match="at least 2"):
        apply_transforms(made(), ["frame_stack(size=1)"])
    with pytest.raises(SpecError, match="positive length"):
        history_index(made(), 0)
