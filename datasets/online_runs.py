"""Online DQN runs of any seed and length, kept in the cache: behaviours and replay data of "run" datasets.

Schweighofer et al. 2022 (arXiv 2111.04714) make each of their datasets five times, from five online runs. Such a run
gives the replay data (all its transitions), the policy of the expert, noisy and mixed data (the one after the last
step, played greedily), and the best of its evaluations, which is their return of TQ 1 and of a score of 100.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from offbench.datasets.behaviour import Policy, UniformRandom, build_policy
from offbench.datasets.download import cache_dir
from offbench.datasets.environments import horizon, make_environment, packages
from offbench.datasets.records import Reference
from offbench.datasets.rollout import roll_out
from offbench.datasets.training_log import TrainingLog, load_log, save_log
from offbench.datasets.training_plans import DQNSettings, Plan, plan_for, train
from offbench.errors import SpecError, StorageError

EVALUATIONS = 500  # in a run of at least 100,000 steps
EVALUATE_FROM = 200  # steps between evaluations at the least, for shorter runs
EPISODES = 10  # greedy ones in each evaluation, with the same starts
RANDOM_EPISODES = 100
SMALLEST_BUFFER = 50_000
EVALUATION_STREAM, RANDOM_STREAM = 5, 6
RUN_VERSION = 1  # raise it when a change here or in train_dqn.py alters what a run gives

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OnlineRun:
    """A finished run in the cache.

    Attributes:
        folder: has run.json, policy.safetensors and log.safetensors.
        record: content of run.json: environment, seed, settings, versions, evaluations, random.
    """

    folder: Path
    record: Mapping[str, Any]

    @cached_property
    def evaluations(self) -> NDArray[np.float64]:
        """[K, 2]: steps done, mean return of EPISODES greedy episodes."""
        return np.asarray(self.record["evaluations"], float)

    @property
    def best(self) -> float:
        """The best evaluation, the paper's "online maximum": optimistic, being the largest of many means."""
        return float(self.evaluations[:, 1].max())

    @property
    def reference(self) -> Reference | None:
        """0: random actions; 100: the best evaluation. None where the run never got above random actions."""
        random = self.record["random"]["mean"]
        if not random < self.best:
            return None
        environment = self.record["environment"]
        return Reference(
            minimum=random,
            maximum=self.best,
            source=f"online DQN run {self.record['seed']} of {self.record['settings']['steps']} steps in {environment}:"
            f" random actions ({RANDOM_EPISODES} episodes) and the best of {len(self.evaluations)} evaluations of "
            f"{EPISODES} greedy episodes",
            environment=environment,
            horizon=horizon(environment),
        )

    def log(self) -> TrainingLog:
        """The log of all its steps."""
        return load_log(self.folder / "log.safetensors")

    def policy(self, space: spaces.Discrete) -> Policy:
        """The greedy policy after the last step."""
        return build_policy(load_file(self.folder / "policy.safetensors"), "selu", space, stochastic=False)


