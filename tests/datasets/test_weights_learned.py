"""Learned density-ratio weights: the objective against NumPy, what is learned, what is measured, and the cache."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from offbench.datasets import Dataset, cache_dir
from offbench.datasets.transforms import apply_transforms, parse_transform
from offbench.datasets.transforms.density_ratio import DensityRatio, _network, _Table
from offbench.errors import IncompatibleError, SpecError

SMALL: dict[str, Any] = {"hidden": (32,), "updates": 300, "batch_size": 128, "learning_rate": 3e-3}


def problem(*, discrete: bool = False, constant: bool = False, seed: int = 0) -> Dataset:
    """Sixty episodes of ten steps; a step pays 1 if its action is positive (or 1), else 0; states are noise."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 2, 600) if discrete else rng.uniform(-1, 1, (600, 1)).astype(np.float32)
    good = actions == 1 if discrete else actions[:, 0] > 0
    ends = np.arange(600) % 10 == 9
    return Dataset.from_arrays(
        rng.standard_normal((600, 2), np.float32),
        actions,
        np.zeros(600) if constant else good,
        ends & (np.arange(600) < 300),
        ends & (np.arange(600) >= 300),
        action_space=gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1, 1, (1,)),
    )


def mlp(network: torch.nn.Sequential, inputs: np.ndarray) -> np.ndarray:
    """The network in NumPy."""
    values = inputs.astype(np.float64)
    layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(layers):
        values = values @ layer.weight.detach().numpy().T.astype(np.float64) + layer.bias.detach().numpy()
        if number < len(layers) - 1:
            values = np.maximum(values, 0)
    return values[:, 0]


def test_the_objective_is_the_papers() -> None:
    data = problem()
    transform = DensityRatio(flow_weight=0.7, entropy_weight=0.3, flow_discount=0.9, clip=-0.0, hidden=(16, 8))
    rng = np.random.default_rng(5)
    state_net, action_net = _network(2, (16, 8), rng), _network(3, (16, 8), rng)
    with torch.no_grad():  # large enough that the clip at 1 matters
        for network in (state_net, action_net):
            network[-1].weight *= 12
    rows = np.array([0, 8, 9, 309, 310, 599, 42])  # 9 terminates; s' of 309 and 599 is not known
    found = transform.loss(state_net, action_net, _Table(data).batch(rows))

    frames = data.step_observations.astype(np.float64)
    scaled = (frames - frames.mean(0)) / (frames.std(0) + 1e-3)
    state, action = mlp(state_net, scaled[rows]), mlp(action_net, np.column_stack([scaled, data.actions])[rows])
    assert (np.abs(state) > 1).any() or (np.abs(action) > 1).any()
    logits = np.clip(state, -1, 1) + np.clip(action, -1, 1)
    weights = np.exp(logits) / np.exp(logits).sum()
    flow = np.array(
        [
            0.0
            if row in (9, 309, 599)
            else (0.9 * np.exp(f + g) - np.exp(mlp(state_net, scaled[row + 1][None])[0])) ** 2
            for row, f, g in zip(rows, state, action, strict=True)
        ]
    )
    expected = -weights @ data.rewards[rows] + 0.7 * flow.mean() + 0.3 * weights @ np.log(weights)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("discrete", [False, True])
def test_weights_go_to_reward_also_in_episodes_that_were_not_trained_on(discrete: bool) -> None:
    data = problem(discrete=discrete)
    result = DensityRatio(**SMALL, flow_weight=0.1).apply(data)
    assert result.sampling_weights is not None
    assert result.sampling_weights.sum() == pytest.approx(1.0)
    paid = data.rewards == 1
    assert result.sampling_weights[paid].mean() > 2 * result.sampling_weights[~paid].mean()
    assert result.sampling_weights.max() / result.sampling_weights.min() <= np.exp(4 * 1.2) * 1.001  # the clip
    found = result.provenance.transforms[-1].parameters["measured"]
    assert found["held_out_transitions"] == 60  # a tenth of the episodes
    assert found["held_out_scaled_reward"] > found["held_out_scaled_reward_before"] + 0.15
    assert found["effective_transitions"] < 600


def test_a_strong_entropy_term_keeps_weights_uniform() -> None:
    result = DensityRatio(**SMALL, entropy_weight=100.0).apply(problem())
    assert result.provenance.transforms[-1].parameters["measured"]["effective_transitions"] > 0.97 * 600


def test_learned_weights_multiply_those_that_are_there() -> None:
    transform = DensityRatio(**{**SMALL, "updates": 20})
    first = apply_transforms(problem(), ["reweight(method=aw)"])
    both = transform.apply(first)
    logits, _ = transform._cached(first)
    assert first.sampling_weights is not None
    expected = first.sampling_weights * np.exp(logits)
    np.testing.assert_allclose(both.sampling_weights, expected / expected.sum())
    # Batches are drawn by the earlier weights, so what is learned is not what is learned without them.
    assert not np.array_equal(logits, transform._cached(problem())[0])


def test_weights_are_learned_once_and_learned_anew_when_the_cache_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = parse_transform("density_ratio(updates=5, hidden=[8], seed=3)")
    first = transform.apply(problem())
    learned: list[int] = []
    original = DensityRatio._learn
    monkeypatch.setattr(DensityRatio, "_learn", lambda self, data: learned.append(1) or original(self, data))
    assert transform.apply(problem()).fingerprint == first.fingerprint
    assert not learned
    files = list((cache_dir() / "transforms" / "density_ratio").iterdir())
    assert len(files) == 1
    files[0].write_bytes(files[0].read_bytes()[:200])
    assert transform.apply(problem()).fingerprint == first.fingerprint
    assert learned == [1]
    other = parse_transform("density_ratio(updates=5, hidden=[8], seed=4)").apply(problem())
    assert other.fingerprint != first.fingerprint
    assert learned == [1, 1]


def test_learning_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    DensityRatio(updates=2, hidden=(4,), seed=9).apply(problem())
    assert torch.equal(torch.rand(3), expected)


def test_constant_rewards_and_wrong_parameters_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="all its rewards are 0"):
        DensityRatio().apply(problem(constant=True))
    for parameters, words in (
        ({"updates": 0}, "updates is 0"),
        ({"flow_weight": -1.0}, "flow_weight is -1"),
        ({"held_out": 1.0}, "held_out is 1"),
        ({"hidden": ()}, "hidden is"),
    ):
        with pytest.raises(SpecError, match=words):
            DensityRatio(**parameters)  # type: ignore[arg-type]
