"""Windows against slices of the episodes, draws that depend on seed and update alone, and the memory of episodes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.algorithms import check_compatible, get_algorithm
from offbench.algorithms.base import NoiseSpec, ProblemSpec, Requires
from offbench.algorithms.batches import BLOCK, LaneSampler, Preprocessing, TransitionBuffer, make_buffer
from offbench.algorithms.conformance import ViolationError, check_policy, random_dataset, small_config
from offbench.algorithms.dropout import Dropout
from offbench.algorithms.windows import EpisodeContext, WindowBuffer
from offbench.datasets import Dataset
from offbench.errors import DatasetError, IncompatibleError

from .problems import CONTINUOUS, DISCRETE, make

PLAIN = Preprocessing(observations="none")


def needs(window: int, **values: Any) -> Requires:
    return Requires(next_observations=False, window=window, **values)


def episodes(lengths: list[int], *, complete: list[bool] | None = None, discrete: bool = False) -> Dataset:
    """Random rows in episodes of given lengths; one that is not complete was cut without a flag."""
    rng = np.random.default_rng(1)
    n, ends = sum(lengths), np.cumsum(lengths) - 1
    flags = np.zeros(n, bool)
    flags[ends] = complete or [True] * len(lengths)
    box, choices = gymnasium.spaces.Box(-2, 2, (2,)), gymnasium.spaces.Discrete(3, start=5)
    return Dataset.from_arrays(
        rng.standard_normal((n, 3), np.float32),
        rng.integers(5, 8, n) if discrete else rng.uniform(-2, 2, (n, 2)).astype(np.float32),
        rng.standard_normal(n).astype(np.float32),
        flags & (np.arange(n) % 2 == 0),
        flags & (np.arange(n) % 2 == 1),
        episode_starts=np.append(0, ends[:-1] + 1),
        action_space=choices if discrete else box,
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_window_is_a_slice_of_one_episode(lengths: list[int], window: int, discrete: bool) -> None:
    data = episodes(lengths, discrete=discrete)
    buffer = WindowBuffer(data, needs(window), PLAIN)
    assert len(buffer) == sum(lengths)
    batch = {key: value[0].numpy() for key, value in buffer.gather(torch.arange(len(buffer))[None]).items()}
    row = 0
    for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        rewards = data.rewards[start : start + length].astype(np.float64)
        for step in range(length):
            stop = min(step + window, length)
            pad = window - (stop - step)
            part = slice(start + step, start + stop)
            np.testing.assert_array_equal(batch["mask"][row], [0.0] * pad + [1.0] * (stop - step))
            np.testing.assert_array_equal(batch["observations"][row, pad:], data.step_observations[part])
            actions = data.actions[part] - 5 if discrete else data.actions[part] / 2
            np.testing.assert_allclose(batch["actions"][row, pad:], actions, rtol=1e-6)
            np.testing.assert_array_equal(batch["timesteps"][row, pad:], np.arange(step, stop))
            togo = [rewards[t:].sum() for t in range(step, stop)]
            np.testing.assert_allclose(batch["returns"][row, pad:], togo, rtol=1e-5, atol=1e-5)
            for key in ("observations", "actions", "timesteps", "returns"):
                assert not batch[key][row, :pad].any()
            row += 1


def test_episodes_without_a_known_return_are_left_out() -> None:
    data = episodes([4, 3, 5], complete=[True, False, True])
    buffer = WindowBuffer(data, needs(4), PLAIN)
    batch = buffer.gather(torch.arange(len(buffer))[None])
    assert len(buffer) == 9
    first = batch["observations"][0, :, -1].numpy()
    assert not (first[:, None] == data.step_observations[None, 4:7]).all(-1).any()
    # The window that starts with the last row of the first episode does not go on in the third.
    assert batch["mask"][0, 3].tolist() == [0, 0, 0, 1]
    with pytest.raises(DatasetError, match="no row"):
        WindowBuffer(episodes([4], complete=[False]), needs(4), PLAIN)
    with pytest.raises(IncompatibleError, match="no episode"):
        check_compatible(get_algorithm("rvs"), episodes([4], complete=[False]))


def test_windows_of_the_best_episodes() -> None:
    data = episodes([6] * 10)
    best = np.argsort(data.episode_returns)[-3:]
    buffer = WindowBuffer(data, needs(3, top_fraction=0.3), PLAIN)
    found = buffer.gather(torch.arange(len(buffer))[None])["returns"][0, :, 0].numpy()[::6]
    np.testing.assert_allclose(np.sort(found), np.sort(data.episode_returns[best]), rtol=1e-5)


def test_windows_do_not_pass_over_a_row_that_is_left_out() -> None:
    data = episodes([6])
    data = data.replace(next_observations_override=data.step_observations, terminated=data.terminated)
    known = np.array([True, True, False, True, True, True])
    masked = object.__new__(Dataset)
    masked.__dict__.update(data.__dict__, next_valid=known, bootstrappable=known)
    buffer = WindowBuffer(masked, Requires(window=4), PLAIN)
    batch = buffer.gather(torch.arange(5)[None])
    assert [row.tolist() for row in batch["timesteps"][0]] == [
        [0, 0, 0, 1],
        [0, 0, 0, 1],
        [0, 3, 4, 5],
        [0, 0, 4, 5],
        [0, 0, 0, 5],
    ]
    assert batch["mask"].sum(-1).tolist() == [[2, 1, 3, 2, 1]]


def test_windows_start_uniformly_over_rows_or_by_sampling_weights() -> None:
    data = episodes([30, 10])
    drawn = WindowBuffer(data, needs(5), PLAIN).draw_indices(np.random.default_rng(0), (40_000,))
    counts = np.bincount(drawn, minlength=40)
    assert abs(counts[:30].sum() / 40_000 - 0.75) < 0.01  # an episode in proportion to its length
    assert counts.min() > 800
    assert counts.max() < 1200
    weights = np.zeros(40)
    weights[[2, 29, 35]] = [0.5, 0.25, 0.25]
    weighted = WindowBuffer(data.replace(sampling_weights=weights), needs(5), PLAIN)
    shares = np.bincount(weighted.draw_indices(np.random.default_rng(0), (40_000,)), minlength=40) / 40_000
    np.testing.assert_allclose(shares, weights, atol=0.01)
    # Rows of weight zero start no window, but are part of windows.
    assert weighted.gather(torch.tensor([[2]]))["timesteps"].tolist() == [[[2, 3, 4, 5, 6]]]


def test_reward_preprocessing_does_not_reach_returns_and_observations_are_normalized() -> None:
    data = episodes([7, 5])
    shifted = Preprocessing(reward_scale=2.0, reward_shift=-1.0)
    buffer = make_buffer(data, needs(1), shifted)
    assert isinstance(buffer, WindowBuffer)
    assert isinstance(make_buffer(data, Requires(next_observations=False), shifted), TransitionBuffer)
    batch = buffer.gather(torch.arange(12)[None])
    np.testing.assert_allclose(batch["returns"][0, 0, 0], data.rewards[:7].sum(dtype=np.float64), rtol=1e-5)
    raw = data.step_observations
    np.testing.assert_allclose(
        batch["observations"][0, :, 0], (raw - raw.mean(0)) / (raw.std(0) + 1e-3), rtol=1e-4, atol=1e-5
    )


def test_draws_do_not_depend_on_neighbours_or_on_history() -> None:
    buffer = WindowBuffer(random_dataset(discrete=False), needs(4), PLAIN)
    noise = {"keys": NoiseSpec((3, 2), "bits")}
    together = LaneSampler(buffer, [4, 7], 8, noise)
    for earlier in (1, 2, BLOCK):
        together.draw(earlier)
    batch, drawn = together.draw(BLOCK + 3)
    alone, lone = LaneSampler(buffer, [7], 8, noise).draw(BLOCK + 3)
    for key in batch:
        assert torch.equal(batch[key][1], alone[key][0])
    assert torch.equal(drawn["keys"][1], lone["keys"][0])
    assert drawn["keys"].dtype == torch.int32
    assert not torch.equal(batch["returns"][0], batch["returns"][1])


# --- dropout ---


def test_dropout_drops_its_share_independently() -> None:
    dropout = Dropout(0.1, 2)
    assert dropout.noise == NoiseSpec((2, 2), "bits")
    keys = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, (400, 2, 2), np.int32))
    values = dropout.multipliers(keys, 0, (400, 60, 10)).numpy()
    assert set(np.unique(values)) == {0.0, np.float32(1 / 0.9)}
    dropped = values.reshape(400, 600) == 0
    assert abs(dropped.mean() - 0.1) < 0.002
    # Every unit, and every pair of units in one mask and over two places, as if drawn independently.
    assert np.abs(dropped.mean(0) - 0.1).max() < 0.08
    pairs = np.corrcoef(dropped.T)[np.triu_indices(600, 1)]
    assert np.abs(pairs.mean()) < 1e-3
    assert abs(pairs.std() - 400**-0.5) < 0.01
    other = dropout.multipliers(keys, 1, (400, 600)).numpy() == 0
    assert abs((dropped & other).mean() - 0.01) < 0.002
    assert Dropout(0.0, 2).noise is None


def test_a_mask_does_not_depend_on_earlier_calls() -> None:
    keys = torch.tensor([[[12345, -678]]], dtype=torch.int32)
    fresh, used = Dropout(0.5, 1), Dropout(0.5, 1)
    used.multipliers(keys, 0, (1, 10))
    used.multipliers(keys, 0, (1, 1000))
    assert torch.equal(fresh.multipliers(keys, 0, (1, 50)), used.multipliers(keys, 0, (1, 50)))


# --- acting ---


class Spy:
    """Remembers the windows that it is asked about; acts by numbers that tell the calls apart."""

    def __init__(self, discrete: bool) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self.discrete = discrete

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.seen.append({key: value.clone() for key, value in batch.items()})
        shape = batch["mask"].shape[:2]
        if self.discrete:
            return torch.full(shape, 1 + (len(self.seen) - 1) % 2)
        return torch.full((*shape, 2), len(self.seen) / 10)


@pytest.mark.parametrize("discrete", [False, True])
def test_a_context_is_the_window_that_training_would_make_of_the_episode(discrete: bool) -> None:
    spy, space = Spy(discrete), DISCRETE if discrete else CONTINUOUS
    context = EpisodeContext(spy, space, 3, torch.tensor([100.0, 50.0]))
    rng = np.random.default_rng(0)
    observations = torch.from_numpy(rng.standard_normal((6, 2, 2, 5)).astype(np.float32))
    rewards = torch.from_numpy(rng.standard_normal((6, 2, 2)).astype(np.float32))
    first = torch.zeros(6, 2, 2, dtype=torch.bool)
    first[0] = True
    first[4, 1, 0] = True  # this episode ended after four steps and another one follows in its place
    acted = []
    for tick in range(6):
        context.observe(rewards[tick - 1] if tick else torch.zeros(2, 2), first[tick])
        acted.append(context.act(observations[tick]))
    for lane, column in np.ndindex(2, 2):
        start = 4 if (lane, column) == (1, 0) else 0
        for tick in range(start, 6):
            window = {key: value[lane, column] for key, value in spy.seen[tick].items()}
            length = min(tick - start + 1, 3)
            steps = list(range(tick - length + 1, tick + 1))
            assert window["mask"].tolist() == [0.0] * (3 - length) + [1.0] * length
            assert torch.equal(window["observations"][3 - length :], observations[steps, lane, column])
            assert window["timesteps"][3 - length :].tolist() == [step - start for step in steps]
            due = [(100.0, 50.0)[lane] - rewards[start:step, lane, column].sum().item() for step in steps]
            assert window["returns"][3 - length :].tolist() == pytest.approx(due, rel=1e-5)
            for position, step in zip(range(3 - length, 2), steps[:-1], strict=False):
                assert torch.equal(window["actions"][position], acted[step][lane, column])
            assert not window["actions"][-1].any()  # not yet known
            for value in window.values():
                assert not value[: 3 - length].any()


def test_the_memoryless_policy_is_the_first_step_of_an_episode() -> None:
    ours = make("decision_transformer", CONTINUOUS, [0, 1], target_return=[3.0, 5.0])
    observations = torch.randn(2, 4, 5)
    context = ours.context()
    context.observe(torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(context.act(observations), ours.policy(observations))


def test_targets_are_the_datasets_highest_return_unless_given() -> None:
    data = episodes([6, 4, 5], complete=[True, True, False])
    space = ProblemSpec.of(data)
    assert space.longest_episode == 6
    assert space.best_return == pytest.approx(max(data.episode_returns[:2]))
    assert space.largest_return == pytest.approx(np.abs(data.episode_returns).max())
    asked = make("decision_transformer", space, [0, 1], target_return=[None, 7.0])
    assert asked.targets.tolist() == pytest.approx([space.best_return, 7.0])
    asked = make("rvs", space, [0, 1], target_return=[None, 7.0], horizon=10)
    assert asked.targets.tolist() == pytest.approx([space.best_return / 10, 0.7])


def test_the_conformance_kit_finds_a_memory_that_is_not_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, data = get_algorithm("decision_transformer"), random_dataset(discrete=False)
    config = small_config(algorithm)
    check_policy(algorithm, config, data, 5, 1e-4)
    observe = EpisodeContext.observe

    def forgetful(self: EpisodeContext, rewards: torch.Tensor, first: torch.Tensor) -> None:
        observe(self, rewards, first if first.all() else torch.zeros_like(first))

    monkeypatch.setattr(EpisodeContext, "observe", forgetful)
    with pytest.raises(ViolationError, match="steps of an episode that is over"):
        check_policy(algorithm, config, data, 5, 1e-4)
