"""What every algorithm promises about lanes: no mixing, exact checkpoints, configurations, and what it refuses."""

from __future__ import annotations

import gymnasium
import pytest
import torch

from offbench.algorithms import algorithm_names, check_compatible, get_algorithm, resolve_config, shareable_fields
from offbench.algorithms.base import Algorithm, ProblemSpec, make_config
from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer
from offbench.algorithms.presets import CLASSES, load_presets
from offbench.errors import IncompatibleError, SpecError, UnknownNameError

from .problems import CASES, CONTINUOUS, DISCRETE_ONLY, IDS, make, random_dataset


def train(algorithm: Algorithm, space: ProblemSpec, first: int, last: int) -> None:
    data = random_dataset(discrete=space.discrete)
    buffer = TransitionBuffer(data, algorithm.needs(algorithm.config), Preprocessing())
    sampler = LaneSampler(buffer, algorithm.seeds, 32, algorithm.noise_spec(32))
    for step in range(first, last + 1):
        algorithm.update(*sampler.draw(step), step)


# How many updates are compared. EDAC divides by the norms of small gradients and amplifies rounding errors: one weight
# moved by 1e-7 is 1e-3 away after 200 updates of a single lane, as far as lanes are from separate runs.
UPDATES = {"edac": 50}


@pytest.mark.parametrize(("name", "space"), CASES, ids=IDS)
def test_lanes_equal_separate_runs(name: str, space: ProblemSpec) -> None:
    seeds, updates = [3, 11, 4], UPDATES.get(name, 200)
    together = make(name, space, seeds, 200)
    train(together, space, 1, updates)
    for lane, seed in enumerate(seeds):
        alone = make(name, space, [seed], 200)
        train(alone, space, 1, updates)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[key][lane : lane + 1], value, rtol=1e-4, atol=1e-4)


# Settings that switch on what a field acts on.
SWITCHES = {
    "cql": {"lagrange": True},
    "crr": {"weighting": "exponential"},
    "discrete_crr": {"weighting": "exponential"},
}


@pytest.mark.parametrize(("name", "space"), CASES, ids=IDS)
def test_lanes_with_different_settings_equal_separate_runs(name: str, space: ProblemSpec) -> None:
    """Every setting that lanes may share a group with differs between these two lanes."""
    config = get_algorithm(name).config_class()
    defaults = {field: getattr(config, field) for field in shareable_fields(get_algorithm(name))}
    values = {field: [value, 0.7 * value if value else 0.5] for field, value in defaults.items()}
    assert values
    updates = min(100, UPDATES.get(name, 200))
    switches = SWITCHES.get(name, {})
    together = make(name, space, [3, 4], 200, **values, **switches)
    train(together, space, 1, updates)
    for lane, seed in enumerate([3, 4]):
        mine = {field: pair[lane] for field, pair in values.items()}
        alone = make(name, space, [seed], 200, **mine, **switches)
        train(alone, space, 1, updates)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[key][lane : lane + 1], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "space"), CASES, ids=IDS)
def test_a_saved_run_continues_bit_for_bit(name: str, space: ProblemSpec) -> None:
    whole = make(name, space, [0, 1], 60)
    train(whole, space, 1, 60)
    half = make(name, space, [0, 1], 60)
    train(half, space, 1, 31)
    resumed = make(name, space, [0, 1], 60)
    resumed.load_state_dict({key: value.clone() for key, value in half.state_dict().items()})
    train(resumed, space, 32, 60)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
        assert value.shape[0] == 2, "every saved tensor starts with the lane axis"


@pytest.mark.parametrize(("name", "space"), CASES, ids=IDS)
def test_policy_tensors_hold_the_policy_of_a_lane(name: str, space: ProblemSpec) -> None:
    ours = make(name, space, [0, 1], 60)
    train(ours, space, 1, 20)
    other = make(name, space, [99], 60)
    other.load_policy_tensors(ours.policy_tensors(1))
    observations = torch.randn(2, 40, 5)
    torch.testing.assert_close(other.act(observations[1:]), ours.act(observations)[1:])


