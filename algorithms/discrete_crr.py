"""CRR for discrete actions: imitation of the actions that the critic prefers to the policy's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Batch, NoiseSpec, option
from offbench.algorithms.dqn import DQN, DQNConfig


@dataclass(frozen=True)
class DiscreteCRRConfig(DQNConfig):
    """Settings of discrete CRR; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    weighting: Literal["binary", "exponential"] = option(
        "binary", "weight 1(A > 0), or min(exp(A / beta), clip)", source="dataset perspective: binary"
    )
    temperature: float = option(
        1.0, "temperature of exponential weights", symbol="β", source="paper, section 4", per_lane=True, low=1e-6
    )
    weight_clip: float = option(20.0, "largest exponential weight", source="paper, section 4", low=0.0)
    samples: int = option(
        4,
        "actions of the policy that estimate its value; 0: the exact mean",
        symbol="m",
        source="paper, section 4",
        low=0,
    )


class DiscreteCRR(DQN):
    """Critic-regularized regression with a categorical policy.

    Critic: y = r + gamma (1-d) Q'(s', a'), a' drawn from the target policy; Huber loss. Policy: E[-w log pi(a|s)],
    w = 1(A > 0) or exp(A / beta), A = Q(s,a) - mean of Q(s, a_j) over actions of the policy. Critic and policy are
    copied to their targets together; acts by the most probable action.
    """

    name = "discrete_crr"
    title = "CRR (discrete)"
    paper = "Wang et al., Critic Regularized Regression, NeurIPS 2020, arXiv 2006.15134"
    config_class = DiscreteCRRConfig
    policy_networks = ("actor",)
    config: DiscreteCRRConfig

    def build(self) -> None:
        super().build()
        sizes = (self.space.observation_size, *self.config.hidden, self.space.action_size)
        self.actor, self.target_actor = self.network(
            "actor", sizes, target=True, activation=self.config.activation, start="kaiming", **self.encoder()
        )
        self.adam.add([self.actor.flat], self.values_of("learning_rate"))
        self.temperature = self.value_of("temperature")

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        spec = {"next_action": NoiseSpec((batch_size, 1), "uniform")}
        if self.config.samples:
            spec["action"] = NoiseSpec((batch_size, self.config.samples), "uniform")
        return spec

    # --- losses ---

    @staticmethod
    def sample(logits: Tensor, noise: Tensor) -> Tensor:
        """Actions [L, B, n] of a categorical policy from uniform numbers [L, B, n], by inverting its distribution."""
        cumulative = logits.softmax(-1).cumsum(-1)
        actions = torch.searchsorted(cumulative, noise.contiguous(), right=True)
        return actions.clamp_(max=logits.shape[-1] - 1)

    def target_value(self, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """y [L, B], at an action of the target policy."""
        following = batch["next_observations"]
        actions = self.sample(self.target_actor.detached(following), noise["next_action"]).squeeze(-1)
        next_q = self.chosen(self.target_critic.detached(following), actions)
        return batch["rewards"] + self.discount * batch["continues"] * next_q

    def weight(self, values: Tensor, logits: Tensor, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """The weights of imitation [L, B], from values [L, B, actions] and the policy's logits, both detached."""
        if self.config.samples:
            baseline = values.gather(-1, self.sample(logits, noise["action"])).mean(-1)
        else:
            baseline = (logits.softmax(-1) * values).sum(-1)
        advantage = self.chosen(values, batch["actions"]) - baseline
        if self.config.weighting == "binary":
            return (advantage > 0).to(values.dtype)
        return torch.exp(advantage / self.temperature).clamp_(max=self.config.weight_clip)

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        target = self.target_value(batch, noise)
        values = self.critic(batch["observations"])
        logits = self.actor(batch["observations"])
        weight = self.weight(values.detach(), logits.detach(), batch, noise)
        q = self.chosen(values, batch["actions"])
        return {
            "critic_loss": functional.smooth_l1_loss(q, target, reduction="none").mean(1),
            "actor_loss": -(weight * self.chosen(logits.log_softmax(-1), batch["actions"])).mean(1),
        }

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        metrics = super().update(batch, noise, step)
        if step % self.config.target_period == 0:
            self.target_actor.track(self.actor, 1.0)
        return metrics

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.actor.detached(observations).argmax(-1)
