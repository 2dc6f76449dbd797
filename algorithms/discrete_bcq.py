"""BCQ for discrete actions: DQN that chooses only among actions that a model of the behaviour finds likely."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offbench.algorithms.base import Batch, option
from offbench.algorithms.dqn import DQN, DQNConfig


@dataclass(frozen=True)
class DiscreteBCQConfig(DQNConfig):
    """Settings of discrete BCQ; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    threshold: float = option(
        0.3,
        "smallest probability of an allowed action relative to the most likely one",
        symbol="τ",
        source="paper, section 4",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    logit_penalty: float = option(
        0.01, "weight of the behaviour model's mean squared logit", source="authors' code", per_lane=True, low=0.0
    )


class DiscreteBCQ(DQN):
    """Double DQN over the actions with pi_b(a|s) / max_a' pi_b(a'|s) above a threshold, in targets and when acting.

    L = E[huber(Q(s,a) - y)] + E[-log pi_b(a|s)] + w E[mean_a logit_a(s)^2]; the behaviour model pi_b is a network of
    its own.
    """

    name = "discrete_bcq"
    title = "BCQ (discrete)"
    paper = "Fujimoto et al., Benchmarking Batch Deep Reinforcement Learning Algorithms, arXiv 1910.01708"
    config_class = DiscreteBCQConfig
    policy_networks = ("critic", "behaviour")
    config: DiscreteBCQConfig

    def build(self) -> None:
        super().build()
        sizes = (self.space.observation_size, *self.config.hidden, self.space.action_size)
        self.behaviour = self.network(
            "behaviour", sizes, activation=self.config.activation, start="kaiming", **self.encoder()
        )
        self.adam.add([self.behaviour.flat], self.values_of("learning_rate"))
        self.logit_penalty = self.scalar_of("logit_penalty")
        threshold = torch.tensor(self.values_of("threshold"), device=self.device)
        self.log_threshold = threshold.log()[:, None, None]  # -inf allows every action

    # --- losses ---

    def allowed(self, values: Tensor, observations: Tensor) -> Tensor:
        """Values [L, B, actions] with those of unlikely actions at the bottom."""
        logits = self.behaviour.detached(observations)
        unlikely = logits - logits.amax(-1, keepdim=True) <= self.log_threshold
        # With a threshold of 1 not even the most likely action is strictly above it; it stays allowed.
        unlikely.scatter_(-1, logits.argmax(-1, keepdim=True), False)
        return values.masked_fill(unlikely, torch.finfo(values.dtype).min)

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.behaviour(batch["observations"])
        return super().loss(batch, noise) | {
            "imitation_loss": -self.chosen(logits.log_softmax(-1), batch["actions"]).mean(1),
            "logit_penalty": self.logit_penalty * logits.square().mean((1, 2)),
        }
