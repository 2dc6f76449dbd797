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
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from offbench.algorithms.randomness import generator
from offbench.errors import SpecError

# The threshold's backward under its overload's own name: resolving overloads anew costs more than the kernel.
_relu_backward = torch.ops.aten.threshold_backward.grad_input


class _Layout:
    """Where the layers' weights and biases lie in a row of parameters, and views of them.

    A row is weight [inputs, outputs], bias [outputs] of the first layer, then of the second, and so on.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.slices: list[tuple[int, int, int]] = []  # inputs, outputs, offset of the layer in the row
        self.row = 0
        for inputs, outputs in itertools.pairwise(sizes):
            self.slices.append((inputs, outputs, self.row))
            self.row += (inputs + 1) * outputs

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights [M, inputs, outputs] and biases [M, 1, outputs] of every layer as views of `flat` [M, row]."""
        count, stride, base = flat.shape[0], flat.stride(0), flat.storage_offset()
        views = []
        for inputs, outputs, start in self.slices:
            strides, bias = (stride, outputs, 1), base + start + inputs * outputs
            weight = flat.as_strided((count, inputs, outputs), strides, base + start)
            views.append((weight, flat.as_strided((count, 1, outputs), strides, bias)))
        return views


class _Stack(NamedTuple):
    """Parameters [M, P] of M networks together with the views that forward and backward read.

    The views share the parameters' memory and stay valid as long as it is updated in place; making them anew for
    every call would cost as much as the small matrix products themselves.
    """

    flat: Tensor
    layout: _Layout
    weights: list[Tensor]
    biases: list[Tensor]
    transposed: list[Tensor]

    @classmethod
    def of(cls, flat: Tensor, layout: _Layout) -> _Stack:
        views = layout.views(flat)
        weights = [weight for weight, _ in views]
        return cls(flat, layout, weights, [bias for _, bias in views], [w.transpose(1, 2) for w in weights])


def _forward(x: Tensor, stack: _Stack) -> list[Tensor]:
    """ReLU multilayer perceptron on x [M, B, inputs]: every layer's input, and last the output."""
    values = [x]
    last = len(stack.weights) - 1
    for index, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
        x = torch.baddbmm(bias, x, weight)
        values.append(x.relu_() if index < last else x)
    return values


def _repeated(x: Tensor, members: int | None) -> Tensor:
    """Inputs [L, B, inputs] as the stack reads them, [M, B, inputs]: repeated for a lane's members."""
    if members is None:
        return x
    lanes, batch, inputs = x.shape
    return x.unsqueeze(1).expand(lanes, members, batch, inputs).reshape(-1, batch, inputs)


def _shaped(output: Tensor, members: int | None) -> Tensor:
    """The stack's output [M, B, outputs] with the axes of lanes and members apart, if there are members."""
    return output if members is None else output.view(-1, members, *output.shape[1:])


class _StackedMLPFunction(torch.autograd.Function):
    """Forward and backward of stacked perceptrons, without a graph node per layer.

    x [L, B, inputs], parameters [L, E, P] -> [L, E, B, outputs] with members E; without, x [L, B, inputs],
    parameters of L*P values -> [L, B, outputs]. The parameters' gradient is written layer by layer into one tensor.
    There is no second derivative: torch refuses `out=` where one is asked for.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, parameters: Tensor, stack: _Stack, members: int | None) -> Tensor:
        values = _forward(_repeated(x, members), stack)
        ctx.save_for_backward(parameters, *values[:-1])
        ctx.stack, ctx.members = stack, members
        return _shaped(values[-1], members)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        parameters, *inputs = ctx.saved_tensors
        stack: _Stack = ctx.stack
        wants_x, wants_parameters = ctx.needs_input_grad[:2]
        count = len(inputs[0])
        gradient = gradient.reshape(count, -1, gradient.shape[-1])
        if wants_parameters:
            flat_gradient = gradient.new_empty((count, stack.layout.row))
            views = stack.layout.views(flat_gradient)
        for index in range(len(inputs) - 1, -1, -1):
            if wants_parameters:
                weight, bias = views[index]
                torch.bmm(inputs[index].transpose(1, 2), gradient, out=weight)
                torch.sum(gradient, 1, keepdim=True, out=bias)
            if index > 0 or wants_x:
                gradient = torch.bmm(gradient, stack.transposed[index])
            if index > 0:
                _relu_backward(gradient, inputs[index], 0.0, grad_input=gradient)
        x_gradient = None
        if wants_x:
            x_gradient = gradient if ctx.members is None else _shaped(gradient, ctx.members).sum(1)
        return x_gradient, flat_gradient.view(parameters.shape) if wants_parameters else None, None, None


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
        self._layout = _Layout(sizes)
        self.flat = self._initial(seeds).to(device).requires_grad_()
        self._stacks: dict[int | None, _Stack] = {}

    def _initial(self, seeds: Sequence[int]) -> Tensor:
        """Uniform within +-1/sqrt(fan-in) for weights and biases, as torch.nn.Linear starts."""
        count = self.members or 1
        flat = np.empty((len(seeds), count, self._layout.row), np.float32)
        for lane, seed in enumerate(seeds):
            rng = generator(seed, f"initial/{self.name}")
            for inputs, outputs, start in self._layout.slices:
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
        parameters = self.flat if member is None else self.flat.select(1, member)
        return _StackedMLPFunction.apply(x, parameters, *self._call(member))

    def frozen(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """As a call, but the parameters receive no gradient (an actor's step through its critic)."""
        stack, members = self._call(member)
        return _StackedMLPFunction.apply(x, stack.flat, stack, members)

    def detached(self, x: Tensor, *, member: int | None = None) -> Tensor:
        """As a call, but nothing receives a gradient (targets, evaluation)."""
        stack, members = self._call(member)
        return _shaped(_forward(_repeated(x.detach(), members), stack)[-1], members)

    def _call(self, member: int | None) -> tuple[_Stack, int | None]:
        """The parameters that a call reads, and how many members share an input."""
        if member not in self._stacks:
            flat = self.flat.detach()
            flat = flat.flatten(0, 1) if member is None else flat.select(1, member)
            self._stacks[member] = _Stack.of(flat, self._layout)
        return self._stacks[member], self.members if member is None else None

    def target(self) -> StackedMLP:
        """A target network: a copy of this one that no gradient reaches."""
        copy = object.__new__(StackedMLP)
        copy.__dict__.update(self.__dict__)
        copy.flat, copy._stacks = self.flat.detach().clone(), {}
        return copy

    def track(self, online: StackedMLP, rate: float | Tensor) -> None:
        """Move this target network towards `online`: target += rate * (online - target).

        Args:
            rate: Polyak rate tau, one number or one per lane [L, 1] .
        """
        if isinstance(rate, Tensor):
            rate = rate.view(-1, 1, 1)
        self.flat.lerp_(online.flat.detach(), rate)


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
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        torch.bmm(a, b)
        best = min(best, time.perf_counter() - start)
    return best
