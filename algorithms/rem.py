"""REM: random ensemble mixture, DQN on random convex combinations of many heads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Batch, NoiseSpec, option
from offbench.algorithms.dqn import DQN, DQNConfig


@dataclass(frozen=True)
class REMConfig(DQNConfig):
    """Settings of REM; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    heads: int = option(200, "heads", symbol="K", source="paper, section 4", low=1)
    shared_mixture: bool = option(
        True,
        "one mixture per update for all networks; off, each network's evaluation draws its own",
        source="paper, equation 5; off in the code of the dataset perspective",
    )


class REM(DQN):
    """DQN whose value is sum_k alpha_k Q_k, alpha drawn anew from the simplex in every update.

    alpha_k = u_k / sum u, u uniform, the same for online and target networks (equation 5 of the paper). Acts greedily
    by the heads' mean.
    """

    name = "rem"
    title = "REM"
    paper = "Agarwal et al., An Optimistic Perspective on Offline Reinforcement Learning, ICML 2020, arXiv 1907.04543"
    offers_minto = False
    config_class = REMConfig
    config: REMConfig

    def outputs(self) -> int:
        return self.space.action_size * self.config.heads

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        # One mixture each for Q(s, .), Q'(s', .) and the choice of the next action.
        return {"mixture": NoiseSpec((3, self.config.heads), "uniform")}

    # --- losses ---

    def mixed(self, output: Tensor, mixture: Tensor) -> Tensor:
        """Q [L, B, actions] from the critic's output and a mixture [L, heads] that need not be normalized."""
        weight = mixture / mixture.sum(-1, keepdim=True)
        return (output.unflatten(-1, (self.space.action_size, -1)) * weight[:, None, None]).sum(-1)

    def values(self, output: Tensor) -> Tensor:
        """Q [L, B, actions], the heads' mean."""
        return output.unflatten(-1, (self.space.action_size, -1)).mean(-1)

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        first, second, third = noise["mixture"].unbind(1)
        if self.config.shared_mixture:
            second = third = first
        next_q = self.mixed(self.target_critic.detached(batch["next_observations"]), second)
        choice = next_q
        if self.config.double:
            choice = self.mixed(self.critic.detached(batch["next_observations"]), third)
        target = batch["rewards"] + self.discount * batch["continues"] * self.chosen(next_q, choice.argmax(-1))
        q = self.chosen(self.mixed(self.critic(batch["observations"]), first), batch["actions"])
        return {"critic_loss": functional.smooth_l1_loss(q, target, reduction="none").mean(1)}
