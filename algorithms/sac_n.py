"""SAC-N: soft actor-critic whose pessimism is the minimum over a large ensemble of critics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.gaussian import squashed_sample


@dataclass(frozen=True)
class SACNConfig(Config):
    """Settings of SAC-N; defaults are the paper's for halfcheetah. Other tasks need more critics."""

    critics: int = option(10, "critics in the ensemble", symbol="N", source="paper, appendix; per task", low=2)
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
    actor_learning_rate: float = option(
        3e-4, "Adam's rate of the actor", source="paper, appendix", per_lane=True, low=0.0
    )
    critic_learning_rate: float = option(
        3e-4, "Adam's rate of the critics", source="paper, appendix", per_lane=True, low=0.0
    )
    temperature_learning_rate: float = option(
        3e-4, "Adam's rate of the entropy's temperature", source="authors' code", per_lane=True, low=0.0
    )
    hidden: tuple[int, ...] = option((256, 256, 256), "hidden widths of actor and critics", source="paper, appendix")
    minto: bool = option(
        False,
        "bootstrap from the smaller of target and online critics in place of the target critics",
        source="off in the paper; Hendawy et al. 2025, arXiv 2510.02590",
    )


class SACN(Algorithm):
    """Soft actor-critic (Haarnoja et al. 2018) with N critics and the minimum over all of them.

    Temperature: L = -log alpha E[log pi(a~|s) - A]. Actor: L = E[alpha log pi(a~|s) - min_i Q_i(s, a~)]. Critics:
    y = r + gamma (1-d) (min_i Q'_i(s', a') - alpha log pi(a'|s')); L = sum_i E[(Q_i(s,a) - y)^2]. As in the authors'
    code they are updated in this order, each with what the one before left, then the targets move. Temperature and
    actor see the same sample a~. With `minto` (Hendawy et al. 2025, not the paper's), min(Q'_i, Q_i) takes the place of
    Q'_i.
    """

    name = "sac_n"
    title = "SAC-N"
    paper = (
        "An et al., Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble, NeurIPS 2021, "
        "arXiv 2110.01548"
    )
    config_class: ClassVar[type[SACNConfig]] = SACNConfig
    requires = Requires(actions=frozenset({"continuous"}))
    config: SACNConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.actor = self.network("actor", (observation, *hidden, 2 * action), start="edac", last=1e-3)
        self.critic, self.target_critic = self.network(
            "critic",
            (observation + action, *hidden, 1),
            members=self.config.critics,
            target=True,
            start="edac",
            last=3e-3,
        )
        self.log_temperature = self.tensor("log_temperature", torch.zeros(self.lanes, 1))
        self.actor_optimizer, self.critic_optimizer = self.optimizer("actor"), self.optimizer("critic")
        self.temperature_optimizer = self.optimizer("temperature")
        self.actor_optimizer.add([self.actor.flat], self.values_of("actor_learning_rate"))
        self.critic_optimizer.add([self.critic.flat], self.values_of("critic_learning_rate"))
        self.temperature_optimizer.add([self.log_temperature], self.values_of("temperature_learning_rate"))
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        shape = (batch_size, self.space.action_size)
        return {"action": NoiseSpec(shape), "next_action": NoiseSpec(shape)}

    # --- losses ---

    def sample(self, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [L, B, A] and log-densities [L, B] from the actor's output; its log std is kept in [-5, 2]."""
        mean, log_std = output.chunk(2, -1)
        return squashed_sample(mean, log_std.clamp(-5.0, 2.0), noise)

    def target_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """y [L, B]: the smallest target critic at an action of the policy, less its entropy's price."""
        actions, log_density = self.sample(self.actor.detached(batch["next_observations"]), noise)
        pairs = torch.cat([batch["next_observations"], actions], -1)
        next_q = self.target_critic.detached(pairs)
        if self.config.minto:
            next_q = torch.minimum(next_q, self.critic.detached(pairs))
        soft = next_q.squeeze(-1).amin(1) - self.log_temperature.detach().exp() * log_density
        return batch["rewards"] + self.discount * batch["continues"] * soft

    def critic_loss(self, batch: Batch, target: Tensor) -> Tensor:
        """Squared error summed over the critics, [L]."""
        q = self.critic(batch["observation_actions"]).squeeze(-1)
        return (q - target.unsqueeze(1)).square().mean(2).sum(1)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        actions, log_density = self.sample(self.actor(batch["observations"]), noise["action"])
        surplus = log_density.detach() - self.space.action_size  # the target entropy is -A
        temperature_loss = -(self.log_temperature * surplus).mean(1)
        self.temperature_optimizer.minimize(temperature_loss.sum())

        q = self.critic.frozen(torch.cat([batch["observations"], actions], -1)).squeeze(-1).amin(1)
        actor_loss = (self.log_temperature.detach().exp() * log_density - q).mean(1)
        self.actor_optimizer.minimize(actor_loss.sum())

        critic_loss = self.critic_loss(batch, self.target_value(batch, noise["next_action"]))
        self.critic_optimizer.minimize(critic_loss.sum())
        self.target_critic.track(self.critic, self.target_rate)
        return {
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "temperature": self.log_temperature.detach().exp().squeeze(1),
            "entropy": -log_density.detach().mean(1),
        }

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.actor.detached(observations).chunk(2, -1)[0].tanh()
