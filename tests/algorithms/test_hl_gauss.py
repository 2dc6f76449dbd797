"""Histograms of values: against numerical integration of the Gaussian, their mean, gradients, and misuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.algorithms.hl_gauss import GaussianHistogram
from offbench.errors import SpecError

from .problems import CONTINUOUS, DISCRETE, make, random_batch


@pytest.mark.parametrize("target", [-3.0, -1.37, 0.0, 0.21, 2.9, 4.0])
def test_masses_equal_the_gaussians_integrals_over_the_bins(target: float) -> None:
    histogram = GaussianHistogram(-3.0, 4.0, 7, 0.75)
    sigma = 0.75  # bins are 1 wide
    fine = np.linspace(-3.0, 4.0, 7 * 2000 + 1)
    middle = (fine[:-1] + fine[1:]) / 2
    density = np.exp(-0.5 * ((middle - target) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    mass = density.reshape(7, 2000).sum(1) * (fine[1] - fine[0])
    ours = histogram.project(torch.tensor([target]))[0].numpy()
    np.testing.assert_allclose(ours, mass / mass.sum(), atol=2e-6)


def test_targets_outside_the_range_become_its_edges_and_are_counted() -> None:
    histogram = GaussianHistogram(-1.0, 1.0, 10, 0.75)
    far = histogram.project(torch.tensor([-7.0, 7.0]))
    torch.testing.assert_close(far, histogram.project(torch.tensor([-1.0, 1.0])))
    assert far[0].argmax() == 0
    assert far[1].argmax() == 9
    targets = torch.tensor([[0.0, 1.5, -2.0, 0.5], [0.0, 0.1, 0.2, 1.0]])
    assert histogram.outside(targets).tolist() == [0.5, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-500, 400),
    width=st.floats(0.01, 20),
    bins=st.integers(12, 120),
    where=st.floats(0.0, 1.0),
    smoothing=st.floats(0.6, 1.2),
)
def test_the_mean_survives_projection(low: float, width: float, bins: int, where: float, smoothing: float) -> None:
    histogram = GaussianHistogram(low, low + width * bins, bins, smoothing)
    margin = 5 * smoothing * width  # further in than five sigma nothing is cut off
    target = low + margin + where * (width * bins - 2 * margin) if 2 * margin < width * bins else low + width * bins / 2
    masses = histogram.project(torch.tensor([target], dtype=torch.float64).float())
    assert masses.sum().item() == pytest.approx(1.0, abs=1e-4)
    if 2 * margin < width * bins:
        mean = histogram.expected(masses.clamp(min=1e-30).log())
        # Aliasing leaves exp(-2 pi^2 smoothing^2) / pi widths; float32 a few units in the seventh digit.
        allowed = width * (math.exp(-2 * math.pi**2 * smoothing**2) / math.pi + 1e-3) + 1e-5 * (abs(low) + width * bins)
        assert abs(mean.item() - target) < allowed


def test_the_gradient_of_the_cross_entropy_is_softmax_minus_target() -> None:
    histogram = GaussianHistogram(-2.0, 2.0, 9, 0.75)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 5, 9, generator=generator, requires_grad=True)
    targets = torch.randn(3, 1, 5, generator=generator)  # one per row, the same for both critics
    (gradient,) = torch.autograd.grad(histogram.cross_entropy(logits, targets).sum(), logits)
    expected = torch.softmax(logits, -1) - histogram.project(targets)
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, -2.0)])
def test_ranges_must_not_be_empty(low: float, high: float) -> None:
    with pytest.raises(SpecError, match="value_low < value_high"):
        make("iql", CONTINUOUS, [0], critic_loss="hl_gauss", value_low=low, value_high=high)


def test_riql_takes_histograms_without_the_huber_loss_only() -> None:
    with pytest.raises(SpecError, match="set huber to false"):
        make("riql", CONTINUOUS, [0], critic_loss="hl_gauss")
    run = make("riql", CONTINUOUS, [0], critic_loss="hl_gauss", huber=False)
    assert run.update(random_batch(CONTINUOUS, 1, 16, 0), {}, 1)["critic_loss"].isfinite().all()


@pytest.mark.parametrize("name", ["bve", "mce", "qr_dqn", "rem"])
def test_minto_is_refused_where_it_would_change_nothing(name: str) -> None:
    with pytest.raises(SpecError, match="no minto"):
        make(name, DISCRETE, [0], minto=True)
