"""A conditional variational auto-encoder of actions: the model of the behaviour that BCQ and A2PR sample from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from offbench.algorithms.base import Algorithm

# Bounds of the encoder's log std (the authors' code of BCQ), and of the latents that new actions are decoded from:
# near the prior's mode the decoder has seen data (Fujimoto et al. 2019, appendix D.1).
_LOG_STD = (-4.0, 15.0)
LATENT_BOUND = 0.5


def kl_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) of every latent dimension, in nats; the shape of `mean`."""
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0) - log_std


class ActionVAE:
    """q(z|s,a) = N(mean, std^2) and the decoder a = tanh(D(s, z)), for every lane.

    Its loss E[(a - D(s, z))^2] + weight * KL averages over action and latent dimensions. With twice as many latent as
    action dimensions and weight 1/2 it is, up to constants and a factor, the negative evidence bound of a Gaussian
    decoder with variance 1/8: times 4A, it is |a - D|^2 / (2/8) + sum of the KL.

    Args:
        algorithm: makes the networks "encoder" and "decoder", so that they are part of its checkpoints.
        hidden: widths of both networks' hidden layers.
        latent_size: Z.
    """

    def __init__(self, algorithm: Algorithm, hidden: Sequence[int], latent_size: int) -> None:
        observation, action = algorithm.space.observation_size, algorithm.space.action_size
        self.latent_size = latent_size
        self.encoder = algorithm.network("encoder", (observation + action, *hidden, 2 * latent_size))
        self.decoder = algorithm.network("decoder", (observation + latent_size, *hidden, action))

    @property
    def parameters(self) -> list[Tensor]:
        """What to optimize."""
        return [self.encoder.flat, self.decoder.flat]

    def losses(self, batch: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors of the reconstructed actions [L, B, A] and the divergences from the prior [L, B, Z].

        Args:
            batch: with observations, actions and observation_actions.
            noise: [L, B, Z], standard normal.
        """
        mean, log_std = self._posterior(self.encoder(batch["observation_actions"]))
        latents = mean + log_std.exp() * noise
        actions = torch.tanh(self.decoder(torch.cat([batch["observations"], latents], -1)))
        return (actions - batch["actions"]).square(), kl_divergence(mean, log_std)

    def reconstruct(self, observations: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """Actions [L, B, A] encoded and decoded; the gradient goes to `actions`, not to the parameters."""
        mean, log_std = self._posterior(self.encoder.frozen(torch.cat([observations, actions], -1)))
        latents = mean + log_std.exp() * noise
        return torch.tanh(self.decoder.frozen(torch.cat([observations, latents], -1)))

    def sample(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions [L, B, A] of the behaviour, decoded from the clipped noise [L, B, Z]; nothing receives a gradient."""
        latents = noise.clamp(-LATENT_BOUND, LATENT_BOUND)
        return self.decoder.detached(torch.cat([observations, latents], -1)).tanh_()

    def _posterior(self, output: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = output.chunk(2, -1)
        return mean, log_std.clamp(*_LOG_STD)