@pytest.mark.parametrize(("name", "space"), CASES, ids=IDS)
def test_a_lane_that_diverges_is_told_and_leaves_the_others_alone(name: str, space: ProblemSpec) -> None:
    healthy, sick = make(name, space, [0, 1], 60), make(name, space, [0, 1], 60)
    with torch.no_grad():
        getattr(sick, sick.policy_networks[0]).flat[0, 0, 0] = float("nan")
    train(healthy, space, 1, 10)
    train(sick, space, 1, 10)
    assert healthy.finite().tolist() == [True, True]
    assert sick.finite().tolist() == [False, True]
    for key, value in healthy.state_dict().items():
        assert torch.equal(value[1], sick.state_dict()[key][1])


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(SpecError, match="saved state"):
        make("bc", CONTINUOUS, [0]).load_state_dict(make("bc", CONTINUOUS, [0, 1]).state_dict())


def test_lanes_cannot_differ_in_shapes() -> None:
    with pytest.raises(SpecError, match="cannot differ in hidden"):
        make("bc", CONTINUOUS, [0, 1], hidden=[(8,), (16,)])


# --- configurations ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": "large"}, "expected a number"),
        ({"alpha": -1}, "a value in"),
        ({"alpha": float("nan")}, "a value in"),
        ({"discount": 1.5}, "a value in"),
        ({"policy_delay": 1.5}, "expected an integer"),
        ({"hidden": 256}, "list of positive integers"),
        ({"hidden": [256, 0]}, "list of positive integers"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_config(get_algorithm("td3_bc").config_class, values)


def test_unknown_names_suggest_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="alpha"):
        make_config(get_algorithm("td3_bc").config_class, {"alhpa": 1.0})
    with pytest.raises(UnknownNameError, match="td3_bc"):
        get_algorithm("td3bc")
    with pytest.raises(SpecError, match="gaussian"):
        make_config(get_algorithm("iql").config_class, {"policy": "normal"})


@pytest.mark.parametrize("name", algorithm_names())
def test_presets_are_valid_and_say_where_they_come_from(name: str) -> None:
    content = load_presets(name)
    assert content["default"] in content["presets"]
    for preset, entry in content["presets"].items():
        assert entry["class"] in CLASSES
        assert entry["source"]
        for row in entry["rows"]:
            for pattern in row["datasets"]:
                config, origin = resolve_config(name, pattern.replace("*", "x").replace("?", "2"), preset)
                assert row.get("config", {}).items() <= config.to_dict().items()
                assert row.get("preprocessing", {}).items() <= origin["preprocessing"].items()
                Preprocessing(**origin["preprocessing"])
                assert row.get("source", entry["source"]) in origin["sources"]


def test_presets_apply_by_dataset_and_overrides_win() -> None:
    config, origin = resolve_config("iql", "antmaze-umaze-v2", None, {"temperature": 7.0})
    assert (config.expectile, config.temperature) == (0.9, 7.0)
    assert origin["preprocessing"]["reward_shift"] == -1.0
    assert origin["overridden"] == ["temperature"]
    assert origin["class"] == "one"
    assert resolve_config("iql", "hopper-medium-v2", "corl")[0].policy == "deterministic"
    assert resolve_config("iql", "hopper-medium-v2", "corl")[1]["class"] == "tuned"
    with pytest.raises(UnknownNameError, match="corl"):
        resolve_config("iql", "x", "crl")


# --- what fits what ---


def test_misfits_name_an_algorithm_that_fits() -> None:
    discrete = random_dataset(discrete=True)
    with pytest.raises(IncompatibleError, match="algorithms that fit: bc, percent_bc, iql, dqn"):
        check_compatible(get_algorithm("td3_bc"), discrete)
    for name in algorithm_names():
        check_compatible(get_algorithm(name), random_dataset(discrete=name in DISCRETE_ONLY))
    unbounded = random_dataset(discrete=False).replace(action_space=gymnasium.spaces.Box(-float("inf"), 1.0, (2,)))
    with pytest.raises(IncompatibleError, match="finite bounds"):
        check_compatible(get_algorithm("bc"), unbounded)
