"""Adversaries: critics trained on clean data, and the observations, actions or next observations that they rate worst.

Adversarial corruption (Yang et al., Towards Robust Offline Reinforcement Learning under Diverse Data Corruption, ICLR
2024, arXiv 2310.12955, section 3 and appendix) searches a box around the true values for those of the lowest value Q.
Any algorithm of the registry that has a critic can be the adversary. Trained critics and finished attacks are kept in
the cache folder under a name that hashes everything that they depend on.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offbench.algorithms.attacks import SCHEMA, Array, AttackRule, Target, content_key, keep, riql_parts, warn_unusable
from offbench.algorithms.base import Algorithm, ProblemSpec, check_compatible, make_config
from offbench.algorithms.batches import LaneSampler, Normalizer, Preprocessing, TransitionBuffer
from offbench.algorithms.networks import StackedMLP
from offbench.algorithms.presets import resolve_config
from offbench.algorithms.registry import get_algorithm
from offbench.datasets.download import cache_dir
from offbench.errors import IncompatibleError, RunError

if TYPE_CHECKING:
    from offbench.datasets import Dataset

# What "auto" trains: small enough for minutes on one CPU core; the authors' training takes days there.
DEFAULT_UPDATES = 10_000
DEFAULT_EDAC = {"critics": 10, "diversity": 1.0, "hidden": [128, 128]}
PAPER_EDAC = {"critics": 10, "diversity": 1.0, "hidden": [256, 256, 256]}
PAPER_UPDATES = 3_000_000
# Activations of one pass through the critics, in float32 values; larger blocks of rows are no faster on a CPU.
BLOCK_VALUES = {"cpu": 1 << 23, "cuda": 1 << 28}


@dataclass(frozen=True)
class AdversarySettings:
    """How an adversary's critic is trained.

    Attributes:
        algorithm: a registered algorithm with a critic; "auto" takes EDAC with ten critics of two hidden layers of 128
            for continuous actions and DQN for discrete ones; "paper" is what Yang et al. did: EDAC with ten critics of
            three hidden layers of 256, 3,000,000 updates (hours on a GPU).
        updates: length of the training; None: 10,000, or the paper's.
        batch_size: rows per update.
        seed: of the initial weights and the batches; the paper's adversary has seed 0 whatever the run's seed is.
        config: settings of the algorithm that replace its defaults, e.g. {"hidden": [64, 64]}.
    """

    algorithm: str = "auto"
    updates: int | None = None
    batch_size: int = 256
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)

    def resolved(self, dataset: Dataset) -> dict[str, Any]:
        """Every choice that decides the adversary on a dataset, JSON-able.

        Raises:
            UnknownNameError, SpecError: no such algorithm or setting.
        """
        name, config, updates = self.algorithm, dict(self.config), self.updates
        if name == "paper":
            name, updates, config = "edac", updates or PAPER_UPDATES, PAPER_EDAC | config
        elif name == "auto" and dataset.discrete:
            name = "dqn"
        elif name == "auto":
            name, config = "edac", DEFAULT_EDAC | config
        # No dataset of the presets is called so: the settings are those that hold for every dataset.
        settings, origin = resolve_config(name, "adversary", overrides=config)
        return {
            "schema": SCHEMA,
            "dataset": dataset.fingerprint,
            "algorithm": name,
            "config": settings.to_dict(),
            "preprocessing": Preprocessing(**origin["preprocessing"]).to_dict(),
            "updates": updates or DEFAULT_UPDATES,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }


# --- The critic ---


class Adversary:
    """A trained critic and its policy, in the dataset's units.

    Q is the mean over the critic's ensemble, as in the paper; for discrete actions the policy is the greedy one where
    the algorithm has no other.

    Args:
        algorithm: one lane.
        normalizer: of the observations that it was trained on.
        key: what it was made of, for the cache.

    Raises:
        IncompatibleError: the algorithm has no critic Q(s, a) that can be asked.
    """

    def __init__(self, algorithm: Algorithm, normalizer: Normalizer, key: str = "") -> None:
        require_critic(algorithm)
        self.algorithm, self.normalizer, self.key = algorithm, normalizer, key
        self.space, self.device = algorithm.space, algorithm.device
        self._critic: StackedMLP = algorithm.critic  # type: ignore[attr-defined]
        self._differentiable = copy.copy(algorithm)
        for name in type(algorithm).policy_networks:
            if isinstance(getattr(algorithm, name, None), StackedMLP):
                setattr(self._differentiable, name, _WithInputGradient(getattr(algorithm, name)))
        if not self.space.discrete:
            self._low = torch.tensor(self.space.action_low, dtype=torch.float32, device=self.device)
            self._high = torch.tensor(self.space.action_high, dtype=torch.float32, device=self.device)

    # Tensors inside have no lane axis: observations [B, S] in raw units, actions [B, A] in raw units or indices [B].

    def _unit(self, actions: Tensor) -> Tensor:
        """Continuous actions in [-1, 1], as the networks see them."""
        return (actions - (self._high + self._low) / 2) / ((self._high - self._low) / 2)

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a) [B], the mean over the ensemble; gradients flow to both."""
        normalized = self.normalizer(observations)
        if self.space.discrete:
            return self.action_values(normalized).gather(1, actions.unsqueeze(1)).squeeze(1)
        return self._pair(normalized, self._unit(actions))

    def q_of_policy(self, observations: Tensor) -> Tensor:
        """Q(s, pi(s)) [B], pi without exploration; gradients flow to s through both."""
        normalized = self.normalizer(observations)
        if not self.space.discrete:
            return self._pair(normalized, self._differentiable.policy(normalized.unsqueeze(0)).squeeze(0))
        with torch.no_grad():
            chosen = self.algorithm.policy(normalized.unsqueeze(0)).squeeze(0)
        return self.action_values(normalized).gather(1, chosen.unsqueeze(1)).squeeze(1)

    def action_values(self, normalized: Tensor) -> Tensor:
        """Q(s, .) [B, actions] for normalized observations, discrete actions only."""
        output = self._critic.frozen(normalized.unsqueeze(0))
        if self._critic.members is not None:
            output = output.mean(1)
        values = getattr(self.algorithm, "values", None)
        return (output if values is None else values(output)).squeeze(0)

    def _pair(self, normalized: Tensor, unit_actions: Tensor) -> Tensor:
        output = self._critic.frozen(torch.cat([normalized, unit_actions], 1).unsqueeze(0)).squeeze(0).squeeze(-1)
        return output if self._critic.members is None else output.mean(0)

    def block_rows(self) -> int:
        """How many rows one pass takes."""
        width = sum(self._critic.sizes) * (self._critic.members or 1)
        return max(256, BLOCK_VALUES.get(self.device.type, BLOCK_VALUES["cpu"]) // width)

    @torch.no_grad()
    def worst_actions(self, observations: Array) -> Array:
        """The discrete actions of the lowest Q, [N] in the dataset's numbering, for observations [N, ...]."""
        found = []
        for block in self._blocks(len(observations)):
            s = self.normalizer(self._tensor(observations[block].reshape(block.stop - block.start, -1)))
            found.append(self.action_values(s).argmin(1).cpu().numpy() + self.space.action_start)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    @torch.no_grad()
    def values(self, target: Target, observations: Array, actions: Array | None = None) -> Array:
        """Q(s, a) [N], or Q(s', pi(s')) for target "next_observations", float32.

        Args:
            observations: [N, ...]; s' for target "next_observations".
            actions: [N, ...] in the dataset's units; not read for "next_observations".
        """
        result = np.empty(len(observations), np.float32)
        for block in self._blocks(len(observations)):
            s = self._tensor(observations[block].reshape(block.stop - block.start, -1))
            if target == "next_observations" or actions is None:
                q = self.q_of_policy(s)
            else:
                q = self.q(s, self._actions(actions[block]))
            result[block] = q.cpu().numpy()
        return result

    def _actions(self, actions: Array) -> Tensor:
        if self.space.discrete:
            return torch.from_numpy(actions.astype(np.int64) - self.space.action_start).to(self.device)
        return self._tensor(actions.reshape(len(actions), -1))

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(np.array(values, np.float32, order="C")).to(
            self.device
        )  # a copy: columns are read-only

    def _blocks(self, rows: int) -> list[slice]:
        step = self.block_rows()
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    # --- the attack ---

    def attack(
        self,
        target: Target,
        observations: Array,
        actions: Array | None,
        std: Array,
        start: Array,
        rule: AttackRule,
        *,
        bounds: tuple[Array, Array] | None = None,
        parts: Array | None = None,
    ) -> Array:
        """The noise z within the box that minimizes Q, found by signed gradient steps, all rows at once.

        Target "observations" minimizes Q(s + z std, a), "actions" Q(s, a + z std), "next_observations"
        Q(s' + z std, pi(s' + z std)).

        Args:
            observations: [N, S] float32; s' for target "next_observations".
            actions: [N, A] in the environment's units or indices [N]; None for "next_observations".
            std: [S] or [A], what a unit of z is in each dimension.
            start: [N, S] or [N, A], the first z.
            rule: steps, step size and kind.
            bounds: lowest and highest z [N, ...] where the box is narrower than [-scale, scale].
            parts: [N], over how many rows the authors' loss is averaged (`riql_parts`); only for rule "riql".

        Returns:
            z, float32, shaped like `start`.

        Raises:
            IncompatibleError: the policy passes no gradient to its observation.
        """
        result = np.empty(start.shape, np.float32)
        parts = riql_parts(len(start)) if parts is None else parts
        deviation = self._tensor(std)
        for block in self._blocks(len(start)):
            count = block.stop - block.start
            s = self._tensor(observations[block].reshape(count, -1))
            a = None if actions is None else self._actions(actions[block])

            def value(z: Tensor, s: Tensor = s, a: Tensor | None = a) -> Tensor:
                if a is None:
                    return self.q_of_policy(s + z * deviation)
                if target == "actions":
                    return self.q(s, a + z * deviation)
                return self.q(s + z * deviation, a)

            low = high = None
            if bounds is not None:
                low, high = self._tensor(bounds[0][block]), self._tensor(bounds[1][block])
            z = rule.descend(value, self._tensor(start[block]), self._tensor(parts[block]).unsqueeze(1), low, high)
            result[block] = z.cpu().numpy()
        return result


class _WithInputGradient:
    """A network whose calls without gradient pass one to their input, so that a policy can be differentiated."""

    def __init__(self, network: StackedMLP) -> None:
        self._network = network

    def detached(self, x: Tensor, **options: Any) -> Tensor:
        return self._network.frozen(x, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def require_critic(algorithm: Algorithm) -> None:
    """Raise IncompatibleError unless the algorithm's critic is a Q function that can be attacked."""
    space = algorithm.space
    critic = getattr(algorithm, "critic", None)
    inputs = space.observation_size + (0 if space.discrete else space.action_size)
    why = ""
    if not isinstance(critic, StackedMLP):
        why = "it has no critic"
    elif critic.sizes[0] != inputs or (not space.discrete and critic.sizes[-1] != 1):
        why = f"its critic maps {critic.sizes[0]} numbers to {critic.sizes[-1]}, and Q(s, a) cannot be read off that"
    if why:
        kind = "dqn or iql" if space.discrete else "edac, sac_n, iql, cql, td3_bc, rebrac or awac"
        raise IncompatibleError(f"{algorithm.title} cannot be the adversary", why, f"use {kind}")


# --- Training ---


def train_adversary(
    dataset: Dataset,
    settings: AdversarySettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    device: str = "cpu",
    cached: bool = True,
) -> Adversary:
    """The adversary of a dataset: from the cache, or trained on the data as they stand and kept there.

    Args:
        dataset: the clean data.
        settings: what is trained; EDAC or DQN for 10,000 updates if not given.
        progress: called with (updates done, updates in all) about once a second; without it, one line on standard
            error announces a training.
        device: where the critic is trained and asked; numbers differ in the last digits between devices.
        cached: read and write the cache.

    Raises:
        IncompatibleError: the algorithm and the dataset do not fit, or it has no critic.
        DatasetError: the dataset has no usable transition.
        RunError: the training diverged.
    """
    resolved = (settings or AdversarySettings()).resolved(dataset)
    key = content_key(resolved)
    algorithm_class = get_algorithm(resolved["algorithm"])
    check_compatible(algorithm_class, dataset)
    config = make_config(algorithm_class.config_class, resolved["config"])
    algorithm = algorithm_class([config], ProblemSpec.of(dataset), [resolved["seed"]], device, resolved["updates"])
    require_critic(algorithm)
    if not cached:
        return Adversary(algorithm, _train(algorithm, dataset, resolved, progress), key)
    file = cache_dir() / "adversaries" / f"{key}.safetensors"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(file.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        warn_unusable(error)
        return Adversary(algorithm, _train(algorithm, dataset, resolved, progress), key)
    try:
        normalizer = _load(algorithm, file)
        if normalizer is None:
            normalizer = _train(algorithm, dataset, resolved, progress)
            tensors = {f"network.{name}": net.flat.detach().cpu() for name, net in algorithm._networks.items()}
            tensors |= {f"tensor.{name}": value.detach().cpu() for name, value in algorithm._tensors.items()}
            tensors |= {name: value.cpu() for name, value in normalizer.tensors().items()}
            metadata = {"made_of": json.dumps(resolved)}
            keep(file, lambda aside: save_file({k: v.contiguous() for k, v in tensors.items()}, aside, metadata))
        return Adversary(algorithm, normalizer, key)
    finally:
        lock.release()


def _train(
    algorithm: Algorithm,
    dataset: Dataset,
    resolved: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> Normalizer:
    updates, batch_size = resolved["updates"], resolved["batch_size"]
    preprocessing = Preprocessing(**resolved["preprocessing"])
    buffer = TransitionBuffer(dataset, algorithm.needs(algorithm.config), preprocessing, algorithm.device)
    algorithm.attach(buffer)
    sampler = LaneSampler(buffer, algorithm.seeds, batch_size, algorithm.noise_spec(batch_size))
    if progress is None:
        print(f"training an adversary on {dataset.name}: {algorithm.title}, {updates:,} updates", file=sys.stderr)
    told = time.monotonic()
    for step in range(1, updates + 1):
        algorithm.update(*sampler.draw(step), step)
        if progress is not None and (step == updates or time.monotonic() - told > 1.0):
            told = time.monotonic()
            progress(step, updates)
    if not bool(algorithm.finite().all()):
        raise RunError(
            f"the adversary's training on {dataset.name} diverged",
            f"{algorithm.title} has infinite weights after {updates:,} updates",
            "choose another adversary or fewer updates",
        )
    return buffer.normalizer


def _load(algorithm: Algorithm, file: Path) -> Normalizer | None:
    """Put stored weights into the networks; None if there are none that fit."""
    if not file.is_file():
        return None
    try:
        tensors = load_file(file, device=str(algorithm.device))
        with torch.no_grad():
            for name, network in algorithm._networks.items():
                network.flat.copy_(tensors[f"network.{name}"])
            for name, value in algorithm._tensors.items():
                value.copy_(tensors[f"tensor.{name}"])
        return Normalizer.from_tensors(tensors)
    except (SafetensorError, OSError, KeyError, RuntimeError):
        return None  # damaged: it is trained anew and replaced
