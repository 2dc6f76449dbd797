"""Suites: what is refused and how, and what a suite expands to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offbench.errors import IncompatibleError, OffbenchError, SpecError, UnknownNameError
from offbench.suite import Suite

GOOD = """
name: demo
datasets: [cartpole/random, {id: hopper/medium, label: hopper}]
algorithms:
  - bc
  - {name: iql, label: IQL-0.9, config: {expectile: 0.9, learning_rate: 3e-4}}
seeds: 3
protocol: {updates: 2e4, batch_size: 64}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return path


def test_yaml_short_and_long_forms(tmp_path: Path) -> None:
    suite = Suite.from_yaml(write(tmp_path, GOOD))
    assert [ref.id for ref in suite.datasets] == ["cartpole/random", "hopper/medium"]
    assert [ref.title for ref in suite.algorithms] == ["bc", "IQL-0.9"]
    assert suite.algorithms[1].config["learning_rate"] == 3e-4
    assert suite.seeds == [0, 1, 2]
    assert suite.protocol.updates == 20_000
    assert Suite.from_yaml(write(tmp_path, suite.to_yaml())) == suite


@pytest.mark.parametrize(
    ("old", "new", "place", "hint"),
    [
        ("protocol:", "protocl:", "protocl", "'protocol'"),
        ("batch_size", "batchsize", "protocol.batchsize", "'batch_size'"),
        ("label: IQL", "lable: IQL", "algorithms[1].lable", "'label'"),
        ("label: hopper", "enviroment: hopper", "datasets[1].enviroment", "'environment'"),
        ("updates: 2e4", "updates: many", "protocol.updates", "integer"),
        ("updates: 2e4", "updates: 0", "protocol.updates", "greater than or equal to 1"),
        ("seeds: 3", "seeds: [1, 1]", "seeds", "differ"),
        ("seeds: 3", "seeds: [-1]", "seeds[0]", "greater than or equal to 0"),
        ("seeds: 3", "seeds: true", "seeds", "list"),
        ("name: demo", "name: a/b", "name", "folder"),
        ("name: demo", "", "name", "missing"),
        ("seeds: 3", "seeds: 3\nseeds: 4", "seeds", "twice"),
    ],
)
def test_mistakes_name_their_place_and_the_nearest_key(
    tmp_path: Path, old: str, new: str, place: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        Suite.from_yaml(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert place in message
    assert hint in message
    assert "suite.yaml" in message
    assert "pydantic" not in message
    assert caught.value.__cause__ is None


def test_python_mistakes_are_the_same_errors() -> None:
    with pytest.raises(SpecError, match="algorithms"):
        Suite(name="x", datasets=["a"])
    with pytest.raises(SpecError, match=r"algorithms\[0\]\.confg.*\n.*'config'"):
        Suite(name="x", datasets=["a"], algorithms=[{"name": "bc", "confg": {}}])


@pytest.mark.parametrize(
    ("values", "kind", "pattern"),
    [
        ({"algorithms": ["iqll"]}, UnknownNameError, r"algorithms\[0\].*'iqll'(?s:.*)'iql'"),
        (
            {"algorithms": ["bc", {"name": "iql", "config": {"expectil": 0.9}}]},
            SpecError,
            r"algorithms\[1\]\.config\.expectil(?s:.*)'expectile'",
        ),
        (
            {"algorithms": [{"name": "iql", "config": {"expectile": "high"}}]},
            SpecError,
            r"algorithms\[0\]\.config.*expectile",
        ),
        ({"preprocessing": {"observation": "none"}}, SpecError, r"preprocessing\.observation(?s:.*)'observations'"),
        ({"preprocessing": {"rewards": "range"}}, SpecError, r"preprocessing.*range"),
        ({"datasets": ["cartpole/randm"]}, OffbenchError, r"datasets\[0\].*cartpole/randm"),
        ({"algorithms": ["bc", "bc"]}, SpecError, "same name 'bc'"),
        (
            {"algorithms": ["bc", {"name": "bc", "label": "twin"}], "seeds": 1},
            SpecError,
            "same run",
        ),
    ],
)
def test_expansion_refuses_before_anything_trains(
    make_suite: Callable[..., Suite], values: dict[str, Any], kind: type[Exception], pattern: str
) -> None:
    with pytest.raises(kind, match=pattern):
        make_suite(**values).plan()


def test_an_algorithm_that_does_not_fit_is_refused_or_skipped(
    make_suite: Callable[..., Suite], data: dict[str, str]
) -> None:
    with pytest.raises(IncompatibleError, match=r"(?s)TD3\+BC.*algorithms that fit.*bc.*skip_incompatible"):
        make_suite(algorithms=["td3_bc", "bc"]).plan()
    plan = make_suite(algorithms=["td3_bc", "bc"], skip_incompatible=True).plan()
    assert {run.algorithm for run in plan.runs} == {"bc"}
    assert len(plan.skipped) == 1
    assert "td3_bc on cartpole" in plan.skipped[0]
    with pytest.raises(IncompatibleError, match="no algorithm"):
        make_suite(algorithms=["td3_bc"], skip_incompatible=True).plan()


def test_expansion(make_suite: Callable[..., Suite], data: dict[str, str]) -> None:
    suite = make_suite(datasets=[data["pendulum"], {"id": data["cartpole"], "environment": "none"}], seeds=[4, 7])
    runs = suite.expand()
    assert [(run.dataset.name, run.seed) for run in runs] == [
        (name, seed) for name in (runs[0].dataset.name, runs[2].dataset.name) for seed in (4, 7)
    ]
    assert runs[0].dataset.environment == "Pendulum-v1"
    assert runs[2].dataset.environment is None
    assert "hidden" in runs[0].config
    assert runs[0].protocol["log_every"] == 5
    assert "checkpoint_every" not in runs[0].protocol
    assert [run.hash for run in suite.expand()] == [run.hash for run in runs]


def test_an_environment_of_other_spaces_is_refused(make_suite: Callable[..., Suite], data: dict[str, str]) -> None:
    with pytest.raises(IncompatibleError, match=r"datasets\[0\].*observation spaces"):
        make_suite(datasets=[{"id": data["cartpole"], "environment": "Acrobot-v1"}]).plan()
    with pytest.raises(SpecError, match="CartPol-v1"):
        make_suite(datasets=[{"id": data["cartpole"], "environment": "CartPol-v1"}]).plan()
