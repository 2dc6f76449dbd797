"""ReBRAC: TD3+BC with the imitation penalty in actor and critic, deeper networks and layer normalization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option


@dataclass(frozen=True)
class ReBRACConfig(Config):
    """Settings of ReBRAC; the penalties are tuned per dataset in the paper, see the presets."""

    actor_penalty: float = option(
        0.01,
        "weight of imitation in the actor",
        symbol="β1",
        source="paper, appendix; per dataset",
        per_lane=True,
        low=0.0,
    )
    critic_penalty: float = option(
        0.01,
        "weight of imitation in the target",
        symbol="β2",
        source="paper, appendix; per dataset",
        per_lane=True,
        low=0.0,
    )
    discount: float = option(
        0.99, "discount", symbol="γ", source="paper; 0.999 on antmaze", per_lane=True, low=0.0, high=1.0
    )
    target_rate: float = option(
        0.005,
        "Polyak rate of the targets",
        symbol="τ",
        source="paper",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    policy_noise: float = option(0.2, "std of the target policy's noise", source="paper", per_lane=True, low=0.0)
    noise_clip: float = option(0.5, "bound of that noise", source="paper", low=0.0)
    policy_delay: int = option(2, "critic updates per actor update", source="paper", low=1)
    actor_learning_rate: float = option(
        3e-4,
        "Adam's rate of the actor",
        source="paper; 1e-3 with batches of 1024 on locomotion",
        per_lane=True,
        low=0.0,
    )
    critic_learning_rate: float = option(
        3e-4,
        "Adam's rate of the critics",
        source="paper; 1e-3 with batches of 1024 on locomotion",
        per_lane=True,
        low=0.0,
    )
    hidden: tuple[int, ...] = option((256, 256, 256), "hidden widths of actor and critics", source="paper")


class ReBRAC(Algorithm):
    """TD3 with behaviour-regularized actor and critic.

    Critics, with layer normalization after each ReLU: L = sum_i E[(Q_i(s,a) - y)^2], y = r + gamma (1-d)
    (min_i Q'_i(s', a~) - beta2 |a~ - a'|^2), a~ the smoothed action of the target policy, a' what the data did in s'.
    Actor, every second update: L = E[beta1 |pi(s) - a|^2 - lambda min_i Q_i(s, pi(s))], lambda = 1 / E|min_i Q_i(s,
    pi(s))| held constant. Squares are summed over action dimensions. The targets move when the actor does, after its
    step (the authors' JAX code moves the target actor towards the parameters from before it).
    """

    name = "rebrac"
    title = "ReBRAC"
    paper = (
        "Tarasov et al., Revisiting the Minimalist Approach to Offline Reinforcement Learning, NeurIPS 2023, "
        "arXiv 2305.09836"
    )
    config_class = ReBRACConfig
    requires = Requires(actions=frozenset({"continuous"}), next_actions=True)
    config: ReBRACConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.actor, self.target_actor = self.network(
            "actor", (observation, *hidden, action), target=True, start="edac", last=1e-3
        )
        self.critic, self.target_critic = self.network(
            "critic", (observation + action, *hidden, 1), members=2, target=True, norm="after", start="edac", last=3e-3
        )
        self.actor_optimizer, self.critic_optimizer = self.optimizer("actor"), self.optimizer("critic")
        self.actor_optimizer.add([self.actor.flat], self.values_of("actor_learning_rate"))
        self.critic_optimizer.add([self.critic.flat], self.values_of("critic_learning_rate"))
        self.actor_penalty, self.critic_penalty = self.value_of("actor_penalty"), self.value_of("critic_penalty")
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")
        noise = self.value_of("policy_noise")
        self.policy_noise = noise.unsqueeze(2) if isinstance(noise, Tensor) else noise

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {"target_action": NoiseSpec((batch_size, self.space.action_size))}

    # --- losses ---

    def target_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """y [L, B]: the smaller target critic at the smoothed action, less its distance from the data's."""
        clip = self.config.noise_clip
        noise = (noise * self.policy_noise).clamp_(-clip, clip)
        actions = (self.target_actor.detached(batch["next_observations"]).tanh_() + noise).clamp_(-1, 1)
        next_q = self.target_critic.detached(torch.cat([batch["next_observations"], actions], -1)).squeeze(-1).amin(1)
        penalty = self.critic_penalty * (actions - batch["next_actions"]).square().sum(-1)
        return batch["rewards"] + self.discount * batch["continues"] * (next_q - penalty)

    def critic_loss(self, batch: Batch, target: Tensor) -> Tensor:
        """Squared error of both critics, summed over them, [L]."""
        q = self.critic(batch["observation_actions"]).squeeze(-1)
        return (q - target.unsqueeze(1)).square().mean(2).sum(1)

    def actor_loss(self, batch: Batch) -> Tensor:
        """Imitation against the normalized value, [L]."""
        actions = torch.tanh(self.actor(batch["observations"]))
        q = self.critic.frozen(torch.cat([batch["observations"], actions], -1)).squeeze(-1).amin(1)
        weight = 1.0 / q.detach().abs().mean(1, keepdim=True)
        imitation = self.actor_penalty * (actions - batch["actions"]).square().sum(-1)
        return (imitation - weight * q).mean(1)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        critic_loss = self.critic_loss(batch, self.target_value(batch, noise["target_action"]))
        self.critic_optimizer.minimize(critic_loss.sum())
        metrics = {"critic_loss": critic_loss.detach()}
        if step % self.config.policy_delay == 0:
            actor_loss = self.actor_loss(batch)
            self.actor_optimizer.minimize(actor_loss.sum())
            self.target_critic.track(self.critic, self.target_rate)
            self.target_actor.track(self.actor, self.target_rate)
            metrics["actor_loss"] = actor_loss.detach()
        return metrics

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.actor.detached(observations).tanh_()
