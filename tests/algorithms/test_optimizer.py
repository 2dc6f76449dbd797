"""The lane-wise Adam against torch's, one optimizer per lane."""

from __future__ import annotations

import math

import pytest
import torch

from offbench.algorithms.optimizer import LaneAdam


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rates", [[1e-3, 1e-3], [1e-3, 3e-2]])
@pytest.mark.parametrize("cosine_steps", [None, 30])
def test_equals_one_torch_adam_per_lane(fused: bool, rates: list[float], cosine_steps: int | None) -> None:
    start = [torch.randn(2, 3, 4), torch.randn(2, 5)]
    mine = [value.clone().requires_grad_() for value in start]
    adam = LaneAdam()
    adam.add(mine, rates, cosine_steps=cosine_steps)
    adam._fused = adam._fused and fused
    lanes = [[value[lane].clone().requires_grad_() for value in start] for lane in range(2)]
    references = [torch.optim.Adam(lane, lr=rate) for lane, rate in zip(lanes, rates, strict=True)]

    def loss(values: list[torch.Tensor]) -> torch.Tensor:
        return sum(((value - 0.3) ** 4).sum() for value in values)

    for step in range(40):
        adam.minimize(loss(mine))
        for optimizer, lane, rate in zip(references, lanes, rates, strict=True):
            if cosine_steps is not None:
                done = min(step / cosine_steps, 1.0)
                optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad()
            loss(lane).backward()
            optimizer.step()
    for lane in range(2):
        for value, reference in zip(mine, lanes[lane], strict=True):
            torch.testing.assert_close(value[lane], reference, rtol=1e-5, atol=1e-6)


def test_groups_have_their_own_rates() -> None:
    a, b = torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    adam = LaneAdam()
    adam.add([a], [0.1])
    adam.add([b], [0.01])
    adam.minimize((a + b).sum())  # Adam's first step has the size of the rate
    torch.testing.assert_close(a.detach(), torch.full((1, 2), -0.1), rtol=1e-4, atol=0)
    torch.testing.assert_close(b.detach(), torch.full((1, 2), -0.01), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rates", [[1e-2, 1e-2], [1e-2, 1e-3]])
def test_saved_state_continues_exactly(rates: list[float]) -> None:
    def build(value: torch.Tensor) -> tuple[torch.Tensor, LaneAdam]:
        parameter = value.clone().requires_grad_()
        adam = LaneAdam()
        adam.add([parameter], rates, cosine_steps=20)
        return parameter, adam

    first, adam = build(torch.randn(2, 6))
    for _ in range(5):
        adam.minimize((first**2).sum())
    second, resumed = build(first.detach())
    resumed.load_state_dict(adam.state_dict())
    for _ in range(5):
        adam.minimize((first**2).sum())
        resumed.minimize((second**2).sum())
    assert torch.equal(first, second)


@pytest.mark.parametrize("fused", [True, False])
def test_equals_one_torch_adamw_per_lane_with_warm_up_and_clipping(fused: bool) -> None:
    start = [torch.randn(2, 3, 4), torch.randn(2, 5)]
    mine = [value.clone().requires_grad_() for value in start]
    adam = LaneAdam(clip_norm=0.5)
    adam.add(mine, [1e-2, 3e-2], warmup_steps=10, weight_decay=0.1)
    adam._fused = adam._fused and fused
    lanes = [[value[lane].clone().requires_grad_() for value in start] for lane in range(2)]
    references = [
        torch.optim.AdamW(lane, lr=rate, weight_decay=0.1) for lane, rate in zip(lanes, [1e-2, 3e-2], strict=True)
    ]
    warm_ups = [torch.optim.lr_scheduler.LambdaLR(r, lambda step: min((step + 1) / 10, 1)) for r in references]
    scale = torch.tensor([1.0, 1e-3])  # lane 0 is clipped in every step, lane 1 never

    def loss(values: list[torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
        return sum((scale * ((value - 0.3) ** 2).flatten(scale.ndim).sum(-1)).sum() for value in values)

    for _ in range(40):
        adam.minimize(loss(mine, scale))
        for lane, (optimizer, warm_up, values) in enumerate(zip(references, warm_ups, lanes, strict=True)):
            optimizer.zero_grad()
            loss(values, scale[lane]).backward()
            norm = torch.nn.utils.clip_grad_norm_(values, 0.5)
            assert (norm > 0.5) == (lane == 0)
            optimizer.step()
            warm_up.step()
    for lane in range(2):
        for value, reference in zip(mine, lanes[lane], strict=True):
            torch.testing.assert_close(value[lane], reference, rtol=1e-5, atol=1e-6)
