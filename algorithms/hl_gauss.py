"""HL-Gauss: values as histograms. A critic classifies its target instead of regressing on it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from offbench.errors import SpecError


class GaussianHistogram:
    """Scalars as categorical distributions over equal bins, and back (Farebrother et al. 2024, section 3.1).

    A target y becomes the mass that a Gaussian N(y, sigma^2) has in each bin, normalized over the range; a critic's
    logits stand for the mean of the bins' centres under their softmax. Targets outside the range are moved to its
    edge. With sigma at 0.75 bin widths the mean of a target's histogram differs from it by less than 1e-5 widths as
    long as it is a few sigma away from the edges.

    Args:
        low, high: range of the values.
        bins: number of bins.
        smoothing: sigma in widths of a bin.
        device: where the edges live.

    Raises:
        SpecError: low is not below high, or fewer than two bins.
    """

    def __init__(
        self, low: float, high: float, bins: int, smoothing: float, device: torch.device | str = "cpu"
    ) -> None:
        if not low < high or bins < 2:
            raise SpecError(
                f"{bins} bins from {low} to {high} make no histogram of values", "", "use value_low < value_high"
            )
        self.low, self.high, self.bins = low, high, bins
        self.sigma = smoothing * (high - low) / bins
        self.edges = torch.linspace(low, high, bins + 1, device=device)
        self.centres = (self.edges[:-1] + self.edges[1:]) / 2

    @classmethod
    def of(cls, config: Any, device: torch.device | str) -> GaussianHistogram:
        """From a configuration with value_low, value_high, bins and bin_smoothing."""
        return cls(config.value_low, config.value_high, config.bins, config.bin_smoothing, device)

    def project(self, targets: Tensor) -> Tensor:
        """The histograms [..., bins] of targets [...]."""
        targets = targets.clamp(self.low, self.high)
        # Half of the Gaussian's distribution function, up to a constant that cancels in the differences.
        below = torch.erf((self.edges - targets.unsqueeze(-1)) / (math.sqrt(2.0) * self.sigma))
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def expected(self, logits: Tensor) -> Tensor:
        """The values [...] of logits [..., bins]."""
        return logits.softmax(-1) @ self.centres

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-sum_k p_k(y) log softmax(logits)_k [...] of logits [..., bins] and targets y that broadcast to [...]."""
        return -(self.project(targets) * logits.log_softmax(-1)).sum(-1)

    def outside(self, targets: Tensor) -> Tensor:
        """The share of targets [L, B] outside the range, [L]: anything but zero calls for a wider one."""
        return ((targets < self.low) | (targets > self.high)).to(targets.dtype).mean(1)
