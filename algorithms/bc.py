"""Behaviour cloning: imitate the dataset's actions, without regard to rewards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Algorithm, Batch, EncoderConfig, Requires, option


@dataclass(frozen=True)
class BCConfig(EncoderConfig):
    """Settings of behaviour cloning."""

    learning_rate: float = option(3e-4, "Adam's rate", source="CORL any_percent_bc", per_lane=True, low=0.0)
    hidden: tuple[int, ...] = option((256, 256), "hidden widths of the policy", source="CORL any_percent_bc")


@dataclass(frozen=True)
class PercentBCConfig(BCConfig):
    """Settings of behaviour cloning on the best trajectories."""

    fraction: float = option(
        0.1, "share of the trajectories, those of the highest return", source="Chen et al. 2021", low=0.0, high=1.0
    )


class BC(Algorithm):
    """Supervised regression on the dataset's actions; cross-entropy where they are discrete.

    Continuous: minimize E[(pi(s) - a)^2], averaged over action dimensions, pi = tanh(MLP). Discrete: minimize
    E[-log pi(a|s)]; acts by the most probable action. Every transition is used, also where s' is unknown.
    """

    name = "bc"
    title = "BC"
    paper = "Pomerleau, ALVINN, NIPS 1988; as the baseline of Fu et al., D4RL, arXiv 2004.07219"
    config_class: ClassVar[type[BCConfig]] = BCConfig
    requires = Requires(next_observations=False)
    config: BCConfig

    def build(self) -> None:
        sizes = (self.space.observation_size, *self.config.hidden, self.space.action_size)
        self.actor = self.network("actor", sizes, **self.encoder())
        self.actor_optimizer = self.optimizer("actor")
        self.actor_optimizer.add([self.actor.flat], self.values_of("learning_rate"))

    # --- losses ---

    def actor_loss(self, batch: Batch) -> Tensor:
        """Imitation loss of each lane, [L]."""
        output = self.actor(batch["observations"])
        if self.space.discrete:
            loss = functional.cross_entropy(output.flatten(0, 1), batch["actions"].flatten(), reduction="none")
            return loss.view(self.lanes, -1).mean(1)
        return (torch.tanh(output) - batch["actions"]).square().mean((1, 2))

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        actor_loss = self.actor_loss(batch)
        self.actor_optimizer.minimize(actor_loss.sum())
        return {"actor_loss": actor_loss.detach()}

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        output = self.actor.detached(observations)
        return output.argmax(-1) if self.space.discrete else torch.tanh(output)


class PercentBC(BC):
    """Behaviour cloning of whole trajectories: the share of the complete episodes that has the highest return."""

    name = "percent_bc"
    title = "%BC"
    paper = "Chen et al., Decision Transformer, NeurIPS 2021, arXiv 2106.01345 (as a baseline)"
    config_class = PercentBCConfig

    @classmethod
    def needs(cls, config: Any) -> Requires:
        return replace(cls.requires, top_fraction=config.fraction)
