"""AWAC: advantage-weighted regression towards actions that the critics prefer to the policy's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.gaussian import log_density


@dataclass(frozen=True)
class AWACConfig(Config):
    """Settings of AWAC; defaults are CORL's for locomotion."""

    temperature: float = option(
        1 / 3, "temperature of the advantage weights", symbol="λ", source="CORL, locomotion", per_lane=True, low=1e-6
    )
    advantage_clip: float = option(100.0, "largest advantage weight", source="CORL", low=0.0)
    discount: float = option(0.99, "discount", symbol="γ", source="paper, appendix", per_lane=True, low=0.0, high=1.0)
    target_rate: float = option(
        0.005,
        "Polyak rate of the target critics",
        symbol="τ",
        source="paper, appendix",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    learning_rate: float = option(3e-4, "Adam's rate of actor and critics", source="CORL", per_lane=True, low=0.0)
    hidden: tuple[int, ...] = option((256, 256, 256), "hidden widths of actor and critics", source="CORL")


class AWAC(Algorithm):
    """Actor-critic whose policy only ever imitates the data's actions, weighted by their advantage.

    Critics: y = r + gamma (1-d) min_i Q'_i(s', a'), a' from the policy; L = sum_i E[(Q_i(s,a) - y)^2]. Actor
    (equation 9): L = E[-min(exp(A/lambda), 100) log pi(a|s)], A = min_i Q_i(s,a) - min_i Q_i(s, a~), a~ from the
    policy, with the critics that were just updated. The policy is a Gaussian without squashing, with one standard
    deviation per action dimension; its samples are clipped to the action box.
    """

    name = "awac"
    title = "AWAC"
    paper = "Nair et al., AWAC: Accelerating Online Reinforcement Learning with Offline Datasets, arXiv 2006.09359"
    config_class = AWACConfig
    requires = Requires(actions=frozenset({"continuous"}))
    config: AWACConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.actor = self.network("actor", (observation, *hidden, action))
        self.log_std = self.tensor("log_std", torch.zeros(self.lanes, action))
        critic = (observation + action, *hidden, 1)
        self.critic, self.target_critic = self.network("critic", critic, members=2, target=True)
        self.actor_optimizer, self.critic_optimizer = self.optimizer("actor"), self.optimizer("critic")
        self.actor_optimizer.add([self.actor.flat, self.log_std], self.values_of("learning_rate"))
        self.critic_optimizer.add([self.critic.flat], self.values_of("learning_rate"))
        self.temperature = self.value_of("temperature")
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        shape = (batch_size, self.space.action_size)
        return {"action": NoiseSpec(shape), "next_action": NoiseSpec(shape)}

    # --- losses ---

    def bounded_log_std(self) -> Tensor:
        """log std [L, 1, A], kept in [-20, 2]."""
        return self.log_std.clamp(-20.0, 2.0).unsqueeze(1)

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Actions [L, B, A] of the policy, clipped to the box; without gradient."""
        return (mean.detach() + self.bounded_log_std().detach().exp() * noise).clamp_(-1.0, 1.0)

    def target_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """y [L, B]: the smaller target critic at an action of the policy."""
        actions = self.sample(self.actor.detached(batch["next_observations"]), noise)
        next_q = self.target_critic.detached(torch.cat([batch["next_observations"], actions], -1)).squeeze(-1).amin(1)
        return batch["rewards"] + self.discount * batch["continues"] * next_q

    def critic_loss(self, batch: Batch, target: Tensor) -> Tensor:
        """Squared error of both critics, summed over them, [L]."""
        q = self.critic(batch["observation_actions"]).squeeze(-1)
        return (q - target.unsqueeze(1)).square().mean(2).sum(1)

    def actor_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Imitation weighted by advantage, [L]."""
        mean = self.actor(batch["observations"])
        own = torch.cat([batch["observations"], self.sample(mean, noise)], -1)
        q = self.critic.detached(torch.cat([batch["observation_actions"], own], 1)).squeeze(-1).amin(1)
        advantage = q[:, : mean.shape[1]] - q[:, mean.shape[1] :]
        weight = torch.exp(advantage / self.temperature).clamp_(max=self.config.advantage_clip)
        return -(weight * log_density(batch["actions"], mean, self.bounded_log_std())).mean(1)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        critic_loss = self.critic_loss(batch, self.target_value(batch, noise["next_action"]))
        self.critic_optimizer.minimize(critic_loss.sum())
        actor_loss = self.actor_loss(batch, noise["action"])
        self.actor_optimizer.minimize(actor_loss.sum())
        self.target_critic.track(self.critic, self.target_rate)
        return {"critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach()}

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.actor.detached(observations).clamp_(-1.0, 1.0)
