"""Concatenation and mixtures: nothing is lost or invented, what does not fit is refused, shares are as asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset, Reference, write_d4rl
from offbench.datasets.transforms import apply_transforms
from offbench.datasets.transforms.mixing import Concatenate, ImbalancedMix, Mix, concatenate
from offbench.datasets.transforms.subsets import split_episodes, take_episodes
from offbench.errors import DatasetError, IncompatibleError, OffbenchError, SpecError
from tests.datasets.transform_data import datasets, made, transitions


def without_optional(dataset: Dataset) -> Dataset:
    return dataset.replace(costs=None, goals=None, log_probs=None)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(datasets(3), min_size=1, max_size=3))
def test_concatenation_keeps_every_transition(parts: list[Dataset]) -> None:
    parts = [without_optional(part) for part in parts]
    joined = concatenate(parts)
    assert transitions(joined) == [row for part in parts for row in transitions(part)]
    assert joined.episode_returns.tolist() == [value for part in parts for value in part.episode_returns]
    assert joined.episode_complete.tolist() == [value for part in parts for value in part.episode_complete]
    if any(part.sampling_weights is not None for part in parts):
        assert joined.sampling_weights is not None
        shares = np.split(joined.sampling_weights, np.cumsum([len(part) for part in parts])[:-1])
        for share, part in zip(shares, parts, strict=True):
            np.testing.assert_allclose(share.sum(), len(part) / len(joined))
            if part.sampling_weights is not None:
                np.testing.assert_allclose(share / share.sum(), part.sampling_weights)
    again = take_episodes(joined, np.arange(parts[0].num_episodes))
    assert transitions(again) == transitions(parts[0])


@settings(max_examples=30, deadline=None)
@given(dataset=datasets(), seed=st.integers(0, 5))
def test_parts_of_a_split_make_the_dataset_again(dataset: Dataset, seed: int) -> None:
    if dataset.num_episodes < 2:
        return
    joined = concatenate(split_episodes(dataset, 0.6, seed=seed))
    order = np.argsort(joined.infos["number"][joined.episode_starts])
    again = take_episodes(joined, order)
    assert transitions(again) == transitions(dataset)
    if dataset.sampling_weights is None:
        assert again.fingerprint == dataset.fingerprint


def test_what_parts_say_of_themselves() -> None:
    one = made(environment="Hopper-v4", reference=Reference(0, 10, "made", "Hopper-v4"), infos={"a": np.ones(9)})
    two = made(name="other", environment="Hopper-v4", infos={"a": np.ones((9, 2)), "missing/actions": np.ones(9, bool)})
    joined = concatenate([one, two])
    assert (joined.name, joined.environment, joined.reference) == ("made+other", "Hopper-v4", one.reference)
    assert joined.provenance.details["left_out"] == ["infos/a"]
    assert [part["fingerprint"] for part in joined.provenance.details["parts"]] == [one.fingerprint, two.fingerprint]
    assert joined.infos["missing/actions"].tolist() == [False] * 9 + [True] * 9
    transformed = apply_transforms(one, [Concatenate(others=[two])])
    assert transformed.fingerprint == joined.fingerprint
    assert transformed.provenance.source == one.provenance.source
    (record,) = transformed.provenance.transforms
    assert record.parameters["others"] == [{"name": "other", "fingerprint": two.fingerprint}]


def test_touched_rows_and_clean_values_of_one_part() -> None:
    corrupted = apply_transforms(made(), ["relabel_rewards(shift=5)"])
    joined = concatenate([made(), corrupted])
    assert joined.infos["touched/rewards"].tolist() == [False] * 9 + [True] * 9
    assert joined.infos["clean/rewards"].tolist() == [*range(1, 10)] * 2


def test_bounds_of_observations_are_joined() -> None:
    narrow = made(observation_space=spaces.Box(0, 30, (1,)))
    joined = concatenate([narrow, made(observation_space=spaces.Box(-5, 25, (1,)))])
    assert joined.observation_space == spaces.Box(-5, 30, (1,))


OTHER_SPACE = spaces.Box(-2, 2, (2,))
DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"environment": "Hopper-v5"}, "different environments"),
    ({"environment": None}, "different environments"),
    ({"reference": Reference(1, 10, "another", "Hopper-v4")}, "different references"),
    ({"action_space": OTHER_SPACE}, "different action spaces"),
    ({"actions": np.zeros(9, int), "action_space": spaces.Discrete(3)}, "different action spaces"),
    ({"observations": np.zeros((11, 2)), "observation_space": spaces.Box(-1, 1, (2,))}, "different shapes"),
    (
        {"observations": np.zeros((11, 1), np.uint8), "observation_space": spaces.Box(0, 255, (1,), np.uint8)},
        "different types",
    ),
    ({"costs": np.zeros(9)}, "do not have the same costs"),
]


@pytest.mark.parametrize(("changes", "message"), DIFFERENT)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    known = {"environment": "Hopper-v4", "reference": Reference(0, 10, "made", "Hopper-v4")}
    one, two = made(**known), made(**{**known, **changes})
    with pytest.raises(IncompatibleError, match=message):
        concatenate([one, two])
    if message in ("different environments", "different references"):
        forced = concatenate([one, two], force=True)
        assert (forced.environment, forced.reference) == ("Hopper-v4", one.reference)
    else:
        with pytest.raises(IncompatibleError, match=message):
            concatenate([one, two], force=True)


def test_environments_that_a_reference_accepts_are_one() -> None:
    reference = Reference(0, 10, "made", "Hopper-v2", 1000, ("Hopper-v3", "Hopper-v4"))
    one = made(environment="Hopper-v2", reference=reference)
    two = made(environment="Hopper-v4", reference=reference)
    assert concatenate([one, two]).environment == "Hopper-v2"


def many(count: int, length: int, reward: float, **changes: Any) -> Dataset:
    """`count` terminated episodes of `length` steps."""
    rows = count * length
    return made(
        observations=np.arange(rows, dtype=np.float32)[:, None],
        actions=np.zeros((rows, 2)),
        rewards=np.full(rows, reward),
        terminated=np.arange(rows) % length == length - 1,
        truncated=np.zeros(rows, bool),
        episode_starts=np.arange(count) * length,
        last_known=np.zeros(count, bool),
        **changes,
    )


def test_mixtures_have_the_asked_shares() -> None:
    poor, good = many(100, 10, 0.0), many(40, 7, 1.0)
    mixed = apply_transforms(poor, [Mix(others=[good], ratios=[3, 1], size=400, seed=1)])
    assert mixed.rewards.tolist() == [0.0] * 300 + [1.0] * 105  # whole episodes until the share is reached
    assert len(np.unique(mixed.step_observations[:300])) == 300
    # As much as all parts can give: 280 good rows are a quarter of 1,120.
    most = Mix(others=[good], ratios=[0.75, 0.25]).apply(poor)
    assert (most.rewards == 1).sum() == 280
    assert (most.rewards == 0).sum() == 840
    with pytest.raises(DatasetError, match="made has 280 transitions, its share is 500"):
        Mix(others=[good], ratios=[1, 1], size=1000).apply(poor)
    assert Mix(others=[good], ratios=[3, 1], size=400, seed=2).apply(poor).fingerprint != mixed.fingerprint


def test_imbalanced_mixtures_follow_the_papers_code() -> None:
    good, poor = many(50, 10, 1.0), many(30, 25, 0.0)
    mixed = ImbalancedMix(other=poor, share=0.1, seed=3).apply(good)
    # n = 500: good trajectories until there are more than 50 rows, then poor ones until there are more than 500.
    assert (mixed.rewards == 1).sum() == 60
    assert (mixed.rewards == 0).sum() == 450
    assert mixed.rewards[:60].all()
    assert mixed.infos["mix/good"].tolist() == mixed.rewards.astype(bool).tolist()
    assert (mixed.episode_lengths[:6] == 10).all()
    sizes = ImbalancedMix(other=poor, share=0.5, size=100, seed=3).apply(good)
    assert (sizes.rewards == 1).sum() == 60
    # With replacement: of 400 draws from 50 trajectories some come again.
    much = ImbalancedMix(other=poor, share=0.9, size=4500, seed=0).apply(good)
    starts = much.step_observations[much.episode_starts][much.rewards[much.episode_starts] == 1, 0]
    assert len(np.unique(starts)) < len(starts)
    assert len(np.unique(starts)) > 45


def test_segments_of_imbalanced_mixtures() -> None:
    good, poor = many(20, 100, 1.0), many(20, 100, 0.0)
    mixed = ImbalancedMix(other=poor, share=0.25, size=20_000, segments=True, seed=0).apply(good)
    lengths, last = mixed.episode_lengths, np.flatnonzero(mixed.is_last)
    assert (mixed.terminated[last] ^ mixed.truncated[last]).all()
    steps = mixed.step_observations[:, 0] % 100
    assert steps[mixed.episode_starts].max() < 90
    assert lengths.max() == 49
    assert set(range(10, 50)) <= set(lengths)
    # Uniform lengths from 10 to 49 where the trajectory is long enough.
    early = lengths[steps[mixed.episode_starts] < 50]
    assert abs(early.mean() - 29.5) < 4 * np.sqrt((40**2 - 1) / 12 / len(early))
    inside = np.flatnonzero(~mixed.is_last)
    assert (np.diff(mixed.step_observations[:, 0])[inside] == 1).all()


def test_others_are_named_by_path_with_options(tmp_path: Path) -> None:
    path = write_d4rl(many(4, 5, 1.0), tmp_path / "good.hdf5")
    poor = many(4, 5, 0.0)
    for other in (str(path), {"dataset": str(path), "name": "given"}):
        joined = apply_transforms(poor, [{"concatenate": {"others": [other]}}])
        assert joined.rewards.tolist() == [0.0] * 20 + [1.0] * 20
        assert joined.provenance.transforms[-1].parameters["others"] == [other]
    with pytest.raises(SpecError, match="is no dataset"):
        apply_transforms(poor, [Concatenate(others=[3])])
    with pytest.raises(OffbenchError, match="nosuch"):
        apply_transforms(poor, ["concatenate(others=[nosuch])"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concatenate(others=[])", "others is empty"),
        ("mix(others=[a], ratios=[1])", "1 ratios for the dataset and 1 others"),
        ("mix(others=[a], ratios=[1, 0])", "positive numbers"),
        ("mix(others=[a], ratios=[1, 1], size=0)", "positive number of transitions"),
        ("imbalanced_mix(other=a, share=1.0)", "not in"),
        ("imbalanced_mix(share=0.1)", "needs other"),
    ],
)
def test_wrong_parameters(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        apply_transforms(made(), [text])
