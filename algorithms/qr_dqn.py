"""QR-DQN: the quantiles of the return's distribution, learned by quantile regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Batch, option
from offbench.algorithms.dqn import DQN, DQNConfig


@dataclass(frozen=True)
class QRDQNConfig(DQNConfig):
    """Settings of QR-DQN; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    quantiles: int = option(50, "quantiles per action", symbol="N", source="dataset perspective", low=2)
    levels: Literal["midpoints", "upper"] = option(
        "midpoints",
        "levels (2i-1)/2N of the paper, or i/N as in the code of the dataset perspective",
        source="Dabney et al. 2018, lemma 2",
    )


class QRDQN(DQN):
    """DQN on N quantiles per action; the action's value is their mean.

    y_j = r + gamma (1-d) theta'_j(s', a*), a* greedy by the online means (or the target's with `double` off);
    L = sum_i E_j[|tau_i - 1(u_ij < 0)| huber(u_ij)], u_ij = y_j - theta_i(s,a) (equation 10 of the paper).
    """

    name = "qr_dqn"
    title = "QR-DQN"
    paper = "Dabney et al., Distributional Reinforcement Learning with Quantile Regression, AAAI 2018, arXiv 1710.10044"
    offers_minto = False
    config_class = QRDQNConfig
    config: QRDQNConfig

    def build(self) -> None:
        super().build()
        count = self.config.quantiles
        shift = 0.5 if self.config.levels == "midpoints" else 0.0
        self.quantile_levels = (torch.arange(1, count + 1, device=self.device) - shift) / count

    def outputs(self) -> int:
        return self.space.action_size * self.config.quantiles

    # --- losses ---

    def quantiles(self, output: Tensor) -> Tensor:
        """theta [L, B, actions, N] from the critic's output."""
        return output.unflatten(-1, (self.space.action_size, self.config.quantiles))

    def values(self, output: Tensor) -> Tensor:
        """Q [L, B, actions], the means of the quantiles."""
        return self.quantiles(output).mean(-1)

    def chosen_quantiles(self, output: Tensor, actions: Tensor) -> Tensor:
        """theta [L, B, N] of actions [L, B]."""
        index = actions[..., None, None].expand(-1, -1, 1, self.config.quantiles)
        return self.quantiles(output).gather(2, index).squeeze(2)

    def quantile_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Quantile Huber loss [L] of predicted [L, B, N] against samples target [L, B, M]."""
        difference = target.unsqueeze(2) - predicted.unsqueeze(3)  # [L, B, N, M]
        huber = functional.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        weight = (self.quantile_levels[:, None] - (difference.detach() < 0).to(huber.dtype)).abs()
        return (weight * huber).mean(3).sum(2).mean(1)

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self.target_critic.detached(batch["next_observations"])
        following = self.chosen_quantiles(output, self.next_actions(batch, output))
        discounted = (self.discount * batch["continues"]).unsqueeze(-1)
        target = batch["rewards"].unsqueeze(-1) + discounted * following
        predicted = self.chosen_quantiles(self.critic(batch["observations"]), batch["actions"])
        return {"critic_loss": self.quantile_loss(predicted, target)}
