"""Exported policies: a folder with the weights, the normalizer, the spaces and the configuration; acts alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from offbench import __version__
from offbench.algorithms import get_algorithm
from offbench.algorithms.base import Algorithm, ProblemSpec, make_config
from offbench.algorithms.batches import Normalizer
from offbench.algorithms.windows import EpisodeContext
from offbench.checkpoint import read_tensors, write_tensors
from offbench.datasets import Dataset, space_from_json, space_to_json
from offbench.errors import SpecError, StorageError
from offbench.evaluation import Act, ActWithMemory, EnvironmentPool, Episode, episode_seed, evaluate
from offbench.runs import RunSpec
from offbench.storage import read_json, write_json

FORMAT = 1


def save_policy(
    folder: Path,
    algorithm: Algorithm,
    *,
    lane: int,
    run: RunSpec,
    dataset: Dataset,
    normalizer: Normalizer,
) -> None:
    """Write one lane's policy: `policy.safetensors` and, last, `policy.json`."""
    tensors = {f"policy.{name}": value for name, value in algorithm.policy_tensors(lane).items()}
    tensors |= normalizer.tensors()
    digest = write_tensors(folder / "policy.safetensors", tensors)
    write_json(
        folder / "policy.json",
        {
            "format": FORMAT,
            "offbench": __version__,
            "algorithm": run.algorithm,
            "config": dict(run.config),
            "problem": dataclasses.asdict(algorithm.space),
            "observation_space": space_to_json(dataset.observation_space),
            "action_space": space_to_json(dataset.action_space),
            "environment": run.dataset.environment,
            "dataset": {"name": run.dataset.name, "fingerprint": run.dataset.fingerprint},
            "seed": run.seed,
            "run": run.hash,
            "sha256": digest,
        },
    )


