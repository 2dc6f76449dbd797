"""Convolutional networks for small images, stacked over lanes and members as the perceptrons are.

An image of MinAtar (10 x 10 cells) or MiniGrid (7 x 7) is so small that gathering all patches and multiplying them by
the filters, one batched product for all lanes, is quicker than a grouped convolution. It is meant for such images;
one of 84 x 84 pixels would want strides and a convolution kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offbench.algorithms.networks import StackedMLP
from offbench.algorithms.randomness import generator
from offbench.errors import IncompatibleError

KERNEL = 3  # height and width of a filter; its stride is 1, and images are not padded


class StackedConvNet:
    """L*E networks: convolutions of 3 x 3 with an activation each, then a multilayer perceptron.

    It takes flat images, so that it stands wherever a `StackedMLP` on observations does, and is called in the same
    ways: `net(x)` with gradients to parameters and input, `net.frozen(x)` to the input, `net.detached(x)` nowhere.

    Args:
        image: height, width, channels of an image; a flat one is in this order (row-major, channels last).
        filters: how many filters each convolution has.
        sizes: of the perceptron as if there were no convolutions: (height * width * channels, hidden ..., outputs).
        seeds, name, members, device: as in `StackedMLP`.
        options: activation, norm, start, last of the perceptron; activation and start hold for the convolutions, too
            (they start as torch.nn.Conv2d does, or "kaiming": normal with variance 1/fan-in and biases 0).

    Attributes:
        flat: the parameters, [L, E, P]: filters and biases of each convolution, then the perceptron's row.

    Raises:
        IncompatibleError: the observations are no such images, or too small for so many convolutions.
    """

    def __init__(
        self,
        image: tuple[int, ...],
        filters: Sequence[int],
        sizes: Sequence[int],
        seeds: Sequence[int],
        name: str,
        *,
        members: int | None = None,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        self.image, self.name = _checked(image, sizes[0], len(filters)), name
        self.lanes, self.members = len(seeds), members
        self._activation = torch.selu if options.get("activation", "relu") == "selu" else torch.relu
        channels = (self.image[2], *filters)
        # Of every convolution, a filter per column [inputs * 9, outputs] and a bias per output.
        self._shapes = [(KERNEL * KERNEL * inputs, outputs) for inputs, outputs in itertools.pairwise(channels)]
        lost = len(filters) * (KERNEL - 1)
        features = (self.image[0] - lost) * (self.image[1] - lost) * filters[-1]
        self._mlp = StackedMLP((features, *sizes[1:]), seeds, name, members=members, device=device, **options)
        convolutions = self._initial(seeds, options.get("start", "torch")).to(device)
        self._split = [convolutions.shape[-1], self._mlp.flat.shape[-1]]
        self.flat = torch.cat([convolutions, self._mlp.flat.detach()], -1).requires_grad_()
        self._share()

    def _initial(self, seeds: Sequence[int], start: str) -> Tensor:
        """First filters and biases [L, E, P], drawn from a generator of the lane's seed and the network's name."""
        count = self.members or 1
        lanes = []
        for seed in seeds:
            rng, parts = generator(seed, f"initial/{self.name}/convolutions"), []
            for inputs, outputs in self._shapes:
                if start == "kaiming":
                    filters = rng.standard_normal((count, inputs * outputs)) / math.sqrt(inputs)
                    parts += [filters, np.zeros((count, outputs))]
                else:
                    bound = 1.0 / math.sqrt(inputs)
                    parts.append(rng.uniform(-bound, bound, (count, (inputs + 1) * outputs)))
            lanes.append(np.concatenate(parts, 1))
        return torch.from_numpy(np.stack(lanes).astype(np.float32))

    def _share(self) -> None:
        """Let the perceptron read its part of `flat`."""
        self._mlp.flat, self._mlp._stacks = self.flat.detach()[..., self._split[0] :], {}

    def __call__(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """Evaluate with gradients to the parameters and to `x` [L, B, height * width * channels].

        Returns:
            [L, E, B, outputs]; [L, B, outputs] without a member axis or for one member.
        """
        return self._evaluate(x, self.flat, member)

    def frozen(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """As a call, but the parameters receive no gradient."""
        return self._evaluate(x, self.flat.detach(), member)

    @torch.no_grad()
    def detached(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """As a call, but nothing receives a gradient."""
        return self._evaluate(x, self.flat.detach(), member)

    def _evaluate(self, x: Tensor, flat: Tensor, member: int | None) -> Tensor:
        if member is not None:
            flat = flat.narrow(1, member, 1)
        lanes, members, _ = flat.shape
        convolutions, perceptron = flat.split(self._split, -1)
        height, width, channels = self.image
        value = x.reshape(lanes, 1, -1, height, width, channels).expand(-1, members, -1, -1, -1, -1).flatten(0, 1)
        position = 0
        for inputs, outputs in self._shapes:
            row = convolutions.narrow(-1, position, (inputs + 1) * outputs).flatten(0, 1)
            position += (inputs + 1) * outputs
            value = self._convolve(
                value, row[:, : inputs * outputs].unflatten(1, (inputs, outputs)), row[:, inputs * outputs :]
            )
        output = self._mlp.separate(value.flatten(2), perceptron, member=member)
        return output if self.members is None or member is not None else output.unflatten(0, (lanes, members))

    def _convolve(self, value: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        """Images [M, B, H, W, C], filters [M, 9 C, O], bias [M, O] -> activations [M, B, H-2, W-2, O]."""
        patches = value.unfold(2, KERNEL, 1).unfold(3, KERNEL, 1)  # [M, B, H-2, W-2, C, 3, 3]
        rows = patches.reshape(len(value), -1, filters.shape[1])
        products = torch.baddbmm(bias.unsqueeze(1), rows, filters)
        return self._activation(products).view(*patches.shape[:4], -1)

    def target(self) -> StackedConvNet:
        """A target network: a copy of this one that no gradient reaches."""
        copy = object.__new__(StackedConvNet)
        copy.__dict__.update(self.__dict__)
        copy._mlp, copy.flat = self._mlp.target(), self.flat.detach().clone()
        copy._share()
        return copy

    def track(self, online: StackedConvNet, rate: float | Tensor) -> None:
        """Move this target network towards `online`: target += rate * (online - target); rate as in `StackedMLP`."""
        if isinstance(rate, Tensor):
            rate = rate.view(-1, 1, 1)
        self.flat.lerp_(online.flat.detach(), rate)


def _checked(image: tuple[int, ...], size: int, convolutions: int) -> tuple[int, int, int]:
    """Height, width, channels, if the observations can be read so."""
    if len(image) != 3 or math.prod(image) != size:
        raise IncompatibleError(
            f"a convolutional encoder cannot read observations of {size} numbers as an image {list(image)}",
            "it needs observations of height x width x channels",
            "set image_shape, e.g. [10, 10, 1], if the dataset has them flat; or encoder: mlp",
        )
    if min(image[:2]) <= convolutions * (KERNEL - 1):
        raise IncompatibleError(
            f"images of {image[0]} x {image[1]} are too small for {convolutions} convolutions of 3 x 3",
            "each takes two rows and two columns away",
            "give fewer numbers in filters",
        )
    return image[0], image[1], image[2]
