"""Evaluation in environments and exported policies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offbench.errors import MissingExtraError, SpecError, StorageError
from offbench.evaluation import EnvironmentPool, Episode, episode_seed, evaluate, make_environment
from offbench.execution import run_suite
from offbench.policy import Policy, evaluate_policy
from offbench.runs import RunStore
from offbench.storage import read_rows
from offbench.suite import Suite


def by_hand(environment: str, seed: int, act: Callable[[np.ndarray], object]) -> tuple[float, int, bool]:
    env = gym.make(environment)
    observation, _ = env.reset(seed=seed)
    total, length, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total, length = total + float(reward), length + 1
    env.close()
    return total, length, terminated


def lean(observations: torch.Tensor) -> torch.Tensor:
    """Push the cart towards the pole's lean, but lane 1 does the opposite."""
    actions = (observations[..., 2] > 0).long()
    if len(actions) > 1:
        actions[1] = 1 - actions[1]
    return actions


def test_every_episode_is_what_a_plain_loop_gives() -> None:
    seeds = [[episode_seed(lane, 100, k) for k in range(40)] for lane in range(2)]
    results = evaluate(lean, EnvironmentPool("CartPole-v1"), seeds)
    assert results is not None
    assert [episode.episode for episode in results[0]] == list(range(40))
    assert [episode.seed for episode in results[1]] == seeds[1]
    for lane, number in ((0, 0), (0, 39), (1, 7), (1, 33)):  # more episodes than slots: some follow others
        episode = results[lane][number]
        expected = by_hand("CartPole-v1", seeds[lane][number], lambda o, lane=lane: int((o[2] > 0) != (lane == 1)))
        assert (episode.total_reward, episode.length, episode.terminated) == expected


def test_a_lane_does_not_depend_on_its_neighbours() -> None:
    seeds = [[episode_seed(lane, 1, k) for k in range(6)] for lane in range(3)]
    pool = EnvironmentPool("CartPole-v1")
    together = evaluate(lean, pool, seeds)
    assert together is not None
    for lane in range(3):
        alone = evaluate(lean, pool, [s if index == lane else None for index, s in enumerate(seeds)])
        assert alone is not None
        assert alone[lane] == together[lane]
        assert sum(map(len, alone)) == 6


def test_continuous_actions_are_clipped_and_time_limits_are_no_termination() -> None:
    results = evaluate(lambda o: torch.full((*o.shape[:2], 1), 50.0), EnvironmentPool("Pendulum-v1"), [[3]])
    assert results == [[Episode(0, 3, *by_hand("Pendulum-v1", 3, lambda o: np.array([2.0], np.float32)))]]
    assert not results[0][0].terminated


def test_episode_seeds_differ_in_every_key() -> None:
    seeds = {episode_seed(run, step, k) for run in range(5) for step in range(5) for k in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(1, 2, 3) == episode_seed(1, 2, 3)


def test_stopping_gives_nothing() -> None:
    assert evaluate(lean, EnvironmentPool("CartPole-v1"), [[1]], should_stop=lambda: True) is None


def test_environment_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="CartPole"):
        make_environment("CartPol-v1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_environment("CartPole-v0").close()  # outdated: Gymnasium would warn

    def missing(*_: object, **__: object) -> None:
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed, run `pip install gymnasium[mujoco]`")

    monkeypatch.setattr(gym, "make", missing)
    with pytest.raises(MissingExtraError, match=r"offbench\[mujoco\]"):
        make_environment("Hopper-v5")


@pytest.mark.parametrize("kind", ["cartpole", "pendulum"])
def test_a_saved_policy_acts_as_the_trained_one(
    make_suite: Callable[..., Suite], data: dict[str, str], tmp_path: Path, kind: str
) -> None:
    suite = make_suite(datasets=[data[kind]], preprocessing={"observations": "standardize"})
    summary = run_suite(suite, tmp_path, workers=0, device="cpu")
    folder = RunStore(tmp_path).folder(summary.runs[1])
    stored = [row for row in read_rows(folder.evaluations_file) if row["step"] == 24]
    pool = EnvironmentPool(summary.runs[1].dataset.environment or "")
    policy = Policy.load(folder.path)
    again = evaluate(policy.act_lanes, pool, [[row["seed"] for row in stored]])
    assert again is not None
    # Same weights and normalizer; one lane instead of two may differ in the last bits.
    assert [episode.total_reward for episode in again[0]] == pytest.approx([row["return"] for row in stored], rel=1e-3)
    observations = np.random.default_rng(0).standard_normal((5, *policy.observation_space.shape))
    actions = policy.act(observations)
    assert len(actions) == 5
    single = policy.act(observations[2].astype(np.float32))
    assert policy.action_space.contains(single)
    np.testing.assert_allclose(single, actions[2], rtol=1e-4)
    episodes = evaluate_policy(folder.policy, episodes=2, seed=5)
    assert [episode.seed for episode in episodes] == [episode_seed(5, 0, k) for k in range(2)]


def test_a_damaged_policy_is_refused(make_suite: Callable[..., Suite], tmp_path: Path) -> None:
    summary = run_suite(make_suite(seeds=1), tmp_path, workers=0, device="cpu")
    folder = RunStore(tmp_path).folder(summary.runs[0]).policy
    file = folder / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StorageError, match=r"policy\.safetensors"):
        Policy.load(folder)
    with pytest.raises(StorageError):
        Policy.load(tmp_path / "nowhere")
