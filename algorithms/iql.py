"""IQL: implicit Q-learning, expectile regression without actions outside the data, for Box and Discrete actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, EncoderConfig, Requires, option
from offbench.algorithms.gaussian import log_density
from offbench.algorithms.hl_gauss import GaussianHistogram
from offbench.errors import IncompatibleError


@dataclass(frozen=True)
class IQLConfig(EncoderConfig):
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
    minto: bool = option(
        False,
        "value by the smaller of target and online critics in place of the target critics",
        source="off in the paper; Hendawy et al. 2025, arXiv 2510.02590",
    )
    critic_loss: Literal["squared", "hl_gauss"] = option(
        "squared",
        "the critics regress, or classify histograms of values",
        source="paper; hl_gauss: Farebrother et al. 2024, arXiv 2403.03950",
    )
    bins: int = option(101, "with hl_gauss: bins of a value", source="Farebrother et al., Atari", low=2)
    value_low: float = option(-10.0, "with hl_gauss: smallest value; scale rewards to fit", source="the same")
    value_high: float = option(10.0, "with hl_gauss: largest value", source="the same")
    bin_smoothing: float = option(
        0.75, "with hl_gauss: std of a target's Gaussian in widths of a bin", symbol="σ/ς", source="the same", low=1e-3
    )


class IQL(Algorithm):
    """Expectile value, one-step critics, and advantage-weighted regression.

    V (equation 5): E[|tau - 1(u<0)| u^2], u = min_i Q'_i(s,a) - V(s). Q (equation 6): E[(r + gamma (1-d) V(s') -
    Q_i(s,a))^2], averaged over both critics. Policy (equation 7): E[-min(exp(beta u), 100) log pi(a|s)]. As in CORL,
    all three losses use the values from before the update, so one optimizer step serves all networks.

    Discrete actions: the critics have one output per action and the policy is categorical; the losses are the same.

    Two switches are not the paper's. `minto`: u sees min(Q'_i, Q_i) in place of Q'_i. `critic_loss: hl_gauss`: a
    critic's output is a histogram whose mean is Q, and its loss the cross-entropy with the target's.
    """

    name = "iql"
    title = "IQL"
    paper = "Kostrikov et al., Offline Reinforcement Learning with Implicit Q-Learning, ICLR 2022, arXiv 2110.06169"
    config_class: ClassVar[type[IQLConfig]] = IQLConfig
    requires = Requires()
    config: IQLConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.histogram, width = None, 1  # outputs of a critic for one action
        if self.config.critic_loss == "hl_gauss":
            self.histogram, width = GaussianHistogram.of(self.config, self.device), self.config.bins
        critic = (
            (observation, *hidden, action * width) if self.space.discrete else (observation + action, *hidden, width)
        )
        encoder = self.encoder()
        if encoder and not self.space.discrete:
            raise IncompatibleError(
                f"{self.title} has no convolutional encoder for continuous actions",
                "its critics read observation and action together",
                "set encoder: mlp",
            )
        self.value = self.network("value", (observation, *hidden, 1), **encoder)
        self.critic, self.target_critic = self.network(
            "critic", critic, target=True, **self.critic_options(), **encoder
        )
        self.actor = self.network("actor", (observation, *hidden, action), **encoder)
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

    def of_actions(self, critics: Tensor, actions: Tensor) -> Tensor:
        """The critics' outputs for actions, [L, 2, B, width], from all of their outputs."""
        if not self.space.discrete:
            return critics
        heads = critics.unflatten(-1, (self.space.action_size, -1))
        index = actions[:, None, :, None, None].expand(-1, heads.shape[1], -1, 1, heads.shape[-1])
        return heads.gather(-2, index).squeeze(-2)

    def action_values(self, critics: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [L, 2, B] from the critics' outputs."""
        output = self.of_actions(critics, actions)
        return output.squeeze(-1) if self.histogram is None else self.histogram.expected(output)

    def pessimistic(self, q: Tensor) -> Tensor:
        """The value [L, B] that stands for those of all critics [L, 2, B]."""
        return q.amin(1)

    def target_value(self, batch: Batch, next_v: Tensor) -> Tensor:
        """What the critics regress on, [L, B]."""
        return batch["rewards"] + self.discount * batch["continues"] * next_v

    def critic_loss(self, critics: Tensor, actions: Tensor, target: Tensor) -> Tensor:
        """The critics' loss [L] against a target [L, B], averaged over critics and batch."""
        output, target = self.of_actions(critics, actions), target.unsqueeze(1)
        if self.histogram is not None:
            return self.histogram.cross_entropy(output, target).mean((1, 2))
        return self.regression_loss(output.squeeze(-1) - target).mean((1, 2))

    def regression_loss(self, error: Tensor) -> Tensor:
        """The loss of every error Q_i(s,a) - target [L, 2, B]."""
        return error.square()

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
        critics = self.critic(inputs)
        q = self.action_values(self.target_critic.detached(inputs), batch["actions"])
        if self.config.minto:
            q = torch.minimum(q, self.action_values(critics.detach(), batch["actions"]))
        next_v = self.value.detached(batch["next_observations"]).squeeze(-1)

        advantage = self.pessimistic(q) - self.value(batch["observations"]).squeeze(-1)
        value_loss = self.expectile_loss(advantage)

        target = self.target_value(batch, next_v)
        critic_loss = self.critic_loss(critics, batch["actions"], target)

        weight = torch.exp(self.temperature * advantage.detach()).clamp_(max=self.config.advantage_clip)
        actor_loss = (weight * self.imitation_loss(batch)).mean(1)

        self.adam.minimize((value_loss + critic_loss + actor_loss).sum())
        self.target_critic.track(self.critic, self.target_rate)
        metrics = {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
        }
        if self.histogram is not None:
            metrics["targets_outside"] = self.histogram.outside(target)
        return metrics

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        output = self.actor.detached(observations)
        return output.argmax(-1) if self.space.discrete else output.tanh_()
