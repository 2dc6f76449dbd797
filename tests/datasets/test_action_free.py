"""Dropped actions and rewards: who loses them, that training leaves them out, and that models fill them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from offbench.algorithms import get_algorithm
from offbench.algorithms.base import ProblemSpec, Requires, check_compatible
from offbench.algorithms.batches import Preprocessing, TransitionBuffer, best_episodes, reward_affine, usable_rows
from offbench.datasets import Dataset, load_dataset, read_d4rl, write_d4rl
from offbench.datasets.transforms import action_free_models, apply_transforms, restore
from offbench.errors import DatasetError, IncompatibleError, SpecError
from tests.datasets.conftest import REAL_DATA
from tests.datasets.transform_data import made

SMALL = "hidden=[32, 32], updates=600, learning_rate=0.005"


def driven(episodes: int = 40, length: int = 25, *, seed: int = 0, choices: int = 0) -> Dataset:
    """A linear system s' = 0.9 s + B a driven by random actions; the reward is s . w + a . u."""
    rng = np.random.default_rng(seed)
    effect = np.random.default_rng(99).normal(size=(2, 3))
    frames, actions, rewards = [], [], []
    for episode in range(episodes):
        state = rng.normal(size=3)
        frames.append(state)
        for _ in range(length):
            action = rng.uniform(-1, 1, 2)
            if choices:
                action = np.array([[-1, 0], [0, 1], [1, 1], [1, -1]])[rng.integers(choices)]
            rewards.append(state @ [1, -1, 0.5] + action @ [2, 1])
            state = 0.9 * state + action @ effect
            frames.append(state)
            actions.append(action)
        if episode % 4 == 0:  # the last frame of every fourth episode is not known
            frames.pop()
    taken = np.array(actions)
    codes = (taken * [3, 1]).sum(1)
    rows = episodes * length
    return Dataset(
        observations=np.array(frames, np.float32),
        actions=np.unique(codes, return_inverse=True)[1] + 5 if choices else taken,
        rewards=np.array(rewards),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % length == length - 1,
        episode_starts=np.arange(episodes) * length,
        last_known=np.arange(episodes) % 4 != 0,
        observation_space=spaces.Box(-np.inf, np.inf, (3,)),
        action_space=spaces.Discrete(choices, start=5) if choices else spaces.Box(-1, 1, (2,)),
        name="driven",
    )


def measured(dataset: Dataset) -> dict[str, Any]:
    return dict(dataset.provenance.transforms[-1].parameters["measured"])


@pytest.mark.parametrize("column", ["actions", "rewards"])
def test_a_share_of_the_trajectories_loses_its_values(column: str) -> None:
    dataset = driven()
    new = apply_transforms(dataset, [f"drop_{column}(fraction=0.75, seed=1)"])
    missing = new.infos[f"missing/{column}"]
    per_episode = missing.reshape(40, 25)
    assert (per_episode.all(1) | ~per_episode.any(1)).all()
    assert per_episode.all(1).sum() == 30
    values = getattr(new, column)
    assert not values[missing].any()
    np.testing.assert_array_equal(values[~missing], getattr(dataset, column)[~missing])
    assert np.isfinite(values).all()
    assert restore(new).fingerprint == dataset.fingerprint
    assert f"missing/{column}" not in restore(new).infos
    other = apply_transforms(dataset, [f"drop_{column}(fraction=0.75, seed=2)"])
    assert (other.infos[f"missing/{column}"] != missing).any()
    assert apply_transforms(dataset, [f"drop_{column}(fraction=0.75, seed=1)"]).fingerprint == new.fingerprint


