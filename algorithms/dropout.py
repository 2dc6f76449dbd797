"""Dropout as a function of keys that come with the noise: no generator's state, the same masks on every device.

Drawing a uniform number per unit with the other noise would mean millions of numbers per update of a transformer.
Instead an update gets two random integers per lane and place, and a unit's random bits are a multiply-shift hash
(Dietzfelbinger et al. 1997) of its number: h(i) = a * t_i + b modulo 2^32 with t_i from a fixed table. With random a
and b, h(i) is uniform and any two units are independent up to their lowest bits, of which a threshold sees nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from offbench.algorithms.base import NoiseSpec
from offbench.algorithms.randomness import generator

_RANGE = 2**32


class Dropout:
    """Sets a random share of the units to zero and scales the others by 1 / (1 - rate), in one or several places.

    Args:
        rate: share of the units that are dropped, in [0, 1).
        places: how many masks an update needs.
    """

    def __init__(self, rate: float, places: int) -> None:
        self.rate, self.places = rate, places
        self._threshold = round(rate * _RANGE) - _RANGE // 2
        self._table = torch.empty(0, dtype=torch.int32)

    @property
    def noise(self) -> NoiseSpec | None:
        """What an update needs: keys [places, 2] per lane; None without dropout."""
        return NoiseSpec((self.places, 2), "bits") if self.rate > 0.0 else None

    def multipliers(self, keys: Tensor, place: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """What the units at a place are multiplied by, 0 or 1 / (1 - rate).

        Args:
            keys: [L, places, 2] int32.
            shape: of the units, [L, ...].
        """
        units = int(np.prod(shape[1:]))
        if len(self._table) < units:
            # A table of another length has the same first entries, so a mask does not depend on earlier calls.
            numbers = generator(0, "dropout table").integers(-_RANGE // 2, _RANGE // 2, units, np.int32)
            self._table = torch.from_numpy(numbers).to(keys.device)
        hashed = (self._table[:units] * keys[:, place, :1]).add_(keys[:, place, 1:])
        return torch.where(hashed >= self._threshold, 1.0 / (1.0 - self.rate), 0.0).view(shape)

    def __call__(self, x: Tensor, keys: Tensor, place: int) -> Tensor:
        """`x` [L, ...] after dropout."""
        return x * self.multipliers(keys, place, x.shape)
