"""Policies with a memory: what evaluation tells them, whole runs, and exported policies that act alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offbench.errors import SpecError
from offbench.evaluation import ActWithMemory, EnvironmentPool, episode_seed, evaluate
from offbench.execution import run_suite
from offbench.policy import Policy, evaluate_policy
from offbench.runs import RunStore
from offbench.storage import read_rows
from offbench.suite import Suite

TINY_TRANSFORMER = {"width": 16, "layers": 1, "context": 4, "time_steps": 50, "warmup_steps": 1}


class Notebook(ActWithMemory):
    """Pushes left and right in turn, by the number of steps in the episode; notes what it is told per episode."""

    def __init__(self) -> None:
        self.step = torch.zeros(0)
        self.told: dict[tuple[int, int], list[list[float]]] = {}

    def observe(self, rewards: torch.Tensor, first: torch.Tensor) -> None:
        if self.step.shape != first.shape:
            self.step = torch.zeros(first.shape, dtype=torch.int64)
        self.step = torch.where(first, 0, self.step + 1)
        for position in np.ndindex(*first.shape):
            if first[position]:
                self.told.setdefault(position, []).append([])
                assert rewards[position] == 0
            elif position in self.told:
                self.told[position][-1].append(rewards[position].item())

    def __call__(self, observations: torch.Tensor) -> torch.Tensor:
        return (self.step % 3 == 1).long()


def test_a_policy_is_told_rewards_and_where_episodes_start() -> None:
    seeds = [[episode_seed(lane, 0, k) for k in range(40)] for lane in range(2)]  # more episodes than slots
    notebook = Notebook()
    results = evaluate(notebook, EnvironmentPool("CartPole-v1"), seeds)
    assert results is not None
    env = gym.make("CartPole-v1")
    for lane, number in ((0, 0), (0, 39), (1, 20)):
        env.reset(seed=seeds[lane][number])
        total, length, done = 0.0, 0, False
        while not done:
            _, reward, done, _, _ = env.step(int(length % 3 == 1))
            total, length = total + float(reward), length + 1
        assert (results[lane][number].total_reward, results[lane][number].length) == (total, length)
    env.close()
    # The last reward of an episode comes with the next one, or never: all others were told.
    lengths = sorted(len(rewards) for told in notebook.told.values() for rewards in told[:-1])
    assert set(lengths) <= {episode.length - 1 for lane in results for episode in lane}
    assert len(notebook.told) == 64
    assert sum(map(len, notebook.told.values())) == 80


@pytest.fixture
def trained(make_suite: Callable[..., Suite], data: dict[str, str], tmp_path: Path) -> Callable[[str, str], Path]:
    """The folder of the second run of a small suite of one algorithm."""

    def train(kind: str, name: str) -> Path:
        config = TINY_TRANSFORMER if name == "decision_transformer" else {"hidden": [16, 16]}
        suite = make_suite(datasets=[data[kind]], algorithms=[{"name": name, "config": config}])
        summary = run_suite(suite, tmp_path, workers=0, device="cpu")
        assert not summary.failed
        return RunStore(tmp_path).folder(summary.runs[1]).path

    return train


@pytest.mark.parametrize("name", ["decision_transformer", "rvs"])
@pytest.mark.parametrize("kind", ["cartpole", "pendulum"])
def test_an_exported_policy_repeats_the_evaluation_and_acts_step_by_step(
    trained: Callable[[str, str], Path], kind: str, name: str
) -> None:
    folder = trained(kind, name)
    stored = [row for row in read_rows(folder / "evaluations.jsonl") if row["step"] == 24]
    policy = Policy.load(folder)
    assert policy.has_memory == (name == "decision_transformer")
    pool = EnvironmentPool(policy.environment or "")
    again = evaluate(policy.act_lanes, pool, [[row["seed"] for row in stored]])
    pool.close()
    assert again is not None
    assert [e.total_reward for e in again[0]] == pytest.approx([row["return"] for row in stored], rel=1e-3)
    # The same episode played by hand through the public interface.
    env = gym.make(policy.environment or "")
    for row in stored[:2]:
        observation, _ = env.reset(seed=row["seed"])
        policy.reset()
        total, reward, done = 0.0, None, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation, reward))
            total, done = total + float(reward), terminated or truncated
        assert total == pytest.approx(row["return"], rel=1e-3)
    env.close()
    assert len(evaluate_policy(folder, episodes=2, seed=5)) == 2


def test_a_policy_with_a_memory_wants_rewards_and_remembers_each_episode(
    trained: Callable[[str, str], Path],
) -> None:
    policy = Policy.load(trained("pendulum", "decision_transformer"))
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((5, 3, 3)).astype(np.float32)
    together = [policy.act(observations[0])]
    with pytest.raises(SpecError, match="no rewards were given"):
        policy.act(observations[1])
    with pytest.raises(SpecError, match="2 observations after 3"):
        policy.act(observations[1, :2], -1.0)
    together += [policy.act(observations[step], rewards=[-1.0, -2.0, -3.0 * step]) for step in range(1, 5)]
    for episode in range(3):
        policy.reset()
        for step in range(5):
            reward = None if step == 0 else [-1.0, -2.0, -3.0 * step][episode]
            alone = policy.act(observations[step, episode], reward)
            np.testing.assert_allclose(alone, together[step][episode], rtol=1e-4, atol=1e-6)
    # An episode that starts anew in one place changes nothing in the others.
    policy.reset()
    policy.act(observations[0])
    fresh = policy.act(observations[0], -1.0, first=[False, True, False])
    np.testing.assert_allclose(fresh[1], together[0][1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(fresh[0], together[0][0], atol=1e-6)
