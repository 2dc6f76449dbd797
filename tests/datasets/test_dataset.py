"""The dataset type: episode semantics, canonical columns, immutability, fingerprint, references, error messages."""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import (
    Dataset,
    Provenance,
    Reference,
    TransformRecord,
    read_minari,
    write_minari,
)
from offbench.errors import DatasetError, IncompatibleError, UnknownNameError

ACTIONS = Box(-1, 1, (2,))


def columns(terminated: list[bool], truncated: list[bool], seed: int = 0) -> dict[str, Any]:
    """Random columns whose observations are all different, so that a wrong neighbour is always seen."""
    rows, rng = len(terminated), np.random.default_rng(seed)
    return {
        "observations": rng.permutation(rows * 3).reshape(rows, 3).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)),
        "rewards": rng.normal(size=rows),
        "terminated": np.array(terminated),
        "truncated": np.array(truncated),
        "action_space": ACTIONS,
    }


def true_next(data: dict[str, Any]) -> np.ndarray:
    """Next observations as an environment would give them: the following row, or a frame of its own at an end."""
    following = np.roll(data["observations"], -1, axis=0)
    ends = data["terminated"] | data["truncated"]
    ends[-1] = True
    following[ends] = -1 - np.arange(ends.sum())[:, None]
    return following


