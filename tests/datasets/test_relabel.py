"""Rewards, actions and observations changed in value: formulas by hand, declared spaces, what can be put back."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset
from offbench.datasets.transforms import apply_transforms, restore
from offbench.datasets.transforms.relabel import RelabelByFunction
from offbench.errors import DatasetError, IncompatibleError, SpecError
from tests.datasets.transform_data import datasets, made


@pytest.mark.parametrize(
    ("text", "rewards"),
    [
        ("relabel_rewards(shift=-1)", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("relabel_rewards(scale=2, shift=-1)", [1, 3, 5, 7, 9, 11, 13, 15, 17]),
        ("relabel_rewards(clip=[3, 5])", [3, 3, 3, 4, 5, 5, 5, 5, 5]),
        ("relabel_rewards(scale=-1, clip=[-2, 0])", [-1, -2, -2, -2, -2, -2, -2, -2, -2]),
        # Complete episodes have the returns 1 + 2 + 3 = 6 and 4 + 5 = 9; the third is running.
        ("relabel_rewards(normalize=return_range, scale=1000)", np.arange(1, 10) * 1000 / 3),
        ("relabel_rewards(normalize=standardize)", (np.arange(1, 10) - 5) / np.sqrt(60 / 9)),
    ],
)
def test_rewards_by_hand(text: str, rewards: list[float]) -> None:
    dataset = made()
    new = apply_transforms(dataset, [text])
    np.testing.assert_allclose(new.rewards, rewards, rtol=1e-6)
    assert new.rewards.dtype == np.float32
    assert new.infos["touched/rewards"].tolist() == (new.rewards != dataset.rewards).tolist()
    assert restore(new).fingerprint == dataset.fingerprint
    assert new.observations is dataset.observations


def test_ranges_that_do_not_exist() -> None:
    same = made(rewards=[1, 1, 1, 1, 2, 0, 0, 0, 9])  # both complete episodes return 3
    with pytest.raises(IncompatibleError, match="fewer than two complete episodes of different return"):
        apply_transforms(same, ["relabel_rewards(normalize=return_range)"])
    with pytest.raises(IncompatibleError, match="all rewards of made are 2"):
        apply_transforms(made(rewards=np.full(9, 2.0)), ["relabel_rewards(normalize=standardize)"])


def test_missing_rewards_stay_fillers() -> None:
    mask = np.arange(9) < 3
    dataset = made(rewards=np.where(mask, 0, np.arange(1, 10)), infos={"missing/rewards": mask})
    assert apply_transforms(dataset, ["relabel_rewards(shift=10)"]).rewards.tolist() == [0, 0, 0, *range(14, 20)]
    with pytest.raises(IncompatibleError, match="range of returns"):
        apply_transforms(dataset, ["relabel_rewards(normalize=return_range)"])


def test_rewards_from_a_function() -> None:
    dataset = made()

    def progress(observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray, after: np.ndarray) -> np.ndarray:
        return (after - observations)[:, 0]

    new = RelabelByFunction(function=progress).apply(dataset)
    assert new.rewards.tolist() == [1] * 8 + [9]  # the last next observation is not known
    assert "test_rewards_from_a_function.<locals>.progress" in str(new.provenance.transforms[-1].parameters)
    doubled = RelabelByFunction(function=lambda s, a, r, n: 2 * r, needs_next=False).apply(dataset)
    assert doubled.rewards.tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    for wrong in (lambda s, a, r, n: r[:3], lambda s, a, r, n: r * np.nan, lambda s, a, r, n: a):
        with pytest.raises(DatasetError, match="one finite number for each of 9"):
            RelabelByFunction(function=wrong).apply(dataset)


def test_returns_to_go_as_a_column() -> None:
    new = apply_transforms(made(), ["returns_to_go(discount=0.5)"])
    wanted = [1 + 0.5 * (2 + 0.5 * 3), 2 + 1.5, 3, 4 + 2.5, 5, 6 + 0.5 * (7 + 0.5 * (8 + 4.5)), 7 + 6.25, 12.5, 9]
    np.testing.assert_allclose(new.infos["return_to_go"], wanted, rtol=1e-6)
    assert new.fingerprint == made().fingerprint


def test_clipped_actions_lie_in_the_box_and_count() -> None:
    low, high = np.array([-2, 0], np.float32), np.array([2, 10], np.float32)
    actions = np.stack([np.linspace(-3, 3, 9), np.linspace(-1, 11, 9)], 1)
    dataset = made(actions=actions, action_space=spaces.Box(low, high))
    new = apply_transforms(dataset, ["clip_actions"])
    np.testing.assert_array_equal(new.actions, np.clip(dataset.actions, low, high))
    assert new.provenance.transforms[-1].parameters["measured"] == {"clipped_values": 6, "values": 18}
    assert new.action_space == dataset.action_space
    half = apply_transforms(dataset, ["clip_actions(bound=0.5, declare=true)"])
    assert half.action_space == spaces.Box(np.array([-1, 2.5], np.float32), np.array([1, 7.5], np.float32))
    assert half.actions.min(0).tolist() == [-1, 2.5]
    assert half.actions.max(0).tolist() == [1, 7.5]
    assert restore(new).fingerprint == dataset.fingerprint


@settings(max_examples=25, deadline=None)
@given(dataset=datasets(), low=st.floats(-5, 0), width=st.floats(0.5, 5))
def test_scaled_actions_are_where_they_were_in_the_box(dataset: Dataset, low: float, width: float) -> None:
    new = apply_transforms(dataset.replace(environment="Hopper-v4"), [f"scale_actions(low={low}, high={low + width})"])
    np.testing.assert_allclose((new.actions - low) / width, (dataset.actions + 1) / 2, atol=1e-5)
    assert new.environment is None
    assert "Hopper-v4" in new.provenance.details["evaluation"]
    back = apply_transforms(new, ["scale_actions"])
    np.testing.assert_allclose(back.actions, dataset.actions, atol=1e-5)
    if dataset.log_probs is not None:  # the same probability on a box of another volume
        np.testing.assert_allclose(new.log_probs, dataset.log_probs - 2 * np.log(width / 2), atol=1e-5)
        np.testing.assert_allclose(back.log_probs, dataset.log_probs, atol=1e-5)


def test_scaling_to_the_same_box_changes_nothing() -> None:
    new = apply_transforms(made(environment="Hopper-v4"), ["scale_actions"])
    assert (new.fingerprint, new.environment) == (made().fingerprint, "Hopper-v4")


@pytest.mark.parametrize("name", ["clip_actions", "scale_actions"])
def test_actions_without_a_box_are_refused(name: str) -> None:
    discrete = made(actions=np.zeros(9, int), action_space=spaces.Discrete(2))
    with pytest.raises(IncompatibleError, match="needs continuous actions"):
        apply_transforms(discrete, [name])
    with pytest.raises(IncompatibleError, match="has no bounds"):
        apply_transforms(made(action_space=spaces.Box(-np.inf, np.inf, (2,))), [name])


def test_normalized_observations() -> None:
    frames = np.array([[0, 5], [2, 5], [4, 5], [6, 5], [10, 5], [11, 5], [12, 5], [20, 5], [21, 5], [22, 5], [23, 5]])
    space = spaces.Box(-50, 50, (2,))
    dataset = made(observations=frames, observation_space=space, environment="Hopper-v4")
    new = apply_transforms(dataset, ["normalize_observations"])
    wanted = (frames - frames.mean(0)) / (frames.std(0) + 1e-3)
    np.testing.assert_allclose(new.observations, wanted, atol=1e-6)
    assert new.environment is None
    ranged = apply_transforms(dataset, ["normalize_observations(method=range)"])
    np.testing.assert_allclose(ranged.observations[:, 0], frames[:, 0] / 23, atol=1e-6)
    assert not ranged.observations[:, 1].any()
    measured = ranged.provenance.transforms[-1].parameters["measured"]
    assert measured == {"offset": [0.0, 5.0], "scale": [23.0, 1.0]}
    override = np.full((9, 2), 23, np.float32)
    apart = apply_transforms(
        dataset.replace(next_observations_override=override), ["normalize_observations(method=range)"]
    )
    np.testing.assert_allclose(apart.next_observations, np.tile([1, 18], (9, 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relabel_rewards", "changes nothing"),
        ("relabel_rewards(scale=0)", "finite"),
        ("relabel_rewards(clip=[1, 1])", "low below high"),
        ("returns_to_go(discount=2)", "not in"),
        ("clip_actions(bound=0)", "not in"),
        ("scale_actions(low=1, high=1)", "not a range"),
    ],
)
def test_wrong_parameters(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        apply_transforms(made(), [text])
