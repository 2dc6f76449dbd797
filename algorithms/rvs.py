"""RvS-R: supervised learning of actions given the observation and the average return-to-go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.dropout import Dropout


@dataclass(frozen=True)
class RvSConfig(Config):
    """Settings of RvS-R."""

    learning_rate: float = option(1e-3, "Adam's rate", source="authors' configs", per_lane=True, low=0.0)
    dropout: float = option(
        0.1, "dropout of the hidden layers", source="authors' code; 0 on locomotion", low=0.0, high=0.99
    )
    hidden: tuple[int, ...] = option((1024, 1024), "hidden widths of the policy", source="authors' configs")
    horizon: int | None = option(
        None,
        "steps H over which returns are averaged; none: the dataset's longest episode",
        source="authors' code",
        low=1,
    )
    target_return: float | None = option(
        None,
        "return that the evaluated policy asks for, in the environment's units; none: the dataset's highest",
        source="per environment, see the presets",
        per_lane=True,
    )


class RvS(Algorithm):
    """Imitation of the actions given the observation and the return that followed, by maximum likelihood.

    Maximize E[log pi(a | s, omega)], omega_t = sum_{k>=t} r_k / (H - t), the average reward that the rest of the
    episode earns if it lasts to the horizon H (Emmons et al. 2022, RvS-R). Continuous: pi is a Gaussian whose mean is
    the output, with a log standard deviation of its own per dimension; acts by the mean, clipped to the box.
    Discrete: a categorical distribution; acts by its mode.

    An acting policy is given the same omega in every step, target_return / H, as in the authors' evaluation. RvS-G,
    their variant that is conditioned on goals, is not offered.
    """

    name = "rvs"
    title = "RvS-R"
    paper = "Emmons et al., RvS: What is Essential for Offline RL via Supervised Learning?, ICLR 2022, arXiv 2112.10751"
    config_class = RvSConfig
    requires = Requires(next_observations=False, window=1)
    config: RvSConfig
    configs: Sequence[RvSConfig]

    def build(self) -> None:
        config, space = self.config, self.space
        sizes = (space.observation_size + 1, *config.hidden, space.action_size)
        self.actor = self.network("actor", sizes, start="orthogonal")
        self.actor_optimizer = self.optimizer("actor")
        trained = [self.actor.flat]
        if not space.discrete:
            self.log_std = self.tensor("log_std", torch.zeros(self.lanes, space.action_size))
            trained.append(self.log_std)
        self.actor_optimizer.add(trained, self.values_of("learning_rate"))
        self.dropout = Dropout(config.dropout, len(config.hidden))
        self.horizon = config.horizon or space.longest_episode
        wanted = [config.target_return for config in self.configs]
        targets = [space.best_return if value is None else value for value in wanted]
        self.targets = torch.tensor(targets, device=self.device) / self.horizon

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {} if self.dropout.noise is None else {"dropout": self.dropout.noise}

    # --- losses ---

    def inputs(self, batch: Batch) -> Tensor:
        """Observations with the average return-to-go [L, B, S + 1] from windows of one step."""
        left = (self.horizon - batch["timesteps"]).clamp(min=1)
        average = batch["returns"] / left
        return torch.cat([batch["observations"], average.unsqueeze(-1)], -1).squeeze(2)

    def actor_loss(self, batch: Batch, keys: Tensor | None) -> Tensor:
        """-log pi(a | s, omega) of each lane, averaged over the batch, [L]."""
        output = self.actor(self.inputs(batch), multipliers=self.dropped(batch, keys))
        actions = batch["actions"].squeeze(2)
        if self.space.discrete:
            loss = functional.cross_entropy(output.flatten(0, 1), actions.flatten(), reduction="none")
            return loss.view(self.lanes, -1).mean(1)
        log_std = self.log_std.unsqueeze(1)
        squared = ((actions - output) * torch.exp(-log_std)).square()
        return (0.5 * squared + log_std + 0.5 * math.log(2 * math.pi)).sum(-1).mean(1)

    def dropped(self, batch: Batch, keys: Tensor | None) -> list[Tensor] | None:
        """Dropout of every hidden layer, [L, B, width]; None without."""
        if keys is None:
            return None
        shapes = [(*batch["returns"].shape[:2], width) for width in self.config.hidden]
        return [self.dropout.multipliers(keys, place, shape) for place, shape in enumerate(shapes)]

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        actor_loss = self.actor_loss(batch, noise.get("dropout"))
        self.actor_optimizer.minimize(actor_loss.sum())
        return {"actor_loss": actor_loss.detach()}

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        asked = self.targets.view(-1, 1, 1).expand(-1, observations.shape[1], 1)
        output = self.actor.detached(torch.cat([observations, asked], -1))
        return output.argmax(-1) if self.space.discrete else output.clamp(-1, 1)
