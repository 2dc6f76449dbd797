"""RIQL: IQL that withstands corrupted data, by Huber loss and a quantile over an ensemble of critics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from offbench.algorithms.base import Batch, option
from offbench.algorithms.iql import IQL, IQLConfig
from offbench.errors import SpecError


@dataclass(frozen=True)
class RIQLConfig(IQLConfig):
    """Settings of RIQL; defaults are those of the authors' code where no attack is named."""

    policy: Literal["gaussian", "deterministic"] = option(
        "deterministic", "continuous policy: the mean alone, or a Gaussian with tanh mean", source="authors' code"
    )
    huber: bool = option(True, "the critics' loss is Huber's; off: squared error as in IQL", source="paper")
    sigma: float = option(
        1.0,
        "the Huber loss turns linear at errors of 1/sigma^2",
        symbol="σ",
        source="authors' code; per attack",
        per_lane=True,
        low=1e-6,
    )
    ensemble: bool = option(
        True,
        "value by a quantile over `critics` critics; off: the smaller of two as in IQL",
        source="paper",
    )
    critics: int = option(5, "critics in the ensemble", symbol="K", source="authors' code; per attack", low=1)
    quantile: float = option(
        0.25,
        "quantile over the target critics",
        symbol="α",
        source="authors' code; per attack",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    clip_targets: bool = option(
        True, "clip the critics' targets; turn it off where values lie outside the bounds", source="authors' code"
    )
    target_low: float = option(-100.0, "lower bound of the critics' targets", source="authors' code")
    target_high: float = option(1000.0, "upper bound of the critics' targets", source="authors' code")
    edac_start: bool = option(
        True, "critics start with hidden biases 0.1 and a last layer within 3e-3", source="authors' code"
    )


class RIQL(IQL):
    """IQL with three changes, each a switch; with all of them off it is IQL, bit for bit.

    1. Observations are standardized by statistics over s and s' of the data as they are, corruption included. This is
       preprocessing (`observations: standardize_transitions`), set by the presets.
    2. `huber`: Q minimizes l(u) = u^2 / (2 b) where |u| < b and |u| - b/2 elsewhere, b = 1/sigma^2, so
       that a corrupted reward or next observation pulls with a bounded force.
    3. `ensemble`: V and the policy's weights see the quantile alpha over K target critics, interpolated linearly
       between them, in place of the minimum of two.

    Beyond the paper's text, the authors' code clips the critics' targets and starts the critics as EDAC does; both are
    switches, too. Discrete actions work as in IQL and are not in the paper.
    """

    name = "riql"
    title = "RIQL"
    paper = (
        "Yang et al., Towards Robust Offline Reinforcement Learning under Diverse Data Corruption, ICLR 2024, "
        "arXiv 2310.12955"
    )
    config_class = RIQLConfig
    config: RIQLConfig

    def build(self) -> None:
        if self.config.huber and self.config.critic_loss == "hl_gauss":
            raise SpecError(
                "RIQL's critics cannot have the Huber loss and classify histograms",
                "the cross-entropy takes the place of the loss of an error",
                "set huber to false",
            )
        super().build()
        sigma = self.value_of("sigma")
        self.threshold = 1.0 / sigma**2 if isinstance(sigma, float) else 1.0 / sigma.square().unsqueeze(1)
        # The quantile is a weighted sum of the sorted values: two neighbours share the weight of one.
        ranks = torch.arange(self.config.critics, device=self.device)
        position = torch.tensor(self.values_of("quantile"), device=self.device) * (self.config.critics - 1)
        self.rank_weights = (1.0 - (ranks - position.unsqueeze(1)).abs()).clamp(min=0.0).unsqueeze(-1)  # [L, K, 1]

    def critic_options(self) -> dict[str, Any]:
        start: dict[str, Any] = {"start": "edac", "last": 3e-3} if self.config.edac_start else {}
        return {"members": self.config.critics if self.config.ensemble else 2, **start}

    # --- losses ---

    def pessimistic(self, q: Tensor) -> Tensor:
        if not self.config.ensemble:
            return super().pessimistic(q)
        return (q.sort(1).values * self.rank_weights).sum(1)

    def target_value(self, batch: Batch, next_v: Tensor) -> Tensor:
        target = super().target_value(batch, next_v)
        return target.clamp(self.config.target_low, self.config.target_high) if self.config.clip_targets else target

    def regression_loss(self, error: Tensor) -> Tensor:
        if not self.config.huber:
            return super().regression_loss(error)
        size = error.abs()
        inside = size.clamp(max=self.threshold)
        return inside * (size - 0.5 * inside) / self.threshold
