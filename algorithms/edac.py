"""EDAC: SAC-N with an ensemble that is kept diverse, so that fewer critics are pessimistic enough."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offbench.algorithms.base import Batch, option
from offbench.algorithms.sac_n import SACN, SACNConfig


@dataclass(frozen=True)
class EDACConfig(SACNConfig):
    """Settings of EDAC; defaults are the paper's for halfcheetah and walker2d medium and medium-replay."""

    diversity: float = option(
        1.0, "weight of the diversity term", symbol="η", source="paper, appendix; per task", per_lane=True, low=0.0
    )


class EDAC(SACN):
    """SAC-N whose critics' gradients with respect to the action are pushed apart.

    The critics' loss gains eta / (N-1) E[sum_{i != j} <g_i, g_j>], g_i the unit vector along grad_a Q_i(s,a) at the
    data's actions (equation 4 of the paper and its surrogate). The squared errors are summed over the critics before
    it is added.
    """

    name = "edac"
    title = "EDAC"
    config_class = EDACConfig
    config: EDACConfig

    def build(self) -> None:
        super().build()
        self.diversity = self.scalar_of("diversity")

    # --- losses ---

    def similarity(self, batch: Batch) -> Tensor:
        """Mean over the batch of the cosines between the critics' action gradients, summed over pairs, [L]."""
        gradients = self.critic.input_gradient(batch["observation_actions"])[..., self.space.observation_size :]
        unit = gradients / (gradients.norm(dim=-1, keepdim=True) + 1e-10)
        # sum over pairs i != j of <g_i, g_j> = |sum g|^2 - sum |g_i|^2
        pairs = unit.sum(1).square().sum(-1) - unit.square().sum((1, 3))
        return pairs.mean(1) / (self.config.critics - 1)

    def critic_loss(self, batch: Batch, target: Tensor) -> Tensor:
        """Squared error summed over the critics, and the diversity term, [L]."""
        return super().critic_loss(batch, target) + self.diversity * self.similarity(batch)
