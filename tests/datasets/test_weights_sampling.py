"""That draws follow the weights, whatever rows are left out, and what weights do to a dataset's statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy import stats

from offbench.algorithms.base import Requires
from offbench.algorithms.batches import Preprocessing, TransitionBuffer, best_episodes, draw_weighted, usable_rows
from offbench.algorithms.randomness import generator
from offbench.algorithms.windows import WindowBuffer
from offbench.datasets import Dataset, load_dataset, write_d4rl
from offbench.datasets.sampling import (
    effective_size,
    episode_weights,
    importance_ratios,
    mean_return,
    observation_moments,
    sampling_summary,
)
from offbench.datasets.transforms import apply_transforms
from offbench.errors import DatasetError, IncompatibleError

BOOTSTRAP, SARSA, ANY = Requires(), Requires(next_actions=True), Requires(next_observations=False)
WINDOWS = Requires(next_observations=False, window=4)


def data(**changes: Any) -> Dataset:
    """Forty episodes of 1 to 12 steps whose rewards are their row numbers; half end by a cut whose s' is unknown."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 13, 40)
    rows, ends = int(lengths.sum()), np.cumsum(lengths) - 1
    terminated, truncated = np.zeros(rows, bool), np.zeros(rows, bool)
    terminated[ends[::2]], truncated[ends[1::2]] = True, True
    return Dataset.from_arrays(
        rng.standard_normal((rows, 2)),
        rng.uniform(-1, 1, (rows, 1)),
        np.arange(rows),
        terminated,
        truncated,
        action_space=gymnasium.spaces.Box(-1, 1, (1,)),
        **changes,
    )


def drawn_rows(dataset: Dataset, requires: Requires, draws: int) -> np.ndarray:
    """The dataset's rows that a buffer draws, read back from the rewards (or for windows from the packed order)."""
    rng = generator(7, "batches")
    if requires.window:
        windows = WindowBuffer(dataset, requires, Preprocessing())
        return np.flatnonzero(usable_rows(dataset, requires))[windows.draw_indices(rng, (draws,))]
    buffer = TransitionBuffer(dataset, requires, Preprocessing())
    packed = buffer._rows[:, -2].numpy().astype(int)
    return packed[buffer.draw_indices(rng, (draws,))]


@pytest.mark.parametrize("requires", [ANY, BOOTSTRAP, SARSA, WINDOWS], ids=["any", "bootstrap", "sarsa", "windows"])
@pytest.mark.parametrize(
    "transform",
    ["reweight(method=rw, temperature=0.5)", "reweight(method=pf, fraction=0.4)", "reweight(method=uniform)"],
)
def test_frequencies_of_draws_are_the_weights_of_the_usable_rows(transform: str, requires: Requires) -> None:
    dataset = apply_transforms(data(), [transform])
    assert dataset.sampling_weights is not None
    expected = dataset.sampling_weights * usable_rows(dataset, requires)
    expected = expected / expected.sum()
    counts = np.bincount(drawn_rows(dataset, requires, 200_000), minlength=len(dataset))
    assert not counts[expected == 0].any()
    kept = expected > 0
    assert (expected[kept] * 200_000).min() > 5  # or the chi-square approximation would not hold
    assert stats.chisquare(counts[kept], expected[kept] * 200_000).pvalue > 1e-3


def test_the_chi_square_check_would_notice_other_weights() -> None:
    dataset = apply_transforms(data(), ["reweight(method=rw, temperature=0.5)"])
    other = apply_transforms(data(), ["reweight(method=rw, temperature=0.45)"])
    assert other.sampling_weights is not None
    counts = np.bincount(drawn_rows(dataset, ANY, 200_000), minlength=len(dataset))
    assert stats.chisquare(counts, other.sampling_weights / other.sampling_weights.sum() * 200_000).pvalue < 1e-3


class _Edge(np.random.Generator):
    """A generator whose numbers are all the greatest below 1."""

    def random(self, size: Any = None, *_: Any, **__: Any) -> Any:
        return np.full(size, np.nextafter(1.0, 0.0))


def test_a_row_of_weight_zero_is_not_drawn_even_where_rounding_leaves_the_sum_below_one() -> None:
    weights = np.zeros(len(data()))
    weights[:10] = 0.1
    assert np.cumsum(weights)[-1] < 1.0  # ten times 0.1 in floating point
    dataset = data().replace(sampling_weights=weights)
    buffer = TransitionBuffer(dataset, ANY, Preprocessing())
    rows = buffer._rows[:, -2].numpy().astype(int)[buffer.draw_indices(_Edge(np.random.PCG64(0)), (3,))]
    assert set(rows) == {9}


def test_a_draw_is_the_first_row_whose_cumulative_weight_exceeds_the_number() -> None:
    weights = np.random.default_rng(1).random(1000)
    cumulative = np.cumsum(weights / weights.sum())
    cumulative[-1] = 1.0
    numbers = generator(3, "batches").random((4, 50))
    expected = [[int(np.argmax(cumulative > number)) for number in row] for row in numbers]
    np.testing.assert_array_equal(draw_weighted(cumulative, generator(3, "batches"), (4, 50)), expected)


def test_rows_that_are_never_drawn_are_not_packed() -> None:
    dataset = apply_transforms(data(), ["reweight(method=top_k, count=3)"])
    assert dataset.sampling_weights is not None
    assert len(TransitionBuffer(dataset, ANY, Preprocessing())) == np.count_nonzero(dataset.sampling_weights)


