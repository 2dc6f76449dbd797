"""Stacked networks: many small multilayer perceptrons evaluated as a few batched matrix products.

A benchmark trains the same small network many times: L lanes (seeds or settings) times E ensemble members. All
of them share one shape, so their weights are stacked and every layer is one batched matrix product. Forward and
backward of the whole network are one autograd function: with autograd's own bookkeeping per layer, stacking is
slower on a CPU than separate networks are, because small kernels and graph nodes eat the gain.

The parameters of all L*E networks live in one tensor `flat` of shape [L, E, P], one row per network, so that an
optimizer step, a target update or a checkpoint touches one tensor. Layer weights are views into it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offbench.algorithms.randomness import generator
from offbench.errors import SpecError

# Weight [inputs, outputs] starts at `weight`, bias [outputs] at `bias`, both offsets into a row of `flat`.
_Layer = tuple[int, int, int, int]  # inputs, outputs, weight, bias


def _layers(sizes: Sequence[int]) -> tuple[tuple[_Layer, ...], int]:
    layers, offset = [], 0
    for inputs, outputs in itertools.pairwise(sizes):
        layers.append((inputs, outputs, offset, offset + inputs * outputs))
        offset += (inputs + 1) * outputs
    return tuple(layers), offset


def _weight(flat: Tensor, layer: _Layer) -> Tensor:
    """The layer's weights [M, inputs, outputs] as a view of `flat` [M, P]."""
    inputs, outputs, start, _ = layer
    return flat.as_strided(
        (flat.shape[0], inputs, outputs),
        (flat.stride(0), outputs, 1),
        flat.storage_offset() + start,
    )


def _bias(flat: Tensor, layer: _Layer) -> Tensor:
    """The layer's biases [M, 1, outputs] as a view of `flat` [M, P]."""
    _, outputs, _, start = layer
    return flat.as_strided((flat.shape[0], 1, outputs), (flat.stride(0), outputs, 1), flat.storage_offset() + start)


def _forward(x: Tensor, flat: Tensor, layers: Sequence[_Layer]) -> tuple[Tensor, list[Tensor]]:
    """ReLU multilayer perceptron on x [M, B, inputs]; returns the output and every layer's input."""
    inputs = [x]
    for layer in layers[:-1]:
        x = torch.baddbmm(_bias(flat, layer), x, _weight(flat, layer)).relu_()
        inputs.append(x)
    return torch.baddbmm(_bias(flat, layers[-1]), x, _weight(flat, layers[-1])), inputs


