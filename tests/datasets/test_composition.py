"""Parts of datasets: rows, episodes, subsamples and splits, against the transitions written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset
from offbench.datasets.transforms import apply_transforms, parse_transform
from offbench.datasets.transforms.subsets import split_episodes, stratified_order, take_episodes, take_rows
from offbench.errors import DatasetError, SpecError
from tests.datasets.transform_data import datasets, made, transitions


@settings(max_examples=80, deadline=None)
@given(data=st.data(), dataset=datasets())
def test_rows_keep_all_that_is_known_of_them(data: st.DataObject, dataset: Dataset) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=20)))
    part = take_rows(dataset, rows)
    every = transitions(dataset)
    assert transitions(part) == [every[row] for row in rows]
    # An episode is a run of following steps of one episode, as long as it can be.
    for position in range(1, len(rows)):
        follows = rows[position] == rows[position - 1] + 1
        same = dataset.episode_ids[rows[position]] == dataset.episode_ids[rows[position - 1]]
        assert (part.episode_ids[position] == part.episode_ids[position - 1]) == (follows and same)
    # A run that was cut is neither terminated nor truncated, so it is no complete episode.
    whole = dataset.episode_complete[dataset.episode_ids[rows]] & dataset.is_last[rows]
    assert part.episode_complete.tolist() == whole[part.is_last].tolist()
    if dataset.sampling_weights is not None:
        weights = dataset.sampling_weights[rows]
        np.testing.assert_allclose(part.sampling_weights, weights / weights.sum())


@settings(max_examples=40, deadline=None)
@given(dataset=datasets())
def test_all_rows_in_order_are_the_dataset(dataset: Dataset) -> None:
    everything = take_episodes(dataset, np.ones(dataset.num_episodes, bool))
    assert everything.fingerprint == dataset.fingerprint
    if (dataset.last_known | dataset.episode_complete).all() or dataset.num_episodes == 1:
        assert take_rows(dataset, np.ones(len(dataset), bool)).fingerprint == dataset.fingerprint


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dataset=datasets())
def test_episodes_are_taken_whole_and_may_repeat(data: st.DataObject, dataset: Dataset) -> None:
    episodes = data.draw(st.lists(st.integers(0, dataset.num_episodes - 1), min_size=1, max_size=8))
    part = take_episodes(dataset, np.array(episodes))
    every = transitions(dataset)
    rows = [row for episode in episodes for row in np.flatnonzero(dataset.episode_ids == episode)]
    assert transitions(part) == [every[row] for row in rows]
    assert part.episode_returns.tolist() == dataset.episode_returns[episodes].tolist()
    assert part.last_known.tolist() == dataset.last_known[episodes].tolist()


def test_a_part_by_hand() -> None:
    part = take_rows(made(), np.array([1, 2, 4, 5, 6]))
    assert part.observations[:, 0].tolist() == [1, 2, 3, 11, 12, 20, 21, 22]
    assert part.episode_starts.tolist() == [0, 2, 3]
    assert part.terminated.tolist() == [False, True, False, False, False]
    assert part.truncated.tolist() == [False, False, True, False, False]
    assert part.next_observations[:, 0].tolist() == [2, 3, 12, 21, 22]
    assert part.next_valid.all()
    assert take_rows(made(), np.array([8])).next_valid.tolist() == [False]
    cut = take_rows(made(), np.arange(9), cuts=np.array([1, 3]))
    assert cut.episode_starts.tolist() == [0, 1, 3, 5]
    assert cut.next_valid.tolist() == [True] * 8 + [False]


def test_parts_that_cannot_be_taken() -> None:
    dataset = made()
    for rows in (np.zeros(9, bool), np.array([], np.int64)):
        with pytest.raises(DatasetError, match="no transition is left"):
            take_rows(dataset, rows)
    with pytest.raises(DatasetError, match="not numbers from 0 to 8"):
        take_rows(dataset, np.array([9]))
    with pytest.raises(DatasetError, match="mask of shape"):
        take_rows(dataset, np.ones(8, bool))
    with pytest.raises(DatasetError, match="not numbers from 0 to 2"):
        take_episodes(dataset, np.array([-1]))
    weighted = dataset.replace(sampling_weights=np.eye(9)[0])
    with pytest.raises(DatasetError, match="weights of made are zero on every row"):
        take_rows(weighted, np.array([3, 4]))


@settings(max_examples=30, deadline=None)
@given(dataset=datasets(), seed=st.integers(0, 9), fraction=st.floats(0.01, 1.0))
def test_subsampled_episodes_keep_returns_and_order(dataset: Dataset, seed: int, fraction: float) -> None:
    (part,) = [apply_transforms(dataset, [f"subsample(fraction={fraction}, seed={seed})"])]
    assert part.num_episodes == max(1, round(fraction * dataset.num_episodes))
    first = part.infos["number"][part.episode_starts]
    kept = np.searchsorted(dataset.episode_starts, first)
    assert (np.diff(kept) > 0).all()
    assert part.episode_returns.tolist() == dataset.episode_returns[kept].tolist()
    again = apply_transforms(dataset, [f"subsample(fraction={fraction}, seed={seed})"])
    assert again.fingerprint == part.fingerprint


def test_subsampled_transitions_and_segments() -> None:
    length, count = 40, 50
    dataset = made(
        observations=np.arange(length * count, dtype=np.float32)[:, None],
        actions=np.zeros((length * count, 2)),
        rewards=np.ones(length * count),
        terminated=np.zeros(length * count, bool),
        truncated=np.arange(length * count) % length == length - 1,
        episode_starts=np.arange(count) * length,
        last_known=np.zeros(count, bool),
    )
    rows = apply_transforms(dataset, ["subsample(unit=transitions, fraction=0.25)"])
    assert len(rows) == 500
    numbers = rows.step_observations[:, 0]
    assert (np.diff(numbers) > 0).all()
    # Uniform: each tenth of the data has its share (200 rows with probability 1/4; six standard deviations).
    shares = np.histogram(numbers, 10, (0, 2000))[0]
    assert abs(shares - 50).max() < 6 * np.sqrt(200 * 0.25 * 0.75)
    pieces = apply_transforms(dataset, ["subsample(unit=segments, count=30, length=15)"])
    assert set(np.unique(pieces.episode_lengths)) <= {10, 15, 25, 30, 40}  # 15, 15 and 10 of an episode, or neighbours
    known = pieces.next_valid | (pieces.step_observations[:, 0] % length == length - 1)
    assert known.all()
    whole = apply_transforms(dataset, ["subsample(unit=segments, fraction=1.0, length=7)"])
    assert whole.fingerprint == dataset.fingerprint
    with pytest.raises(DatasetError, match="60 episodes are asked for, there are 50"):
        apply_transforms(dataset, ["subsample(count=60)"])


@pytest.mark.parametrize(("count", "strata"), [(100, 10), (37, 10), (7, 10), (1000, 4)])
def test_stratified_prefixes_take_from_every_stratum_alike(count: int, strata: int) -> None:
    returns = np.random.default_rng(1).normal(size=count) ** 3
    order = stratified_order(returns, strata, np.random.default_rng(2))
    assert sorted(order) == list(range(count))
    ranks = np.argsort(np.argsort(returns))
    groups = min(strata, count)
    group = ranks * groups // count
    for size in range(1, count + 1, max(1, count // 20)):
        taken = np.bincount(group[order[:size]], minlength=groups)
        wanted = np.bincount(group, minlength=groups) * size / count
        assert abs(taken - wanted).max() <= 2
    assert not np.array_equal(order, stratified_order(returns, strata, np.random.default_rng(3)))


def test_stratified_subsamples_keep_the_distribution_of_returns() -> None:
    rng = np.random.default_rng(0)
    returns = np.concatenate([rng.normal(0, 1, 900), rng.normal(100, 1, 100)])
    dataset = made(
        observations=np.zeros((1000, 1)),
        actions=np.zeros((1000, 2)),
        rewards=rng.permutation(returns),
        terminated=np.ones(1000, bool),
        truncated=np.zeros(1000, bool),
        episode_starts=np.arange(1000),
        last_known=np.zeros(1000, bool),
    )

    def good(seed: int, stratified: bool) -> int:
        part = apply_transforms(dataset, [f"subsample(count=50, stratified={str(stratified).lower()}, seed={seed})"])
        return int((part.episode_returns > 50).sum())

    assert {good(seed, True) for seed in range(10)} == {5}
    assert len({good(seed, False) for seed in range(10)}) > 1


@settings(max_examples=40, deadline=None)
@given(dataset=datasets(), seed=st.integers(0, 9), fraction=st.floats(0.05, 0.95), stratified=st.booleans())
def test_a_split_shares_out_all_episodes(dataset: Dataset, seed: int, fraction: float, stratified: bool) -> None:
    if dataset.num_episodes < 2:
        with pytest.raises(DatasetError, match="has one episode"):
            split_episodes(dataset, fraction, seed=seed)
        return
    train, validation = split_episodes(dataset, fraction, seed=seed, stratified=stratified)
    numbers = np.concatenate([train.infos["number"], validation.infos["number"]])
    assert sorted(numbers) == list(range(len(dataset)))
    assert train.num_episodes + validation.num_episodes == dataset.num_episodes
    wanted = min(dataset.num_episodes - 1, max(1, round(fraction * dataset.num_episodes)))
    assert train.num_episodes == wanted
    text = f"split(part=validation, fraction={fraction}, seed={seed}, stratified={str(stratified).lower()})"
    assert apply_transforms(dataset, [text]).fingerprint == validation.fingerprint
    assert train.provenance.transforms[-1].parameters["part"] == "train"


def test_episodes_by_return_and_length() -> None:
    dataset = made()  # returns 6, 9, 30; lengths 3, 2, 4; the last one is running
    assert apply_transforms(dataset, ["filter_episodes(minimum_return=7)"]).episode_returns.tolist() == [9, 30]
    assert apply_transforms(dataset, ["filter_episodes(maximum_return=9)"]).episode_returns.tolist() == [6, 9]
    assert apply_transforms(dataset, ["filter_episodes(minimum_length=3)"]).episode_lengths.tolist() == [3, 4]
    assert apply_transforms(dataset, ["filter_episodes(complete=true)"]).episode_lengths.tolist() == [3, 2]
    with pytest.raises(DatasetError, match="filter_episodes: no episode of made is in the range"):
        apply_transforms(dataset, ["filter_episodes(minimum_return=31)"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subsample", "a fraction or a count"),
        ("subsample(fraction=0.5, count=3)", "a fraction or a count"),
        ("subsample(fraction=1.5)", "not in"),
        ("subsample(count=0)", "at least one"),
        ("subsample(count=3, unit=transitions, stratified=true)", "only episodes"),
        ("subsample(count=3, unit=segments, length=0)", "at least one step"),
        ("subsample(count=3, unit=rows)", "'episodes', 'transitions' or 'segments'"),
        ("split", "needs part"),
        ("split(part=test)", "'train' or 'validation'"),
        ("split(part=train, fraction=1.0)", "not in"),
        ("filter_episodes", "keeps everything"),
    ],
)
def test_wrong_parameters(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_transform(text)