def test_the_best_share_is_of_episodes_that_can_be_drawn() -> None:
    dataset = data()
    assert len(best_episodes(dataset, 0.1)) == 4
    short = apply_transforms(dataset, [{"reweight": {"method": "softmax", "score": "length"}}])
    np.testing.assert_array_equal(best_episodes(short, 0.1), best_episodes(dataset, 0.1))  # all can be drawn
    few = np.argsort(dataset.episode_returns)[:10]  # the ten worst
    mask = np.isin(dataset.episode_ids, few).astype(float)
    worst = apply_transforms(dataset, [])
    worst = worst.replace(sampling_weights=mask / mask.sum())
    chosen = best_episodes(worst, 0.2)
    assert set(chosen) == set(few[np.argsort(dataset.episode_returns[few])[-2:]])
    rows = drawn_rows(worst, replace(ANY, top_fraction=0.2), 1000)
    assert set(dataset.episode_ids[rows]) == set(chosen)


# --- statistics as sampled ---


def test_without_weights_the_statistics_are_the_plain_ones() -> None:
    dataset = data()
    summary = sampling_summary(dataset)
    assert summary["effective_transitions"] == pytest.approx(len(dataset))
    assert summary["effective_episodes"] == pytest.approx(40)
    assert summary["mean_return"] == pytest.approx(dataset.episode_returns.mean())
    assert summary["mean_return"] == pytest.approx(summary["mean_return_uniform"])
    mean, std = observation_moments(dataset)
    np.testing.assert_allclose(mean, dataset.step_observations.astype(np.float64).mean(0))
    np.testing.assert_allclose(std, dataset.step_observations.astype(np.float64).std(0))


def test_moments_and_returns_as_sampled_are_those_of_copied_rows() -> None:
    dataset = data()
    copies = np.repeat(
        np.random.default_rng(2).integers(0, 5, 40), dataset.episode_lengths
    )  # per episode: 0 to 4 copies
    weighted = dataset.replace(sampling_weights=copies / copies.sum())
    rows = np.repeat(np.arange(len(dataset)), copies)
    mean, std = observation_moments(weighted)
    np.testing.assert_allclose(mean, dataset.step_observations[rows].astype(np.float64).mean(0))
    np.testing.assert_allclose(std, dataset.step_observations[rows].astype(np.float64).std(0))
    per_episode = copies[dataset.episode_starts]
    assert mean_return(weighted) == pytest.approx(np.repeat(dataset.episode_returns, per_episode).mean())
    np.testing.assert_allclose(episode_weights(weighted), per_episode / per_episode.sum())


def test_effective_size() -> None:
    assert effective_size(np.array([0.25] * 4 + [0.0] * 3)) == pytest.approx(4)
    assert effective_size(np.array([0.5, 0.25, 0.25])) == pytest.approx(1 / 0.375)


def test_importance_ratios_lead_back_to_uniform_sampling() -> None:
    dataset = apply_transforms(data(), ["reweight(method=rw, temperature=0.3)"])
    assert dataset.sampling_weights is not None
    ratios = importance_ratios(dataset)
    # The expectation over draws of ratio times value is the plain mean, exactly.
    assert (dataset.sampling_weights * ratios) @ dataset.rewards == pytest.approx(
        dataset.rewards.mean(dtype=np.float64)
    )
    rows = drawn_rows(dataset, ANY, 100_000)
    values = dataset.rewards.astype(np.float64)
    error = (ratios[rows] * values[rows]).std() / np.sqrt(len(rows))
    assert abs((ratios[rows] * values[rows]).mean() - values.mean()) < 4 * error
    assert abs(values[rows].mean() - values.mean()) > 10 * error  # uncorrected, the mean is another

    filtered = apply_transforms(data(), ["reweight(method=pf, fraction=0.5)"])
    with pytest.raises(IncompatibleError, match="never drawn"):
        importance_ratios(filtered)
    assert filtered.sampling_weights is not None
    covered = filtered.sampling_weights > 0
    back = importance_ratios(filtered, uncovered="drop")
    assert not back[~covered].any()
    assert (filtered.sampling_weights * back) @ values == pytest.approx(values[covered].mean())


def test_the_mean_return_needs_a_complete_episode() -> None:
    open_ended = Dataset.from_arrays(
        np.zeros((3, 1)),
        np.zeros((3, 1)),
        np.ones(3),
        np.zeros(3, bool),
        np.zeros(3, bool),
        action_space=gymnasium.spaces.Box(-1, 1, (1,)),
    )
    with pytest.raises(DatasetError, match="no complete episode"):
        mean_return(open_ended)
    assert sampling_summary(open_ended)["mean_return"] is None


def test_a_summary_shows_sampling_only_where_there_are_weights() -> None:
    assert data().summary()["sampling"] is None
    weighted = apply_transforms(data(), ["reweight(method=pf, fraction=0.5)"])
    shown = weighted.summary()["sampling"]
    assert shown == sampling_summary(weighted)
    assert shown["transitions_drawn"] < len(weighted)


def test_written_weights_come_back(tmp_path: Any) -> None:
    weighted = apply_transforms(data(), ["reweight(method=rw)"])
    again = load_dataset(write_d4rl(weighted, tmp_path / "weighted.hdf5"))
    np.testing.assert_array_equal(again.sampling_weights, weighted.sampling_weights)
    assert again.fingerprint == weighted.fingerprint


def test_normalization_does_not_depend_on_weights() -> None:
    plain = TransitionBuffer(data(), ANY, Preprocessing()).normalizer
    weighted = apply_transforms(data(), ["reweight(method=pf, fraction=0.1)"])
    assert weighted.sampling_weights is not None
    found = TransitionBuffer(weighted, ANY, Preprocessing()).normalizer
    np.testing.assert_array_equal(found.mean.numpy(), plain.mean.numpy())
    np.testing.assert_array_equal(found.scale.numpy(), plain.scale.numpy())