class Policy:
    """A trained policy: observations in the environment's units in, actions in the environment's units out.

    Attributes:
        observation_space, action_space: Gymnasium spaces of the dataset that it learned from.
        environment: Gymnasium id that the dataset names, or None.
        info: the content of policy.json.
    """

    def __init__(self, algorithm: Algorithm, normalizer: Normalizer, info: Mapping[str, Any]) -> None:
        # Unclipped actions [1, B, A] or indices [1, B] for observations [1, B, *obs_shape].
        self.act_lanes = lane_policy(algorithm, normalizer)
        self._running: int | None = None  # how many episodes run side by side; None before the first step
        self.info = dict(info)
        self.observation_space = space_from_json(info["observation_space"])
        self.action_space = space_from_json(info["action_space"])
        self.environment: str | None = info["environment"]

    @classmethod
    def load(cls, folder: str | Path) -> Policy:
        """Read a policy folder (`<run>/policy`), or the run folder that has it.

        Raises:
            StorageError: missing or damaged files, or a newer format.
        """
        folder = Path(folder)
        if not (folder / "policy.json").exists() and (folder / "policy" / "policy.json").exists():
            folder = folder / "policy"
        info = read_json(folder / "policy.json")
        if info.get("format") != FORMAT:
            raise StorageError(
                f"{folder} has policy format {info.get('format')!r}", f"this version reads format {FORMAT}"
            )
        tensors = read_tensors(folder / "policy.safetensors", info["sha256"], "policy")
        weights = {name[7:]: value for name, value in tensors.items() if name.startswith("policy.")}
        algorithm_class = get_algorithm(info["algorithm"])
        config = make_config(algorithm_class.config_class, info["config"])
        problem: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in info["problem"].items()}
        algorithm = algorithm_class([config], ProblemSpec(**problem), seeds=[0], device="cpu", total_updates=1)
        algorithm.load_policy_tensors(weights)
        return cls(algorithm, Normalizer.from_tensors(tensors), info)

    @property
    def has_memory(self) -> bool:
        """Whether `act` depends on what happened before in the episode, and so must be told rewards."""
        return isinstance(self.act_lanes, ActWithMemory)

    def reset(self) -> None:
        """Forget what happened: the next observations are the first ones of episodes."""
        self._running = None

    def act(
        self,
        observations: np.ndarray,
        rewards: float | np.ndarray | None = None,
        first: bool | np.ndarray | None = None,
    ) -> np.ndarray:
        """Actions for one observation [*obs_shape] or a batch [B, *obs_shape].

        Args:
            rewards: for policies with a memory, what the last actions earned, one number or [B]; not needed for the
                first observations after loading or `reset`. Other policies do not read it.
            first: for policies with a memory, which of B episodes that run side by side start anew, one value or [B].

        Returns:
            Actions of the action space's shape and type, [B, ...] for a batch; Box actions are within the bounds.

        Raises:
            SpecError: wrong shapes, or a policy with a memory is not told the rewards.
        """
        space = self.action_space
        shape = self.observation_space.shape or ()
        observations = np.asarray(observations)
        single = observations.shape == shape
        if not single and observations.shape[1:] != shape:
            raise SpecError(
                f"observations have shape {observations.shape}", f"the policy acts on {shape} or (B, *{shape})"
            )
        count = 1 if single else len(observations)
        if isinstance(self.act_lanes, ActWithMemory):
            self.act_lanes.observe(*self._happened(count, rewards, first))
        batch = torch.as_tensor(observations.reshape(1, count, *shape))
        actions = self.act_lanes(batch)[0].numpy()
        if isinstance(space, gym.spaces.Box):
            actions = np.clip(actions.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)
        return actions[0] if single else actions

    def _happened(
        self, count: int, rewards: float | np.ndarray | None, first: bool | np.ndarray | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards and starts of episodes, both [1, count]."""
        if self._running is None:
            self._running, rewards, first = count, 0.0, True
        first = np.broadcast_to(np.asarray(False if first is None else first, np.bool_), (1, count))
        if self._running != count:
            raise SpecError(
                f"{count} observations after {self._running}: this policy remembers each of its episodes",
                "",
                "give as many observations as before, or call reset() to start new episodes",
            )
        if rewards is None and not first.all():
            raise SpecError(
                "this policy acts on what its actions earned so far, and no rewards were given",
                "",
                "call act(observations, rewards), or reset() where episodes start",
            )
        earned = np.broadcast_to(np.asarray(0.0 if rewards is None else rewards, np.float32), (1, count))
        return torch.tensor(earned), torch.tensor(first)


class _ContextAct(ActWithMemory):
    """A policy on windows, with the context of the episodes that it acts in."""

    def __init__(self, algorithm: Algorithm, context: EpisodeContext, normalizer: Normalizer) -> None:
        self._algorithm, self._context, self._normalizer = algorithm, context, normalizer

    def observe(self, rewards: torch.Tensor, first: torch.Tensor) -> None:
        self._context.observe(rewards, first)

    @torch.no_grad()
    def __call__(self, observations: torch.Tensor) -> torch.Tensor:
        normalized = self._normalizer(observations.flatten(2).to(torch.float32))
        return self._algorithm.in_units(self._context.act(normalized))


def lane_policy(algorithm: Algorithm, normalizer: Normalizer) -> Act:
    """The function that `evaluate` calls: observations [L, B, *obs_shape] in the environment's units."""
    context = algorithm.context()
    if context is not None:
        return _ContextAct(algorithm, context, normalizer)

    def act(observations: torch.Tensor) -> torch.Tensor:
        return algorithm.act(normalizer(observations.flatten(2).to(torch.float32)))

    return act


def evaluate_policy(
    folder: str | Path, episodes: int = 10, seed: int = 0, environment: str | None = None
) -> list[Episode]:
    """Run a saved policy in its environment (or another one of the same spaces).

    Args:
        folder: a policy folder or the run folder that has it.
        seed: episodes with equal seeds start alike.

    Raises:
        SpecError: the policy names no environment and none is given.
        MissingExtraError: the simulator is not installed.
    """
    policy = Policy.load(folder)
    environment = environment or policy.environment
    if environment is None:
        raise SpecError("the policy's dataset names no environment", fix="pass environment=, e.g. 'Hopper-v5'")
    pool = EnvironmentPool(environment)
    try:
        seeds = [episode_seed(seed, 0, episode) for episode in range(episodes)]
        results = evaluate(policy.act_lanes, pool, [seeds])
    finally:
        pool.close()
    return results[0] if results else []
