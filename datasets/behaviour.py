"""Behaviour policies of the built-in datasets, in NumPy, and rolling them out in a Gymnasium environment.

The trained policies are small networks that `train_behaviours.py` exported to `behaviours/<env>.safetensors`;
`behaviours/behaviours.json` says how each was trained and what it reaches. Playing them needs neither torch
nor Stable-Baselines3.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors.numpy import load_file

from offbench.errors import DatasetError, MissingExtraError, UnknownNameError

BEHAVIOURS = Path(__file__).parent / "behaviours"
LOG_STD_RANGE = (-20.0, 2.0)  # Stable-Baselines3 clips the SAC actor's log standard deviation to this range

Activation = Literal["relu", "tanh"]
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
            hidden = hidden @ weight.T + bias
            hidden = np.maximum(hidden, 0) if self.activation == "relu" else np.tanh(hidden)
        return hidden


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


@cache
def behaviour_records() -> Mapping[str, Any]:
    """`behaviours.json`: environment id -> training provenance, snapshots, roles and measured returns."""
    return json.loads((BEHAVIOURS / "behaviours.json").read_text(encoding="utf-8"))


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
    """SHA-256 hex of what defines a behaviour: the weights of its snapshot ("random" has none)."""
    digest = hashlib.sha256(environment.encode())
    if role != "random":
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
    tensors = _snapshot_tensors(environment, snapshot_of(environment, role))
    activation = behaviour_record(environment)["network"]["activation"]
    policy = build_policy(tensors, activation, action_space, stochastic)
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
    """All tensors shipped for `environment`: "<snapshot>/<tensor>" and "check/..." (see `sb3_check`)."""
    return load_file(BEHAVIOURS / behaviour_record(environment)["file"])


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


def make_environment(environment: str) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make`, with an error that names the extra when the simulator is not installed."""
    try:
        return gymnasium.make(environment, disable_env_checker=True)
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise MissingExtraError(f"rolling out {environment}", "mujoco") from error


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
    return [_episode(frames[lane], steps[lane]) for lane in range(len(environments))]


def _episode(frames: list[Any], steps: list[tuple[Any, ...]]) -> Episode:
    actions, rewards, terminated, truncated = zip(*steps, strict=True)
    return Episode(
        np.stack(frames),
        np.stack(actions),
        np.asarray(rewards, np.float64),
        np.asarray(terminated, bool),
        np.asarray(truncated, bool),
    )
