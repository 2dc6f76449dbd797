"""What every algorithm promises about lanes: no mixing, exact checkpoints, configurations, and what it refuses."""

from __future__ import annotations

import gymnasium
import pytest
from torch import Tensor

from offbench.algorithms import algorithm_names, check_compatible, get_algorithm, resolve_config
from offbench.algorithms.base import Batch, Requires, make_config
from offbench.algorithms.batches import Preprocessing
from offbench.algorithms.bc import BC
from offbench.algorithms.conformance import CHECKS, check_algorithm, check_settings, random_dataset, small_config
from offbench.algorithms.presets import CLASSES, load_presets
from offbench.errors import IncompatibleError, SpecError, UnknownNameError

from .problems import CONTINUOUS, DISCRETE_ONLY, make

# EDAC divides by the norms of small gradients and amplifies rounding errors: one weight moved by 1e-7 is 1e-3 away
# after 200 updates of a single lane, as far as lanes are then from separate runs.
UPDATES = {"edac": 50}
# Settings that switch on what a per-lane setting acts on.
SWITCHES = {
    "cql": {"lagrange": True},
    "crr": {"weighting": "exponential"},
    "discrete_crr": {"weighting": "exponential"},
}


@pytest.mark.parametrize("name", algorithm_names())
def test_every_algorithm_keeps_its_promises(name: str) -> None:
    checks = list(check_algorithm(get_algorithm(name), updates=UPDATES.get(name, 100)))
    assert [check for check in checks if not check.passed] == []
    kinds = len(get_algorithm(name).requires.actions)
    assert len(checks) == kinds * len(CHECKS)


@pytest.mark.parametrize("name", SWITCHES)
def test_settings_that_must_be_switched_on_are_per_lane_too(name: str) -> None:
    algorithm = get_algorithm(name)
    data = random_dataset(discrete=name.startswith("discrete"))
    assert check_settings(algorithm, small_config(algorithm, **SWITCHES[name]), data, 100, 1e-4)


class Broken(BC):
    """Breaks one promise after the other."""

    fault = ""

    def update(self, batch: Batch, noise: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        if self.fault == "mixes":
            self.actor.flat.data.add_(1e-3 * self.actor.flat.data.mean())
        if self.fault == "forgets":
            self.memory = getattr(self, "memory", 0) + 1
            self.actor.flat.data.mul_(1 - 1e-3 * self.memory)
        return super().update(batch, noise, step)

    def policy(self, observations: Tensor) -> Tensor:
        return super().policy(observations) * (2 if self.fault == "box" else 1)


@pytest.mark.parametrize(
    ("fault", "failing", "message"),
    [
        ("mixes", "lanes equal separate runs", "away from a run of its own"),
        ("forgets", "a stored run continues bit for bit", "not in state_dict"),
        ("box", "policies can be stored", "leave the box"),
    ],
)
def test_broken_promises_are_found(fault: str, failing: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "fault", fault)
    monkeypatch.setattr(Broken, "requires", Requires(frozenset({"continuous"}), next_observations=False))
    failed = {check.name: check.detail for check in check_algorithm(Broken) if not check.passed}
    assert message in failed[f"continuous actions: {failing}"]


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


@pytest.mark.parametrize(("name", "preset"), [("iql", "paper"), ("xql", "consistent"), ("xql", "tuned"), ("dvl", None)])
def test_temperatures_tuned_on_scaled_rewards_come_with_that_scaling(name: str, preset: str | None) -> None:
    for dataset in ("hopper-medium-v2", "walker2d-medium-expert-v2"):
        assert resolve_config(name, dataset, preset)[1]["preprocessing"]["rewards"] == "return_range"
    assert "rewards" not in resolve_config(name, "antmaze-umaze-v2", preset)[1]["preprocessing"]


# --- what fits what ---


def test_misfits_name_an_algorithm_that_fits() -> None:
    discrete = random_dataset(discrete=True)
    with pytest.raises(IncompatibleError, match="algorithms that fit: bc, percent_bc, iql, riql, dqn"):
        check_compatible(get_algorithm("td3_bc"), discrete)
    for name in algorithm_names():
        check_compatible(get_algorithm(name), random_dataset(discrete=name in DISCRETE_ONLY))
    unbounded = random_dataset(discrete=False).replace(action_space=gymnasium.spaces.Box(-float("inf"), 1.0, (2,)))
    with pytest.raises(IncompatibleError, match="finite bounds"):
        check_compatible(get_algorithm("bc"), unbounded)
