"""A2PR: TD3 drawn towards whichever has the higher value, the data's action or a model's of the better behaviour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offbench.algorithms.base import Batch, NoiseSpec, option
from offbench.algorithms.td3_bc import TD3BC, TD3BCConfig
from offbench.algorithms.vae import ActionVAE


@dataclass(frozen=True)
class A2PRConfig(TD3BCConfig):
    """Settings of A2PR: those of TD3+BC, and a value and an auto-encoder; the authors tune per dataset."""

    imitation_weight: float = option(
        1.0, "weight of imitation in the actor", source="authors' README, --mask; per robot", per_lane=True, low=0.0
    )
    reconstruction_weight: float = option(
        1.0, "weight of reconstruction", source="authors' README, --vae_weight; per robot", per_lane=True, low=0.0
    )
    divergence_weight: float = option(
        0.5, "weight of the auto-encoder's KL term", source="authors' code", per_lane=True, low=0.0
    )
    value_learning_rate: float = option(
        3e-4, "Adam's rate of the value", source="authors' code", per_lane=True, low=0.0
    )
    vae_learning_rate: float = option(
        1e-3, "Adam's rate of the auto-encoder", source="authors' code", per_lane=True, low=0.0
    )
    hidden: tuple[int, ...] = option((256, 256, 256), "hidden widths of the actor", source="authors' code")
    value_hidden: tuple[int, ...] = option(
        (256, 256, 256, 256), "hidden widths of critics and value", source="authors' code"
    )
    vae_hidden: tuple[int, ...] = option((750, 750), "hidden widths of encoder and decoder", source="authors' code")


class A2PR(TD3BC):
    """Adaptive advantage-guided policy regularization (Liu et al. 2024), as in the authors' code.

    Critics as in TD3. Value: L = E[(V(s) - y_v)^2], y_v the smaller of the critics' target and of r + gamma (1-d)
    min_i Q_i(s', a~) with the critics just updated, at the same smoothed action a~. Auto-encoder: E[1(Q_1(s,a) > V(s))
    w (a - D(s,z))^2] + KL / 2. Actor, every second update, with b = the policy's action encoded and decoded:
    L = E[-lambda Q_1(s, pi(s)) + m (pi(s) - a*)^2], lambda as in TD3+BC; a* = b if Q_1(s,b) >= Q_1(s,a), else a; m is
    the imitation weight where Q_1(s,b) >= V(s) or Q_1(s,a) > V(s), else 0. The gradient reaches the policy through b
    too. V in these conditions is the value from before its update.
    """

    name = "a2pr"
    title = "A2PR"
    paper = (
        "Liu et al., Adaptive Advantage-Guided Policy Regularization for Offline Reinforcement Learning, ICML 2024, "
        "arXiv 2405.19909"
    )
    config_class = A2PRConfig
    config: A2PRConfig

    def build(self) -> None:
        super().build()
        self.value = self.network("value", (self.space.observation_size, *self.critic_hidden(), 1))
        self.value_optimizer = self.optimizer("value")
        self.value_optimizer.add([self.value.flat], self.values_of("value_learning_rate"))
        self.vae = ActionVAE(self, self.config.vae_hidden, 2 * self.space.action_size)
        self.vae_optimizer = self.optimizer("vae")
        self.vae_optimizer.add(self.vae.parameters, self.values_of("vae_learning_rate"))
        self.imitation_weight = self.value_of("imitation_weight")
        self.reconstruction_weight = self.value_of("reconstruction_weight")
        self.divergence_weight = self.scalar_of("divergence_weight")

    def critic_hidden(self) -> tuple[int, ...]:
        return self.config.value_hidden

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        latents = NoiseSpec((batch_size, self.vae.latent_size))
        return {**super().noise_spec(batch_size), "reconstruction": latents, "policy_reconstruction": latents}

    # --- losses ---

    def value_loss(self, values: Tensor, target: Tensor) -> Tensor:
        """Squared error of V(s) [L, B], [L]."""
        return (values - target).square().mean(1)

    def vae_loss(self, batch: Batch, values: Tensor, noise: Tensor) -> Tensor:
        """Reconstruction of the actions that are better than V(s) [L, B], and divergence, [L]."""
        q = self.critic.detached(batch["observation_actions"], member=0).squeeze(-1)
        weight = self.reconstruction_weight * (q > values)
        errors, divergence = self.vae.losses(batch, noise)
        return (weight * errors.mean(2)).mean(1) + self.divergence_weight * divergence.mean((1, 2))

    def guided_actor_loss(self, batch: Batch, values: Tensor, noise: Tensor) -> Tensor:
        """Normalized value of the first critic against imitation of the better action, [L]."""
        observations = batch["observations"]
        actions = torch.tanh(self.actor(observations))
        q = self.critic.frozen(torch.cat([observations, actions], -1), member=0).squeeze(-1)
        weight = self.alpha / q.detach().abs().mean(1, keepdim=True)
        modelled = self.vae.reconstruct(observations, actions, noise)
        both = torch.cat([batch["observation_actions"], torch.cat([observations, modelled.detach()], -1)], 1)
        data_q, modelled_q = self.critic.detached(both, member=0).squeeze(-1).chunk(2, 1)
        best = torch.where((modelled_q >= data_q).unsqueeze(2), modelled, batch["actions"])
        mask = self.imitation_weight * ((modelled_q >= values) | (data_q > values))
        imitation = mask * (actions - best).square().mean(2)
        return (imitation - weight * q).mean(1)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        next_actions = self.smoothed_actions(batch, noise["target_action"])
        target = self.backup(batch, next_actions, self.target_critic)
        critic_loss = self.critic_loss(batch, target)
        self.critic_optimizer.minimize(critic_loss.sum())

        values = self.value(batch["observations"]).squeeze(-1)
        value_loss = self.value_loss(values, torch.minimum(self.backup(batch, next_actions, self.critic), target))
        self.value_optimizer.minimize(value_loss.sum())
        values = values.detach()
        vae_loss = self.vae_loss(batch, values, noise["reconstruction"])
        self.vae_optimizer.minimize(vae_loss.sum())
        metrics = {"critic_loss": critic_loss, "value_loss": value_loss, "vae_loss": vae_loss}
        if step % self.config.policy_delay == 0:
            actor_loss = self.guided_actor_loss(batch, values, noise["policy_reconstruction"])
            self.actor_optimizer.minimize(actor_loss.sum())
            self.target_critic.track(self.critic, self.target_rate)
            self.target_actor.track(self.actor, self.target_rate)
            metrics["actor_loss"] = actor_loss
        return {name: loss.detach() for name, loss in metrics.items()}
