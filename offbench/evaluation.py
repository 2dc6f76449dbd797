"""Evaluation in Gymnasium environments, vectorized over lanes and episodes."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch

from offbench.datasets import environments
from offbench.errors import IncompatibleError, SpecError
from offbench.storage import finite_or_none

if TYPE_CHECKING:
    from offbench.datasets import Dataset

# Environments that step together. Enough to make the policy's share of the time small, few enough to start fast.
# The number of slots per lane decides the shape of the policy's batches, so it must not depend on the machine.
SLOTS = 64
# Environments without a time limit could run for ever.
LONGEST_EPISODE = 100_000

# Observations [L, W, *obs] -> actions [L, W, A] (flat) or indices [L, W]; both in the environment's units.
Act = Callable[[torch.Tensor], torch.Tensor]


class ActWithMemory(ABC):
    """An `Act` that knows what happened before in the episodes that it acts in."""

    @abstractmethod
    def observe(self, rewards: torch.Tensor, first: torch.Tensor) -> None:
        """Told before every call.

        Args:
            rewards: [L, W] float32, what the last actions earned; 0 where `first`.
            first: [L, W] bool, where an episode starts with the observation that comes.
        """

    @abstractmethod
    def __call__(self, observations: torch.Tensor) -> torch.Tensor:
        """As any `Act`."""


@dataclass(frozen=True)
class Episode:
    """One finished evaluation episode.

    Attributes:
        episode: number within its evaluation, from 0.
        seed: what the environment was reset with.
        total_reward: undiscounted sum of rewards (float64).
        length: steps.
        terminated: the environment ended it (False: the time limit did).
    """

    episode: int
    seed: int
    total_reward: float
    length: int
    terminated: bool

    def row(self, step: int) -> dict[str, Any]:
        """The line of evaluations.jsonl; `step` is the number of updates before the evaluation."""
        return {
            "step": step,
            "episode": self.episode,
            "seed": self.seed,
            "return": finite_or_none(self.total_reward),
            "length": self.length,
            "terminated": self.terminated,
        }


def episode_seed(run_seed: int, step: int, episode: int) -> int:
    """The environment seed of one evaluation episode, a 31-bit integer.

    Keyed by (run seed, "evaluation", step, episode) through NumPy's SeedSequence: disjoint from the keys that
    training draws from, and the same for every algorithm, so that algorithms meet the same initial states.
    """
    name = int.from_bytes(hashlib.sha256(b"offbench evaluation").digest()[:4], "big")
    sequence = np.random.SeedSequence(run_seed, spawn_key=(name, step, episode))
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Python warnings (environment deprecations and the like) inside the block only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_environment(environment: str) -> gym.Env[Any, Any]:
    """`gym.make` without the checker and without warnings; Dict and Tuple observations come flattened.

    Raises:
        MissingExtraError: the simulator is not installed.
        SpecError: Gymnasium does not know the id.
    """
    try:
        with quiet():
            return environments.make_environment(environment)
    except (gym.error.Error, ImportError) as error:
        raise SpecError(
            f"cannot make the environment {environment!r}",
            str(error),
            "give the dataset another `environment`, or `environment: none` to train without evaluation",
        ) from error


def check_environment(dataset: Dataset, environment: str) -> None:
    """Make the environment once and compare its spaces with the dataset's.

    Raises:
        IncompatibleError: shapes or kinds of the spaces differ.
        MissingExtraError, SpecError: see `make_environment`.
    """
    env = make_environment(environment)
    try:
        pairs = (
            ("observation", dataset.observation_space, env.observation_space),
            ("action", dataset.action_space, env.action_space),
        )
        for kind, ours, theirs in pairs:
            same_kind = isinstance(ours, gym.spaces.Discrete) == isinstance(theirs, gym.spaces.Discrete)
            same_count = getattr(ours, "n", None) == getattr(theirs, "n", None)
            if not same_kind or not same_count or ours.shape != theirs.shape:
                raise IncompatibleError(
                    f"dataset {dataset.name} and environment {environment} have different {kind} spaces",
                    f"dataset: {ours}; environment: {theirs}",
                    "name the environment that the data come from with `environment:`",
                )
    finally:
        env.close()


class EnvironmentPool:
    """Environments that are kept between evaluations; `close` ends them."""

    def __init__(self, environment: str) -> None:
        self.environment = environment
        self._envs: list[gym.Env[Any, Any]] = []

    def take(self, count: int) -> list[gym.Env[Any, Any]]:
        """The first `count` environments, made on first use."""
        while len(self._envs) < count:
            self._envs.append(make_environment(self.environment))
        return self._envs[:count]

    def close(self) -> None:
        """Close all environments."""
        for env in self._envs:
            env.close()
        self._envs.clear()


@dataclass
class _Slot:
    """One environment and the episode that runs in it."""

    env: gym.Env[Any, Any]
    episode: int = -1
    seed: int = 0
    total_reward: float = 0.0
    length: int = 0


def evaluate(
    act: Act,
    pool: EnvironmentPool,
    seeds: Sequence[Sequence[int] | None],
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
) -> list[list[Episode]] | None:
    """Run every lane's episodes; one call of the policy per tick for all of them.

    Each lane has its own slots, which take that lane's next episode when one ends; `act` always gets the same
    shape. So neither the lengths of other lanes' episodes nor absent lanes change a lane's result.

    Args:
        act: policy; receives float32 [L, W, *obs] on `device`. One with a memory is told rewards and new episodes.
        seeds: per lane the seeds of its episodes, or None for a lane that is not evaluated.
        should_stop: asked once per tick; when true the evaluation is given up.

    Returns:
        Per lane its episodes in order (empty for absent lanes), or None when stopped.
    """
    lanes = len(seeds)
    most = max((len(lane) for lane in seeds if lane is not None), default=0)
    results: list[list[Episode]] = [[] for _ in seeds]
    if most == 0:
        return results
    width = max(1, min(most, SLOTS // lanes))
    present = [lane for lane in range(lanes) if seeds[lane] is not None]
    envs = iter(pool.take(len(present) * width))
    slots = {(lane, column): _Slot(next(envs)) for lane in present for column in range(width)}
    space = next(iter(slots.values())).env.observation_space
    observations = np.zeros((lanes, width, *(space.shape or ())), dtype=np.float32)
    rewards, first = np.zeros((lanes, width), np.float32), np.zeros((lanes, width), np.bool_)
    waiting = {lane: iter(enumerate(seeds[lane] or ())) for lane in present}

    def start(position: tuple[int, int]) -> bool:
        slot = slots[position]
        upcoming = next(waiting[position[0]], None)
        if upcoming is None:
            observations[position] = 0.0
            return False
        slot.episode, slot.seed = upcoming
        slot.total_reward, slot.length = 0.0, 0
        observations[position] = slot.env.reset(seed=slot.seed)[0]
        rewards[position], first[position] = 0.0, True
        return True

    with quiet(), torch.no_grad():
        running = [position for position in slots if start(position)]
        convert = _action_converter(next(iter(slots.values())).env.action_space)
        while running:
            if should_stop():
                return None
            # Copies: the arrays are written below while a policy may still hold its input.
            if isinstance(act, ActWithMemory):
                act.observe(torch.tensor(rewards, device=device), torch.tensor(first, device=device))
                first[:] = False
            actions = convert(act(torch.tensor(observations, device=device)).cpu().numpy())
            still = []
            for position in running:
                slot = slots[position]
                observation, reward, terminated, truncated, _ = slot.env.step(actions[position])
                slot.total_reward += float(reward)
                slot.length += 1
                rewards[position] = reward
                if terminated or truncated or slot.length >= LONGEST_EPISODE:
                    results[position[0]].append(
                        Episode(slot.episode, slot.seed, slot.total_reward, slot.length, bool(terminated))
                    )
                    if start(position):
                        still.append(position)
                else:
                    observations[position] = observation
                    still.append(position)
            running = still
    for episodes in results:
        episodes.sort(key=lambda episode: episode.episode)
    return results


def _action_converter(space: gym.Space[Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Bring a policy's actions into the space: clip and cast, or integers for Discrete."""
    if isinstance(space, gym.spaces.Discrete):
        return lambda actions: actions.astype(np.int64)
    if not isinstance(space, gym.spaces.Box):
        raise IncompatibleError("evaluation supports Box and Discrete action spaces", f"this environment has {space}")
    low, high, dtype = space.low, space.high, space.dtype
    return lambda actions: np.clip(actions.reshape(*actions.shape[:2], *space.shape), low, high).astype(dtype)
