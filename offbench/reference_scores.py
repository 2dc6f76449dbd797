"""Measuring the returns that normalized scores refer to: random actions, a shipped behaviour, or an exported policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from offbench.datasets.references_measured import Measurement
from offbench.errors import IncompatibleError, SpecError

EPISODES = 100  # as D4RL's references
# Environments without a time limit could run for ever.
LONGEST_EPISODE = 100_000

Progress = Callable[[int, int], None]


def measure_random(
    environment: str, *, episodes: int = EPISODES, seed: int = 0, progress: Progress | None = None
) -> Measurement:
    """Returns of actions drawn uniformly from the action space; needs no torch.

    Args:
        environment: Gymnasium id with its version.
        episodes: how many, at least 2.
        seed: gives the episodes' seeds and the actions.
        progress: called with (episodes so far, episodes).

    Raises:
        SpecError: Gymnasium does not know the id, or too few episodes.
        IncompatibleError: the action space has no uniform distribution.
        MissingExtraError: the simulator is not installed.
    """
    env = _make(environment)
    try:
        _require_bounds(env.action_space, environment)
        env.action_space.seed(seed)
        returns = _play(env, lambda _: env.action_space.sample(), episodes, seed, progress)
    finally:
        env.close()
    return _measurement(environment, "random actions", returns, seed)


def measure_behaviour(
    environment: str,
    role: str,
    *,
    stochastic: bool = False,
    episodes: int = EPISODES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measurement:
    """Returns of a policy that ships with the built-in datasets, e.g. "expert"; needs no torch.

    Raises:
        UnknownNameError: no behaviour ships for that environment or role.
        SpecError, MissingExtraError: see `measure_random`.
    """
    from offbench.datasets.behaviour import make_policy

    env = _make(environment)
    try:
        space: Any = env.action_space
        policy = make_policy(environment, role, space, stochastic=stochastic)
        rng = np.random.default_rng(seed)
        returns = _play(env, lambda observation: policy.act(observation[None], rng)[0], episodes, seed, progress)
    finally:
        env.close()
    manner = "sampled" if stochastic else "deterministic"
    return _measurement(environment, f"the shipped behaviour {role!r}, {manner}", returns, seed)


def measure_policy(environment: str, folder: str | Path, *, episodes: int = EPISODES, seed: int = 0) -> Measurement:
    """Returns of a policy that offbench exported (`<run>/policy`, or the run's folder).

    Raises:
        StorageError: missing or damaged files.
        IncompatibleError: the policy was made for other spaces.
        SpecError, MissingExtraError: see `measure_random`.
    """
    from offbench.policy import Policy, evaluate_policy

    _require_episodes(episodes)
    policy = Policy.load(folder)
    env = _make(environment)
    try:
        pairs = ((policy.observation_space, env.observation_space), (policy.action_space, env.action_space))
        for ours, theirs in pairs:
            if ours.shape != theirs.shape or getattr(ours, "n", None) != getattr(theirs, "n", None):
                raise IncompatibleError(
                    f"the policy in {folder} does not fit {environment}", f"it has {ours}, the environment {theirs}"
                )
    finally:
        env.close()
    results = evaluate_policy(folder, episodes=episodes, seed=seed, environment=environment)
    info = policy.info
    details = {"dataset": info.get("dataset"), "run": info.get("run"), "sha256": info.get("sha256")}
    words = f"{info.get('algorithm')} trained on {(info.get('dataset') or {}).get('name')}"
    return _measurement(environment, words, [episode.total_reward for episode in results], seed, details)


def _play(env: Any, choose: Callable[[Any], Any], episodes: int, seed: int, progress: Progress | None) -> list[float]:
    """Undiscounted returns of `episodes` episodes, each played to its end; the i-th starts from the i-th seed."""
    _require_episodes(episodes)
    seeds = np.random.SeedSequence(seed).generate_state(episodes) >> 1
    returns = []
    for number, start in enumerate(seeds):
        observation, total, steps, over = env.reset(seed=int(start))[0], 0.0, 0, False
        while not over and steps < LONGEST_EPISODE:
            observation, reward, terminated, truncated, _ = env.step(choose(observation))
            total += float(reward)
            steps += 1
            over = terminated or truncated
        returns.append(total)
        if progress is not None:
            progress(number + 1, episodes)
    return returns


def _measurement(
    environment: str, policy: str, returns: Sequence[float], seed: int, details: dict[str, Any] | None = None
) -> Measurement:
    from offbench.datasets.environments import horizon

    values = np.asarray(returns, np.float64)
    return Measurement(
        environment=environment,
        policy=policy,
        mean=float(values.mean()),
        std=float(values.std(ddof=1)),
        episodes=len(values),
        seed=seed,
        horizon=horizon(environment),
        versions=_versions(environment),
        date=datetime.now(timezone.utc).date().isoformat(),
        details=details or {},
    )


def _versions(environment: str) -> dict[str, str]:
    """Versions of the packages that decide what the environment does, as far as they are installed."""
    from offbench import __version__
    from offbench.datasets.environments import packages

    found = {}
    for package in packages(environment):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "numpy": np.__version__, "offbench": __version__}


def _make(environment: str) -> Any:
    import gymnasium

    from offbench.datasets.environments import make_environment

    try:
        return make_environment(environment)
    except gymnasium.error.Error as error:
        raise SpecError(
            f"cannot make the environment {environment!r}", str(error), "give a Gymnasium id with its version"
        ) from error


def _require_episodes(episodes: int) -> None:
    if episodes < 2:
        raise SpecError(f"{episodes} episodes give no standard error", "", "measure at least 2, better 100")


def _require_bounds(space: Any, environment: str) -> None:
    from gymnasium.spaces import Box

    if isinstance(space, Box) and not space.is_bounded():
        raise IncompatibleError(
            f"the actions of {environment} have no bounds", "no distribution over them is uniform", "give a policy"
        )
