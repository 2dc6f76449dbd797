"""CQL for discrete actions: DQN whose values of all actions are pushed below that of the data's action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Batch, option
from offbench.algorithms.dqn import DQN, DQNConfig
from offbench.algorithms.hl_gauss import GaussianHistogram


@dataclass(frozen=True)
class DiscreteCQLConfig(DQNConfig):
    """Settings of discrete CQL; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    conservatism: float = option(
        0.1,
        "weight of the conservative term",
        symbol="α",
        source="dataset perspective; 4.0 in d3rlpy's Atari recipe",
        per_lane=True,
        low=0.0,
    )
    critic_loss: Literal["huber", "hl_gauss"] = option(
        "huber",
        "the critic regresses, or classifies histograms of values",
        source="dataset perspective; hl_gauss: Farebrother et al. 2024, arXiv 2403.03950",
    )
    bins: int = option(101, "with hl_gauss: bins of a value", source="Farebrother et al., Atari", low=2)
    value_low: float = option(-10.0, "with hl_gauss: smallest value; scale rewards to fit", source="the same")
    value_high: float = option(10.0, "with hl_gauss: largest value", source="the same")
    bin_smoothing: float = option(
        0.75, "with hl_gauss: std of a target's Gaussian in widths of a bin", symbol="σ/ς", source="the same", low=1e-3
    )


class DiscreteCQL(DQN):
    """DQN with CQL(H)'s regularizer: L = E[huber(Q(s,a) - y)] + alpha E[log sum_a' exp Q(s,a') - Q(s,a)].

    With `critic_loss: hl_gauss` the critic's output is a histogram per action whose mean is Q, and the Huber loss
    becomes the cross-entropy with y's histogram.
    """

    name = "discrete_cql"
    title = "CQL (discrete)"
    paper = "Kumar et al., Conservative Q-Learning for Offline Reinforcement Learning, NeurIPS 2020, arXiv 2006.04779"
    config_class = DiscreteCQLConfig
    config: DiscreteCQLConfig

    def build(self) -> None:
        hl_gauss = self.config.critic_loss == "hl_gauss"
        self.histogram = GaussianHistogram.of(self.config, self.device) if hl_gauss else None
        super().build()
        self.conservatism = self.scalar_of("conservatism")

    def outputs(self) -> int:
        return self.space.action_size * (1 if self.histogram is None else self.histogram.bins)

    # --- losses ---

    def values(self, output: Tensor) -> Tensor:
        if self.histogram is None:
            return output
        return self.histogram.expected(output.unflatten(-1, (self.space.action_size, -1)))

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        target = self.target_value(batch, noise)
        output = self.critic(batch["observations"])
        values = self.values(output)
        q = self.chosen(values, batch["actions"])
        if self.histogram is None:
            error = functional.smooth_l1_loss(q, target, reduction="none")
        else:
            heads = output.unflatten(-1, (self.space.action_size, -1))
            index = batch["actions"][..., None, None].expand(-1, -1, 1, heads.shape[-1])
            error = self.histogram.cross_entropy(heads.gather(2, index).squeeze(2), target)
        return {
            "critic_loss": error.mean(1),
            "conservative_term": self.conservatism * (values.logsumexp(-1) - q).mean(1),
        }
