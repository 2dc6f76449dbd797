"""Decision Transformer: a transformer that continues a trajectory towards the return it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.dropout import Dropout
from offbench.algorithms.transformer import StackedTransformer
from offbench.algorithms.windows import EpisodeContext


@dataclass(frozen=True)
class DecisionTransformerConfig(Config):
    """Settings of the Decision Transformer."""

    learning_rate: float = option(1e-4, "AdamW's rate", source="authors' gym code", per_lane=True, low=0.0)
    weight_decay: float = option(1e-4, "AdamW's weight decay, of all parameters", source="authors' gym code", low=0.0)
    warmup_steps: int = option(
        10_000, "updates over which the rate rises linearly", source="authors' gym code", low=0, small=10
    )
    clip_norm: float = option(0.25, "largest norm of a gradient", source="authors' gym code", low=0.0)
    context: int = option(20, "steps that the policy sees", symbol="K", source="authors' gym code", low=1, small=4)
    width: int = option(128, "width of the tokens", source="authors' gym code", low=1, small=16)
    layers: int = option(3, "blocks", source="authors' gym code", low=1, small=1)
    heads: int = option(1, "attention heads", source="authors' gym code", low=1)
    dropout: float = option(
        0.1, "dropout of tokens, attention and residuals", source="authors' gym code", low=0.0, high=0.99
    )
    activation: Literal["gelu", "relu"] = option("relu", "of the blocks' perceptrons", source="authors' gym code")
    time_steps: int = option(
        1000, "time steps with an embedding; later ones share the last", source="authors' gym code", low=1, small=30
    )
    return_scale: float | None = option(
        None,
        "what returns-to-go are multiplied by for the network; none: 1 / the dataset's largest absolute return",
        source="per environment, see the presets",
        low=0.0,
    )
    target_return: float | None = option(
        None,
        "return that the evaluated policy asks for, in the environment's units; none: the dataset's highest",
        source="per environment, see the presets",
        per_lane=True,
    )


class DecisionTransformer(Algorithm):
    """Supervised learning of a_t given (R_1, s_1, a_1, ..., R_t, s_t), R the return-to-go, with a causal transformer.

    Training: windows of K steps; minimize the squared error of the actions, averaged over steps that are no padding and
    over action dimensions, or the cross-entropy where they are discrete. Acting: R_1 is the return that is asked for
    and decreases by every reward. Continuous actions are tanh of the output; discrete ones the most probable (the
    authors' Atari code, whose tokens are made differently, samples them).

    The authors also normalize with std + 1e-6 where this package adds 1e-3.
    """

    name = "decision_transformer"
    title = "Decision Transformer"
    paper = "Chen et al., Reinforcement Learning via Sequence Modeling, NeurIPS 2021, arXiv 2106.01345"
    config_class = DecisionTransformerConfig
    requires = Requires(next_observations=False, window=20)
    config: DecisionTransformerConfig
    configs: Sequence[DecisionTransformerConfig]

    @classmethod
    def needs(cls, config: Any) -> Requires:
        return replace(cls.requires, window=config.context)

    def build(self) -> None:
        config, space = self.config, self.space
        self.actor = StackedTransformer(
            (1, space.observation_size, space.action_size),
            space.action_size,
            1,  # an action is read from its observation's token
            self.seeds,
            "actor",
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            steps=config.time_steps,
            activation=config.activation,
            device=self.device,
        )
        self.register_network("actor", self.actor)
        self.dropout = Dropout(config.dropout, self.actor.dropout_places)
        self.actor_optimizer = self.optimizer("actor", config.clip_norm)
        self.actor_optimizer.add(
            [self.actor.flat],
            self.values_of("learning_rate"),
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
        )
        largest = space.largest_return or 1.0
        self.return_scale = 1.0 / largest if config.return_scale is None else config.return_scale
        wanted = [config.target_return for config in self.configs]
        targets = [space.best_return if value is None else value for value in wanted]
        self.targets = torch.tensor(targets, device=self.device)

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {} if self.dropout.noise is None else {"dropout": self.dropout.noise}

    # --- losses ---

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns-to-go [L, B, K, 1], observations [L, B, K, S] and actions [L, B, K, A], discrete ones as units."""
        actions = batch["actions"]
        if self.space.discrete:
            actions = functional.one_hot(actions, self.space.action_size).to(batch["observations"].dtype)
        return (batch["returns"] * self.return_scale).unsqueeze(-1), batch["observations"], actions

    def actor_loss(self, batch: Batch, keys: Tensor | None) -> Tensor:
        """Imitation loss of each lane, [L]."""
        mask = batch["mask"]
        output = self.actor(self.tokens(batch), batch["timesteps"], mask, dropout=self.dropout, keys=keys)
        if self.space.discrete:
            loss = functional.cross_entropy(output.flatten(0, 2), batch["actions"].flatten(), reduction="none")
            loss = loss.view(mask.shape)
        else:
            loss = (torch.tanh(output) - batch["actions"]).square().mean(-1)
        return (loss * mask).sum((1, 2)) / mask.sum((1, 2))

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        actor_loss = self.actor_loss(batch, noise.get("dropout"))
        self.actor_optimizer.minimize(actor_loss.sum())
        return {"actor_loss": actor_loss.detach()}

    # --- policy ---

    def window_policy(self, batch: Batch) -> Tensor:
        """Actions [L, B, A] or indices [L, B] for the last steps of windows [L, B, K, ...]."""
        output = self.actor.detached(self.tokens(batch), batch["timesteps"], batch["mask"], last=True)
        return output.argmax(-1) if self.space.discrete else torch.tanh(output)

    def context(self) -> EpisodeContext:
        return EpisodeContext(self.window_policy, self.space, self.config.context, self.targets)

    def policy(self, observations: Tensor) -> Tensor:
        context = EpisodeContext(self.window_policy, self.space, 1, self.targets)
        shape = observations.shape[:2]
        context.observe(torch.zeros(shape, device=self.device), torch.ones(shape, dtype=torch.bool, device=self.device))
        return context.act(observations)
