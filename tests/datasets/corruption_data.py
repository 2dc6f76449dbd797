"""Small datasets and an independent copy of RIQL's protocol that the tests of corruption share."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offbench.datasets import Dataset

Array = NDArray[Any]


def episodes(
    lengths: list[int],
    *,
    seed: int = 0,
    next_known: bool = True,
    discrete: bool = False,
    dtype: str = "float32",
    costs: bool = False,
    low: float = -1.0,
) -> Dataset:
    """Episodes of the given lengths; every second one ends at a time limit, the others terminate."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
    terminated[ends[::2]], truncated[ends[1::2]] = True, True
    # Dimensions of very different scale, the last one constant.
    scales, centres = np.array([1.0, 100.0, 0.01, 0.0]), np.array([0.0, 5.0, -1.0, 3.0])
    observations = rng.standard_normal((n, 4)) * scales + centres
    if dtype != "float32":
        observations = np.clip(rng.integers(0, 256, (n, 4)), 0, 255)
    observations = observations.astype(dtype)
    following = np.roll(observations, -1, axis=0)
    following[ends] = rng.standard_normal((len(ends), 4)) * scales + centres if dtype == "float32" else 7
    space: spaces.Space[Any] = spaces.Box(low, 1.0, (2,))
    actions: Array = rng.uniform(low, 1, (n, 2)).astype(np.float32)
    if discrete:
        space, actions = spaces.Discrete(5, start=2), rng.integers(2, 7, n)
    observation_space = None if dtype == "float32" else spaces.Box(0, 255, (4,), np.dtype(dtype).type)
    return Dataset.from_arrays(
        observations,
        actions,
        rng.standard_normal(n).astype(np.float32) * 3 + 1,
        terminated,
        truncated,
        next_observations=following if next_known else None,
        action_space=space,
        observation_space=observation_space,
        costs=(rng.random(n) < 0.3).astype(np.float32) if costs else None,
        name="small",
    )


def qlearning_dataset(dataset: Dataset) -> tuple[dict[str, Array], Array]:
    """d4rl.qlearning_dataset by its loop: rows at time limits and the last one are left out, s' is the next row's s.

    Returns:
        The arrays, and the number that each of their rows has in `dataset`.
    """
    observations = dataset.step_observations
    kept = []
    for i in range(len(dataset) - 1):
        if dataset.truncated[i]:
            continue
        kept.append(i)
    rows = np.array(kept)
    arrays = {
        "observations": observations[rows].copy(),
        "actions": dataset.actions[rows].copy(),
        "rewards": dataset.rewards[rows].copy(),
        "next_observations": observations[rows + 1].copy(),
    }
    return arrays, rows


def riql_random(arrays: dict[str, Array], elements: list[str], rate: float, eps: float, seed: int) -> dict[str, Array]:
    """What attack.py makes of `arrays` in random mode (element -> the attacked rows under "index/<element>")."""
    rng = np.random.RandomState(seed)
    out = {name: values.copy() for name, values in arrays.items()}
    for element in elements:
        data = out[element]
        attacked = np.where(rng.random(len(data)) < rate)[0]
        noise = rng.uniform(-eps, eps, size=data[attacked].shape)
        if element == "rewards":
            data[attacked] = noise * 30
        else:
            data[attacked] = data[attacked] + noise * np.std(data.astype(np.float64), axis=0, keepdims=True)
        out[f"index/{element}"] = attacked
    return out
