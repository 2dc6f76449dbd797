"""Hindsight goals: from the future of the same episode, with the distribution and the rewards that they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.algorithms.base import Requires
from offbench.algorithms.batches import Preprocessing, TransitionBuffer
from offbench.datasets import Dataset
from offbench.datasets.transforms import apply_transforms
from offbench.errors import DatasetError, IncompatibleError, SpecError
from tests.datasets.transform_data import datasets, made


def without_override(dataset: Dataset) -> Dataset:
    return dataset.replace(next_observations_override=None, goals=None)


@settings(max_examples=60, deadline=None)
@given(dataset=datasets(), strategy=st.sampled_from(["future", "final", "geometric"]), seed=st.integers(0, 99))
def test_goals_come_from_the_future_of_the_same_episode(dataset: Dataset, strategy: str, seed: int) -> None:
    dataset = without_override(dataset)
    text = f"hindsight(strategy={strategy}, discount=0.6, seed={seed})"
    if not dataset.next_valid.any():
        with pytest.raises(DatasetError, match="no next observation"):
            apply_transforms(dataset, [text])
        return
    new = apply_transforms(dataset, [text])
    assert new.infos["number"].tolist() == np.flatnonzero(dataset.next_valid).tolist()
    assert new.goals is not None
    # An observation is (episode, step, noise), so a goal tells where it is from.
    frames = {tuple(frame) for frame in dataset.observations.tolist()}
    for row in range(len(new)):
        episode, step, _ = new.step_observations[row]
        goal = new.goals[row].tolist()
        assert tuple(goal) in frames
        assert goal[0] == episode
        assert goal[1] > step
        assert new.rewards[row] == (0 if new.next_observations[row].tolist() == goal else -1)
        if strategy == "final":
            last = dataset.observations[dataset.observations[:, 0] == episode][-1]
            assert goal == last.tolist()


def line(length: int, episodes: int = 1) -> Dataset:
    """Truncated episodes on a line: the observation is the number of the step, from 0 to `length`."""
    rows = length * episodes
    return made(
        observations=np.tile(np.arange(length + 1, dtype=np.float32), episodes)[:, None],
        actions=np.zeros((rows, 2)),
        rewards=np.zeros(rows),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % length == length - 1,
        episode_starts=np.arange(episodes) * length,
        last_known=np.ones(episodes, bool),
    )


def test_distributions_of_goals() -> None:
    dataset = line(5, 4000)
    first = dataset.timesteps == 0
    future = apply_transforms(dataset, ["hindsight"]).goals[first, 0]
    counts = np.bincount(future.astype(int), minlength=6)[1:]
    assert ((counts - 800) ** 2 / 800).sum() < 23.5  # chi-square, 4 degrees of freedom, p = 1e-4
    geometric = apply_transforms(dataset, ["hindsight(strategy=geometric, discount=0.5)"]).goals[first, 0]
    wanted = 4000 * np.array([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16])  # the rest falls on the last step
    counts = np.bincount(geometric.astype(int), minlength=6)[1:]
    assert ((counts - wanted) ** 2 / wanted).sum() < 23.5
    anywhere = apply_transforms(dataset, ["hindsight(strategy=random)"]).goals[dataset.timesteps == 4, 0]
    counts = np.bincount(anywhere.astype(int), minlength=6)[1:]
    assert ((counts - 800) ** 2 / 800).sum() < 23.5


def test_thresholds_entries_and_rewards() -> None:
    observations = np.array([[0, 9], [1, 9], [2, 9], [3, 9], [4, 9]], np.float32)
    dataset = line(4).replace(observations=observations, observation_space=spaces.Box(-1, 10, (2,)))
    final = "hindsight(strategy=final, achieved=[0], threshold=1.0, rewards=[1, 0])"
    new = apply_transforms(dataset, [final])
    assert new.goals.tolist() == [[4]] * 4
    assert new.rewards.tolist() == [0, 0, 1, 1]
    assert new.provenance.transforms[-1].parameters["measured"] == {"reached": 0.5, "relabelled": 4, "left_out": 0}
    exact = apply_transforms(dataset, ["hindsight(strategy=final)"])
    assert exact.rewards.tolist() == [-1, -1, -1, 0]


def test_a_share_keeps_its_goals() -> None:
    dataset = line(5, 2000).replace(goals=np.full((10_000, 1), 77.0))
    new = apply_transforms(dataset, ["hindsight(share=0.8)"])
    kept = new.goals[:, 0] == 77
    assert abs(kept.mean() - 0.2) < 5 * np.sqrt(0.16 / 10_000)
    assert (new.rewards[kept] == -1).all()
    with pytest.raises(IncompatibleError, match="keeps some goals, but made has none"):
        apply_transforms(line(5), ["hindsight(share=0.8)"])
    with pytest.raises(IncompatibleError, match="goals of 2 entries"):
        apply_transforms(line(5).replace(goals=np.zeros((5, 2))), ["hindsight(share=0.8)"])


def test_algorithms_see_appended_goals_and_do_not_bootstrap_where_they_are_reached() -> None:
    dataset = line(4).replace(environment="Hopper-v4")
    new = apply_transforms(dataset, ["hindsight(strategy=final, append=true, terminate=true)"])
    assert new.environment is None
    assert "goal appended" in new.provenance.details["evaluation"]
    assert new.observation_space.shape == (2,)
    buffer = TransitionBuffer(new, Requires(), Preprocessing(observations="none"))
    batch = {name: value[0] for name, value in buffer.gather(torch.arange(4)[None]).items()}
    assert batch["observations"].tolist() == [[0, 4], [1, 4], [2, 4], [3, 4]]
    assert batch["next_observations"].tolist() == [[1, 4], [2, 4], [3, 4], [4, 4]]
    assert batch["rewards"].tolist() == [-1, -1, -1, 0]
    assert batch["continues"].tolist() == [1, 1, 1, 0]


def test_rows_without_a_future_are_left_out() -> None:
    new = apply_transforms(made(), ["hindsight(strategy=final)"])
    assert new.goals[:, 0].tolist() == [3, 3, 3, 12, 12, 23, 23, 23]
    assert new.provenance.transforms[-1].parameters["measured"]["left_out"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hindsight(share=0)", "not in"),
        ("hindsight(threshold=-1)", "negative"),
        ("hindsight(discount=1.0)", "not in"),
        ("hindsight(achieved=[])", "from 0"),
        ("hindsight(strategy=past)", "'future'"),
    ],
)
def test_wrong_parameters(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        apply_transforms(made(), [text])
    with pytest.raises(IncompatibleError, match="has 1 entries"):
        apply_transforms(made(), ["hindsight(achieved=[1])"])