def run_settings(environment: str, steps: int | None = None) -> DQNSettings:
    """The settings of runs in an environment: its plan's, with the paper's share of steps in the buffer.

    The paper keeps 50,000 of 100,000 steps, and 500,000 of 2,000,000 (MinAtar).

    Raises:
        UnknownNameError: nothing is trained in the environment.
        SpecError: its actions are continuous, or the steps are too few to train.
    """
    settings = plan_for(environment).settings
    if not isinstance(settings, DQNSettings):
        raise SpecError(
            f"there are no online runs of {environment}",
            "they are DQN's, as in the dataset perspective, and its actions are continuous",
            "leave `run` out",
        )
    steps = settings.steps if steps is None else steps
    if steps < EVALUATE_FROM:
        raise SpecError(f"an online run of {steps} steps", "", f"give at least {EVALUATE_FROM}")
    every = max(EVALUATE_FROM, steps // EVALUATIONS)
    return replace(settings, steps=steps, buffer=max(SMALLEST_BUFFER, steps // 4), every=every)


def run_key(environment: str, seed: int, steps: int) -> str:
    """SHA-256 hex of what defines a run."""
    spec = {"version": RUN_VERSION, "environment": environment, "seed": seed}
    spec["settings"] = asdict(run_settings(environment, steps))
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def online_run(environment: str, seed: int, steps: int, progress: Progress | None = None) -> OnlineRun:
    """The run of a seed, from the cache or trained now (100,000 steps take minutes).

    Args:
        environment: Gymnasium id with a DQN plan in `training_plans.PLANS`.
        progress: called with (steps so far, steps) while it trains.

    Raises:
        UnknownNameError, SpecError: see `run_settings`.
        StorageError: the cache cannot be written.
    """
    name = environment.rpartition("/")[2]
    folder = cache_dir() / "runs" / f"{name}-{seed}-{steps}-{run_key(environment, seed, steps)[:8]}"
    file = folder / "run.json"
    if not file.exists():
        try:
            _make(environment, seed, steps, folder, progress)
        except OSError as error:
            raise StorageError(
                f"cannot write the online run {folder}",
                str(error),
                "free disk space, or point OFFBENCH_CACHE to another folder",
            ) from error
    return OnlineRun(folder, json.loads(file.read_text(encoding="utf-8")))


def _make(environment: str, seed: int, steps: int, folder: Path, progress: Progress | None) -> None:
    """Trains beside `folder` and renames, so that there is a whole run or none."""
    aside = folder.parent / f".training-{uuid.uuid4().hex}"
    aside.mkdir(parents=True)
    try:
        plan = replace(plan_for(environment), settings=run_settings(environment, steps))
        _train(plan, seed, aside, progress)
        try:
            aside.rename(folder)
        except OSError:
            if not (folder / "run.json").exists():
                raise  # otherwise another process has just finished the same run: keep that one
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _train(plan: Plan, seed: int, folder: Path, progress: Progress | None) -> None:
    env = make_environment(plan.environment)
    space: Any = env.action_space
    env.close()
    steps = plan.settings.steps
    actions: list[Any] = []
    lengths, returns, length, total = [], [], 0, 0.0
    evaluations: list[tuple[int, float]] = []
    tensors: dict[str, NDArray[np.float32]] = {}
    for step in train(plan, seed):
        if step.done:
            actions.append(step.action)
            length, total = length + 1, total + step.reward
        if step.ended:
            lengths.append(length)
            returns.append(total)
            length, total = 0, 0.0
        if step.done and step.snapshot is not None:
            # Greedy and in other environments, so the training run draws the same numbers with and without this.
            tensors = step.snapshot
            policy = build_policy(tensors, "selu", space, stochastic=False)
            evaluations.append((step.done, _mean_return(plan.environment, policy, EPISODES, [seed, EVALUATION_STREAM])))
            if progress is not None:
                progress(step.done, steps)
    random = _mean_return(plan.environment, UniformRandom(space), RANDOM_EPISODES, [seed, RANDOM_STREAM])
    log = TrainingLog(seed, np.asarray(actions, np.int8), np.asarray(lengths, np.int32), np.asarray(returns))
    save_log(log, folder / "log.safetensors")
    save_file(tensors, folder / "policy.safetensors")
    record = {
        "environment": plan.environment,
        "algorithm": plan.algorithm,
        "seed": seed,
        "settings": asdict(plan.settings),
        "versions": {package: version(package) for package in ("torch", "numpy", *packages(plan.environment))},
        "random": {"mean": random, "episodes": RANDOM_EPISODES},
        "evaluations": evaluations,
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _mean_return(environment: str, policy: Policy, episodes: int, seed: list[int]) -> float:
    played = itertools.islice(roll_out(environment, policy, seed, lanes=EPISODES), episodes)
    return float(np.mean([episode.rewards.sum() for episode in played]))
