"""PRDC: TD3 drawn towards the nearest action in the dataset, whichever state it was taken in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offbench.algorithms.base import Batch, option
from offbench.algorithms.neighbours import NeighbourIndex
from offbench.algorithms.td3_bc import TD3BC, TD3BCConfig
from offbench.errors import SpecError

if TYPE_CHECKING:
    from offbench.algorithms.batches import TransitionBuffer
    from offbench.algorithms.windows import WindowBuffer


@dataclass(frozen=True)
class PRDCConfig(TD3BCConfig):
    """Settings of PRDC: those of TD3+BC, and how much states count in the search; see the presets."""

    state_weight: float = option(
        2.0,
        "weight of states against actions in the distance",
        symbol="β",
        source="authors' README; 7.5 on antmaze",
        per_lane=True,
        low=0.0,
    )


class PRDC(TD3BC):
    """Policy regularization with dataset constraint (Ran et al. 2023).

    TD3+BC whose imitation term goes to the nearest neighbour instead of the batch's action: L = E[-lambda Q_1(s, pi(s))
    + (pi(s) - a_nn)^2], a_nn the action of the row i that minimizes |beta s - beta s_i|^2 + |pi(s) - a_i|^2 over all
    usable rows of the dataset, held constant. The search is exact, see `NeighbourIndex`; the row that a batch's state
    comes from bounds it.
    """

    name = "prdc"
    title = "PRDC"
    paper = (
        "Ran et al., Policy Regularization with Dataset Constraint for Offline Reinforcement Learning, ICML 2023, "
        "arXiv 2306.06569"
    )
    config_class = PRDCConfig
    config: PRDCConfig

    def build(self) -> None:
        super().build()
        # Lanes of equal weight share an index over the rows; there is one weight in most groups.
        self.searches: list[tuple[list[int], float, NeighbourIndex]] = []

    def attach(self, buffer: TransitionBuffer | WindowBuffer) -> None:
        every_row = torch.arange(len(buffer), device=buffer.device).unsqueeze(0)
        rows = buffer.gather(every_row)["observation_actions"][0]
        self.data_actions = rows[:, self.space.observation_size :].contiguous()
        weights = self.values_of("state_weight")
        self.searches = []
        for weight in sorted(set(weights)):
            lanes = [lane for lane, mine in enumerate(weights) if mine == weight]
            self.searches.append((lanes, weight, NeighbourIndex(self.keys(rows, weight))))

    def keys(self, rows: Tensor, weight: float) -> Tensor:
        """Rows [..., S + A] as the distance sees them."""
        size = self.space.observation_size
        return torch.cat([weight * rows[..., :size], rows[..., size:]], -1)

    def imitated_actions(self, batch: Batch, actions: Tensor) -> Tensor:
        """The actions of the nearest rows [L, B, A]."""
        if not self.searches:
            raise SpecError("PRDC searches the whole dataset and has none", "", "call attach(buffer) before update")
        actions = actions.detach()
        bound = (actions - batch["actions"]).square().sum(-1)  # the distance to the batch's own rows
        rows = torch.cat([batch["observations"], actions], -1)
        nearest = torch.empty_like(actions)
        for lanes, weight, index in self.searches:
            found, _ = index.nearest(self.keys(rows[lanes], weight).flatten(0, 1), bound[lanes].flatten())
            nearest[lanes] = self.data_actions[found].view(len(lanes), *actions.shape[1:])
        return nearest
