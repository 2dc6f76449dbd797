"""BVE: behaviour value estimation, the value of the policy that collected the data, acted on greedily once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offbench.algorithms.base import Batch, Requires, option
from offbench.algorithms.dqn import DQN, DQNConfig


@dataclass(frozen=True)
class BVEConfig(DQNConfig):
    """Settings of BVE; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    target_network: bool = option(
        False, "bootstrap from the target network instead of the online one", source="dataset perspective: off"
    )


class BVE(DQN):
    """SARSA on the data's own next actions: y = r + gamma (1-d) Q(s', a'), a' what the data did in s'.

    No maximum is taken while learning, so nothing is overestimated; acting greedily is one step of improvement.
    """

    name = "bve"
    title = "BVE"
    paper = (
        "Gulcehre et al., Regularized Behavior Value Estimation, arXiv 2103.09575; as in Schweighofer et al., "
        "CoLLAs 2022, arXiv 2111.04714"
    )
    offers_minto = False
    config_class = BVEConfig
    requires = Requires(actions=frozenset({"discrete"}), next_actions=True)
    config: BVEConfig

    # --- losses ---

    def target_value(self, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """y [L, B], from the action that the data took in s'."""
        network = self.target_critic if self.config.target_network else self.critic
        next_q = self.chosen(network.detached(batch["next_observations"]), batch["next_actions"])
        return batch["rewards"] + self.discount * batch["continues"] * next_q
