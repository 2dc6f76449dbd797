"""MCE: Monte-Carlo estimation, a regression on the data's returns-to-go, acted on greedily once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from offbench.algorithms.base import Batch, Requires, option
from offbench.algorithms.dqn import DQN, DQNConfig


@dataclass(frozen=True)
class MCEConfig(DQNConfig):
    """Settings of MCE; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    # The returns are computed once for all lanes.
    discount: float = option(0.95, "discount", symbol="γ", source="dataset perspective", low=0.0, high=1.0)


class MCE(DQN):
    """Q(s,a) is regressed on the discounted return-to-go of the row, with the Huber loss.

    Returns end with the episode, also where a time limit cut it: MCE does not bootstrap. Double and target settings
    have no effect.
    """

    name = "mce"
    title = "MCE"
    paper = (
        "Monte-Carlo estimation as in Schweighofer et al., A Dataset Perspective on Offline Reinforcement Learning, "
        "CoLLAs 2022, arXiv 2111.04714"
    )
    offers_minto = False
    config_class = MCEConfig
    requires = Requires(actions=frozenset({"discrete"}), next_observations=False, return_discount=0.95)
    config: MCEConfig

    @classmethod
    def needs(cls, config: Any) -> Requires:
        return replace(cls.requires, return_discount=config.discount)

    # --- losses ---

    def target_value(self, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """The return-to-go [L, B]."""
        return batch["returns"]