class _StackedMLPFunction(torch.autograd.Function):
    """Forward and backward of M stacked perceptrons, without a graph node per layer.

    x [M, B, inputs], flat [M, P] -> [M, B, outputs]. The parameter gradient is written layer by layer into one
    tensor of `flat`'s shape.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, layers: tuple[_Layer, ...]) -> Tensor:
        output, inputs = _forward(x, flat, layers)
        ctx.save_for_backward(flat, *inputs)
        ctx.layers = layers
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        flat, *inputs = ctx.saved_tensors
        layers: tuple[_Layer, ...] = ctx.layers
        wants_x, wants_flat = ctx.needs_input_grad[:2]
        flat_gradient = torch.empty_like(flat, memory_format=torch.contiguous_format) if wants_flat else None
        for index in range(len(layers) - 1, -1, -1):
            layer, layer_input = layers[index], inputs[index]
            if flat_gradient is not None:
                torch.bmm(layer_input.transpose(1, 2), gradient, out=_weight(flat_gradient, layer))
                torch.sum(gradient, 1, keepdim=True, out=_bias(flat_gradient, layer))
            if index == 0 and not wants_x:
                return None, flat_gradient, None
            gradient = torch.bmm(gradient, _weight(flat, layer).transpose(1, 2))
            if index > 0:
                gradient = torch.ops.aten.threshold_backward(gradient, layer_input, 0.0)
        return gradient, flat_gradient, None


class StackedMLP:
    """L*E multilayer perceptrons with ReLU between the layers, each lane with its own weights.

    Three ways to call it say where gradients flow, so that the algorithms need no `detach`:
    `net(x)` to the parameters and to `x`; `net.frozen(x)` to `x` only; `net.detached(x)` nowhere.

    Args:
        sizes: widths of input, hidden layers and output, e.g. (11, 256, 256, 3).
        seeds: one run seed per lane; initial weights depend on (seed, `name`) alone, never on the neighbours.
        name: the network's name among those of the algorithm ("actor", "critic").
        members: ensemble members E per lane; None for a single network without a member axis.
        device: where the parameters live.

    Attributes:
        flat: the parameters, [L, E, P]; the only tensor to optimize.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seeds: Sequence[int],
        name: str,
        *,
        members: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sizes, self.name = tuple(sizes), name
        self.lanes, self.members = len(seeds), members
        self._layers, self._row = _layers(sizes)
        self.flat = self._initial(seeds).to(device).requires_grad_()

    def _initial(self, seeds: Sequence[int]) -> Tensor:
        """Uniform within +-1/sqrt(fan-in) for weights and biases, as torch.nn.Linear starts."""
        count = self.members or 1
        flat = np.empty((len(seeds), count, self._row), np.float32)
        for lane, seed in enumerate(seeds):
            rng = generator(seed, f"initial/{self.name}")
            for inputs, outputs, start, _ in self._layers:
                bound = 1.0 / math.sqrt(inputs)
                size = (inputs + 1) * outputs
                flat[lane, :, start : start + size] = rng.uniform(-bound, bound, (count, size))
        return torch.from_numpy(flat)

    def __call__(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """Evaluate with gradients to the parameters and to `x`.

        Args:
            x: [L, B, inputs], seen by every member.
            member: evaluate this member alone.

        Returns:
            [L, E, B, outputs]; [L, B, outputs] without a member axis or for one member.
        """
        return self._apply(x, self.flat, member)

    def frozen(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """As a call, but the parameters receive no gradient (an actor's step through its critic)."""
        return self._apply(x, self.flat.detach(), member)

    def detached(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """As a call, but nothing receives a gradient (targets, evaluation)."""
        with torch.no_grad():
            stacked, flat, shape = self._arrange(x, self.flat, member)
            return _forward(stacked, flat, self._layers)[0].view(shape)

    def _apply(self, x: Tensor, flat: Tensor, member: int | None) -> Tensor:
        stacked, rows, shape = self._arrange(x, flat, member)
        return _StackedMLPFunction.apply(stacked, rows, self._layers).view(shape)

    def _arrange(self, x: Tensor, flat: Tensor, member: int | None) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Inputs [M, B, inputs], parameters [M, P] and the output's shape."""
        lanes, batch, inputs = x.shape
        if self.members is None or member is not None:
            return x, flat[:, member or 0], (lanes, batch, self.sizes[-1])
        members = self.members
        stacked = x.unsqueeze(1).expand(lanes, members, batch, inputs).reshape(-1, batch, inputs)
        return stacked, flat.flatten(0, 1), (lanes, members, batch, self.sizes[-1])

    def target(self) -> StackedMLP:
        """A target network: a copy of this one that no gradient reaches."""
        copy = object.__new__(StackedMLP)
        copy.__dict__.update(self.__dict__)
        copy.flat = self.flat.detach().clone()
        return copy

    def track(self, online: StackedMLP, rate: float | Tensor) -> None:
        """Move this target network towards `online`: target += rate * (online - target).

        Args:
            rate: Polyak rate tau, one number or one per lane [L, 1] .
        """
        if isinstance(rate, Tensor):
            rate = rate.view(-1, 1, 1)
        with torch.no_grad():
            self.flat.lerp_(online.flat, rate)


def select_matmul(mode: str = "auto") -> str:
    """Choose how float32 matrices are multiplied on the CPU, and say what was chosen.

    torch multiplies with MKL by default. On some CPUs (AMD with AVX-512) oneDNN is twice as fast at the same
    accuracy, but torch offers it only through the precision "medium", which allows bfloat16 and uses it where the
    CPU has bfloat16 units. So the choice is made by measurement: "auto" takes oneDNN only if its result is as
    accurate as float32 and it is at least 15 % faster. The choice changes results in the last bits, hence it is
    recorded with every run and never changes while a process trains.

    Args:
        mode: "auto", "default" (never change anything) or "onednn" (refused where it is not float32).

    Returns:
        A description for the run's environment record.
    """
    if mode not in ("auto", "default", "onednn"):
        raise SpecError(f"unknown matmul mode {mode!r}", "", "use auto, default or onednn")
    torch.set_float32_matmul_precision("highest")
    if mode == "default":
        return "default"
    rng = generator(0, "matmul probe")
    a = torch.from_numpy(rng.standard_normal((4, 256, 256), np.float32))
    b = torch.from_numpy(rng.standard_normal((4, 256, 256), np.float32))
    exact = torch.bmm(a.double(), b.double())

    def probe(precision: str) -> tuple[float, float]:
        torch.set_float32_matmul_precision(precision)
        error = float((torch.bmm(a, b) - exact).abs().max() / exact.abs().max())
        return error, _seconds(a, b)

    with torch.no_grad():
        default_error, default_seconds = probe("highest")
        error, seconds = probe("medium")
    accurate = error < max(8 * default_error, 1e-5)
    if accurate and (mode == "onednn" or seconds < default_seconds / 1.15):
        return f"onednn (relative error {error:.0e}, {default_seconds / seconds:.2f} times the default's speed)"
    torch.set_float32_matmul_precision("highest")
    if mode == "onednn":
        raise SpecError(
            "oneDNN does not multiply in float32 precision on this machine",
            f"its relative error is {error:.0e} against {default_error:.0e}",
            "use the matmul mode auto or default",
        )
    reason = f"relative error {error:.0e}" if not accurate else "not faster"
    return f"default (oneDNN: {reason})"


def _seconds(a: Tensor, b: Tensor, repeats: int = 15) -> float:
    """Fastest of several timings of one batched product."""
    import time

    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        torch.bmm(a, b)
        best = min(best, time.perf_counter() - start)
    return best
