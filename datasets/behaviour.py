"""Behaviour policies of the built-in datasets, in NumPy.

The trained policies are small networks that `train_behaviours.py` exported to `behaviours/<env>.safetensors`;
`behaviours/behaviours.json` says how each was trained and what it reaches. Playing them needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors.numpy import load_file

from offbench.datasets.download import cache_dir
from offbench.datasets.waypoints import WaypointController
from offbench.errors import DatasetError, UnknownNameError

BEHAVIOURS = Path(__file__).parent / "behaviours"
LOG_STD_RANGE = (-20.0, 2.0)  # of the actor's log standard deviation, as in Stable-Baselines3

Activation = Literal["relu", "selu", "tanh"]
SELU_SCALE, SELU_ALPHA = np.float32(1.0507009873554805), np.float32(1.6732632423543772)  # Klambauer et al. 2017
Float = NDArray[np.float32]


class Policy(Protocol):
    """Chooses actions for E environments at once."""

    def act(self, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Actions [E, *shape] in environment units (float32), or [E] int64, for observations [E, D]."""
        ...


@dataclass(frozen=True)
class UniformRandom:
    """Uniform over a bounded Box or a Discrete action space."""

    space: spaces.Box | spaces.Discrete

    def act(self, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Independent uniform actions, one for each row of `observations`."""
        count = len(observations)
        if isinstance(self.space, spaces.Discrete):
            return self.space.start + rng.integers(self.space.n, size=count)
        return rng.uniform(self.space.low, self.space.high, (count, *self.space.shape)).astype(np.float32)


@dataclass(frozen=True)
class Network:
    """Multilayer perceptron; `layers` holds (weight [out, in], bias [out]) of the hidden layers."""

    layers: tuple[tuple[Float, Float], ...]
    activation: Activation

    def __call__(self, observations: NDArray[Any]) -> Float:
        """Features [E, H] of the last hidden layer, for observations [E, D]."""
        hidden = observations.astype(np.float32)
        for weight, bias in self.layers:
            hidden = _activate(hidden @ weight.T + bias, self.activation)
        return hidden


def _activate(values: Float, activation: Activation) -> Float:
    if activation == "relu":
        return np.maximum(values, 0)
    if activation == "tanh":
        return np.tanh(values)
    return SELU_SCALE * np.where(values > 0, values, SELU_ALPHA * np.expm1(np.minimum(values, 0)))


@dataclass(frozen=True)
class TanhGaussian:
    """Actor of SAC (Haarnoja et al. 2018): tanh of a Gaussian, scaled from [-1, 1] to the action bounds.

    `mean` and `log_std` are the (weight, bias) of the two output layers. A policy that is not `stochastic`
    plays tanh of the Gaussian's mean.
    """

    space: spaces.Box
    network: Network
    mean: tuple[Float, Float]
    log_std: tuple[Float, Float]
    stochastic: bool

    def distribution(self, observations: NDArray[Any]) -> tuple[Float, Float]:
        """Mean and log standard deviation [E, A] before the tanh."""
        features = self.network(observations)
        mean = features @ self.mean[0].T + self.mean[1]
        log_std = features @ self.log_std[0].T + self.log_std[1]
        return mean, np.clip(log_std, *LOG_STD_RANGE)

    def act(self, observations: NDArray[Any], rng: np.random.Generator) -> Float:
        """Actions [E, A] in environment units."""
        mean, log_std = self.distribution(observations)
        noise = rng.standard_normal(mean.shape, dtype=np.float32) if self.stochastic else np.float32(0)
        low, high = self.space.low, self.space.high
        action = low + np.float32(0.5) * (np.tanh(mean + np.exp(log_std) * noise) + 1) * (high - low)
        return np.clip(action, low, high).astype(np.float32)


@dataclass(frozen=True)
class Categorical:
    """Discrete head: `stochastic` samples from softmax(outputs), otherwise the largest output is played."""

    space: spaces.Discrete
    network: Network
    head: tuple[Float, Float]
    stochastic: bool

    def outputs(self, observations: NDArray[Any]) -> Float:
        """Logits, or action values, [E, n]."""
        return self.network(observations) @ self.head[0].T + self.head[1]

    def act(self, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
        """Actions [E] int64."""
        scores: NDArray[Any] = self.outputs(observations)
        if self.stochastic:  # the Gumbel-max trick: argmax(logits + Gumbel noise) follows softmax(logits)
            scores = scores + rng.gumbel(size=scores.shape)
        return self.space.start + np.argmax(scores, axis=-1)


@dataclass(frozen=True)
class EpsilonMixture:
    """At every step plays `explore` with probability `epsilon`, else `policy`."""

    policy: Policy
    explore: Policy
    epsilon: float

    def act(self, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Actions as the two policies give them, mixed by row."""
        actions = self.policy.act(observations, rng)
        chosen = rng.random(len(observations)) < self.epsilon
        actions[chosen] = self.explore.act(observations, rng)[chosen]
        return actions


def trained_here() -> Path:
    """Folder of behaviours that were trained on this machine, beside the shipped ones."""
    return cache_dir() / "behaviours"


@cache
def behaviour_records() -> Mapping[str, Any]:
    """Environment id -> training provenance, snapshots, roles and measured returns; "folder" has the files.

    The shipped `behaviours.json`, and that of `trained_here()` for environments for which nothing is shipped.
    """
    records: dict[str, Any] = {}
    for folder in (trained_here(), BEHAVIOURS):
        listing = folder / "behaviours.json"
        if listing.exists():
            try:
                entries = json.loads(listing.read_text(encoding="utf-8"))
            except ValueError as error:
                warnings.warn(f"{listing} is damaged and was ignored: {error}", stacklevel=2)
                continue
            records |= {environment: {**entry, "folder": folder} for environment, entry in entries.items()}
    return records


def behaviour_record(environment: str) -> Mapping[str, Any]:
    """The entry of one environment in `behaviours.json`. Raises UnknownNameError when nothing was trained."""
    records = behaviour_records()
    if environment not in records:
        raise UnknownNameError("environment with behaviour policies", environment, records)
    return records[environment]


def snapshot_of(environment: str, role: str) -> str:
    """Name of the snapshot, e.g. "step-3000", that plays `role`: "expert", "medium", "replay-0", ..."""
    roles = behaviour_record(environment)["roles"]
    if role not in roles:
        raise UnknownNameError(f"behaviour for {environment}", role, ["random", *roles])
    return roles[role]


def behaviour_digest(environment: str, role: str) -> str:
    """SHA-256 hex of what defines a behaviour: the weights of its snapshot ("random" and controllers have none).

    The role "training" is the log of the training run.
    """
    digest = hashlib.sha256(environment.encode())
    if role == "training":
        digest.update(log_path(environment).read_bytes())
    elif role != "random" and behaviour_record(environment)["file"] is not None:
        for name, array in sorted(_snapshot_tensors(environment, snapshot_of(environment, role)).items()):
            digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def make_policy(
    environment: str,
    role: str,
    action_space: spaces.Space[Any],
    *,
    stochastic: bool = True,
    epsilon: float = 0.0,
) -> Policy:
    """The behaviour that plays `role` in `environment`.

    Args:
        environment: Gymnasium id with its version.
        role: "random", or a role of `behaviours.json`.
        action_space: of the environment; bounded Box or Discrete.
        stochastic: sample from the policy's distribution instead of its mode; no effect on "random".
        epsilon: share of steps with a uniformly random action instead.

    Raises:
        UnknownNameError: no such environment or role.
    """
    if not isinstance(action_space, spaces.Box | spaces.Discrete):
        raise DatasetError(f"behaviour policies have Box or Discrete actions, not {action_space}")
    random = UniformRandom(action_space)
    if role == "random":
        return random
    snapshot, network = snapshot_of(environment, role), behaviour_record(environment)["network"]
    policy: Policy
    if network["kind"] == "waypoints":
        policy = WaypointController.of(environment)
    else:
        tensors = _snapshot_tensors(environment, snapshot)
        policy = build_policy(tensors, network["activation"], action_space, stochastic)
    return EpsilonMixture(policy, random, epsilon) if epsilon > 0 else policy


def build_policy(
    tensors: Mapping[str, NDArray[Any]],
    activation: Activation,
    action_space: spaces.Box | spaces.Discrete,
    stochastic: bool,
) -> Policy:
    """A policy of exported tensors: hidden.<i>.{weight,bias}, and mean, log_std (Box) or head (Discrete)."""

    def layer(name: str) -> tuple[Float, Float]:
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    depth = sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors)
    network = Network(tuple(layer(f"hidden.{i}") for i in range(depth)), activation)
    if isinstance(action_space, spaces.Box):
        return TanhGaussian(action_space, network, layer("mean"), layer("log_std"), stochastic)
    return Categorical(action_space, network, layer("head"), stochastic)


def _snapshot_tensors(environment: str, snapshot: str) -> dict[str, NDArray[Any]]:
    """Tensors of one snapshot, by their names within it."""
    return {
        name.removeprefix(f"{snapshot}/"): array
        for name, array in load_tensors(environment).items()
        if name.startswith(f"{snapshot}/")
    }


@cache
def load_tensors(environment: str) -> dict[str, NDArray[Any]]:
    """All tensors shipped for `environment`: "<snapshot>/<tensor>" and "check/..." (see `torch_check`).

    Weights are stored in half precision and played in single.
    """
    record = behaviour_record(environment)
    tensors = load_file(record["folder"] / record["file"])
    return {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in tensors.items()}


def log_path(environment: str) -> Path:
    """The file with the log of the environment's training run. Raises DatasetError if there is none."""
    record = behaviour_record(environment)
    if record["log"] is None:
        raise DatasetError(f"there is no training run of {environment}")
    return record["folder"] / record["log"]["file"]
