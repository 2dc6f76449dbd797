"""Corruption against RIQL's protocol written out by hand, against its moments, and its effect on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset
from offbench.datasets.transforms import apply_transforms, parse_transform, restore
from offbench.datasets.transforms.base import touched_rows
from offbench.datasets.transforms.corruption import Corrupt
from offbench.datasets.transforms.corruption_edits import column_std, step_std
from offbench.datasets.transforms.pipeline import describe_transform
from offbench.errors import IncompatibleError, SpecError
from tests.datasets.corruption_data import episodes, qlearning_dataset, riql_random

TARGETS = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "dynamics": "next_observations",
}


def column(dataset: Dataset, name: str) -> np.ndarray:
    return dataset.step_observations if name == "observations" else getattr(dataset, name)


# --- riql ---


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    "targets",
    [["observations"], ["dynamics"], ["actions", "rewards"], ["observations", "actions", "rewards", "dynamics"]],
)
def test_riql_is_attack_py_on_qlearning_dataset(targets: list[str], seed: int) -> None:
    dataset = episodes([40, 25, 60, 31, 50])
    arrays, rows = qlearning_dataset(dataset)
    expected = riql_random(arrays, [TARGETS[t] for t in targets], rate=0.3, eps=0.7, seed=seed)
    # The order in which targets are named does not matter.
    got = Corrupt(target=targets[::-1], rate=0.3, scale=0.7, seed=seed, preset="riql").apply(dataset)
    for target in targets:
        name = TARGETS[target]
        attacked = rows[expected[f"index/{name}"]]
        if target == "dynamics":  # behind a terminal row the authors' s' is another episode's; ours is the true one
            plain = ~dataset.terminated[attacked]
            np.testing.assert_allclose(
                got.next_observations[attacked[plain]],
                expected[name][expected[f"index/{name}"][plain]],
                rtol=2e-6,
                atol=2e-5,
            )
            shift = expected[name] - arrays[name]
            terminal = np.flatnonzero(dataset.terminated[rows])
            moved = got.next_observations[rows[terminal]] - dataset.next_observations[rows[terminal]]
            np.testing.assert_allclose(moved, shift[terminal], rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_allclose(column(got, name)[rows], expected[name], rtol=2e-6, atol=2e-5)
        mask = np.zeros(len(dataset), bool)
        mask[attacked] = True
        np.testing.assert_array_equal(got.infos[f"touched/{name}"], mask)
        left = ~mask
        np.testing.assert_array_equal(column(got, name)[left], column(dataset, name)[left])


def test_riql_never_attacks_rows_that_qlearning_dataset_leaves_out() -> None:
    dataset = episodes([5] * 200)
    got = Corrupt(target="all", rate=1.0).apply(dataset)
    _, rows = qlearning_dataset(dataset)
    assert (
        touched_rows(got).sum() == len(rows) == 1000 - 100
    )  # every second episode is cut; the last row is one of them
    assert not touched_rows(got)[dataset.truncated].any()


def test_riql_leaves_dynamics_alone_where_the_next_observation_is_unknown() -> None:
    dataset = episodes([5] * 40, next_known=False)
    got = Corrupt(target="dynamics", rate=1.0).apply(dataset)
    np.testing.assert_array_equal(got.next_valid, dataset.next_valid)
    np.testing.assert_array_equal(got.infos["touched/next_observations"], dataset.next_valid)
    np.testing.assert_array_equal(got.next_observations[~got.next_valid], dataset.step_observations[~got.next_valid])


def test_riql_adversarial_rewards_are_the_negative_times_the_scale() -> None:
    dataset = episodes([50, 50])
    got = Corrupt(target="rewards", mode="adversarial", scale=0.5, seed=3).apply(dataset)
    _, rows = qlearning_dataset(dataset)
    attacked = rows[np.random.RandomState(3).random(len(rows)) < 0.3]
    np.testing.assert_allclose(got.rewards[attacked], -0.5 * dataset.rewards[attacked], rtol=1e-6)


# --- distributions ---


@pytest.mark.parametrize("preset", ["riql", "clean"])
@pytest.mark.parametrize("target", list(TARGETS))
def test_rates_ranges_and_moments(preset: str, target: str) -> None:
    dataset, scale, rate = episodes([1000] * 40, low=-50.0), 0.6, 0.25
    got = Corrupt(target=target, preset=preset, rate=rate, scale=scale, seed=1).apply(dataset)
    name = TARGETS[target]
    touched = got.infos[f"touched/{name}"]
    eligible = int((~dataset.truncated).sum()) if preset == "riql" else 40_000
    if preset == "clean":
        assert touched.sum() == rate * 40_000
    else:
        assert abs(touched.sum() - rate * eligible) < 5 * np.sqrt(eligible * rate * (1 - rate))
    before, after = column(dataset, name)[touched], column(got, name)[touched]
    if target == "rewards" and preset == "riql":
        noise, unit = after.astype(float), np.array(30.0)
    else:
        spread = column(dataset, name)
        noise, unit = after.astype(float) - before, spread.std(0, dtype=np.float64)
    if target == "actions" and preset == "clean":
        assert (after <= 1).all()
        assert (after >= -50).all()
        # Uniform actions and noise: a share of scale / (2 sqrt(12)) would leave the box, and lies on its sides.
        share = scale / (2 * np.sqrt(12))
        assert abs(((after == 1) | (after == -50)).mean() - share) < 5 * np.sqrt(share / after.size)
    else:
        moving = unit > 0
        relative = noise[..., moving] / unit[moving] if noise.ndim > 1 else noise / unit
        assert np.abs(relative).max() <= scale * (1 + 1e-3)
        count = len(relative)
        # Uniform on [-e, e]: mean 0, variance e^2 / 3, fourth moment e^4 / 5; five standard errors each.
        tolerance = 5 * scale / np.sqrt(3 * count)
        np.testing.assert_allclose(relative.mean(0), 0.0, atol=tolerance)
        error = 5 * np.sqrt((scale**4 / 5 - scale**4 / 9) / count)
        np.testing.assert_allclose((relative**2).mean(0), scale**2 / 3, atol=error)
        if noise.ndim > 1:
            correlation = np.corrcoef(relative.T)
            assert np.abs(correlation - np.eye(len(correlation))).max() < 5 / np.sqrt(count)


def test_constant_dimensions_stay() -> None:
    dataset = episodes([200] * 5)
    for preset in ("riql", "clean"):
        got = Corrupt(target="observations", rate=1.0, preset=preset).apply(dataset)
        assert (got.step_observations[:, 3] == 3.0).all()
        assert (got.step_observations[:, 0] != dataset.step_observations[:, 0]).sum() > 900


def test_clean_rewards_move_by_their_standard_deviation() -> None:
    dataset = episodes([500] * 8)
    mean, std = dataset.rewards.mean(dtype=float), dataset.rewards.std(dtype=float)
    got = Corrupt(target="rewards", mode="adversarial", preset="clean", scale=0.5).apply(dataset)
    touched = got.infos["touched/rewards"]
    expected = dataset.rewards - 0.5 * std * np.sign(dataset.rewards - mean)
    np.testing.assert_allclose(got.rewards[touched], expected[touched], rtol=1e-4, atol=1e-5)
    assert touched.sum() == 1200
    # Good rewards look worse and bad ones better.
    assert np.corrcoef(got.rewards[touched], dataset.rewards[touched])[0, 1] < 1


@pytest.mark.parametrize("same", [False, True])
def test_row_sets_of_several_targets(same: bool) -> None:
    dataset = episodes([100] * 50)
    got = Corrupt(target=["observations", "actions", "rewards"], preset="clean", same_rows=same, rate=0.4).apply(
        dataset
    )
    masks = [got.infos[f"touched/{name}"] for name in ("observations", "actions", "rewards")]
    assert all(mask.sum() == 2000 for mask in masks)
    overlap = int((masks[0] & masks[1]).sum())
    assert overlap == 2000 if same else abs(overlap - 800) < 120


def test_a_target_of_the_clean_preset_does_not_depend_on_the_others() -> None:
    dataset = episodes([100] * 5)
    alone = Corrupt(target="actions", preset="clean", seed=4).apply(dataset)
    together = Corrupt(target="all", preset="clean", seed=4).apply(dataset)
    np.testing.assert_array_equal(alone.actions, together.actions)


# --- what must not change ---


def test_corrupting_observations_leaves_next_observations_and_reverse() -> None:
    for known in (True, False):
        dataset = episodes([20] * 10, next_known=known)
        for preset in ("riql", "clean"):
            got = Corrupt(target="observations", rate=0.8, preset=preset).apply(dataset)
            np.testing.assert_array_equal(got.next_valid, dataset.next_valid)
            valid = dataset.next_valid
            np.testing.assert_array_equal(got.next_observations[valid], dataset.next_observations[valid])
            assert (got.step_observations != dataset.step_observations).any()
            other = Corrupt(target="dynamics", rate=0.8, preset=preset).apply(dataset)
            np.testing.assert_array_equal(other.step_observations, dataset.step_observations)
            assert (other.next_observations != dataset.next_observations).any()


def test_input_is_not_written_to() -> None:
    dataset = episodes([20] * 4)
    before = {name: column(dataset, name).copy() for name in TARGETS.values()}
    Corrupt(target="all", rate=1.0, preset="clean").apply(dataset)
    for name, values in before.items():
        np.testing.assert_array_equal(column(dataset, name), values)


def test_untouched_columns_are_shared() -> None:
    dataset = episodes([20] * 4)
    got = Corrupt(target="rewards").apply(dataset)
    assert got.observations is dataset.observations
    assert got.actions is dataset.actions


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("preset", ["riql", "clean"])
def test_restore_gives_the_clean_columns_back(preset: str, known: bool) -> None:
    dataset = episodes([9, 13, 20], next_known=known)
    got = apply_transforms(dataset, [Corrupt(target="all", preset=preset, rate=0.7), Corrupt(target="all", seed=9)])
    assert got.fingerprint != dataset.fingerprint
    back = restore(got)
    assert back.fingerprint == dataset.fingerprint
    assert not back.infos
    with pytest.raises(Exception, match="were not kept"):
        restore(Corrupt(target="rewards", keep_clean=False).apply(dataset))


def test_seeds_and_provenance() -> None:
    dataset = episodes([30] * 5)
    first = apply_transforms(dataset, ["corrupt(target=[rewards, actions], preset=clean, seed=3)"])
    again = Corrupt(target=["actions", "rewards"], preset="clean", seed=3).apply(dataset)
    assert first.fingerprint == again.fingerprint
    assert (
        first.fingerprint != Corrupt(target=["actions", "rewards"], preset="clean", seed=4).apply(dataset).fingerprint
    )
    record = first.provenance.transforms[-1]
    assert (record.name, record.seed, record.parameters["rate"]) == ("corrupt", 3, 0.3)
    assert record.parameters["measured"] == {"actions": {"rows": 45}, "rewards": {"rows": 45}}


# --- discrete actions, integers ---


@pytest.mark.parametrize("preset", ["riql", "clean"])
def test_discrete_actions_become_another_one_uniformly(preset: str) -> None:
    dataset = episodes([1000] * 20, discrete=True)
    got = Corrupt(target="actions", rate=0.5, preset=preset).apply(dataset)
    touched = got.infos["touched/actions"]
    assert abs(touched.mean() - 0.5) < 0.02
    old, new = dataset.actions[touched], got.actions[touched]
    assert (old != new).all()
    assert new.min() >= 2
    assert new.max() <= 6
    counts = np.array([[((old == a) & (new == b)).sum() for b in range(2, 7)] for a in range(2, 7)], float)
    expected = counts.sum(1, keepdims=True) / 4
    off = ~np.eye(5, dtype=bool)
    chi = (((counts - expected) ** 2 / expected)[off]).sum()
    assert chi < 45  # 15 degrees of freedom: p < 1e-4 above


def test_multi_discrete_actions_stay_in_their_space() -> None:
    rng = np.random.default_rng(0)
    space = spaces.MultiDiscrete([2, 3, 1])
    n = 600
    ends = np.arange(1, n + 1) % 20 == 0
    dataset = Dataset.from_arrays(
        rng.standard_normal((n, 2)),
        np.stack([rng.integers(0, k, n) for k in (2, 3, 1)], 1),
        rng.standard_normal(n),
        ends,
        np.zeros(n, bool),
        action_space=space,
    )
    got = Corrupt(target="actions", rate=1.0, preset="clean").apply(dataset)
    assert (got.actions[:, :2] != dataset.actions[:, :2]).all()
    assert (got.actions[:, 2] == 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_integer_observations_are_rounded_into_their_bounds(dtype: str) -> None:
    dataset = episodes([100] * 10, dtype=dtype)
    got = Corrupt(target="observations", rate=1.0, scale=2.0, preset="clean").apply(dataset)
    assert got.observations.dtype == dtype
    assert got.observations.min() >= 0
    assert got.observations.max() <= 255
    assert (got.observations != dataset.observations).mean() > 0.5
    # Rounding and clipping keep the direction of the noise; about as many went up as down.
    moved = got.step_observations.astype(int) - dataset.step_observations
    assert abs((moved > 0).mean() - (moved < 0).mean()) < 0.05


# --- parameters ---


@pytest.mark.parametrize(
    "text",
    [
        "corrupt(target=states)",
        "corrupt(rate=1.5)",
        "corrupt(scale=-1)",
        "corrupt(mode=hostile)",
        "corrupt(preset=paper)",
        "corrupt(same_rows=true)",
        "corrupt(steps=0)",
        "corrupt(seed=-1)",
        "corrupt(target=[])",
    ],
)
def test_wrong_parameters_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_transform(text)


def test_what_cannot_be_corrupted_says_why() -> None:
    one_step = episodes([1] * 10, next_known=False)
    with pytest.raises(IncompatibleError, match="no next observation"):
        Corrupt(target="dynamics").apply(one_step)
    with pytest.raises(IncompatibleError, match="gradient moves real numbers"):
        Corrupt(target="observations", mode="adversarial").apply(episodes([10, 10], dtype="uint8"))
    flat = episodes([10, 10])
    flat = flat.replace(rewards=np.ones(20))
    with pytest.raises(IncompatibleError, match="no standard deviation"):
        Corrupt(target="rewards", preset="clean").apply(flat)


def test_missing_values_are_not_corrupted() -> None:
    dataset = apply_transforms(episodes([10] * 6), ["drop_rewards(fraction=0.5)"])
    for text in ("corrupt(target=rewards)", "reward_flip", "corrupt(target=rewards, mode=adversarial)"):
        with pytest.raises(IncompatibleError, match="fillers cannot be corrupted"):
            apply_transforms(dataset, [text])
    apply_transforms(dataset, ["corrupt(target=actions)"])


def test_the_text_of_a_corruption_reads_back() -> None:
    transform = Corrupt(target=["rewards", "dynamics"], preset="clean", adversary_config={"hidden": [64, 64]}, seed=5)
    assert parse_transform(describe_transform(transform)) == transform


# --- invariants ---


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    target=st.sampled_from([*TARGETS, "all"]),
    preset=st.sampled_from(["riql", "clean"]),
    rate=st.floats(0, 1),
    scale=st.floats(0, 5),
    seed=st.integers(0, 2**31 - 1),
    known=st.booleans(),
)
def test_invariants(
    lengths: list[int], target: str, preset: str, rate: float, scale: float, seed: int, known: bool
) -> None:
    dataset = episodes(lengths, next_known=known)
    if not dataset.next_valid.any() and target in ("dynamics", "all"):
        return
    if preset == "clean" and np.ptp(dataset.rewards) == 0:
        return
    got = Corrupt(target=target, preset=preset, rate=rate, scale=scale, seed=seed).apply(dataset)
    for name in ("terminated", "truncated", "episode_starts", "last_known"):
        np.testing.assert_array_equal(getattr(got, name), getattr(dataset, name))
    np.testing.assert_array_equal(got.next_valid, dataset.next_valid)
    for name in TARGETS.values():
        touched = got.infos.get(f"touched/{name}", np.zeros(len(dataset), bool))
        np.testing.assert_array_equal(column(got, name)[~touched], column(dataset, name)[~touched])
        if preset == "clean" and name in {TARGETS.get(target)} - {"next_observations"}:
            assert touched.sum() == round(rate * len(dataset))
    if preset == "clean":
        assert got.action_space.low[0] <= got.actions.min()
        assert got.actions.max() <= got.action_space.high[0]
    assert restore(got).fingerprint == dataset.fingerprint


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 300),
    mean=st.floats(-1e4, 1e4),
    excluded=st.integers(0, 280),
    seed=st.integers(0, 1000),
)
def test_column_std_is_numpys(rows: int, mean: float, excluded: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, 3)) * [1, 10, 0] + mean).astype(np.float32)
    left_out = rng.permutation(rows)[: min(excluded, rows - 1)]
    expected = np.delete(values, left_out, axis=0).astype(np.float64).std(0)
    np.testing.assert_allclose(column_std(values, left_out), expected, rtol=1e-4, atol=1e-6 * (1 + abs(mean)))


def test_step_std_counts_each_column_once() -> None:
    for known in (True, False):
        dataset = episodes([9, 3, 14, 1], next_known=known)
        for name in ("observations", "actions", "rewards"):
            expected = column(dataset, name).std(0, dtype=np.float64)
            np.testing.assert_allclose(step_std(dataset, name), expected, rtol=1e-5, atol=1e-6)
        following = dataset.next_observations[dataset.next_valid].std(0, dtype=np.float64)
        np.testing.assert_allclose(step_std(dataset, "next_observations"), following, rtol=1e-5, atol=1e-6)