def test_labels_from_a_part_of_the_returns() -> None:
    dataset = driven()
    new = apply_transforms(dataset, ["drop_actions(fraction=0.9, labelled_from=[0.0, 0.5])"])
    labelled = ~new.infos["missing/actions"].reshape(40, 25).all(1)
    assert labelled.sum() == 4
    assert dataset.episode_returns[labelled].max() <= np.median(dataset.episode_returns)
    best = apply_transforms(dataset, ["drop_rewards(fraction=0.9, labelled_from=[0.9, 1.0])"])
    labelled = ~best.infos["missing/rewards"].reshape(40, 25).all(1)
    assert set(np.flatnonzero(labelled)) == set(np.argsort(dataset.episode_returns)[-4:])
    with pytest.raises(DatasetError, match="20 trajectories are to keep their actions, but 4 lie between"):
        apply_transforms(dataset, ["drop_actions(fraction=0.5, labelled_from=[0.0, 0.1])"])


def test_fillers_are_valid_actions() -> None:
    space = spaces.Box(np.array([1, -np.inf], np.float32), np.array([3, np.inf], np.float32))
    dataset = driven().replace(actions=np.full((1000, 2), 2.0), action_space=space)
    new = apply_transforms(dataset, ["drop_actions(fraction=0.5)"])
    assert new.actions[new.infos["missing/actions"]][0].tolist() == [2, 0]
    discrete = apply_transforms(driven(choices=4), ["drop_actions(fraction=0.5)"])
    assert set(discrete.actions[discrete.infos["missing/actions"]]) == {5}


def test_training_leaves_missing_values_out() -> None:
    dataset = driven()
    no_actions = apply_transforms(dataset, ["drop_actions(fraction=0.5)"])
    missing = no_actions.infos["missing/actions"]
    for name in ("bc", "iql"):
        usable = usable_rows(no_actions, get_algorithm(name).requires)
        assert not usable[missing].any()
        assert usable.sum() >= 480
    no_rewards = apply_transforms(dataset, ["drop_rewards(fraction=0.5)"])
    missing = no_rewards.infos["missing/rewards"]
    assert usable_rows(no_rewards, get_algorithm("bc").requires).all()  # which reads no reward
    for requires in (Requires(), Requires(return_discount=1.0), Requires(window=5)):
        usable = usable_rows(no_rewards, requires)
        assert not usable[missing].any()
        assert usable[~missing].sum() >= 480
    rewarded = np.flatnonzero(~missing.reshape(40, 25).any(1))
    assert set(best_episodes(no_rewards, 1.0)) == set(rewarded)
    returns = dataset.episode_returns[rewarded]
    scale, _ = reward_affine(no_rewards, Preprocessing(rewards="return_range"))
    assert np.isclose(scale, 1000 / (returns.max() - returns.min()))
    # One transition with a next action that is missing: it is left out for SARSA-like methods only.
    one = dataset.replace(infos={"missing/actions": np.arange(1000) == 7})
    assert np.flatnonzero(~usable_rows(one, Requires(next_observations=False))).tolist() == [7]
    assert not usable_rows(one, Requires(next_actions=True))[[6, 7]].any()
    with pytest.raises(DatasetError, match="fill_rewards"):
        TransitionBuffer(dataset.replace(infos={"missing/rewards": np.ones(1000, bool)}), Requires(), Preprocessing())


def test_returns_that_are_not_known_are_not_used() -> None:
    dataset = driven()
    dropped = apply_transforms(dataset, ["drop_rewards(fraction=0.5)", "relabel_rewards(shift=-1000)"])
    rewarded = ~dropped.infos["missing/rewards"].reshape(40, 25).any(1)
    # The fillers of 0 would make the unknown returns the best by far.
    assert ProblemSpec.of(dropped).best_return < 0
    assert set(best_episodes(dropped, 0.3)) <= set(np.flatnonzero(rewarded))
    with pytest.raises(IncompatibleError, match=r"(?s)returns of driven are not known.*fill_rewards"):
        apply_transforms(dropped, ["reweight(method=rw)"])
    weighted = apply_transforms(dropped, ["reweight(method=rw, partial=drop)"])
    drawn = np.add.reduceat(weighted.sampling_weights, weighted.episode_starts) > 0
    assert drawn.tolist() == rewarded.tolist()
    unknown = dataset.replace(infos={"missing/rewards": np.ones(1000, bool)})
    with pytest.raises(IncompatibleError, match="no episode with all its rewards"):
        check_compatible(get_algorithm("decision_transformer"), unknown)


