"""DQN: Q-learning with a target network, for discrete actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Algorithm, Batch, EncoderConfig, Requires, option
from offbench.errors import SpecError


@dataclass(frozen=True)
class DQNConfig(EncoderConfig):
    """Settings of DQN; defaults are those of "A Dataset Perspective on Offline Reinforcement Learning"."""

    discount: float = option(
        0.95, "discount", symbol="γ", source="dataset perspective; 0.99 on some tasks", per_lane=True, low=0.0, high=1.0
    )
    learning_rate: float = option(1e-4, "Adam's rate", source="dataset perspective", per_lane=True, low=0.0)
    target_period: int = option(
        100, "updates between copies to the target network", source="dataset perspective", low=1
    )
    double: bool = option(
        True, "choose the next action by the online network (double DQN)", source="dataset perspective"
    )
    minto: bool = option(
        False,
        "bootstrap from max_a' min(Q', Q), in place of double DQN",
        source="off in all the standard settings; Hendawy et al. 2025, arXiv 2510.02590",
    )
    activation: Literal["relu", "selu"] = option("selu", "between the layers", source="dataset perspective")
    hidden: tuple[int, ...] = option((256, 256, 256), "hidden widths", source="dataset perspective")


class DQN(Algorithm):
    """Q-learning on logged transitions, with the Huber loss and a periodically copied target network.

    L = E[huber(Q(s,a) - y)], y = r + gamma (1-d) Q'(s', argmax_a' Q(s',a')) (van Hasselt et al. 2016), or
    max_a' Q'(s',a') with `double` off (Mnih et al. 2015), or max_a' min(Q'(s',a'), Q(s',a')) with `minto` (Hendawy et
    al. 2025). Acts greedily.
    """

    name = "dqn"
    title = "DQN"
    paper = (
        "Mnih et al., Human-level control through deep reinforcement learning, Nature 2015; offline as in "
        "Schweighofer et al., A Dataset Perspective on Offline Reinforcement Learning, CoLLAs 2022, arXiv 2111.04714"
    )
    config_class: ClassVar[type[DQNConfig]] = DQNConfig
    requires = Requires(actions=frozenset({"discrete"}))
    policy_networks: ClassVar[tuple[str, ...]] = ("critic",)
    offers_minto: ClassVar[bool] = True  # no: heirs whose target is not the value of a greedy action
    config: DQNConfig

    def build(self) -> None:
        if self.config.minto and not self.offers_minto:
            raise SpecError(f"{self.title} has no minto", "its targets are no values of greedy actions", "set it false")
        sizes = (self.space.observation_size, *self.config.hidden, self.outputs())
        self.critic, self.target_critic = self.network(
            "critic", sizes, target=True, activation=self.config.activation, start="kaiming", **self.encoder()
        )
        self.adam = self.optimizer("critic")
        self.adam.add([self.critic.flat], self.values_of("learning_rate"))
        self.discount = self.value_of("discount")

    def outputs(self) -> int:
        """Width of the critic's output."""
        return self.space.action_size

    # --- losses ---

    def values(self, output: Tensor) -> Tensor:
        """Q [L, B, actions] from the critic's output."""
        return output

    @staticmethod
    def chosen(values: Tensor, actions: Tensor) -> Tensor:
        """The values [L, B] of actions [L, B] out of [L, B, actions]."""
        return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def allowed(self, values: Tensor, observations: Tensor) -> Tensor:
        """Values [L, B, actions] with those of forbidden actions at the bottom; nothing is forbidden here."""
        return values

    def next_actions(self, batch: Batch, target_output: Tensor) -> Tensor:
        """The greedy actions in s', [L, B]."""
        output = self.critic.detached(batch["next_observations"]) if self.config.double else target_output
        return self.allowed(self.values(output), batch["next_observations"]).argmax(-1)

    def target_value(self, batch: Batch, noise: dict[str, Tensor]) -> Tensor:
        """y [L, B]."""
        output = self.target_critic.detached(batch["next_observations"])
        if self.config.minto:
            online = self.critic.detached(batch["next_observations"])
            smaller = torch.minimum(self.values(output), self.values(online))
            next_q = self.allowed(smaller, batch["next_observations"]).amax(-1)
        else:
            next_q = self.chosen(self.values(output), self.next_actions(batch, output))
        return batch["rewards"] + self.discount * batch["continues"] * next_q

    def loss(self, batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms of the loss, each [L]; their sum is minimized."""
        target = self.target_value(batch, noise)
        q = self.chosen(self.values(self.critic(batch["observations"])), batch["actions"])
        return {"critic_loss": functional.smooth_l1_loss(q, target, reduction="none").mean(1)}

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        terms = self.loss(batch, noise)
        self.adam.minimize(sum(terms.values()).sum())  # type: ignore[union-attr]
        if step % self.config.target_period == 0:
            self.target_critic.track(self.critic, 1.0)
        return {name: term.detach() for name, term in terms.items()}

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return self.allowed(self.values(self.critic.detached(observations)), observations).argmax(-1)
