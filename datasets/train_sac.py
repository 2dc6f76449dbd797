"""Soft actor-critic (Haarnoja et al. 2018), for the behaviours of the built-in datasets with continuous actions.

Twin critics with layer normalization, automatic temperature, the actor updated with every second critic update
(as in TD3): what a small policy needs to learn in minutes on one CPU core. Actions are played on a grid
(`training_log.grid_action`), so that a run's log can be stored exactly in one byte per number. The run is a function
of (settings, seed) and the versions of torch and of the simulator: nothing else draws from its generators, and it is
never evaluated while it runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from offbench.datasets.behaviour import LOG_STD_RANGE
from offbench.datasets.training_log import LoggedStep, grid_action, reset_seeds
from offbench.datasets.training_plans import SACSettings

Weights = list[tuple[Tensor, Tensor]]  # (weight [..., in, out], bias [..., 1, out]) of each layer


def _layers(sizes: list[int], generator: torch.Generator, copies: tuple[int, ...] = ()) -> Weights:
    """Layers with PyTorch's default bounds, 1 / sqrt(inputs)."""

    def uniform(*shape: int, bound: float) -> Tensor:
        return ((2 * torch.rand(*copies, *shape, generator=generator) - 1) * bound).requires_grad_()

    return [
        (uniform(inputs, outputs, bound=1 / math.sqrt(inputs)), uniform(1, outputs, bound=1 / math.sqrt(inputs)))
        for inputs, outputs in itertools.pairwise(sizes)
    ]


def _flat(weights: Weights) -> list[Tensor]:
    return [tensor for layer in weights for tensor in layer]


