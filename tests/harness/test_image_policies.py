"""Images from the dataset through training and evaluation to an exported policy that acts on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from conftest import PROTOCOL, logged

from offbench.datasets import write_minari
from offbench.execution import run_suite
from offbench.policy import Policy
from offbench.runs import RunStore
from offbench.suite import Suite

ID = "tests/Flag-v0"


class Flag(gym.Env[np.ndarray, np.int64]):
    """Images [5, 5, 2] uint8 with a bright cell in channel 0 or 1; to name the channel pays 1; ten steps."""

    observation_space = gym.spaces.Box(0, 255, (5, 5, 2), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.image(), {}

    def image(self) -> np.ndarray:
        self.channel = int(self.np_random.integers(2))
        image = np.zeros((5, 5, 2), np.uint8)
        image[self.np_random.integers(5), self.np_random.integers(5), self.channel] = 255
        return image

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward, self.steps = float(action == self.channel), self.steps + 1
        return self.image(), reward, self.steps == 10, False, {}


def test_a_convolutional_policy_is_evaluated_and_exported(tmp_path: Path) -> None:
    if ID not in gym.registry:
        gym.register(ID, entry_point=f"{__name__}:Flag")
    data = logged(ID, rows=600)
    suite = Suite(
        name="images",
        datasets=[{"id": str(write_minari(data, tmp_path / "data", "flag-v0")), "label": "flag"}],
        algorithms=[{"name": "dqn", "config": {"encoder": "cnn", "hidden": [16], "learning_rate": 3e-3}}],
        seeds=2,
        preprocessing={"observations": "max_abs"},
        protocol={**PROTOCOL, "updates": 300, "batch_size": 32, "evaluate_every": 300, "checkpoint_every": 300},
    )
    summary = run_suite(suite, tmp_path / "runs", workers=0, device="cpu")
    assert not summary.failed
    store = RunStore(tmp_path / "runs")
    for run in suite.expand():
        policy = Policy.load(store.folder(run).path)
        env = gym.make(ID)
        image, _ = env.reset(seed=0)
        assert image.shape == (5, 5, 2)
        total = 0.0
        for _ in range(10):
            image, reward, _, _, _ = env.step(policy.act(image))
            total += float(reward)
        assert total >= 9
        assert policy.act(np.stack([image, image])).shape == (2,)
