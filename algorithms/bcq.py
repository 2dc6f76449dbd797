"""BCQ for continuous actions: Q-learning over slightly perturbed actions of a model of the behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offbench.algorithms.base import Algorithm, Batch, Config, NoiseSpec, Requires, option
from offbench.algorithms.randomness import generator
from offbench.algorithms.vae import ActionVAE

# Observations that are evaluated at once: each brings `evaluation_samples` candidates.
_CHUNK = 256


@dataclass(frozen=True)
class BCQConfig(Config):
    """Settings of BCQ; defaults are those of the authors' code, equal for all datasets."""

    perturbation: float = option(
        0.05, "largest change of a sampled action", symbol="Φ", source="authors' code", per_lane=True, low=0.0, high=2.0
    )
    minimum_weight: float = option(
        0.75,
        "weight of the smaller critic in the target, the rest is the larger one's",
        symbol="λ",
        source="authors' code",
        per_lane=True,
        low=0.0,
        high=1.0,
    )
    target_samples: int = option(10, "candidate actions in s'", symbol="n", source="authors' code", low=1)
    evaluation_samples: int = option(100, "candidate actions when acting", source="authors' code", low=1)
    divergence_weight: float = option(
        0.5, "weight of the auto-encoder's KL term", source="authors' code", per_lane=True, low=0.0
    )
    discount: float = option(0.99, "discount", symbol="γ", source="authors' code", per_lane=True, low=0.0, high=1.0)
    target_rate: float = option(
        0.005, "Polyak rate of the targets", symbol="τ", source="authors' code", per_lane=True, low=0.0, high=1.0
    )
    actor_learning_rate: float = option(
        1e-3, "Adam's rate of the perturbation network", source="authors' code", per_lane=True, low=0.0
    )
    critic_learning_rate: float = option(
        1e-3, "Adam's rate of the critics", source="authors' code", per_lane=True, low=0.0
    )
    vae_learning_rate: float = option(
        1e-3, "Adam's rate of the auto-encoder", source="authors' code", per_lane=True, low=0.0
    )
    hidden: tuple[int, ...] = option(
        (400, 300), "hidden widths of perturbation network and critics", source="authors' code"
    )
    vae_hidden: tuple[int, ...] = option((750, 750), "hidden widths of encoder and decoder", source="authors' code")


