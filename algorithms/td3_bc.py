"""TD3+BC: deterministic policy gradient with a behaviour-cloning term."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.networks import StackedMLP


@dataclass(frozen=True)
class TD3BCConfig(Config):
    """Settings of TD3+BC; defaults are the paper's, equal for all locomotion datasets."""

    alpha: float = option(
        2.5, "weight of Q against imitation", symbol="α", source="paper, table 3", per_lane=True, low=0.0
    )
    discount: float = option(0.99, "discount", symbol="γ", source="paper, table 3", per_lane=True, low=0.0, high=1.0)
    target_rate: float = option(
        0.005,
        "Polyak rate of the targets",
        symbol="τ",
        source="paper, table 3",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    policy_noise: float = option(
        0.2, "std of the target policy's noise", symbol="σ", source="paper, table 3", per_lane=True, low=0.0
    )
    noise_clip: float = option(0.5, "bound of that noise", symbol="c", source="paper, table 3", low=0.0)
    policy_delay: int = option(2, "critic updates per actor update", symbol="d", source="paper, table 3", low=1)
    actor_learning_rate: float = option(
        3e-4, "Adam's rate of the actor", source="paper, table 3", per_lane=True, low=0.0
    )
    critic_learning_rate: float = option(
        3e-4, "Adam's rate of the critics", source="paper, table 3", per_lane=True, low=0.0
    )
    hidden: tuple[int, ...] = option((256, 256), "hidden widths of actor and critics", source="paper, table 3")


class TD3BC(Algorithm):
    """TD3 (Fujimoto et al. 2018) whose actor also imitates the dataset's actions.

    Critics: y = r + gamma (1-d) min_i Q'_i(s', clip(pi'(s') + clip(noise)));  L = sum_i E[(Q_i(s,a) - y)^2].
    Actor, every second update (equation 5): L = E[-lambda Q_1(s, pi(s)) + (pi(s) - a)^2] with
    lambda = alpha / E|Q_1(s, pi(s))| held constant and the square averaged over action dimensions. The targets move
    when the actor does.
    """

    name = "td3_bc"
    title = "TD3+BC"
    paper = "Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning, NeurIPS 2021, arXiv 2106.06860"
    config_class = TD3BCConfig
    requires = Requires(actions=frozenset({"continuous"}))
    config: TD3BCConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.actor, self.target_actor = self.network("actor", (observation, *hidden, action), target=True)
        critic = (observation + action, *self.critic_hidden(), 1)
        self.critic, self.target_critic = self.network("critic", critic, members=2, target=True)
        self.actor_optimizer, self.critic_optimizer = self.optimizer("actor"), self.optimizer("critic")
        self.actor_optimizer.add([self.actor.flat], self.values_of("actor_learning_rate"))
        self.critic_optimizer.add([self.critic.flat], self.values_of("critic_learning_rate"))
        self.alpha, self.discount = self.value_of("alpha"), self.value_of("discount")
        self.target_rate = self.value_of("target_rate")
        noise = self.value_of("policy_noise")
        self.policy_noise = noise.unsqueeze(2) if isinstance(noise, Tensor) else noise

    def critic_hidden(self) -> tuple[int, ...]:
        """The critics' hidden widths."""
        return self.config.hidden

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {"target_action": NoiseSpec((batch_size, self.space.action_size))}

    # --- losses ---

    def smoothed_actions(self, batch: Batch, noise: Tensor) -> Tensor:
        """The target policy's actions in s', with clipped noise [L, B, A]."""
        clip = self.config.noise_clip
        noise = (noise * self.policy_noise).clamp_(-clip, clip)
        return (self.target_actor.detached(batch["next_observations"]).tanh_() + noise).clamp_(-1, 1)

    def backup(self, batch: Batch, next_actions: Tensor, critic: StackedMLP) -> Tensor:
        """r + gamma (1-d) min_i Q_i(s', a') [L, B]."""
        next_q = critic.detached(torch.cat([batch["next_observations"], next_actions], -1))
        return batch["rewards"] + self.discount * batch["continues"] * next_q.squeeze(-1).amin(1)

    def target_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """y [L, B]: the smaller target critic at the target policy's smoothed action."""
        return self.backup(batch, self.smoothed_actions(batch, noise), self.target_critic)

    def critic_loss(self, batch: Batch, target: Tensor) -> Tensor:
        """Squared error of both critics, summed over them, [L]."""
        q = self.critic(batch["observation_actions"]).squeeze(-1)
        return (q - target.unsqueeze(1)).square().mean(2).sum(1)

    def imitated_actions(self, batch: Batch, actions: Tensor) -> Tensor:
        """What the policy's actions [L, B, A] are drawn towards: the data's."""
        return batch["actions"]

    def actor_loss(self, batch: Batch) -> Tensor:
        """Normalized value of the first critic against imitation, [L]."""
        actions = torch.tanh(self.actor(batch["observations"]))
        q = self.critic.frozen(torch.cat([batch["observations"], actions], -1), member=0).squeeze(-1)
        weight = self.alpha / q.detach().abs().mean(1, keepdim=True)
        imitation = (actions - self.imitated_actions(batch, actions)).square().mean((1, 2))
        return imitation - (weight * q).mean(1)

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