@pytest.mark.parametrize("past", [0, 1])
def test_filled_actions_are_those_of_the_dynamics(past: int) -> None:
    dataset = driven()
    dropped = apply_transforms(dataset, ["drop_actions(fraction=0.75)"])
    filled = apply_transforms(dropped, [f"fill_actions(past={past}, {SMALL})"])
    missing, numbers = dropped.infos["missing/actions"], measured(filled)
    left = missing & ~dataset.next_valid
    assert np.array_equal(filled.infos["missing/actions"], left)
    assert numbers["left_missing"] == left.sum() > 0
    done = missing & ~left
    error = np.square(filled.actions[done] - dataset.actions[done]).mean()
    assert np.isclose(numbers["filled_mse"], error, rtol=1e-4)
    # Uniform actions have a variance of 1/3, which is the error of the best constant.
    assert np.isclose(numbers["trivial_mse"], 1 / 3, rtol=0.3)
    assert numbers["held_out_mse"] < 0.03
    assert error < 0.03
    assert numbers["explained"] > 0.9
    assert numbers["held_out_rows"] + numbers["train_rows"] == (~missing & dataset.next_valid).sum()
    np.testing.assert_array_equal(filled.actions[~missing], dataset.actions[~missing])
    assert abs(filled.actions).max() <= 1
    assert usable_rows(filled, Requires()).sum() == dataset.bootstrappable.sum()


def test_filled_choices() -> None:
    dropped = apply_transforms(driven(choices=4), ["drop_actions(fraction=0.75)", f"fill_actions({SMALL})"])
    numbers = measured(dropped)
    assert numbers["trivial_accuracy"] < 0.5
    assert numbers["held_out_accuracy"] > 0.95
    assert numbers["filled_accuracy"] > 0.95
    assert set(dropped.actions) == {5, 6, 7, 8}


def test_filled_rewards() -> None:
    dataset = driven()
    dropped = apply_transforms(dataset, ["drop_rewards(fraction=0.75)"])
    missing = dropped.infos["missing/rewards"]
    filled = apply_transforms(dropped, [f"fill_rewards({SMALL})"])
    numbers = measured(filled)
    assert numbers["held_out_mse"] < 0.05 * numbers["trivial_mse"]
    assert np.isclose(numbers["filled_mse"], np.square(filled.rewards - dataset.rewards)[missing].mean(), rtol=1e-3)
    assert "missing/rewards" not in filled.infos
    zero = apply_transforms(dropped, ["fill_rewards(method=zero)"])
    assert not zero.rewards[missing].any()
    assert np.isclose(measured(zero)["filled_mse"], np.square(dataset.rewards[missing]).mean())
    least = apply_transforms(dropped, ["fill_rewards(method=minimum)"])
    assert (least.rewards[missing] == dataset.rewards[~missing].min()).all()
    both = apply_transforms(dataset, ["drop_rewards(fraction=0.5)", "drop_actions(fraction=0.5)"])
    with pytest.raises(DatasetError, match="fill the actions first"):
        apply_transforms(both, ["fill_rewards"])


def test_the_same_seed_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dropped = apply_transforms(driven(), ["drop_actions(fraction=0.5)"])
    texts = [f"fill_actions(hidden=[16], updates=50, seed={seed})" for seed in (0, 1)]
    first, other = (apply_transforms(dropped, [text]) for text in texts)
    assert first.fingerprint != other.fingerprint
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path / "file"))
    again = apply_transforms(dropped, [texts[0]])  # nothing can be cached below a file, so it is trained again
    assert again.fingerprint == first.fingerprint
    assert measured(again) == measured(first)


