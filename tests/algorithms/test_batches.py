"""Packed transitions against the dataset's own columns, and draws that depend on nothing but seed and update."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from offbench.algorithms.base import NoiseSpec, Requires
from offbench.algorithms.batches import BLOCK, LaneSampler, Preprocessing, TransitionBuffer, reward_affine
from offbench.algorithms.conformance import random_dataset
from offbench.datasets import Dataset
from offbench.errors import DatasetError, IncompatibleError, SpecError

BOOTSTRAP, ANY = Requires(), Requires(next_observations=False)
PLAIN = Preprocessing(observations="none")


def all_rows(buffer: TransitionBuffer) -> dict[str, np.ndarray]:
    return {key: value[0].numpy() for key, value in buffer.gather(torch.arange(len(buffer))[None]).items()}


@pytest.mark.parametrize("discrete", [False, True])
def test_rows_are_the_datasets_transitions_without_unknown_next_observations(discrete: bool) -> None:
    data = random_dataset(discrete=discrete)
    rows = all_rows(TransitionBuffer(data, BOOTSTRAP, PLAIN))
    kept = [t for t in range(len(data.rewards)) if data.terminated[t] or data.next_valid[t]]
    assert len(kept) == 490  # ten of twenty episodes were cut with the last observation unknown
    np.testing.assert_array_equal(rows["observations"], data.step_observations[kept])
    np.testing.assert_array_equal(rows["actions"], data.actions[kept])
    np.testing.assert_array_equal(rows["rewards"], data.rewards[kept])
    np.testing.assert_array_equal(rows["continues"], 1.0 - data.terminated[kept])
    running = rows["continues"] == 1
    np.testing.assert_array_equal(rows["next_observations"][running], data.next_observations[kept][running])
    if not discrete:
        np.testing.assert_array_equal(
            rows["observation_actions"], np.concatenate([rows["observations"], rows["actions"]], 1)
        )
    assert len(TransitionBuffer(data, ANY, PLAIN)) == 500


def test_a_time_limit_is_not_a_terminal_state() -> None:
    data = random_dataset(discrete=False)
    rows = all_rows(TransitionBuffer(data, ANY, PLAIN))
    assert (rows["continues"][data.truncated] == 1).all()
    assert (rows["continues"][data.terminated] == 0).all()


def test_standardization_and_what_is_kept_of_it() -> None:
    data = random_dataset(discrete=False)
    buffer = TransitionBuffer(data, BOOTSTRAP, Preprocessing())
    raw = data.step_observations.astype(np.float64)
    mean, scale = raw.mean(0), raw.std(0) + 1e-3
    np.testing.assert_allclose(buffer.normalizer.mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(buffer.normalizer.scale.numpy(), scale, rtol=1e-5)
    kept = data.bootstrappable
    rows = all_rows(buffer)
    np.testing.assert_allclose(rows["observations"], (raw[kept] - mean) / scale, rtol=1e-4, atol=1e-5)
    expected = (data.next_observations[kept] - mean) / scale
    np.testing.assert_allclose(rows["next_observations"], expected, rtol=1e-4, atol=1e-5)
    again = buffer.normalizer(torch.from_numpy(data.step_observations[kept].copy()))
    np.testing.assert_allclose(again.numpy(), rows["observations"], rtol=1e-4, atol=1e-5)


def test_rewards_by_the_range_of_complete_episodes() -> None:
    data = random_dataset(discrete=False)
    returns = data.rewards.reshape(20, 25).sum(1, dtype=np.float64)
    scale, shift = reward_affine(data, Preprocessing(rewards="return_range", reward_scale=2.0, reward_shift=-1.0))
    assert scale == pytest.approx(2000.0 / (returns.max() - returns.min()))
    assert shift == -1.0
    rows = all_rows(TransitionBuffer(data, ANY, Preprocessing(rewards="return_range")))
    np.testing.assert_allclose(rows["rewards"], data.rewards * scale / 2, rtol=1e-5)
    with pytest.raises(IncompatibleError, match="range of returns"):
        reward_affine(random_dataset(discrete=False, episodes=1), Preprocessing(rewards="return_range"))


def test_actions_are_mapped_from_their_box() -> None:
    data = random_dataset(discrete=False)
    low, high = np.float32([0.0, -4.0]), np.float32([2.0, 4.0])
    box = gymnasium.spaces.Box(low, high)
    scaled = data.replace(actions=(low + (data.actions + 1) / 2 * (high - low)).astype(np.float32), action_space=box)
    rows = all_rows(TransitionBuffer(scaled, ANY, PLAIN))
    np.testing.assert_allclose(rows["actions"], data.actions, atol=1e-6)


def test_unbounded_actions_are_refused() -> None:
    data = random_dataset(discrete=False)
    with pytest.raises(IncompatibleError, match="not bounded"):
        TransitionBuffer(data.replace(action_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,))), ANY, PLAIN)


def test_discrete_actions_count_from_zero_whatever_their_start() -> None:
    data = random_dataset(discrete=True)
    shifted = data.replace(actions=data.actions + 5, action_space=gymnasium.spaces.Discrete(3, start=5))
    rows = all_rows(TransitionBuffer(shifted, ANY, PLAIN))
    np.testing.assert_array_equal(rows["actions"], data.actions)


def test_draws_do_not_depend_on_neighbours_or_on_history() -> None:
    buffer = TransitionBuffer(random_dataset(discrete=False), BOOTSTRAP, PLAIN)
    noise = {"a": NoiseSpec((8, 2)), "b": NoiseSpec((3,), "uniform")}
    together = LaneSampler(buffer, [4, 7], 8, noise)
    step = BLOCK + 3
    for earlier in (1, 2, BLOCK):
        together.draw(earlier)
    batch, drawn = together.draw(step)
    lone_batch, lone = LaneSampler(buffer, [7], 8, noise).draw(step)
    for key in batch:
        assert torch.equal(batch[key][1], lone_batch[key][0])
    assert torch.equal(drawn["a"][1], lone["a"][0])
    assert float(drawn["b"].min()) >= 0
    assert float(drawn["b"].max()) < 1
    assert not torch.equal(batch["rewards"][0], batch["rewards"][1])
    assert not torch.equal(batch["rewards"], together.draw(step + 1)[0]["rewards"])


def test_sampling_weights_are_honoured() -> None:
    data = random_dataset(discrete=False)
    weights = np.zeros(500)
    weights[[3, 24, 49, 100]] = [1.0, 2.0, 4.0, 1.0]  # 49 is cut with its next observation unknown
    weighted = data.replace(sampling_weights=weights / weights.sum())
    buffer = TransitionBuffer(weighted, BOOTSTRAP, PLAIN)
    sampler = LaneSampler(buffer, [0], 512)
    rewards = torch.cat([sampler.draw(step)[0]["rewards"][0] for step in range(1, 41)]).numpy()
    shares = [float(np.mean(rewards == data.rewards[row])) for row in (3, 24, 49, 100)]
    assert shares == pytest.approx([0.25, 0.5, 0.0, 0.25], abs=0.02)
    alone = np.zeros(500)
    alone[49] = 1.0
    with pytest.raises(DatasetError, match="zero on every usable"):
        TransitionBuffer(data.replace(sampling_weights=alone), BOOTSTRAP, PLAIN)


def test_uniform_draws_cover_every_row_evenly() -> None:
    data = random_dataset(discrete=False)
    sampler = LaneSampler(TransitionBuffer(data, ANY, PLAIN), [0], 500)
    rewards = torch.cat([sampler.draw(step)[0]["rewards"][0] for step in range(1, 101)])
    counts = (rewards[:, None] == torch.from_numpy(data.rewards.copy())[None]).sum(0)
    assert counts.min() > 50
    assert counts.max() < 150


def test_stored_next_observations_win_over_the_next_frame() -> None:
    data = random_dataset(discrete=False)
    corrupted: Dataset = data.replace(next_observations_override=data.step_observations + 10)
    rows = all_rows(TransitionBuffer(corrupted, BOOTSTRAP, PLAIN))
    np.testing.assert_allclose(rows["next_observations"], data.step_observations + 10, rtol=1e-6)


def test_unknown_preprocessing_is_refused() -> None:
    with pytest.raises(SpecError, match=r"preprocessing\.observations"):
        Preprocessing(observations="whiten")  # type: ignore[arg-type]
