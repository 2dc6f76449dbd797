"""CQL: critics that are pushed down on the policy's actions and up on the data's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.gaussian import squashed_sample
from offbench.algorithms.hl_gauss import GaussianHistogram


@dataclass(frozen=True)
class CQLConfig(Config):
    """Settings of CQL(H); defaults are CORL's for locomotion."""

    conservatism: float = option(
        10.0, "weight of the conservative term", symbol="α", source="CORL, locomotion", per_lane=True, low=0.0
    )
    lagrange: bool = option(
        False, "tune a multiplier of the term so that the gap holds", source="paper, section 3.2; off on locomotion"
    )
    gap: float = option(0.8, "wanted gap of the term with lagrange", symbol="τ", source="CORL, antmaze", per_lane=True)
    max_backup: bool = option(
        False, "bootstrap from the best of several actions", source="authors' code; on for antmaze"
    )
    actions: int = option(10, "sampled actions of each kind", source="authors' code", low=1)
    clip_difference: float | None = option(
        None, "lower bound of the term per transition", source="CORL; -200 on antmaze"
    )
    discount: float = option(0.99, "discount", symbol="γ", source="paper, appendix F", per_lane=True, low=0.0, high=1.0)
    target_rate: float = option(
        0.005,
        "Polyak rate of the target critics",
        source="paper, appendix F",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    actor_learning_rate: float = option(
        3e-5, "Adam's rate of actor and entropy temperature", source="CORL, locomotion", per_lane=True, low=0.0
    )
    critic_learning_rate: float = option(
        3e-4, "Adam's rate of critics and multiplier", source="paper, appendix F", per_lane=True, low=0.0
    )
    hidden: tuple[int, ...] = option((256, 256, 256), "hidden widths of the actor", source="CORL")
    critic_hidden: tuple[int, ...] = option(
        (256, 256, 256), "hidden widths of the critics; five on antmaze", source="CORL"
    )
    minto: bool = option(
        False,
        "bootstrap from the smaller of target and online critics in place of the target critics",
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


class CQL(Algorithm):
    """Soft actor-critic with the conservative regularizer CQL(H) (equation 4), for continuous actions.

    Critics: y = r + gamma (1-d) min_i Q'_i(s', a') (no entropy); L = sum_i E[(Q_i(s,a) - y)^2] +
    alpha E[log sum_j exp(Q_i(s,a_j) - log mu(a_j)) - Q_i(s,a)], with a_j uniform (mu = 2^-A), from pi(.|s) and from
    pi(.|s'), all valued at s, `actions` of each. With `lagrange`, the term is multiplied by alpha', which gradient
    ascent moves so that the term approaches `gap`. Actor: L = E[eta log pi(a~|s) - min_i Q_i(s,a~)], its temperature
    eta tuned towards the entropy -A. All losses use the values from before the update.

    Two switches are not the paper's. `minto`: y sees min(Q'_i, Q_i) in place of Q'_i. `critic_loss: hl_gauss`: a
    critic's output is a histogram whose mean is Q, and the squared error becomes the cross-entropy with y's.
    """

    name = "cql"
    title = "CQL"
    paper = "Kumar et al., Conservative Q-Learning for Offline Reinforcement Learning, NeurIPS 2020, arXiv 2006.04779"
    config_class = CQLConfig
    requires = Requires(actions=frozenset({"continuous"}))
    config: CQLConfig

    def build(self) -> None:
        observation, action, config = self.space.observation_size, self.space.action_size, self.config
        self.actor = self.network("actor", (observation, *config.hidden, 2 * action), last=self._actor_bound())
        # The actor's log std is scale * output + offset, both learned (authors' code).
        self.std_scale = self.tensor("std_scale", torch.ones(self.lanes, 1))
        self.std_offset = self.tensor("std_offset", torch.full((self.lanes, 1), -1.0))
        self.histogram, width = None, 1
        if config.critic_loss == "hl_gauss":
            self.histogram, width = GaussianHistogram.of(config, self.device), config.bins
        self.critic, self.target_critic = self.network(
            "critic", (observation + action, *config.critic_hidden, width), members=2, target=True, start="orthogonal"
        )
        self.log_temperature = self.tensor("log_temperature", torch.zeros(self.lanes, 1))
        self.adam = self.optimizer("all")
        actor_rates, critic_rates = self.values_of("actor_learning_rate"), self.values_of("critic_learning_rate")
        self.adam.add([self.actor.flat, self.std_scale, self.std_offset, self.log_temperature], actor_rates)
        self.adam.add([self.critic.flat], critic_rates)
        if config.lagrange:
            self.log_multiplier = self.tensor("log_multiplier", torch.ones(self.lanes, 1))
            self.adam.add([self.log_multiplier], critic_rates)
        self.conservatism, self.gap = self.scalar_of("conservatism"), self.value_of("gap")
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")

    def _actor_bound(self) -> float:
        """Bound of the actor's last layer: Glorot's with gain 0.01 (authors' code)."""
        return 1e-2 * math.sqrt(6.0 / (self.config.hidden[-1] + 2 * self.space.action_size))

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        one = (batch_size, 1, self.space.action_size)
        many = (batch_size, self.config.actions, self.space.action_size)
        return {
            "action": NoiseSpec(one),
            "backup_action": NoiseSpec(many if self.config.max_backup else one),
            "uniform_action": NoiseSpec(many, "uniform"),
            "current_action": NoiseSpec(many),
            "next_action": NoiseSpec(many),
        }

    # --- losses ---

    def policy_at(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std [L, B, 1, A] from the actor's output; the axis of one is for several samples."""
        mean, raw = output.unsqueeze(2).chunk(2, -1)
        log_std = self.std_scale[:, :, None, None] * raw + self.std_offset[:, :, None, None]
        return mean, log_std.clamp(-20.0, 2.0)

    @staticmethod
    def pairs(observations: Tensor, actions: Tensor) -> Tensor:
        """Critic inputs [L, B*n, S+A] from observations [L, B, S] and actions [L, B, n, A]."""
        repeated = observations.unsqueeze(2).expand(-1, -1, actions.shape[2], -1)
        return torch.cat([repeated, actions], -1).flatten(1, 2)

    def values(self, output: Tensor) -> Tensor:
        """Q_i [L, 2, B] from the critics' output [L, 2, B, 1 or bins]."""
        return output.squeeze(-1) if self.histogram is None else self.histogram.expected(output)

    def target_value(self, batch: Batch, actions: Tensor) -> Tensor:
        """y [L, B] from one or several next actions [L, B, n, A]: the best of them by the smaller target critic."""
        pairs = self.pairs(batch["next_observations"], actions)
        next_q = self.values(self.target_critic.detached(pairs))
        if self.config.minto:
            next_q = torch.minimum(next_q, self.values(self.critic.detached(pairs)))
        best = next_q.amin(1).view(*batch["rewards"].shape, -1).amax(-1)
        return batch["rewards"] + self.discount * batch["continues"] * best

    def critic_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The critics' loss against a target [L, B], summed over them, [L]."""
        if self.histogram is not None:
            return self.histogram.cross_entropy(output, target.unsqueeze(1)).mean(2).sum(1)
        return (output.squeeze(-1) - target.unsqueeze(1)).square().mean(2).sum(1)

    def conservative_term(self, batch: Batch, q: Tensor, actions: Tensor, log_densities: Tensor) -> Tensor:
        """E[log sum_j exp(Q_i(s, a_j) - log mu(a_j)) - Q_i(s, a)] of both critics, [L, 2].

        Args:
            q: [L, 2, B], Q_i(s, a) at the data's actions.
            actions: [L, B, n, A], the sampled actions.
            log_densities: [L, B, n], those of the distributions that the actions are from.
        """
        sampled = self.values(self.critic(self.pairs(batch["observations"], actions)))
        weighted = sampled.view(*q.shape, -1) - log_densities.unsqueeze(1)
        difference = weighted.logsumexp(-1) - q
        if self.config.clip_difference is not None:
            difference = difference.clamp(min=self.config.clip_difference)
        return difference.mean(2)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        mean, log_std = self.policy_at(self.actor(batch["observations"]))
        actions, log_density = squashed_sample(mean, log_std, noise["action"])
        actions, log_density = actions.squeeze(2), log_density.squeeze(2)
        temperature_loss = -(self.log_temperature * (log_density.detach() - self.space.action_size)).mean(1)
        q_new = self.values(self.critic.frozen(torch.cat([batch["observations"], actions], -1))).amin(1)
        actor_loss = (self.log_temperature.detach().exp() * log_density - q_new).mean(1)

        with torch.no_grad():
            next_mean, next_log_std = self.policy_at(self.actor.detached(batch["next_observations"]))
            target = self.target_value(batch, squashed_sample(next_mean, next_log_std, noise["backup_action"])[0])
            current, current_density = squashed_sample(mean, log_std, noise["current_action"])
            following, following_density = squashed_sample(next_mean, next_log_std, noise["next_action"])
            uniform = 2.0 * noise["uniform_action"] - 1.0
            uniform_density = torch.full_like(current_density, -self.space.action_size * math.log(2.0))
            sampled = torch.cat([uniform, following, current], 2)
            densities = torch.cat([uniform_density, following_density, current_density], 2)
        output = self.critic(batch["observation_actions"])
        td_loss = self.critic_loss(output, target)
        term = self.conservative_term(batch, self.values(output), sampled, densities)
        loss = actor_loss + temperature_loss + td_loss
        if self.config.lagrange:
            multiplier = self.log_multiplier.exp().clamp(0.0, 1e6).squeeze(1)
            excess = (term - self.gap).sum(1) * self.conservatism
            # The critics descend, the multiplier ascends by half of it (authors' code).
            loss = loss + multiplier.detach() * excess - 0.5 * multiplier * excess.detach()
        else:
            loss = loss + self.conservatism * term.sum(1)
        self.adam.minimize(loss.sum())
        self.target_critic.track(self.critic, self.target_rate)
        metrics = {
            "critic_loss": td_loss.detach(),
            "conservative_term": term.detach().mean(1),
            "actor_loss": actor_loss.detach(),
            "temperature": self.log_temperature.detach().exp().squeeze(1),
        }
        if self.histogram is not None:
            metrics["targets_outside"] = self.histogram.outside(target)
        return metrics

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.actor.detached(observations).chunk(2, -1)[0].tanh()
