"""XQL and f-DVL: IQL's structure with values fitted by the dual of a regularized problem ("Dual RL")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Algorithm, Batch, Config, Requires, option
from offbench.algorithms.gaussian import log_density


@dataclass(frozen=True)
class DualRLConfig(Config):
    """What XQL and f-DVL share; defaults are those of XQL's authors for locomotion."""

    policy_temperature: float = option(
        3.0, "inverse temperature of the advantage weights", source="authors' code", per_lane=True, low=0.0
    )
    advantage_clip: float = option(100.0, "largest advantage weight", source="authors' code", low=0.0)
    discount: float = option(0.99, "discount", symbol="γ", source="authors' code", per_lane=True, low=0.0, high=1.0)
    target_rate: float = option(
        0.005, "Polyak rate of the target critics", source="authors' code", per_lane=True, low=0.0, high=1.0
    )
    huber: float = option(20.0, "errors above which the critics' loss is linear", source="authors' code", low=0.0)
    learning_rate: float = option(
        3e-4, "Adam's rate of V, Q and policy", source="authors' code", per_lane=True, low=0.0
    )
    cosine: bool = option(True, "anneal the policy's rate to zero over training", source="authors' code")
    hidden: tuple[int, ...] = option((256, 256), "hidden widths of V, Q and policy", source="authors' code")


@dataclass(frozen=True)
class XQLConfig(DualRLConfig):
    """Settings of XQL; the defaults are its "consistent" ones, equal for all locomotion datasets."""

    temperature: float = option(
        2.0, "temperature of the Gumbel regression", symbol="β", source="authors' code", per_lane=True, low=1e-6
    )
    clip: float = option(7.0, "bound of the scaled advantage in the exponent", source="authors' code", low=0.0)


class XQL(Algorithm):
    """Extreme Q-learning: V is the log-sum-exp of Q under the behaviour, fitted by Gumbel regression.

    V (equation 11): E[exp(z - m) - z exp(-m) - exp(-m)], z = min((min_i Q'_i(s,a) - V(s)) / beta, clip), with
    m = max(-1, largest z of the batch) held constant for stability. Then, with the V just updated, the policy:
    E[-min(exp(eta (min_i Q'_i - V)), 100) log pi(a|s)], and Q: the sum of Huber(r + gamma (1-d) V(s') - Q_i(s,a)) over
    both critics. V has layer normalization before its activations. The policy is a Gaussian with tanh mean.
    """

    name = "xql"
    title = "XQL"
    paper = "Garg et al., Extreme Q-Learning: MaxEnt RL without Entropy, ICLR 2023, arXiv 2301.02328"
    config_class: ClassVar[type[DualRLConfig]] = XQLConfig
    requires = Requires(actions=frozenset({"continuous"}))
    config: DualRLConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.value = self.network("value", (observation, *hidden, 1), norm="before")
        self.critic, self.target_critic = self.network(
            "critic", (observation + action, *hidden, 1), members=2, target=True
        )
        self.actor = self.network("actor", (observation, *hidden, action))
        self.log_std = self.tensor("log_std", torch.zeros(self.lanes, action))
        rates = self.values_of("learning_rate")
        self.value_optimizer, self.optimizer_of_rest = self.optimizer("value"), self.optimizer("rest")
        self.value_optimizer.add([self.value.flat], rates)
        self.optimizer_of_rest.add([self.critic.flat], rates)
        steps = self.total_updates if self.config.cosine else None
        self.optimizer_of_rest.add([self.actor.flat, self.log_std], rates, cosine_steps=steps)
        self.policy_temperature = self.value_of("policy_temperature")
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")
        self.prepare()

    def prepare(self) -> None:
        """Read the settings of the value's loss."""
        self.temperature = self.value_of("temperature")

    # --- losses ---

    def value_loss(self, advantage: Tensor) -> Tensor:
        """Gumbel regression of advantages min_i Q'_i(s,a) - V(s) [L, B], [L]."""
        z = (advantage / self.temperature).clamp(max=self.config.clip)  # type: ignore[attr-defined]
        largest = z.detach().amax(1, keepdim=True).clamp(min=-1.0)
        scale = torch.exp(-largest)
        return (torch.exp(z - largest) - z * scale - scale).mean(1)

    def critic_loss(self, batch: Batch) -> Tensor:
        """Huber loss against V of the next observation, summed over both critics, [L]."""
        next_v = self.value.detached(batch["next_observations"]).squeeze(-1)
        target = batch["rewards"] + self.discount * batch["continues"] * next_v
        q = self.critic(batch["observation_actions"]).squeeze(-1)
        target = target.unsqueeze(1).expand_as(q)
        return functional.huber_loss(q, target, reduction="none", delta=self.config.huber).mean(2).sum(1)

    def actor_loss(self, batch: Batch, advantage: Tensor) -> Tensor:
        """Imitation weighted by advantage, [L]."""
        weight = torch.exp(self.policy_temperature * advantage).clamp_(max=self.config.advantage_clip)
        mean = torch.tanh(self.actor(batch["observations"]))
        return -(weight * log_density(batch["actions"], mean, self.log_std.clamp(-5.0, 2.0).unsqueeze(1))).mean(1)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        target_q = self.target_critic.detached(batch["observation_actions"]).squeeze(-1).amin(1)
        value_loss = self.value_loss(target_q - self.value(batch["observations"]).squeeze(-1))
        self.value_optimizer.minimize(value_loss.sum())

        advantage = target_q - self.value.detached(batch["observations"]).squeeze(-1)
        actor_loss, critic_loss = self.actor_loss(batch, advantage), self.critic_loss(batch)
        self.optimizer_of_rest.minimize((actor_loss + critic_loss).sum())
        self.target_critic.track(self.critic, self.target_rate)
        return {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
        }

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.actor.detached(observations).tanh_()


@dataclass(frozen=True)
class DVLConfig(DualRLConfig):
    """Settings of f-DVL."""

    divergence: Literal["chi_square", "total_variation"] = option(
        "chi_square", "divergence from the data's distribution", symbol="f", source="authors' README, locomotion"
    )
    optimism: float = option(
        0.7,
        "weight of positive advantages against the linear term",
        symbol="λ",
        source="offbench; the authors' code defaults to 1, where V has no lower anchor",
        per_lane=True,
        low=0.0,
        high=1.0,
    )


class DVL(XQL):
    """f-DVL: XQL whose value's loss comes from a divergence with a gentler surrogate than the exponential.

    V: E[lambda f*(u) - (1 - lambda) u], u = min_i Q'_i(s,a) - V(s); f*(u) = u+ + u+^2 / 4 for chi-square and u+ for
    total variation, u+ = max(u, 0). (The authors write max(u + u^2/4, 0), which is the same down to u = -4 and rises
    again below.) Everything else is XQL.
    """

    name = "dvl"
    title = "f-DVL"
    paper = (
        "Sikchi et al., Dual RL: Unification and New Methods for Reinforcement and Imitation Learning, ICLR 2024, "
        "arXiv 2302.08560"
    )
    config_class = DVLConfig
    config: DVLConfig

    def prepare(self) -> None:
        self.optimism = self.value_of("optimism")

    # --- losses ---

    def value_loss(self, advantage: Tensor) -> Tensor:
        """The dual objective of advantages [L, B], [L]."""
        positive = advantage.relu()
        conjugate = positive + positive.square() / 4 if self.config.divergence == "chi_square" else positive
        return (self.optimism * conjugate - (1 - self.optimism) * advantage).mean(1)
