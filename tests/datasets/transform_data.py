"""Small datasets for the tests of transforms: of every kind, by hypothesis, and a hand-made one."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

from offbench.datasets import Dataset

BOX = spaces.Box(-1, 1, (2,))


@st.composite
def datasets(draw: st.DrawFn, most_episodes: int = 6) -> Dataset:
    """Episodes of 1 to 7 steps with every kind of end; the observation of episode e at step t is (e, t, noise).

    Next observations are views of frames, or given apart, all or partly known. Rewards are distinct.
    """
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=most_episodes))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    rows, episodes = sum(lengths), len(lengths)
    known = np.array(draw(st.lists(st.booleans(), min_size=episodes, max_size=episodes)))
    ends = np.cumsum(lengths) - 1
    flags = np.zeros((2, rows), bool)
    flags[:, ends] = rng.random((2, episodes)) < 0.4
    frames = [
        (episode, step, rng.normal())
        for episode, length in enumerate(lengths)
        for step in range(length + int(known[episode]))
    ]
    optional: dict[str, Any] = {}
    if draw(st.booleans()):
        optional["next_observations_override"] = rng.normal(size=(rows, 3))
        if draw(st.booleans()):
            optional["next_known"] = rng.random(rows) < 0.7
    if draw(st.booleans()):
        weights = rng.random(rows) + 0.01
        optional["sampling_weights"] = weights / weights.sum()
    if draw(st.booleans()):
        optional |= {"costs": rng.random(rows), "goals": rng.normal(size=(rows, 2)), "log_probs": rng.normal(size=rows)}
    return Dataset(
        observations=np.array(frames, np.float32),
        actions=rng.uniform(-1, 1, (rows, 2)),
        rewards=rng.normal(size=rows),
        terminated=flags[0],
        truncated=flags[1],
        episode_starts=ends + 1 - np.array(lengths),
        last_known=known,
        observation_space=spaces.Box(-np.inf, np.inf, (3,)),
        action_space=BOX,
        infos={"number": np.arange(rows), "pair": rng.normal(size=(rows, 2))},
        **optional,
    )


def transitions(dataset: Dataset) -> list[tuple[Any, ...]]:
    """Every row as plain values, the next observation None where it is not known."""
    optional = [getattr(dataset, name) for name in ("costs", "goals", "log_probs")]
    return [
        (
            dataset.step_observations[row].tolist(),
            dataset.actions[row].tolist(),
            float(dataset.rewards[row]),
            dataset.next_observations[row].tolist() if dataset.next_valid[row] else None,
            bool(dataset.terminated[row]),
            bool(dataset.truncated[row]),
            [None if column is None else column[row].tolist() for column in optional],
            {name: column[row].tolist() for name, column in dataset.infos.items()},
        )
        for row in range(len(dataset))
    ]


def made(**changes: Any) -> Dataset:
    """Three episodes of 3, 2 and 4 steps, rewards 1 to 9, observations (10 e + t): terminated, truncated, running."""
    values: dict[str, Any] = {
        "observations": np.array([0, 1, 2, 3, 10, 11, 12, 20, 21, 22, 23], np.float32)[:, None],
        "actions": np.linspace(-0.8, 0.8, 18).reshape(9, 2),
        "rewards": np.arange(1.0, 10.0),
        "terminated": np.arange(9) == 2,
        "truncated": np.arange(9) == 4,
        "episode_starts": np.array([0, 3, 5]),
        "last_known": np.array([True, True, False]),
        "observation_space": spaces.Box(-np.inf, np.inf, (1,)),
        "action_space": BOX,
        "name": "made",
    }
    return Dataset(**{**values, **changes})
