"""Playing behaviour policies in Gymnasium environments: an endless stream of finished episodes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from offbench.datasets.behaviour import Policy
from offbench.datasets.environments import make_environment


@dataclass(frozen=True)
class Episode:
    """One finished episode of T steps; observations [T+1, ...] include the one after the last step."""

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rewards)


def roll_out(environment: str, policy: Policy, seed: list[int], lanes: int = 8) -> Generator[Episode, None, None]:
    """Endless stream of episodes, in the order in which they were started, each played to its end.

    `lanes` environments are stepped side by side so that the policy acts on a batch. The stream is a
    function of (environment, policy, seed, lanes) alone, up to the versions of the simulator and of NumPy.

    Args:
        seed: entropy of `numpy.random.SeedSequence`; reset seeds and action noise come from it.
    """
    action_seed, reset_seed = np.random.SeedSequence(seed).spawn(2)
    rng, resets = np.random.default_rng(action_seed), np.random.default_rng(reset_seed)
    environments = [make_environment(environment) for _ in range(lanes)]
    try:
        while True:
            yield from _play_round(environments, policy, rng, resets)
    finally:
        for env in environments:
            env.close()


def _play_round(
    environments: list[gymnasium.Env[Any, Any]],
    policy: Policy,
    rng: np.random.Generator,
    resets: np.random.Generator,
) -> list[Episode]:
    """One episode in each environment, side by side; those that end early wait for the others."""
    frames = [[env.reset(seed=int(resets.integers(2**31)))[0]] for env in environments]
    steps: list[list[tuple[Any, ...]]] = [[] for _ in environments]
    active = list(range(len(environments)))
    while active:
        actions = policy.act(np.stack([frames[lane][-1] for lane in active]), rng)
        running = []
        for lane, action in zip(active, actions, strict=True):
            frame, reward, terminated, truncated, _ = environments[lane].step(action)
            frames[lane].append(frame)
            steps[lane].append((action, reward, terminated, truncated))
            if not (terminated or truncated):
                running.append(lane)
        active = running
    return [collect(frames[lane], steps[lane]) for lane in range(len(environments))]


def collect(frames: list[Any], steps: list[tuple[Any, ...]]) -> Episode:
    """The episode of T + 1 frames and T steps (action, reward, terminated, truncated)."""
    actions, rewards, terminated, truncated = zip(*steps, strict=True)
    return Episode(
        np.stack(frames),
        np.stack(actions),
        np.asarray(rewards, np.float64),
        np.asarray(terminated, bool),
        np.asarray(truncated, bool),
    )