@st.composite
def logs(draw: st.DrawFn) -> dict[str, Any]:
    """Columns with arbitrary flags (both on one row, none at the end) and, half of the time, next observations."""
    flags = draw(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
    data = columns([a for a, _ in flags], [b for _, b in flags], draw(st.integers(0, 5)))
    kind = draw(st.sampled_from(["none", "consistent", "override"]))
    if kind != "none":
        data["next_observations"] = true_next(data)
        if kind == "override":
            data["next_observations"] = data["next_observations"] + 0.5
    return data


def small(**changes: Any) -> dict[str, Any]:
    """Five rows: an episode of two steps that terminates and a running one of three."""
    return {**columns([False, True, False, False, False], [False] * 5), **changes}


@given(logs())
def test_every_transition_is_in_exactly_one_episode_that_ends_at_the_first_flag(data: dict[str, Any]) -> None:
    dataset = Dataset.from_arrays(**data)
    assert dataset.episode_lengths.sum() == dataset.num_transitions == len(data["rewards"])
    assert (dataset.episode_lengths > 0).all()
    ends = dataset.terminated | dataset.truncated
    assert (ends[:-1] == dataset.is_last[:-1]).all()
    episode = 0
    for row in range(dataset.num_transitions):
        assert dataset.episode_ids[row] == episode
        assert dataset.timesteps[row] == row - dataset.episode_starts[episode]
        episode += bool(ends[row])


@given(logs())
def test_next_observation_is_the_stored_one_or_of_the_same_episode(data: dict[str, Any]) -> None:
    dataset = Dataset.from_arrays(**data)
    np.testing.assert_array_equal(dataset.step_observations, data["observations"])
    for row in range(dataset.num_transitions):
        if "next_observations" in data and not dataset.next_valid[row]:
            pytest.fail("a stored next observation was lost")
        if "next_observations" in data:
            expected = data["next_observations"][row]
        elif dataset.is_last[row]:
            assert not dataset.next_valid[row]
            expected = data["observations"][row]
        else:
            expected = data["observations"][row + 1]
        np.testing.assert_array_equal(dataset.next_observations[row], expected)


@given(logs())
def test_unknown_next_observations_are_counted_and_truncation_is_no_terminal(data: dict[str, Any]) -> None:
    dataset = Dataset.from_arrays(**data)
    unknown = 0 if "next_observations" in data else dataset.num_episodes
    assert (~dataset.next_valid).sum() == unknown
    np.testing.assert_array_equal(dataset.terminated, data["terminated"])
    np.testing.assert_array_equal(dataset.truncated, data["truncated"])
    np.testing.assert_array_equal(dataset.bootstrappable, data["terminated"] | dataset.next_valid)
    assert dataset.num_frames == dataset.num_transitions + dataset.last_known.sum()
    assert dataset.episode_complete[:-1].all()


@settings(max_examples=25, deadline=None)
@given(logs())
def test_minari_round_trip_keeps_everything(data: dict[str, Any]) -> None:
    dataset = Dataset.from_arrays(
        **data,
        infos={"step": np.arange(len(data["rewards"])), "nested/x": np.ones((len(data["rewards"]), 2))},
        costs=np.abs(data["rewards"]),
        reference=Reference(0.0, 10.0, "made up", "Hopper-v4", 1000, ("Hopper-v3",)),
    ).with_transform(TransformRecord("nothing", {"rate": 0.5}, 3))
    with tempfile.TemporaryDirectory() as folder:
        again = read_minari(write_minari(dataset, Path(folder), "test/round-trip-v0"))
    assert again.fingerprint == dataset.fingerprint
    assert again.reference == dataset.reference
    assert again.provenance == dataset.provenance
    assert again.action_space == dataset.action_space
    assert set(again.infos) == {"step", "nested/x"}
    np.testing.assert_array_equal(again.infos["step"], dataset.infos["step"])


@given(logs(), st.data())
def test_any_changed_core_value_changes_the_fingerprint(data: dict[str, Any], draw: st.DataObject) -> None:
    dataset = Dataset.from_arrays(**data)
    name = draw.draw(st.sampled_from(["observations", "actions", "rewards", "terminated", "truncated"]))
    row = draw.draw(st.integers(0, dataset.num_transitions - 1))
    if name in ("terminated", "truncated"):
        row = -1  # flags inside an episode would not be valid
    changed = np.array(getattr(dataset, name))
    changed[row] = ~changed[row] if changed.dtype == bool else changed[row] + 1
    assert dataset.replace(**{name: changed}).fingerprint != dataset.fingerprint
    assert dataset.replace(infos={"x": np.ones(len(dataset))}, name="other").fingerprint == dataset.fingerprint


def test_fingerprint_is_stable_across_input_types_and_versions() -> None:
    data = small()
    wide = {**data, "observations": data["observations"].astype(np.float64)}
    wide["terminated"] = data["terminated"].astype(np.float32)[:, None]
    wide["rewards"] = np.asfortranarray(data["rewards"][:, None])
    first = Dataset.from_arrays(**data)
    assert first.fingerprint == Dataset.from_arrays(**wide).fingerprint
    weighted = first.replace(sampling_weights=np.full(5, 0.2))
    assert weighted.fingerprint != first.fingerprint
    # A changed value here means that every recorded fingerprint becomes invalid: raise FINGERPRINT_SCHEMA then.
    zeros = Dataset.from_arrays(
        np.zeros((2, 1)), [0, 1], [0.0, 1.0], [False, True], [False, False], action_space=Discrete(2)
    )
    assert zeros.fingerprint == "28f462a91686f48589b44aff11385c9b701da4bc2a6e249b7cbb4372ad06b971"


def test_both_flags_are_kept_and_terminated_wins() -> None:
    data = small(terminated=[False, True, False, False, True], truncated=[False, True, False, False, False])
    dataset = Dataset.from_arrays(**data)
    assert dataset.terminated[1]
    assert dataset.truncated[1]
    assert dataset.bootstrappable[1]
    assert not dataset.next_valid[1]
    assert dataset.summary()["terminated_and_truncated"] == 1


def test_horizon_truncates_and_counts_from_each_termination() -> None:
    data = columns([False, False, True] + [False] * 7, [False] * 10)
    data["truncated"] = None
    dataset = Dataset.from_arrays(**data, horizon=3)
    assert np.flatnonzero(dataset.truncated).tolist() == [5, 8]
    assert dataset.episode_lengths.tolist() == [3, 3, 3, 1]
    assert dataset.episode_complete.tolist() == [True, True, True, False]


def test_episode_starts_mark_cuts_where_another_episode_follows() -> None:
    dataset = Dataset.from_arrays(**small(truncated=None, episode_starts=[0, 2, 4]))
    assert np.flatnonzero(dataset.truncated).tolist() == [3]
    assert dataset.episode_complete.tolist() == [True, True, False]


def test_a_shifted_next_observation_column_is_not_believed() -> None:
    data = columns([False, False, True, False, False, True], [False] * 6)
    shifted = np.roll(data["observations"], -1, axis=0)
    dataset = Dataset.from_arrays(**data, next_observations=shifted)
    assert np.flatnonzero(~dataset.next_valid).tolist() == [2, 5]
    assert "shift" in dataset.provenance.details["next_observations"]


def test_arrays_cannot_be_changed_and_are_not_shared_with_the_caller() -> None:
    data = small(observations=np.arange(15, dtype=np.float32).reshape(5, 3), infos={"x": np.zeros(5)})
    view = data["observations"].view()
    view.flags.writeable = False
    dataset = Dataset.from_arrays(**{**data, "observations": view})
    data["observations"][:] = -7
    data["infos"]["x"][:] = -7
    assert (dataset.observations >= 0).all()
    assert (dataset.infos["x"] == 0).all()
    for name in ("observations", "actions", "rewards", "terminated", "episode_ids", "next_observations"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(dataset, name)[0] = 0
    with pytest.raises(TypeError):
        dataset.infos["y"] = np.zeros(5)  # type: ignore[index]
    with pytest.raises(AttributeError):
        dataset.name = "other"  # type: ignore[misc]


def test_replace_shares_untouched_columns_and_pickles_read_only() -> None:
    dataset = Dataset.from_arrays(**small())
    changed = dataset.with_transform(TransformRecord("zero", {}, 1), rewards=np.zeros(5))
    assert changed.observations is dataset.observations
    assert changed.provenance.transforms == (TransformRecord("zero", {}, 1),)
    assert dataset.provenance.transforms == ()
    copy = pickle.loads(pickle.dumps(changed))
    assert copy.fingerprint == changed.fingerprint
    assert not copy.rewards.flags.writeable
    with pytest.raises(UnknownNameError, match="did you mean 'rewards'"):
        dataset.replace(reward=np.zeros(5))


def test_canonical_types() -> None:
    base = small()
    images = Dataset.from_arrays(**{**base, "observations": np.zeros((5, 4, 4), np.uint8)})
    assert images.observations.dtype == np.uint8
    assert images.observation_space == Box(0, 255, (4, 4), np.uint8)
    integers = Dataset.from_arrays(**{**base, "observations": np.zeros(5, np.int32)})
    assert integers.observations.dtype == np.int64
    chosen = Dataset.from_arrays(**{**base, "actions": np.ones((5, 1)), "action_space": Discrete(2)})
    assert chosen.actions.dtype == np.int64
    assert chosen.actions.shape == (5,)
    assert chosen.discrete
    several = {**base, "actions": np.ones((5, 2), int), "action_space": MultiDiscrete([2, 3])}
    assert Dataset.from_arrays(**several).actions.shape == (5, 2)
    binary = {**base, "actions": np.ones((5, 2), int), "action_space": MultiBinary(2)}
    assert not Dataset.from_arrays(**binary).discrete
    flat = Dataset.from_arrays(**{**base, "actions": np.ones(5), "action_space": Box(-1, 1, (1,))})
    assert flat.actions.shape == (5, 1)


def test_returns_are_summed_in_double_precision() -> None:
    rows = 200_000
    data = columns([False] * rows, [False] * rows)
    dataset = Dataset.from_arrays(**{**data, "rewards": np.full(rows, 0.1)})
    assert dataset.episode_returns[0] == pytest.approx(float(np.float32(0.1)) * rows, rel=1e-12)


def test_summary_is_json() -> None:
    dataset = Dataset.from_arrays(**small(reference=Reference(0, 1, "made up")))
    summary = json.loads(json.dumps(dataset.summary()))
    assert summary["transitions"] == 5
    assert summary["episodes"] == 2
    assert summary["next_observation_unknown"] == 2
    assert summary["not_bootstrappable"] == 1
    assert summary["normalized_return"]["max"] == pytest.approx(100 * dataset.episode_returns.max())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_space": None}, "gymnasium.spaces.Discrete"),
        ({"truncated": None}, "pass truncated=, horizon="),
        ({"rewards": np.array([0, np.nan, 0, np.inf, 0])}, r"'rewards' holds NaN or infinite values in rows 1, 3"),
        ({"observations": np.full((5, 3), np.nan)}, r"'observations' holds NaN .* rows 0, 1, 2, 3, 4 \(5 in all\)"),
        ({"rewards": np.zeros(4)}, "'actions' has 5 rows, expected 4"),
        ({"actions": np.zeros((4, 2))}, "'actions' has 4 rows, expected 5"),
        ({"actions": np.zeros((5, 3))}, r"actions have shape \(3,\) per row, but the action space has \(2,\)"),
        ({"actions": np.full(5, 0.5), "action_space": Discrete(2)}, "actions hold fractions in rows 0"),
        ({"actions": np.arange(5), "action_space": Discrete(3)}, r"outside Discrete\(3\) in rows 3, 4 \(2 in all\)"),
        ({"terminated": [0, 2, 0, 0, 0]}, "'terminated' holds values other than 0 and 1 in row 1"),
        ({"truncated": np.zeros(3)}, "'truncated' has 3 rows, expected 5"),
        ({"observations": np.array(["a"] * 5)}, "'observations' has dtype <U1"),
        ({"observations": [[1], [1, 2], [1], [1], [1]]}, "'observations' is not a rectangular array"),
        ({"observations": np.zeros((0, 3))}, "at least one"),
        ({"next_observations": np.zeros((5, 2))}, r"next_observations have shape \(5, 2\)"),
        ({"episode_starts": [1, 3]}, "must begin with 0"),
        ({"episode_starts": [0, 4]}, "set inside an episode in row 1"),
        ({"truncated": None, "horizon": 0}, "horizon is 0"),
        ({"infos": {"x": np.zeros(4)}}, "'infos/x' has 4 rows"),
        ({"sampling_weights": np.ones(5)}, "divide the weights by their sum"),
        ({"observation_space": Box(-1, 1, (4,))}, r"observations have shape \(3,\) per row, but"),
    ],
)
def test_wrong_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Dataset.from_arrays(**small(**changes))


def test_reference_scores_and_environment_versions() -> None:
    reference = Reference(-20.272305, 3234.3, "D4RL", "Hopper-v4", 1000, ("Hopper-v2", "Hopper-v3"))
    np.testing.assert_allclose(reference.normalize([-20.272305, 3234.3]), [0, 100])
    assert reference.normalize(0.0, environment="Hopper-v2") == reference.normalize(0.0)
    with pytest.raises(IncompatibleError, match="'Hopper-v5' cannot be normalized with a reference of 'Hopper-v4'"):
        reference.normalize(0.0, environment="Hopper-v5")
    assert reference.normalize(0.0, environment="Hopper-v5", force=True) == reference.normalize(0.0)
    with pytest.raises(DatasetError, match="minimum must be below the maximum"):
        Reference(1.0, 1.0, "nowhere")


def test_given_provenance_is_completed_not_replaced() -> None:
    dataset = Dataset.from_arrays(**small(provenance=Provenance("file:x", {"a": 1})))
    assert dataset.provenance.source == "file:x"
    assert dataset.provenance.details == {"a": 1, "boundaries": "truncated flags"}
