"""Shared by the harness tests: tiny datasets on disk, suites over them, and comparison of output folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offbench.datasets import Dataset, Reference, write_minari
from offbench.suite import Suite

TINY = {"hidden": [16, 16]}
PROTOCOL = {
    "updates": 24,
    "batch_size": 8,
    "evaluate_every": 8,
    "evaluation_episodes": 2,
    "final_episodes": 3,
    "log_every": 5,
    "checkpoint_every": 8,
}


def logged(environment: str, rows: int = 300, seed: int = 0) -> Dataset:
    """A random policy's steps in a real environment."""
    env = gym.make(environment)
    env.action_space.seed(seed)
    columns: dict[str, list[Any]] = {name: [] for name in ("s", "a", "r", "s2", "done", "cut")}
    state, _ = env.reset(seed=seed)
    for row in range(rows):
        action = env.action_space.sample()
        following, reward, done, cut, _ = env.step(action)
        values = (state, action, reward, following, done, cut or row == rows - 1)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
        state = env.reset()[0] if done or cut else following
    env.close()
    return Dataset.from_arrays(
        np.array(columns["s"], np.float32),
        np.array(columns["a"]),
        np.array(columns["r"], np.float32),
        np.array(columns["done"]),
        np.array(columns["cut"]),
        next_observations=np.array(columns["s2"], np.float32),
        observation_space=env.observation_space,
        action_space=env.action_space,
        environment=environment,
        reference=Reference(-1500.0, -100.0, "made up for a test", environment),
        name=environment.split("-", maxsplit=1)[0].lower(),
    )


@pytest.fixture(scope="session")
def pendulum() -> Dataset:
    return logged("Pendulum-v1")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, pendulum: Dataset) -> dict[str, str]:
    """Paths of Minari folders: continuous actions ("pendulum") and discrete ones ("cartpole")."""
    root = tmp_path_factory.mktemp("data")
    return {
        "pendulum": str(write_minari(pendulum, root, "pendulum-v0")),
        "cartpole": str(write_minari(logged("CartPole-v1"), root, "cartpole-v0")),
    }


@pytest.fixture
def make_suite(data: dict[str, str]) -> Callable[..., Suite]:
    """A suite of two seconds; `protocol` entries override `PROTOCOL`, the rest overrides the suite."""

    def make(protocol: dict[str, Any] | None = None, **values: Any) -> Suite:
        suite = {
            "name": "study",
            "datasets": [{"id": data["cartpole"], "label": "cartpole"}],
            "algorithms": [{"name": "bc", "config": TINY}],
            "seeds": 2,
            "protocol": {**PROTOCOL, **(protocol or {})},
        }
        return Suite(**{**suite, **values})

    return make


def contents(root: Path, *, logs: bool = True) -> dict[str, bytes]:
    """What must be equal, bit for bit, however often a suite was interrupted."""
    names = ["evaluations.jsonl", "spec.json"] + (["metrics.jsonl"] if logs else [])
    files = [*root.rglob("*.safetensors"), *(file for name in names for file in root.rglob(name))]
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(files)}
