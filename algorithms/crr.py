"""CRR: imitation of the actions that the critics prefer to the policy's own, for continuous actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.gaussian import log_density


@dataclass(frozen=True)
class CRRConfig(Config):
    """Settings of CRR; defaults are those of d3rlpy's reproduction on D4RL."""

    weighting: Literal["binary", "exponential"] = option(
        "binary", "weight 1(A > 0), or min(exp(A / beta), clip)", source="d3rlpy's reproduction"
    )
    baseline: Literal["mean", "max"] = option(
        "mean", "how the values of the policy's actions are summarized", source="paper, table 1"
    )
    temperature: float = option(
        1.0, "temperature of exponential weights", symbol="β", source="paper, section 4", per_lane=True, low=1e-6
    )
    weight_clip: float = option(20.0, "largest exponential weight", source="paper, section 4", low=0.0)
    samples: int = option(4, "actions of the policy that are valued", symbol="m", source="paper, section 4", low=1)
    discount: float = option(0.99, "discount", symbol="γ", source="paper, appendix", per_lane=True, low=0.0, high=1.0)
    target_rate: float = option(
        0.005, "Polyak rate of the targets", source="d3rlpy's reproduction", per_lane=True, low=0.0, high=1.0
    )
    learning_rate: float = option(
        3e-4, "Adam's rate of actor and critics", source="d3rlpy's reproduction", per_lane=True, low=0.0
    )
    hidden: tuple[int, ...] = option((256, 256), "hidden widths of actor and critics", source="d3rlpy's reproduction")


class CRR(Algorithm):
    """Critic-regularized regression with a Gaussian policy and two critics.

    Critics: y = r + gamma (1-d) min_i Q'_i(s', a'), a' from the target policy; L = sum_i E[(Q_i(s,a) - y)^2]. Policy
    (equation 2): E[-w log pi(a|s)], w = 1(A > 0) or exp(A / beta), A = Q(s,a) - mean_j Q(s, a_j) (or max_j), a_j from
    the policy, Q the smaller critic, after its update. The policy's mean is bounded by tanh, its standard deviation
    is one per action dimension, its samples are clipped to the action box. (The paper's critic is distributional.)
    """

    name = "crr"
    title = "CRR"
    paper = "Wang et al., Critic Regularized Regression, NeurIPS 2020, arXiv 2006.15134"
    config_class = CRRConfig
    requires = Requires(actions=frozenset({"continuous"}))
    config: CRRConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.actor, self.target_actor = self.network("actor", (observation, *hidden, action), target=True)
        self.log_std = self.tensor("log_std", torch.zeros(self.lanes, action))
        self.critic, self.target_critic = self.network(
            "critic", (observation + action, *hidden, 1), members=2, target=True
        )
        self.actor_optimizer, self.critic_optimizer = self.optimizer("actor"), self.optimizer("critic")
        self.actor_optimizer.add([self.actor.flat, self.log_std], self.values_of("learning_rate"))
        self.critic_optimizer.add([self.critic.flat], self.values_of("learning_rate"))
        self.temperature = self.value_of("temperature")
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        action = self.space.action_size
        return {
            "next_action": NoiseSpec((batch_size, action)),
            "action": NoiseSpec((self.config.samples, batch_size, action)),
        }

    # --- losses ---

    def bounded_log_std(self) -> Tensor:
        """log std [L, 1, A], kept in [-20, 2]."""
        return self.log_std.clamp(-20.0, 2.0).unsqueeze(1)

    def target_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """y [L, B]: the smaller target critic at an action of the target policy."""
        mean = self.target_actor.detached(batch["next_observations"]).tanh_()
        actions = (mean + self.bounded_log_std().detach().exp() * noise).clamp_(-1.0, 1.0)
        next_q = self.target_critic.detached(torch.cat([batch["next_observations"], actions], -1)).squeeze(-1).amin(1)
        return batch["rewards"] + self.discount * batch["continues"] * next_q

    def critic_loss(self, batch: Batch, target: Tensor) -> Tensor:
        """Squared error of both critics, summed over them, [L]."""
        q = self.critic(batch["observation_actions"]).squeeze(-1)
        return (q - target.unsqueeze(1)).square().mean(2).sum(1)

    def weight(self, batch: Batch, mean: Tensor, noise: Tensor) -> Tensor:
        """The weights of imitation [L, B], from the policy's mean [L, B, A] and noise [L, m, B, A]."""
        own = (mean.detach().unsqueeze(1) + self.bounded_log_std().detach().unsqueeze(1).exp() * noise).clamp_(-1, 1)
        observations = batch["observations"].unsqueeze(1).expand(-1, self.config.samples, -1, -1)
        inputs = torch.cat([batch["observation_actions"], torch.cat([observations, own], -1).flatten(1, 2)], 1)
        q = self.critic.detached(inputs).squeeze(-1).amin(1).unflatten(1, (1 + self.config.samples, -1))
        values = q[:, 1:]
        baseline = values.mean(1) if self.config.baseline == "mean" else values.amax(1)
        advantage = q[:, 0] - baseline
        if self.config.weighting == "binary":
            return (advantage > 0).to(q.dtype)
        return torch.exp(advantage / self.temperature).clamp_(max=self.config.weight_clip)

    def actor_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Imitation of the preferred actions, [L]."""
        mean = torch.tanh(self.actor(batch["observations"]))
        weight = self.weight(batch, mean, noise)
        return -(weight * log_density(batch["actions"], mean, self.bounded_log_std())).mean(1)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        critic_loss = self.critic_loss(batch, self.target_value(batch, noise["next_action"]))
        self.critic_optimizer.minimize(critic_loss.sum())
        actor_loss = self.actor_loss(batch, noise["action"])
        self.actor_optimizer.minimize(actor_loss.sum())
        self.target_critic.track(self.critic, self.target_rate)
        self.target_actor.track(self.actor, self.target_rate)
        return {"critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach()}

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.actor.detached(observations).tanh_()