def test_predictions_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = apply_transforms(driven(), ["drop_actions(fraction=0.5)"])
    text = "fill_actions(hidden=[16], updates=50)"
    first = apply_transforms(dropped, [text])
    with monkeypatch.context() as patch:
        patch.setattr("offbench.datasets.transforms.action_free_fill.fit_and_predict", lambda *_: {}["trained again"])
        again = apply_transforms(dropped, [text])
        assert again.fingerprint == first.fingerprint
        assert again.provenance == first.provenance
        # Other missing rows with equal columns are another problem: the marks are part of the fingerprint.
        mask = dropped.infos["missing/actions"].copy()
        mask[0] = not mask[0]
        with pytest.raises(KeyError, match="trained again"):
            apply_transforms(dropped.replace(infos={**dropped.infos, "missing/actions": mask}), [text])
    (file,) = (action_free_models.cache_dir() / "transforms").iterdir()
    file.write_bytes(b"damaged")
    assert apply_transforms(dropped, [text]).fingerprint == first.fingerprint


def test_a_dropped_dataset_is_written_and_read(tmp_path: Path) -> None:
    dropped = apply_transforms(driven(), ["drop_actions(fraction=0.5)"])
    again = read_d4rl(write_d4rl(dropped, tmp_path / "x.hdf5"))
    assert again.fingerprint == dropped.fingerprint
    assert again.infos["missing/actions"].tolist() == dropped.infos["missing/actions"].tolist()


def test_what_does_not_apply() -> None:
    with pytest.raises(DatasetError, match="fill_actions: no actions of driven are missing"):
        apply_transforms(driven(), ["fill_actions"])
    everything = driven().replace(infos={"missing/actions": np.ones(1000, bool)})
    with pytest.raises(DatasetError, match="all actions of driven are missing"):
        apply_transforms(everything, ["fill_actions"])
    one = driven().replace(infos={"missing/actions": np.arange(1000) >= 25})
    with pytest.raises(DatasetError, match="1 trajectory of driven has usable actions"):
        apply_transforms(one, ["fill_actions"])
    with pytest.raises(DatasetError, match=r"has 3 trajectories, of which 0\.1 is none"):
        apply_transforms(made(), ["drop_actions(fraction=0.1)"])
    several = made(
        actions=np.zeros((9, 2), int),
        action_space=spaces.MultiDiscrete([2, 2]),
        infos={"missing/actions": np.arange(9) > 5},
    )
    with pytest.raises(IncompatibleError, match="predicts Box and Discrete"):
        apply_transforms(several, ["fill_actions"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop_actions", "needs fraction"),
        ("drop_actions(fraction=1.0)", "not in"),
        ("drop_rewards(fraction=0.5, labelled_from=[0.5, 0.5])", "labelled_from"),
        ("fill_actions(past=-1)", "negative"),
        ("fill_actions(held_out=0)", "not in"),
        ("fill_rewards(updates=0)", "positive"),
        ("fill_rewards(method=mean)", "'model', 'zero' or 'minimum'"),
    ],
)
def test_wrong_parameters(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        apply_transforms(made(), [text])


@pytest.mark.slow
def test_real_actions_are_filled_far_better_than_by_their_mean() -> None:
    path = REAL_DATA / "hopper-medium.hdf5"
    if not path.is_file():
        pytest.skip("real datasets are not on this machine")
    dropped = apply_transforms(load_dataset(path), ["drop_actions(fraction=0.9, labelled_from=[0.0, 0.5])"])
    numbers = measured(apply_transforms(dropped, ["fill_actions(hidden=[128, 128], updates=1500)"]))
    assert numbers["held_out_mse"] < 0.1 * numbers["trivial_mse"]
    assert numbers["filled_mse"] < 0.2 * numbers["trivial_mse"]
