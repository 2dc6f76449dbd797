"""IQL: implicit Q-learning, expectile regression without actions outside the data, for Box and Discrete actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, Requires, option
from offbench.algorithms.gaussian import log_density


@dataclass(frozen=True)
class IQLConfig(Config):
    """Settings of IQL; defaults are the paper's for locomotion."""

    expectile: float = option(
        0.7,
        "expectile of V over actions",
        symbol="τ",
        source="paper, section 5.1",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    temperature: float = option(
        3.0,
        "inverse temperature of the advantage weights",
        symbol="β",
        source="paper, section 5.1",
        per_lane=True,
        low=0.0,
    )
    discount: float = option(0.99, "discount", symbol="γ", source="paper, appendix B", per_lane=True, low=0.0, high=1.0)
    target_rate: float = option(
        0.005,
        "Polyak rate of the target critics",
        symbol="α",
        source="paper, appendix B",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    advantage_clip: float = option(100.0, "largest advantage weight", source="authors' code", low=0.0)
    policy: Literal["gaussian", "deterministic"] = option(
        "gaussian",
        "continuous policy: a Gaussian with tanh mean, or the mean alone",
        source="authors' code; CORL uses deterministic on hopper-medium and hopper-medium-replay",
    )
    learning_rate: float = option(
        3e-4, "Adam's rate of V, Q and policy", source="paper, appendix B", per_lane=True, low=0.0
    )
    cosine: bool = option(True, "anneal the policy's rate to zero over training", source="paper, appendix B")
    hidden: tuple[int, ...] = option((256, 256), "hidden widths of V, Q and policy", source="paper, appendix B")


class IQL(Algorithm):
    """Expectile value, one-step critics, and advantage-weighted regression.

    V (equation 5): E[|tau - 1(u<0)| u^2], u = min_i Q'_i(s,a) - V(s). Q (equation 6): E[(r + gamma (1-d) V(s') -
    Q_i(s,a))^2], averaged over both critics. Policy (equation 7): E[-min(exp(beta u), 100) log pi(a|s)]. As in CORL,
    all three losses use the values from before the update, so one optimizer step serves all networks.

    Discrete actions: the critics have one output per action and the policy is categorical; the losses are the same.
    """

    name = "iql"
    title = "IQL"
    paper = "Kostrikov et al., Offline Reinforcement Learning with Implicit Q-Learning, ICLR 2022, arXiv 2110.06169"
    config_class: ClassVar[type[IQLConfig]] = IQLConfig
    requires = Requires()
    config: IQLConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        critic = (observation, *hidden, action) if self.space.discrete else (observation + action, *hidden, 1)
        self.value = self.network("value", (observation, *hidden, 1))
        self.critic, self.target_critic = self.network("critic", critic, target=True, **self.critic_options())
        self.actor = self.network("actor", (observation, *hidden, action))
        policy = [self.actor.flat]
        self.gaussian = not self.space.discrete and self.config.policy == "gaussian"
        if self.gaussian:
            self.log_std = self.tensor("log_std", torch.zeros(self.lanes, action))
            policy.append(self.log_std)
        self.adam, rates = self.optimizer("all"), self.values_of("learning_rate")
        self.adam.add([self.value.flat, self.critic.flat], rates)
        self.adam.add(policy, rates, cosine_steps=self.total_updates if self.config.cosine else None)
        self.expectile, self.temperature = self.value_of("expectile"), self.value_of("temperature")
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")

    def critic_options(self) -> dict[str, Any]:
        """How many critics there are and how their weights start."""
        return {"members": 2}

    # --- losses ---

    def action_values(self, critics: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [L, 2, B] from the critics' outputs [L, 2, B, 1 or number of actions]."""
        if not self.space.discrete:
            return critics.squeeze(-1)
        index = actions[:, None, :, None].expand(-1, critics.shape[1], -1, -1)
        return critics.gather(-1, index).squeeze(-1)

    def pessimistic(self, q: Tensor) -> Tensor:
        """The value [L, B] that stands for those of all critics [L, 2, B]."""
        return q.amin(1)

    def target_value(self, batch: Batch, next_v: Tensor) -> Tensor:
        """What the critics regress on, [L, B]."""
        return batch["rewards"] + self.discount * batch["continues"] * next_v

    def critic_loss(self, error: Tensor) -> Tensor:
        """The loss of errors Q_i(s,a) - target [L, 2, B], averaged over critics and batch, [L]."""
        return error.square().mean((1, 2))

    def expectile_loss(self, advantage: Tensor) -> Tensor:
        """|tau - 1(u<0)| u^2, averaged over the batch, [L]."""
        weight = torch.where(advantage < 0, 1.0 - self.expectile, self.expectile)
        return (weight * advantage.square()).mean(1)

    def imitation_loss(self, batch: Batch) -> Tensor:
        """-log pi(a|s), or the squared distance of the deterministic policy, [L, B]."""
        output = self.actor(batch["observations"])
        if self.space.discrete:
            return -output.log_softmax(-1).gather(-1, batch["actions"].unsqueeze(-1)).squeeze(-1)
        if not self.gaussian:
            return (torch.tanh(output) - batch["actions"]).square().sum(-1)
        return -log_density(batch["actions"], torch.tanh(output), self.log_std.clamp(-20.0, 2.0).unsqueeze(1))

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        inputs = batch["observations" if self.space.discrete else "observation_actions"]
        target_q = self.pessimistic(self.action_values(self.target_critic.detached(inputs), batch["actions"]))
        next_v = self.value.detached(batch["next_observations"]).squeeze(-1)

        advantage = target_q - self.value(batch["observations"]).squeeze(-1)
        value_loss = self.expectile_loss(advantage)

        q = self.action_values(self.critic(inputs), batch["actions"])
        critic_loss = self.critic_loss(q - self.target_value(batch, next_v).unsqueeze(1))

        weight = torch.exp(self.temperature * advantage.detach()).clamp_(max=self.config.advantage_clip)
        actor_loss = (weight * self.imitation_loss(batch)).mean(1)

        self.adam.minimize((value_loss + critic_loss + actor_loss).sum())
        self.target_critic.track(self.critic, self.target_rate)
        return {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
        }

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        output = self.actor.detached(observations)
        return output.argmax(-1) if self.space.discrete else output.tanh_()