class BCQ(Algorithm):
    """Batch-constrained Q-learning (Fujimoto et al. 2019, algorithm 1).

    Behaviour: a conditional VAE with 2A latent dimensions, L = E[(a - D(s,z))^2] + KL / 2 (see `ActionVAE`).
    Candidates in s: a_i = clip(b_i + Phi tanh xi(s, b_i)) with b_i from the decoder at latents clipped to +-0.5.
    Critics: y = r + gamma (1-d) max_i [lambda min_j Q'_j(s', a_i) + (1-lambda) max_j Q'_j(s', a_i)] over ten candidates
    of the target perturbation; L = sum_j E[(Q_j(s,a) - y)^2]. Perturbation: L = -E[Q_1(s, a_1)].
    Order: VAE, critics, perturbation, targets.

    Acting takes the best by Q_1 of 100 candidates. The authors' code draws their latents anew at every step; here they
    are drawn once per run, from its seed, and stored with the policy, so that a policy is a function of the state.
    """

    name = "bcq"
    title = "BCQ"
    paper = "Fujimoto et al., Off-Policy Deep Reinforcement Learning without Exploration, ICML 2019, arXiv 1812.02900"
    config_class = BCQConfig
    requires = Requires(actions=frozenset({"continuous"}))
    policy_networks = ("actor", "critic", "decoder")
    config: BCQConfig

    def build(self) -> None:
        observation, action, hidden = self.space.observation_size, self.space.action_size, self.config.hidden
        self.vae = ActionVAE(self, self.config.vae_hidden, 2 * action)
        inputs = observation + action
        self.actor, self.target_actor = self.network("actor", (inputs, *hidden, action), target=True)
        self.critic, self.target_critic = self.network("critic", (inputs, *hidden, 1), members=2, target=True)
        self.vae_optimizer = self.optimizer("vae")
        self.actor_optimizer, self.critic_optimizer = self.optimizer("actor"), self.optimizer("critic")
        self.vae_optimizer.add(self.vae.parameters, self.values_of("vae_learning_rate"))
        self.actor_optimizer.add([self.actor.flat], self.values_of("actor_learning_rate"))
        self.critic_optimizer.add([self.critic.flat], self.values_of("critic_learning_rate"))
        self.discount, self.target_rate = self.value_of("discount"), self.value_of("target_rate")
        self.minimum_weight, self.divergence_weight = (
            self.value_of("minimum_weight"),
            self.scalar_of("divergence_weight"),
        )
        bound = self.value_of("perturbation")
        self.perturbation = bound.unsqueeze(2) if isinstance(bound, Tensor) else bound
        shape = (self.config.evaluation_samples, self.vae.latent_size)
        drawn = [generator(seed, "evaluation/latents").standard_normal(shape, np.float32) for seed in self.seeds]
        self.evaluation_latents = torch.from_numpy(np.stack(drawn)).to(self.device)  # [L, samples, Z]

    def noise_spec(self, batch_size: int) -> dict[str, NoiseSpec]:
        latent = self.vae.latent_size
        return {
            "reconstruction": NoiseSpec((batch_size, latent)),
            "next_latents": NoiseSpec((batch_size, self.config.target_samples, latent)),
            "latents": NoiseSpec((batch_size, latent)),
        }

    # --- losses ---

    def vae_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Reconstruction and divergence, [L]."""
        errors, divergence = self.vae.losses(batch, noise)
        return errors.mean((1, 2)) + self.divergence_weight * divergence.mean((1, 2))

    def perturbed(self, actions: Tensor, raw: Tensor) -> Tensor:
        """Actions moved by the perturbation network's output `raw`, kept in the box, [L, B, A]."""
        return (actions + self.perturbation * torch.tanh(raw)).clamp(-1.0, 1.0)

    def target_value(self, batch: Batch, noise: Tensor) -> Tensor:
        """y [L, B]: the best candidate in s', valued between the smaller and the larger target critic."""
        samples = self.config.target_samples
        observations = batch["next_observations"].repeat_interleave(samples, 1)
        actions = self.vae.sample(observations, noise.flatten(1, 2))
        actions = self.perturbed(actions, self.target_actor.detached(torch.cat([observations, actions], -1)))
        q = self.target_critic.detached(torch.cat([observations, actions], -1)).squeeze(-1)
        q = self.minimum_weight * q.amin(1) + (1.0 - self.minimum_weight) * q.amax(1)
        best = q.unflatten(1, (-1, samples)).amax(2)
        return batch["rewards"] + self.discount * batch["continues"] * best

    def critic_loss(self, batch: Batch, target: Tensor) -> Tensor:
        """Squared error of both critics, summed over them, [L]."""
        q = self.critic(batch["observation_actions"]).squeeze(-1)
        return (q - target.unsqueeze(1)).square().mean(2).sum(1)

    def actor_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Negative value, by the first critic, of perturbed actions of the behaviour, [L]."""
        actions = self.vae.sample(batch["observations"], noise)
        actions = self.perturbed(actions, self.actor(torch.cat([batch["observations"], actions], -1)))
        q = self.critic.frozen(torch.cat([batch["observations"], actions], -1), member=0).squeeze(-1)
        return -q.mean(1)

    # --- update ---

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        vae_loss = self.vae_loss(batch, noise["reconstruction"])
        self.vae_optimizer.minimize(vae_loss.sum())
        critic_loss = self.critic_loss(batch, self.target_value(batch, noise["next_latents"]))
        self.critic_optimizer.minimize(critic_loss.sum())
        actor_loss = self.actor_loss(batch, noise["latents"])
        self.actor_optimizer.minimize(actor_loss.sum())
        self.target_critic.track(self.critic, self.target_rate)
        self.target_actor.track(self.actor, self.target_rate)
        return {
            "vae_loss": vae_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
        }

    # --- policy ---

    def policy(self, observations: Tensor) -> Tensor:
        return torch.cat([self._best_candidates(part) for part in observations.split(_CHUNK, 1)], 1)

    def _best_candidates(self, observations: Tensor) -> Tensor:
        """The candidate of largest Q_1 for observations [L, B, S], [L, B, A]."""
        samples, batch = self.config.evaluation_samples, observations.shape[1]
        repeated = observations.repeat_interleave(samples, 1)
        actions = self.vae.sample(repeated, self.evaluation_latents.repeat(1, batch, 1))
        actions = self.perturbed(actions, self.actor.detached(torch.cat([repeated, actions], -1)))
        q = self.critic.detached(torch.cat([repeated, actions], -1), member=0)
        best = q.view(-1, batch, samples, 1).argmax(2, keepdim=True)
        candidates = actions.view(-1, batch, samples, self.space.action_size)
        return candidates.take_along_dim(best, 2).squeeze(2)

    def policy_tensors(self, lane: int) -> dict[str, Tensor]:
        return {**super().policy_tensors(lane), "latents": self.evaluation_latents[lane : lane + 1].clone()}

    def load_policy_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_policy_tensors(tensors)
        self.evaluation_latents.copy_(tensors["latents"])
