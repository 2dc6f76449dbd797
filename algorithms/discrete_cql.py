"""CQL for discrete actions: DQN whose values of all actions are pushed below that of the data's action."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Batch, option
from offbench.algorithms.dqn import DQN, DQNConfig


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


class DiscreteCQL(DQN):
    """DQN with CQL(H)'s regularizer: L = E[huber(Q(s,a) - y)] + alpha E[log sum_a' exp Q(s,a') - Q(s,a)]."""

    name = "discrete_cql"
    title = "CQL (discrete)"
    paper = "Kumar et al., Conservative Q-Learning for Offline Reinforcement Learning, NeurIPS 2020, arXiv 2006.04779"
    config_class = DiscreteCQLConfig
    config: DiscreteCQLConfig

    def build(self) -> None:
        super().build()
        self.conservatism = self.scalar_of("conservatism")

    # --- losses ---

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        target = self.target_value(batch, noise)
        values = self.critic(batch["observations"])
        q = self.chosen(values, batch["actions"])
        return {
            "critic_loss": functional.smooth_l1_loss(q, target, reduction="none").mean(1),
            "conservative_term": self.conservatism * (values.logsumexp(-1) - q).mean(1),
        }
