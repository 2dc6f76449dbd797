"""Adam over stacked parameters: one fused step for all lanes, learning rates that may differ per lane.

Adam is element-wise, so one optimizer over parameters stacked along a lane axis equals one optimizer per lane. Where
gradients are clipped, by their norm, each lane has its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass
class _Group:
    """Parameters that share their learning rates."""

    parameters: list[Tensor]
    rates: list[float]
    cosine_steps: int | None
    warmup_steps: int | None
    weight_decay: float
    # One entry per lane, or a single one where all lanes have the same rate: rate, parameters, first, second moments.
    parts: list[tuple[float, list[Tensor], list[Tensor], list[Tensor]]] = field(default_factory=list)
    moments: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class LaneAdam:
    """Adam (Kingma and Ba, ICLR 2015) on tensors whose first axis is the lane, with torch's constants.

    Parameters are added in groups; every step updates all of them. One kernel call updates a group, or one per lane
    where the lanes' rates differ.

    Args:
        clip_norm: largest norm of a lane's gradients, all parameters together; longer ones are scaled down to it (as
            torch.nn.utils.clip_grad_norm_ does). None leaves them.
    """

    def __init__(self, clip_norm: float | None = None) -> None:
        self._clip_norm = clip_norm
        self._groups: list[_Group] = []
        self._parameters: list[Tensor] = []
        self._steps = 0

    def add(
        self,
        parameters: Sequence[Tensor],
        rates: Sequence[float],
        *,
        cosine_steps: int | None = None,
        warmup_steps: int | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        """Add parameters.

        Args:
            parameters: leaf tensors [L, ...] that losses are differentiated with respect to.
            rates: learning rate of each lane.
            cosine_steps: anneal the rates to zero along a half cosine over so many steps; None keeps them constant.
            warmup_steps: raise the rates linearly over so many steps, of which the last has the full rate.
            weight_decay: decoupled (AdamW, Loshchilov and Hutter, ICLR 2019): every step also subtracts rate *
                weight_decay * parameter.
        """
        group = _Group(list(parameters), list(rates), cosine_steps, warmup_steps, weight_decay)
        group.moments = [(torch.zeros_like(p.detach()), torch.zeros_like(p.detach())) for p in parameters]
        values = [p.detach() for p in parameters]
        spans = [slice(None)] if len(set(rates)) == 1 else [slice(lane, lane + 1) for lane in range(len(rates))]
        for span, rate in zip(spans, rates, strict=False):
            first = [m[span] for m, _ in group.moments]
            second = [v[span] for _, v in group.moments]
            group.parts.append((rate, [value[span] for value in values], first, second))
        self._groups.append(group)
        self._parameters.extend(parameters)
        device = self._parameters[0].device
        self._step_count = torch.zeros((), device=device)
        self._fused = (
            device.type in ("cpu", "cuda") and hasattr(torch, "_fused_adam_") and hasattr(torch, "_fused_adamw_")
        )

    def minimize(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, a scalar: the sum over lanes of each lane's loss."""
        self.step(torch.autograd.grad(loss, self._parameters))

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step with given gradients, in the order and shapes of the added parameters."""
        # autograd may hand out expanded tensors, which the fused kernel would misread.
        gradients = [gradient.contiguous() for gradient in gradients]
        if self._clip_norm is not None:
            gradients = self._clipped(gradients, self._clip_norm)
        start = 0
        self._step_count.add_(1.0)
        for group in self._groups:
            part = gradients[start : start + len(group.parameters)]
            start += len(group.parameters)
            factor = 1.0
            if group.cosine_steps is not None:
                factor = 0.5 * (1.0 + math.cos(math.pi * min(self._steps / group.cosine_steps, 1.0)))
            if group.warmup_steps:
                factor *= min((self._steps + 1) / group.warmup_steps, 1.0)
            for lane, (rate, values, first, second) in enumerate(group.parts):
                mine = part if len(group.parts) == 1 else [g[lane : lane + 1] for g in part]
                self._apply(rate * factor, group.weight_decay, values, mine, first, second)
        self._steps += 1

    @staticmethod
    def _clipped(gradients: list[Tensor], longest: float) -> list[Tensor]:
        """The gradients with each lane's scaled down to a norm of `longest` where it is longer."""
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
        factor = (longest / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # 1e-6 as in torch
        return [gradient * factor.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]

    def _apply(
        self,
        rate: float,
        weight_decay: float,
        values: list[Tensor],
        gradients: list[Tensor],
        first: list[Tensor],
        second: list[Tensor],
    ) -> None:
        if self._fused:
            # The kernel behind torch.optim.Adam(fused=True), without the bookkeeping of the class, which costs more
            # than the kernel does for small networks.
            kernel = torch._fused_adamw_ if weight_decay else torch._fused_adam_
            kernel(
                values,
                gradients,
                first,
                second,
                [],
                [self._step_count] * len(values),
                lr=rate,
                beta1=_BETA1,
                beta2=_BETA2,
                weight_decay=weight_decay,
                eps=_EPSILON,
                amsgrad=False,
                maximize=False,
            )
            return
        count = self._steps + 1
        correction = math.sqrt(1.0 - _BETA2**count)
        for value, gradient, m, v in zip(values, gradients, first, second, strict=True):
            if weight_decay:
                value.mul_(1.0 - rate * weight_decay)
            m.lerp_(gradient, 1.0 - _BETA1)
            v.mul_(_BETA2).addcmul_(gradient, gradient, value=1.0 - _BETA2)
            value.addcdiv_(m, (v.sqrt() / correction).add_(_EPSILON), value=-rate / (1.0 - _BETA1**count))

    def state_dict(self) -> dict[str, Tensor]:
        """Moments [L, ...] of every parameter, in order, and the number of steps done [L]."""
        moments = [pair for group in self._groups for pair in group.moments]
        state = {"steps": torch.full((len(self._groups[0].rates),), self._steps, dtype=torch.int64)}
        for index, (first, second) in enumerate(moments):
            state |= {f"{index}.first_moment": first.clone(), f"{index}.second_moment": second.clone()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state made by `state_dict` of an optimizer with equal parameters."""
        self._steps = int(state["steps"][0])
        self._step_count.fill_(float(self._steps))
        moments = [pair for group in self._groups for pair in group.moments]
        for index, (first, second) in enumerate(moments):
            first.copy_(state[f"{index}.first_moment"])
            second.copy_(state[f"{index}.second_moment"])
