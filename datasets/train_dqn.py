"""DQN as in Schweighofer et al. 2022 (arXiv 2111.04714), for the behaviours of the datasets with discrete actions.

Three layers of 256 SELU units, double targets, Huber loss, target copied every 100 updates, exploration from 1 to
0.01 over the first 1,000 updates. One difference: a time limit is no terminal state here (in the paper's code it
is). The run is a function of (settings, seed) and the versions of torch and of the simulator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from offbench.datasets.behaviour import Network
from offbench.datasets.training_log import LoggedStep, reset_seeds
from offbench.datasets.training_plans import DQNSettings


class DQN:
    """The networks and one update."""

    def __init__(self, inputs: int, outputs: int, settings: DQNSettings, generator: torch.Generator) -> None:
        self.settings = settings
        sizes = [inputs, *settings.hidden, outputs]
        # Kaiming-normal for a linear unit, zero biases, as in the paper.
        self.weights = [
            (torch.randn(out, size, generator=generator) / size**0.5).requires_grad_()
            for size, out in itertools.pairwise(sizes)
        ]
        self.biases = [torch.zeros(out, requires_grad=True) for out in sizes[1:]]
        self.parameters = [*self.weights, *self.biases]
        self.targets = [tensor.detach().clone() for tensor in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.rate, fused=True)
        self.updates = 0

    def values(self, parameters: list[Tensor], observations: Tensor) -> Tensor:
        """Action values [B, n]."""
        depth = len(self.weights)
        hidden = observations
        for weight, bias in zip(parameters[: depth - 1], parameters[depth:-1], strict=True):
            hidden = functional.selu(functional.linear(hidden, weight, bias))
        return functional.linear(hidden, parameters[depth - 1], parameters[-1])

    def update(
        self, observations: Tensor, actions: Tensor, rewards: Tensor, following: Tensor, going_on: Tensor
    ) -> None:
        """One step of Adam on the Huber loss of the double target."""
        with torch.no_grad():
            best = self.values(self.parameters, following).argmax(1, keepdim=True)
            value = self.values(self.targets, following).gather(1, best)[:, 0]
            target = rewards + self.settings.discount * going_on * value
        chosen = self.values(self.parameters, observations).gather(1, actions[:, None])[:, 0]
        loss = functional.smooth_l1_loss(chosen, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.settings.copy_every == 0:
            with torch.no_grad():
                torch._foreach_copy_(self.targets, self.parameters)

    def acting(self) -> tuple[Network, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The network as NumPy arrays that share its memory: hidden layers, and weight and bias of the last."""
        arrays = [
            (weight.detach().numpy(), bias.detach().numpy())
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        return Network(tuple(arrays[:-1]), "selu"), arrays[-1]

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The network under the names that `behaviour.build_policy` reads."""
        names = [f"hidden.{i}" for i in range(len(self.weights) - 1)] + ["head"]
        return {
            f"{name}.{part}": tensor.detach().numpy().copy()
            for part, tensors in (("weight", self.weights), ("bias", self.biases))
            for name, tensor in zip(names, tensors, strict=True)
        }


def train_dqn(environment: gymnasium.Env[Any, Any], settings: DQNSettings, seed: int) -> Iterator[LoggedStep]:
    """Train; yields every step, and first the untrained snapshot as a step 0 without meaning otherwise.

    Episode k is reset with the k-th number of `reset_seeds(seed)`.
    """
    torch.set_num_threads(1)  # more threads are slower on networks this small
    size, count = environment.observation_space.shape[0], int(environment.action_space.n)  # type: ignore
    learner = DQN(size, count, settings, torch.Generator().manual_seed(seed))
    network, (weight, bias) = learner.acting()
    rng, resets = np.random.default_rng([seed, 0]), reset_seeds(seed)
    store = {
        "observations": torch.zeros(settings.buffer, size),
        "actions": torch.zeros(settings.buffer, dtype=torch.int64),
        "rewards": torch.zeros(settings.buffer),
        "following": torch.zeros(settings.buffer, size),
        "going_on": torch.zeros(settings.buffer),
    }
    arrays = {name: tensor.numpy() for name, tensor in store.items()}  # share memory
    yield LoggedStep(0, np.int8(0), 0.0, False, learner.tensors())
    observation = environment.reset(seed=next(resets))[0]
    for step in range(settings.steps):
        share = min(1.0, learner.updates / settings.explore_updates)
        if rng.random() < 1 + share * (settings.epsilon - 1):
            action = int(rng.integers(count))
        else:
            action = int(np.argmax(network(observation[None]) @ weight.T + bias))
        following, reward, terminated, truncated, _ = environment.step(action)
        row = step % settings.buffer
        for name, value in zip(arrays, (observation, action, reward, following, not terminated), strict=True):
            arrays[name][row] = value
        ended = bool(terminated or truncated)
        observation = environment.reset(seed=next(resets))[0] if ended else following
        done = step + 1
        if done > settings.batch:
            rows = torch.from_numpy(rng.integers(min(done, settings.buffer), size=settings.batch))
            learner.update(*(tensor[rows] for tensor in store.values()))
        due = done % settings.every == 0 or done == settings.steps
        snapshot = learner.tensors() if due else None
        yield LoggedStep(done, np.int8(action), float(reward), ended, snapshot)
