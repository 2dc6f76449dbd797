"""Adam over stacked parameters: one fused step for all lanes, learning rates that may differ per lane.

Adam is element-wise, so one optimizer over parameters stacked along a lane axis equals one optimizer per lane
(gradient clipping would have to be per lane; nothing here clips).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class LaneAdam:
    """Adam (Kingma and Ba, 2015) on tensors whose first axis is the lane.

    Args:
        parameters: leaf tensors [L, ...] that losses are differentiated with respect to.
        learning_rates: one per lane.
        cosine_steps: anneal the rate to zero along a half cosine over so many steps; None keeps it constant.
        betas, eps: Adam's constants; torch's defaults.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rates: Sequence[float],
        *,
        cosine_steps: int | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = list(parameters)
        self._rates = list(learning_rates)
        self._cosine_steps = cosine_steps
        self._steps = 0
        # torch's optimizer works on aliases of the parameters, so that lanes of one tensor can be given rates of
        # their own and gradients can be handed over without an accumulation node per parameter.
        values = [p.detach() for p in self.parameters]
        self._uniform = len(set(self._rates)) == 1
        if self._uniform:
            self._aliases = [values]
        else:
            self._aliases = [[v[lane : lane + 1] for v in values] for lane in range(len(self._rates))]
        groups = [{"params": aliases, "lr": rate} for aliases, rate in zip(self._aliases, self._rates, strict=False)]
        fused = self.parameters[0].device.type in ("cpu", "cuda")
        self._adam = torch.optim.Adam(groups, betas=betas, eps=eps, fused=fused)
        for aliases in self._aliases:
            for alias in aliases:
                self._adam.state[alias] = {
                    "step": torch.zeros((), device=alias.device if fused else "cpu"),
                    "exp_avg": torch.zeros_like(alias),
                    "exp_avg_sq": torch.zeros_like(alias),
                }

    def minimize(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, a scalar: the sum over lanes of each lane's loss."""
        self.step(torch.autograd.grad(loss, self.parameters))

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step with given gradients, in the order and shapes of `parameters`."""
        if self._cosine_steps is not None:
            progress = min(self._steps / self._cosine_steps, 1.0)
            for group, rate in zip(self._adam.param_groups, self._rates, strict=False):
                group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        self._steps += 1
        for lane, aliases in enumerate(self._aliases):
            for alias, gradient in zip(aliases, gradients, strict=True):
                alias.grad = gradient if self._uniform else gradient[lane : lane + 1]
        self._adam.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Moments [L, ...] of every parameter, in order, and the number of steps done [L]."""
        lanes = len(self._rates)
        state = {"steps": torch.full((lanes,), self._steps, dtype=torch.int64)}
        for index in range(len(self.parameters)):
            for key in ("exp_avg", "exp_avg_sq"):
                parts = [self._adam.state[aliases[index]][key] for aliases in self._aliases]
                state[f"{index}.{key}"] = torch.cat(parts).clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state made by `state_dict` of an optimizer with equal parameters."""
        self._steps = int(state["steps"][0])
        for index in range(len(self.parameters)):
            for key in ("exp_avg", "exp_avg_sq"):
                start = 0
                for aliases in self._aliases:
                    moment = self._adam.state[aliases[index]][key]
                    moment.copy_(state[f"{index}.{key}"][start : start + moment.shape[0]])
                    start += moment.shape[0]
        for moments in self._adam.state.values():
            moments["step"].fill_(self._steps)