class SAC:
    """The networks and one update; `update` is given a batch and draws its noise from `generator`."""

    def __init__(self, inputs: int, outputs: int, settings: SACSettings, generator: torch.Generator) -> None:
        self.settings, self.generator = settings, generator
        self.actor = _layers([inputs, *settings.hidden, 2 * outputs], generator)
        self.critics = _layers([inputs + outputs, *settings.critic, 1], generator, copies=(2,))
        self.targets = [(weight.detach().clone(), bias.detach().clone()) for weight, bias in self.critics]
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.target_entropy = -float(outputs)
        rate = settings.actor_rate
        self.actor_optimizer = torch.optim.Adam([*_flat(self.actor), self.log_alpha], lr=rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(_flat(self.critics), lr=settings.critic_rate, fused=True)

    def policy(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [B, A] in (-1, 1) and their log probabilities [B]."""
        hidden = observations
        for weight, bias in self.actor[:-1]:
            hidden = functional.relu(torch.addmm(bias, hidden, weight))
        mean, log_std = torch.addmm(self.actor[-1][1], hidden, self.actor[-1][0]).chunk(2, dim=1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        noise = torch.randn(mean.shape, generator=self.generator)
        latent = mean + log_std.exp() * noise
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), the form that does not overflow.
        squash = 2 * (math.log(2) - latent - functional.softplus(-2 * latent))
        log_prob = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - squash).sum(1)
        return latent.tanh(), log_prob

    @staticmethod
    def values(weights: Weights, observations: Tensor, actions: Tensor) -> Tensor:
        """Q values [2, B] of both critics."""
        inputs = torch.cat((observations, actions), 1)
        hidden = inputs.expand(2, *inputs.shape)
        for weight, bias in weights[:-1]:
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = functional.relu(functional.layer_norm(hidden, hidden.shape[-1:]))
        return torch.baddbmm(weights[-1][1], hidden, weights[-1][0])[..., 0]

    def update(self, batch: tuple[Tensor, ...], with_actor: bool) -> None:
        """One step on the critics and, if `with_actor`, on the actor and the temperature."""
        observations, actions, rewards, next_observations, going_on = batch
        with torch.no_grad():
            next_actions, log_prob = self.policy(next_observations)
            value = self.values(self.targets, next_observations, next_actions).amin(0)
            value = value - self.log_alpha.exp() * log_prob
            target = rewards + self.settings.discount * going_on * value
        loss = (self.values(self.critics, observations, actions) - target).square().mean(1).sum()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        if with_actor:
            frozen = [(weight.detach(), bias.detach()) for weight, bias in self.critics]
            chosen, log_prob = self.policy(observations)
            value = self.values(frozen, observations, chosen).amin(0)
            alpha = self.log_alpha.exp()
            loss = (alpha.detach() * log_prob - value).mean()
            loss = loss - self.log_alpha * (log_prob.detach().mean() + self.target_entropy)
            self.actor_optimizer.zero_grad()
            loss.backward()
            self.actor_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(_flat(self.targets), _flat(self.critics), self.settings.tau)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The actor under the names that `behaviour.build_policy` reads: weights [out, in]."""
        layers = [(weight.detach().numpy().T.copy(), bias.detach().numpy()[0].copy()) for weight, bias in self.actor]
        named = {f"hidden.{i}": layer for i, layer in enumerate(layers[:-1])}
        (weight, bias), actions = layers[-1], len(layers[-1][1]) // 2
        named |= {"mean": (weight[:actions], bias[:actions]), "log_std": (weight[actions:], bias[actions:])}
        return {
            f"{name}.{part}": np.ascontiguousarray(array)
            for name, layer in named.items()
            for part, array in zip(("weight", "bias"), layer, strict=True)
        }


def train_sac(environment: gymnasium.Env[Any, Any], settings: SACSettings, seed: int) -> Iterator[LoggedStep]:
    """Train; yields every step, and first the untrained snapshot as a step 0 without meaning otherwise.

    Episode k is reset with the k-th number of `reset_seeds(seed)`.
    """
    torch.set_num_threads(1)  # more threads are slower on networks this small
    space = environment.action_space
    low, high = space.low, space.high  # type: ignore[attr-defined]
    size, actions = environment.observation_space.shape[0], space.shape[0]  # type: ignore[index]
    learner = SAC(size, actions, settings, torch.Generator().manual_seed(seed))
    rng = np.random.default_rng([seed, 0])
    resets = reset_seeds(seed)
    count = settings.steps
    store = {
        "observations": torch.zeros(count, size),
        "actions": torch.zeros(count, actions),
        "rewards": torch.zeros(count),
        "next": torch.zeros(count, size),
        "going_on": torch.zeros(count),
    }
    arrays = {name: tensor.numpy() for name, tensor in store.items()}  # share memory
    yield LoggedStep(0, np.zeros(actions, np.int8), 0.0, False, learner.tensors())
    observation = environment.reset(seed=next(resets))[0]
    updates = 0
    for step in range(count):
        if step < settings.warm_up:
            wanted = rng.uniform(-1, 1, actions)
        else:
            wanted = _sample(learner.actor, observation, rng)
        logged, played = grid_action(wanted, low, high)
        following, reward, terminated, truncated, _ = environment.step(played)
        arrays["observations"][step] = observation
        arrays["actions"][step] = logged / np.float32(127)
        arrays["rewards"][step] = reward
        arrays["next"][step] = following
        arrays["going_on"][step] = not terminated
        ended = bool(terminated or truncated)
        observation = environment.reset(seed=next(resets))[0] if ended else following
        done = step + 1
        if done >= settings.warm_up and done % settings.update_every == 0:
            updates += 1
            rows = torch.from_numpy(rng.integers(done, size=settings.batch))
            batch = tuple(tensor[rows] for tensor in store.values())
            learner.update(batch, with_actor=updates % settings.actor_every == 0)
        snapshot = learner.tensors() if done % settings.every == 0 else None
        yield LoggedStep(done, logged, float(reward), ended, snapshot)


def _sample(actor: Weights, observation: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """One action in (-1, 1), in NumPy on the actor's own memory: a tenth of the time of torch for one row."""
    hidden = observation.astype(np.float32)
    for weight, bias in actor[:-1]:
        hidden = np.maximum(hidden @ weight.detach().numpy() + bias.detach().numpy()[0], 0)
    output = hidden @ actor[-1][0].detach().numpy() + actor[-1][1].detach().numpy()[0]
    mean, log_std = np.split(output, 2)
    noise = rng.standard_normal(len(mean), dtype=np.float32)
    return np.tanh(mean + np.exp(np.clip(log_std, *LOG_STD_RANGE)) * noise)
