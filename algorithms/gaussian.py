"""Gaussian policies: densities, and samples squashed into the action box by tanh."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def log_density(values: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of independent Gaussians, summed over the last axis.

    Args:
        values, mean, log_std: [..., A], broadcast against each other.
    """
    scaled = (values - mean) * torch.exp(-log_std)
    return -(0.5 * scaled.square() + log_std + _HALF_LOG_2PI).sum(-1)


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(u), u = mean + std * noise, and their log-density (Haarnoja et al. 2018, appendix C).

    The correction log(1 - tanh(u)^2) is computed as 2 (log 2 - u - softplus(-2u)), which is exact where tanh saturates.

    Args:
        mean, log_std: [..., A].
        noise: [..., A], standard normal.

    Returns:
        Actions in [-1, 1] [..., A] and log-densities [...]; both carry gradients to mean and log_std.
    """
    raw = mean + log_std.exp() * noise
    gaussian = -(0.5 * noise.square() + log_std + _HALF_LOG_2PI).sum(-1)
    correction = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
    return torch.tanh(raw), gaussian - correction.sum(-1)
